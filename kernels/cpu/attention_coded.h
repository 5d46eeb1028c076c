#ifndef KERNELS_CPU_ATTENTION_CODED_H
#define KERNELS_CPU_ATTENTION_CODED_H

/* Partial attention on encoded blocks: codes become floats in registers, a chunk at a time, and no block is expanded in
 * memory. Only the scales of a head are turned to f32 beforehand. Included by one file an ISA; the order of operations is
 * that of attention_vector.h, with numbers in place of halves:
 *
 *     rows      codes [token][head_dim]. A number is code, or fma(code, scale, offset) where groups of a token have scales
 *               of their own; a scale of the whole row multiplies its score, or its weight, instead.
 *     channels  KIVI's keys, codes [head_dim][token]. A score is one chain of fused multiply-adds over d for each
 *               token, from zero, of codes and q * step; then plus the sum of q * minimum; then times scale.
 *     turbo     the query is rotated as the keys were, the sum of values is rotated back; rows of centroids between.
 *
 * All items of a task go this way, however many: a row's bits do not depend on its neighbours. A codec without a row here
 * goes through Codec.expand into panels. */

#include "kernels/cpu/attention_vector.h"
#include "kernels/cpu/codec_turbo.h"

#ifdef VECTOR_LANES

/* so many accumulators of each item leave registers for codes on their way */
enum {
    STEP_TOKENS = VECTOR_REGISTERS == 32 ? 4 : 2,
    STEP_CHUNKS = VECTOR_REGISTERS == 32 ? 4 : 1,
    STEP_CHUNKS_ROW = TILE_VECTORS / CHUNK_VECTORS, /* scaled weights are worth more */
};

typedef enum ScaleKind {
    SCALE_ROW,          /* one a token */
    SCALE_GROUP,        /* one a group of a token */
    SCALE_GROUP_OFFSET, /* and an offset */
} ScaleKind;

/* Codes of a head's tokens, or of one vector of them. */
typedef struct CodedRows {
    const uint8_t *codes; /* [token][row_bytes] */
    const uint8_t *next;  /* where the next block's begin: fetched on the way; NULL: none */
    uint64_t row_bytes;
    const float *scales, *offsets; /* of token t, group g: [t * scale_stride + g * group_stride] */
    uint32_t scale_stride, group_stride;
    const float *centroids; /* NULL: codes stand for themselves */
    uint32_t dim;
    uint32_t out_stride; /* between items of q and out */
} CodedRows;

/* The keys or values of one KV head, and what was made of its scales. */
typedef struct CodedHead {
    CodecHead head;
    const uint8_t *bytes, *next;
    float *scales; /* scratch: as many floats as the head has tokens and padded dimensions */
    uint32_t padded_dim;
    CodedRows rows[TURBO_VECTORS_MAX];
    uint32_t row_count;
    uint16_t channels[CODEC_HEAD_DIM_MAX]; /* turbo with outliers */
} CodedHead;

typedef void CodedScores(uint32_t items, const float *q, const CodedHead *keys, TokenRange seen,
                         float scale, float *scores, uint32_t scores_stride);

typedef struct CodedKernels {
    const char *name;
    void (*open)(CodedHead *head);
    /* queries and sums of values as the codes mean them; NULL: as they are */
    void (*turn)(const CodedHead *keys, float *q);
    void (*turn_back)(const CodedHead *values, float *out);
    CodedScores *scores;
    TileValues *values; /* its source is a CodedHead */
} CodedKernels;

INLINE void fetch_bytes(const uint8_t *bytes, uint64_t count) {
    enum { LINE_BYTES = 64 };
    for (uint64_t i = 0; i < count; i += LINE_BYTES)
        _mm_prefetch((const char *)(bytes + i), _MM_HINT_T0);
}

/* Dimensions that share a scale. */
INLINE uint32_t form_group(CodeForm form) {
    return form == FORM_HIGH4 ? 64 : 32;
}

/* Where a token's codes and scales are. */
typedef struct CodedToken {
    const uint8_t *codes;
    const float *scales, *offsets;
} CodedToken;

INLINE CodedToken coded_token(ScaleKind kind, const CodedRows *rows, uint32_t token) {
    uint64_t scale = (uint64_t)token * rows->scale_stride;
    CodedToken place = {rows->codes + token * rows->row_bytes, rows->scales + scale,
                        kind == SCALE_GROUP_OFFSET ? rows->offsets + scale : NULL};
    return place;
}

