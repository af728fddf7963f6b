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

// How a Gaussian is drawn: not at all, as one or two strips by the recurrence, or by the loops that know every case.
enum { NOTHING, ONE_STRIP, TWO_STRIPS, ANY };

// What a block of Gaussians looks like in one image. Exponent in base 2 at (dx, dy) pixels from the centre:
// xx dx^2 + xy dx dy + yy dy^2; left and top are dx and dy of the first pixel; norm is 1 / (2 pi sqrt(det)) per A^2.
template <class T> struct alignas(64) Block {
    T left[BLOCK], top[BLOCK], xx[BLOCK], xy[BLOCK], yy[BLOCK], norm[BLOCK];
    int x[BLOCK], y[BLOCK], columns[BLOCK], rows[BLOCK];  // columns and rows are 0 where no pixel is reached
};

// Gaussians by component: x y z, xx xy xz yy yz zz, weight; a multiple of BLOCK, filled up with zeros.
enum { X, Y, Z, XX, XY, XZ, YY, YZ, ZZ, W, COMPONENTS };

// Memory that a thread keeps from call to call: fresh pages cost more than what is done with them here.
enum { GAUSSIANS, GRADIENTS, USES };
template <class T> T* scratch(int use, int64_t size) {
    thread_local std::vector<T> kept[USES];
    if (int64_t(kept[use].size()) < size) kept[use] = std::vector<T>(size);
    return kept[use].data();
}

template <class T> struct World {
    int64_t n, blocks;
    T* data;

    World(const T* means, const T* covariances, const T* weights, int64_t n)
        : n(n), blocks((n + BLOCK - 1) / BLOCK), data(scratch<T>(GAUSSIANS, size())) {
        if (n) std::fill_n(data + (blocks - 1) * (COMPONENTS * BLOCK), COMPONENTS * BLOCK, T(0));
        for (int64_t i = 0; i < n; i++) {
            const T *m = means + 3 * i, *s = covariances + 9 * i;
            const T values[COMPONENTS] = {m[0], m[1], m[2], s[0], (s[1] + s[3]) / 2, (s[2] + s[6]) / 2,
                                          s[4], (s[5] + s[7]) / 2, s[8], weights[i]};
            T* block = data + i / BLOCK * (BLOCK * COMPONENTS);
            for (int j = 0; j < COMPONENTS; j++) block[j * BLOCK + i % BLOCK] = values[j];
        }
    }
    int64_t size() const { return blocks * (BLOCK * COMPONENTS); }
    const T* block(int64_t i) const { return data + i * (BLOCK * COMPONENTS); }
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

// Centres, covariances and bounds in float64, as many Gaussians at a time as a vector holds.
template <class T> void project(const T* world, const View& view, const Grid& grid, Block<T>& out) {
    const Vec<double> origin = fill(double(grid.box / 2)), zero{};
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
        const Vec<double> scale = seen ? -LOG2_E_HALF * inverse : zero;
        narrow(out.left + k, x0 - centre_x), narrow(out.top + k, y0 - centre_y);
        narrow(out.xx + k, scale * yy), narrow(out.xy + k, -2 * scale * xy), narrow(out.yy + k, scale * xx);
        narrow(out.norm + k, seen ? inverse : zero);
        narrow(out.x + k, x0), narrow(out.y + k, y0);
        narrow(out.columns + k, seen ? x1 - x0 : zero), narrow(out.rows + k, seen ? y1 - y0 : zero);
    }
    const T area = T(1 / (TWO_PI * grid.spacing * grid.spacing));
    for (int k = 0; k < BLOCK; k += Simd<T>::lanes) store(out.norm + k, area * root(load(out.norm + k)));
}

template <class T> INLINE Vec<T> lane_offsets() { return __builtin_convertvector(lane_numbers<T>(), Vec<T>); }

template <class T> INLINE Vec<T> converted(const int* p) {
    Vec<T> v;
    for (int i = 0; i < Simd<T>::lanes; i++) v[i] = T(p[i]);
    return v;
}

