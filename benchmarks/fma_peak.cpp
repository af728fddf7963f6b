// The most fused multiply-adds that one core does: ten independent chains of vectors as wide as the kernels'.
#include <cstdint>

#include "../gsworkbench/kernels/simd.h"

// Returns the number of floating-point operations done.
extern "C" double fma_peak(int64_t repeats) {
    constexpr int chains = 10;
    Vec<float> x[chains];
    const Vec<float> factor = fill(0.999f), term = fill(0.001f);
    for (int j = 0; j < chains; j++) x[j] = fill(float(j));
    for (int64_t i = 0; i < repeats; i++)
#pragma GCC unroll 10
        for (int j = 0; j < chains; j++) x[j] = x[j] * factor + term;
    for (int j = 1; j < chains; j++) x[0] += x[j];
    volatile float keep = sum<float>(x[0]);
    (void)keep;
    return double(repeats) * chains * Simd<float>::lanes * 2;
}
