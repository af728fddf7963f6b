// The grid, and which of its samples a Gaussian reaches: the rule of footprints.py, to the same integers.
#pragma once

#include <algorithm>
#include <cmath>

#include "simd.h"

constexpr double LOG2_E_HALF = 0.72134752044448170368;  // exp(-x / 2) = 2^(-LOG2_E_HALF x)
constexpr double TWO_PI = 6.28318530717958647693;

// box_size, pixel or voxel size in A, and the square of the cutoff: DBL_MAX where every sample is wanted.
struct Grid {
    int box;
    double spacing, squared_cutoff;
};

// Vectors do not fit into rows shorter than they are: such grids are worked on in wider ones.
template <class T> int working_width(int box) { return std::max(box, Simd<T>::lanes); }

// One axis, lengths in samples: first sample and one past the last, clipped to the box; NaN gives NaN, of which none is
// more than another. The root is taken of the product, so that no compiler can fuse the product into the sum that
// follows.
INLINE void reached(Vec<double> centre, Vec<double> variance, const Grid& grid, Vec<double>& first, Vec<double>& last) {
    const Vec<double> zero{}, box = fill(double(grid.box));
    const Vec<double> reach = root(grid.squared_cutoff * larger(zero, variance));
    first = ceiling(smaller(box, larger(zero, centre - reach)));
    last = larger(zero, floored(smaller(box - 1, centre + reach)) + 1);
}
