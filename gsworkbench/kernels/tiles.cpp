// Gaussians on one image by tiles of 16 x 16 pixels and lists of the Gaussians that reach them, as 3DGS and its kin
// have it. Sums with a threshold, backward by gathering or by scattering; and 3DGS's own alpha compositing. For
// comparisons: one thread. The fast kernels are project.cpp and voxelize.cpp.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

constexpr int TILE = 16, PIXELS = TILE * TILE;

// Height times exp(-(a dx^2 + 2 b dx dy + c dy^2) / 2), in pixels; `wide` and `tall` are half widths of the footprint.
struct Gaussian {
    float x, y, a, b, c, height, wide, tall;
};

enum { X, Y, A, B, C, HEIGHT, GRADIENTS };

struct Tiles {
    int across;
    std::vector<int64_t> start;
    std::vector<int32_t> members;  // in the order in which Gaussians were listed

    Tiles(const Gaussian* g, const int64_t* order, int64_t n, int box) : across((box + TILE - 1) / TILE) {
        start.assign(int64_t(across) * across + 1, 0);
        const auto visit = [&](auto&& act) {
            for (int64_t k = 0; k < n; k++) {
                const int64_t i = order[k];
                const int x0 = tile(g[i].x - g[i].wide), x1 = tile(g[i].x + g[i].wide);
                const int y0 = tile(g[i].y - g[i].tall), y1 = tile(g[i].y + g[i].tall);
                for (int y = std::max(y0, 0); y <= std::min(y1, across - 1); y++)
                    for (int x = std::max(x0, 0); x <= std::min(x1, across - 1); x++) act(y * across + x, i);
            }
        };
        visit([&](int t, int64_t) { start[t + 1]++; });
        for (size_t t = 1; t < start.size(); t++) start[t] += start[t - 1];
        members.resize(start.back());
        std::vector<int64_t> next(start.begin(), start.end() - 1);
        visit([&](int t, int64_t i) { members[next[t]++] = int32_t(i); });
    }
    static int tile(float pixel) { return int(std::floor(std::min(std::max(pixel, -1e6f), 1e6f) / TILE)); }
};

// exp(x) for x <= 0, to 2e-7, at least 1e-38: simple enough for the compiler to make vectors of.
inline float exponential(float x) {
    const float scaled = x * 1.44269504f, t = scaled > -126.0f ? scaled : -126.0f;
    const int whole = int(t - 0.5f);
    const float f = t - float(whole);  // -1/2 .. 1/2
    const float p = 1.0f + f * (0.69314718f + f * (0.24022651f + f * (0.055504109f + f * (0.0096181292f +
                    f * (0.0013333558f + f * 0.00015403530f)))));
    return p * __builtin_bit_cast(float, (whole + 127) << 23);
}

inline float shape(const Gaussian& g, float dx, float dy) {
    return exponential(-0.5f * (g.a * dx * dx + 2 * g.b * dx * dy + g.c * dy * dy));
}

// A tile of an image, or zeros where it hangs over the edge.
void read_tile(const float* image, int box, int x0, int y0, float* out) {
    for (int y = 0; y < TILE; y++)
        for (int x = 0; x < TILE; x++)
            out[y * TILE + x] = y0 + y < box && x0 + x < box ? image[int64_t(y0 + y) * box + x0 + x] : 0.0f;
}

void write_tile(float* image, int box, int x0, int y0, const float* values) {
    for (int y = 0; y < std::min(TILE, box - y0); y++)
        std::copy_n(values + y * TILE, std::min(TILE, box - x0), image + int64_t(y0 + y) * box + x0);
}

void add_to_tile(const Gaussian g, float skip_below, int x0, int y0, float* total) {
    for (int y = 0; y < TILE; y++) {
        const float dy = float(y0 + y) - g.y;
#pragma omp simd
        for (int x = 0; x < TILE; x++) {
            const float value = g.height * shape(g, float(x0 + x) - g.x, dy);
            total[y * TILE + x] += std::fabs(value) >= skip_below ? value : 0.0f;
        }
    }
}

void derivatives(const Gaussian& g, const float* m, float* out) {
    out[X] += g.height * (g.a * m[1] + g.b * m[2]), out[Y] += g.height * (g.b * m[1] + g.c * m[2]);
    out[A] -= 0.5f * g.height * m[3], out[B] -= g.height * m[4], out[C] -= 0.5f * g.height * m[5];
    out[HEIGHT] += m[0];
}

