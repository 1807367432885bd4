/* The text decoder of Whisper with int8 weights that are packed once, on one thread.
 *
 * The computation is that of CTranslate2 with compute type int8: the same products, the same rules
 * for timestamps, the same beam search. Clips of any length and with prompts of any length share a
 * call; the text of each does not depend on the others.
 *
 * All pointers are to contiguous arrays. "Row": what one hypothesis of one clip adds in a step.
 * Built for one instruction set at a time: AVX-512 with VNNI, or AVX2 with FMA and F16C.
 */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define HEAD 64        /* width of an attention head in every Whisper model */
#define MASKED (-1e30f) /* instead of an infinity, so that differences stay defined */
#define SCALE 0.125f   /* of the products of queries and keys: 1 / sqrt(HEAD) */
#define GROUP 5        /* rows that share the loading of a key or value */
#define STATES_AT_ONCE 96 /* encoder states projected at a time: their values fit into the cache */

#if defined(__AVX512F__) && defined(__AVX512VNNI__)
#define LANES 16
#define ROWS 6   /* of a tile of a product */
#define BLOCKS 4 /* of LANES outputs each, in a tile */
#define OFFSET 128 /* is added to quantized inputs: the instruction takes them unsigned */
#define VALUES 4 /* vectors of a head's values added up at a time */
#else
#define LANES 8
#define ROWS 4
#define BLOCKS 2
#define OFFSET 0
#define VALUES 2
#endif

typedef float floats __attribute__((vector_size(LANES * 4)));
typedef float loose_floats __attribute__((vector_size(LANES * 4), aligned(4)));
typedef int32_t ints __attribute__((vector_size(LANES * 4)));
typedef uint16_t half;

INLINE floats spread(float value) { return value - (floats){0}; }
INLINE floats load(const float *from) { return *(const loose_floats *)from; }
INLINE void store(float *to, floats values) { *(loose_floats *)to = values; }
INLINE floats larger(floats a, floats b) {
    ints mask = a > b;
    return (floats)(((ints)a & mask) | ((ints)b & ~mask));
}

#if LANES == 16
INLINE ints multiply_bytes(ints sum, int32_t inputs, const int8_t *weights) {
    return (ints)_mm512_dpbusd_epi32((__m512i)sum, _mm512_set1_epi32(inputs), _mm512_loadu_si512(weights));
}
INLINE floats load_half(const half *from) {
    return (floats)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
}
INLINE void store_half(half *to, floats values) {
    _mm256_storeu_si256((__m256i *)to, _mm512_cvtps_ph((__m512)values, _MM_FROUND_TO_NEAREST_INT));
}
INLINE float add_lanes(floats values) { return _mm512_reduce_add_ps((__m512)values); }
INLINE int any_above(floats values, floats limit) {
    return _mm512_cmp_ps_mask((__m512)values, (__m512)limit, _CMP_GT_OQ) != 0;
}
#else
INLINE ints multiply_bytes(ints sum, int32_t inputs, const int8_t *weights) {
    /* |weight| times the input with the weight's sign: a pair's sum fits into 16 bits */
    __m256i w = _mm256_loadu_si256((const __m256i *)weights), x = _mm256_set1_epi32(inputs);
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    return sum + (ints)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}
INLINE floats load_half(const half *from) {
    return (floats)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
}
INLINE void store_half(half *to, floats values) {
    _mm_storeu_si128((__m128i *)to, _mm256_cvtps_ph((__m256)values, _MM_FROUND_TO_NEAREST_INT));
}
INLINE float add_lanes(floats values) {
    __m128 sums = _mm_add_ps(_mm256_castps256_ps128((__m256)values), _mm256_extractf128_ps((__m256)values, 1));
    sums = _mm_add_ps(sums, _mm_movehl_ps(sums, sums));
    return _mm_cvtss_f32(_mm_add_ss(sums, _mm_movehdup_ps(sums)));
}
INLINE int any_above(floats values, floats limit) {
    return _mm256_movemask_ps(_mm256_cmp_ps((__m256)values, (__m256)limit, _CMP_GT_OQ)) != 0;
}
#endif

INLINE int round_up(int count, int multiple) { return (count + multiple - 1) / multiple * multiple; }
INLINE float largest_lane(floats values) {
    float largest = values[0];
    for (int lane = 1; lane < LANES; lane++) largest = values[lane] > largest ? values[lane] : largest;
    return largest;
}
INLINE floats round_floats(floats x) {
    const floats magic = spread(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    __asm__("" : "+x"(x));
    floats shifted = x + magic;
    __asm__("" : "+x"(shifted)); /* the compiler may not simplify this */
    return shifted - magic;
}
/* e^x for x from -87 to 88; below, about 1e-38. Error below 2e-7: a polynomial of degree 6 after
 * reduction to half of ln 2. */
INLINE floats exponential(floats x) {
    x = larger(x, spread(-87.0f));
    floats n = round_floats(x * 1.44269504f);
    floats r = x - n * 0.693359375f + n * 2.12194440e-4f;
    floats p = spread(1.0f / 720);
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    ints power = (__builtin_convertvector(n, ints) + 127) << 23;
    return p * (floats)power;
}
/* x times the normal distribution's integral up to x. The error function: Abramowitz and Stegun,
 * formula 7.1.26, error below 1.5e-7. */
INLINE floats gelu(floats x) {
    floats z = x * 0.70710678f, size = larger(z, -z);
    floats t = 1.0f / (1.0f + 0.3275911f * size);
    floats tail = ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f)
                  * t * exponential(-size * size);
    ints negative = z < 0.0f;
    floats upper = 1.0f - 0.5f * tail, lower = 0.5f * tail;
    return x * (floats)(((ints)lower & negative) | ((ints)upper & ~negative));
}

