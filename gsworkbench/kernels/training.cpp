// Steps of the papers' trainer on mini-batches, many in one call: projections, residual, gradients, Adam.
//
// methods/stochastic_fit.py has the same loop in Python, a step at a time, and is the reference. Projections, gradients
// and Adam are the functions of project.cpp, tiles.cpp and optimiser.cpp, of which the caller hands over the addresses;
// here are the residual (CTF^2 made anew for each particle, from nine numbers), what the ablations do to a projection,
// and the order in which everything is called.

#include <limits>
#include <vector>

#include "fourier.h"

namespace {

constexpr double ROUNDER = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer

struct Functions {
    void (*mixture)(const float*, int64_t, float, float, int, int, float*, float*, float*);
    int (*forward)(const float*, const float*, const float*, const float*, int64_t, int64_t, int, double, double, int, float*);
    int (*backward)(const float*, const float*, const float*, const float*, int64_t, int64_t, int, double, double, int,
                    const float*, float*, float*, float*, float*);
    void (*adam_step)(float*, float*, float*, int64_t, float, float, int, int, const float*, const float*, const float*,
                      const float*, float, float, float, float);
    int64_t (*tiled_forward)(const float*, const int64_t*, int64_t, int, float, float*);
    void (*tiled_backward)(const float*, const int64_t*, int64_t, int, float, int, const float*, float*);
};

constexpr int ROWS = 11;  // of parameters, as optimiser.cpp has them

struct Settings {
    int64_t n;                                      // Gaussians
    int32_t box, threads, kind, same_height;        // same_height: as high in every view
    float floor_squared, minimum, skip_below, blur; // blur: px^2 along y, unknown to the gradient
    float image_scale, beta1, beta2, epsilon;
    float rates[ROWS];
    double cutoff, squared_cutoff;
};

struct Particles {
    const float *images, *energy, *spectrum;  // b and |y|^2, and the weight of components as an rfft2 has them
    const float* rotations;                   // (particles, 3, 3)
    const double* phase;                      // (particles, 5) CTF phase in turns: of kx^2, kx ky, ky^2, k^4 and 1
    const double *scale, *decay;              // CTF *= scale exp(-decay k^2)
};

// sin^2(2 pi t) for |t| <= 1/2, error 2e-6.
INLINE Vec<float> square_sine_of_turns(Vec<float> t) {
    const Vec<float> z = t * t;
    Vec<float> p = fill(3.20582939f);
    for (float c : {-14.8737828f, 42.0178586f, -76.7018209f, 81.605046f, -41.3416978f, 6.28318528f}) p = p * z + c;
    p *= t;
    return p * p;
}

// CTF^2 of a particle, and what else a filter multiplies components by. Frequencies are in cycles per box.
class Transfer {
    static constexpr int LANES = Simd<float>::lanes;
    const int box, half, stride;
    Aligned<float> weight;  // the spectrum, laid out as the filter's kernel
    std::vector<double> ky, ky2;

public:
    Transfer(int box, int stride, const float* spectrum)
        : box(box), half(box / 2), stride(stride), weight(int64_t(box) * stride), ky(stride), ky2(stride) {
        for (int y = 0; y < stride; y++) ky[y] = y, ky2[y] = double(y) * y;
        // It depends on |kx| and |ky| alone, and has ky in rows: kx and ky change places.
        for (int x = 0; x < box; x++)
            for (int y = 0; y <= half; y++) weight[int64_t(x) * stride + y] = spectrum[int64_t(x) * (half + 1) + y];
    }

    void fill_in(const double* phase, double scale, double decay, float blur, float* kernel) const {
        for (int x = 0; x < box; x++) {
            const double kx = x <= half ? x : x - box;
            float* to = kernel + int64_t(x) * stride;
            squares(kx, phase, float(scale * scale), decay, to);
            if (x == half) {  // -box / 2 and box / 2 are one component: a real image has the mean of both
                Aligned<float> other(stride);
                squares(-kx, phase, float(scale * scale), decay, other.data());
                for (int y = 0; y < half; y++) to[y] = (to[y] + other[y]) / 2;
            }
            // Of ky = box / 2 an rfft2 keeps kx >= 0, with -ky.
            to[half] = one(std::fabs(kx), -double(half), phase, scale, decay);
            for (int y = 0; y < stride; y += LANES) store(to + y, load(to + y) * load(&weight[int64_t(x) * stride + y]));
        }
        if (blur != 0) blur_in_y(blur, kernel);
    }

