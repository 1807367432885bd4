/* The decoder of Whisper on one thread.
 *
 * The computation is that of CTranslate2 with compute type int8: products of 8-bit integers, the
 * same beam search, the same rules for timestamps. Keys and values are stored as 16-bit floats, which
 * halves the memory that a step reads. Clips with windows and prompts of any length share a call;
 * the text of a clip does not depend on the others.
 */
#include "layers.h"

#define QUERY_ROWS 5  /* that share the loading of a key or value: a beam */
#define STATE_ROWS 96 /* encoder states projected at a time: their values fit into the cache */
#if LANES == 16
#define VALUE_VECTORS 4
#else
#define VALUE_VECTORS 2
#endif

typedef struct {
    const Layer *layers;
    Linear vocabulary; /* the embeddings of tokens, and the output layer */
    Norm norm;
    const float *positions;                     /* [448][width] */
    int32_t layer_count, width, hidden, tokens; /* tokens: without those that pad the vocabulary */
} Decoder;

typedef struct {
    int32_t beam_size;                     /* at most 256 */
    int32_t max_finished;                  /* a search ends when it has so many finished texts */
    int32_t capacity;                      /* tokens of a text, of any clip */
    int32_t end, no_speech, no_timestamps; /* tokens; timestamps follow `no_timestamps` */
    int32_t has_timestamps;
    int32_t latest_first; /* token: the latest timestamp with which a text may begin */
    const int32_t *suppressed, *suppressed_first; /* tokens never written, and never first */
    int32_t suppressed_count, suppressed_first_count;
} Search;

typedef struct {
    const float *states;   /* [state_count][width], of the encoder */
    const int32_t *prompt; /* [prompt_length] */
    int32_t state_count, prompt_length;
    int32_t start;      /* index in the prompt of "start of transcript" */
    int32_t max_tokens; /* of its text */
    /* results */
    int32_t *text; /* [capacity] */
    int32_t length;
    float score; /* mean log probability of a token */
    float no_speech_probability;
} Clip;

/* ---- memory of a call ---- */

/* Arrays for a number of rows. */
typedef struct {
    float *x, *normal, *attended; /* [rows][width] */
    float *projected;             /* [rows][largest width of a product] */
    float *logits;                /* [hypotheses][padded tokens] */
    float *scores;                /* of attention */
    Rounded rounded;              /* as `projected` */
} Workspace;

/* Keys and values that all hypotheses of a clip share: of encoder states, or of the prompt. */
typedef struct {
    half *keys;   /* [layers][heads][padded / LANES][HEAD][LANES] */
    half *values; /* [layers][heads][padded][HEAD] */
    int count;    /* states or tokens */
    int padded;   /* to a multiple of 2 * LANES */
} SharedCache;

/* Keys and values of the hypotheses of a clip in one layer, from the last token of its prompt on.
 */
typedef struct {
    const half *keys_values;  /* [steps][beam_size][2][width] */
    const uint8_t *ancestors; /* [rows][capacity]: the hypothesis that a row continues, by step */
    int steps, beam_size, capacity;
} TextCache;

typedef struct {
    Clip *clip;
    SharedCache audio, prompt; /* prompt: without its last token */
    half *text;                /* [layers][capacity][beam_size][2][width]: see `TextCache` */
    uint8_t *ancestors;        /* [2][beam_size][capacity] */
    int32_t *tokens;           /* [2][beam_size][capacity] */
    int current;               /* 0 or 1: the half of `ancestors` and `tokens` in use */
    float *scores;             /* [beam_size]: sums of log probabilities */
    int step;                  /* tokens written so far */
    int rows;                  /* hypotheses: 1 in the first step, then the beam's size */
    int first_row;             /* of this clip in the arrays of the call */
    int finished;              /* number of finished texts */
    float *candidate_scores;   /* [2 * beam_size], falling */
    int32_t *candidate_tokens, *candidate_rows;
    int candidates;
} ClipState;

/* ---- attention ---- */

static size_t find_head(const Decoder *m, const SharedCache *cache, int layer, int head) {
    return ((size_t)layer * (m->width / HEAD) + head) * cache->padded * HEAD;
}

