// Insertion of particle images into the padded Fourier grid of gsworkbench.normal_equations.insertion.
//
// Every contribution is rounded to an integer (the caller's scales make one quantum a unit) and integers below 2^53
// add exactly in a double: the sums have the same bits whatever the order of particles and the number of threads.
// The grid is far larger than the processor's caches, so samples are first sorted into tiles of the grid, a few hundred
// images at a time, and then added tile by tile. Threads share images while sorting and tiles while adding, where no
// two neighbouring tiles are ever at work: memory does not grow with their number.

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdint>
#include <vector>

namespace {

typedef double Cell __attribute__((vector_size(32), may_alias));  // real, imaginary, CTF^2, unused

constexpr int TILE = 8;                         // lines of cells along y and z; a tile is as long as the grid along x
constexpr int PAGE = 64;                        // samples that a tile takes room for at a time
constexpr int AHEAD = 8;                        // samples between the prefetch of a cell and its use
constexpr double ROUNDER = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer

// A Fourier component of a particle: CTF F and CTF^2 in quanta, the lowest of its eight cells, 2^16 times the distance.
struct Sample {
    float real, imaginary, power;
    int32_t cell;
    uint16_t x, y, z;
};

// sin(2 pi t) for |t| <= 1/2, error 6e-7.
inline float sine_of_turns(float t) {
    const float z = t * t;
    float p = 3.20582939f;
    p = p * z - 14.8737828f;
    p = p * z + 42.0178586f;
    p = p * z - 76.7018209f;
    p = p * z + 81.605046f;
    p = p * z - 41.3416978f;
    p = p * z + 6.28318528f;
    return p * t;
}

// The samples of one half plane: of a component and its Friedel mate, one. Rows in the order of an rfft2.
struct Plane {
    int box, half, n = 0;
    static constexpr int origin = 0;      // sample of k = 0
    std::vector<int> ky, columns, first;  // of each row: its frequency, kx from `first` (0 or 1) to `columns` - 1
    std::vector<int> shell;               // of each sample, |k| rounded

    explicit Plane(int box) : box(box), half(box / 2) {
        for (int row = 0; row < box; row++) {
            const int k = row < half ? row : row - box;
            if (k <= -half) continue;
            int end = 0;
            while (end * end + k * k < half * half) end++;
            ky.push_back(k);
            first.push_back(k < 0 ? 1 : 0);
            columns.push_back(end);
            for (int x = first.back(); x < end; x++) shell.push_back(int(std::lrint(std::sqrt(double(x * x + k * k)))));
            n += std::max(0, end - first.back());
        }
    }
};

struct Particle {
    const double* rotation;  // 3 x 3
    const double* phase;     // CTF phase in turns: factors of kx^2, kx ky, ky^2, k^4 and 1 (k in cycles per box)
    double scale, decay;     // CTF *= scale exp(-decay k^2)
    const double* shift;     // x, y in boxes
    const float* weight;     // of each shell, or null
};

// CTF F and CTF^2 of all samples of an image.
struct Values {
    std::vector<float> real, imaginary, power;