    void blur_in_y(float variance, float* kernel) const {
        for (int y = 0; y <= half; y++) {
            const float factor = float(std::exp(-2 * M_PI * M_PI * variance * ky2[y] / (double(box) * box)));
            for (int x = 0; x < box; x++) kernel[int64_t(x) * stride + y] *= factor;
        }
    }

private:
    static float one(double kx, double ky, const double* p, double scale, double decay) {
        const double k2 = kx * kx + ky * ky;
        double t = p[0] * kx * kx + p[1] * kx * ky + p[2] * ky * ky + p[3] * k2 * k2 + p[4];
        t -= (t + ROUNDER) - ROUNDER;
        const double value = scale * std::sin(2 * M_PI * t) * std::exp(-decay * k2);
        return float(value * value);
    }

    void squares(double kx, const double* p, float square_scale, double decay, float* to) const {
        constexpr int doubles = Simd<double>::lanes;
        const double kx2 = kx * kx, constant = p[0] * kx2 + p[3] * kx2 * kx2 + p[4];
        const double linear = p[1] * kx, square = p[2] + 2 * p[3] * kx2;
        alignas(64) float turns[LANES];
        for (int y = 0; y < stride; y += LANES) {
            for (int i = 0; i < LANES; i += doubles) {
                const Vec<double> k2 = load(ky2.data() + y + i);
                Vec<double> t = constant + linear * load(ky.data() + y + i) + (square + p[3] * k2) * k2;
                t -= (t + ROUNDER) - ROUNDER;
                narrow(turns + i, t);
            }
            store(to + y, square_scale * square_sine_of_turns(load(turns)));
        }
        if (decay != 0)
            for (int y = 0; y <= half; y++) to[y] *= float(std::exp(-2 * decay * (kx2 + ky2[y])));
    }
};

// Gaussians of tiles.cpp: x y a b c height and half widths, in pixels; and the way back to the mixture.
class Tiled {
    const Functions& call;
    const Settings& with;
    std::vector<float> table, derivatives;
    std::vector<int64_t> listed;

public:
    Tiled(const Functions& call, const Settings& with) : call(call), with(with), table(8 * with.n), derivatives(6 * with.n), listed(with.n) {
        for (int64_t i = 0; i < with.n; i++) listed[i] = i;
    }

    void forward(const float* means, const float* covariances, const float* weights, const float* rotation, float* image) {
        for (int64_t i = 0; i < with.n; i++) {
            const View view(rotation, covariances + 9 * i, with.box);
            const float* m = means + 3 * i;
            float* g = &table[8 * i];
            for (int axis = 0; axis < 2; axis++)
                g[axis] = float(view.row[axis][0] * m[0] + view.row[axis][1] * m[1] + view.row[axis][2] * m[2] + with.box / 2);
            g[2] = float(view.yy / view.determinant), g[3] = float(-view.xy / view.determinant);
            g[4] = float(view.xx / view.determinant);
            g[5] = float(weights[i] * view.height());
            g[6] = float(with.cutoff * std::sqrt(view.xx)), g[7] = float(with.cutoff * std::sqrt(view.yy));
        }
        call.tiled_forward(table.data(), listed.data(), with.n, with.box, with.skip_below, image);
    }

    // Adds to the gradients.
    void backward(const float* covariances, const float* weights, const float* rotation, const float* gradient, float* d_means,
                  float* d_covariances, float* d_weights) {
        std::fill(derivatives.begin(), derivatives.end(), 0.f);
        call.tiled_backward(table.data(), listed.data(), with.n, with.box, with.skip_below, 0, gradient, derivatives.data());
        for (int64_t i = 0; i < with.n; i++) {
            const View view(rotation, covariances + 9 * i, with.box);
            const float *d = &derivatives[6 * i], *g = &table[8 * i];
            const double a = g[2], b = g[3], c = g[4], height = view.height();
            d_weights[i] += float(d[5] * height);
            // Of the covariance seen, from K = (a b; b c) and the height: -K G K - height K / 2 times its derivative.
            const double gxx = d[2], gxy = d[3] / 2.0, gyy = d[4], of_height = d[5] * g[5] / 2.0;
            const double ux = a * gxx + b * gxy, uy = a * gxy + b * gyy, vx = b * gxx + c * gxy, vy = b * gxy + c * gyy;
            const double sxx = -(ux * a + uy * b) - of_height * a, sxy = -(ux * b + uy * c) - of_height * b;
            const double syy = -(vx * b + vy * c) - of_height * c;
            for (int j = 0; j < 3; j++) {
                d_means[3 * i + j] += float(view.row[0][j] * d[0] + view.row[1][j] * d[1]);
                const double left = view.row[0][j] * sxx + view.row[1][j] * sxy, right = view.row[0][j] * sxy + view.row[1][j] * syy;
                for (int k = 0; k < 3; k++)
                    d_covariances[9 * i + 3 * j + k] += float(left * view.row[0][k] + right * view.row[1][k]);
            }
        }
    }

private:
    // A covariance seen, in pixels.
    struct View {
        double row[2][3], xx = 0, xy = 0, yy = 0, determinant;
        int box;