/* The numbers of codes [d, d + CHUNK) of a token. */
INLINE void coded_chunk(CodeForm form, ScaleKind kind, uint32_t group_stride,
                        const CodeTable *table, const CodedToken *token, uint32_t d, Vector *out) {
    form_chunk(form, token->codes + d / 8 * form_bits(form), table, out);
    if (kind == SCALE_ROW) return;
    uint64_t group = d / form_group(form) * group_stride;
    Vector scale = vector_set(token->scales[group]);
    for (uint32_t v = 0; v < CHUNK_VECTORS; v++)
        out[v] = kind == SCALE_GROUP_OFFSET
                     ? vector_fma(out[v], scale, vector_set(token->offsets[group]))
                     : vector_multiply(out[v], scale);
}

/* Products of the queries with STEP_TOKENS tokens, lanes not yet added up. */
INLINE void rows_products(uint32_t items, CodeForm form, ScaleKind kind, const float *q,
                          const CodedRows *rows, const CodeTable *table, const CodedToken *tokens,
                          Vector out[TILE_ITEMS][TILE_TOKENS]) {
    Vector sums[TILE_ITEMS][STEP_TOKENS];
    for (uint32_t i = 0; i < items; i++)
        for (uint32_t t = 0; t < STEP_TOKENS; t++)
            sums[i][t] = vector_zero();
    for (uint32_t d = 0; d < rows->dim; d += CHUNK)
        for (uint32_t t = 0; t < STEP_TOKENS; t++) {
            Vector numbers[CHUNK_VECTORS];
            coded_chunk(form, kind, rows->group_stride, table, &tokens[t], d, numbers);
            for (uint32_t v = 0; v < CHUNK_VECTORS; v++)
                for (uint32_t i = 0; i < items; i++)
                    sums[i][t] = vector_fma(
                        vector_load(q + (size_t)i * rows->out_stride + d + v * VECTOR_LANES),
                        numbers[v], sums[i][t]);
        }
    for (uint32_t i = 0; i < items; i++)
        for (uint32_t t = 0; t < STEP_TOKENS; t++)
            out[i][t] = sums[i][t];
}

INLINE void rows_scores(uint32_t items, CodeForm form, ScaleKind kind, bool more, const float *q,
                        const CodedRows *rows, uint32_t token_count, TokenRange seen, float scale,
                        float *scores, uint32_t scores_stride) {
    const CodeTable table = table_load(form, rows->centroids);
    uint32_t first = seen.begin - seen.begin % TILE_TOKENS;
    for (uint32_t token = first; token < seen.end; token += TILE_TOKENS) {
        Vector sums[TILE_TOKENS / STEP_TOKENS][TILE_ITEMS][TILE_TOKENS];
        CodedToken tokens[TILE_TOKENS];
        for (uint32_t t = 0; t < TILE_TOKENS; t++)
            tokens[t] =
                coded_token(kind, rows, token + t < token_count ? token + t : token_count - 1);
        if (rows->next)
            fetch_bytes(rows->next + token * rows->row_bytes, TILE_TOKENS * rows->row_bytes);
        for (uint32_t step = 0; step < TILE_TOKENS / STEP_TOKENS; step++)
            rows_products(items, form, kind, q, rows, &table, tokens + step * STEP_TOKENS,
                          sums[step]);
        __m128 factors = _mm_set1_ps(scale);
        if (kind == SCALE_ROW)
            factors = _mm_mul_ps(factors, _mm_setr_ps(*tokens[0].scales, *tokens[1].scales,
                                                      *tokens[2].scales, *tokens[3].scales));
        for (uint32_t i = 0; i < items; i++) {
            float *at = scores + (size_t)i * scores_stride + token;
            Vector *low = sums[0][i], *high = sums[TILE_TOKENS / STEP_TOKENS - 1][i];
            __m128 four = vector_sum_four(low[0], low[1], high[TILE_TOKENS - STEP_TOKENS ? 0 : 2],
                                          high[TILE_TOKENS - STEP_TOKENS ? 1 : 3]);
            four = _mm_mul_ps(four, factors);
            _mm_storeu_ps(at, more ? _mm_add_ps(_mm_loadu_ps(at), four) : four);
        }
    }
}