/* ---- the model ---- */

typedef struct {
    int8_t *weights; /* [outputs / LANES][inputs / 4][LANES][4] */
    float *factors;  /* [outputs]: product to value, besides the row's own factor */
    int32_t *sums;   /* [outputs]: of the weights */
    const float *bias; /* [outputs] */
    int32_t outputs, inputs; /* multiples of 16; of 64 */
} Linear;

typedef struct { const float *gamma, *beta; } Norm;

typedef struct {
    Norm self_norm, cross_norm, hidden_norm;
    Linear self_in, self_out; /* queries, keys and values; output */
    Linear cross_query, cross_in, cross_out; /* cross_in: keys and values of encoder states */
    Linear hidden_in, hidden_out;
} Layer;

typedef struct {
    const Layer *layers;
    Linear vocabulary; /* also the embeddings of tokens */
    Norm norm;
    const float *positions; /* [positions][width] */
    int32_t layer_count, width, hidden, tokens; /* tokens: without those that pad the vocabulary */
} Model;

typedef struct {
    int32_t beam_size, candidates; /* candidates: finished texts at which a search ends */
    int32_t most_tokens;           /* of the text of any clip */
    int32_t end, no_speech;        /* tokens */
    int32_t no_timestamps;         /* token before the first timestamp */
    int32_t timestamps;            /* whether they are written */
    int32_t latest_first;          /* token: the latest timestamp a text may begin with */
    const int32_t *suppressed, *suppressed_first; /* tokens never written; never written first */
    int32_t suppressed_count, suppressed_first_count;
} Search;

typedef struct {
    const float *states; /* [state_count][width], of the encoder */
    const int32_t *prompt;
    int32_t state_count, prompt_length;
    int32_t start; /* index in the prompt of "start of transcript" */
    int32_t most_tokens; /* of its text */
    /* results */
    int32_t *text; /* [most_tokens] */
    int32_t length;
    float score; /* mean log probability of a token */
    float no_speech_probability;
} Clip;

/* ---- products ---- */

/* values[row] = rounded inputs; factors[row] = value of one step. */
static void quantize(const float *inputs, int rows, int width, uint8_t *values, float *factors) {
    for (int row = 0; row < rows; row++, inputs += width, values += width) {
        floats peaks = {0};
        for (int i = 0; i < width; i += LANES) {
            floats x = load(inputs + i);
            peaks = larger(peaks, larger(x, -x));
        }
        float peak = largest_lane(peaks);
        float scale = peak > 0 ? 127.0f / peak : 1.0f;
        factors[row] = 1.0f / scale;
        for (int i = 0; i < width; i += LANES) {
            ints rounded = __builtin_convertvector(round_floats(load(inputs + i) * scale), ints) + OFFSET;
#if LANES == 16
            _mm_storeu_si128((__m128i *)(values + i), _mm512_cvtepi32_epi8((__m512i)rounded));
#else
            for (int lane = 0; lane < LANES; lane++) values[i + lane] = (uint8_t)rounded[lane];
#endif
        }
    }
}

/* Quantizes and packs weights [count][linear->inputs]: int8 with `scales` [count], or else float16
 * or float32. The outputs after `count` are 0. */
enum { INT8, FLOAT16, FLOAT32 };
void pack(Linear *linear, const void *weights, int type, const float *scales, int count) {
    const int width = linear->inputs;
    memset(linear->weights, 0, (size_t)linear->outputs * width);
    memset(linear->factors, 0, linear->outputs * sizeof *linear->factors);
    memset(linear->sums, 0, linear->outputs * sizeof *linear->sums);
    for (int row = 0; row < count; row++) {
        const size_t at = (size_t)row * width;
        float scale = scales ? scales[row] : 0;
        floats peaks = {0};
        for (int i = 0; type != INT8 && i < width; i += LANES) {
            floats x = type == FLOAT16 ? load_half((const half *)weights + at + i) : load((const float *)weights + at + i);
            peaks = larger(peaks, larger(x, -x));
        }
        if (type != INT8) scale = largest_lane(peaks) > 0 ? 127.0f / largest_lane(peaks) : 1.0f;
        int8_t *to = linear->weights + (size_t)(row / LANES) * width * LANES + row % LANES * 4;
        for (int i = 0; i < width; i += LANES) {
            int8_t rounded[LANES];
            if (type == INT8) memcpy(rounded, (const int8_t *)weights + at + i, LANES);
            else {
                floats x = type == FLOAT16 ? load_half((const half *)weights + at + i)
                                           : load((const float *)weights + at + i);
                ints values = __builtin_convertvector(round_floats(x * scale), ints);
                for (int lane = 0; lane < LANES; lane++) rounded[lane] = (int8_t)values[lane];
            }
            for (int lane = 0; lane < LANES; lane++) linear->sums[row] += rounded[lane];
            for (int four = 0; four < LANES; four += 4) memcpy(to + (size_t)(i + four) * LANES, rounded + four, 4);
        }
        linear->factors[row] = 1.0f / scale;
    }
}

