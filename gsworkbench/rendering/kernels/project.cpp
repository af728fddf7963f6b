// Images of Gaussians and their gradients: project() of gsworkbench.rendering on the CPU.
//
// Gaussians go in blocks of sixteen. For every image a block is projected in float64 (centre A m, covariance A S A^T,
// footprint), which costs little and keeps float32 for what it can hold: offsets from the first pixel of a footprint.
// Forward adds the strips of each footprint to the image. Backward visits the same strips, gathers the moments of the
// gradient image under each Gaussian, and turns them into gradients sixteen Gaussians at a time. Every sum is made in
// one order, whatever the threads do: no atomics.

#include <memory>
#include <new>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num() { return 0; }
#endif

#include "footprint.h"
#include "strip.h"

namespace {

constexpr int BLOCK = 16;

// What a block of Gaussians looks like in one image. Exponent in base 2 at (dx, dy) pixels from the centre:
// -(a dx^2 + b dx dy + c dy^2); left and top are dx and dy of the first pixel; norm is 1 / (2 pi sqrt(det)) per A^2.
template <class T> struct alignas(64) Block {
    T left[BLOCK], top[BLOCK], a[BLOCK], b[BLOCK], c[BLOCK], q[BLOCK], norm[BLOCK];
    int x[BLOCK], y[BLOCK], columns[BLOCK], rows[BLOCK], exact[BLOCK];  // columns is 0 where no pixel is reached
};

// Gaussians by component: x y z, xx xy xz yy yz zz, weight; a multiple of BLOCK, filled up with zeros.
enum { X, Y, Z, XX, XY, XZ, YY, YZ, ZZ, W, COMPONENTS };

template <class T> struct World {
    int64_t n, blocks;
    std::vector<T> data;

    World(const T* means, const T* covariances, const T* weights, int64_t n)
        : n(n), blocks((n + BLOCK - 1) / BLOCK), data(COMPONENTS * blocks * BLOCK) {
        for (int64_t i = 0; i < n; i++) {
            const T *m = means + 3 * i, *s = covariances + 9 * i;
            const T values[COMPONENTS] = {m[0], m[1], m[2], s[0], (s[1] + s[3]) / 2, (s[2] + s[6]) / 2,
                                          s[4], (s[5] + s[7]) / 2, s[8], weights[i]};
            T* block = data.data() + i / BLOCK * (BLOCK * COMPONENTS);
            for (int j = 0; j < COMPONENTS; j++) block[j * BLOCK + i % BLOCK] = values[j];
        }
    }
    const T* block(int64_t i) const { return data.data() + i * (BLOCK * COMPONENTS); }
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

template <class T> INLINE Vec<double> product(const double* row, const T* m) {
    return row[0] * widen(m + X * BLOCK) + row[1] * widen(m + Y * BLOCK) + row[2] * widen(m + Z * BLOCK);
}

template <class T> INLINE Vec<double> product_of_six(const double* form, const T* s) {
    return form[0] * widen(s + XX * BLOCK) + form[1] * widen(s + XY * BLOCK) + form[2] * widen(s + XZ * BLOCK) +
           form[3] * widen(s + YY * BLOCK) + form[4] * widen(s + YZ * BLOCK) + form[5] * widen(s + ZZ * BLOCK);
}

// Everything in float64, as many Gaussians at a time as a vector holds.
template <class T> void project(const T* world, const View& view, const Grid& grid, Block<T>& out) {
    const Vec<double> origin = fill(double(grid.box / 2)), zero{};
    const double area = 1 / (TWO_PI * grid.spacing * grid.spacing);
    for (int k = 0; k < BLOCK; k += Simd<double>::lanes) {
        const Vec<double> centre_x = product(view.row[0], world + k) + origin;
        const Vec<double> centre_y = product(view.row[1], world + k) + origin;
        const Vec<double> xx = product_of_six(view.xx, world + k), xy = product_of_six(view.xy, world + k);
        const Vec<double> yy = product_of_six(view.yy, world + k);
        const Vec<double> inverse = 1 / (xx * yy - xy * xy);
        Vec<double> x0, x1, y0, y1;
        reached(centre_x, xx, grid, x0, x1);
        reached(centre_y, yy, grid, y0, y1);
        // A singular covariance has no density: such a Gaussian is left out.
        const Int<double> seen = (x1 > x0) & (y1 > y0) & (inverse > 0) & (inverse < 1e30);
        const Vec<double> left = x0 - centre_x, top = y0 - centre_y;
        const Vec<double> columns = seen ? x1 - x0 : zero, rows = seen ? y1 - y0 : zero;
        const Vec<double> scale = seen ? LOG2_E_HALF * inverse : zero;
        const Vec<double> a = scale * yy, b = -2 * scale * xy, c = scale * xx;
        const Vec<double> wide = larger(magnitude(left), magnitude(left + columns - 1));
        const Vec<double> tall = larger(magnitude(top), magnitude(top + rows - 1));
        const Vec<double> slope = magnitude(b) * wide;
        const Int<double> exact = (a * wide * wide + (slope + c * tall) * tall > RANGE) |
                                  (slope + c * (2 * tall + 1) > RANGE);
        narrow(out.left + k, left), narrow(out.top + k, top);
        narrow(out.a + k, a), narrow(out.b + k, b), narrow(out.c + k, c);
        narrow(out.norm + k, seen ? inverse : zero);
        narrow(out.x + k, x0);
        narrow(out.y + k, y0);
        narrow(out.columns + k, columns);
        narrow(out.rows + k, rows);
        narrow(out.exact + k, exact);
    }
    for (int k = 0; k < BLOCK; k += Simd<T>::lanes) {
        store(out.norm + k, T(area) * root(load(out.norm + k)));
        store(out.q + k, exp2_below(-2 * load(out.c + k)));
    }
}

template <class T> INLINE Strip<T> strip(const Block<T>& block, int k, Vec<T> dx, Int<T> inside) {
    return {-block.a[k] * dx * dx, -block.b[k] * dx, -block.c[k], block.q[k],
            block.top[k],          block.rows[k],    inside,      bool(block.exact[k])};
}

template <class T> INLINE Vec<T> offsets(const Block<T>& block, int k, int start) {
    return __builtin_convertvector(lane_numbers<T>() + (start - block.x[k]), Vec<T>) + block.left[k];
}

template <class T> INLINE void splat_one(const Block<T>& block, int k, T weight, T* image, int width) {
    const T amplitude = block.norm[k] * weight;
    T* row = image + int64_t(block.y[k]) * width;
    const int end = block.x[k] + block.columns[k];
    for (int x = block.x[k]; x < end; x += Simd<T>::lanes) {
        const Cover<T> cover(x, end, width);
        splat(strip(block, k, offsets(block, k, cover.start), cover.inside), amplitude, row + cover.start, width);
    }
}

// Moments of the gradient image under one Gaussian of height 1, not yet summed over lanes: g times
// 1, dx, dy, dx^2, dx dy, dy^2.
template <class T> INLINE void gather_one(const Block<T>& block, int k, const T* image, int width, Vec<T> (*lanes)[BLOCK]) {
    const T* row = image + int64_t(block.y[k]) * width;
    const int end = block.x[k] + block.columns[k];
    Vec<T> m{}, mx{}, my{}, mxx{}, mxy{}, myy{};
    for (int x = block.x[k]; x < end; x += Simd<T>::lanes) {
        const Cover<T> cover(x, end, width);
        const Vec<T> dx = offsets(block, k, cover.start);
        const Moments<T> g = gather(strip(block, k, dx, cover.inside), row + cover.start, width);
        const Vec<T> gx = g.zeroth * dx;
        m += g.zeroth, mx += gx, my += g.first, mxx += gx * dx, mxy += g.first * dx, myy += g.second;
    }
    lanes[0][k] = m, lanes[1][k] = mx, lanes[2][k] = my, lanes[3][k] = mxx, lanes[4][k] = mxy, lanes[5][k] = myy;
}

// From moments to gradients. With K the inverse of the 2D covariance, M1 and M2 the first and second moments and
// alpha = weight norm:  d/dweight = norm M0,  d/dmu = alpha K M1 =: d,  d/dcov = alpha (K M2 K - M0 K) / 2 =: G; and
// d/dm = A^T d,  d/dS = A^T G A,  d/dA = d m^T + 2 G A S.
template <class T>
void chain(const T* world, const Block<T>& block, const View& view, const T (*moments)[BLOCK], T* gradient, T* turn) {
    T r[6];
    Vec<T> turned[6] = {};
    for (int i = 0; i < 6; i++) r[i] = T(view.row[i / 3][i % 3]);
    for (int k = 0; k < BLOCK; k += Simd<T>::lanes) {
        const T unit = T(1 / LOG2_E_HALF);
        const Vec<T> kxx = unit * load(block.a + k), kxy = unit / 2 * load(block.b + k), kyy = unit * load(block.c + k);
        const Vec<T> norm = load(block.norm + k), alpha = norm * load(world + W * BLOCK + k), half = alpha / 2;
        const Vec<T> m0 = load(moments[0] + k), mx = load(moments[1] + k), my = load(moments[2] + k);
        const Vec<T> mxx = load(moments[3] + k), mxy = load(moments[4] + k), myy = load(moments[5] + k);
        const Vec<T> d[2] = {alpha * (kxx * mx + kxy * my), alpha * (kxy * mx + kyy * my)};
        const Vec<T> pxx = kxx * mxx + kxy * mxy - m0, pxy = kxx * mxy + kxy * myy;  // K M2 - M0
        const Vec<T> pyx = kxy * mxx + kyy * mxy, pyy = kxy * mxy + kyy * myy - m0;
        const Vec<T> gxx = half * (pxx * kxx + pxy * kxy), gxy = half * (pxx * kxy + pxy * kyy);
        const Vec<T> gyy = half * (pyx * kxy + pyy * kyy);
        const auto add = [&](int component, Vec<T> v) {
            T* to = gradient + component * BLOCK + k;
            store(to, load(to) + v);
        };
        for (int i = 0, component = XX; i < 3; i++) {
            add(X + i, r[i] * d[0] + r[3 + i] * d[1]);
            const Vec<T> u = gxx * r[i] + gxy * r[3 + i], v = gxy * r[i] + gyy * r[3 + i];
            for (int j = i; j < 3; j++) add(component++, u * r[j] + v * r[3 + j]);
        }
        add(W, norm * m0);
        if (!turn) continue;
        const int full[3][3] = {{XX, XY, XZ}, {XY, YY, YZ}, {XZ, YZ, ZZ}};
        for (int j = 0; j < 3; j++) {
            Vec<T> u{}, v{};  // A S
            for (int i = 0; i < 3; i++) {
                const Vec<T> s = load(world + full[i][j] * BLOCK + k);
                u += r[i] * s, v += r[3 + i] * s;
            }
            const Vec<T> m = load(world + (X + j) * BLOCK + k);
            turned[j] += d[0] * m + 2 * (gxx * u + gxy * v);
            turned[3 + j] += d[1] * m + 2 * (gxy * u + gyy * v);
        }
    }
    if (turn)
        for (int i = 0; i < 6; i++) turn[i] = sum<T>(turned[i]);
}

template <class T>
void forward(const World<T>& world, const T* rotations, int64_t batch, const Grid& grid, int threads, Block<T>* kept,
             T* images) {
    const int width = working_width<T>(grid.box);
    const int64_t size = int64_t(grid.box) * width;
    // More threads than images: several share an image, each with its own part of the Gaussians and its own copy.
    const int parts = batch ? std::max<int64_t>(1, threads / batch) : 1;
    const bool direct = parts == 1 && width == grid.box;
    std::vector<T> copies(direct ? 0 : batch * parts * size);
    T* work = direct ? images : copies.data();
#pragma omp parallel num_threads(threads)
    {
        const FlushToZero mode;
#pragma omp for schedule(static)
        for (int64_t task = 0; task < batch * parts; task++) {
            const int64_t i = task / parts, part = task % parts;
            const View view(rotations + 9 * i, grid.spacing);
            T* image = work + task * size;
            std::memset(image, 0, size * sizeof(T));
            Block<T> own;
            for (int64_t j = world.blocks * part / parts; j < world.blocks * (part + 1) / parts; j++) {
                Block<T>& block = kept ? kept[i * world.blocks + j] : own;
                const T* gaussians = world.block(j);
                project(gaussians, view, grid, block);
                for (int k = 0; k < BLOCK; k++)
                    if (block.columns[k]) splat_one(block, k, gaussians[W * BLOCK + k], image, width);
            }
        }
        if (!direct) {
#pragma omp for schedule(static)
            for (int64_t row = 0; row < batch * grid.box; row++) {
                const int64_t i = row / grid.box, y = row % grid.box;
                T* out = images + row * grid.box;
                std::memset(out, 0, grid.box * sizeof(T));
                for (int part = 0; part < parts; part++) {
                    const T* from = work + (i * parts + part) * size + y * width;
                    for (int x = 0; x < grid.box; x++) out[x] += from[x];
                }
            }
        }
    }
}

// Threads share the Gaussians, not the images: each sums its Gaussians' gradients over the images in order, so that
// only gradients of rotations depend (in their last bits) on the number of threads.
template <class T>
void backward(const World<T>& world, const T* rotations, int64_t batch, const Grid& grid, int threads,
              const Block<T>* kept, const T* images, T* d_means, T* d_covariances, T* d_weights, T* d_rotations) {
    const int width = working_width<T>(grid.box);
    const int64_t size = int64_t(grid.box) * width;
    std::vector<T> wider(width == grid.box ? 0 : batch * size);
    if (width > grid.box) {
        for (int64_t row = 0; row < batch * grid.box; row++)
            std::copy_n(images + row * grid.box, grid.box, wider.data() + row * width);
        images = wider.data();
    }
    std::vector<T> gradients(world.data.size());
    std::vector<double> turns(d_rotations ? threads * batch * 6 : 0);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int share = 0; share < threads; share++) {
        const FlushToZero mode;
        const int64_t from = world.blocks * share / threads, to = world.blocks * (share + 1) / threads;
        Vec<T> lanes[6][BLOCK] = {};
        T moments[6][BLOCK];
        for (int64_t i = 0; i < batch; i++) {
            const View view(rotations + 9 * i, grid.spacing);
            for (int64_t j = from; j < to; j++) {
                const Block<T>& block = kept[i * world.blocks + j];
                for (int k = 0; k < BLOCK; k++)
                    gather_one(block, k, images + i * size, width, lanes);
                for (int m = 0; m < 6; m++)
                    for (int k = 0; k < BLOCK; k += Simd<T>::lanes) store(moments[m] + k, sums<T>(lanes[m] + k));
                T turn[6] = {};
                T* gradient = gradients.data() + j * (BLOCK * COMPONENTS);
                chain(world.block(j), block, view, moments, gradient, d_rotations ? turn : nullptr);
                if (d_rotations)
                    for (int m = 0; m < 6; m++) turns[(share * batch + i) * 6 + m] += turn[m];
            }
        }
        const int64_t last = std::min(world.n, to * BLOCK);
        for (int64_t i = from * BLOCK; i < last; i++) {
            const T* g = gradients.data() + i / BLOCK * (BLOCK * COMPONENTS) + i % BLOCK;
            const int where[9] = {XX, XY, XZ, XY, YY, YZ, XZ, YZ, ZZ};
            for (int j = 0; j < 3; j++) d_means[3 * i + j] = g[j * BLOCK];
            for (int j = 0; j < 9; j++) d_covariances[9 * i + j] = g[where[j] * BLOCK];
            d_weights[i] = g[W * BLOCK];
        }
    }
    if (!d_rotations) return;
    std::fill_n(d_rotations, 9 * batch, T(0));
    for (int64_t i = 0; i < batch; i++)
        for (int m = 0; m < 6; m++) {
            double total = 0;
            for (int share = 0; share < threads; share++) total += turns[(share * batch + i) * 6 + m];
            d_rotations[9 * i + m] = T(total / grid.spacing);
        }
}

template <class T>
void bounds_of(const World<T>& world, const T* rotations, int64_t batch, const Grid& grid, int32_t* bounds) {
    Block<T> block;
    for (int64_t i = 0; i < batch; i++)
        for (int64_t j = 0; j < world.n; j++, bounds += 4) {
            const int k = j % BLOCK;
            if (k == 0) project(world.block(j / BLOCK), View(rotations + 9 * i, grid.spacing), grid, block);
            const bool seen = block.columns[k];
            bounds[0] = seen ? block.x[k] : 0, bounds[1] = seen ? block.x[k] + block.columns[k] : 0;
            bounds[2] = seen ? block.y[k] : 0, bounds[3] = seen ? block.y[k] + block.rows[k] : 0;
        }
}

}  // namespace