INLINE void rows_values_step(uint32_t items, CodeForm form, ScaleKind kind, uint32_t chunks,
                             const CodeTable *table, const float *weights, uint32_t weights_stride,
                             const CodedRows *rows, TokenRange range, uint32_t d, float *out) {
    Vector sums[TILE_ITEMS][TILE_VECTORS];
    for (uint32_t i = 0; i < items; i++)
        for (uint32_t v = 0; v < chunks * CHUNK_VECTORS; v++)
            sums[i][v] = vector_load(out + (size_t)i * rows->out_stride + d + v * VECTOR_LANES);
    for (uint32_t token = range.begin; token < range.end; token++) {
        if (rows->next && d == 0)
            fetch_bytes(rows->next + token * rows->row_bytes, rows->row_bytes);
        const CodedToken place = coded_token(kind, rows, token);
        Vector weight[TILE_ITEMS];
        for (uint32_t i = 0; i < items; i++) {
            weight[i] = vector_set(weights[(size_t)i * weights_stride + token]);
            if (kind == SCALE_ROW)
                weight[i] = vector_multiply(weight[i], vector_set(*place.scales));
        }
        for (uint32_t chunk = 0; chunk < chunks; chunk++) {
            Vector numbers[CHUNK_VECTORS];
            coded_chunk(form, kind, rows->group_stride, table, &place, d + chunk * CHUNK, numbers);
            for (uint32_t v = 0; v < CHUNK_VECTORS; v++)
                for (uint32_t i = 0; i < items; i++)
                    sums[i][chunk * CHUNK_VECTORS + v] =
                        vector_fma(weight[i], numbers[v], sums[i][chunk * CHUNK_VECTORS + v]);
        }
    }
    for (uint32_t i = 0; i < items; i++)
        for (uint32_t v = 0; v < chunks * CHUNK_VECTORS; v++)
            vector_store(out + (size_t)i * rows->out_stride + d + v * VECTOR_LANES, sums[i][v]);
}

INLINE void rows_values(uint32_t items, CodeForm form, ScaleKind kind, const float *weights,
                        uint32_t weights_stride, const CodedRows *rows, TokenRange range,
                        float *out) {
    const CodeTable table = table_load(form, rows->centroids);
    const uint32_t chunks = kind == SCALE_ROW ? STEP_CHUNKS_ROW : STEP_CHUNKS;
    uint32_t d = 0;
    if (range.begin >= range.end) return;
    for (; d + chunks * CHUNK <= rows->dim; d += chunks * CHUNK)
        rows_values_step(items, form, kind, chunks, &table, weights, weights_stride, rows, range, d,
                         out);
    for (; d < rows->dim; d += CHUNK)
        rows_values_step(items, form, kind, 1, &table, weights, weights_stride, rows, range, d,
                         out);
}

/* An item count is a constant inside: arrays become registers. */
INLINE void rows_scores_items(uint32_t items, CodeForm form, ScaleKind kind, bool more,
                              const float *q, const CodedRows *rows, uint32_t token_count,
                              TokenRange seen, float scale, float *scores, uint32_t scores_stride) {
    switch (items) {
#define TILE_ROW(n)                                                                 \
    case n:                                                                         \
        rows_scores(n, form, kind, more, q, rows, token_count, seen, scale, scores, \
                    scores_stride);                                                 \
        break;
        EACH_TILE(TILE_ROW)
#undef TILE_ROW
    default: CHECK(!"a tile of that many items");
    }
}

INLINE void rows_values_items(uint32_t items, CodeForm form, ScaleKind kind, const float *weights,
                              uint32_t weights_stride, const CodedRows *rows, TokenRange range,
                              float *out) {
    switch (items) {
#define TILE_ROW(n) \
    case n: rows_values(n, form, kind, weights, weights_stride, rows, range, out); break;
        EACH_TILE(TILE_ROW)
#undef TILE_ROW
    default: CHECK(!"a tile of that many items");
    }
}

/* ---- heads whose keys and values are rows */

#define ROWS_SCORES(suffix, form, kind)                                                        \
    static void scores_##suffix(uint32_t items, const float *q, const CodedHead *keys,         \
                                TokenRange seen, float scale, float *scores,                   \
                                uint32_t scores_stride) {                                      \
        rows_scores_items(items, form, kind, false, q, &keys->rows[0], keys->head.token_count, \
                          seen, scale, scores, scores_stride);                                 \
    }