// A block made ready: how each footprint is drawn and in which order, and v, r and q on its first row, of two strips
// where it has them. All first rows are made before any is used: work without waiting, while rows wait for rows above.
template <class T> struct Ready {
    Vec<T> v[2][BLOCK], r[2][BLOCK];
    T q[BLOCK], linear[BLOCK], constant[BLOCK], slope[BLOCK];
    int exact[BLOCK], kind[BLOCK];
    int order[BLOCK];

    INLINE Ready(const Block<T>& block, int width) {
        decide(block, width);
        sort(block);
        if (std::is_same_v<T, double>) return;
        for (int k = 0; k < BLOCK; k += 2) first_rows<2>(block, k, 0);
        for (int k = 0; k < BLOCK; k++)
            if (kind[k] == TWO_STRIPS) first_rows<1>(block, k, 1);
    }

private:
    INLINE void decide(const Block<T>& block, int width) {
        constexpr int lanes = Simd<T>::lanes;
        const Int<T> recurs = Int<T>{} - (std::is_same_v<T, float> ? 1 : 0);
        for (int k = 0; k < BLOCK; k += lanes) {
            const Vec<T> left = load(block.left + k), top = load(block.top + k);
            const Vec<T> xx = load(block.xx + k), xy = load(block.xy + k), yy = load(block.yy + k);
            const Vec<T> columns = converted<T>(block.columns + k), rows = converted<T>(block.rows + k);
            const Vec<T> wide = larger(magnitude(left), magnitude(left + (columns - 1)));
            const Vec<T> tall = larger(magnitude(top), magnitude(top + (rows - 1)));
            const Vec<T> tilt = magnitude(xy) * wide;
            const Int<T> far = (xx * wide * wide + (yy * tall - tilt) * tall < -RANGE) |
                               (yy * (2 * tall + 1) - tilt < -RANGE);
            const Vec<T> strips = columns > T(lanes) ? fill(T(TWO_STRIPS)) : columns > 0 ? fill(T(ONE_STRIP)) : Vec<T>{};
            const Int<T> simple = (rows <= T(CHUNK)) & (columns <= T(2 * lanes)) & ~far &
                                  (converted<T>(block.x + k) + strips * T(lanes) <= T(width));
            const Vec<T> how = simple & recurs ? strips : fill(T(ANY));
            for (int i = 0; i < lanes; i++) exact[k + i] = int(far[i]), kind[k + i] = int(how[i]);
            store(linear + k, xy * top);
            store(constant + k, yy * top * top);
            store(slope + k, yy * (2 * top + 1));
            store(q + k, exp2_below(2 * yy));
        }
    }

    // Like after like, so that the processor guesses where their loops end.
    INLINE void sort(const Block<T>& block) {
        typedef int16_t Keys __attribute__((vector_size(2 * BLOCK)));
        Keys key, rank{};
        for (int k = 0; k < BLOCK; k++) key[k] = int16_t((kind[k] * 32 + (block.rows[k] & 31)) * BLOCK + k);
        for (int k = 0; k < BLOCK; k++) rank -= key > key[k];
        for (int k = 0; k < BLOCK; k++) order[rank[k]] = k;
    }

    // First rows of a strip of N Gaussians from k. Exponents are (xx dx + linear) dx + constant of v, xy dx + slope of r.
    template <int N> INLINE void first_rows(const Block<T>& block, int k, int strip) {
        const int offset = strip * Simd<T>::lanes;
        Vec<T> e[2 * N];
        for (int i = 0; i < N; i++) {
            const Vec<T> dx = (lane_offsets<T>() + T(offset)) + block.left[k + i];
            e[i] = (block.xx[k + i] * dx + linear[k + i]) * dx + constant[k + i];
            e[N + i] = block.xy[k + i] * dx + slope[k + i];
        }
        exp2_within(e);
        for (int i = 0; i < N; i++) {
            const Int<T> inside = lane_numbers<T>() + offset < block.columns[k + i];
            v[strip][k + i] = inside ? e[i] : Vec<T>{};
            r[strip][k + i] = inside ? e[N + i] : Vec<T>{};
        }
    }
};

