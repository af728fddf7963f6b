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
INLINE Vec<double> truncated(Vec<double> v) {
    for (int i = 0; i < Simd<double>::lanes; i++) v[i] = std::trunc(v[i]);
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
// [-1/2, 1/2].
INLINE Vec<float> exp2_within(Vec<float> x) {
    const Vec<float> magic = fill(12582912.f), n = x + magic, f = x - (n - magic);
    Vec<float> p = fill(0.0001534581155f);
    p = p * f + 0.001339993121f;
    p = p * f + 0.009618488959f;
    p = p * f + 0.05550328777f;
    p = p * f + 0.2402264689f;
    p = p * f + 0.6931472057f;
    p = p * f + 1.f;
    return (Vec<float>)((Int<float>)p + ((Int<float>)n << 23));
}
INLINE Vec<double> exp2_within(Vec<double> x) {
    for (int i = 0; i < Simd<double>::lanes; i++) x[i] = std::exp2(x[i]);
    return x;
}

// 2^x for x <= 126; in float32 0 below -126.
INLINE Vec<float> exp2_below(Vec<float> x) { return exp2_within(larger(x, fill(-126.f))); }
INLINE Vec<double> exp2_below(Vec<double> x) { return exp2_within(x); }

// One vector that holds, in lane i, the sum over the lanes of v[i]: halves of two vectors are folded into one, then
// quarters, ... (a transposition that adds on its way). Overwrites v.
template <class T, int H, size_t... L> INLINE Vec<T> fold(Vec<T> a, Vec<T> b, std::index_sequence<L...>) {
    constexpr int n = Simd<T>::lanes;
    const Vec<T> kept = __builtin_shufflevector(a, b, (L & H ? int(L) + n : int(L))...);
    const Vec<T> moved = __builtin_shufflevector(a, b, (L & H ? int(L ^ H) + n : int(L ^ H))...);
    return kept + moved;
}

template <class T, int H = Simd<T>::lanes / 2> INLINE Vec<T> sums(Vec<T>* v) {
    for (int i = 0; i < H; i++) v[i] = fold<T, H>(v[i], v[i + H], std::make_index_sequence<Simd<T>::lanes>{});
    if constexpr (H == 1)
        return v[0];
    else
        return sums<T, H / 2>(v);
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
