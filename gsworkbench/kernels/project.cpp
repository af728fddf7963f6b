// Images of Gaussians and their gradients: project() of gsworkbench.rendering on the CPU.
//
// Gaussians go in packs. For every image a pack is projected in float64 (centre A m, covariance A S A^T, footprint),
// which keeps float32 for what it can hold: offsets from the first pixel of a footprint. Forward adds the strips of each
// footprint to the image. Backward visits the same strips, gathers the moments of the gradient image under each
// Gaussian, and turns them into gradients a vector of Gaussians at a time. Every sum is made in one order, whatever the
// threads do: no atomics.

#include <memory>
#include <new>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num() { return 0; }
#endif

#include "pack.h"

namespace {

// Images as they are worked on: rows are an odd number of cache lines apart and reach a vector past the box. Rows a
// power of two apart would share few places in the cache, and stores and loads of unlike rows be taken for alike.
template <class T> struct Canvas {
    int box;
    int64_t stride, size;

    explicit Canvas(int box) : box(box) {
        constexpr int line = 64 / sizeof(T);
        stride = ((box + Simd<T>::lanes + line - 1) / line | 1) * line;
        size = box * stride;
    }
};

template <class T> INLINE int64_t first_pixel(const Pack<T>& pack, int k, int64_t stride) {
    return pack.y[k] * stride + pack.x[k];
}

// Any footprint: visit(strip, dx, first sample in its row) for each strip.
template <class T, class F> INLINE void each_strip(const Pack<T>& pack, const Ready<T>& ready, int k, F visit) {
    for (int x = 0; x < pack.columns[k]; x += Simd<T>::lanes) {
        const Vec<T> dx = (lane_offsets<T>() + T(x)) + pack.left[k];
        const T q = exp2_below(fill(2 * pack.yy[k]))[0];
        visit(Strip<T>{pack.xx[k] * dx * dx, pack.xy[k] * dx, pack.yy[k], q, pack.top[k], pack.rows[k],
                       lane_numbers<T>() + x < pack.columns[k], bool(ready.exact[k])},
              dx, x);
    }
}

template <class T>
__attribute__((noinline)) void splat_any(const Pack<T>& pack, const Ready<T>& ready, int k, T amplitude, T* image, int64_t stride) {
    T* samples = image + first_pixel(pack, k, stride);
    each_strip(pack, ready, k, [&](const Strip<T>& strip, Vec<T>, int x) { splat(strip, amplitude, samples + x, stride); });
}

constexpr int class_of(int strips, int rows) { return (strips - 1) * CHUNK + rows - 1; }

// visit(strips, rows) for every class drawn by the recurrence, as constants of their types: loops without ends to guess.
// There are none in float64.
template <class F, size_t... I> INLINE void each_class(F visit, std::index_sequence<I...>) {
    (visit(std::integral_constant<int, 1 + int(I) / CHUNK>{}, std::integral_constant<int, 1 + int(I) % CHUNK>{}), ...);
}
template <class T, class F> INLINE void each_class(F visit) {
    each_class(visit, std::make_index_sequence<std::is_same_v<T, float> ? 2 * CHUNK : 0>{});
}

// Gaussians that are drawn together: each of N strips, ROWS rows high.
template <int N, class T, int COUNT> INLINE Rows<T, N * COUNT> strips_of(const Pack<T>& pack, const Ready<T>& ready, const int (&k)[COUNT]) {
    Rows<T, N * COUNT> out;
    for (int j = 0; j < N * COUNT; j++) ready.put(pack, k[j / N], j % N, out, j);
    return out;
}

template <int N, int ROWS, class T, class... K>
INLINE void splat_some(const Pack<T>& pack, const Ready<T>& ready, T* image, int64_t stride, K... numbers) {
    const int k[] = {numbers...};
    T* samples[N * sizeof...(K)];
    for (size_t j = 0; j < N * sizeof...(K); j++)
        samples[j] = image + first_pixel(pack, k[j / N], stride) + j % N * Simd<T>::lanes;
    add_rows<ROWS>(strips_of<N>(pack, ready, k), samples, stride);
}

template <class T> void splat_pack(const Pack<T>& pack, const T* weights, T* image, int64_t stride) {
    alignas(64) T amplitudes[PACK];
    for (int k = 0; k < pack.size; k += Simd<T>::lanes) store(amplitudes + k, load(pack.norm + k) * load(weights + k));
    const Ready<T> ready(pack, amplitudes);
    each_class<T>([&](auto strips, auto rows) {
        ready.each(class_of(strips, rows), [&](int k) { splat_some<strips, rows>(pack, ready, image, stride, k); });
    });
    ready.each(ready.ANY, [&](int k) { splat_any(pack, ready, k, amplitudes[k], image, stride); });
}

// Moments of the gradient image under Gaussians of height 1: g times 1, dx, dx^2; t, t dx; t (t - 1) / 2, with t as in
// strip.h. Gaussian by Gaussian, summed over lanes.
enum { M, MX, MXX, MT, MXT, MTT, MOMENTS };
template <class T> struct alignas(64) Gathered {
    static constexpr int record = std::max(8, Simd<T>::lanes);
    T moments[PACK][record];

    INLINE void put(int k, const Vec<T> (&lanes)[MOMENTS]) {
        Vec<T> all[record] = {};
        for (int j = 0; j < MOMENTS; j++) all[j] = lanes[j];
        for (int j = 0; j < record; j += Simd<T>::lanes) store(moments[k] + j, sums<T>(all + j));
    }
    // Those of a vector of Gaussians from k.
    INLINE void get(int k, Vec<T> (&out)[record]) const {
        for (int j = 0; j < record; j += Simd<T>::lanes) {
            for (int i = 0; i < Simd<T>::lanes; i++) out[j + i] = load(moments[k + i] + j);
            transpose<T>(out + j);
        }
    }
};

template <class T>
__attribute__((noinline)) void gather_any(const Pack<T>& pack, const Ready<T>& ready, int k, const T* image, int64_t stride,
                                          Gathered<T>& out) {
    const T* samples = image + first_pixel(pack, k, stride);
    Vec<T> lanes[MOMENTS] = {};
    each_strip(pack, ready, k, [&](const Strip<T>& strip, Vec<T> dx, int x) {
        const Moments<T> m = gather(strip, samples + x, stride);
        const Vec<T> mx = m.zeroth * dx;
        lanes[M] += m.zeroth, lanes[MX] += mx, lanes[MXX] += mx * dx;
        lanes[MT] += m.first, lanes[MXT] += m.first * dx, lanes[MTT] += m.second;
    });
    out.put(k, lanes);
}

template <int N, int ROWS, class T, class... K>
INLINE void gather_some(const Pack<T>& pack, const Ready<T>& ready, const T* image, int64_t stride, Gathered<T>& out, K... numbers) {
    const int k[] = {numbers...};
    const T* samples[N * sizeof...(K)];
    for (size_t j = 0; j < N * sizeof...(K); j++)
        samples[j] = image + first_pixel(pack, k[j / N], stride) + j % N * Simd<T>::lanes;
    Moments<T> m[N * sizeof...(K)];
    gather_rows<ROWS>(strips_of<N>(pack, ready, k), samples, stride, m);
    for (size_t g = 0; g < sizeof...(K); g++) {
        Vec<T> lanes[MOMENTS];
        for (int i = 0; i < N; i++) {
            const Moments<T>& strip = m[g * N + i];
            const Vec<T> dx = (lane_offsets<T>() + T(i * Simd<T>::lanes)) + pack.left[k[g]], mx = strip.zeroth * dx;
            const Vec<T> part[MOMENTS] = {strip.zeroth, mx, mx * dx, strip.first, strip.first * dx, strip.second};
            for (int j = 0; j < MOMENTS; j++) lanes[j] = i ? lanes[j] + part[j] : part[j];
        }
        out.put(k[g], lanes);
    }
}

// Moments of a pack: g times 1, dx, dy, dx^2, dx dy, dy^2.
template <class T> void gather_pack(const Pack<T>& pack, const T* image, int64_t stride, T (*moments)[PACK]) {
    const Ready<T> ready(pack, nullptr);
    Gathered<T> gathered;
    each_class<T>([&](auto strips, auto rows) {
        const auto some = [&](auto... k) { gather_some<strips, rows>(pack, ready, image, stride, gathered, k...); };
        if constexpr (strips == 1)
            ready.each_two(class_of(strips, rows), some);
        else
            ready.each(class_of(strips, rows), some);
    });
    T last[PACK];
    for (int k = 0; k < pack.size; k += Simd<T>::lanes)
        store(last + k, load(pack.top + k) + (converted<T>(pack.rows + k) - 1));
    for (int index : {ready.ANY, ready.NOTHING})
        ready.each(index, [&](int k) { gather_any(pack, ready, k, image, stride, gathered), last[k] = 0; });
    for (int k = 0; k < pack.size; k += Simd<T>::lanes) {
        Vec<T> m[Gathered<T>::record];
        gathered.get(k, m);
        const Vec<T> from = load(last + k);
        store(moments[0] + k, m[M]);
        store(moments[1] + k, m[MX]);
        store(moments[2] + k, first_moment(m[M], m[MT], from));
        store(moments[3] + k, m[MXX]);
        store(moments[4] + k, first_moment(m[MX], m[MXT], from));
        store(moments[5] + k, second_moment(m[M], m[MT], m[MTT], from));
    }
}

// From moments to gradients. With K the inverse of the 2D covariance, M1 and M2 the first and second moments and
// alpha = weight norm:  d/dweight = norm M0,  d/dmu = alpha K M1 =: d,  d/dcov = alpha (K M2 K - M0 K) / 2 =: G; and
// d/dm = A^T d,  d/dS = A^T G A,  d/dA = d m^T + 2 G A S.
template <class T>
void chain(const T* world, const Pack<T>& pack, const View& view, const T (*moments)[PACK], T* gradient, T* turn) {
    T r[6];
    Vec<T> turned[6] = {};
    for (int i = 0; i < 6; i++) r[i] = T(view.row[i / 3][i % 3]);
    for (int k = 0; k < pack.size; k += Simd<T>::lanes) {
        const T unit = T(-1 / LOG2_E_HALF);
        const Vec<T> kxx = unit * load(pack.xx + k), kxy = unit / 2 * load(pack.xy + k), kyy = unit * load(pack.yy + k);
        const Vec<T> norm = load(pack.norm + k), alpha = norm * load(world + W * PACK + k), half = alpha / 2;
        const Vec<T> m0 = load(moments[0] + k), mx = load(moments[1] + k), my = load(moments[2] + k);
        const Vec<T> mxx = load(moments[3] + k), mxy = load(moments[4] + k), myy = load(moments[5] + k);
        const Vec<T> d[2] = {alpha * (kxx * mx + kxy * my), alpha * (kxy * mx + kyy * my)};
        const Vec<T> pxx = kxx * mxx + kxy * mxy - m0, pxy = kxx * mxy + kxy * myy;  // K M2 - M0
        const Vec<T> pyx = kxy * mxx + kyy * mxy, pyy = kxy * mxy + kyy * myy - m0;
        const Vec<T> gxx = half * (pxx * kxx + pxy * kxy), gxy = half * (pxx * kxy + pxy * kyy);
        const Vec<T> gyy = half * (pyx * kxy + pyy * kyy);
        const auto add = [&](int component, Vec<T> v) {
            T* to = gradient + component * PACK + k;
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
                const Vec<T> s = load(world + full[i][j] * PACK + k);
                u += r[i] * s, v += r[3 + i] * s;
            }
            const Vec<T> m = load(world + (X + j) * PACK + k);
            turned[j] += d[0] * m + 2 * (gxx * u + gxy * v);
            turned[3 + j] += d[1] * m + 2 * (gxy * u + gyy * v);
        }
    }
    if (turn)
        for (int i = 0; i < 6; i++) turn[i] = sum<T>(turned[i]);
}

