// A mixture from its parameters, and one step of Adam on them: softplus, quaternions to covariances, the chain rule back
// to the eleven parameters and the update, each number read and written once. gaussians/optimiser.py says what the parameters are.
//
// Parameters, and Adam's two moments, come in blocks of sixteen Gaussians, each of eleven rows: means, scales, quaternions
// (w x y z), weight. Memory is read from end to end that way; eleven long rows of each were too many places at a time.

#include "simd.h"

namespace {

using F = Vec<float>;
constexpr int LANES = Simd<float>::lanes;
constexpr int BLOCK = 16;
enum { MEAN = 0, SCALE = 3, QUATERNION = 6, WEIGHT = 10, ROWS = 11 };

// Where the first row of Gaussians from k lies.
INLINE int64_t place(int64_t k) { return k / BLOCK * (BLOCK * ROWS) + k % BLOCK; }

// softplus(x) = max(x, 0) + log(1 + u) with u = exp(-|x|), and its derivative. log(1 + u) / u is a polynomial fitted on
// [0, 1]: relative error 2e-7 however small u is.
struct Softplus {
    F value, slope;

    INLINE explicit Softplus(F x) {
        const F u = exp2_below(magnitude(x) * -1.44269504088896f);
        F ratio = fill(-0.00317605701f);
        for (float c : {0.0195425283f, -0.0563736148f, 0.105436236f, -0.152696669f, 0.196632743f, -0.249516159f, 0.333297104f,
                        -0.499998927f, 1.f})
            ratio = ratio * u + c;
        value = larger(x, F{}) + u * ratio;
        slope = (x < 0 ? u : fill(1.f)) / (1 + u);
    }
};

// What parameters stand for (gaussians/parameters.py): scales at least `minimum`, floor_squared on the covariances' diagonals, and
// weights of a kind; ISOTROPIC, the three scales are one parameter, kept three times.
enum { PEAK = 1, SIGNED = 2, ISOTROPIC = 4 };
struct Parameterisation {
    float floor_squared, minimum, share;  // share: one over the number of Gaussians
    int kind;
};

// Some Gaussians as an optimiser sees them: rotation, scales and their slopes, weight (integral) and its slope.
struct Shape {
    F unit[4], inverse_norm, r[3][3], scale[3], scale_slope[3], weight, weight_slope;