// Moments of the gradient under one Gaussian in one tile, then one addition to its derivatives.
void gather(const Gaussian g, float skip_below, int x0, int y0, const float* gradient, float* out) {
    float m0 = 0, mx = 0, my = 0, mxx = 0, mxy = 0, myy = 0;
    for (int y = 0; y < TILE; y++) {
        const float dy = float(y0 + y) - g.y;
        float s0 = 0, s1 = 0, s2 = 0;
#pragma omp simd reduction(+ : s0, s1, s2)
        for (int x = 0; x < TILE; x++) {
            const float dx = float(x0 + x) - g.x, e = shape(g, dx, dy);
            const float all = e * gradient[y * TILE + x];
            const float weight = std::fabs(g.height * e) >= skip_below ? all : 0.0f;
            s0 += weight, s1 += weight * dx, s2 += weight * dx * dx;
        }
        m0 += s0, mx += s1, mxx += s2, my += s0 * dy, mxy += s1 * dy, myy += s0 * dy * dy;
    }
    const float moments[6] = {m0, mx, my, mxx, mxy, myy};
    derivatives(g, moments, out);
}

// As on a GPU with a thread per pixel: every pixel adds its share to every Gaussian of its list, atomically.
void scatter(const Gaussian* g, const int32_t* from, const int32_t* to, float skip_below, int x0, int y0,
             const float* gradient, float* out) {
    for (int pixel = 0; pixel < PIXELS; pixel++)
        for (const int32_t* i = from; i < to; i++) {
            const float dx = float(x0 + pixel % TILE) - g[*i].x, dy = float(y0 + pixel / TILE) - g[*i].y;
            const float e = shape(g[*i], dx, dy);
            if (std::fabs(g[*i].height * e) < skip_below) continue;
            const float w = e * gradient[pixel];
            const float moments[6] = {w, w * dx, w * dy, w * dx * dx, w * dx * dy, w * dy * dy};
            float share[GRADIENTS] = {};
            derivatives(g[*i], moments, share);
            for (int k = 0; k < GRADIENTS; k++) {
#pragma omp atomic
                out[int64_t(*i) * GRADIENTS + k] += share[k];
            }
        }
}

// 3DGS: front to back, alpha = min(.999, opacity exp(..)), below 1/255 skipped, until 1e-4 of the light is left. A tile
// at a time, Gaussian by Gaussian, whole rows of pixels at once; rows that a footprint does not touch hold nothing of it.
struct Light {
    float left[PIXELS], colour[PIXELS];  // of each pixel: light that no layer has taken, and what was seen
    int32_t end[PIXELS];                 // one past the last layer that counts; 0 while light is left
};

// Rows of the tile that a Gaussian reaches.
inline void rows_reached(const Gaussian& g, int y0, int& from, int& to) {
    const float top = std::ceil(g.y - g.tall) - float(y0), bottom = std::floor(g.y + g.tall) - float(y0);
    from = int(std::min(std::max(top, 0.0f), float(TILE))), to = int(std::min(std::max(bottom + 1, 0.0f), float(TILE)));
}

void composite_tile(const Gaussian* g, const float* colours, const int32_t* members, int n, int x0, int y0, Light& light) {
    std::fill_n(light.left, PIXELS, 1.0f), std::fill_n(light.colour, PIXELS, 0.0f), std::fill_n(light.end, PIXELS, 0);
    for (int k = 0; k < n; k++) {
        const Gaussian one = g[members[k]];
        const float colour = colours[members[k]];
        int from, to;
        rows_reached(one, y0, from, to);
        for (int y = from; y < to; y++) {
            float *left = light.left + y * TILE, *seen = light.colour + y * TILE;
            int32_t* end = light.end + y * TILE;
            const float dy = float(y0 + y) - one.y;
#pragma omp simd
            for (int x = 0; x < TILE; x++) {
                const float alpha = std::min(0.999f, one.height * shape(one, float(x0 + x) - one.x, dy));
                const float rest = left[x] * (1 - alpha);
                const bool counts = alpha >= 1 / 255.0f && end[x] == 0, dark = rest <= 1e-4f;
                seen[x] += counts && !dark ? colour * alpha * left[x] : 0.0f;
                end[x] = counts && dark ? k : end[x];
                left[x] = counts && !dark ? rest : left[x];
            }
        }
    }
    for (int p = 0; p < PIXELS; p++)
        if (light.end[p] == 0) light.end[p] = n;
}

