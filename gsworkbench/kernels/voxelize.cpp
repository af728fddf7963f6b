// Volumes of Gaussians and their gradients: voxelize() of gsworkbench.rendering on the CPU.
//
// A footprint is a stack of planes z; each plane of it is visited in strips down y, as an image is. Forward gives each
// thread a slab of planes, of about equal work, so that no two write the same voxel; backward gathers the moments of
// each Gaussian by itself. Both give the same bits for any number of threads.

#include <new>
#include <type_traits>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "footprint.h"
#include "strip.h"

namespace {

// A Gaussian on the grid. Exponent in base 2 at d voxels from the centre: -sum_ij k_ij d_i d_j, of which k holds
// xx xy xz yy yz zz with off-diagonal pairs added; corner is d at the first voxel; norm is 1 / sqrt(det(2 pi S)).
template <class T> struct Footprint {
    T corner[3], k[6], q, norm, weight;
    int first[3], count[3];  // axis order x y z; all counts are 0 where no voxel is reached
    int64_t gaussian;        // whose it is
    bool exact;
};

template <class T> Footprint<T> footprint(const T* mean, const T* covariance, T weight, const Grid& grid) {
    Footprint<T> out = {};
    const double area = grid.spacing * grid.spacing;
    double s[9], far[3], k[6];
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) s[3 * i + j] = (double(covariance[3 * i + j]) + covariance[3 * j + i]) / 2 / area;
    const double xx = s[4] * s[8] - s[5] * s[5], xy = s[2] * s[5] - s[1] * s[8], xz = s[1] * s[5] - s[2] * s[4];
    const double determinant = s[0] * xx + s[1] * xy + s[2] * xz, inverse = 1 / determinant;
    bool seen = inverse > 0 && inverse < 1e36;  // a singular covariance has no density: left out
    for (int i = 0; i < 3; i++) {
        const double centre = mean[i] / grid.spacing + grid.box / 2;
        Vec<double> first, last;
        reached(fill(centre), fill(s[4 * i]), grid, first, last);
        out.first[i] = int(first[0]);
        out.count[i] = int(last[0] - first[0]);
        out.corner[i] = T(first[0] - centre);
        far[i] = std::max(std::abs(first[0] - centre), std::abs(last[0] - 1 - centre));
        seen = seen && out.count[i] > 0;
    }
    if (!seen) {
        std::fill_n(out.count, 3, 0);
        return out;
    }
    k[0] = xx, k[1] = 2 * xy, k[2] = 2 * xz;
    k[3] = s[0] * s[8] - s[2] * s[2], k[4] = 2 * (s[1] * s[2] - s[0] * s[5]), k[5] = s[0] * s[4] - s[1] * s[1];
    for (int i = 0; i < 6; i++) out.k[i] = T(k[i] * inverse * LOG2_E_HALF);
    out.q = T(std::exp2(-2 * k[3] * inverse * LOG2_E_HALF));
    out.norm = T(1) / T(TWO_PI * std::sqrt(TWO_PI) * area * grid.spacing) * std::sqrt(T(inverse));
    out.weight = weight;
    double start = 0;
    for (int i = 0, pair = 0; i < 3; i++)
        for (int j = i; j < 3; j++) start += std::abs(out.k[pair++]) * far[i] * far[j];
    const double slope = std::abs(out.k[1]) * far[0] + std::abs(out.k[4]) * far[2] + out.k[3] * (2 * far[1] + 1);
    out.exact = start > RANGE || slope > RANGE;
    return out;
}

template <class T> INLINE Strip<T> strip(const Footprint<T>& f, Vec<T> dx, T dz, Int<T> inside) {
    return {-(f.k[0] * dx + f.k[2] * dz) * dx - f.k[5] * dz * dz,
            -f.k[1] * dx - f.k[4] * dz, -f.k[3], f.q, f.corner[1], f.count[1], inside, f.exact};
}

template <class T> INLINE Vec<T> offsets(const Footprint<T>& f, int start) {
    return __builtin_convertvector(lane_numbers<T>() + (start - f.first[0]), Vec<T>) + f.corner[0];
}

// Volumes with rows of `width` samples, not less than a vector.
template <class T> struct Volume {
    T* data;
    int box, width;
    T* row(int z, int y) const { return data + (int64_t(z) * box + y) * width; }
};

