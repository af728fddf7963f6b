// Vectors of LANES floats, exp2, sums across lanes, flush-to-zero. GNU vector extensions only: one source for every
// processor that g++ or clang knows. Sixteen lanes with AVX-512, eight with AVX2, four elsewhere.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#if defined(VECTOR_BYTES)  // tests ask for widths that the processor does not have
#elif defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX2__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

#define INLINE inline __attribute__((always_inline))

template <class T> struct Simd;
template <> struct Simd<float> {
    typedef float Vec __attribute__((vector_size(VECTOR_BYTES)));
    typedef float Loose __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));
    typedef int32_t Int __attribute__((vector_size(VECTOR_BYTES)));
    static constexpr int lanes = VECTOR_BYTES / 4;
};
template <> struct Simd<double> {
    typedef double Vec __attribute__((vector_size(VECTOR_BYTES)));
    typedef double Loose __attribute__((vector_size(VECTOR_BYTES), aligned(8), may_alias));
    typedef int64_t Int __attribute__((vector_size(VECTOR_BYTES)));
    static constexpr int lanes = VECTOR_BYTES / 8;
};
template <class T> using Vec = typename Simd<T>::Vec;
template <class T> using Int = typename Simd<T>::Int;

template <class T> INLINE Vec<T> load(const T* p) { return *reinterpret_cast<const typename Simd<T>::Loose*>(p); }
template <class T> INLINE void store(T* p, Vec<T> v) { *reinterpret_cast<typename Simd<T>::Loose*>(p) = v; }
template <class T> INLINE Vec<T> fill(T x) { return x - Vec<T>{}; }

// 0, 1, 2, ...
template <class T> INLINE Int<T> lane_numbers() {
    Int<T> lane;
    for (int i = 0; i < Simd<T>::lanes; i++) lane[i] = i;
    return lane;
}

// Float64 vectors from and to arrays of T or int. Loops over lanes, here and below, compile to single instructions.
template <class T> INLINE Vec<double> widen(const T* p) {
    Vec<double> v;
    for (int i = 0; i < Simd<double>::lanes; i++) v[i] = double(p[i]);
    return v;
}
template <class T, class V> INLINE void narrow(T* p, V v) {
    for (int i = 0; i < Simd<double>::lanes; i++) p[i] = T(v[i]);
}
INLINE Vec<double> ceiling(Vec<double> v) {
    for (int i = 0; i < Simd<double>::lanes; i++) v[i] = std::ceil(v[i]);
    return v;
}
INLINE Vec<double> floored(Vec<double> v) {
    for (int i = 0; i < Simd<double>::lanes; i++) v[i] = std::floor(v[i]);
    return v;
}
template <class V> INLINE V root(V v) {
    for (size_t i = 0; i < sizeof(v) / sizeof(v[0]); i++) v[i] = std::sqrt(v[i]);
    return v;
}
template <class V> INLINE V magnitude(V v) { return v < 0 ? -v : v; }

template <class V> INLINE V smaller(V a, V b) { return a < b ? a : b; }
template <class V> INLINE V larger(V a, V b) { return a > b ? a : b; }

// 2^x for -126 <= x <= 126, relative error 1e-7; anything for other x. Adding 1.5 * 2^23 rounds to an integer n, which
// stays in the low bits of the sum and goes into the exponent of the result; 2^(x - n) is a polynomial fitted on
// [-1/2, 1/2]. Several at a time, step by step, as each step waits for the one before.
template <int N> INLINE void exp2_within(Vec<float> (&x)[N]) {
    constexpr float coefficients[] = {0.001339993121f, 0.009618488959f, 0.05550328777f, 0.2402264689f, 0.6931472057f, 1.f};
    const Vec<float> magic = fill(12582912.f);
    Vec<float> n[N], p[N];
    for (int i = 0; i < N; i++) n[i] = x[i] + magic;
    for (int i = 0; i < N; i++) x[i] -= n[i] - magic, p[i] = fill(0.0001534581155f);
    for (float c : coefficients)
        for (int i = 0; i < N; i++) p[i] = p[i] * x[i] + c;
    for (int i = 0; i < N; i++) x[i] = (Vec<float>)((Int<float>)p[i] + ((Int<float>)n[i] << 23));
}
template <int N> INLINE void exp2_within(Vec<double> (&x)[N]) {
    for (int i = 0; i < N * Simd<double>::lanes; i++) {
        double& element = reinterpret_cast<double*>(x)[i];
        element = std::exp2(element);
    }
}
template <class V> INLINE V exp2_within(V x) {
    V one[1] = {x};
    exp2_within(one);
    return one[0];
}

// 2^x for x <= 126; in float32 0 below -126.
INLINE Vec<float> exp2_below(Vec<float> x) { return exp2_within(larger(x, fill(-126.f))); }
INLINE Vec<double> exp2_below(Vec<double> x) { return exp2_within(x); }

