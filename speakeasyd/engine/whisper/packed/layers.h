/* Linear layers, whose weights are packed once, and layer normalization.
 *
 * Inputs and weights are rounded to 8 or 16 bits. Pointers are to contiguous arrays; a "row" is one
 * frame or state, one token of a prompt, or one hypothesis in a step.
 */
#ifndef LAYERS_H
#define LAYERS_H

#include "vectors.h"

#define HEAD 64                /* width of an attention head in every Whisper model */
#define ATTENTION_SCALE 0.125f /* 1 / sqrt(HEAD) */
#define MASKED (-1e30f)        /* not an infinity, so that differences are defined */

/* The sizes of tiles were found by measurement. */
#define TILE_ROWS 6
#if LANES == 16
#define TILE_VECTORS 4
#else
#define TILE_VECTORS 2
#endif

/* The largest values after rounding. The sum of the products of 3 * 1280 inputs of 16 bits, those
 * of the widest convolution, fits into 32 bits. */
#define PEAK_8 127.0f
#define INPUT_PEAK_16 1023.0f
#define WEIGHT_PEAK_16 511.0f

typedef struct {
    void *weights;           /* [outputs / LANES][inputs * bytes / 4][LANES][4 bytes] */
    float *scales;           /* [outputs]: value of a product, besides the scale of the row */
    int32_t *weight_sums;    /* [outputs], of weights of 8 bits */
    const float *bias;       /* [outputs] */
    int32_t outputs, inputs; /* multiples of 16, inputs of 8 bits of 64; outputs are padded */
    int32_t bytes;           /* of a weight and of an input: 1 or 2 */
} Linear;

typedef struct {
    const float *gamma, *beta; /* [width] */
} Norm;

/* A layer of the encoder or the decoder. The encoder has no `cross_...`. */
typedef struct {
    Norm self_norm, cross_norm, hidden_norm;
    Linear self_in, self_out;                /* self_in: queries, keys and values */
    Linear cross_query, cross_in, cross_out; /* cross_in: keys and values of encoder states */
    Linear hidden_in, hidden_out;
} Layer;

/* Rows of inputs that are rounded to 8 or 16 bits, each with a scale of its own. */
typedef struct {
    uint8_t *values; /* [rows][inputs * bytes] */
    float *scales;   /* [rows] */
} Rounded;

static inline void *allocate(size_t count, size_t size, int *failed) {
    void *memory = *failed ? NULL : malloc(count * size + 1);
    if (!memory) *failed = 1;
    return memory;
}

/* With memory for a multiple of 16 rows. */
static inline Rounded allocate_rounded(size_t rows, size_t width, int bytes, int *failed) {
    rows += 15;
    return (Rounded){allocate(rows * width, bytes, failed), allocate(rows, sizeof(float), failed)};
}

enum { INT8, FLOAT16, FLOAT32 }; /* types of weights, as in packed_weights.py */

INLINE floats load_weights(const void *weights, int type, size_t at) {
    return type == INT8      ? load_bytes((const int8_t *)weights + at)
           : type == FLOAT16 ? load_halves((const half *)weights + at)
                             : load((const float *)weights + at);
}

INLINE float find_peak(const void *values, int type, size_t at, int count) {
    floats peaks = {0};
    for (int i = 0; i < count; i += LANES) {
        const floats x = load_weights(values, type, at + i);
        peaks = max_floats(peaks, max_floats(x, -x));
    }
    return reduce_max(peaks);
}

/* The factor with which values up to `peak` become integers up to `largest`. */
INLINE float compute_factor(float peak, float largest) { return peak > 0 ? largest / peak : 1.0f; }

INLINE void store_rounded(void *to, ints values, int bytes) {
    if (bytes == 1)
        store_bytes(to, values);
    else
        store_shorts(to, values);
}

/* The factor with which the weights of an output are rounded to so many bytes; those of int8 are
 * integers already. */
INLINE float find_weight_factor(const void *weights, int type, size_t at, int count, int bytes) {
    if (bytes == 2) return compute_factor(find_peak(weights, type, at, count), WEIGHT_PEAK_16);
    floats peaks = {0};
    for (int i = 0; i < count; i += LANES) {
        const floats x = load_weights(weights, type, at + i), none = {0};
        peaks = max_floats(
            peaks, max_floats(sum_group(max_floats(x, none)), sum_group(max_floats(-x, none))));
    }
    const float factor = compute_factor(reduce_max(peaks), PEAK_8);
    return type == INT8 && factor > 1 ? 1 : factor;
}

/* Packs the weights of one output, those from index `at` of int8, float16 or float32. `factor`:
 * that which those of int8 were multiplied with, else 1. */