    explicit Values(int n) : real(n), imaginary(n), power(n) {}
};

// Fill in the values, times the scales; return the sum of |F|^2 over the whole disc.
double filter(const Plane& plane, const float* transform, int image_box, const Particle& p, float data_scale,
              float ctf_scale, Values& values) {
    const int half = plane.half, columns = image_box / 2 + 1;
    const double turn = -2 * M_PI;
    std::vector<float> ctf(half), squares(half), along(2 * half);
    // exp(-2 pi i kx (shift_x + 1/2)): the half box brings the origin to pixel D / 2.
    std::complex<double> step = std::polar(1.0, turn * (p.shift[0] + 0.5)), factor = 1;
    for (int x = 0; x < half; x++, factor *= step) {
        along[x] = float(factor.real());
        along[half + x] = float(factor.imag());
    }
    double energy = 0;
    int at = 0;
    for (size_t r = 0; r < plane.ky.size(); r++) {
        const int ky = plane.ky[r], end = plane.columns[r], first = plane.first[r];
        const float* row = transform + 2 * (size_t(ky < 0 ? ky + image_box : ky) * columns);
        const std::complex<double> across = std::polar(1.0, turn * ky * (p.shift[1] + 0.5));
        const float c = float(across.real()), s = float(across.imag());
        const double k2 = double(ky) * ky, a = p.phase[0], b = p.phase[1] * ky, quartic = p.phase[3];
        const double d = p.phase[2] * k2 + p.phase[4];
        const float scale = float(p.scale);
        for (int x = 0; x < end; x++) {
            const double kx = x, q2 = kx * kx + k2;
            double t = (a * kx + b) * kx + d + quartic * q2 * q2;
            t -= (t + ROUNDER) - ROUNDER;
            ctf[x] = scale * sine_of_turns(float(t));
        }
        if (p.decay != 0)
            for (int x = 0; x < end; x++) ctf[x] *= float(std::exp(-p.decay * (double(x) * x + k2)));
        const float* weights = p.weight;
        const int* shells = &plane.shell[at];
        const float *us = along.data() + first, *vs = us + half, *ctfs = ctf.data() + first, *from = row + 2 * first;
        float* __restrict__ real = &values.real[at];
        float* __restrict__ imaginary = &values.imaginary[at];
        float* __restrict__ powers = &values.power[at];
        double power = 0;
        for (int x = 0; x < end - first; x++) {
            const float u = us[x] * c - vs[x] * s, v = us[x] * s + vs[x] * c, re = from[2 * x], im = from[2 * x + 1];
            real[x] = data_scale * ctfs[x] * (re * u - im * v);
            imaginary[x] = data_scale * ctfs[x] * (re * v + im * u);
            powers[x] = ctf_scale * ctfs[x] * ctfs[x];
            squares[x] = re * re + im * im;
        }
        // The background of the image decides its origin, not the molecule: it counts nowhere.
        if (at == plane.origin) real[0] = imaginary[0] = powers[0] = squares[0] = 0;
        for (int x = 0; x < end - first; x++) {
            const float g = weights ? weights[shells[x]] : 1.f;
            if (weights) real[x] *= g, imaginary[x] *= g, powers[x] *= g;
            power += 2 * g * squares[x];
        }
        at += std::max(0, end - first);
        energy += power;
    }
    return energy;
}

// Where the samples of an image fall.
struct Places {
    std::vector<int32_t> cell, tile;
    std::vector<float> sign;  // -1 where a sample lies at x < 0 and its mate stands in for it
    std::vector<uint16_t> x, y, z;

    explicit Places(int n) : cell(n), tile(n), sign(n), x(n), y(n), z(n) {}

    void find(const Plane& plane, const double* rotation, int side, int width, int tiles) {
        const float middle = float(side / 2), unit = 65536;
        // Matrices are rotations to a tolerance only; no sample may leave the grid.
        const float last = float(side - 1) - 1e-3f, last_x = float(width - 1) - 1e-3f;
        float a[3];
        for (int i = 0; i < 3; i++) a[i] = float(2 * rotation[i]);
        int at = 0;
        for (size_t r = 0; r < plane.ky.size(); r++) {
            const int first = plane.first[r], count = plane.columns[r] - first;
            float b[3];
            for (int i = 0; i < 3; i++) b[i] = float(2 * (rotation[3 + i] * plane.ky[r] + rotation[i] * first));
            for (int i = 0; i < count; i++, at++) {
                const float gx = a[0] * i + b[0], gy = a[1] * i + b[1], gz = a[2] * i + b[2];
                const float s = gx < 0 ? -1.f : 1.f;
                const float px = std::min(std::max(0.f, s * gx), last_x);
                const float py = std::min(std::max(0.f, s * gy + middle), last);
                const float pz = std::min(std::max(0.f, s * gz + middle), last);
                const int32_t ix = int32_t(px), iy = int32_t(py), iz = int32_t(pz);
                cell[at] = (iz * side + iy) * width + ix;
                tile[at] = (iz / TILE) * tiles + iy / TILE;
                x[at] = uint16_t(int32_t(unit * (px - ix)));
                y[at] = uint16_t(int32_t(unit * (py - iy)));
                z[at] = uint16_t(int32_t(unit * (pz - iz)));
                sign[at] = s;
            }
        }
    }
};

// Samples of one thread by tile, in pages of its share of the store.
struct Sorted {
    Sample* store;
    size_t room;
    std::vector<uint32_t> next;                // of each tile, where its next sample goes; where a page starts: nowhere
    std::vector<std::vector<uint32_t>> pages;  // of each tile, where they start
    uint32_t used = 0;