        View(const float* rotation, const float* s, int box) : box(box) {
            for (int i = 0; i < 6; i++) row[i / 3][i % 3] = double(rotation[i]) * box;
            for (int j = 0; j < 3; j++)
                for (int k = 0; k < 3; k++) {
                    const double value = (double(s[3 * j + k]) + s[3 * k + j]) / 2;
                    xx += row[0][j] * value * row[0][k], xy += row[0][j] * value * row[1][k], yy += row[1][j] * value * row[1][k];
                }
            determinant = xx * yy - xy * xy;
        }
        double height() const { return double(box) * box / (2 * M_PI * std::sqrt(determinant)); }
    };
};

// The factor by which weights make a Gaussian as high in a view as a ball of its volume would be: area / det^(1/3), with
// the area sqrt(det (A S A^T)); and its derivative by the covariance.
struct SameHeight {
    double factor, inverse[3][3], seen[2][2], row[2][3];

    SameHeight(const float* rotation, const float* s) {
        double c[3][3], cofactor[3][3];
        for (int j = 0; j < 3; j++)
            for (int k = 0; k < 3; k++) c[j][k] = s[3 * j + k];
        for (int i = 0; i < 6; i++) row[i / 3][i % 3] = rotation[i];
        for (int j = 0; j < 3; j++)
            for (int k = 0; k < 3; k++) {
                const int j1 = (j + 1) % 3, j2 = (j + 2) % 3, k1 = (k + 1) % 3, k2 = (k + 2) % 3;
                cofactor[j][k] = c[j1][k1] * c[j2][k2] - c[j1][k2] * c[j2][k1];
            }
        const double determinant = c[0][0] * cofactor[0][0] + c[0][1] * cofactor[0][1] + c[0][2] * cofactor[0][2];
        double p[2][2] = {};
        for (int a = 0; a < 2; a++)
            for (int b = 0; b < 2; b++)
                for (int j = 0; j < 3; j++)
                    for (int k = 0; k < 3; k++) p[a][b] += row[a][j] * c[j][k] * row[b][k];
        const double area = p[0][0] * p[1][1] - p[0][1] * p[1][0];
        factor = std::sqrt(area) / std::cbrt(determinant);
        for (int j = 0; j < 3; j++)
            for (int k = 0; k < 3; k++) inverse[j][k] = cofactor[k][j] / determinant;
        seen[0][0] = p[1][1] / area, seen[1][1] = p[0][0] / area, seen[0][1] = -p[0][1] / area, seen[1][0] = -p[1][0] / area;
    }

    // Add `gradient` times d factor / d covariance.
    void chain(double gradient, float* d_covariance) const {
        for (int j = 0; j < 3; j++)
            for (int k = 0; k < 3; k++) {
                double half = 0;
                for (int a = 0; a < 2; a++)
                    for (int b = 0; b < 2; b++) half += row[a][j] * seen[a][b] * row[b][k];
                d_covariance[3 * j + k] += float(gradient * factor * (half / 2 - inverse[j][k] / 3));
            }
    }
};

class Trainer {
    const Functions& call;
    const Settings& with;
    const Particles& data;
    const int64_t n, pixels;
    const int batch;
    std::vector<float> means, covariances, weights, d_means, d_covariances, d_weights, seen_weights, part;
    std::vector<float> rotations, images, gradients;
    std::vector<std::unique_ptr<Filter>> filters;  // one for each thread
    Transfer transfer;
    Tiled tiled;

public:
    Trainer(const Functions& call, const Settings& with, const Particles& data, int batch)
        : call(call), with(with), data(data), n(with.n), pixels(int64_t(with.box) * with.box), batch(batch), means(3 * n),
          covariances(9 * n), weights(n), d_means(3 * n), d_covariances(9 * n), d_weights(n), seen_weights(n), part(13 * n),
          rotations(9 * batch), images(batch * pixels), gradients(batch * pixels),
          filters(filters_for(with.box, std::min(with.threads, batch))), transfer(with.box, filters[0]->stride, data.spectrum),
          tiled(call, with) {}