INLINE void pack_output(const Linear *linear, int output, const void *weights, int type, size_t at,
                        float factor) {
    const int width = linear->inputs, bytes = linear->bytes, group = 4 / bytes;
    const float rounding = find_weight_factor(weights, type, at, width, bytes);
    int8_t *to = (int8_t *)linear->weights + (size_t)(output / LANES) * width * bytes * LANES
                 + output % LANES * 4;
    int32_t sum = 0;
    for (int i = 0; i < width; i += LANES) {
        int8_t rounded[2 * LANES];
        store_rounded(rounded, round_floats(load_weights(weights, type, at + i) * rounding), bytes);
        for (int k = 0; k < LANES; k += group)
            memcpy(to + (size_t)(i + k) / group * LANES * 4, rounded + k * bytes, 4);
        if (bytes == 1)
            for (int k = 0; k < LANES; k++) sum += rounded[k];
    }
    linear->scales[output] = 1.0f / (factor * rounding);
    if (bytes == 1) linear->weight_sums[output] = sum;
}

/* Rounds rows that begin `stride` floats apart. */
INLINE void round_rows(const float *inputs, size_t stride, int rows, int width, int bytes,
                       Rounded to) {
    for (int row = 0; row < rows; row++, inputs += stride) {
        const float factor = compute_factor(find_peak(inputs, FLOAT32, 0, width),
                                            bytes == 1 ? PEAK_8 : INPUT_PEAK_16);
        uint8_t *of_row = to.values + (size_t)row * width * bytes;
        to.scales[row] = 1.0f / factor;
        for (int i = 0; i < width; i += LANES)
            store_rounded(of_row + i * bytes,
                          round_floats(load(inputs + i) * factor) + (bytes == 1 ? ZERO_POINT : 0),
                          bytes);
    }
}

typedef enum { STORE, ADD, STORE_GELU } Epilogue;

/* What the sums of the products for a vector of outputs are multiplied with, and what is added. */
typedef struct {
    floats scales, bias;
    ints shift;
} Outputs;

INLINE Outputs load_outputs(const Linear *linear, int first, const int bytes) {
    return (Outputs){
        load(linear->scales + first),
        load(linear->bias + first),
        bytes == 1 ? load_ints(linear->weight_sums + first) * ZERO_POINT : (ints){0},
    };
}

INLINE void store_outputs(Outputs of, ints sums, float row_scale, float *to,
                          const Epilogue epilogue) {
    floats x = __builtin_convertvector(sums - of.shift, floats);
    x = x * (of.scales * row_scale) + of.bias;
    store(to, epilogue == ADD ? load(to) + x : epilogue == STORE_GELU ? compute_gelu(x) : x);
}

INLINE void multiply_tile(const Linear *linear, const uint8_t *inputs, const float *row_scales,
                          int vector, float *out, const Epilogue epilogue, const int bytes,
                          const int rows, const int vectors) {
    const int width = linear->inputs * bytes;
    const size_t vector_size = (size_t)width * LANES;
    const int8_t *weights = (const int8_t *)linear->weights + vector * vector_size;
    ints sums[TILE_ROWS][TILE_VECTORS];
    for (int row = 0; row < rows; row++)
        for (int v = 0; v < vectors; v++) sums[row][v] = (ints){0};
    for (int i = 0; i < width; i += 4)
        for (int row = 0; row < rows; row++) {
            const uint8_t *from = inputs + (size_t)row * width + i;
            for (int v = 0; v < vectors; v++) {
                const int8_t *of_group = weights + v * vector_size + i * LANES;
                sums[row][v] = bytes == 1 ? add_dot_products_8(sums[row][v], from, of_group)
                                          : add_dot_products_16(sums[row][v], from, of_group);
            }
        }
    for (int v = 0; v < vectors; v++) {
        const int first = (vector + v) * LANES;
        const Outputs of = load_outputs(linear, first, bytes);
        for (int row = 0; row < rows; row++)
            store_outputs(of, sums[row][v], row_scales[row],
                          out + (size_t)row * linear->outputs + first, epilogue);
    }
}

#ifdef __AMX_INT8__
/* Eight registers of 16 rows of 64 bytes. */
static const struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} TILE_REGISTERS = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

/* sums[upper left, upper right, lower left, lower right][row][output] = the products of 16 or 32
 * rows of inputs with the weights of 16 or 32 outputs. */
INLINE void sum_products(const uint8_t *inputs, const int8_t *weights, int width,
                         int32_t sums[4][16][16], const int is_tall, const int is_wide) {
    const uint8_t *lower = inputs + (size_t)16 * width;
    const int8_t *right = weights + (size_t)16 * width;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int i = 0; i < width; i += 64) {
        _tile_loadd(4, inputs + i, width);
        _tile_loadd(5, weights + i * 16, 64);
        _tile_dpbusd(0, 4, 5);
        if (is_wide) _tile_loadd(6, right + i * 16, 64);
        if (is_wide) _tile_dpbusd(1, 4, 6);
        if (is_tall) _tile_loadd(7, lower + i, width);
        if (is_tall) _tile_dpbusd(2, 7, 5);
        if (is_tall && is_wide) _tile_dpbusd(3, 7, 6);
    }
    _tile_stored(0, sums[0], 64);
    _tile_stored(1, sums[1], 64);
    _tile_stored(2, sums[2], 64);
    _tile_stored(3, sums[3], 64);
}