/* Stores the keys and values of one state or token, [width] each. */
static void store_key_value(const Decoder *m, SharedCache *cache, int layer, int index,
                            const float *keys, const float *values) {
    for (int head = 0; head < m->width / HEAD; head++, keys += HEAD, values += HEAD) {
        const size_t at = find_head(m, cache, layer, head);
        half *to = cache->keys + at + (size_t)(index / LANES) * HEAD * LANES + index % LANES;
        half key[HEAD];
        for (int i = 0; i < HEAD; i += LANES) {
            store_halves(key + i, load(keys + i));
            store_halves(cache->values + at + (size_t)index * HEAD + i, load(values + i));
        }
        for (int i = 0; i < HEAD; i++) to[i * LANES] = key[i];
    }
}

/* scores[0 .. count) become their exponentials, relative to the largest; returns 1 / their sum.
 * Memory up to the next multiple of LANES is written. */
static float exponentiate(float *scores, int count) {
    const int padded = round_up(count, LANES);
    for (int i = count; i < padded; i++) scores[i] = MASKED;
    floats peaks = broadcast(MASKED), sums = {0};
    for (int i = 0; i < padded; i += LANES) peaks = max_floats(peaks, load(scores + i));
    const float peak = reduce_max(peaks);
    for (int i = 0; i < padded; i += LANES) {
        const floats weights = exponential(load(scores + i) - peak);
        store(scores + i, weights);
        sums += weights;
    }
    return 1.0f / reduce_add(sums);
}

/* scores[row][i] = the product of query and key i. `stride`: of scores. */
INLINE void score_keys(const float *queries, int query_stride, const half *keys, int padded,
                       float *scores, int stride, const int rows) {
    for (int first = 0; first < padded; first += 2 * LANES, keys += 2 * LANES * HEAD) {
        floats sums[QUERY_ROWS][2];
        for (int row = 0; row < rows; row++) sums[row][0] = sums[row][1] = (floats){0};
        for (int i = 0; i < HEAD; i++) {
            const floats a = load_halves(keys + i * LANES),
                         b = load_halves(keys + (HEAD + i) * LANES);
            for (int row = 0; row < rows; row++) {
                const floats query = broadcast(queries[row * query_stride + i]);
                sums[row][0] += query * a;
                sums[row][1] += query * b;
            }
        }
        for (int row = 0; row < rows; row++) {
            store(scores + row * stride + first, sums[row][0] * ATTENTION_SCALE);
            store(scores + row * stride + first + LANES, sums[row][1] * ATTENTION_SCALE);
        }
    }
}

/* out[row] = the sum of weighted values. `stride`: of weights. */
INLINE void sum_values(const float *weights, int stride, const half *values, int count, float *out,
                       int width, const int rows) {
    for (int part = 0; part < HEAD; part += VALUE_VECTORS * LANES) {
        floats sums[QUERY_ROWS][VALUE_VECTORS];
        for (int row = 0; row < rows; row++)
            for (int v = 0; v < VALUE_VECTORS; v++) sums[row][v] = (floats){0};
        for (int i = 0; i < count; i++) {
            floats value[VALUE_VECTORS];
            for (int v = 0; v < VALUE_VECTORS; v++)
                value[v] = load_halves(values + (size_t)i * HEAD + part + v * LANES);
            for (int row = 0; row < rows; row++) {
                const floats weight = broadcast(weights[row * stride + i]);
                for (int v = 0; v < VALUE_VECTORS; v++) sums[row][v] += weight * value[v];
            }
        }
        for (int row = 0; row < rows; row++)
            for (int v = 0; v < VALUE_VECTORS; v++)
                store(out + row * width + part + v * LANES, sums[row][v]);
    }
}

INLINE const half *find_text_key(const TextCache *text, int row, int step, int width) {
    const int hypothesis = text->ancestors[row * text->capacity + step];
    return text->keys_values + ((size_t)step * text->beam_size + hypothesis) * 2 * width;
}

/* One head of some rows, which begins at `head` in keys and values of the text. counts[row]: how
 * much of the shared keys and values a row attends to, rising. */