    INLINE Shape(const float* p, const Parameterisation& meaning) {
        F q[4], square{};
        for (int i = 0; i < 4; i++) q[i] = load(p + (QUATERNION + i) * BLOCK), square += q[i] * q[i];
        inverse_norm = 1 / root(square);
        for (int i = 0; i < 4; i++) unit[i] = q[i] * inverse_norm;
        const F w = unit[0], x = unit[1], y = unit[2], z = unit[3];
        r[0][0] = 1 - 2 * (y * y + z * z), r[0][1] = 2 * (x * y - w * z), r[0][2] = 2 * (x * z + w * y);
        r[1][0] = 2 * (x * y + w * z), r[1][1] = 1 - 2 * (x * x + z * z), r[1][2] = 2 * (y * z - w * x);
        r[2][0] = 2 * (x * z - w * y), r[2][1] = 2 * (y * z + w * x), r[2][2] = 1 - 2 * (x * x + y * y);
        for (int i = 0; i < 3; i++) {
            const Softplus s(load(p + (SCALE + i) * BLOCK));
            scale[i] = larger(s.value, fill(meaning.minimum));
            scale_slope[i] = s.value < meaning.minimum ? F{} : s.slope;
        }
        const F raw = load(p + WEIGHT * BLOCK);
        if (meaning.kind & SIGNED) {
            weight = raw * meaning.share, weight_slope = fill(meaning.share);
        } else {
            const Softplus s(raw);
            weight = s.value, weight_slope = s.slope;
        }
        if (meaning.kind & PEAK) {  // the parameter is of the height: (2 pi)^(3/2) times the widths is the integral of 1
            F volume = fill(15.7496099457224f);
            for (int i = 0; i < 3; i++) volume *= root(scale[i] * scale[i] + meaning.floor_squared);
            weight *= volume, weight_slope *= volume;
        }
    }
};

// The COUNT numbers of each of LANES Gaussians lie in rows of COUNT floats; here they are columns. Of the last vector of
// Gaussians only m exist: these go by way of a copy. Whole vectors are turned, the rest goes number by number.
template <int COUNT> INLINE void get_columns(const float* rows, int64_t m, F* columns) {
    float copy[COUNT * LANES];
    if (m < LANES) {
        std::memset(copy, 0, sizeof(copy));
        std::memcpy(copy, rows, m * COUNT * sizeof(float));
        rows = copy;
    }
    constexpr int turned = COUNT / LANES * LANES;
    for (int j = 0; j < turned; j += LANES) {
        for (int i = 0; i < LANES; i++) columns[j + i] = load(rows + i * COUNT + j);
        transpose<float>(columns + j);
    }
    for (int j = turned; j < COUNT; j++)
        for (int i = 0; i < LANES; i++) columns[j][i] = rows[i * COUNT + j];
}
// Overwrites columns.
template <int COUNT> INLINE void put_columns(float* rows, int64_t m, F* columns) {
    float copy[COUNT * LANES];
    float* to = m < LANES ? copy : rows;
    constexpr int turned = COUNT / LANES * LANES;
    for (int j = 0; j < turned; j += LANES) {
        transpose<float>(columns + j);
        for (int i = 0; i < LANES; i++) store(to + i * COUNT + j, columns[j + i]);
    }
    for (int j = turned; j < COUNT; j++)
        for (int i = 0; i < LANES; i++) to[i * COUNT + j] = columns[j][i];
    if (m < LANES) std::memcpy(rows, copy, m * COUNT * sizeof(float));
}

// From gradients of covariances R diag(s^2) R^T (both halves counted) to those of scales and unnormalised quaternions.
INLINE void chain(const Shape& shape, const F (&g)[3][3], F* d_scale, F* d_quaternion) {
    F d[3][3];  // of R
    for (int c = 0; c < 3; c++) {
        F along{};
        for (int i = 0; i < 3; i++) {
            const F gr = g[i][0] * shape.r[0][c] + g[i][1] * shape.r[1][c] + g[i][2] * shape.r[2][c];
            along += shape.r[i][c] * gr;
            d[i][c] = 2 * shape.scale[c] * shape.scale[c] * gr;
        }
        d_scale[c] = 2 * shape.scale[c] * along * shape.scale_slope[c];
    }
    const F w = shape.unit[0], x = shape.unit[1], y = shape.unit[2], z = shape.unit[3];
    const F xy = d[0][1] + d[1][0], xz = d[0][2] + d[2][0], yz = d[1][2] + d[2][1];
    const F turn_x = d[2][1] - d[1][2], turn_y = d[0][2] - d[2][0], turn_z = d[1][0] - d[0][1];
    const F along[4] = {x * turn_x + y * turn_y + z * turn_z,
                        w * turn_x + y * xy + z * xz - 2 * x * (d[1][1] + d[2][2]),
                        w * turn_y + x * xy + z * yz - 2 * y * (d[0][0] + d[2][2]),
                        w * turn_z + x * xz + y * yz - 2 * z * (d[0][0] + d[1][1])};
    F radial{};
    for (int i = 0; i < 4; i++) radial += along[i] * shape.unit[i];
    for (int i = 0; i < 4; i++) d_quaternion[i] = 2 * shape.inverse_norm * (along[i] - radial * shape.unit[i]);
}

// What the gradient of weights adds to that of scales, where weights are heights.
INLINE void chain_of_heights(const Shape& shape, const Parameterisation& meaning, F d_weight, F* d_scale) {
    for (int c = 0; c < 3; c++) {
        const F square = larger(shape.scale[c] * shape.scale[c] + meaning.floor_squared, fill(1e-30f));
        d_scale[c] += d_weight * shape.weight * (shape.scale[c] / square) * shape.scale_slope[c];
    }
}

// One parameter kept three times has one gradient, the sum; a sphere can turn as it likes.
INLINE void tie(F* d_scale, F* d_quaternion) {
    const F sum = d_scale[0] + d_scale[1] + d_scale[2];
    for (int c = 0; c < 3; c++) d_scale[c] = sum;
    for (int i = 0; i < 4; i++) d_quaternion[i] = F{};
}

}  // namespace

