/* The encoder of Whisper on one thread.
 *
 * Linear layers multiply integers of 8 bits, as CTranslate2 does with compute type int8. Attention
 * and convolutions, where CTranslate2 multiplies floats, also multiply integers: of 8 bits for the
 * scores of attention, of 16 bits for the weighted sums of values and for convolutions. Each clip
 * has a window of its own.
 */
#include "layers.h"

#define BLOCK 128         /* states computed at a time: their values fit into the cache */
#define ATTENTION_ROWS 30 /* queries that share the loading of keys and values */

/* The largest shares and values after rounding. The sum of the products of a block fits into 32
 * bits. */
#define ATTENTION_PEAK_16 4095.0f
#define LEAST_PEAK 1e-30f /* of values before rounding, so that the factor of zeros is finite */

typedef struct {
    Linear conv1, conv2; /* their inputs: three frames, one after another */
    Norm norm;
    const float *positions; /* [1500][width] */
    const Layer *layers;
    int32_t layer_count, width, hidden, mels;
} Encoder;

/* The attention of one layer. A query's score for each state is the product with the state's key;
 * its result is the sum of the values of all states, each times the share of attention that the
 * scores give it. So the keys of a block of states are packed as the weights of a linear layer from
 * queries to scores, and the values as those of one from shares to results. */
typedef struct {
    Rounded queries;       /* [heads][count][HEAD] */
    Linear *keys, *values; /* [heads][blocks] */
    int count, blocks;     /* count: of states; the last block may have fewer than the others */
    float *scores;         /* [blocks][rows][BLOCK] */
    Rounded shares;        /* as `scores` */
} Attention;

typedef struct {
    float *normal, *attended; /* [BLOCK][width] */
    float *projected;         /* [2 * BLOCK + 1][largest width of a product] */
    Rounded rounded;          /* as `projected` */
    Attention attention;
} Workspace;

static const float NO_BIAS[BLOCK];

/* Computes states [rows][width] from the mel frames [2 * rows + 3][mels] around them. */
static void convolve(const Encoder *e, int first, int rows, const float *frames, float *states,
                     const Workspace *w) {
    const int width = e->width, inner = 2 * rows + 1;
    round_rows(frames, e->mels, inner, 3 * e->mels, 2, w->rounded);
    activate_products_16(&e->conv1, w->rounded, inner, w->projected);
    if (!first) memset(w->projected, 0, width * sizeof(float)); /* the padding before the window */
    round_rows(w->projected, 2 * width, rows, 3 * width, 2, w->rounded);
    activate_products_16(&e->conv2, w->rounded, rows, states);
    const float *positions = e->positions + (size_t)first * width;
    for (int i = 0; i < rows * width; i += LANES)
        store(states + i, load(states + i) + load(positions + i));
}

/* Packs values [rows][HEAD], `stride` floats apart: each lane gets those of two states. */
static void pack_values(const Linear *linear, const float *values, size_t stride, int rows) {
    int32_t *to = linear->weights;
    for (int i = 0; i < HEAD; i += LANES, values += LANES) {
        floats peaks = broadcast(LEAST_PEAK);
        for (int row = 0; row < rows; row++) {
            const floats x = load(values + row * stride);
            peaks = max_floats(peaks, max_floats(x, -x));
        }
        const floats factors = ATTENTION_PEAK_16 / peaks;
        store(linear->scales + i, 1.0f / factors);
        for (int row = 0; row < BLOCK; row += 2, to += LANES) {
            ints pair[2] = {{0}, {0}};
            for (int k = 0; k < 2 && row + k < rows; k++)
                pair[k] = round_floats(load(values + (row + k) * stride) * factors);
            const ints packed = (pair[0] & 0xffff) | (pair[1] << 16);
            memcpy(to, &packed, sizeof packed);
        }
    }
}

/* The queries of a head from the state `first` on. */
static Rounded find_queries(const Attention *a, int head, int first) {
    const size_t at = (size_t)head * a->count + first;
    return (Rounded){a->queries.values + at * HEAD, a->queries.scales + at};
}