typedef enum { STORE, ADD, GELU } Use;

INLINE void multiply_tile(const Linear *linear, const uint8_t *values, const float *factors, int block,
                          float *out, int stride, Use use, const int rows, const int blocks) {
    const int width = linear->inputs;
    const int8_t *weights = linear->weights + (size_t)block * width * LANES;
    ints sums[ROWS][BLOCKS];
    for (int row = 0; row < rows; row++)
        for (int b = 0; b < blocks; b++) sums[row][b] = (ints){0};
    for (int i = 0; i < width; i += 4)
        for (int row = 0; row < rows; row++) {
            int32_t four;
            memcpy(&four, values + (size_t)row * width + i, 4);
            for (int b = 0; b < blocks; b++)
                sums[row][b] = multiply_bytes(sums[row][b], four, weights + (size_t)b * width * LANES + i * LANES);
        }
    for (int b = 0; b < blocks; b++) {
        const int first = (block + b) * LANES;
        const floats factor = load(linear->factors + first), bias = load(linear->bias + first);
        const ints offset = (ints)load((const float *)linear->sums + first) * OFFSET;
        for (int row = 0; row < rows; row++) {
            float *to = out + (size_t)row * stride + first;
            floats x = __builtin_convertvector(sums[row][b] - offset, floats) * (factor * factors[row]) + bias;
            store(to, use == ADD ? load(to) + x : use == GELU ? gelu(x) : x);
        }
    }
}

/* out[row] = linear of row; or adds it; or stores the GELU of it. */
INLINE void multiply_rows(const Linear *linear, const uint8_t *values, const float *factors, int rows, float *out,
                          int stride, Use use) {
    const int blocks = linear->outputs / LANES;
    for (int block = 0; block < blocks;) {
        const int taken = blocks - block >= BLOCKS ? BLOCKS : 1;
        for (int row = 0; row < rows;) {
            const int left = rows - row, these = left < ROWS ? left : ROWS;
            const uint8_t *from = values + (size_t)row * linear->inputs;
            float *to = out + (size_t)row * stride;
#define TILE(n)                                                                                    \
    case n:                                                                                        \
        if (taken == 1) multiply_tile(linear, from, factors + row, block, to, stride, use, n, 1); \
        else multiply_tile(linear, from, factors + row, block, to, stride, use, n, BLOCKS);       \
        break;
            switch (these) {
                TILE(1) TILE(2) TILE(3) TILE(4)
#if ROWS > 4
                TILE(5) TILE(6)
#endif
            }
#undef TILE
            row += these;
        }
        block += taken;
    }
}
static void multiply(const Linear *l, const uint8_t *v, const float *f, int rows, float *out) {
    multiply_rows(l, v, f, rows, out, l->outputs, STORE);
}
static void multiply_and_add(const Linear *l, const uint8_t *v, const float *f, int rows, float *out) {
    multiply_rows(l, v, f, rows, out, l->outputs, ADD);
}
static void multiply_gelu(const Linear *l, const uint8_t *v, const float *f, int rows, float *out) {
    multiply_rows(l, v, f, rows, out, l->outputs, GELU);
}

static void normalize(const Norm *norm, const float *inputs, int rows, int width, float *out) {
    for (int row = 0; row < rows; row++, inputs += width, out += width) {
        floats sum = {0}, squares = {0};
        for (int i = 0; i < width; i += LANES) sum += load(inputs + i);
        const float mean = add_lanes(sum) / width;
        for (int i = 0; i < width; i += LANES) {
            floats difference = load(inputs + i) - mean;
            squares += difference * difference;
        }
        const float scale = 1.0f / sqrtf(add_lanes(squares) / width + 1e-5f);
        for (int i = 0; i < width; i += LANES)
            store(out + i, (load(inputs + i) - mean) * scale * load(norm->gamma + i) + load(norm->beta + i));
    }
}

/* ---- memory of a call ---- */

typedef struct {
    float *x, *normal, *wide, *attended, *logits, *weights, *factors; /* rows of values */
    uint8_t *values;
} Scratch;

/* Keys and values that all hypotheses of a clip share: of the encoder's states, or of the prompt. */
typedef struct {
    half *keys;   /* [layers][heads][padded / LANES][HEAD][LANES] */
    half *values; /* [layers][heads][padded][HEAD] */
    int count;    /* states or tokens */
    int padded;   /* to a multiple of 2 * LANES */
} Cache;