template <class T>
void draw(const World<T>& world, int64_t begin, int64_t end, const View& view, const Grid& grid, const Canvas<T>& canvas, T* image) {
    std::memset(image, 0, canvas.size * sizeof(T));
    Pack<T> pack;
    for (int64_t j = begin; j < end; j++) {
        project(world.pack(j), world.size(j), view, grid, pack);
        splat_pack(pack, world.pack(j) + W * PACK, image, canvas.stride);
    }
}

template <class T>
void forward(const World<T>& world, const T* rotations, int64_t batch, const Grid& grid, int threads, T* images) {
    const Canvas<T> canvas(grid.box);
    // More threads than images: several share an image, each with its own part of the Gaussians and its own copy.
    const int parts = batch ? std::max<int64_t>(1, threads / batch) : 1;
    T* work = scratch<T>(IMAGES, (parts == 1 ? threads : batch * parts) * canvas.size);
    const auto put_row = [&](int64_t row, const T* from) {  // the sum of copies
        T* out = images + row * grid.box;
        std::memcpy(out, from, grid.box * sizeof(T));
        for (int part = 1; part < parts; part++)
            for (int x = 0; x < grid.box; x++) out[x] += from[part * canvas.size + x];
    };
#pragma omp parallel num_threads(threads)
    {
        const FlushToZero mode;
#pragma omp for schedule(static)
        for (int64_t task = 0; task < batch * parts; task++) {
            const int64_t i = task / parts, part = task % parts;
            T* image = work + (parts == 1 ? omp_get_thread_num() : task) * canvas.size;
            draw(world, world.packs * part / parts, world.packs * (part + 1) / parts, View(rotations + 9 * i, grid.spacing),
                 grid, canvas, image);
            for (int y = 0; parts == 1 && y < grid.box; y++) put_row(i * grid.box + y, image + y * canvas.stride);
        }
        if (parts > 1) {
#pragma omp for schedule(static)
            for (int64_t row = 0; row < batch * grid.box; row++)
                put_row(row, work + row / grid.box * parts * canvas.size + row % grid.box * canvas.stride);
        }
    }
}