// Whether one run of the recurrence draws a strip.
template <class T> INLINE bool is_simple(const Footprint<T>& f) {
    return std::is_same_v<T, float> && !f.exact && f.count[1] <= CHUNK;
}

// Add planes z0 <= z < z1 of one Gaussian.
template <bool SIMPLE, class T> void splat_one(const Footprint<T>& f, int z0, int z1, const Volume<T>& volume) {
    const T amplitude = f.norm * f.weight;
    const int end = z0 < z1 ? f.first[0] + f.count[0] : 0;
    for (int x = f.first[0]; x < end; x += Simd<T>::lanes) {
        const Cover<T> cover(x, end, volume.width);
        const Vec<T> dx = offsets(f, cover.start);
        for (int z = z0; z < z1; z++) {
            const Strip<T> s = strip(f, dx, f.corner[2] + (z - f.first[2]), cover.inside);
            T* samples = volume.row(z, f.first[1]) + cover.start;
            if constexpr (SIMPLE)
                splat_rows(rows_from(s, s.y0), s.rows, amplitude, samples, volume.width);
            else
                splat(s, amplitude, samples, volume.width);
        }
    }
}

// Moments of the gradient volume under one Gaussian of height 1: g times 1, x y z, xx xy xz yy yz zz.
template <bool SIMPLE, class T> void gather_one(const Footprint<T>& f, const Volume<const T>& volume, T* moments) {
    Vec<T> m[10] = {};
    const int end = f.first[0] + f.count[0];
    const Vec<T> last = SIMPLE ? fill(f.corner[1] + T(f.count[1] - 1)) : Vec<T>{};
    for (int x = f.first[0]; x < end; x += Simd<T>::lanes) {
        const Cover<T> cover(x, end, volume.width);
        const Vec<T> dx = offsets(f, cover.start);
        Vec<T> g{}, gt{}, gtt{}, gz{}, gtz{};  // sums over planes; t as in strip.h
        for (int z = 0; z < f.count[2]; z++) {
            const T dz = f.corner[2] + z;
            const Strip<T> s = strip(f, dx, dz, cover.inside);
            const T* samples = volume.row(f.first[2] + z, f.first[1]) + cover.start;
            Moments<T> plane;
            if constexpr (SIMPLE)
                gather_rows(rows_from(s, s.y0), s.rows, samples, volume.width, &plane);
            else
                plane = gather(s, samples, volume.width);
            const Vec<T> by_z = plane.zeroth * dz;
            g += plane.zeroth, gt += plane.first, gtt += plane.second;
            gz += by_z, gtz += plane.first * dz, m[9] += by_z * dz;
        }
        const Vec<T> gy = first_moment(g, gt, last);
        m[0] += g, m[1] += g * dx, m[2] += gy, m[3] += gz;
        m[4] += g * dx * dx, m[5] += gy * dx, m[6] += gz * dx;
        m[7] += second_moment(g, gt, gtt, last), m[8] += first_moment(gz, gtz, last);
    }
    for (int i = 0; i < 10; i++) moments[i] = sum<T>(m[i]);
}

// With K the inverse covariance, M1 and M2 the moments and alpha = weight norm: d/dmean = alpha K M1,
// d/dS = alpha (K M2 K - M0 K) / 2, d/dweight = norm M0.
template <class T>
void chain(const Footprint<T>& f, const T* m, const Grid& grid, T* d_mean, T* d_covariance, T* d_weight) {
    const T unit = T(1 / LOG2_E_HALF), alpha = f.norm * f.weight;
    const T xy = f.k[1] / 2 * unit, xz = f.k[2] / 2 * unit, yz = f.k[4] / 2 * unit;
    const T k[3][3] = {{f.k[0] * unit, xy, xz}, {xy, f.k[3] * unit, yz}, {xz, yz, f.k[5] * unit}};
    const T second[3][3] = {{m[4], m[5], m[6]}, {m[5], m[7], m[8]}, {m[6], m[8], m[9]}};
    T product[3][3];  // K M2 - M0
    for (int i = 0; i < 3; i++) {
        d_mean[i] = alpha * (k[i][0] * m[1] + k[i][1] * m[2] + k[i][2] * m[3]) / T(grid.spacing);
        for (int j = 0; j < 3; j++)
            product[i][j] = k[i][0] * second[0][j] + k[i][1] * second[1][j] + k[i][2] * second[2][j] - (i == j ? m[0] : 0);
    }
    const T half = alpha / T(2 * grid.spacing * grid.spacing);
    for (int i = 0; i < 3; i++)
        for (int j = i; j < 3; j++)
            d_covariance[3 * i + j] = d_covariance[3 * j + i] =
                half * (product[i][0] * k[0][j] + product[i][1] * k[1][j] + product[i][2] * k[2][j]);
    *d_weight = f.norm * m[0];
}