    Sorted(Sample* store, size_t room, int tiles) : store(store), room(room), next(tiles, 0), pages(tiles) {}

    // Room for so many more, however they fall.
    bool has_room(size_t samples) const { return used + samples + next.size() * PAGE <= room; }

    Sample& append(int tile) {
        uint32_t& at = next[tile];
        if (at % PAGE == 0) {
            pages[tile].push_back(at = used);
            used += PAGE;
        }
        return store[at++];
    }

    // How many samples the page that starts at `page` holds.
    int held(int tile, uint32_t page) const {
        const uint32_t n = next[tile] - page;  // wraps round for pages after the tile's last
        return n < PAGE ? int(n) : PAGE;
    }

    void clear() {
        for (auto& list : pages) list.clear();
        std::fill(next.begin(), next.end(), 0);
        used = 0;
    }
};

inline void add(double* cell, Cell low, Cell high, double weight) {
    Cell* at = reinterpret_cast<Cell*>(cell);
    at[0] += (low * weight + ROUNDER) - ROUNDER;
    at[1] += (high * weight + ROUNDER) - ROUNDER;
}

void spread(const Sample* samples, int n, int64_t row, int64_t plane, double* grid) {
    for (int i = 0; i < n; i++) {
        const int64_t soon = samples[std::min(i + AHEAD, n - 1)].cell;
        for (int64_t corner : {soon, soon + row, soon + plane, soon + plane + row})
            __builtin_prefetch(grid + 4 * corner, 1);
        const Sample& s = samples[i];
        const double x = (s.x + 0.5) / 65536, y = (s.y + 0.5) / 65536, z = (s.z + 0.5) / 65536;
        const Cell value = {s.real, s.imaginary, s.power, 0};
        const Cell high = value * x, low = value - high;
        double* at = grid + 4 * int64_t(s.cell);
        add(at, low, high, (1 - y) * (1 - z));
        add(at + 4 * row, low, high, y * (1 - z));
        add(at + 4 * plane, low, high, (1 - y) * z);
        add(at + 4 * (plane + row), low, high, y * z);
    }
}

struct Inserter {
    Plane plane;
    int side, width, along;  // of the grid; tiles along y and z
    double* grid;
    std::vector<Sorted> sorted;

    Inserter(int box, double* grid, Sample* store, size_t room, int threads)
        : plane(box), side(2 * box + 1), width(box + 2), along(side / TILE + 1), grid(grid) {
        room /= threads;
        for (int t = 0; t < threads; t++) sorted.emplace_back(store + t * room, room, along * along);
    }

    // A page comes from memory: ask for it while the one before is worked on.
    static void expect(const Sample* page) {
        const char* bytes = reinterpret_cast<const char*>(page);
        for (size_t i = 0; i < PAGE * sizeof(Sample); i += 64) __builtin_prefetch(bytes + i);
    }

    void flush() {
        const int64_t row = width, layer = int64_t(side) * width;
        for (int colour = 0; colour < 4; colour++) {  // tiles of one colour are not neighbours
#pragma omp parallel for schedule(dynamic) num_threads(int(sorted.size()))
            for (int number = 0; number < along * along; number++) {
                if ((number / along % 2) * 2 + number % along % 2 != colour) continue;
                for (const Sorted& s : sorted) {
                    const auto& pages = s.pages[number];
                    for (size_t i = 0; i < pages.size(); i++) {
                        if (i + 1 < pages.size()) expect(&s.store[pages[i + 1]]);
                        spread(&s.store[pages[i]], s.held(number, pages[i]), row, layer, grid);
                    }
                }
            }
        }
        for (Sorted& s : sorted) s.clear();
    }
};

}  // namespace