// Add the gradients of one pack in some images to `gradient`; `turns`, if wanted, are those of the images' rotations.
template <class T>
void pack_gradients(const T* world, int size, const View* views, int64_t count, const Grid& grid, const Canvas<T>& canvas,
                    const T* images, T* gradient, double* turns) {
    Pack<T> pack;
    alignas(64) T moments[6][PACK];
    for (int64_t i = 0; i < count; i++) {
        project(world, size, views[i], grid, pack);
        gather_pack(pack, images + i * canvas.size, canvas.stride, moments);
        T turn[6];
        chain(world, pack, views[i], moments, gradient, turns ? turn : nullptr);
        for (int m = 0; turns && m < 6; m++) turns[6 * i + m] += turn[m];
    }
}

// Gradients of a pack, from the layout of World to that of the caller.
template <class T> void put_gradients(const T* g, int64_t count, T* d_means, T* d_covariances, T* d_weights) {
    for (int64_t i = 0; i < count; i++, g++, d_means += 3, d_covariances += 9) {
        for (int j = 0; j < 3; j++) d_means[j] = g[j * PACK];
        const T xy = g[XY * PACK], xz = g[XZ * PACK], yz = g[YZ * PACK];
        d_covariances[0] = g[XX * PACK], d_covariances[4] = g[YY * PACK], d_covariances[8] = g[ZZ * PACK];
        d_covariances[1] = d_covariances[3] = xy, d_covariances[2] = d_covariances[6] = xz;
        d_covariances[5] = d_covariances[7] = yz;
        d_weights[i] = g[W * PACK];
    }
}