// Planes at which slabs begin: `threads` slabs of about equal numbers of strips.
template <class T> std::vector<int> slabs(const std::vector<Footprint<T>>& footprints, int box, int threads) {
    std::vector<double> work(box + 1);
    for (const Footprint<T>& f : footprints) {
        const double strips = f.count[1] * double((f.count[0] + Simd<T>::lanes - 1) / Simd<T>::lanes);
        work[f.first[2]] += strips, work[f.first[2] + f.count[2]] -= strips;
    }
    double total = 0, sum = 0, height = 0;
    for (const Footprint<T>& f : footprints)
        total += f.count[2] * double(f.count[1]) * ((f.count[0] + Simd<T>::lanes - 1) / Simd<T>::lanes);
    std::vector<int> begins(threads + 1, box);
    begins[0] = 0;
    for (int z = 0, slab = 1; z < box; z++) {
        height += work[z], sum += height;
        while (slab < threads && sum >= total * slab / threads && total > 0) begins[slab++] = z + 1;
    }
    return begins;
}

// Gaussians by cubes of 16 voxels, which stay in cache while their Gaussians are visited; in a cube by number. A
// volume of any size is otherwise fetched again and again: this halves the time at 256^3.
template <class T> std::vector<int64_t> by_cubes(const T* means, int64_t n, const Grid& grid) {
    constexpr int edge = 16;
    const int cubes = (grid.box + edge - 1) / edge;
    const auto cube = [&](T x) {
        const double voxel = x / grid.spacing + grid.box / 2;
        return voxel > 0 ? int(std::min(voxel, grid.box - 1.0)) / edge : 0;
    };
    std::vector<int> key(n);
    std::vector<int64_t> begin(int64_t(cubes) * cubes * cubes + 1), order(n);
    for (int64_t i = 0; i < n; i++) {
        key[i] = (cube(means[3 * i + 2]) * cubes + cube(means[3 * i + 1])) * cubes + cube(means[3 * i]);
        begin[key[i] + 1]++;
    }
    for (size_t i = 1; i < begin.size(); i++) begin[i] += begin[i - 1];
    for (int64_t i = 0; i < n; i++) order[begin[key[i]]++] = i;
    return order;
}

template <class T>
std::vector<Footprint<T>> all_footprints(const T* means, const T* covariances, const T* weights, int64_t n,
                                         const Grid& grid, int threads) {
    const std::vector<int64_t> order = by_cubes(means, n, grid);
    std::vector<Footprint<T>> footprints(n);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t j = 0; j < n; j++) {
        const int64_t i = order[j];
        footprints[j] = footprint(means + 3 * i, covariances + 9 * i, weights[i], grid);
        footprints[j].gaussian = i;
    }
    return footprints;
}

// Ask for large pages: fresh memory for a volume is otherwise given out 4 KiB at a time, which takes longer than to
// fill it with Gaussians.
void use_large_pages(void* data, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    const uintptr_t page = 1 << 21, begin = (reinterpret_cast<uintptr_t>(data) + page - 1) & ~(page - 1);
    const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) & ~(page - 1);
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