    // One step: the mean squared error per pixel before it, or -1 where it is not a number.
    int step(float* parameters, float* first, float* second, const int64_t* rows, const int64_t* particles, int count,
             double learning_rate, int64_t number, double& loss) {
        call.mixture(parameters, n, with.floor_squared, with.minimum, with.kind, with.threads, means.data(), covariances.data(), weights.data());
        for (int i = 0; i < count; i++) std::copy_n(data.rotations + 9 * particles[i], 9, &rotations[9 * i]);
        if (const int failed = project(count)) return failed;
        loss = residual(rows, particles, count);
        if (!std::isfinite(loss)) return 2;
        gather(count);
        const double correction = 1 - std::pow(double(with.beta1), double(number));
        float rates[ROWS];
        for (int i = 0; i < ROWS; i++) rates[i] = with.rates[i] * float(learning_rate / correction);
        call.adam_step(parameters, first, second, n, with.floor_squared, with.minimum, with.kind, with.threads, d_means.data(),
                       d_covariances.data(), d_weights.data(), rates, with.beta1, with.beta2,
                       float(1 / (1 - std::pow(double(with.beta2), double(number)))), with.epsilon);
        return 0;
    }

private:
    static std::vector<std::unique_ptr<Filter>> filters_for(int box, int count) {
        std::vector<std::unique_ptr<Filter>> made;
        for (int i = 0; i < std::max(1, count); i++) made.push_back(std::make_unique<Filter>(box));
        return made;
    }

    // Weights as they are seen in one view.
    const float* weights_in(int i) {
        if (!with.same_height) return weights.data();
        for (int64_t k = 0; k < n; k++)
            seen_weights[k] = float(SameHeight(&rotations[9 * i], &covariances[9 * k]).factor * weights[k]);
        return seen_weights.data();
    }
    bool one_by_one() const { return with.same_height || with.skip_below > 0; }

    int project(int count) {
        const double spacing = 1.0 / with.box;
        if (!one_by_one())
            return call.forward(means.data(), covariances.data(), weights.data(), rotations.data(), n, count, with.box, spacing,
                                with.squared_cutoff, with.threads, images.data());
        for (int i = 0; i < count; i++) {
            const float* seen = weights_in(i);
            const float* view = &rotations[9 * i];
            if (with.skip_below > 0)
                tiled.forward(means.data(), covariances.data(), seen, view, &images[i * pixels]);
            else if (const int failed = call.forward(means.data(), covariances.data(), seen, view, n, 1, with.box, spacing,
                                                     with.squared_cutoff, with.threads, &images[i * pixels]))
                return failed;
        }
        return 0;
    }

    // Gradients with respect to the images; returns the loss.
    double residual(const int64_t* rows, const int64_t* particles, int count) {
        std::vector<double> losses(count);
        const int threads = std::min<int>(filters.size(), count);
#pragma omp parallel num_threads(threads)
        {
            const FlushToZero mode;
            Filter& filter = *filters[thread_number()];
#pragma omp for schedule(static)
            for (int i = 0; i < count; i++) losses[i] = residual_of(filter, rows[i], particles[i], i, count);
        }
        double total = 0;
        for (double one : losses) total += one;
        return total / count;
    }

