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

    INLINE Vec<T> exponent(T y) const { return constant + (linear + square * y) * y; }
    INLINE Vec<T> masked(Vec<T> v) const { return inside ? v : Vec<T>{}; }
};

// v and r of N strips at some row, side by side: one does not wait for another. Both are zero in lanes outside the
// footprint, and stay zero.
template <class T, int N = 1> struct Rows {
    Vec<T> v[N], r[N];
    T q[N];

    INLINE void step() {
        for (int i = 0; i < N; i++) v[i] *= r[i], r[i] *= q[i];
    }
};

template <class T> INLINE Rows<T> rows_from(const Strip<T>& s, T y) {
    Vec<T> e[2] = {s.exponent(y), s.linear + s.square * (2 * y + 1)};
    exp2_within(e);
    return {{s.masked(e[0])}, {s.masked(e[1])}, {s.q}};
}

// Call row() `rows` times, in pairs: half as many branches to guess.
template <class F> INLINE void repeat(int rows, F row) {
    for (; rows >= 2; rows -= 2) row(), row();
    if (rows) row();
}

// samples += amplitude v, down some rows.
template <class T, int N>
INLINE void splat_rows(Rows<T, N> at, int rows, T amplitude, T* samples, int64_t stride) {
    repeat(rows, [&] {
        for (int i = 0; i < N; i++) {
            T* to = samples + i * Simd<T>::lanes;
            store(to, load(to) + amplitude * at.v[i]);
        }
        at.step();
        samples += stride;
    });
}

// samples += v, down ROWS rows.
template <int ROWS, class T, int N> INLINE void add_rows(Rows<T, N> at, T* const (&samples)[N], int64_t stride) {
#pragma GCC unroll 16
    for (int row = 0; row < ROWS; row++) {
        for (int i = 0; i < N; i++) {
            T* to = samples[i] + row * stride;
            store(to, load(to) + at.v[i]);
        }
        if (row + 1 < ROWS) at.step();
    }
}

// samples += amplitude v, any strip.
template <class T> void splat(const Strip<T>& strip, T amplitude, T* samples, int64_t stride) {
    if (std::is_same_v<T, double> || strip.exact) {
        for (int row = 0; row < strip.rows; row++, samples += stride)
            store(samples, load(samples) + amplitude * strip.masked(exp2_below(strip.exponent(strip.y0 + row))));
        return;
    }
    for (int row = 0; row < strip.rows; row += CHUNK)
        splat_rows(rows_from(strip, strip.y0 + row), std::min(CHUNK, strip.rows - row), amplitude,
                   samples + row * stride, stride);
}

// Moments of g v down each lane, where g are the samples: sums of g v, g v t and g v t (t - 1) / 2. Where t = 0, 1, ...
// counts rows upwards from the last, they are running sums without products.
template <class T> struct Moments {
    Vec<T> zeroth{}, first{}, second{};

    INLINE void append(Vec<T> g) { second += first, first += zeroth, zeroth += g; }
};

// Sums of g v y and g v y^2 from those above, where y = last - t; V is a vector of any kind.
template <class V> INLINE V first_moment(V zeroth, V first, V last) { return last * zeroth - first; }
template <class V> INLINE V second_moment(V zeroth, V first, V second, V last) {
    return last * (last * zeroth - 2 * first) + (2 * second + first);
}

template <class T, int N>
INLINE void gather_rows(Rows<T, N> at, int rows, const T* samples, int64_t stride, Moments<T>* moments) {
    repeat(rows, [&] {
        for (int i = 0; i < N; i++) moments[i].append(at.v[i] * load(samples + i * Simd<T>::lanes));
        at.step();
        samples += stride;
    });
}

template <int ROWS, class T, int N>
INLINE void gather_rows(Rows<T, N> at, const T* const (&samples)[N], int64_t stride, Moments<T> (&moments)[N]) {
#pragma GCC unroll 16
    for (int row = 0; row < ROWS; row++) {
        for (int i = 0; i < N; i++) moments[i].append(at.v[i] * load(samples[i] + row * stride));
        if (row + 1 < ROWS) at.step();
    }
}

// Moments of any strip, with t = -y: counted from the last of many rows, the sums would cancel to nothing.
template <class T> Moments<T> gather(const Strip<T>& strip, const T* samples, int64_t stride) {
    Vec<T> zeroth{}, first{}, second{};
    if (std::is_same_v<T, double> || strip.exact) {
        for (int row = 0; row < strip.rows; row++, samples += stride) {
            const T y = strip.y0 + row;
            const Vec<T> g = load(samples) * strip.masked(exp2_below(strip.exponent(y)));
            zeroth += g, first += g * y, second += g * (y * y);
        }
    } else {
        for (int row = 0; row < strip.rows; row += CHUNK) {
            const int rows = std::min(CHUNK, strip.rows - row);
            Moments<T> m;
            gather_rows(rows_from(strip, strip.y0 + row), rows, samples + row * stride, stride, &m);
            const Vec<T> last = fill(strip.y0 + T(row + rows - 1));
            zeroth += m.zeroth, first += first_moment(m.zeroth, m.first, last);
            second += second_moment(m.zeroth, m.first, m.second, last);
        }
    }
    return {zeroth, -first, (second + first) / 2};
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