// The whole number e of 2^e <= |x| < 2^(e + 1); -127 for 0.
INLINE Vec<float> exponent(Vec<float> x) {
    return __builtin_convertvector((((Int<float>)x >> 23) & 255) - 127, Vec<float>);
}

// Two vectors in one: a's lanes added in pairs, then b's. Pairs are neighbours within 16 bytes first (UNIT = 1, 2, ...
// lanes), then blocks of 16 bytes: such shuffles are single instructions everywhere.
template <class T, int UNIT, int PARITY, size_t... L> INLINE Vec<T> every_second(Vec<T> a, Vec<T> b, std::index_sequence<L...>) {
    constexpr int lanes = Simd<T>::lanes, block = 16 / sizeof(T), span = UNIT < block ? block : lanes;
    constexpr int half = span / 2;
    // Lane L of the result, in units of its span: the first half comes from a, the second from b.
    return __builtin_shufflevector(
        a, b,
        (int(L) / span * span + (int(L) % half / UNIT * 2 + PARITY) * UNIT + int(L) % UNIT + (int(L) % span < half ? 0 : lanes))...);
}
template <class T, int UNIT> INLINE Vec<T> fold(Vec<T> a, Vec<T> b) {
    constexpr auto lanes = std::make_index_sequence<Simd<T>::lanes>{};
    return every_second<T, UNIT, 0>(a, b, lanes) + every_second<T, UNIT, 1>(a, b, lanes);
}

// Units of UNIT lanes of a and b in turns, within 16 bytes where two units fit there, else within the vector: those of
// the first half of it or, where HIGH, of the second. Single instructions everywhere, as above.
template <class T, int UNIT, int HIGH, size_t... L> INLINE Vec<T> in_turns(Vec<T> a, Vec<T> b, std::index_sequence<L...>) {
    constexpr int lanes = Simd<T>::lanes, block = 16 / sizeof(T), span = UNIT < block ? block : lanes;
    return __builtin_shufflevector(
        a, b,
        (int(L) / span * span + HIGH * span / 2 + int(L) % span / (2 * UNIT) * UNIT + int(L) % UNIT +
         (int(L) / UNIT % 2 ? lanes : 0))...);
}

// v[i][j] becomes v[j][i]. Each level zips pairs of vectors; those of 16 bytes, and those between, leave their results
// in bit-reversed order.
template <class T, int UNIT = 1> INLINE void transpose(Vec<T>* v) {
    constexpr int lanes = Simd<T>::lanes, block = 16 / sizeof(T);
    constexpr auto all = std::make_index_sequence<lanes>{};
    for (int i = 0; i < lanes; i++) {
        if (i & UNIT) continue;
        const Vec<T> a = v[i], b = v[i + UNIT];
        v[i] = in_turns<T, UNIT, 0>(a, b, all), v[i + UNIT] = in_turns<T, UNIT, 1>(a, b, all);
    }
    if constexpr (2 * UNIT < lanes) {
        transpose<T, 2 * UNIT>(v);
    } else {
        for (int first : {1, block})  // the two middle ones of four
            if (4 * first <= (first == 1 ? block : lanes))
                for (int i = 0; i < lanes; i++)
                    if ((i & first) && !(i & 2 * first)) std::swap(v[i], v[i + first]);
    }
}

// One vector that holds, in lane i, the sum over the lanes of v[i]: a transposition that adds on its way. The units of
// a step are single lanes until 16 bytes hold sums of four (or two) vectors, then 16 bytes. Overwrites v.
template <class T, int COUNT = Simd<T>::lanes> INLINE Vec<T> sums(Vec<T>* v) {
    if constexpr (COUNT == 1) {
        return v[0];
    } else {
        constexpr int block = 16 / sizeof(T);
        constexpr int unit = COUNT * block > Simd<T>::lanes ? 1 : block;
        for (int i = 0; i < COUNT / 2; i++) v[i] = fold<T, unit>(v[2 * i], v[2 * i + 1]);
        return sums<T, COUNT / 2>(v);
    }
}

template <class T> INLINE T sum(Vec<T> v) {
    T total = 0;
    for (int i = 0; i < Simd<T>::lanes; i++) total += v[i];
    return total;
}

// While one of these lives, its thread treats denormal numbers as zero: they are met in the tails of Gaussians, cost
// a factor of two and mean nothing there. The mode is restored at the end.
class FlushToZero {
#if defined(__x86_64__)
    unsigned saved = __builtin_ia32_stmxcsr();

public:
    FlushToZero() { __builtin_ia32_ldmxcsr(saved | 0x8040); }  // FTZ and DAZ
    ~FlushToZero() { __builtin_ia32_ldmxcsr(saved); }
#elif defined(__aarch64__)
    uint64_t saved;

public:
    FlushToZero() {
        asm volatile("mrs %0, fpcr" : "=r"(saved));
        asm volatile("msr fpcr, %0" ::"r"(saved | (1u << 24)));
    }
    ~FlushToZero() { asm volatile("msr fpcr, %0" ::"r"(saved)); }
#else
public:
    FlushToZero() {}
#endif
};