/* Rounds and packs the queries, keys and values [rows][3][width] of the states from `first` on. */
static void prepare_attention(const Encoder *e, int first, int rows, const float *projected,
                              const Attention *a) {
    const int width = e->width, stride = 3 * width;
    for (int head = 0; head < width / HEAD; head++, projected += HEAD) {
        const size_t block = (size_t)head * a->blocks + first / BLOCK;
        const Rounded queries = find_queries(a, head, first);
        round_rows(projected, stride, rows, HEAD, 1, queries);
        for (int row = 0; row < rows; row++) {
            queries.scales[row] *= ATTENTION_SCALE;
            pack_output(&a->keys[block], row, projected + width, FLOAT32, (size_t)row * stride, 1);
        }
        pack_values(&a->values[block], projected + 2 * width, stride, rows);
    }
}

/* Rounds the exponentials of a row's scores, relative to the largest. */
static void compute_shares(const Attention *a, int rows, int row) {
    const size_t stride = (size_t)rows * BLOCK, end = a->blocks * stride;
    const float *scores = a->scores + row * BLOCK;
    int16_t *shares = (int16_t *)a->shares.values + row * BLOCK;
    floats peaks = broadcast(MASKED);
    for (size_t at = 0; at < end; at += stride)
        for (int i = 0; i < BLOCK; i += LANES) peaks = max_floats(peaks, load(scores + at + i));
    const float peak = reduce_max(peaks);
    ints sums = {0};
    for (size_t at = 0; at < end; at += stride)
        for (int i = 0; i < BLOCK; i += LANES) {
            const floats share = exponential(load(scores + at + i) - peak);
            const ints rounded = round_floats(share * ATTENTION_PEAK_16);
            store_shorts(shares + at + i, rounded);
            sums += rounded;
        }
    a->shares.scales[row] = 1.0f / reduce_add(__builtin_convertvector(sums, floats));
}

/* out[rows][width] = the attention of one head's queries from `first` on. */
static void attend(const Attention *a, int head, int first, int rows, float *out, int width) {
    const size_t next = (size_t)rows * BLOCK;
    const Rounded queries = find_queries(a, head, first);
    const Linear *keys = a->keys + (size_t)head * a->blocks;
    const Linear *values = a->values + (size_t)head * a->blocks;
    for (int block = 0; block < a->blocks; block++)
        store_products_8(&keys[block], queries, rows, a->scores + block * next);
    for (int row = 0; row < rows; row++) {
        float *last = a->scores + (a->blocks - 1) * next + row * BLOCK;
        for (int i = a->count; i < a->blocks * BLOCK; i++) last[i % BLOCK] = MASKED;
        compute_shares(a, rows, row);
    }
    float sums[ATTENTION_ROWS * HEAD] = {0};
    for (int block = 0; block < a->blocks; block++) {
        const Rounded shares = {a->shares.values + block * next * 2, a->shares.scales};
        add_products_16(&values[block], shares, rows, sums);
    }
    for (int row = 0; row < rows; row++)
        memcpy(out + (size_t)row * width, sums + row * HEAD, HEAD * sizeof *out);
}

static void run_layer(const Encoder *e, const Layer *layer, float *states, const Workspace *w) {
    const int width = e->width, count = w->attention.count;
    for (int first = 0; first < count; first += BLOCK) {
        const int rows = min_int(count - first, BLOCK);
        normalize(&layer->self_norm, states + (size_t)first * width, rows, width, w->normal);
        apply_linear(&layer->self_in, w->normal, rows, w->projected, STORE, w->rounded);
        prepare_attention(e, first, rows, w->projected, &w->attention);
    }
    for (int first = 0; first < count; first += BLOCK) {
        const int rows = min_int(count - first, BLOCK);
        float *x = states + (size_t)first * width;
        for (int head = 0; head < width / HEAD; head++)
            for (int row = 0; row < rows; row += ATTENTION_ROWS)
                attend(&w->attention, head, first + row, min_int(rows - row, ATTENTION_ROWS),
                       w->attended + (size_t)row * width + head * HEAD, width);
        apply_linear(&layer->self_out, w->attended, rows, x, ADD, w->rounded);
        normalize(&layer->hidden_norm, x, rows, width, w->normal);
        apply_linear(&layer->hidden_in, w->normal, rows, w->projected, STORE_GELU, w->rounded);
        apply_linear(&layer->hidden_out, w->projected, rows, x, ADD, w->rounded);
    }
}