#define ROWS_VALUES(suffix, form, kind)                                                        \
    static void values_##suffix(uint32_t items, const float *weights, uint32_t weights_stride, \
                                const void *source, TokenRange range, float *out) {            \
        const CodedHead *values = source;                                                      \
        rows_values_items(items, form, kind, weights, weights_stride, &values->rows[0], range, \
                          out);                                                                \
    }

ROWS_SCORES(int8, FORM_INT8, SCALE_GROUP)
ROWS_VALUES(int8, FORM_INT8, SCALE_GROUP)
ROWS_SCORES(fp8, FORM_FP8, SCALE_ROW)
ROWS_VALUES(fp8, FORM_FP8, SCALE_ROW)
ROWS_SCORES(int4_group, FORM_HIGH4, SCALE_GROUP_OFFSET)
ROWS_VALUES(int4_group, FORM_HIGH4, SCALE_GROUP_OFFSET)
ROWS_VALUES(kivi4, FORM_LOW4, SCALE_GROUP_OFFSET)
ROWS_VALUES(kivi2, FORM_LOW2, SCALE_GROUP_OFFSET)

#undef ROWS_SCORES
#undef ROWS_VALUES

static void open_int8(CodedHead *head) {
    uint32_t groups = (head->head.head_dim + 31) / 32, tokens = head->head.token_count;
    uint64_t codes_bytes = (uint64_t)tokens * head->head.head_dim;
    halves_to_floats(head->bytes + codes_bytes, (uint64_t)tokens * groups, head->scales);
    head->rows[0] = (CodedRows){.codes = head->bytes,
                                .next = head->next,
                                .row_bytes = head->head.head_dim,
                                .scales = head->scales,
                                .scale_stride = groups,
                                .group_stride = 1,
                                .dim = head->head.head_dim,
                                .out_stride = head->padded_dim};
}

static void open_fp8(CodedHead *head) {
    uint64_t codes_bytes = (uint64_t)head->head.token_count * head->head.head_dim;
    halves_to_floats(head->bytes + codes_bytes, head->head.token_count, head->scales);
    head->rows[0] = (CodedRows){.codes = head->bytes,
                                .next = head->next,
                                .row_bytes = head->head.head_dim,
                                .scales = head->scales,
                                .scale_stride = 1,
                                .dim = head->head.head_dim,
                                .out_stride = head->padded_dim};
}

/* Scales are reciprocals there: (scale, minimum) side by side. */
static void open_int4_group(CodedHead *head) {
    uint32_t groups = (head->head.head_dim + 63) / 64, tokens = head->head.token_count;
    uint64_t codes_bytes = (uint64_t)tokens * groups * 32, count = 2u * (uint64_t)tokens * groups;
    halves_to_floats(head->bytes + codes_bytes, count, head->scales);
    uint64_t i = 0;
    for (; i + VECTOR_LANES <= count; i += VECTOR_LANES)
        vector_store(head->scales + i, vector_invert_even(vector_load(head->scales + i)));
    for (; i < count; i += 2)
        head->scales[i] = 1.0f / head->scales[i];
    head->rows[0] = (CodedRows){.codes = head->bytes,
                                .next = head->next,
                                .row_bytes = (uint64_t)groups * 32,
                                .scales = head->scales,
                                .offsets = head->scales + 1,
                                .scale_stride = 2 * groups,
                                .group_stride = 2,
                                .dim = head->head.head_dim,
                                .out_stride = head->padded_dim};
}

/* ---- kivi */

enum { KIVI_TOKENS = 32, KIVI_DIMS = 32, KIVI_STEP_VECTORS = 2 * CHUNK_VECTORS };

INLINE Vector load_halves_apart(const uint8_t *bytes, uint64_t stride) {
    uint16_t halves[VECTOR_LANES];
    if (stride == sizeof *halves) return vector_load_half((const uint16_t *)bytes);
    for (uint32_t l = 0; l < VECTOR_LANES; l++)
        memcpy(&halves[l], bytes + l * stride, sizeof halves[l]);
    return vector_load_half(halves);
}