INLINE void attend_rows(const half *keys, const half *values, const int *counts,
                        const TextCache *text, int first_row, int head, const float *queries,
                        int query_stride, float *scores, float *out, int width, const int rows) {
    const int count = counts[rows - 1], padded = round_up(count, 2 * LANES);
    const int steps = text ? text->steps : 0, stride = round_up(padded + steps, LANES);
    float scales[QUERY_ROWS];
    score_keys(queries, query_stride, keys, padded, scores, stride, rows);
    for (int row = 0; row < rows; row++) {
        float *of_row = scores + row * stride;
        for (int i = counts[row]; i < padded; i++) of_row[i] = MASKED;
        for (int step = 0; step < steps; step++) {
            const half *key = find_text_key(text, first_row + row, step, width) + head;
            floats sum = {0};
            for (int i = 0; i < HEAD; i += LANES)
                sum += load(queries + row * query_stride + i) * load_halves(key + i);
            of_row[padded + step] = reduce_add(sum) * ATTENTION_SCALE;
        }
        scales[row] = exponentiate(of_row, padded + steps);
    }
    sum_values(scores, stride, values, count, out, width, rows);
    for (int row = 0; row < rows; row++) {
        floats sums[HEAD / LANES];
        for (int v = 0; v < HEAD / LANES; v++) sums[v] = load(out + row * width + v * LANES);
        for (int step = 0; step < steps; step++) {
            const half *value = find_text_key(text, first_row + row, step, width) + width + head;
            const floats weight = broadcast(scores[row * stride + padded + step]);
            for (int v = 0; v < HEAD / LANES; v++)
                sums[v] += weight * load_halves(value + v * LANES);
        }
        for (int v = 0; v < HEAD / LANES; v++)
            store(out + row * width + v * LANES, sums[v] * scales[row]);
    }
}

/* out[rows][width] = the attention of queries, `stride` apart, over the shared keys and values, and
 * over those of the text if they are given. `causal`: row i attends to the first i + 1. */
static void attend(const Decoder *m, const SharedCache *cache, int layer, const TextCache *text,
                   int causal, const float *queries, int stride, int rows, float *scores,
                   float *out) {
    for (int head = 0; head < m->width / HEAD; head++) {
        const half *keys = cache->keys + find_head(m, cache, layer, head);
        const half *values = cache->values + find_head(m, cache, layer, head);
        for (int row = 0, group; row < rows; row += group) {
            group = min_int(rows - row, QUERY_ROWS);
            int counts[QUERY_ROWS];
            for (int i = 0; i < group; i++) counts[i] = causal ? row + i + 1 : cache->count;
            const float *from = queries + (size_t)row * stride + head * HEAD;
            float *to = out + (size_t)row * m->width + head * HEAD;
#define CASE(n)                                                                            \
    case n:                                                                                \
        attend_rows(keys, values, counts, text, row, head *HEAD, from, stride, scores, to, \
                    m->width, n);                                                          \
        break;
            switch (group) { CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) }
#undef CASE
        }
    }
}

/* ---- layers ---- */

static void embed_token(const Decoder *m, int32_t token, int position, float *out) {
    const Linear *table = &m->vocabulary;
    const int8_t *weights = (const int8_t *)table->weights
                            + (size_t)(token / LANES) * m->width * LANES + token % LANES * 4;
    for (int i = 0; i < m->width; i++)
        out[i] = weights[(size_t)(i / 4) * LANES * 4 + i % 4] * table->scales[token]
                 + m->positions[(size_t)position * m->width + i];
}

/* w->projected = queries, keys and values of the rows in w->x. */
static void project_self_attention(const Decoder *m, const Layer *layer, int rows, Workspace *w) {
    normalize(&layer->self_norm, w->x, rows, m->width, w->normal);
    apply_linear(&layer->self_in, w->normal, rows, w->projected, STORE, w->rounded);
}

/* Adds to w->x what follows self-attention, whose output is in w->attended. */
static void run_rest_of_layer(const Decoder *m, int index, const ClipState *clips, int count,
                              int rows, Workspace *w) {
    const Layer *layer = &m->layers[index];
    const size_t width = m->width;
    apply_linear(&layer->self_out, w->attended, rows, w->x, ADD, w->rounded);
    normalize(&layer->cross_norm, w->x, rows, m->width, w->normal);
    apply_linear(&layer->cross_query, w->normal, rows, w->projected, STORE, w->rounded);
    for (int c = 0; c < count; c++) {
        const size_t at = clips[c].first_row * width;
        attend(m, &clips[c].audio, index, NULL, 0, w->projected + at, m->width, clips[c].rows,
               w->scores, w->attended + at);
    }
    apply_linear(&layer->cross_out, w->attended, rows, w->x, ADD, w->rounded);
    normalize(&layer->hidden_norm, w->x, rows, m->width, w->normal);
    apply_linear(&layer->hidden_in, w->normal, rows, w->projected, STORE_GELU, w->rounded);
    apply_linear(&layer->hidden_out, w->projected, rows, w->x, ADD, w->rounded);
}

