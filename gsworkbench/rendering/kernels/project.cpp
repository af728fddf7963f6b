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

template <class T> INLINE double quadratic(const double* form, const T* s, int k) {
    return form[0] * s[XX * BLOCK + k] + form[1] * s[XY * BLOCK + k] + form[2] * s[XZ * BLOCK + k] +
           form[3] * s[YY * BLOCK + k] + form[4] * s[YZ * BLOCK + k] + form[5] * s[ZZ * BLOCK + k];
}

template <class T> void project(const T* world, const View& view, const Grid& grid, Block<T>& out) {
    const double origin = grid.box / 2, area = 1 / (TWO_PI * grid.spacing * grid.spacing);
#pragma GCC ivdep
    for (int k = 0; k < BLOCK; k++) {
        const double x = world[X * BLOCK + k], y = world[Y * BLOCK + k], z = world[Z * BLOCK + k];
        const double centre_x = view.row[0][0] * x + view.row[0][1] * y + view.row[0][2] * z + origin;
        const double centre_y = view.row[1][0] * x + view.row[1][1] * y + view.row[1][2] * z + origin;
        const double xx = quadratic(view.xx, world, k), xy = quadratic(view.xy, world, k);
        const double yy = quadratic(view.yy, world, k);
        const double inverse = 1 / (xx * yy - xy * xy);
        int x0, x1, y0, y1;
        reached(centre_x, xx, grid.squared_cutoff, grid.box, x0, x1);
        reached(centre_y, yy, grid.squared_cutoff, grid.box, y0, y1);
        // A singular covariance has no density: such a Gaussian is left out.
        const bool seen = (x1 > x0) & (y1 > y0) & (inverse > 0) & (inverse < 1e300);
        const T scale = seen ? T(LOG2_E_HALF * inverse) : T(0);
        const T left = T(x0 - centre_x), top = T(y0 - centre_y);
        const T a = scale * T(yy), b = -2 * scale * T(xy), c = scale * T(xx);
        out.left[k] = left, out.top[k] = top;
        out.a[k] = a, out.b[k] = b, out.c[k] = c;
        out.norm[k] = seen ? T(area) * std::sqrt(T(inverse)) : T(0);
        out.x[k] = x0, out.y[k] = y0;
        out.columns[k] = seen ? x1 - x0 : 0;
        out.rows[k] = seen ? y1 - y0 : 0;
        const T wide = std::max(std::abs(left), std::abs(left + T(x1 - x0 - 1)));
        const T tall = std::max(std::abs(top), std::abs(top + T(y1 - y0 - 1)));
        const T slope = std::abs(b) * wide;
        out.exact[k] = (a * wide * wide + (slope + c * tall) * tall > T(RANGE)) | (slope + c * (2 * tall + 1) > T(RANGE));
    }
    for (int k = 0; k < BLOCK; k += Simd<T>::lanes)
        store(out.q + k, exp2_lanes(larger(-2 * load(out.c + k), fill(T(-126)))));
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
    T r[6], by_row[6][BLOCK];
    for (int i = 0; i < 6; i++) r[i] = T(view.row[i / 3][i % 3]);
#pragma GCC ivdep
    for (int k = 0; k < BLOCK; k++) {
        const T per_unit = T(1 / LOG2_E_HALF);
        const T kxx = per_unit * block.a[k], kxy = T(0.5) * per_unit * block.b[k], kyy = per_unit * block.c[k];
        const T alpha = block.norm[k] * world[W * BLOCK + k];
        const T m0 = moments[0][k], mx = moments[1][k], my = moments[2][k];
        const T mxx = moments[3][k], mxy = moments[4][k], myy = moments[5][k];
        const T dx = alpha * (kxx * mx + kxy * my), dy = alpha * (kxy * mx + kyy * my);
        const T pxx = kxx * mxx + kxy * mxy, pxy = kxx * mxy + kxy * myy;  // K M2
        const T pyx = kxy * mxx + kyy * mxy, pyy = kxy * mxy + kyy * myy;
        const T half = T(0.5) * alpha;
        const T gxx = half * (pxx * kxx + pxy * kxy - m0 * kxx), gxy = half * (pxx * kxy + pxy * kyy - m0 * kxy);
        const T gyy = half * (pyx * kxy + pyy * kyy - m0 * kyy);
        T* out = gradient + k;
        for (int i = 0; i < 3; i++) out[i * BLOCK] += r[i] * dx + r[3 + i] * dy;
        int component = XX;
        for (int i = 0; i < 3; i++) {
            const T ui = gxx * r[i] + gxy * r[3 + i], vi = gxy * r[i] + gyy * r[3 + i];
            for (int j = i; j < 3; j++) out[component++ * BLOCK] += ui * r[j] + vi * r[3 + j];
        }
        out[W * BLOCK] += block.norm[k] * m0;
        if (!turn) continue;
        const T* s = world + k;
        const T m[3] = {s[X * BLOCK], s[Y * BLOCK], s[Z * BLOCK]};
        const T full[3][3] = {{s[XX * BLOCK], s[XY * BLOCK], s[XZ * BLOCK]},
                              {s[XY * BLOCK], s[YY * BLOCK], s[YZ * BLOCK]},
                              {s[XZ * BLOCK], s[YZ * BLOCK], s[ZZ * BLOCK]}};
        for (int j = 0; j < 3; j++) {
            const T u = r[0] * full[0][j] + r[1] * full[1][j] + r[2] * full[2][j];
            const T v = r[3] * full[0][j] + r[4] * full[1][j] + r[5] * full[2][j];
            by_row[j][k] = dx * m[j] + 2 * (gxx * u + gxy * v);
            by_row[3 + j][k] = dy * m[j] + 2 * (gxy * u + gyy * v);
        }
    }
    if (turn)
        for (int i = 0; i < 6; i++)
            for (int k = 0; k < BLOCK; k++) turn[i] += by_row[i][k];
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