typedef struct {
    Clip *clip;
    Cache audio, prompt; /* prompt: without its last token */
    half *text;      /* [layers][most_tokens][beam_size][2][width]: keys and values from the last
                        token of the prompt on */
    uint8_t *paths;  /* [2][beam_size][most_tokens]: which hypothesis in `text`, for each step */
    int32_t *tokens; /* [2][beam_size][most_tokens] */
    int side;        /* 0 or 1: the current half of `paths` and `tokens` */
    float *scores;   /* [beam_size]: sum of log probabilities */
    int step;        /* tokens written so far */
    int rows;        /* hypotheses: 1 in the first step, then the beam's size */
    int first_row;   /* of this clip in the arrays of the call */
    int finished;    /* number of finished texts */
    float *candidate_scores; /* [2 * beam_size], falling */
    int32_t *candidate_tokens, *candidate_rows;
    int candidates;
} State;

static void *get_memory(size_t count, size_t size, int *failed) {
    void *memory = *failed ? NULL : malloc(count * size + 1);
    if (!memory) *failed = 1;
    return memory;
}

/* ---- attention ---- */

static size_t find_head(const Model *m, const Cache *cache, int layer, int head) {
    return ((size_t)layer * (m->width / HEAD) + head) * cache->padded * HEAD;
}

/* Stores the keys and values of one state or token, [width] each. */
static void remember(const Model *m, Cache *cache, int layer, int index, const float *keys, const float *values) {
    for (int head = 0; head < m->width / HEAD; head++, keys += HEAD, values += HEAD) {
        const size_t at = find_head(m, cache, layer, head);
        half *to = cache->keys + at + (size_t)(index / LANES) * HEAD * LANES + index % LANES;
        half key[HEAD];
        for (int i = 0; i < HEAD; i += LANES) {
            store_half(key + i, load(keys + i));
            store_half(cache->values + at + (size_t)index * HEAD + i, load(values + i));
        }
        for (int i = 0; i < HEAD; i++) to[i * LANES] = key[i];
    }
}

/* weights[0 .. count) become their exponentials, relative to the largest; returns 1 / their sum.
 * Memory up to the next multiple of LANES is written. */
static float exponentiate(float *weights, int count) {
    const int padded = (count + LANES - 1) / LANES * LANES;
    for (int i = count; i < padded; i++) weights[i] = MASKED;
    floats peaks = spread(MASKED), sum = {0};
    for (int i = 0; i < padded; i += LANES) peaks = larger(peaks, load(weights + i));
    const float peak = largest_lane(peaks);
    for (int i = 0; i < padded; i += LANES) {
        floats e = exponential(load(weights + i) - peak);
        store(weights + i, e);
        sum += e;
    }
    return 1.0f / add_lanes(sum);
}

/* The tokens of the hypotheses of a clip after the cached ones, in one layer. */
typedef struct {
    const half *keys_values;  /* [steps][beam_size][2][width] */
    const uint8_t *paths;     /* [rows][most_tokens] */
    int steps, beam_size, most_tokens;
} Tail;

INLINE const half *find_token(const Tail *tail, int row, int step, int width) {
    const int hypothesis = tail->paths[row * tail->most_tokens + step];
    return tail->keys_values + ((size_t)step * tail->beam_size + hypothesis) * 2 * width;
}

/* weights[row][i] = the product of query and key i. */
INLINE void score_keys(const float *queries, int query_stride, const half *keys, int padded, float *weights, int stride,
                       const int rows) {
    for (int first = 0; first < padded; first += 2 * LANES, keys += 2 * LANES * HEAD) {
        floats sums[GROUP][2];
        for (int row = 0; row < rows; row++) sums[row][0] = sums[row][1] = (floats){0};
        for (int i = 0; i < HEAD; i++) {
            const floats a = load_half(keys + i * LANES), b = load_half(keys + (HEAD + i) * LANES);
            for (int row = 0; row < rows; row++) {
                const floats query = spread(queries[row * query_stride + i]);
                sums[row][0] += query * a;
                sums[row][1] += query * b;
            }
        }
        for (int row = 0; row < rows; row++) {
            store(weights + row * stride + first, sums[row][0] * SCALE);
            store(weights + row * stride + first + LANES, sums[row][1] * SCALE);
        }
    }
}

/* out[row] = the weighted sum of values. */
INLINE void add_values(const float *weights, int stride, const half *values, int count, float *out, int width,
                       const int rows) {
    for (int part = 0; part < HEAD; part += VALUES * LANES) {
        floats sums[GROUP][VALUES];
        for (int row = 0; row < rows; row++)
            for (int v = 0; v < VALUES; v++) sums[row][v] = (floats){0};
        for (int i = 0; i < count; i++) {
            floats value[VALUES];
            for (int v = 0; v < VALUES; v++) value[v] = load_half(values + (size_t)i * HEAD + part + v * LANES);
            for (int row = 0; row < rows; row++) {
                const floats weight = spread(weights[row * stride + i]);
                for (int v = 0; v < VALUES; v++) sums[row][v] += weight * value[v];
            }
        }
        for (int row = 0; row < rows; row++)
            for (int v = 0; v < VALUES; v++) store(out + row * width + part + v * LANES, sums[row][v]);
    }
}