static void compute_logits(const Decoder *m, const float *x, int rows, Workspace *w) {
    normalize(&m->norm, x, rows, m->width, w->normal);
    apply_linear(&m->vocabulary, w->normal, rows, w->logits, STORE, w->rounded);
    for (int row = 0; row < rows; row++)
        for (int i = m->tokens; i < m->vocabulary.outputs; i++)
            w->logits[(size_t)row * m->vocabulary.outputs + i] = MASKED;
}

/* Computes the keys and values of the encoder's states for all layers. */
static void project_states(const Decoder *m, ClipState *s, Workspace *w) {
    const int width = m->width;
    for (int first = 0; first < s->audio.count; first += STATE_ROWS) {
        const int rows = min_int(s->audio.count - first, STATE_ROWS);
        round_rows(s->clip->states + (size_t)first * width, width, rows, width, 1, w->rounded);
        for (int layer = 0; layer < m->layer_count; layer++) {
            store_products_8(&m->layers[layer].cross_in, w->rounded, rows, w->projected);
            for (int row = 0; row < rows; row++) {
                const float *keys = w->projected + (size_t)row * 2 * width;
                store_key_value(m, &s->audio, layer, first + row, keys, keys + width);
            }
        }
    }
}

/* ---- the search ---- */

typedef struct {
    float max, sum; /* sum: of exp(logit - max) */
} LogSumExp;

static LogSumExp sum_exponentials(const float *logits, int count) {
    const int whole = count / LANES * LANES;
    floats peaks = broadcast(MASKED), sums = {0};
    for (int i = 0; i < whole; i += LANES) peaks = max_floats(peaks, load(logits + i));
    LogSumExp found = {reduce_max(peaks), 0};
    for (int i = whole; i < count; i++) found.max = logits[i] > found.max ? logits[i] : found.max;
    for (int i = 0; i < whole; i += LANES) sums += exponential(load(logits + i) - found.max);
    found.sum = reduce_add(sums);
    for (int i = whole; i < count; i++) found.sum += expf(logits[i] - found.max);
    return found;
}

static float get_log(LogSumExp of) { return of.max + logf(of.sum); }

static float compute_no_speech(const Decoder *m, const Search *search, const float *logits) {
    return expf(logits[search->no_speech] - get_log(sum_exponentials(logits, m->tokens)));
}

/* Reads all tokens of the prompt but the last. */
static void read_prompt(const Decoder *m, const Search *search, ClipState *s, Workspace *w) {
    const int rows = s->prompt.count, width = m->width;
    if (!rows) return;
    for (int row = 0; row < rows; row++)
        embed_token(m, s->clip->prompt[row], row, w->x + (size_t)row * width);
    s->rows = rows;
    for (int layer = 0; layer < m->layer_count; layer++) {
        project_self_attention(m, &m->layers[layer], rows, w);
        for (int row = 0; row < rows; row++) {
            const float *keys = w->projected + (size_t)row * 3 * width + width;
            store_key_value(m, &s->prompt, layer, row, keys, keys + width);
        }
        attend(m, &s->prompt, layer, NULL, 1, w->projected, 3 * width, rows, w->scores,
               w->attended);
        run_rest_of_layer(m, layer, s, 1, rows, w);
    }
    if (s->clip->start < rows) {
        compute_logits(m, w->x + (size_t)s->clip->start * width, 1, w);
        s->clip->no_speech_probability = compute_no_speech(m, search, w->logits);
    }
}

static void mask_tokens(float *logits, int from, int to) {
    for (int i = from; i < to; i++) logits[i] = MASKED;
}

/* Masks the tokens that may not follow. Returns the logarithm of the sum of the exponentials of the
 * others. */