// Arrays are C-contiguous, shapes and units those of rendering/__init__.py; `squared_cutoff` is DBL_MAX for none.
// Returns 0, or 1 where memory ran out.
#define ENTRY_POINTS(T, SUFFIX)                                                                                        \
    int64_t project_kept_bytes_##SUFFIX(int64_t n) { return (n + BLOCK - 1) / BLOCK * sizeof(Block<T>); }              \
                                                                                                                       \
    int project_forward_##SUFFIX(const T* means, const T* covariances, const T* weights, const T* rotations,           \
                                 int64_t n, int64_t batch, int box, double spacing, double squared_cutoff,             \
                                 int threads, void* kept, T* images) try {                                             \
        const World<T> world(means, covariances, weights, n);                                                          \
        forward(world, rotations, batch, {box, spacing, squared_cutoff}, threads, static_cast<Block<T>*>(kept),        \
                images);                                                                                               \
        return 0;                                                                                                      \
    } catch (const std::bad_alloc&) {                                                                                  \
        return 1;                                                                                                      \
    }                                                                                                                  \
                                                                                                                       \
    int project_backward_##SUFFIX(const T* means, const T* covariances, const T* weights, const T* rotations,          \
                                  int64_t n, int64_t batch, int box, double spacing, double squared_cutoff,            \
                                  int threads, const void* kept, const T* images, T* d_means, T* d_covariances,        \
                                  T* d_weights, T* d_rotations) try {                                                  \
        const World<T> world(means, covariances, weights, n);                                                          \
        backward(world, rotations, batch, {box, spacing, squared_cutoff}, threads,                                     \
                 static_cast<const Block<T>*>(kept), images, d_means, d_covariances, d_weights, d_rotations);          \
        return 0;                                                                                                      \
    } catch (const std::bad_alloc&) {                                                                                  \
        return 1;                                                                                                      \
    }                                                                                                                  \
                                                                                                                       \
    void project_bounds_##SUFFIX(const T* means, const T* covariances, const T* weights, const T* rotations,           \
                                 int64_t n, int64_t batch, int box, double spacing, double squared_cutoff,             \
                                 int32_t* bounds) {                                                                    \
        bounds_of(World<T>(means, covariances, weights, n), rotations, batch, {box, spacing, squared_cutoff}, bounds); \
    }

extern "C" {
ENTRY_POINTS(float, float32)
ENTRY_POINTS(double, float64)
}