// Back to front, from what light was left. The first layer takes at most .999 of it: no pixel ends there.
void differentiate_tile(const Gaussian* g, const float* colours, const int32_t* members, int n, int x0, int y0, Light& light,
                        const float* gradient, float* out, float* d_colours) {
    float behind[PIXELS] = {};  // colour that comes from behind a layer, per unit of light
    for (int k = n - 1; k >= 0; k--) {
        const Gaussian one = g[members[k]];
        const float colour = colours[members[k]];
        float m0 = 0, mx = 0, my = 0, mxx = 0, mxy = 0, myy = 0, share = 0;
        int from, to;
        rows_reached(one, y0, from, to);
        for (int y = from; y < to; y++) {
            float *left = light.left + y * TILE, *beyond = behind + y * TILE;
            const int32_t* end = light.end + y * TILE;
            const float *given = gradient + y * TILE, dy = float(y0 + y) - one.y;
            float s0 = 0, s1 = 0, s2 = 0, c = 0;
#pragma omp simd reduction(+ : s0, s1, s2, c)
            for (int x = 0; x < TILE; x++) {
                const float dx = float(x0 + x) - one.x, e = shape(one, dx, dy), alpha = std::min(0.999f, one.height * e);
                const bool counts = alpha >= 1 / 255.0f && k < end[x];
                const float before = counts ? left[x] / (1 - alpha) : left[x];
                c += counts ? given[x] * alpha * before : 0.0f;
                const float weight = counts && alpha < 0.999f ? given[x] * before * (colour - beyond[x]) * e : 0.0f;
                beyond[x] = counts ? colour * alpha + (1 - alpha) * beyond[x] : beyond[x];
                left[x] = before;
                s0 += weight, s1 += weight * dx, s2 += weight * dx * dx;
            }
            share += c;
            m0 += s0, mx += s1, mxx += s2, my += s0 * dy, mxy += s1 * dy, myy += s0 * dy * dy;
        }
        d_colours[members[k]] += share;
        const float moments[6] = {m0, mx, my, mxx, mxy, myy};
        derivatives(one, moments, out + int64_t(members[k]) * GRADIENTS);
    }
}

template <class Act> void for_each_tile(const Tiles& tiles, Act&& act) {
    for (int t = 0; t < tiles.across * tiles.across; t++)
        act(t % tiles.across * TILE, t / tiles.across * TILE, tiles.members.data() + tiles.start[t],
            tiles.members.data() + tiles.start[t + 1]);
}

}  // namespace

extern "C" {

// Returns how many (tile, Gaussian) pairs there were: the length of the lists.
int64_t tiled_forward(const Gaussian* g, const int64_t* order, int64_t n, int box, float skip_below, float* image) {
    const Tiles tiles(g, order, n, box);
    for_each_tile(tiles, [&](int x0, int y0, const int32_t* from, const int32_t* to) {
        float total[PIXELS] = {};
        for (const int32_t* i = from; i < to; i++) add_to_tile(g[*i], skip_below, x0, y0, total);
        write_tile(image, box, x0, y0, total);
    });
    return int64_t(tiles.members.size());
}

// out (n, 6): derivatives by x, y, a, b, c, height; zeros at first.
void tiled_backward(const Gaussian* g, const int64_t* order, int64_t n, int box, float skip_below, int scattered,
                    const float* gradient, float* out) {
    const Tiles tiles(g, order, n, box);
    for_each_tile(tiles, [&](int x0, int y0, const int32_t* from, const int32_t* to) {
        float part[PIXELS];
        read_tile(gradient, box, x0, y0, part);
        if (scattered) return scatter(g, from, to, skip_below, x0, y0, part, out);
        for (const int32_t* i = from; i < to; i++)
            gather(g[*i], skip_below, x0, y0, part, out + int64_t(*i) * GRADIENTS);
    });
}

void composite_forward(const Gaussian* g, const float* colours, const int64_t* order, int64_t n, int box,
                       float* image) {
    Light light;
    for_each_tile(Tiles(g, order, n, box), [&](int x0, int y0, const int32_t* from, const int32_t* to) {
        composite_tile(g, colours, from, int(to - from), x0, y0, light);
        write_tile(image, box, x0, y0, light.colour);
    });
}

void composite_backward(const Gaussian* g, const float* colours, const int64_t* order, int64_t n, int box,
                        const float* gradient, float* out, float* d_colours) {
    Light light;
    for_each_tile(Tiles(g, order, n, box), [&](int x0, int y0, const int32_t* from, const int32_t* to) {
        float part[PIXELS];
        read_tile(gradient, box, x0, y0, part);
        composite_tile(g, colours, from, int(to - from), x0, y0, light);
        differentiate_tile(g, colours, from, int(to - from), x0, y0, light, part, out, d_colours);
    });
}
}