static float apply_rules(const Decoder *m, const Search *search, const ClipState *s, int row,
                         float *logits) {
    for (int i = 0; i < search->suppressed_count; i++) logits[search->suppressed[i]] = MASKED;
    if (!s->step)
        for (int i = 0; i < search->suppressed_first_count; i++)
            logits[search->suppressed_first[i]] = MASKED;
    if (!search->has_timestamps) return get_log(sum_exponentials(logits, m->tokens));

    const int begin = search->no_timestamps + 1;
    const int32_t *text =
        s->tokens + ((size_t)s->current * search->beam_size + row) * search->capacity;
    int last = s->step - 1; /* the last timestamp */
    while (last >= 0 && text[last] < begin) last--;
    logits[search->no_timestamps] = MASKED;
    if (!s->step) { /* a timestamp comes first */
        mask_tokens(logits, 0, begin);
        mask_tokens(logits, search->latest_first + 1, m->tokens);
    } else {
        mask_tokens(logits, begin, last >= 0 ? text[last] : begin); /* times do not fall */
        if (last == s->step - 1) {
            if (!last || text[last - 1] >= begin)
                mask_tokens(logits, begin, m->tokens); /* after two comes text */
            else
                mask_tokens(logits, 0, search->end); /* after one comes another, or the end */
        }
    }
    const LogSumExp words = sum_exponentials(logits, begin);
    const LogSumExp times = sum_exponentials(logits + begin, m->tokens - begin);
    if (get_log(times) > words.max) { /* together, they are more likely than any other token */
        mask_tokens(logits, 0, begin);
        return get_log(times);
    }
    const float max = words.max > times.max ? words.max : times.max;
    return max + logf(words.sum * expf(words.max - max) + times.sum * expf(times.max - max));
}

/* Merges the tokens of a row into the candidates of its clip. `score`: of its text, less the
 * logarithm that `apply_rules` returned. */
static void collect_candidates(const Decoder *m, const Search *search, ClipState *s, int row,
                               const float *logits, float score) {
    const int capacity = 2 * search->beam_size;
    float limit = s->candidates < capacity ? -INFINITY : s->candidate_scores[capacity - 1];
    for (int first = 0; first < m->vocabulary.outputs; first += LANES) {
        const floats scores = load(logits + first) + score;
        if (!is_any_above(scores, limit)) continue;
        for (int lane = 0; lane < LANES; lane++) {
            if (!(scores[lane] > limit)) continue;
            int at = s->candidates < capacity ? s->candidates++ : capacity - 1;
            for (; at && s->candidate_scores[at - 1] < scores[lane]; at--) {
                s->candidate_scores[at] = s->candidate_scores[at - 1];
                s->candidate_tokens[at] = s->candidate_tokens[at - 1];
                s->candidate_rows[at] = s->candidate_rows[at - 1];
            }
            s->candidate_scores[at] = scores[lane];
            s->candidate_tokens[at] = first + lane;
            s->candidate_rows[at] = row;
            if (s->candidates == capacity) limit = s->candidate_scores[capacity - 1];
        }
    }
}