    double residual_of(Filter& filter, int64_t row, int64_t particle, int i, int count) {
        const float *image = &images[i * pixels], *b = data.images + row * pixels;
        float* gradient = &gradients[i * pixels];
        const auto kernel = [&](float blur) {
            transfer.fill_in(data.phase + 5 * particle, data.scale[particle], data.decay[particle], blur, filter.kernel.data());
        };
        kernel(with.blur);
        filter(image, gradient);
        const float unit = 1 / with.image_scale;
        double sum = 0;
        std::vector<float> blurred;
        if (with.blur != 0) {  // the loss is that of the blurred image
            std::fill_n(filter.kernel.data(), int64_t(with.box) * filter.stride, 1.f);
            transfer.blur_in_y(with.blur, filter.kernel.data());
            blurred.resize(pixels);
            filter(image, blurred.data());
            image = blurred.data();
        }
        const float factor = float(2.0 / (double(pixels) * count));
        for (int y = 0; y < with.box; y++) {
            float line = 0;
            const int64_t from = int64_t(y) * with.box;
            for (int64_t p = from; p < from + with.box; p++) {
                const float data_here = b[p] * unit, filtered = gradient[p];
                line += image[p] * (filtered - 2 * data_here);
                gradient[p] = (filtered - data_here) * factor;
            }
            sum += line;
        }
        return sum / pixels + double(data.energy[row]) / (double(with.image_scale) * with.image_scale);
    }

    void gather(int count) {
        const double spacing = 1.0 / with.box;
        if (!one_by_one()) {
            call.backward(means.data(), covariances.data(), weights.data(), rotations.data(), n, count, with.box, spacing,
                          with.squared_cutoff, with.threads, gradients.data(), d_means.data(), d_covariances.data(),
                          d_weights.data(), nullptr);
            return;
        }
        std::fill(d_means.begin(), d_means.end(), 0.f), std::fill(d_covariances.begin(), d_covariances.end(), 0.f);
        std::fill(d_weights.begin(), d_weights.end(), 0.f);
        for (int i = 0; i < count; i++) {
            const float *seen = weights_in(i), *view = &rotations[9 * i], *gradient = &gradients[i * pixels];
            std::fill(part.begin(), part.end(), 0.f);
            float *m = part.data(), *c = m + 3 * n, *w = c + 9 * n;
            if (with.skip_below > 0) {
                if (count > 1) tiled.forward(means.data(), covariances.data(), seen, view, &images[i * pixels]);  // its table
                tiled.backward(covariances.data(), seen, view, gradient, m, c, w);
            } else {
                call.backward(means.data(), covariances.data(), seen, view, n, 1, with.box, spacing, with.squared_cutoff,
                              with.threads, gradient, m, c, w, nullptr);
            }
            for (int64_t k = 0; with.same_height && k < n; k++) {
                const SameHeight height(view, &covariances[9 * k]);
                height.chain(double(w[k]) * weights[k], c + 9 * k);
                w[k] = float(w[k] * height.factor);
            }
            for (int64_t k = 0; k < 3 * n; k++) d_means[k] += m[k];
            for (int64_t k = 0; k < 9 * n; k++) d_covariances[k] += c[k];
            for (int64_t k = 0; k < n; k++) d_weights[k] += w[k];
        }
    }

    static int thread_number();
};

}  // namespace

#ifdef _OPENMP
#include <omp.h>
int Trainer::thread_number() { return omp_get_thread_num(); }
#else
int Trainer::thread_number() { return 0; }
#endif

extern "C" {

// `count` particles in batches of `batch` (the last may be smaller): rows of images and energies, rows of all else, and a
// learning rate for each batch. steps_before: of Adam. total: the sum of losses times particles. Returns 0, or 1 where
// memory ran out, or 2 where a number is not finite.
int train(const Functions* call, const Settings* settings, const Particles* data, float* parameters, float* first, float* second,
          const int64_t* rows, const int64_t* particles, int64_t count, int64_t batch, const double* learning_rates,
          int64_t steps_before, double* total) try {
    Trainer trainer(*call, *settings, *data, int(std::min(batch, count)));
    *total = 0;
    for (int64_t start = 0, number = 0; start < count; start += batch, number++) {
        const int some = int(std::min(batch, count - start));
        double loss = 0;
        if (const int failed = trainer.step(parameters, first, second, rows + start, particles + start, some,
                                            learning_rates[number], steps_before + number + 1, loss))
            return failed;
        *total += loss * some;
    }
    return 0;
} catch (const std::bad_alloc&) {
    return 1;
}

// An image times a real, symmetric kernel of ones: for tests of the transforms.
void filter_image(const float* image, int box, const float* spectrum, const double* phase, double scale, double decay, float blur,
                  float* out) {
    Filter filter(box);
    const Transfer transfer(box, filter.stride, spectrum);
    transfer.fill_in(phase, scale, decay, blur, filter.kernel.data());
    filter(image, out);
}
}