constexpr int SHARES = 32;                    // of the Gaussians, whatever the number of threads
constexpr int64_t IMAGES_IN_CACHE = 1 << 18;  // bytes: what stays in the cache of a core beside the Gaussians
constexpr int64_t IMAGES_COPIED = 1 << 23;    // bytes: gradient images that are laid out for work at a time

// Threads take shares of the Gaussians, not of the images, and each Gaussian sums its gradients over the images in
// order: the same bits for any number of threads.
template <class T>
void backward(const World<T>& world, const T* rotations, int64_t batch, const Grid& grid, int threads, const T* images,
              T* d_means, T* d_covariances, T* d_weights, T* d_rotations) {
    const Canvas<T> canvas(grid.box);
    const auto images_in = [&](int64_t bytes) { return std::max<int64_t>(1, bytes / (canvas.size * sizeof(T))); };
    const int64_t copied = std::min(batch, images_in(IMAGES_COPIED)), together = images_in(IMAGES_IN_CACHE);
    std::vector<View> views;
    for (int64_t i = 0; i < batch; i++) views.emplace_back(rotations + 9 * i, grid.spacing);
    T* gradients = scratch<T>(GRADIENTS, world.packs * PACK_SIZE);
    T* copies = scratch<T>(IMAGES, copied * canvas.size);
    std::vector<double> turns(d_rotations ? SHARES * batch * 6 : 0);
#pragma omp parallel num_threads(threads)
    {
        const FlushToZero mode;
#pragma omp for schedule(static)
        for (int64_t j = 0; j < world.packs; j++) std::fill_n(gradients + j * PACK_SIZE, PACK_SIZE, T(0));
        for (int64_t start = 0; start < batch; start += copied) {
            const int64_t count = std::min(copied, batch - start);
#pragma omp for schedule(static)
            for (int64_t row = 0; row < count * grid.box; row++) {
                T* to = copies + row * canvas.stride;
                std::memcpy(to, images + (start * grid.box + row) * grid.box, grid.box * sizeof(T));
                std::fill(to + grid.box, to + canvas.stride, T(0));
            }
#pragma omp for schedule(dynamic)
            for (int share = 0; share < SHARES; share++) {
                const int64_t from = world.packs * share / SHARES, to = world.packs * (share + 1) / SHARES;
                for (int64_t i = 0; i < count; i += together) {
                    double* turn = d_rotations ? turns.data() + (share * batch + start + i) * 6 : nullptr;
                    for (int64_t j = from; j < to; j++)
                        pack_gradients(world.pack(j), world.size(j), views.data() + start + i, std::min(together, count - i),
                                       grid, canvas, copies + i * canvas.size, gradients + j * PACK_SIZE, turn);
                }
            }
        }
#pragma omp for schedule(static)
        for (int64_t j = 0; j < world.packs; j++)
            put_gradients(gradients + j * PACK_SIZE, std::min<int64_t>(PACK, world.n - j * PACK), d_means + 3 * PACK * j,
                          d_covariances + 9 * PACK * j, d_weights + PACK * j);
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
    Pack<T> pack;
    for (int64_t i = 0; i < batch; i++)
        for (int64_t j = 0; j < world.n; j++, bounds += 4) {
            const int k = j % PACK;
            if (k == 0) project(world.pack(j / PACK), PACK, View(rotations + 9 * i, grid.spacing), grid, pack);
            const bool seen = pack.columns[k];
            bounds[0] = seen ? pack.x[k] : 0, bounds[1] = seen ? pack.x[k] + pack.columns[k] : 0;
            bounds[2] = seen ? pack.y[k] : 0, bounds[3] = seen ? pack.y[k] + pack.rows[k] : 0;
        }
}

}  // namespace

// Arrays are C-contiguous, shapes and units those of rendering/__init__.py; `squared_cutoff` is DBL_MAX for none.
// Returns 0, or 1 where memory ran out, or 2 where an input is not finite.
#define ENTRY_POINTS(T, SUFFIX)                                                                                        \
    int project_forward_##SUFFIX(const T* means, const T* covariances, const T* weights, const T* rotations,           \
                                 int64_t n, int64_t batch, int box, double spacing, double squared_cutoff,             \
                                 int threads, T* images) try {                                                         \
        const World<T> world(means, covariances, weights, n, threads);                                                 \
        const auto is_finite = [](T x) { return std::isfinite(x); };                                                   \
        if (!world.finite || !std::all_of(rotations, rotations + 9 * batch, is_finite)) return 2;                      \
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
        const World<T> world(means, covariances, weights, n, threads);                                                 \
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
        bounds_of(World<T>(means, covariances, weights, n, 1), rotations, batch, {box, spacing, squared_cutoff},       \
                  bounds);                                                                                             \
    }

extern "C" {
ENTRY_POINTS(float, float32)
ENTRY_POINTS(double, float64)
}