/* Keeps a finished text if it is the best so far. `last`: its last token, or -1. */
static void add_finished(ClipState *s, const int32_t *text, int32_t last, float score) {
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
static int extend_hypotheses(const Search *search, ClipState *s) {
    const int size = search->beam_size, capacity = search->capacity;
    const int is_last = s->step + 1 >= s->clip->max_tokens;
    const size_t from = (size_t)s->current * size * capacity;
    const size_t to = (size_t)!s->current * size * capacity;
    for (; s->candidates < 2 * size; s->candidates++) { /* the model computed no numbers */
        s->candidate_scores[s->candidates] = MASKED;
        s->candidate_tokens[s->candidates] = search->end;
        s->candidate_rows[s->candidates] = 0;
    }
    int next = size; /* the next candidate that can take the place of a finished one */
    for (int k = 0; k < size; k++) {
        int chosen = k;
        const int32_t token = s->candidate_tokens[k];
        if (token == search->end || is_last) {
            const int32_t *text = s->tokens + from + (size_t)s->candidate_rows[k] * capacity;
            add_finished(s, text, token == search->end ? -1 : token, s->candidate_scores[k]);
            while (next < s->candidates && s->candidate_tokens[next] == search->end) next++;
            if (next < s->candidates) chosen = next++;
        }
        const int parent = s->candidate_rows[chosen];
        const size_t old = from + (size_t)parent * capacity, new = to + (size_t)k *capacity;
        memcpy(s->tokens + new, s->tokens + old, s->step * sizeof *s->tokens);
        s->tokens[new + s->step] = s->candidate_tokens[chosen];
        memcpy(s->ancestors + new, s->ancestors + old, s->step + 1);
        s->scores[k] = s->candidate_scores[chosen];
    }
    s->current = !s->current;
    s->rows = size;
    s->step++;
    return !is_last && s->finished < search->max_finished;
}

/* w->logits = those of the next token of all hypotheses of some clips. */
static void compute_step(const Decoder *m, const Search *search, ClipState *clips, int count,
                         Workspace *w) {
    const int width = m->width, size = search->beam_size, capacity = search->capacity;
    const size_t pair = 2 * (size_t)width;
    int rows = 0;
    for (int c = 0; c < count; c++) {
        ClipState *s = &clips[c];
        s->first_row = rows;
        for (int row = 0; row < s->rows; row++, rows++) {
            const size_t at = ((size_t)s->current * size + row) * capacity + s->step;
            const int32_t token = s->step ? s->tokens[at - 1] : s->clip->prompt[s->prompt.count];
            embed_token(m, token, s->prompt.count + s->step, w->x + (size_t)rows * width);
            s->ancestors[at] = (uint8_t)row;
        }
    }
    for (int layer = 0; layer < m->layer_count; layer++) {
        project_self_attention(m, &m->layers[layer], rows, w);
        for (int c = 0; c < count; c++) {
            ClipState *s = &clips[c];
            const float *queries = w->projected + (size_t)s->first_row * 3 * width;
            half *text = s->text + (size_t)layer * capacity * size * pair;
            for (int row = 0; row < s->rows; row++) {
                const float *keys = queries + (size_t)row * 3 * width + width;
                half *to = text + ((size_t)s->step * size + row) * pair;
                for (size_t i = 0; i < pair; i += LANES) store_halves(to + i, load(keys + i));
            }
            const uint8_t *ancestors = s->ancestors + (size_t)s->current * size * capacity;
            const TextCache cache = {text, ancestors, s->step + 1, size, capacity};
            attend(m, &s->prompt, layer, &cache, 0, queries, 3 * width, s->rows, w->scores,
                   w->attended + (size_t)s->first_row * width);
        }
        run_rest_of_layer(m, layer, clips, count, rows, w);
    }
    compute_logits(m, w->x, rows, w);
}

/* Finds the candidates for the next token of all hypotheses of some clips. */
static void run_step(const Decoder *m, const Search *search, ClipState *clips, int count,
                     Workspace *w) {
    compute_step(m, search, clips, count, w);
    for (int c = 0; c < count; c++) {
        ClipState *s = &clips[c];
        s->candidates = 0;
        for (int row = 0; row < s->rows; row++) {
            float *logits = w->logits + (size_t)(s->first_row + row) * m->vocabulary.outputs;
            if (!s->step && s->clip->start == s->prompt.count)
                s->clip->no_speech_probability = compute_no_speech(m, search, logits);
            const float log_sum = apply_rules(m, search, s, row, logits);
            collect_candidates(m, search, s, row, logits, s->scores[row] - log_sum);
        }
    }
}

/* ---- the call ---- */

static void allocate_cache(const Decoder *m, SharedCache *cache, int count, int *failed) {
    cache->count = count;
    cache->padded = round_up(count, 2 * LANES);
    const size_t size = (size_t)m->layer_count * cache->padded * m->width;
    cache->keys = allocate(size, sizeof(half), failed);
    cache->values = allocate(size, sizeof(half), failed);
}

static void allocate_clip(const Decoder *m, const Search *search, Clip *clip, ClipState *s,
                          int *failed) {
    const size_t size = search->beam_size, capacity = search->capacity;
    s->clip = clip;
    allocate_cache(m, &s->audio, clip->state_count, failed);
    allocate_cache(m, &s->prompt, clip->prompt_length - 1, failed);
    s->text = allocate(m->layer_count * capacity * size * 2 * m->width, sizeof *s->text, failed);
    s->ancestors = allocate(2 * size * capacity, sizeof *s->ancestors, failed);
    s->tokens = allocate(2 * size * capacity, sizeof *s->tokens, failed);
    s->scores = allocate(size, sizeof *s->scores, failed);
    s->candidate_scores = allocate(2 * size, sizeof *s->candidate_scores, failed);
    s->candidate_tokens = allocate(2 * size, sizeof *s->candidate_tokens, failed);
    s->candidate_rows = allocate(2 * size, sizeof *s->candidate_rows, failed);
    if (!*failed) s->scores[0] = 0;
}

static void free_clip(ClipState *s) {
    void *owned[] = {s->audio.keys,       s->audio.values,  s->prompt.keys,
                     s->prompt.values,    s->text,          s->ancestors,
                     s->tokens,           s->scores,        s->candidate_scores,
                     s->candidate_tokens, s->candidate_rows};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
}

static Workspace allocate_workspace(const Decoder *m, const Search *search, const Clip *clips,
                                    int count, int *failed) {
    const size_t hypotheses = (size_t)count * search->beam_size, width = m->width;
    size_t rows = hypotheses > STATE_ROWS ? hypotheses : STATE_ROWS, longest = 0;
    for (int c = 0; c < count; c++) {
        const size_t prompt = clips[c].prompt_length, states = clips[c].state_count;
        if (prompt > rows) rows = prompt;
        if (prompt > longest) longest = prompt;
        if (states > longest) longest = states;
    }
    const size_t widest = m->hidden > 3 * m->width ? m->hidden : 3 * m->width;
    return (Workspace){
        .x = allocate(rows * width, sizeof(float), failed),
        .normal = allocate(rows * width, sizeof(float), failed),
        .attended = allocate(rows * width, sizeof(float), failed),
        .projected = allocate(rows * widest, sizeof(float), failed),
        .logits = allocate(hypotheses * m->vocabulary.outputs, sizeof(float), failed),
        .scores =
            allocate(QUERY_ROWS * (longest + search->capacity + 4 * LANES), sizeof(float), failed),
        .rounded = allocate_rounded(rows, widest, 1, failed),
    };
}

static void free_workspace(Workspace *w) {
    void *owned[] = {w->x,      w->normal, w->attended,       w->projected,
                     w->logits, w->scores, w->rounded.values, w->rounded.scales};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
}

/* Decodes the text of clips. Returns 0, or -1 if there is not enough memory. */
EXPORT int decode_clips(const Decoder *m, const Search *search, Clip *clips, int count) {
    int failed = 0, active = 0;
    Workspace w = allocate_workspace(m, search, clips, count, &failed);
    ClipState *states = calloc(count, sizeof *states);
    if (!states) failed = 1;
    while (!failed && active < count) {
        ClipState *s = &states[active];
        allocate_clip(m, search, &clips[active++], s, &failed);
        if (failed) break;
        project_states(m, s, &w);
        read_prompt(m, search, s, &w);
        s->rows = 1;
    }
    while (!failed && active) {
        run_step(m, search, states, active, &w);
        int kept = 0;
        for (int c = 0; c < active; c++)
            if (extend_hypotheses(search, &states[c]))
                states[kept++] = states[c];
            else
                free_clip(&states[c]);
        active = kept;
    }
    for (int c = 0; c < active; c++) free_clip(&states[c]);
    free(states);
    free_workspace(&w);
    return failed ? -1 : 0;
}

/* probabilities[i] = that of the token `first` + i to follow the token `start`, among `count`
 * tokens. Returns 0, or -1 if there is not enough memory. */
EXPORT int rate_tokens(const Decoder *m, const float *states, int state_count, int32_t start,
                       int32_t first, int count, float *probabilities) {
    int failed = 0;
    const Search search = {.beam_size = 1, .capacity = 1};
    Clip clip = {
        .states = states, .prompt = &start, .state_count = state_count, .prompt_length = 1};
    ClipState s = {0};
    Workspace w = allocate_workspace(m, &search, &clip, 1, &failed);
    allocate_clip(m, &search, &clip, &s, &failed);
    if (!failed) {
        project_states(m, &s, &w);
        s.rows = 1;
        compute_step(m, &search, &s, 1, &w);
        const float *logits = w.logits + first;
        const float log_sum = get_log(sum_exponentials(logits, count));
        for (int i = 0; i < count; i++) probabilities[i] = expf(logits[i] - log_sum);
    }
    free_clip(&s);
    free_workspace(&w);
    return failed ? -1 : 0;
}