template <class T>
void forward(const std::vector<Footprint<T>>& footprints, const Grid& grid, int threads, T* out) {
    const int width = working_width<T>(grid.box);
    std::vector<T> wider(width == grid.box ? 0 : int64_t(grid.box) * grid.box * width);
    const Volume<T> volume = {width == grid.box ? out : wider.data(), grid.box, width};
    use_large_pages(volume.data, int64_t(grid.box) * grid.box * width * sizeof(T));
    const std::vector<int> begins = slabs(footprints, grid.box, threads);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int slab = 0; slab < threads; slab++) {
        const FlushToZero mode;
        const int z0 = begins[slab], z1 = begins[slab + 1];
        std::memset(volume.row(z0, 0), 0, int64_t(z1 - z0) * grid.box * width * sizeof(T));
        for (const Footprint<T>& f : footprints)
            (is_simple(f) ? splat_one<true, T> : splat_one<false, T>)(
                f, std::max(z0, f.first[2]), std::min(z1, f.first[2] + f.count[2]), volume);
    }
    if (width > grid.box)
        for (int64_t row = 0; row < int64_t(grid.box) * grid.box; row++)
            std::copy_n(wider.data() + row * width, grid.box, out + row * grid.box);
}

template <class T>
void backward(const std::vector<Footprint<T>>& footprints, const Grid& grid, int threads, const T* in, T* d_means,
              T* d_covariances, T* d_weights) {
    const int width = working_width<T>(grid.box);
    std::vector<T> wider(width == grid.box ? 0 : int64_t(grid.box) * grid.box * width);
    if (width > grid.box) {
        for (int64_t row = 0; row < int64_t(grid.box) * grid.box; row++)
            std::copy_n(in + row * grid.box, grid.box, wider.data() + row * width);
        in = wider.data();
    }
    const Volume<const T> volume = {in, grid.box, width};
    const int64_t n = footprints.size();
#pragma omp parallel num_threads(threads)
    {
        const FlushToZero mode;
#pragma omp for schedule(dynamic, 64)
        for (int64_t j = 0; j < n; j++) {
            T moments[10];
            (is_simple(footprints[j]) ? gather_one<true, T> : gather_one<false, T>)(footprints[j], volume, moments);
            const int64_t i = footprints[j].gaussian;
            chain(footprints[j], moments, grid, d_means + 3 * i, d_covariances + 9 * i, d_weights + i);
        }
    }
}

}  // namespace

// Arrays are C-contiguous, shapes and units those of rendering/__init__.py; `squared_cutoff` is DBL_MAX for none.
// Returns 0, or 1 where memory ran out.
#define ENTRY_POINTS(T, SUFFIX)                                                                                        \
    int voxelize_forward_##SUFFIX(const T* means, const T* covariances, const T* weights, int64_t n, int box,          \
                                  double spacing, double squared_cutoff, int threads, T* volume) try {                 \
        const Grid grid = {box, spacing, squared_cutoff};                                                              \
        forward(all_footprints(means, covariances, weights, n, grid, threads), grid, threads, volume);                 \
        return 0;                                                                                                      \
    } catch (const std::bad_alloc&) {                                                                                  \
        return 1;                                                                                                      \
    }                                                                                                                  \
                                                                                                                       \
    int voxelize_backward_##SUFFIX(const T* means, const T* covariances, const T* weights, int64_t n, int box,         \
                                   double spacing, double squared_cutoff, int threads, const T* volume, T* d_means,    \
                                   T* d_covariances, T* d_weights) try {                                               \
        const Grid grid = {box, spacing, squared_cutoff};                                                              \
        backward(all_footprints(means, covariances, weights, n, grid, threads), grid, threads, volume, d_means,        \
                 d_covariances, d_weights);                                                                            \
        return 0;                                                                                                      \
    } catch (const std::bad_alloc&) {                                                                                  \
        return 1;                                                                                                      \
    }                                                                                                                  \
                                                                                                                       \
    void voxelize_bounds_##SUFFIX(const T* means, const T* covariances, const T* weights, int64_t n, int box,          \
                                  double spacing, double squared_cutoff, int32_t* bounds) {                            \
        for (const auto& f : all_footprints(means, covariances, weights, n, {box, spacing, squared_cutoff}, 1))        \
            for (int i = 0; i < 3; i++) {                                                                              \
                int32_t* to = bounds + 6 * f.gaussian + 2 * i;                                                         \
                to[0] = f.count[i] ? f.first[i] : 0;                                                                   \
                to[1] = f.count[i] ? f.first[i] + f.count[i] : 0;                                                      \
            }                                                                                                          \
    }

extern "C" {
ENTRY_POINTS(float, float32)
ENTRY_POINTS(double, float64)
}
