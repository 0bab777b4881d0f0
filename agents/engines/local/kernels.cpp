// What a decode step needs and torch has no fused CPU kernel for. `kernels.py` compiles this
// with the machine's own compiler on first use and calls it through ctypes.
//
// Rows are independent: no result depends on what else is in the batch, or on the threads.
// Sums are in float, for T = bfloat16 too. Pointers are to contiguous arrays.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <omp.h>
#include <utility>
#include <vector>

// Sums stay in registers only where the loops over them are written out.
#define UNROLL _Pragma("GCC unroll 16")

namespace {

constexpr int64_t CHUNK = 256;      // as in sampling.py
constexpr int64_t SMALL = 1 << 14;  // elements not worth waking other threads for
#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef std::make_integer_sequence<int, LANES> Lanes;

struct bfloat16 {
    uint16_t bits;
};

template <class To, class From>
inline To cast(From from) {
    static_assert(sizeof(To) == sizeof(From), "");
    To to;
    std::memcpy(&to, &from, sizeof(to));
    return to;
}

inline float load(float x) { return x; }
inline float load(bfloat16 x) { return cast<float>(uint32_t(x.bits) << 16); }
inline void store(float* to, float x) { *to = x; }
inline void store(bfloat16* to, float x) {  // to the nearest, ties to even
    uint32_t u = cast<uint32_t>(x);
    to->bits = uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

template <class T>
inline Vec load_vec(const T* from) {
    Vec to;
    for (int i = 0; i < LANES; ++i) to[i] = load(from[i]);
    return to;
}
template <class T>
inline void store_vec(T* to, Vec x) {
    for (int i = 0; i < LANES; ++i) store(to + i, x[i]);
}

// exp(x) within 2 units in the last place; 0 below the smallest normal number. Written so that
// compilers turn loops over it into vector instructions (after Cephes' expf).
inline float exp_fast(float x) {
    float in = std::min(std::max(x, -87.3f), 88.0f);
    float n = std::floor(in * 1.44269504f + 0.5f);
    float r = in - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    float scale = cast<float>((int32_t(n) + 127) << 23);
    return x < -87.3f ? 0.0f : p * scale;
}

inline float maximum(const float* x, int64_t count) {
    float top = x[0];
    for (int64_t i = 1; i < count; ++i) top = x[i] > top ? x[i] : top;
    return top;
}

template <class T>
float mean_square(const T* x, int64_t width) {
    float sum = 0.0f;
    for (int64_t i = 0; i < width; ++i) sum += load(x[i]) * load(x[i]);
    return sum / float(width);
}

template <class T>
void rms_norm(const T* x, const T* weight, T* out, int64_t rows, int64_t width, float eps) {
#pragma omp parallel for if (rows * width > SMALL)
    for (int64_t row = 0; row < rows; ++row) {
        const T* from = x + row * width;
        T* to = out + row * width;
        float scale = 1.0f / std::sqrt(mean_square(from, width) + eps);
        for (int64_t i = 0; i < width; ++i) store(to + i, load(from[i]) * scale * load(weight[i]));
    }
}

// out = silu(gate) * up for [rows, 2 * width] of gate, then up.
template <class T>
void swiglu(const T* gate_up, T* out, int64_t rows, int64_t width) {
#pragma omp parallel for if (rows * width > SMALL)
    for (int64_t row = 0; row < rows; ++row) {
        const T* gate = gate_up + row * 2 * width;
        T* to = out + row * width;
        for (int64_t i = 0; i < width; ++i) {
            float g = load(gate[i]);
            store(to + i, g / (1.0f + exp_fast(-g)) * load(gate[width + i]));
        }
    }
}

// One layer's attention. Tokens come with their row of the cache and their place in it. Keys and
// values are [rows, capacity, kv_heads, dim], so that what a token attends to lies in one piece.
struct Attention {
    int64_t tokens, heads, kv_heads, dim, capacity, window;  // window 0: unlimited
    float scale, eps;
    const int64_t *rows, *places;  // [tokens]
    const float* rotation;         // [context, dim / 2] complex: cos, sin
    const float* qk_norm;          // [heads + kv_heads, dim], or null
};

// Normalise (if the model does) and rotate one head into `out`.
template <class T>
void prepare(const Attention& a, const T* head, int64_t number, const float* turn, float* out) {
    for (int64_t i = 0; i < a.dim; ++i) out[i] = load(head[i]);
    if (a.qk_norm) {
        const float* weight = a.qk_norm + number * a.dim;
        float scale = 1.0f / std::sqrt(mean_square(out, a.dim) + a.eps);
        for (int64_t i = 0; i < a.dim; ++i) out[i] *= scale * weight[i];
    }
    for (int64_t i = 0; i < a.dim; i += 2) {
        float re = out[i], im = out[i + 1];
        out[i] = re * turn[i] - im * turn[i + 1];
        out[i + 1] = re * turn[i + 1] + im * turn[i];
    }
}

// Put the key and the value of one token where they belong.
template <class T>
void append(const Attention& a, const T* qkv, int64_t token, int64_t head, T* keys, T* values,
            float* buffer) {
    int64_t place = a.places[token];
    int64_t to = ((a.rows[token] * a.capacity + place) * a.kv_heads + head) * a.dim;
    const T* key = qkv + (a.heads + head) * a.dim;
    prepare(a, key, a.heads + head, a.rotation + place * a.dim, buffer);
    for (int64_t i = 0; i < a.dim; ++i) store(keys + to + i, buffer[i]);
    std::memcpy(values + to, key + a.kv_heads * a.dim, a.dim * sizeof(T));
}

// Lane i of the result has two lanes of x added up where bit D of i is 0, else two of y.
template <int D, int... I>
inline Vec fold(Vec x, Vec y, std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(x, y, (I & D ? LANES + I - D : I)...) +
           __builtin_shufflevector(x, y, (I & D ? LANES + I : I + D)...);
}

// Lane i of the result is the sum of all lanes of x[i].
template <int D = 1>
inline Vec add_lanes(Vec* x) {
    UNROLL for (int i = 0; i < LANES / D / 2; ++i) x[i] = fold<D>(x[2 * i], x[2 * i + 1], Lanes());
    if constexpr (2 * D < LANES) return add_lanes<2 * D>(x);
    return x[0];
}

// Working memory for the heads that a thread attends with: it stays, and is not cleared.
struct Scratch {
    int64_t stride;          // more than the capacity: powers of two would share a cache set
    float *queries, *sums;   // [heads, dim], [2, heads, dim]
    float *parts;            // [heads, LANES, LANES]
    float *masses, *scores;  // [heads], [heads, stride]

    Scratch(const Attention& a, int64_t heads) : stride(a.capacity + LANES) {
        thread_local std::vector<float> memory;
        size_t size = heads * (3 * a.dim + LANES * LANES + 1 + stride);
        if (memory.size() < size) memory.resize(size);
        queries = memory.data();
        sums = queries + heads * a.dim;
        parts = sums + 2 * heads * a.dim;
        masses = parts + heads * LANES * LANES;
        scores = masses + heads;
    }
};

// softmax(scale q K) V over places first .. last, for `heads` query heads and their share of keys.
// W is the number of vectors in a head, 0 if it is not known beforehand.
//
// Keys and values are read once, strictly from end to end, by all heads at a time: they come from
// memory, and processors fetch ahead well on nothing else. Head by head it takes twice as long. The
// capacity is a multiple of LANES, so what is read past the last place is in the cache, if
// meaningless.
template <int W, class T>
void attend(const Attention& a, const Scratch& s, const T* keys, const T* values, int64_t heads,
            int64_t first, int64_t last, T* out) {
    const int64_t dim = W ? W * LANES : a.dim, whole = dim / LANES * LANES;
    const int64_t groups = a.heads / a.kv_heads, step = a.kv_heads * dim;
    for (int64_t start = first / LANES * LANES; start <= last; start += LANES) {
        for (int64_t p = 0; p < LANES; ++p) {
            const T* key = keys + (start + p) * step;
            for (int64_t h = 0, member = 0; h < heads; ++h) {
                const float* query = s.queries + h * dim;
                Vec part = {};
                for (int64_t i = 0; i < whole; i += LANES)
                    part += load_vec(query + i) * load_vec(key + i);
                for (int64_t i = whole; i < dim; ++i) part[0] += query[i] * load(key[i]);
                store_vec(s.parts + (h * LANES + p) * LANES, part);
                if (++member == groups) key += dim, member = 0;
            }
        }
        for (int64_t h = 0; h < heads; ++h) {
            Vec sum[LANES];
            UNROLL for (int p = 0; p < LANES; ++p)
                sum[p] = load_vec(s.parts + (h * LANES + p) * LANES);
            store_vec(s.scores + h * s.stride + start, add_lanes(sum) * a.scale);
        }
    }
    for (int64_t h = 0; h < heads; ++h) {
        float *x = s.scores + h * s.stride, top = maximum(x + first, last + 1 - first);
        float mass = 0.0f;
        for (int64_t p = first; p <= last; ++p) mass += x[p] = exp_fast(x[p] - top);
        s.masses[h] = mass;
    }
    std::fill(s.sums, s.sums + 2 * heads * dim, 0.0f);
    for (int64_t p = first; p <= last; ++p) {
        const T* value = values + p * step;
        for (int64_t h = 0, member = 0; h < heads; ++h) {
            // Two sums in turn: none waits for what was just added to the other.
            float* sum = s.sums + ((p & 1) * heads + h) * dim;
            float weight = s.scores[h * s.stride + p];
            for (int64_t i = 0; i < whole; i += LANES)
                store_vec(sum + i, load_vec(sum + i) + weight * load_vec(value + i));
            for (int64_t i = whole; i < dim; ++i) sum[i] += weight * load(value[i]);
            if (++member == groups) value += dim, member = 0;
        }
    }
    for (int64_t h = 0; h < heads; ++h) {
        const float *even = s.sums + h * dim, *odd = even + heads * dim;
        float norm = 1.0f / s.masses[h];
        for (int64_t i = 0; i < dim; ++i) store(out + h * dim + i, (even[i] + odd[i]) * norm);
    }
}

// qkv [tokens, heads + 2 kv_heads, dim] -> out [tokens, heads, dim]; keys and values are added
// to the cache first, so tokens of one row may come together, in any order.
template <class T>
void attention(const Attention& a, const T* qkv, T* keys, T* values, T* out) {
    int64_t groups = a.heads / a.kv_heads, width = (a.heads + 2 * a.kv_heads) * a.dim;
    int64_t pairs = a.tokens * a.kv_heads, work = 0;
    for (int64_t token = 0; token < a.tokens; ++token) work += a.places[token] + 1;
    bool parallel = work * a.kv_heads * a.dim > 4 * SMALL;
    // A thread takes a token with all its heads, unless there are too few of them to go around.
    bool few = parallel && a.tokens < 2 * omp_get_max_threads();
    int64_t shares = few ? a.kv_heads : 1, heads = a.heads / shares;
    int64_t vectors = a.dim % LANES ? 0 : a.dim / LANES;
    auto* attend_to = vectors == 1   ? attend<1, T>
                      : vectors == 2 ? attend<2, T>
                      : vectors == 4 ? attend<4, T>
                      : vectors == 8 ? attend<8, T>
                                     : attend<0, T>;
#pragma omp parallel if (parallel)
    {
        Scratch scratch(a, heads);
#pragma omp for
        for (int64_t pair = 0; pair < pairs; ++pair)
            append(a, qkv + pair / a.kv_heads * width, pair / a.kv_heads, pair % a.kv_heads, keys,
                   values, scratch.queries);
#pragma omp for schedule(dynamic)
        for (int64_t item = 0; item < a.tokens * shares; ++item) {
            int64_t token = item / shares, head = item % shares * heads, last = a.places[token];
            int64_t first = a.window ? std::max<int64_t>(0, last + 1 - a.window) : 0;
            for (int64_t h = 0; h < heads; ++h)
                prepare(a, qkv + token * width + (head + h) * a.dim, head + h,
                        a.rotation + last * a.dim, scratch.queries + h * a.dim);
            int64_t from = (a.rows[token] * a.capacity * a.kv_heads + head / groups) * a.dim;
            attend_to(a, scratch, keys + from, values + from, heads, first, last,
                      out + (token * a.heads + head) * a.dim);
        }
    }
}

float log_sum_exp(const float* x, int64_t count) {
    float top = maximum(x, count), mass = 0.0f;
    for (int64_t i = 0; i < count; ++i) mass += exp_fast(x[i] - top);
    return top + std::log(mass);
}

// One tile of raw logits [rows, filled] -> tempered float logits [rows, width], with `never`
// past the vocabulary, and the log-sum-exp of each chunk into mass[row * stride + chunk].
template <class T>
void reduce_tile(const T* raw, const float* inverse_temperature, float never, float* logits,
                 float* mass, int64_t rows, int64_t filled, int64_t width, int64_t stride) {
#pragma omp parallel for if (rows * width > SMALL)
    for (int64_t row = 0; row < rows; ++row) {
        const T* from = raw + row * filled;
        float* to = logits + row * width;
        float scale = inverse_temperature ? inverse_temperature[row] : 1.0f;
        for (int64_t i = 0; i < filled; ++i) to[i] = load(from[i]) * scale;
        std::fill(to + filled, to + width, never);
        for (int64_t c = 0; c < width / CHUNK; ++c)
            mass[row * stride + c] = log_sum_exp(to + c * CHUNK, CHUNK);
    }
}

// Inverse CDF of unnormalised log-weights; `uniform` becomes its place inside the interval,
// which is itself uniform, so one number serves both levels.
int64_t invert(const float* log_weights, int64_t count, double* uniform) {
    float top = maximum(log_weights, count);
    double total = 0.0;
    for (int64_t i = 0; i < count; ++i) total += double(exp_fast(log_weights[i] - top));
    double point = *uniform * total, below = 0.0, weight = 0.0;
    int64_t found = -1;
    for (int64_t i = 0; i < count; ++i) {
        double w = double(exp_fast(log_weights[i] - top));
        if (w == 0.0) continue;  // never chosen, whatever rounding does
        if (found >= 0 && point < below + weight) break;
        if (found >= 0) below += weight;
        found = i;
        weight = w;
    }
    *uniform = std::min(std::max((point - below) / weight, 0.0), 1.0);
    return found;
}

}  // namespace

#define KERNELS(T, NAME)                                                                          \
    extern "C" void rms_norm_##NAME(const T* x, const T* weight, T* out, int64_t rows,            \
                                    int64_t width, float eps) {                                   \
        rms_norm(x, weight, out, rows, width, eps);                                               \
    }                                                                                             \
    extern "C" void swiglu_##NAME(const T* gate_up, T* out, int64_t rows, int64_t width) {        \
        swiglu(gate_up, out, rows, width);                                                        \
    }                                                                                             \
    extern "C" void attention_##NAME(const Attention* a, const T* qkv, T* keys, T* values,        \
                                     T* out) {                                                    \
        attention(*a, qkv, keys, values, out);                                                    \
    }                                                                                             \
    extern "C" void reduce_tile_##NAME(const T* raw, const float* inverse_temperature,            \
                                       float never, float* logits, float* mass, int64_t rows,     \
                                       int64_t filled, int64_t width, int64_t stride) {           \
        reduce_tile(raw, inverse_temperature, never, logits, mass, rows, filled, width, stride);  \
    }