extern "C" {

// Bytes of store that `n` images at a time need at least.
int64_t inserter_bytes(int box, int64_t n, int threads) {
    const int64_t along = (2 * box + 1) / TILE + 1, samples = (n / threads + 1) * Plane(box).n + along * along * PAGE;
    return threads * (samples + PAGE) * int64_t(sizeof(Sample));
}

// An inserter into grid (2 box + 1, 2 box + 1, box + 2, 4), z and y from -box. It keeps samples in the store; they are
// in the grid after inserter_flush.
void* inserter_new(int box, double* grid, void* store, int64_t store_bytes, int threads) {
    return new Inserter(box, grid, static_cast<Sample*>(store), store_bytes / sizeof(Sample), threads);
}

void inserter_flush(void* inserter) { static_cast<Inserter*>(inserter)->flush(); }

void inserter_delete(void* inserter) { delete static_cast<Inserter*>(inserter); }

// Insert n images, at most as many as there is store for. transforms: (n, image_box, image_box / 2 + 1) complex, rfft2
// of images; of it, what |k| < box / 2 holds. rotations (n, 3, 3), phases (n, 5), scales (n), decays (n) and shifts
// (n, 2): see Particle. weights: (n, box / 2 + 1) or null. energies: (n), filled.
void insert_images(void* inserter, const float* transforms, int64_t n, int image_box, const double* rotations,
                   const double* phases, const double* scales, const double* decays, const double* shifts,
                   const float* weights, float data_scale, float ctf_scale, double* energies) {
    Inserter& all = *static_cast<Inserter*>(inserter);
    const Plane& plane = all.plane;
    const int threads = int(all.sorted.size());
    const size_t samples = size_t(n / threads + 1) * plane.n;
    for (const Sorted& s : all.sorted)
        if (!s.has_room(samples)) {
            all.flush();
            break;
        }
#pragma omp parallel num_threads(threads)
    {
        Values values(plane.n);
        Places places(plane.n);
#pragma omp for schedule(static)
        for (int t = 0; t < threads; t++)
            for (int64_t i = n * t / threads; i < n * (t + 1) / threads; i++) {
                const Particle p{rotations + 9 * i, phases + 5 * i, scales[i], decays[i], shifts + 2 * i,
                                 weights ? weights + (plane.half + 1) * i : nullptr};
                const float* transform = transforms + 2 * size_t(i) * image_box * (image_box / 2 + 1);
                energies[i] = filter(plane, transform, image_box, p, data_scale, ctf_scale, values);
                places.find(plane, p.rotation, all.side, all.width, all.along);
                for (int m = 0; m < plane.n; m++)
                    all.sorted[t].append(places.tile[m]) = {
                        values.real[m], places.sign[m] * values.imaginary[m], values.power[m], places.cell[m],
                        places.x[m], places.y[m], places.z[m]};
            }
    }
}

// One of the grid's sums (0 real, 1 imaginary, 2 CTF^2) times its quantum in plane z of an array as an FFT wants it,
// (2 box, 2 box, box + 1), origin at 0.
void unfold(const double* grid, int box, int part, double quantum, int z, double* plane) {
    const int edge = 2 * box, side = edge + 1, width = box + 2, columns = box + 1, reach = box + 2;
    std::fill_n(plane, int64_t(edge) * columns, 0.0);
    for (int from_z = (z + box) % edge; from_z < side; from_z += edge) {  // the first and the last are one plane
        const int kz = from_z - box;
        for (int y = 0; y < side; y++) {
            const int ky = y - box;
            if (kz * kz + ky * ky > reach * reach) continue;  // nothing was inserted there
            const double* from = grid + 4 * int64_t(width) * (int64_t(from_z) * side + y) + part;
            double* to = plane + columns * int64_t((ky + edge) % edge);
            for (int x = 0; x < columns; x++) to[x] += quantum * from[4 * x];
        }
    }
}
}