/* Steps and minima of keys, turned from [head_dim][group] to [group][head_dim]. */
static void open_kivi_keys(CodedHead *head, uint64_t codes_bytes) {
    uint32_t dims = head->head.head_dim, groups = head->head.token_count / KIVI_TOKENS;
    const uint8_t *steps = head->bytes + codes_bytes,
                  *minima = steps + 2u * (uint64_t)dims * groups;
    float *turned_minima = head->scales + (uint64_t)dims * groups;
    for (uint32_t group = 0; group < groups; group++)
        for (uint32_t d = 0; d < dims; d += VECTOR_LANES) {
            uint64_t from = 2 * ((uint64_t)d * groups + group), to = (uint64_t)group * dims + d;
            vector_store(head->scales + to, load_halves_apart(steps + from, 2u * groups));
            vector_store(turned_minima + to, load_halves_apart(minima + from, 2u * groups));
        }
}

static void open_kivi_values(CodedHead *head, uint64_t codes_bytes) {
    uint32_t groups = head->head.head_dim / KIVI_DIMS;
    uint64_t count = (uint64_t)head->head.token_count * groups;
    halves_to_floats(head->bytes + codes_bytes, 2 * count, head->scales);
    head->rows[0] = (CodedRows){.codes = head->bytes,
                                .next = head->next,
                                .row_bytes = codes_bytes / head->head.token_count,
                                .scales = head->scales,
                                .offsets = head->scales + count,
                                .scale_stride = groups,
                                .group_stride = 1,
                                .dim = head->head.head_dim,
                                .out_stride = head->padded_dim};
}

static void open_kivi(CodedHead *head) {
    uint64_t elements = (uint64_t)head->head.token_count * head->head.head_dim;
    uint64_t codes_bytes = elements * head->head.codec->code_bits / 8;
    if (head->head.part == CODEC_KEYS)
        open_kivi_keys(head, codes_bytes);
    else
        open_kivi_values(head, codes_bytes);
}

/* The query times the steps of a group of tokens, [items][CODEC_HEAD_DIM_MAX]; the sums of query times minima. */
INLINE void turn_queries(uint32_t items, const float *q, const CodedHead *keys, uint32_t group,
                         float *turned, Vector *biases) {
    uint32_t dims = keys->head.head_dim;
    const float *steps = keys->scales + (uint64_t)group * dims;
    const float *minima = steps + (uint64_t)dims * (keys->head.token_count / KIVI_TOKENS);
    for (uint32_t i = 0; i < items; i++) {
        Vector sum = vector_zero();
        for (uint32_t d = 0; d < dims; d += VECTOR_LANES) {
            Vector query = vector_load(q + (size_t)i * keys->padded_dim + d);
            vector_store(turned + (size_t)i * CODEC_HEAD_DIM_MAX + d,
                         vector_multiply(query, vector_load(steps + d)));
            sum = vector_fma(query, vector_load(minima + d), sum);
        }
        biases[i] = vector_set(vector_sum(sum));
    }
}

INLINE void channel_scores(uint32_t items, CodeForm form, const float *q, const CodedHead *keys,
                           TokenRange seen, float scale, float *scores, uint32_t scores_stride) {
    const CodeTable table = table_load(form, NULL);
    const uint32_t bits = form_bits(form), group_bytes = KIVI_TOKENS * bits / 8;
    uint32_t dims = keys->head.head_dim, groups = keys->head.token_count / KIVI_TOKENS;
    uint64_t row_bytes = (uint64_t)groups * group_bytes;
    float turned[TILE_ITEMS * CODEC_HEAD_DIM_MAX];
    for (uint32_t group = seen.begin / KIVI_TOKENS; group * KIVI_TOKENS < seen.end; group++) {
        Vector sums[TILE_ITEMS][KIVI_STEP_VECTORS], biases[TILE_ITEMS];
        const uint8_t *codes = keys->bytes + group * group_bytes;
        uint64_t share = (uint64_t)dims * group_bytes;
        if (keys->next) fetch_bytes(keys->next + group * share, share);
        turn_queries(items, q, keys, group, turned, biases);
        for (uint32_t i = 0; i < items; i++)
            for (uint32_t v = 0; v < KIVI_STEP_VECTORS; v++)
                sums[i][v] = vector_zero();
        for (uint32_t d = 0; d < dims; d++, codes += row_bytes) {
            Vector numbers[KIVI_STEP_VECTORS];
            form_chunk(form, codes, &table, numbers);
            form_chunk(form, codes + group_bytes / 2, &table, numbers + CHUNK_VECTORS);
            for (uint32_t i = 0; i < items; i++) {
                Vector query = vector_set(turned[i * CODEC_HEAD_DIM_MAX + d]);
                for (uint32_t v = 0; v < KIVI_STEP_VECTORS; v++)
                    sums[i][v] = vector_fma(query, numbers[v], sums[i][v]);
            }
        }
        for (uint32_t i = 0; i < items; i++)
            for (uint32_t v = 0; v < KIVI_STEP_VECTORS; v++)
                vector_store(scores + (size_t)i * scores_stride + group * KIVI_TOKENS +
                                 v * VECTOR_LANES,
                             vector_multiply(vector_add(sums[i][v], biases[i]), vector_set(scale)));
    }
}

