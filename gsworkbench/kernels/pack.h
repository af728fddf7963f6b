// Gaussians in packs, and what a pack looks like in one image: centres, covariances and footprints in float64, then, in
// float32, the first rows of all footprints and the order in which they are drawn.
//
// Work on a pack goes step by step, each step over all its Gaussians: what one of them waits for, the next ones fill.
#pragma once

#include <limits>
#include <vector>

#include "footprint.h"
#include "strip.h"

constexpr int PACK = 64;  // bits of a uint64_t

// Gaussians by component: x y z, xx xy xz yy yz zz, weight; packs filled up with zeros.
enum { X, Y, Z, XX, XY, XZ, YY, YZ, ZZ, W, COMPONENTS };
constexpr int64_t PACK_SIZE = PACK * COMPONENTS;

// Memory that a thread keeps from call to call: fresh pages cost more than what is done with them here.
enum { GAUSSIANS, GRADIENTS, IMAGES, USES };
template <class T> T* scratch(int use, int64_t size) {
    thread_local std::vector<T> kept[USES];
    if (int64_t(kept[use].size()) < size) kept[use] = std::vector<T>(size);
    return kept[use].data();
}

// Whether none of some whole vectors is NaN or infinite.
template <class T> INLINE bool all_finite(const T* values, int64_t count) {
    Int<T> good = Vec<T>{} == Vec<T>{};
    for (int64_t i = 0; i < count; i += Simd<T>::lanes)
        good &= magnitude(load(values + i)) <= std::numeric_limits<T>::max();  // NaN is not
    bool all = true;
    for (int i = 0; i < Simd<T>::lanes; i++) all = all && good[i];
    return all;
}

template <class T> struct World {
    int64_t n, packs;
    T* data;
    bool finite;  // all of them

    World(const T* means, const T* covariances, const T* weights, int64_t n, int threads)
        : n(n), packs((n + PACK - 1) / PACK), data(scratch<T>(GAUSSIANS, packs * PACK_SIZE)) {
        if (n) std::fill_n(data + (packs - 1) * PACK_SIZE, PACK_SIZE, T(0));
        bool good = true;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(&& : good)
        for (int64_t i = 0; i < packs; i++) {
            fill_pack(data + i * PACK_SIZE, means + 3 * PACK * i, covariances + 9 * PACK * i, weights + PACK * i,
                      std::min<int64_t>(PACK, n - i * PACK));
            good = all_finite(data + i * PACK_SIZE, PACK_SIZE) && good;
        }
        finite = good;
    }
    const T* pack(int64_t i) const { return data + i * PACK_SIZE; }
    // Gaussians of a pack, filled up to whole vectors.
    int size(int64_t i) const { return int((std::min<int64_t>(PACK, n - i * PACK) + 15) / 16 * 16); }

private:
    static void fill_pack(T* pack, const T* m, const T* s, const T* weights, int64_t count) {
        for (int64_t i = 0; i < count; i++, m += 3, s += 9, pack++) {
            pack[X * PACK] = m[0], pack[Y * PACK] = m[1], pack[Z * PACK] = m[2];
            pack[XX * PACK] = s[0], pack[YY * PACK] = s[4], pack[ZZ * PACK] = s[8];
            pack[XY * PACK] = s[1] / 2 + s[3] / 2, pack[XZ * PACK] = s[2] / 2 + s[6] / 2;  // no sum that overflows
            pack[YZ * PACK] = s[5] / 2 + s[7] / 2;
            pack[W * PACK] = weights[i];
        }
    }
};

// The two rows of a rotation that an image needs, in pixels per A, and their outer products: A S A^T is linear in S.
struct View {
    double row[2][3];
    double xx[6], xy[6], yy[6];  // coefficients of XX XY XZ YY YZ ZZ

    template <class T> View(const T* rotation, double spacing) {
        for (int i = 0; i < 6; i++) row[i / 3][i % 3] = double(rotation[i]) / spacing;
        int k = 0;
        for (int i = 0; i < 3; i++)
            for (int j = i; j < 3; j++, k++) {
                const double twice = i == j ? 1 : 2;
                xx[k] = twice * (row[0][i] * row[0][j]);
                yy[k] = twice * (row[1][i] * row[1][j]);
                xy[k] = i == j ? row[0][i] * row[1][j] : row[0][i] * row[1][j] + row[0][j] * row[1][i];
            }
    }
};

// How a pack looks in one image. Exponent in base 2 at (dx, dy) pixels from the centre: xx dx^2 + xy dx dy + yy dy^2;
// left and top are dx and dy of the first pixel; norm is 1 / (2 pi sqrt(det)) per A^2.
template <class T> struct alignas(64) Pack {
    T left[PACK], top[PACK], xx[PACK], xy[PACK], yy[PACK], norm[PACK];
    int x[PACK], y[PACK], columns[PACK], rows[PACK];  // columns and rows are 0 where no pixel is reached
    int size;
};