/* One head of a group of rows. counts[row]: how much of the cache the row attends to, rising. */
INLINE void attend_group(const half *keys, const half *values, const int *counts, const Tail *tail, int first_row,
                         const float *queries, int query_stride, float *weights, float *out, int width, int at,
                         const int rows) {
    const int most = counts[rows - 1], padded = round_up(most, 2 * LANES), steps = tail ? tail->steps : 0;
    const int stride = round_up(padded + steps, LANES);
    float factors[GROUP];
    score_keys(queries, query_stride, keys, padded, weights, stride, rows);
    for (int row = 0; row < rows; row++) {
        float *w = weights + row * stride;
        for (int i = counts[row]; i < padded; i++) w[i] = MASKED;
        for (int step = 0; step < steps; step++) {
            const half *key = find_token(tail, first_row + row, step, width) + at;
            floats sum = {0};
            for (int i = 0; i < HEAD; i += LANES) sum += load(queries + row * query_stride + i) * load_half(key + i);
            w[padded + step] = add_lanes(sum) * SCALE;
        }
        factors[row] = exponentiate(w, padded + steps);
    }
    add_values(weights, stride, values, most, out, width, rows);
    for (int row = 0; row < rows; row++) {
        floats sums[HEAD / LANES];
        for (int v = 0; v < HEAD / LANES; v++) sums[v] = load(out + row * width + v * LANES);
        for (int step = 0; step < steps; step++) {
            const half *value = find_token(tail, first_row + row, step, width) + width + at;
            const floats weight = spread(weights[row * stride + padded + step]);
            for (int v = 0; v < HEAD / LANES; v++) sums[v] += weight * load_half(value + v * LANES);
        }
        for (int v = 0; v < HEAD / LANES; v++) store(out + row * width + v * LANES, sums[v] * factors[row]);
    }
}

/* out[row] = the attention of a query over a cache, and over the `tail` if it is given. queries:
 * [rows], `stride` apart; out: [rows][width]. `causal`: row i attends to the first i + 1 tokens. */
static void attend(const Model *m, const Cache *cache, int layer, const Tail *tail, int causal, const float *queries,
                   int stride, int rows, float *weights, float *out) {
    for (int head = 0; head < m->width / HEAD; head++) {
        const size_t from = find_head(m, cache, layer, head);
        for (int row = 0; row < rows;) {
            const int left = rows - row, these = left < GROUP ? left : GROUP, at = head * HEAD;
            int counts[GROUP];
            for (int i = 0; i < these; i++) counts[i] = causal ? row + i + 1 : cache->count;
#define CASE(n)                                                                                                     \
    case n:                                                                                                         \
        attend_group(cache->keys + from, cache->values + from, counts, tail, row, queries + (size_t)row * stride + at, \
                     stride, weights, out + (size_t)row * m->width + at, m->width, at, n);                          \
        break;
            switch (these) { CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) }
#undef CASE
            row += these;
        }
    }
}

/* ---- one clip before its first step ---- */

/* Computes the keys and values of the encoder's states for all layers. */
static void project_states(const Model *m, State *s, Scratch *t) {
    const int width = m->width;
    for (int first = 0; first < s->audio.count; first += STATES_AT_ONCE) {
        const int left = s->audio.count - first, count = left < STATES_AT_ONCE ? left : STATES_AT_ONCE;
        quantize(s->clip->states + (size_t)first * width, count, width, t->values, t->factors);
        for (int layer = 0; layer < m->layer_count; layer++) {
            multiply(&m->layers[layer].cross_in, t->values, t->factors, count, t->wide);
            for (int i = 0; i < count; i++) {
                const float *keys = t->wide + (size_t)i * 2 * width;
                remember(m, &s->audio, layer, first + i, keys, keys + width);
            }
        }
    }
}

static void embed(const Model *m, int32_t token, int position, float *out) {
    const Linear *table = &m->vocabulary;
    const int8_t *weights = table->weights + (size_t)(token / LANES) * m->width * LANES + token % LANES * 4;
    for (int i = 0; i < m->width; i++)
        out[i] = weights[(size_t)(i / 4) * LANES * 4 + i % 4] * table->factors[token]
                 + m->positions[(size_t)position * m->width + i];
}

/* x += the layer's part after self-attention, whose output is in `attended`. */
static void run_after_self(const Model *m, const Layer *layer, int index, State *states, int clips, int rows,
                           Scratch *t) {
    quantize(t->attended, rows, m->width, t->values, t->factors);
    multiply_and_add(&layer->self_out, t->values, t->factors, rows, t->x);
    normalize(&layer->cross_norm, t->x, rows, m->width, t->normal);
    quantize(t->normal, rows, m->width, t->values, t->factors);
    multiply(&layer->cross_query, t->values, t->factors, rows, t->wide);
    for (int c = 0; c < clips; c++) {
        const size_t at = (size_t)states[c].first_row * m->width;
        attend(m, &states[c].audio, index, NULL, 0, t->wide + at, m->width, states[c].rows, t->weights, t->attended + at);
    }
    quantize(t->attended, rows, m->width, t->values, t->factors);
    multiply_and_add(&layer->cross_out, t->values, t->factors, rows, t->x);
    normalize(&layer->hidden_norm, t->x, rows, m->width, t->normal);
    quantize(t->normal, rows, m->width, t->values, t->factors);
    multiply_gelu(&layer->hidden_in, t->values, t->factors, rows, t->wide);
    quantize(t->wide, rows, m->hidden, t->values, t->factors);
    multiply_and_add(&layer->hidden_out, t->values, t->factors, rows, t->x);
}