extern "C" {

// means (n, 3), covariances (n, 3, 3), weights (n): integrals.
void mixture(const float* parameters, int64_t n, float floor_squared, float minimum, int kind, int threads, float* means,
             float* covariances, float* weights) {
    const Parameterisation meaning{floor_squared, minimum, 1.f / n, kind};
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t k = 0; k < n; k += LANES) {
        const float* p = parameters + place(k);
        const int64_t m = n - k;
        const Shape shape(p, meaning);
        F mean[3], covariance[9], half[3][3], weight[1] = {shape.weight};
        for (int i = 0; i < 3; i++) {
            mean[i] = load(p + (MEAN + i) * BLOCK);
            for (int c = 0; c < 3; c++) half[i][c] = shape.r[i][c] * shape.scale[c];
            for (int j = 0; j <= i; j++) {
                F sum = fill(i == j ? floor_squared : 0.f);
                for (int c = 0; c < 3; c++) sum += half[i][c] * half[j][c];
                covariance[3 * i + j] = covariance[3 * j + i] = sum;
            }
        }
        put_columns<3>(means + 3 * k, m, mean);
        put_columns<9>(covariances + 9 * k, m, covariance);
        put_columns<1>(weights + k, m, weight);
    }
}

// One step of Adam: first and second are its moments, rates those of the eleven rows with the correction of the first
// moment's bias worked in, bias that of the second.
void adam_step(float* parameters, float* first, float* second, int64_t n, float floor_squared, float minimum, int kind,
               int threads, const float* d_means, const float* d_covariances, const float* d_weights, const float* rates,
               float beta1, float beta2, float bias, float epsilon) {
    const Parameterisation meaning{floor_squared, minimum, 1.f / n, kind};
#pragma omp parallel num_threads(threads)
    {
    const FlushToZero mode;
#pragma omp for schedule(static)
    for (int64_t k = 0; k < n; k += LANES) {
        const int64_t m = n - k;
        const Shape shape(parameters + place(k), meaning);
        F gradient[ROWS], given[9], g[3][3];
        get_columns<3>(d_means + 3 * k, m, gradient + MEAN);
        get_columns<9>(d_covariances + 9 * k, m, given);
        get_columns<1>(d_weights + k, m, gradient + WEIGHT);
        for (int i = 0; i < 3; i++)
            for (int j = 0; j <= i; j++) g[i][j] = g[j][i] = (given[3 * i + j] + given[3 * j + i]) / 2;
        chain(shape, g, gradient + SCALE, gradient + QUATERNION);
        if (kind & PEAK) chain_of_heights(shape, meaning, gradient[WEIGHT], gradient + SCALE);
        if (kind & ISOTROPIC) tie(gradient + SCALE, gradient + QUATERNION);
        gradient[WEIGHT] *= shape.weight_slope;
        for (int row = 0; row < ROWS; row++) {
            const int64_t at = place(k) + row * BLOCK;
            const F v = beta2 * load(second + at) + (1 - beta2) * gradient[row] * gradient[row];
            const F u = beta1 * load(first + at) + (1 - beta1) * gradient[row];
            store(first + at, u), store(second + at, v);
            store(parameters + at, load(parameters + at) - rates[row] * u / (root(v * bias) + epsilon));
        }
    }
}
}
}