INLINE void channel_scores_items(uint32_t items, CodeForm form, const float *q,
                                 const CodedHead *keys, TokenRange seen, float scale, float *scores,
                                 uint32_t scores_stride) {
    switch (items) {
#define TILE_ROW(n) \
    case n: channel_scores(n, form, q, keys, seen, scale, scores, scores_stride); break;
        EACH_TILE(TILE_ROW)
#undef TILE_ROW
    default: CHECK(!"a tile of that many items");
    }
}

static void scores_kivi4(uint32_t items, const float *q, const CodedHead *keys, TokenRange seen,
                         float scale, float *scores, uint32_t scores_stride) {
    channel_scores_items(items, FORM_LOW4, q, keys, seen, scale, scores, scores_stride);
}

static void scores_kivi2(uint32_t items, const float *q, const CodedHead *keys, TokenRange seen,
                         float scale, float *scores, uint32_t scores_stride) {
    channel_scores_items(items, FORM_LOW2, q, keys, seen, scale, scores, scores_stride);
}

/* ---- turboquant */

static void open_turbo(CodedHead *head) {
    const TurboPlan *plan = turbo_plan(&head->head);
    const uint8_t *codes = head->bytes + plan->mask_bytes;
    uint64_t tokens = head->head.token_count;
    head->row_count = plan->vector_count;
    halves_to_floats(codes + tokens * plan->row_bytes, tokens * plan->vector_count, head->scales);
    for (uint32_t v = 0; v < plan->vector_count; v++)
        head->rows[v] =
            (CodedRows){.codes = codes + plan->vectors[v].row_offset,
                        .next = head->next && v == 0 ? head->next + plan->mask_bytes : NULL,
                        .row_bytes = plan->row_bytes,
                        .scales = head->scales + v,
                        .scale_stride = plan->vector_count,
                        .centroids = plan->vectors[v].centroids,
                        .dim = plan->vectors[v].dim,
                        .out_stride = head->padded_dim};
    if (plan->mask_bytes) turbo_channels(plan, head->bytes, head->head.head_dim, head->channels);
}

static void turn_turbo(const CodedHead *keys, float *q) {
    const TurboPlan *plan = turbo_plan(&keys->head);
    if (plan->mask_bytes) {
        float row[CODEC_HEAD_DIM_MAX];
        memcpy(row, q, keys->head.head_dim * sizeof *row);
        for (uint32_t i = 0; i < keys->head.head_dim; i++)
            q[i] = row[keys->channels[i]];
    }
    for (uint32_t v = 0; v < plan->vector_count; v++) {
        const TurboVector *vector = &plan->vectors[v];
        turbo_rotate(plan, vector, q + vector->first);
        turbo_scale(q + vector->first, vector->dim, vector->unit);
    }
}

static void turn_turbo_back(const CodedHead *values, float *out) {
    const TurboPlan *plan = turbo_plan(&values->head);
    for (uint32_t v = 0; v < plan->vector_count; v++) {
        const TurboVector *vector = &plan->vectors[v];
        turbo_rotate_back(plan, vector, out + vector->first);
        turbo_scale(out + vector->first, vector->dim, vector->unit);
    }
    if (!plan->mask_bytes) return;
    float row[CODEC_HEAD_DIM_MAX];
    memcpy(row, out, values->head.head_dim * sizeof *row);
    for (uint32_t i = 0; i < values->head.head_dim; i++)
        out[values->channels[i]] = row[i];
}