static void run_before_self(const Model *m, const Layer *layer, int rows, Scratch *t) {
    normalize(&layer->self_norm, t->x, rows, m->width, t->normal);
    quantize(t->normal, rows, m->width, t->values, t->factors);
    multiply(&layer->self_in, t->values, t->factors, rows, t->wide);
}

static void compute_logits(const Model *m, const float *x, int rows, Scratch *t) {
    normalize(&m->norm, x, rows, m->width, t->normal);
    quantize(t->normal, rows, m->width, t->values, t->factors);
    multiply(&m->vocabulary, t->values, t->factors, rows, t->logits);
    for (int row = 0; row < rows; row++) {
        float *logits = t->logits + (size_t)row * m->vocabulary.outputs;
        for (int i = m->tokens; i < m->vocabulary.outputs; i++) logits[i] = MASKED;
    }
}

typedef struct { float peak, sum; } Mass; /* of probability: sum of exp(logit - peak) */

static Mass weigh(const float *logits, int count) {
    floats peaks = spread(MASKED), sums = {0};
    int i = 0;
    for (; i + LANES <= count; i += LANES) peaks = larger(peaks, load(logits + i));
    Mass mass = {largest_lane(peaks), 0};
    for (int tail = i; tail < count; tail++) mass.peak = logits[tail] > mass.peak ? logits[tail] : mass.peak;
    for (i = 0; i + LANES <= count; i += LANES) sums += exponential(load(logits + i) - mass.peak);
    mass.sum = add_lanes(sums);
    for (; i < count; i++) mass.sum += expf(logits[i] - mass.peak);
    return mass;
}
static float log_mass(Mass mass) { return mass.peak + logf(mass.sum); }

static float compute_no_speech(const Model *m, const Search *search, const float *logits) {
    return expf(logits[search->no_speech] - log_mass(weigh(logits, m->tokens)));
}

/* Reads all tokens of the prompt but the last. */
static void read_prompt(const Model *m, const Search *search, State *s, Scratch *t) {
    const int rows = s->prompt.count, width = m->width;
    if (!rows) return;
    for (int i = 0; i < rows; i++) embed(m, s->clip->prompt[i], i, t->x + (size_t)i * width);
    s->rows = rows;
    s->first_row = 0;
    for (int index = 0; index < m->layer_count; index++) {
        const Layer *layer = &m->layers[index];
        run_before_self(m, layer, rows, t);
        for (int i = 0; i < rows; i++) {
            const float *keys = t->wide + (size_t)i * 3 * width + width;
            remember(m, &s->prompt, index, i, keys, keys + width);
        }
        attend(m, &s->prompt, index, NULL, 1, t->wide, 3 * width, rows, t->weights, t->attended);
        run_after_self(m, layer, index, s, 1, rows, t);
    }
    if (s->clip->start < rows) {
        compute_logits(m, t->x + (size_t)s->clip->start * width, 1, t);
        s->clip->no_speech_probability = compute_no_speech(m, search, t->logits);
    }
}

/* ---- the search ---- */

static void fill(float *logits, int from, int to) {
    for (int i = from; i < to; i++) logits[i] = MASKED;
}

/* Masks the tokens that may not follow, and returns the log of the mass of those that may. */
static float apply_rules(const Model *m, const Search *search, const State *s, int row, float *logits) {
    for (int i = 0; i < search->suppressed_count; i++) logits[search->suppressed[i]] = MASKED;
    if (!s->step)
        for (int i = 0; i < search->suppressed_first_count; i++) logits[search->suppressed_first[i]] = MASKED;
    if (!search->timestamps) return log_mass(weigh(logits, m->tokens));
    const int begin = search->no_timestamps + 1;
    const int32_t *text = s->tokens + ((size_t)s->side * search->beam_size + row) * search->most_tokens;
    logits[search->no_timestamps] = MASKED;
    if (!s->step) { /* a timestamp comes first */
        fill(logits, 0, begin);
        fill(logits, search->latest_first + 1, m->tokens);
        return log_mass(weigh(logits, m->tokens));
    }
    int last = s->step - 1;
    while (last >= 0 && text[last] < begin) last--;
    fill(logits, begin, last >= 0 ? text[last] : begin); /* times do not fall */
    if (last == s->step - 1) {
        if (!last || text[last - 1] >= begin) { /* after a pair comes text */
            fill(logits, begin, m->tokens);
            return log_mass(weigh(logits, m->tokens));
        }
        fill(logits, 0, search->end); /* after one comes the other, or the end */
    }
    const Mass words = weigh(logits, begin), times = weigh(logits + begin, m->tokens - begin);
    if (log_mass(times) > words.peak) { /* together, they are likelier than any other token */
        fill(logits, 0, begin);
        return log_mass(times);
    }
    const float high = words.peak > times.peak ? words.peak : times.peak;
    return high + logf(words.sum * expf(words.peak - high) + times.sum * expf(times.peak - high));
}