/* As `multiply_tiles`, for inputs of 8 bits. Reads memory up to the next multiple of 16 rows. */
INLINE void multiply_blocks(const Linear *linear, Rounded inputs, int rows, float *out,
                            const Epilogue epilogue) {
    const int width = linear->inputs, outputs = linear->outputs;
    int32_t sums[4][16][16];
    __asm__ volatile("" ::: "memory"); /* GCC does not know that a register is loaded from memory */
    _tile_loadconfig(&TILE_REGISTERS);
    for (int first = 0; first < outputs; first += 32) {
        const int8_t *weights = (const int8_t *)linear->weights + (size_t)first * width;
        const int columns = min_int(outputs - first, 32);
        for (int top = 0; top < rows; top += 32) {
            const uint8_t *from = inputs.values + (size_t)top * width;
            const int count = min_int(rows - top, 32);
            if (count > 16 && columns == 32)
                sum_products(from, weights, width, sums, 1, 1);
            else if (columns == 32)
                sum_products(from, weights, width, sums, 0, 1);
            else if (count > 16)
                sum_products(from, weights, width, sums, 1, 0);
            else
                sum_products(from, weights, width, sums, 0, 0);
            for (int column = 0; column < columns; column += 16) {
                const Outputs of = load_outputs(linear, first + column, 1);
                for (int row = 0; row < count; row++)
                    store_outputs(of, load_ints(sums[row / 16 * 2 + column / 16][row % 16]),
                                  inputs.scales[top + row],
                                  out + (size_t)(top + row) * outputs + first + column, epilogue);
            }
        }
    }
    _tile_release();
}
#endif

/* out[rows][outputs] = the products of the rounded rows. */
INLINE void multiply_tiles(const Linear *linear, Rounded inputs, int rows, float *out,
                           const Epilogue epilogue, const int bytes) {
#ifdef __AMX_INT8__
    if (bytes == 1 && rows > TILE_ROWS) { /* for fewer, vectors are faster */
        multiply_blocks(linear, inputs, rows, out, epilogue);
        return;
    }
#endif
    const int vectors = linear->outputs / LANES;
    for (int vector = 0, taken; vector < vectors; vector += taken) {
        taken = vectors - vector >= TILE_VECTORS ? TILE_VECTORS : 1;
        for (int row = 0, group; row < rows; row += group) {
            group = min_int(rows - row, TILE_ROWS);
            const uint8_t *values = inputs.values + (size_t)row * linear->inputs * bytes;
            const float *scales = inputs.scales + row;
            float *to = out + (size_t)row * linear->outputs;
#define CASE(n)                                                                                  \
    case n:                                                                                      \
        if (taken == 1)                                                                          \
            multiply_tile(linear, values, scales, vector, to, epilogue, bytes, n, 1);            \
        else                                                                                     \
            multiply_tile(linear, values, scales, vector, to, epilogue, bytes, n, TILE_VECTORS); \
        break;
            switch (group) {
                CASE(1)
                CASE(2)
                CASE(3)
                CASE(4)
                CASE(5)
                CASE(6)
            }
#undef CASE
        }
    }
}

/* Each is a function of its own, so that the tiles are compiled for one epilogue and width. */
#define FUNCTION(name, epilogue, bytes)                                                      \
    static __attribute__((unused, noinline)) void name(const Linear *linear, Rounded inputs, \
                                                       int rows, float *out) {               \
        multiply_tiles(linear, inputs, rows, out, epilogue, bytes);                          \
    }
FUNCTION(store_products_8, STORE, 1)
FUNCTION(add_products_8, ADD, 1)
FUNCTION(activate_products_8, STORE_GELU, 1)
FUNCTION(add_products_16, ADD, 2)
FUNCTION(activate_products_16, STORE_GELU, 2)
#undef FUNCTION

/* Applies a linear layer with weights of 8 bits to inputs [rows][linear->inputs]. `rounded`: memory
 * for the inputs. */
static inline void apply_linear(const Linear *linear, const float *inputs, int rows, float *out,
                                Epilogue epilogue, Rounded rounded) {
    round_rows(inputs, linear->inputs, rows, linear->inputs, 1, rounded);
    switch (epilogue) {
        case STORE: store_products_8(linear, rounded, rows, out); break;
        case ADD: add_products_8(linear, rounded, rows, out); break;
        case STORE_GELU: activate_products_8(linear, rounded, rows, out); break;
    }
}

/* Layer normalization. */
static inline void normalize(const Norm *norm, const float *inputs, int rows, int width,
                             float *out) {
    for (int row = 0; row < rows; row++, inputs += width, out += width) {
        floats sum = {0}, squares = {0};
        for (int i = 0; i < width; i += LANES) sum += load(inputs + i);
        const float mean = reduce_add(sum) / width;
        for (int i = 0; i < width; i += LANES) {
            const floats difference = load(inputs + i) - mean;
            squares += difference * difference;
        }
        const float scale = 1.0f / sqrtf(reduce_add(squares) / width + 1e-5f);
        for (int i = 0; i < width; i += LANES) {
            const floats x = (load(inputs + i) - mean) * scale;
            store(out + i, x * load(norm->gamma + i) + load(norm->beta + i));
        }
    }
}

#endif
