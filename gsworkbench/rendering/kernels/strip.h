// The inner loops, shared by images and volumes: a strip is one vector of samples wide (along x) and some rows tall
// (along y). In base 2 the exponent of a Gaussian down a strip is, lane by lane, a polynomial of y,
//
//     v(y) = 2^e(y),   e(y) = constant + linear y + square y^2,   y = y0, y0 + 1, ...  (pixels from the centre)
//
// and its values obey an exact recurrence without any exponential:
//
//     v(y + 1) = v(y) r(y),   r(y) = 2^(linear + square (2 y + 1)),   r(y + 1) = r(y) q,   q = 2^(2 square).
//
// Rounding grows as the square of the rows passed, so that strips begin afresh every CHUNK rows: 5e-6 of the peak at
// most. Where a start would underflow, or a ratio overflow, (`exact`) and in float64, every row takes exponentials.
//
// Lanes outside a footprint begin at zero and stay there, because r is finite.
#pragma once

#include <algorithm>
#include <type_traits>

#include "simd.h"

constexpr int CHUNK = 16;
constexpr float RANGE = 100;  // exponents of starts and ratios that the recurrence is trusted with

template <class T> struct Strip {
    Vec<T> constant, linear;
    T square, q;
    T y0;
    int rows;
    Int<T> inside;  // -1 in lanes of the footprint, else 0
    bool exact;

    INLINE Vec<T> value(T y) const {
        const Vec<T> v = exp2_lanes(constant + (linear + square * y) * y);
        return inside ? v : Vec<T>{};
    }
    INLINE Vec<T> ratio(T y) const {
        const Vec<T> e = linear + square * (2 * y + 1);
        return exp2_lanes(smaller(e, fill(T(126))));
    }
};

// samples += amplitude v
template <class T> INLINE void splat(const Strip<T>& strip, T amplitude, T* samples, int64_t stride) {
    if (std::is_same_v<T, double> || __builtin_expect(strip.exact, 0)) {
        for (int row = 0; row < strip.rows; row++, samples += stride)
            store(samples, load(samples) + amplitude * strip.value(strip.y0 + row));
        return;
    }
    int row = 0;
    do {
        Vec<T> v = strip.value(strip.y0 + row), r = strip.ratio(strip.y0 + row);
        const int end = std::min(strip.rows, row + CHUNK);
        do {
            store(samples, load(samples) + amplitude * v);
            v *= r;
            r *= strip.q;
            samples += stride;
        } while (++row < end);
    } while (row < strip.rows);
}

// Moments of g v down each lane, where g are the samples: sums of g v, g v y and g v y^2.
template <class T> struct Moments {
    Vec<T> zeroth{}, first{}, second{};
};

template <class T> INLINE Moments<T> gather(const Strip<T>& strip, const T* samples, int64_t stride) {
    Moments<T> m;
    if (std::is_same_v<T, double> || __builtin_expect(strip.exact, 0)) {
        for (int row = 0; row < strip.rows; row++, samples += stride) {
            const T y = strip.y0 + row;
            const Vec<T> g = load(samples) * strip.value(y);
            m.zeroth += g;
            m.first += g * y;
            m.second += g * (y * y);
        }
        return m;
    }
    // Running sums instead of products with y: after n rows s1 = sum (n-1-i) g_i and s2 = sum (n-1-i)(n-2-i)/2 g_i,
    // hence with `last` the y of the last row, sum g y = last s0 - s1, sum g y^2 = last^2 s0 - 2 last s1 + 2 s2 + s1.
    int row = 0;
    do {
        Vec<T> v = strip.value(strip.y0 + row), r = strip.ratio(strip.y0 + row), s0{}, s1{}, s2{};
        const int end = std::min(strip.rows, row + CHUNK);
        do {
            s2 += s1;
            s1 += s0;
            s0 += v * load(samples);
            v *= r;
            r *= strip.q;
            samples += stride;
        } while (++row < end);
        const T last = strip.y0 + (row - 1);
        const Vec<T> first = last * s0 - s1;
        m.zeroth += s0;
        m.first += first;
        m.second += last * (first - s1) + (s2 + s2 + s1);
    } while (row < strip.rows);
    return m;
}

// The vectors that cover samples x0 <= x < x1 of a row of `width` samples. None reaches past the row (the last one is
// moved left instead), so that threads may own neighbouring rows and nothing needs padding.
template <class T> struct Cover {
    int start;      // sample of the first lane
    Int<T> inside;  // lanes that belong to this vector and to the footprint

    INLINE Cover(int x, int x1, int width) : start(std::min(x, width - Simd<T>::lanes)) {
        const Int<T> lane = lane_numbers<T>();
        inside = (lane >= x - start) & (lane < x1 - start);
    }
};