/* Merges the tokens of a row into the candidates of its clip. */
static void collect_candidates(const Model *m, const Search *search, State *s, int row, const float *logits,
                               float shift) {
    const int most = 2 * search->beam_size;
    float limit = s->candidates < most ? -INFINITY : s->candidate_scores[most - 1];
    for (int i = 0; i < m->vocabulary.outputs; i += LANES) {
        const floats scores = load(logits + i) + shift;
        if (!any_above(scores, spread(limit))) continue;
        for (int lane = 0; lane < LANES; lane++) {
            const float score = scores[lane];
            if (!(score > limit)) continue;
            int at = s->candidates < most ? s->candidates++ : most - 1;
            for (; at && s->candidate_scores[at - 1] < score; at--) {
                s->candidate_scores[at] = s->candidate_scores[at - 1];
                s->candidate_tokens[at] = s->candidate_tokens[at - 1];
                s->candidate_rows[at] = s->candidate_rows[at - 1];
            }
            s->candidate_scores[at] = score;
            s->candidate_tokens[at] = i + lane;
            s->candidate_rows[at] = row;
            if (s->candidates == most) limit = s->candidate_scores[most - 1];
        }
    }
}

/* Keeps a finished text if it is the best so far. `last`: its last token, or -1. */
static void finish_text(State *s, const int32_t *text, int32_t last, float score) {
    Clip *clip = s->clip;
    const int length = s->step + (last >= 0);
    const float mean = length ? score / length : -INFINITY;
    if (s->finished++ && !(mean > clip->score)) return;
    clip->score = mean;
    clip->length = length;
    memcpy(clip->text, text, s->step * sizeof *text);
    if (last >= 0) clip->text[s->step] = last;
}

/* Extends the hypotheses of a clip by the best candidates. Returns whether the search goes on. */
static int advance(const Search *search, State *s) {
    const int size = search->beam_size, most = search->most_tokens;
    const int is_last = s->step + 1 >= s->clip->most_tokens;
    const int32_t *texts = s->tokens + (size_t)s->side * size * most;
    const uint8_t *paths = s->paths + (size_t)s->side * size * most;
    int32_t *next_texts = s->tokens + (size_t)!s->side * size * most;
    uint8_t *next_paths = s->paths + (size_t)!s->side * size * most;
    for (; s->candidates < 2 * size; s->candidates++) { /* the model computed no numbers */
        s->candidate_scores[s->candidates] = MASKED;
        s->candidate_tokens[s->candidates] = search->end;
        s->candidate_rows[s->candidates] = 0;
    }
    int spare = size; /* the next candidate that can take the place of a finished one */
    for (int k = 0; k < size; k++) {
        int chosen = k;
        const int32_t token = s->candidate_tokens[k];
        if (token == search->end || is_last) {
            finish_text(s, texts + (size_t)s->candidate_rows[k] * most, token == search->end ? -1 : token,
                        s->candidate_scores[k]);
            while (spare < s->candidates && s->candidate_tokens[spare] == search->end) spare++;
            if (spare < s->candidates) chosen = spare++;
        }
        const int parent = s->candidate_rows[chosen];
        memcpy(next_texts + (size_t)k * most, texts + (size_t)parent * most, s->step * sizeof *texts);
        next_texts[(size_t)k * most + s->step] = s->candidate_tokens[chosen];
        memcpy(next_paths + (size_t)k * most, paths + (size_t)parent * most, s->step);
        next_paths[(size_t)k * most + s->step] = (uint8_t)parent;
        s->scores[k] = s->candidate_scores[chosen];
    }
    s->side = !s->side;
    s->rows = size;
    s->step++;
    return !is_last && s->finished < search->candidates;
}

/* Writes the next token of all hypotheses of some clips. */
static void take_step(const Model *m, const Search *search, State *states, int clips, Scratch *t) {
    const int width = m->width, size = search->beam_size, most = search->most_tokens;
    const size_t pair = 2 * (size_t)width;
    int rows = 0;
    for (int c = 0; c < clips; c++) {
        State *s = &states[c];
        s->first_row = rows;
        for (int row = 0; row < s->rows; row++, rows++) {
            const size_t at = ((size_t)s->side * size + row) * most + s->step;
            const int32_t token = s->step ? s->tokens[at - 1] : s->clip->prompt[s->prompt.count];
            embed(m, token, s->prompt.count + s->step, t->x + (size_t)rows * width);
            s->paths[at] = (uint8_t)row;
        }
    }
    for (int index = 0; index < m->layer_count; index++) {
        const Layer *layer = &m->layers[index];
        run_before_self(m, layer, rows, t);
        for (int c = 0; c < clips; c++) {
            State *s = &states[c];
            const float *queries = t->wide + (size_t)s->first_row * 3 * width;
            half *text = s->text + (size_t)index * most * size * pair;
            for (int row = 0; row < s->rows; row++) {
                const float *keys = queries + (size_t)row * 3 * width + width;
                half *to = text + ((size_t)s->step * size + row) * pair;
                for (size_t i = 0; i < pair; i += LANES) store_half(to + i, load(keys + i));
            }
            const Tail tail = {text, s->paths + (size_t)s->side * size * most, s->step + 1, size, most};
            attend(m, &s->prompt, index, &tail, 0, queries, 3 * width, s->rows, t->weights,
                   t->attended + (size_t)s->first_row * width);
        }
        run_after_self(m, layer, index, states, clips, rows, t);
    }
    compute_logits(m, t->x, rows, t);
    for (int c = 0; c < clips; c++) {
        State *s = &states[c];
        s->candidates = 0;
        for (int row = 0; row < s->rows; row++) {
            float *logits = t->logits + (size_t)(s->first_row + row) * m->vocabulary.outputs;
            if (!s->step && s->clip->start == s->prompt.count)
                s->clip->no_speech_probability = compute_no_speech(m, search, logits);
            const float mass = apply_rules(m, search, s, row, logits);
            collect_candidates(m, search, s, row, logits, s->scores[row] - mass);
        }
    }
}

