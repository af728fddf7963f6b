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

// v and r at some row. Both are zero in lanes outside the footprint, and stay zero.
template <class T> struct Recurrence {
    Vec<T> v, r;

    INLINE Recurrence(const Strip<T>& s, T y)
        : v(s.masked(exp2_within(s.exponent(y)))), r(s.masked(exp2_within(s.linear + s.square * (2 * y + 1)))) {}
    INLINE void step(T q) { v *= r, r *= q; }
};

// Call row() `rows` times, in pairs: half as many branches to guess.
template <class F> INLINE void repeat(int rows, F row) {
    for (; rows >= 2; rows -= 2) row(), row();
    if (rows) row();
}

template <class T> INLINE void splat_chunk(const Strip<T>& strip, T y, int rows, T amplitude, T* samples, int64_t stride) {
    Recurrence<T> at(strip, y);
    repeat(rows, [&] {
        store(samples, load(samples) + amplitude * at.v);
        at.step(strip.q);
        samples += stride;
    });
}

template <class T>
__attribute__((noinline)) void splat_rare(Strip<T> strip, T amplitude, T* samples, int64_t stride) {
    if (std::is_same_v<T, double> || strip.exact) {
        for (int row = 0; row < strip.rows; row++, samples += stride)
            store(samples, load(samples) + amplitude * strip.masked(exp2_below(strip.exponent(strip.y0 + row))));
        return;
    }
    for (int row = 0; row < strip.rows; row += CHUNK)
        splat_chunk(strip, strip.y0 + row, std::min(CHUNK, strip.rows - row), amplitude, samples + row * stride, stride);
}

// samples += amplitude v
template <class T> INLINE void splat(const Strip<T>& strip, T amplitude, T* samples, int64_t stride) {
    if (std::is_same_v<T, double> || __builtin_expect(strip.exact | (strip.rows > CHUNK), 0))
        splat_rare(strip, amplitude, samples, stride);
    else
        splat_chunk(strip, strip.y0, strip.rows, amplitude, samples, stride);
}

// Moments of g v down each lane, where g are the samples: sums of g v, g v y and g v y^2.
template <class T> struct Moments {
    Vec<T> zeroth, first, second;
};

// Running sums instead of products with y: after n rows s1 = sum (n-1-i) g_i and s2 = sum (n-1-i)(n-2-i)/2 g_i, hence
// with `last` the y of the last row: sum g y = last s0 - s1 and sum g y^2 = last^2 s0 - 2 last s1 + 2 s2 + s1.
template <class T> INLINE Moments<T> gather_chunk(const Strip<T>& strip, T y, int rows, const T* samples, int64_t stride) {
    Recurrence<T> at(strip, y);
    Vec<T> s0{}, s1{}, s2{};
    repeat(rows, [&] {
        s2 += s1;
        s1 += s0;
        s0 += at.v * load(samples);
        at.step(strip.q);
        samples += stride;
    });
    const T last = y + (rows - 1);
    const Vec<T> first = last * s0 - s1;
    return {s0, first, last * (first - s1) + (s2 + s2 + s1)};
}

template <class T>
__attribute__((noinline)) Moments<T> gather_rare(Strip<T> strip, const T* samples, int64_t stride) {
    Moments<T> m = {};
    if (std::is_same_v<T, double> || strip.exact) {
        for (int row = 0; row < strip.rows; row++, samples += stride) {
            const T y = strip.y0 + row;
            const Vec<T> g = load(samples) * strip.masked(exp2_below(strip.exponent(y)));
            m.zeroth += g, m.first += g * y, m.second += g * (y * y);
        }
        return m;
    }
    for (int row = 0; row < strip.rows; row += CHUNK) {
        const int rows = std::min(CHUNK, strip.rows - row);
        const Moments<T> part = gather_chunk(strip, strip.y0 + row, rows, samples + row * stride, stride);
        m.zeroth += part.zeroth, m.first += part.first, m.second += part.second;
    }
    return m;
}

template <class T> INLINE Moments<T> gather(const Strip<T>& strip, const T* samples, int64_t stride) {
    if (std::is_same_v<T, double> || __builtin_expect(strip.exact | (strip.rows > CHUNK), 0))
        return gather_rare(strip, samples, stride);
    return gather_chunk(strip, strip.y0, strip.rows, samples, stride);
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