/* ---- memory of a call ---- */

/* Linear layers with memory for their weights in one piece. */
static Linear *allocate_linears(size_t count, int outputs, int inputs, int bytes, int *failed) {
    const size_t weights = (size_t)outputs * inputs * bytes, row = outputs * sizeof(float);
    const size_t size = sizeof(Linear) + weights + 2 * row;
    Linear *linears = allocate(count, size, failed);
    char *memory = (char *)(linears + count);
    for (size_t i = 0; i < count && !*failed; i++, memory += weights + 2 * row)
        linears[i] = (Linear){
            .weights = memory,
            .scales = (float *)(memory + weights),
            .weight_sums = (int32_t *)(memory + weights + row),
            .bias = NO_BIAS,
            .outputs = outputs,
            .inputs = inputs,
            .bytes = bytes,
        };
    return linears;
}

static Attention allocate_attention(const Encoder *e, int count, int *failed) {
    const int blocks = (count + BLOCK - 1) / BLOCK, heads = e->width / HEAD;
    const size_t padded = (size_t)blocks * BLOCK;
    return (Attention){
        .queries = allocate_rounded((size_t)heads * count, HEAD, 1, failed),
        .keys = allocate_linears(heads * blocks, BLOCK, HEAD, 1, failed),
        .values = allocate_linears(heads * blocks, HEAD, BLOCK, 2, failed),
        .count = count,
        .blocks = blocks,
        .scores = allocate(ATTENTION_ROWS * padded, sizeof(float), failed),
        .shares = allocate_rounded(ATTENTION_ROWS, padded, 2, failed),
    };
}

static Workspace allocate_workspace(const Encoder *e, int count, int *failed) {
    const size_t width = e->width, rows = 2 * BLOCK + 1;
    const size_t widest = max_int(e->hidden, 3 * max_int(e->mels, e->width));
    return (Workspace){
        .normal = allocate(BLOCK * width, sizeof(float), failed),
        .attended = allocate(BLOCK * width, sizeof(float), failed),
        .projected = allocate(rows * widest, sizeof(float), failed),
        .rounded = allocate_rounded(rows, widest, 2, failed),
        .attention = allocate_attention(e, count, failed),
    };
}

static void free_workspace(Workspace *w) {
    Attention *a = &w->attention;
    void *owned[] = {w->normal,         w->attended,       w->projected,     w->rounded.values,
                     w->rounded.scales, a->queries.values, a->keys,          a->queries.scales,
                     a->values,         a->scores,         a->shares.values, a->shares.scales};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
}

/* Encodes a window of mel frames [2 + 2 * count + 1][mels], the first two and the last of which are
 * 0, to states [count][width]; count: 1 to 1500. Returns 0, or -1 if there is not enough memory. */
EXPORT int encode_window(const Encoder *e, const float *frames, int count, float *states) {
    int failed = 0;
    Workspace w = allocate_workspace(e, count, &failed);
    for (int first = 0; first < count && !failed; first += BLOCK)
        convolve(e, first, min_int(count - first, BLOCK), frames + (size_t)2 * first * e->mels,
                 states + (size_t)first * e->width, &w);
    for (int layer = 0; layer < e->layer_count && !failed; layer++)
        run_layer(e, &e->layers[layer], states, &w);
    if (!failed) normalize(&e->norm, states, count, e->width, states);
    free_workspace(&w);
    return failed ? -1 : 0;
}
