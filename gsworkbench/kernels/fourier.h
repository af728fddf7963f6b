// An image filtered by a real, symmetric function of frequency: two dimensional transform, product, transform back.
//
// Lines of the image are transformed a vector at a time, a line in each lane. Along y, two real columns go as one
// complex line; what belongs to each is told apart by symmetry. So only ky >= 0 is kept, for all kx. Lengths are any
// even number; prime factors above 5 cost as their squares.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "simd.h"

struct Complex {
    Vec<float> re, im;
};
INLINE Complex operator+(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
INLINE Complex operator-(Complex a, Complex b) { return {a.re - b.re, a.im - b.im}; }
INLINE Complex times(Complex a, float re, float im) { return {a.re * re - a.im * im, a.re * im + a.im * re}; }
INLINE Complex times_minus_i(Complex a) { return {a.im, -a.re}; }
INLINE Complex swapped(Complex a) { return {a.im, a.re}; }  // the transform of swapped numbers, swapped, is the inverse one

// Memory of whole vectors, zeros at first.
template <class T> struct Aligned {
    struct Free {
        void operator()(T* p) const { ::operator delete[](p, std::align_val_t(64)); }
    };
    std::unique_ptr<T[], Free> held;

    explicit Aligned(int64_t n) : held(static_cast<T*>(::operator new[](n * sizeof(T), std::align_val_t(64)))) {
        std::memset(static_cast<void*>(held.get()), 0, n * sizeof(T));
    }
    T* data() const { return held.get(); }
    T& operator[](int64_t i) const { return held[i]; }
};

// exp(-2 pi i j / n) summed over lines of n complex vectors: a Stockham transform of mixed radix.
class Line {
    struct Stage {
        int radix, before, after;  // n = before * radix * after
        std::vector<float> twiddles, roots;  // roots: of 1, cosine and sine, where the radix has no routine of its own
    };
    std::vector<Stage> stages;

public:
    const int n;

    explicit Line(int n) : n(n) {
        int rest = n, before = 1;
        const auto add = [&](int radix) {
            rest /= radix;
            Stage stage{radix, before, rest, {}, {}};
            for (int q = 0; q < radix && radix > 5; q++) {
                const double angle = -2 * M_PI * q / radix;
                stage.roots.push_back(float(std::cos(angle))), stage.roots.push_back(float(std::sin(angle)));
            }
            for (int j = 0; j < radix; j++)
                for (int i = 0; i < rest; i++) {
                    const double angle = -2 * M_PI * double(j) * before * i / n;
                    stage.twiddles.push_back(float(std::cos(angle))), stage.twiddles.push_back(float(std::sin(angle)));
                }
            stages.push_back(std::move(stage));
            before *= radix;
        };
        for (int radix : {4, 2, 3, 5})
            while (rest % radix == 0) add(radix);
        for (int radix = 7; rest > 1; radix += 2)
            while (rest % radix == 0) add(radix);
    }

    // Transform a, with b as room to work in; returns the one of them that holds the result.
    Complex* operator()(Complex* a, Complex* b) const {
        for (const Stage& stage : stages) {
            switch (stage.radix) {
                case 2: pass<2>(stage, a, b); break;
                case 3: pass<3>(stage, a, b); break;
                case 4: pass<4>(stage, a, b); break;
                case 5: pass<5>(stage, a, b); break;
                default: pass_any(stage, a, b);
            }
            std::swap(a, b);
        }
        return a;
    }

private:
    template <int RADIX> static INLINE void butterfly(Complex (&x)[RADIX]) {
        if constexpr (RADIX == 2) {
            const Complex sum = x[0] + x[1];
            x[1] = x[0] - x[1], x[0] = sum;
        } else if constexpr (RADIX == 4) {
            const Complex even = x[0] + x[2], odd = x[1] + x[3], rest = x[0] - x[2], turned = times_minus_i(x[1] - x[3]);
            x[0] = even + odd, x[2] = even - odd, x[1] = rest + turned, x[3] = rest - turned;
        } else {  // 3 and 5: pairs of terms whose factors are conjugates
            constexpr int half = RADIX / 2;
            Complex sum[half], difference[half], y[RADIX];
            y[0] = x[0];
            for (int q = 0; q < half; q++) {
                sum[q] = x[1 + q] + x[RADIX - 1 - q], difference[q] = times_minus_i(x[1 + q] - x[RADIX - 1 - q]);
                y[0] = y[0] + sum[q];
            }
            for (int j = 1; j <= half; j++) {
                Complex even = x[0], odd{};
                for (int q = 0; q < half; q++) {
                    const float c = cosine<RADIX>(j * (q + 1) % RADIX), s = sine<RADIX>(j * (q + 1) % RADIX);
                    even = even + times(sum[q], c, 0), odd = odd + times(difference[q], s, 0);
                }
                y[j] = even + odd, y[RADIX - j] = even - odd;
            }
            for (int j = 0; j < RADIX; j++) x[j] = y[j];
        }
    }
    template <int RADIX> static INLINE float cosine(int j) {
        constexpr float three[] = {1, -0.5f, -0.5f};
        constexpr float five[] = {1, 0.30901699437f, -0.80901699437f, -0.80901699437f, 0.30901699437f};
        return RADIX == 3 ? three[j % 3] : five[j % 5];
    }
    template <int RADIX> static INLINE float sine(int j) {
        constexpr float three[] = {0, 0.86602540378f, -0.86602540378f};
        constexpr float five[] = {0, 0.95105651630f, 0.58778525229f, -0.58778525229f, -0.95105651630f};
        return RADIX == 3 ? three[j % 3] : five[j % 5];
    }

    template <int RADIX> static void pass(const Stage& stage, const Complex* a, Complex* b) {
        const int before = stage.before, after = stage.after;
        const float* twiddles = stage.twiddles.data();
        for (int k = 0; k < before; k++)
            for (int i = 0; i < after; i++) {
                Complex x[RADIX];
                for (int j = 0; j < RADIX; j++) x[j] = a[i + after * (j + RADIX * k)];
                butterfly<RADIX>(x);
                b[i + after * k] = x[0];
                for (int j = 1; j < RADIX; j++) {
                    const float* w = twiddles + 2 * (j * after + i);
                    b[i + after * (k + before * j)] = times(x[j], w[0], w[1]);
                }
            }
    }

    static void pass_any(const Stage& stage, const Complex* a, Complex* b) {
        const int before = stage.before, after = stage.after, radix = stage.radix;
        for (int j = 0; j < radix; j++)
            for (int k = 0; k < before; k++)
                for (int i = 0; i < after; i++) {
                    Complex sum = a[i + after * radix * k];
                    for (int q = 1; q < radix; q++) {
                        const float* root = stage.roots.data() + 2 * (int64_t(j) * q % radix);
                        sum = sum + times(a[i + after * (q + radix * k)], root[0], root[1]);
                    }
                    const float* w = stage.twiddles.data() + 2 * (j * after + i);
                    b[i + after * (k + before * j)] = times(sum, w[0], w[1]);
                }
    }
};

// Filters images of box * box pixels. `kernel` is a function of (kx, ky): rows kx = 0 .. box / 2 - 1, -box / 2 .. -1 of
// `stride` numbers, of which those of ky = 0 .. box / 2 count and the others are zero.
class Filter {
    static constexpr int LANES = Simd<float>::lanes;
    static int whole(int n) { return (n + LANES - 1) / LANES * LANES; }

    const int box, half, wide;  // wide: columns of half an image, in whole vectors
    const Line line;
    Aligned<float> columns;  // the image, its two halves side by side: box rows of 2 * wide
    Aligned<float> re, im;   // rows x, of which the second half begins at `wide`; columns ky
    Aligned<Complex> a, b;

public:
    const int stride;
    Aligned<float> kernel;

    explicit Filter(int box)
        : box(box), half(box / 2), wide(whole(half)), line(box), columns(int64_t(box) * 2 * wide),
          re(int64_t(2) * wide * whole(half + 1)), im(int64_t(2) * wide * whole(half + 1)), a(box), b(box),
          stride(whole(half + 1)), kernel(int64_t(box) * stride) {}

    void operator()(const float* image, float* out) {
        for (int y = 0; y < box; y++)
            for (int part = 0; part < 2; part++)
                std::memcpy(&columns[(2 * y + part) * int64_t(wide)], image + y * int64_t(box) + part * half, half * 4);
        for (int x = 0; x < wide; x += LANES) down(x);
        for (int ky = 0; ky < stride; ky += LANES) across(ky);
        for (int x = 0; x < wide; x += LANES) up(x);
        for (int y = 0; y < box; y++)
            for (int part = 0; part < 2; part++)
                std::memcpy(out + y * int64_t(box) + part * half, &columns[(2 * y + part) * int64_t(wide)], half * 4);
    }

private:
    float* row(Aligned<float>& of, int x, int ky) { return &of[int64_t(x) * stride + ky]; }

    // Columns x, x + 1, ... of both halves along y.
    void down(int x) {
        for (int y = 0; y < box; y++) {
            const float* from = &columns[2 * y * int64_t(wide) + x];
            a[y] = {load(from), load(from + wide)};
        }
        const Complex* z = line(a.data(), b.data());
        for (int ky = 0; ky < stride; ky += LANES) {
            Vec<float> parts[4][LANES] = {};
            for (int i = 0; i < LANES && ky + i <= half; i++) {
                const Complex there = z[ky + i], mate = z[(box - ky - i) % box];
                parts[0][i] = (there.re + mate.re) / 2, parts[1][i] = (there.im - mate.im) / 2;
                parts[2][i] = (there.im + mate.im) / 2, parts[3][i] = (mate.re - there.re) / 2;
            }
            for (int part = 0; part < 4; part++) {
                transpose<float>(parts[part]);
                for (int i = 0; i < LANES; i++)
                    store(row(part % 2 ? im : re, x + i + part / 2 * wide, ky), parts[part][i]);
            }
        }
    }

    // Along x, times the kernel, and back.
    void across(int ky) {
        for (int x = 0; x < box; x++) {
            const int at = x < half ? x : x - half + wide;
            a[x] = {load(row(re, at, ky)), load(row(im, at, ky))};
        }
        Complex* f = line(a.data(), b.data());
        for (int kx = 0; kx < box; kx++) {
            const Vec<float> factor = load(&kernel[int64_t(kx) * stride + ky]);
            f[kx] = {f[kx].im * factor, f[kx].re * factor};
        }
        const Complex* g = line(f, f == a.data() ? b.data() : a.data());
        for (int x = 0; x < box; x++) {
            const int at = x < half ? x : x - half + wide;
            store(row(re, at, ky), g[x].im), store(row(im, at, ky), g[x].re);
        }
    }

    // Back along y.
    void up(int x) {
        for (int ky = 0; ky < stride; ky += LANES) {
            Vec<float> parts[4][LANES];
            for (int part = 0; part < 4; part++) {
                for (int i = 0; i < LANES; i++) parts[part][i] = load(row(part % 2 ? im : re, x + i + part / 2 * wide, ky));
                transpose<float>(parts[part]);
            }
            for (int i = 0; i < LANES && ky + i <= half; i++) {
                const int k = ky + i;
                const Complex first = {parts[0][i], parts[1][i]}, second = {parts[2][i], parts[3][i]};
                a[k] = swapped({first.re - second.im, first.im + second.re});
                if (k && k < half) a[box - k] = swapped({first.re + second.im, second.re - first.im});
            }
        }
        const Complex* z = line(a.data(), b.data());
        const float unit = 1.f / (float(box) * float(box));
        for (int y = 0; y < box; y++) {
            float* to = &columns[2 * y * int64_t(wide) + x];
            store(to, z[y].im * unit), store(to + wide, z[y].re * unit);
        }
    }
};