static void get_cache(const Model *m, Cache *cache, int count, int *failed) {
    cache->count = count;
    cache->padded = round_up(count, 2 * LANES);
    cache->keys = get_memory((size_t)m->layer_count * cache->padded * m->width, sizeof(half), failed);
    cache->values = get_memory((size_t)m->layer_count * cache->padded * m->width, sizeof(half), failed);
}

static void get_state(const Model *m, const Search *search, Clip *clip, State *s, int *failed) {
    const size_t size = search->beam_size, most = search->most_tokens;
    s->clip = clip;
    get_cache(m, &s->audio, clip->state_count, failed);
    get_cache(m, &s->prompt, clip->prompt_length - 1, failed);
    s->text = get_memory(m->layer_count * most * size * 2 * m->width, sizeof *s->text, failed);
    s->paths = get_memory(2 * size * most, sizeof *s->paths, failed);
    s->tokens = get_memory(2 * size * most, sizeof *s->tokens, failed);
    s->scores = get_memory(size, sizeof *s->scores, failed);
    s->candidate_scores = get_memory(2 * size, sizeof *s->candidate_scores, failed);
    s->candidate_tokens = get_memory(2 * size, sizeof *s->candidate_tokens, failed);
    s->candidate_rows = get_memory(2 * size, sizeof *s->candidate_rows, failed);
    if (!*failed) s->scores[0] = 0;
}

static void free_state(State *s) {
    void *owned[] = {s->audio.keys, s->audio.values, s->prompt.keys, s->prompt.values, s->text, s->paths,
                     s->tokens, s->scores, s->candidate_scores, s->candidate_tokens, s->candidate_rows};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
}

int lanes(void) { return LANES; }

/* The checksum of the source that this library was compiled from. */
uint32_t source(void) { return SOURCE; }

/* Whether this processor has the instructions. */
int usable(void) {
    __builtin_cpu_init();
#if LANES == 16
    return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw")
           && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#else
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
}

/* Decodes the text of clips. Returns 0, or -1 if there is not enough memory. */
int decode(const Model *m, const Search *search, Clip *clips, int count) {
    int failed = 0, most_rows = STATES_AT_ONCE, longest = 0;
    for (int c = 0; c < count; c++) {
        const Clip *clip = &clips[c];
        const int cached = clip->state_count > clip->prompt_length ? clip->state_count : clip->prompt_length;
        if (clip->prompt_length > most_rows) most_rows = clip->prompt_length;
        if (cached > longest) longest = cached;
    }
    if (count * search->beam_size > most_rows) most_rows = count * search->beam_size;
    const size_t rows = most_rows, width = m->width, widest = m->hidden > 3 * m->width ? m->hidden : 3 * m->width;
    State *states = calloc(count, sizeof *states), *finished = calloc(count, sizeof *states);
    if (!states || !finished) failed = 1;
    Scratch t = {
        .x = get_memory(rows * width, sizeof(float), &failed),
        .normal = get_memory(rows * width, sizeof(float), &failed),
        .attended = get_memory(rows * width, sizeof(float), &failed),
        .wide = get_memory(rows * widest, sizeof(float), &failed),
        .logits = get_memory((size_t)count * search->beam_size * m->vocabulary.outputs, sizeof(float), &failed),
        .weights = get_memory(GROUP * ((size_t)longest + search->most_tokens + 4 * LANES), sizeof(float), &failed),
        .factors = get_memory(rows, sizeof(float), &failed),
        .values = get_memory(rows * widest, 1, &failed),
    };
    int active = 0, ended = 0;
    for (; !failed && active < count; active++) {
        State *s = &states[active];
        get_state(m, search, &clips[active], s, &failed);
        if (failed) continue;
        project_states(m, s, &t);
        read_prompt(m, search, s, &t);
        s->rows = 1;
    }
    while (!failed && active) {
        take_step(m, search, states, active, &t);
        int kept = 0;
        for (int c = 0; c < active; c++)
            if (advance(search, &states[c])) states[kept++] = states[c];
            else finished[ended++] = states[c];
        active = kept;
    }
    for (int c = 0; c < active; c++) free_state(&states[c]);
    for (int c = 0; c < ended; c++) free_state(&finished[c]);
    free(states);
    free(finished);
    void *owned[] = {t.x, t.normal, t.attended, t.wide, t.logits, t.weights, t.factors, t.values};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
    return failed ? -1 : 0;
}