KERNELS(float, float32)
KERNELS(bfloat16, bfloat16)

// One token per row from tempered logits [tiles, rows, width] and mass [rows, chunks].
extern "C" void sample(const float* logits, const float* mass, const double* uniform,
                       const uint8_t* greedy, int64_t* ids, float* logprobs, int64_t tiles,
                       int64_t rows, int64_t width) {
    int64_t per_tile = width / CHUNK, chunks = tiles * per_tile;
#pragma omp parallel for if (rows * chunks > 256)
    for (int64_t row = 0; row < rows; ++row) {
        const float* masses = mass + row * chunks;
        double rest = uniform[row];
        int64_t chunk = invert(masses, chunks, &rest), token = 0;
        const float* inside = nullptr;
        auto at = [&](int64_t c) {
            return logits + (c / per_tile * rows + row) * width + c % per_tile * CHUNK;
        };
        if (greedy && greedy[row]) {
            inside = at(0);
            for (int64_t c = 0; c < chunks; ++c) {
                const float* best = std::max_element(at(c), at(c) + CHUNK);
                if (c == 0 || *best > inside[token]) {
                    inside = at(c);
                    chunk = c;
                    token = best - inside;
                }
            }
        } else {
            inside = at(chunk);
            token = invert(inside, CHUNK, &rest);
        }
        ids[row] = chunk * CHUNK + token;
        logprobs[row] = inside[token] - log_sum_exp(masses, chunks);
    }
}