// Centres and covariances of a pack in one image, in pixels, as many at a time as a vector of float64 holds.
struct alignas(64) Projected {
    double x[PACK], y[PACK], xx[PACK], xy[PACK], yy[PACK];

    template <class T> INLINE Projected(const T* world, int size, const View& view, const Grid& grid) {
        const Vec<double> origin = fill(double(grid.box / 2));
        for (int k = 0; k < size; k += Simd<double>::lanes) {
            const T *m = world + k, *s = m + XX * PACK;
            store(x + k, product<3>(view.row[0], m) + origin), store(y + k, product<3>(view.row[1], m) + origin);
            store(xx + k, product<6>(view.xx, s)), store(xy + k, product<6>(view.xy, s));
            store(yy + k, product<6>(view.yy, s));
        }
    }

private:
    template <int N, class T> static INLINE Vec<double> product(const double* factors, const T* components) {
        Vec<double> total = factors[0] * widen(components);
        for (int i = 1; i < N; i++) total += factors[i] * widen(components + i * PACK);
        return total;
    }
};

// One axis of footprints: first pixels, their offsets from the centres, and numbers of pixels, not above 0 if none.
template <class T>
INLINE void bounds(const double* centre, const double* variance, int size, const Grid& grid, int* first, T* offset, int* count) {
    for (int k = 0; k < size; k += Simd<double>::lanes) {
        Vec<double> begin, end;
        reached(load(centre + k), load(variance + k), grid, begin, end);
        narrow(first + k, begin), narrow(offset + k, begin - load(centre + k)), narrow(count + k, end - begin);
    }
}

template <class T> void project(const T* world, int size, const View& view, const Grid& grid, Pack<T>& out) {
    const Projected in(world, size, view, grid);
    out.size = size;
    bounds(in.x, in.xx, size, grid, out.x, out.left, out.columns);
    bounds(in.y, in.yy, size, grid, out.y, out.top, out.rows);
    const T area = T(1 / (TWO_PI * grid.spacing * grid.spacing));
    for (int k = 0; k < size; k += Simd<double>::lanes) {
        const Vec<double> xx = load(in.xx + k), xy = load(in.xy + k), yy = load(in.yy + k), zero{};
        const Vec<double> inverse = 1 / (xx * yy - xy * xy);
        const Vec<double> columns = widen(out.columns + k), rows = widen(out.rows + k);
        // A singular covariance has no density: such a Gaussian is left out.
        const Int<double> seen = (columns > 0) & (rows > 0) & (inverse > 0) & (inverse < 1e30);
        const Vec<double> scale = seen ? -LOG2_E_HALF * inverse : zero;
        narrow(out.xx + k, scale * yy), narrow(out.xy + k, -2 * scale * xy), narrow(out.yy + k, scale * xx);
        narrow(out.norm + k, seen ? inverse : zero);
        narrow(out.columns + k, seen ? columns : zero), narrow(out.rows + k, seen ? rows : zero);
    }
    for (int k = 0; k < size; k += Simd<T>::lanes) store(out.norm + k, area * root(load(out.norm + k)));
}

template <class T> INLINE Vec<T> lane_offsets() { return __builtin_convertvector(lane_numbers<T>(), Vec<T>); }

template <class T> INLINE Vec<T> converted(const int* p) {
    Vec<T> v;
    for (int i = 0; i < Simd<T>::lanes; i++) v[i] = T(p[i]);
    return v;
}