template <class T> INLINE int64_t first_pixel(const Block<T>& block, int k, int64_t width) {
    return block.y[k] * width + block.x[k];
}

// A footprint of N strips.
template <int N, class T> INLINE Rows<T, N> first_rows(const Ready<T>& ready, int k) {
    Rows<T, N> out;
    for (int i = 0; i < N; i++) out.v[i] = ready.v[i][k], out.r[i] = ready.r[i][k];
    out.q = ready.q[k];
    return out;
}

// Any footprint: visit(strip, dx, first sample in its row) for each strip.
template <class T, class F> INLINE void each_strip(const Block<T>& block, const Ready<T>& ready, int k, int width, F visit) {
    const int end = block.x[k] + block.columns[k];
    for (int x = block.x[k]; x < end; x += Simd<T>::lanes) {
        const Cover<T> cover(x, end, width);
        const Vec<T> dx = (lane_offsets<T>() + T(cover.start - block.x[k])) + block.left[k];
        visit(Strip<T>{block.xx[k] * dx * dx, block.xy[k] * dx, block.yy[k], ready.q[k], block.top[k], block.rows[k],
                       cover.inside, bool(ready.exact[k])},
              dx, cover.start - block.x[k]);
    }
}

template <class T>
__attribute__((noinline)) void splat_any(const Block<T>& block, const Ready<T>& ready, int k, T amplitude, T* image, int width) {
    T* samples = image + first_pixel(block, k, width);
    each_strip(block, ready, k, width,
               [&](const Strip<T>& strip, Vec<T>, int x) { splat(strip, amplitude, samples + x, width); });
}

template <class T> INLINE void splat_block(const Block<T>& block, const T* weights, T* image, int width) {
    const Ready<T> ready(block, width);
    for (int k : ready.order) {
        const T amplitude = block.norm[k] * weights[k];
        T* samples = image + first_pixel(block, k, width);
        if (ready.kind[k] == ONE_STRIP)
            splat_rows(first_rows<1>(ready, k), block.rows[k], amplitude, samples, width);
        else if (ready.kind[k] == TWO_STRIPS)
            splat_rows(first_rows<2>(ready, k), block.rows[k], amplitude, samples, width);
        else if (ready.kind[k] == ANY)
            splat_any(block, ready, k, amplitude, image, width);
    }
}

// Moments of the gradient image under Gaussians of height 1, not yet summed over lanes: g times 1, dx, dx^2; t, t dx;
// t (t - 1) / 2, with t as in strip.h.
enum { M, MX, MXX, MT, MXT, MTT, MOMENTS };
template <class T> using Lanes = Vec<T>[MOMENTS][BLOCK];

template <class T>
__attribute__((noinline)) void gather_any(const Block<T>& block, const Ready<T>& ready, int k, const T* image, int width,
                                          Lanes<T>& lanes) {
    const T* samples = image + first_pixel(block, k, width);
    for (int j = 0; j < MOMENTS; j++) lanes[j][k] = Vec<T>{};
    each_strip(block, ready, k, width, [&](const Strip<T>& strip, Vec<T> dx, int x) {
        const Moments<T> m = gather(strip, samples + x, width);
        const Vec<T> mx = m.zeroth * dx;
        lanes[M][k] += m.zeroth, lanes[MX][k] += mx, lanes[MXX][k] += mx * dx;
        lanes[MT][k] += m.first, lanes[MXT][k] += m.first * dx, lanes[MTT][k] += m.second;
    });
}

template <int N, class T>
INLINE void gather_strips(const Block<T>& block, const Ready<T>& ready, int k, const T* image, int width, Lanes<T>& lanes) {
    Moments<T> m[N];
    gather_rows(first_rows<N>(ready, k), block.rows[k], image + first_pixel(block, k, width), width, m);
    Vec<T> sum[MOMENTS];
    for (int i = 0; i < N; i++) {
        const Vec<T> dx = (lane_offsets<T>() + T(i * Simd<T>::lanes)) + block.left[k], mx = m[i].zeroth * dx;
        const Vec<T> part[MOMENTS] = {m[i].zeroth, mx, mx * dx, m[i].first, m[i].first * dx, m[i].second};
        for (int j = 0; j < MOMENTS; j++) sum[j] = i ? sum[j] + part[j] : part[j];
    }
    for (int j = 0; j < MOMENTS; j++) lanes[j][k] = sum[j];
}