static void scores_turbo(uint32_t items, const float *q, const CodedHead *keys, TokenRange seen,
                         float scale, float *scores, uint32_t scores_stride) {
    const TurboPlan *plan = turbo_plan(&keys->head);
    for (uint32_t v = 0; v < plan->vector_count; v++) {
        const float *query = q + plan->vectors[v].first;
        const CodedRows *rows = &keys->rows[v];
        uint32_t token_count = keys->head.token_count;
        if (plan->vectors[v].bits == 2)
            rows_scores_items(items, FORM_TABLE2, SCALE_ROW, v > 0, query, rows, token_count, seen,
                              scale, scores, scores_stride);
        else if (plan->vectors[v].bits == 3)
            rows_scores_items(items, FORM_TABLE3, SCALE_ROW, v > 0, query, rows, token_count, seen,
                              scale, scores, scores_stride);
        else
            rows_scores_items(items, FORM_TABLE4, SCALE_ROW, v > 0, query, rows, token_count, seen,
                              scale, scores, scores_stride);
    }
}

static void values_turbo(uint32_t items, const float *weights, uint32_t weights_stride,
                         const void *source, TokenRange range, float *out) {
    const CodedHead *values = source;
    const TurboPlan *plan = turbo_plan(&values->head);
    for (uint32_t v = 0; v < plan->vector_count; v++) {
        float *sums = out + plan->vectors[v].first;
        const CodedRows *rows = &values->rows[v];
        if (plan->vectors[v].bits == 2)
            rows_values_items(items, FORM_TABLE2, SCALE_ROW, weights, weights_stride, rows, range,
                              sums);
        else if (plan->vectors[v].bits == 3)
            rows_values_items(items, FORM_TABLE3, SCALE_ROW, weights, weights_stride, rows, range,
                              sums);
        else
            rows_values_items(items, FORM_TABLE4, SCALE_ROW, weights, weights_stride, rows, range,
                              sums);
    }
}

/* ---- a block */

static const CodedKernels coded_kernels_rows[] = {
    {"int8", open_int8, NULL, NULL, scores_int8, values_int8},
    {"fp8", open_fp8, NULL, NULL, scores_fp8, values_fp8},
    {"int4_group", open_int4_group, NULL, NULL, scores_int4_group, values_int4_group},
    {"kivi4", open_kivi, NULL, NULL, scores_kivi4, values_kivi4},
    {"kivi2", open_kivi, NULL, NULL, scores_kivi2, values_kivi2},
    {"turboquant2", open_turbo, turn_turbo, turn_turbo_back, scores_turbo, values_turbo},
    {"turboquant2_5", open_turbo, turn_turbo, turn_turbo_back, scores_turbo, values_turbo},
    {"turboquant3", open_turbo, turn_turbo, turn_turbo_back, scores_turbo, values_turbo},
    {"turboquant3_5", open_turbo, turn_turbo, turn_turbo_back, scores_turbo, values_turbo},
    {"turboquant4", open_turbo, turn_turbo, turn_turbo_back, scores_turbo, values_turbo},
};

enum { CODED_COUNT = sizeof coded_kernels_rows / sizeof *coded_kernels_rows };

/* NULL when the codec has no kernels here. Blocks side by side mostly have the same one. */
static const CodedKernels *coded_kernels_find(const Codec *codec) {
    static _Thread_local const Codec *last_codec;
    static _Thread_local const CodedKernels *last_row;
    if (codec == last_codec) return last_row;
    last_codec = codec;
    last_row = NULL;
    for (uint32_t i = 0; i < CODED_COUNT && !last_row; i++)
        if (!strcmp(coded_kernels_rows[i].name, codec->name)) last_row = &coded_kernels_rows[i];
    return last_row;
}

static CodedHead coded_head(const AttendArgs *args, const AttendTask *task, const AttendRun *run,
                            uint32_t block, const Codec *codec, CodecPart part, float *scales,
                            uint32_t padded_dim) {
    uint64_t offset = codec_head_offset(codec, &args->shape, part, task->kv_head);
    bool more = block + 1 < run->block_count && attend_codec(run, block + 1) == codec;
    return (CodedHead){
        .head = codec_head(codec, &args->shape, part),
        .bytes = (const uint8_t *)run->blocks[block] + offset,
        .next = more ? (const uint8_t *)run->blocks[block + 1] + offset : NULL,
        .scales = scales,
        .padded_dim = padded_dim,
    };
}