// A pack made ready to be drawn. Classes are footprints of one strip and 1 ... CHUNK rows, then of two strips, all by
// the recurrence; then those that need the loops that know every case. The processor guesses where loops over rows end:
// a class has one such end. In float64 all are of the last class.
template <class T> struct alignas(64) Ready {
    static constexpr int ANY = 2 * CHUNK, NOTHING = ANY + 1, CLASSES = NOTHING + 1;
    Vec<T> first[PACK][4];  // v and r on the first row of one strip, then of the next; lanes outside not yet zero
    T q[PACK], exact[PACK];
    uint64_t members[CLASSES] = {};  // a bit for each Gaussian

    // `amplitudes` are factors of v, or NULL.
    INLINE Ready(const Pack<T>& pack, const T* amplitudes) {
        alignas(64) T key[PACK];
        if constexpr (std::is_same_v<T, float>) {
            alignas(64) Starts starts;
            const auto factor = [&](int k) { return amplitudes ? load(amplitudes + k) : fill(T(1)); };
            for (int k = 0; k < pack.size; k += Simd<T>::lanes) start(pack, k, factor(k), starts);
            for (int k = 0; k < pack.size; k += Simd<T>::lanes) first_rows(k, starts);
            for (int k = 0; k < pack.size; k += Simd<T>::lanes) decide(pack, k, factor(k), key);
        } else {
            for (int k = 0; k < pack.size; k++) key[k] = pack.columns[k] ? ANY : NOTHING, exact[k] = 1;
        }
        for (int k = 0; k < pack.size; k++) members[int(key[k])] |= uint64_t(1) << k;
    }

    // visit(k) for every Gaussian of a class.
    template <class F> INLINE void each(int index, F visit) const {
        for (uint64_t left = members[index]; left; left &= left - 1) visit(__builtin_ctzll(left));
    }
    // visit(k, l) for two of a class, and so on; visit(k) for one that is left.
    template <class F> INLINE void each_two(int index, F visit) const {
        uint64_t left = members[index];
        while (left & (left - 1)) {
            const int k = __builtin_ctzll(left);
            left &= left - 1;
            visit(k, __builtin_ctzll(left));
            left &= left - 1;
        }
        if (left) visit(__builtin_ctzll(left));
    }

    // Strip i of a footprint becomes number `at` of some.
    template <int N> INLINE void put(const Pack<T>& pack, int k, int i, Rows<T, N>& rows, int at) const {
        const Int<T> inside = lane_numbers<T>() + i * Simd<T>::lanes < pack.columns[k];
        rows.v[at] = inside ? first[k][2 * i] : Vec<T>{}, rows.r[at] = inside ? first[k][2 * i + 1] : Vec<T>{};
        rows.q[at] = q[k];
    }

private:
    // Classes from k on. All that the recurrence starts from must be far from the limits of float32, at the worst
    // corner of the footprint.
    INLINE void decide(const Pack<T>& pack, int k, Vec<T> factor, T* key) {
        constexpr int lanes = Simd<T>::lanes;
        const Vec<T> left = load(pack.left + k), top = load(pack.top + k);
        const Vec<T> xx = load(pack.xx + k), xy = magnitude(load(pack.xy + k)), yy = load(pack.yy + k);
        const Vec<T> columns = converted<T>(pack.columns + k), rows = converted<T>(pack.rows + k);
        const Vec<T> wide = larger(magnitude(left), magnitude(left + (columns - 1)));
        const Vec<T> tall = larger(magnitude(top), magnitude(top + (rows - 1)));
        const Vec<T> corner = xx * wide * wide + yy * tall * tall - xy * wide * tall;
        const Vec<T> right = xx * (2 * wide + 1) - xy * tall, down = yy * (2 * tall + 1) - xy * wide;
        const Vec<T> least = smaller(smaller(corner + smaller(exponent(factor), Vec<T>{}), -xy), smaller(right, down));
        const Int<T> far = least < -RANGE;
        const Int<T> simple = ~far & (rows <= T(CHUNK)) & (columns <= T(2 * lanes));
        const Vec<T> how = simple ? rows - 1 + (columns > T(lanes) ? fill(T(CHUNK)) : Vec<T>{}) : fill(T(ANY));
        store(key + k, (columns > 0) & (factor != 0) ? how : fill(T(NOTHING)));
        store(exact + k, far ? fill(T(1)) : Vec<T>{});
    }

    // What the recurrences along and down a footprint start from: v, its ratio to the next pixel, and that of ratios; r
    // and its ratio to the next pixel.
    enum { V, ALONG, CURVE, DOWN, TWIST, STARTS };
    using Starts = T[STARTS][PACK];

    INLINE void start(const Pack<T>& pack, int k, Vec<T> factor, Starts& starts) {
        const Vec<T> left = load(pack.left + k), top = load(pack.top + k);
        const Vec<T> xx = load(pack.xx + k), xy = load(pack.xy + k), yy = load(pack.yy + k);
        Vec<T> a[3] = {(xx * left + xy * top) * left + yy * top * top, xx * (2 * left + 1) + xy * top, 2 * xx};
        Vec<T> b[3] = {yy * (2 * top + 1) + xy * left, xy, 2 * yy};
        exp2_within(a), exp2_within(b);
        store(starts[V] + k, a[0] * factor), store(starts[ALONG] + k, a[1]), store(starts[CURVE] + k, a[2]);
        store(starts[DOWN] + k, b[0]), store(starts[TWIST] + k, b[1]), store(q + k, b[2]);
    }

    // First rows of a vector of Gaussians: along a row, v and r obey recurrences as they do down a strip. Made Gaussian
    // by lane, turned to pixel by lane.
    INLINE void first_rows(int k, const Starts& starts) {
        constexpr int lanes = Simd<T>::lanes;
        Vec<T> v = load(starts[V] + k), along = load(starts[ALONG] + k), r = load(starts[DOWN] + k);
        const Vec<T> curve = load(starts[CURVE] + k), twist = load(starts[TWIST] + k);
        for (int strip = 0; strip < 2; strip++) {
            Vec<T> row[lanes];
            for (int i = 0; i < lanes; i++) row[i] = v, v *= along, along *= curve;
            transpose<T>(row);
            for (int i = 0; i < lanes; i++) first[k + i][2 * strip] = row[i];
            for (int i = 0; i < lanes; i++) row[i] = r, r *= twist;
            transpose<T>(row);
            for (int i = 0; i < lanes; i++) first[k + i][2 * strip + 1] = row[i];
        }
    }
};