// Moments of a block: g times 1, dx, dy, dx^2, dx dy, dy^2.
template <class T> void gather_block(const Block<T>& block, const T* image, int width, T (*moments)[BLOCK]) {
    const Ready<T> ready(block, width);
    Lanes<T> lanes;
    for (int k : ready.order) {
        if (ready.kind[k] == ONE_STRIP)
            gather_strips<1>(block, ready, k, image, width, lanes);
        else if (ready.kind[k] == TWO_STRIPS)
            gather_strips<2>(block, ready, k, image, width, lanes);
        else
            gather_any(block, ready, k, image, width, lanes);
    }
    for (int k = 0; k < BLOCK; k += Simd<T>::lanes) {
        Vec<T> m[MOMENTS];
        for (int i = 0; i < MOMENTS; i++) m[i] = sums<T>(lanes[i] + k);
        const Vec<T> last = converted<T>(ready.kind + k) < T(ANY)
                                ? load(block.top + k) + (converted<T>(block.rows + k) - 1)
                                : Vec<T>{};
        store(moments[0] + k, m[M]);
        store(moments[1] + k, m[MX]);
        store(moments[2] + k, first_moment(m[M], m[MT], last));
        store(moments[3] + k, m[MXX]);
        store(moments[4] + k, first_moment(m[MX], m[MXT], last));
        store(moments[5] + k, second_moment(m[M], m[MT], m[MTT], last));
    }
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
        const T unit = T(-1 / LOG2_E_HALF);
        const Vec<T> kxx = unit * load(block.xx + k), kxy = unit / 2 * load(block.xy + k), kyy = unit * load(block.yy + k);
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

// Blocks made one ahead of their use: read at once, what was written in other pieces would have to reach the cache first.
template <class T, class F> class Maker {
    Block<T> blocks[2];
    int64_t made, end;
    F make;

public:
    INLINE Maker(int64_t begin, int64_t end, F make) : made(begin), end(end), make(make) {
        if (begin < end) make(begin, blocks[begin & 1]);
    }
    INLINE const Block<T>& next() {
        const Block<T>& block = blocks[made++ & 1];
        if (made < end) make(made, blocks[made & 1]);
        return block;
    }
};

template <class T>
void forward(const World<T>& world, const T* rotations, int64_t batch, const Grid& grid, int threads, T* images) {
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
            const int64_t begin = world.blocks * part / parts, end = world.blocks * (part + 1) / parts;
            auto make = [&](int64_t j, Block<T>& block) { project(world.block(j), view, grid, block); };
            Maker<T, decltype(make)> blocks(begin, end, make);
            for (int64_t j = begin; j < end; j++) splat_block(blocks.next(), world.block(j) + W * BLOCK, image, width);
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

// Add the gradients of one block in some images to `gradient`; `turns`, if wanted, are those of the images' rotations.
template <class T>
void block_gradients(const T* world, const View* views, int64_t first, int64_t last, const Grid& grid, const T* images,
                     int width, T* gradient, double* turns) {
    T moments[6][BLOCK];
    const auto make = [&](int64_t i, Block<T>& block) { project(world, views[i], grid, block); };
    Maker<T, decltype(make)> blocks(first, last, make);
    for (int64_t i = first; i < last; i++) {
        const Block<T>& block = blocks.next();
        gather_block(block, images + i * grid.box * width, width, moments);
        T turn[6];
        chain(world, block, views[i], moments, gradient, turns ? turn : nullptr);
        if (turns)
            for (int m = 0; m < 6; m++) turns[6 * i + m] += turn[m];
    }
}

// Gradients of Gaussians from <= i < to, from the layout of World to that of the caller.
template <class T>
void put_gradients(const T* gradients, int64_t from, int64_t to, T* d_means, T* d_covariances, T* d_weights) {
    const int where[9] = {XX, XY, XZ, XY, YY, YZ, XZ, YZ, ZZ};
    for (int64_t i = from; i < to; i++) {
        const T* g = gradients + i / BLOCK * (BLOCK * COMPONENTS) + i % BLOCK;
        for (int j = 0; j < 3; j++) d_means[3 * i + j] = g[j * BLOCK];
        for (int j = 0; j < 9; j++) d_covariances[9 * i + j] = g[where[j] * BLOCK];
        d_weights[i] = g[W * BLOCK];
    }
}

constexpr int SHARES = 32;                    // of the Gaussians, whatever the number of threads
constexpr int64_t IMAGES_AT_A_TIME = 1 << 18;  // bytes: what stays in the cache of a core beside the Gaussians

// Threads take shares of the Gaussians, not of the images, and each Gaussian sums its gradients over the images in
// order: the same bits for any number of threads.
template <class T>
void backward(const World<T>& world, const T* rotations, int64_t batch, const Grid& grid, int threads, const T* images,
              T* d_means, T* d_covariances, T* d_weights, T* d_rotations) {
    const int width = working_width<T>(grid.box);
    const int64_t size = int64_t(grid.box) * width;
    std::vector<T> wider(width == grid.box ? 0 : batch * size);
    if (width > grid.box) {
        for (int64_t row = 0; row < batch * grid.box; row++)
            std::copy_n(images + row * grid.box, grid.box, wider.data() + row * width);
        images = wider.data();
    }
    std::vector<View> views;
    for (int64_t i = 0; i < batch; i++) views.emplace_back(rotations + 9 * i, grid.spacing);
    T* gradients = scratch<T>(GRADIENTS, world.size());
    std::fill_n(gradients, world.size(), T(0));
    std::vector<double> turns(d_rotations ? SHARES * batch * 6 : 0);
    const int64_t together = std::max<int64_t>(1, IMAGES_AT_A_TIME / (size * sizeof(T)));
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int share = 0; share < SHARES; share++) {
        const FlushToZero mode;
        const int64_t from = world.blocks * share / SHARES, to = world.blocks * (share + 1) / SHARES;
        double* turn = d_rotations ? turns.data() + share * batch * 6 : nullptr;
        for (int64_t i = 0; i < batch; i += together)
            for (int64_t j = from; j < to; j++)
                block_gradients(world.block(j), views.data(), i, std::min(batch, i + together), grid, images, width,
                                gradients + j * (BLOCK * COMPONENTS), turn);
        put_gradients(gradients, from * BLOCK, std::min(world.n, to * BLOCK), d_means, d_covariances, d_weights);
    }
    if (!d_rotations) return;
    std::fill_n(d_rotations, 9 * batch, T(0));
    for (int64_t i = 0; i < batch; i++)
        for (int m = 0; m < 6; m++) {
            double total = 0;
            for (int share = 0; share < SHARES; share++) total += turns[(share * batch + i) * 6 + m];
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
    int project_forward_##SUFFIX(const T* means, const T* covariances, const T* weights, const T* rotations,           \
                                 int64_t n, int64_t batch, int box, double spacing, double squared_cutoff,             \
                                 int threads, T* images) try {                                                         \
        const World<T> world(means, covariances, weights, n);                                                          \
        forward(world, rotations, batch, {box, spacing, squared_cutoff}, threads, images);                             \
        return 0;                                                                                                      \
    } catch (const std::bad_alloc&) {                                                                                  \
        return 1;                                                                                                      \
    }                                                                                                                  \
                                                                                                                       \
    int project_backward_##SUFFIX(const T* means, const T* covariances, const T* weights, const T* rotations,          \
                                  int64_t n, int64_t batch, int box, double spacing, double squared_cutoff,            \
                                  int threads, const T* images, T* d_means, T* d_covariances, T* d_weights,            \
                                  T* d_rotations) try {                                                                \
        const World<T> world(means, covariances, weights, n);                                                          \
        backward(world, rotations, batch, {box, spacing, squared_cutoff}, threads, images, d_means, d_covariances,     \
                 d_weights, d_rotations);                                                                              \
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