/* The tile's queries as the keys' codes mean them. */
static const float *coded_queries(const CodedKernels *kernels, const CodedHead *keys,
                                  const AttendScratch *scratch, uint32_t item_first,
                                  uint32_t items) {
    const float *q = scratch->q + (size_t)item_first * scratch->padded_dim;
    if (!kernels->turn) return q;
    memcpy(scratch->coded_q, q, (size_t)items * scratch->padded_dim * sizeof *q);
    for (uint32_t i = 0; i < items; i++)
        kernels->turn(keys, scratch->coded_q + (size_t)i * scratch->padded_dim);
    return scratch->coded_q;
}

static void fold_coded_block(const AttendArgs *args, const AttendTask *task, const AttendRun *run,
                             uint32_t block, const Codec *codec, const CodedKernels *kernels,
                             const AttendScratch *scratch, const AttendState *group) {
    CodedHead keys =
        coded_head(args, task, run, block, codec, CODEC_KEYS, scratch->keys, scratch->padded_dim);
    CodedHead values = coded_head(args, task, run, block, codec, CODEC_VALUES, scratch->values,
                                  scratch->padded_dim);
    uint32_t tile_items = tile_items_of(task);
    kernels->open(&keys);
    kernels->open(&values);
    for (uint32_t first = 0; first < task->item_count; first += tile_items) {
        uint32_t left = task->item_count - first;
        Tile tile = {.item_count = left < tile_items ? left : tile_items};
        TokenRange seen;
        if (!tile_ranges(args, task, run, block, first, &tile, &seen)) continue;
        const float *q = coded_queries(kernels, &keys, scratch, first, tile.item_count);
        kernels->scores(tile.item_count, q, &keys, seen, args->scale, scratch->scores,
                        scratch->padded_tokens);
        tile_softmax(&tile, seen, scratch->scores, scratch->padded_tokens);
        tile_partial_out(&tile, seen, scratch, kernels->values, &values);
        for (uint32_t i = 0; kernels->turn_back && i < tile.item_count; i++)
            kernels->turn_back(&values, scratch->partial_out + (size_t)i * scratch->padded_dim);
        tile_fold(&tile, scratch, group, first);
    }
}

static void expand_panel(const CodecHead *head, const uint8_t *bytes, TokenRange range,
                         uint32_t padded_dim, float *panel) {
    for (uint32_t token = range.begin; token < range.end; token++) {
        float *row = panel + (size_t)token * padded_dim;
        head->codec->expand(head, bytes, token, row);
        for (uint32_t d = head->head_dim; d < padded_dim; d++)
            row[d] = 0.0f;
    }
}

/* A codec without kernels of its own. */
static void fold_expanded_block(const AttendArgs *args, const AttendTask *task,
                                const AttendRun *run, uint32_t block, const Codec *codec,
                                const AttendScratch *scratch, const AttendState *group) {
    CodedHead keys =
        coded_head(args, task, run, block, codec, CODEC_KEYS, NULL, scratch->padded_dim);
    CodedHead values =
        coded_head(args, task, run, block, codec, CODEC_VALUES, NULL, scratch->padded_dim);
    TokenRange range = block_range(args, task, run, block);
    expand_panel(&keys.head, keys.bytes, range, scratch->padded_dim, scratch->keys);
    expand_panel(&values.head, values.bytes, range, scratch->padded_dim, scratch->values);
    TokenRows key_rows = {NULL, scratch->keys, NULL, args->shape.head_dim, scratch->padded_dim};
    TokenRows value_rows = key_rows;
    value_rows.panel = scratch->values;
    fold_tiles(args, task, run, block, &key_rows, &value_rows, scratch, group);
}

static void fold_block(const AttendArgs *args, const AttendTask *task, const AttendRun *run,
                       uint32_t block, const AttendScratch *scratch, const AttendState *group) {
    const Codec *codec = attend_codec(run, block);
    const CodedKernels *kernels = codec ? coded_kernels_find(codec) : NULL;
    if (!codec)
        fold_raw_block(args, task, run, block, scratch, group);
    else if (kernels)
        fold_coded_block(args, task, run, block, codec, kernels, scratch, group);
    else
        fold_expanded_block(args, task, run, block, codec, scratch, group);
}

static void attend_vector(const KernelContext *context, const AttendArgs *args) {
    static const AttendIsa isa = {fold_block, fold_group};
    attend_with(&isa, context, args);
}

#endif

#endif
