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

#include "kernels/cpu/attention_turbo.h"
#include "kernels/cpu/attention_vector.h"

#ifdef VECTOR_LANES

/* so many accumulators of each item leave registers for codes on their way */
enum {
    STEP_TOKENS = VECTOR_REGISTERS == 32 ? 4 : 2,
    STEP_CHUNKS = VECTOR_REGISTERS == 32 ? 4 : 1,
    STEP_CHUNKS_ROW = TILE_VECTORS / CHUNK_VECTORS, /* scaled weights are worth more */
};

typedef enum ScaleKind {
    SCALE_ROW,   /* one a token */
    SCALE_TABLE, /* one a token's vector: its codes' numbers are scaled before they are found */
    SCALE_GROUP, /* one a group of a token */
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
    uint32_t first, dim;    /* the numbers of q and out that they meet */
    uint32_t out_stride;    /* between items of q and out */
} CodedRows;

/* The keys or values of one KV head, and what was made of its scales. */
typedef struct CodedHead {
    CodecHead head;
    const uint8_t *bytes, *next;
    float *scales; /* scratch: as many floats as the head has tokens and padded dimensions */
    uint32_t padded_dim;
    CodedRows rows[TURBO_VECTORS_MAX];
    const uint8_t *outliers; /* turbo: a bit a channel */
} CodedHead;

typedef void CodedScores(uint32_t items, const float *q, const CodedHead *keys, TokenRange seen,
                         float scale, float *scores, uint32_t scores_stride);

typedef struct CodedKernels {
    const char *name;
    void (*open)(CodedHead *head);
    /* queries and sums of values as the codes mean them, rows padded_dim apart; NULL: as they are */
    void (*turn)(const CodedHead *keys, uint32_t items, const float *q, float *out);
    void (*turn_back)(const CodedHead *values, uint32_t items, float *out);
    CodedScores *scores;
    TileValues *values; /* its source is a CodedHead */
} CodedKernels;

/* Dimensions that share a scale. */
INLINE uint32_t form_group(CodeForm form) {
    return form == FORM_HIGH4 ? 64 : 32;
}

/* How the codes of one vector are written, or of two: there the second has three chunks for one of the first. */
typedef struct RowForms {
    CodeForm first, second;
} RowForms;

INLINE bool rows_have_runs(RowForms forms) {
    return form_has_runs(forms.first) && forms.second == FORM_NONE;
}

typedef struct RowTables {
    CodeTable first, second;
} RowTables;

INLINE RowTables rows_tables(RowForms forms, const CodedRows *rows) {
    RowTables tables;
    tables.first = table_load(forms.first, rows[0].centroids);
    tables.second =
        forms.second == FORM_NONE ? tables.first : table_load(forms.second, rows[1].centroids);
    return tables;
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

/* The numbers of codes [d, d + CHUNK) of a token, or [d, d + RUN) where they share a scale. */
INLINE void coded_numbers(CodeForm form, ScaleKind kind, uint32_t group_stride,
                          const CodeTable *table, const CodedToken *token, uint64_t d,
                          uint32_t count, Vector *out) {
    const uint8_t *codes = token->codes + d / 8 * form_bits(form);
    CodeTable own;
    if (kind == SCALE_TABLE) own = table_scaled(table, *token->scales);
    if (count == RUN)
        form_run(form, codes, table, out);
    else
        form_chunk(form, codes, kind == SCALE_TABLE ? &own : table, out);
    if (kind == SCALE_ROW || kind == SCALE_TABLE) return;
    uint64_t group = d / form_group(form) * group_stride;
    Vector scale = vector_set(token->scales[group]);
    for (uint32_t v = 0; v < count / VECTOR_LANES; v++)
        out[v] = kind == SCALE_GROUP_OFFSET
                     ? vector_fma(out[v], scale, vector_set(token->offsets[group]))
                     : vector_multiply(out[v], scale);
}

/* Adds the products of `count` numbers of the queries, from `d` on, with those of `step` tokens. */
INLINE void rows_products(uint32_t items, CodeForm form, ScaleKind kind, uint32_t count,
                          uint32_t step, const float *q, const CodedRows *rows,
                          const CodeTable *table, const CodedToken *tokens, uint64_t d,
                          Vector sums[TILE_ITEMS][TILE_TOKENS]) {
    const float *own = q + rows->first + d;
    for (uint32_t t = 0; t < step; t++) {
        Vector numbers[RUN_VECTORS];
        coded_numbers(form, kind, rows->group_stride, table, &tokens[t], d, count, numbers);
        for (uint64_t v = 0; v < count / VECTOR_LANES; v++)
            for (uint64_t i = 0; i < items; i++)
                sums[i][t] = vector_fma(vector_load(own + i * rows->out_stride + v * VECTOR_LANES),
                                        numbers[v], sums[i][t]);
    }
}

/* The products of the queries with `step` tokens; lanes are not yet added up. */
INLINE void rows_sums(uint32_t items, RowForms forms, ScaleKind kind, uint32_t step, const float *q,
                      const CodedRows *rows, const RowTables *tables,
                      CodedToken tokens[TURBO_VECTORS_MAX][TILE_TOKENS], uint32_t first,
                      Vector out[TILE_ITEMS][TILE_TOKENS]) {
    Vector sums[TILE_ITEMS][TILE_TOKENS];
    uint64_t d = 0;
    for (uint32_t i = 0; i < items; i++)
        for (uint32_t t = 0; t < step; t++)
            sums[i][t] = vector_zero();
    for (; rows_have_runs(forms) && d + RUN <= rows->dim; d += RUN)
        rows_products(items, forms.first, kind, RUN, step, q, &rows[0], &tables->first,
                      tokens[0] + first, d, sums);
    for (; d < rows->dim; d += CHUNK) {
        rows_products(items, forms.first, kind, CHUNK, step, q, &rows[0], &tables->first,
                      tokens[0] + first, d, sums);
        for (uint32_t third = 0; third < 3 && forms.second != FORM_NONE; third++)
            rows_products(items, forms.second, kind, CHUNK, step, q, &rows[1], &tables->second,
                          tokens[1] + first, 3 * d + third * CHUNK, sums);
    }
    for (uint32_t i = 0; i < items; i++)
        for (uint32_t t = 0; t < step; t++)
            out[i][first + t] = sums[i][t];
}

INLINE void rows_scores(uint32_t items, RowForms forms, ScaleKind kind, const float *q,
                        const CodedRows *rows, uint32_t token_count, TokenRange seen, float scale,
                        float *scores, uint32_t scores_stride) {
    const RowTables tables = rows_tables(forms, rows);
    const uint32_t step = rows_have_runs(forms) ? 1 : STEP_TOKENS;
    uint32_t first = seen.begin - seen.begin % TILE_TOKENS;
    for (uint32_t token = first; token < seen.end; token += TILE_TOKENS) {
        Vector sums[TILE_ITEMS][TILE_TOKENS];
        CodedToken tokens[TURBO_VECTORS_MAX][TILE_TOKENS];
        for (uint32_t t = 0; t < TILE_TOKENS; t++) {
            uint32_t inside = token + t < token_count ? token + t : token_count - 1;
            tokens[0][t] = coded_token(kind, &rows[0], inside);
            if (forms.second != FORM_NONE) tokens[1][t] = coded_token(kind, &rows[1], inside);
        }
        if (rows->next)
            fetch_bytes(rows->next + token * rows->row_bytes, TILE_TOKENS * rows->row_bytes);
        for (uint32_t t = 0; t < TILE_TOKENS; t += step)
            rows_sums(items, forms, kind, step, q, rows, &tables, tokens, t, sums);
        __m128 factors = _mm_set1_ps(scale);
        if (kind == SCALE_ROW)
            factors = _mm_mul_ps(factors, _mm_setr_ps(*tokens[0][0].scales, *tokens[0][1].scales,
                                                      *tokens[0][2].scales, *tokens[0][3].scales));
        for (uint32_t i = 0; i < items; i++) {
            __m128 four = vector_sum_four(sums[i][0], sums[i][1], sums[i][2], sums[i][3]);
            _mm_storeu_ps(scores + (size_t)i * scores_stride + token, _mm_mul_ps(four, factors));
        }
    }
}

/* Chunks of the first and of the second vector, side by side in `sums`. */
typedef struct ValueChunks {
    uint32_t first, second; /* how many */
    uint32_t d, second_d;   /* where they begin */
} ValueChunks;

INLINE uint32_t value_place(const CodedRows *rows, ValueChunks chunks, uint32_t v) {
    uint32_t first_vectors = chunks.first * CHUNK_VECTORS;
    return v < first_vectors ? rows[0].first + chunks.d + v * VECTOR_LANES
                             : rows[1].first + chunks.second_d + (v - first_vectors) * VECTOR_LANES;
}

INLINE void values_add(uint32_t items, CodeForm form, ScaleKind kind, const CodedRows *rows,
                       const CodeTable *table, const CodedToken *token, uint64_t d, uint32_t count,
                       const Vector *weight, uint32_t place,
                       Vector sums[TILE_ITEMS][TILE_VECTORS]) {
    Vector numbers[RUN_VECTORS];
    coded_numbers(form, kind, rows->group_stride, table, token, d, count, numbers);
    for (uint32_t v = 0; v < count / VECTOR_LANES; v++)
        for (uint32_t i = 0; i < items; i++)
            sums[i][place + v] = vector_fma(weight[i], numbers[v], sums[i][place + v]);
}

/* chunks: a constant */
INLINE void values_add_chunks(uint32_t items, CodeForm form, ScaleKind kind, const CodedRows *rows,
                              const CodeTable *table, const CodedToken *token, uint32_t d,
                              uint32_t chunks, const Vector *weight, uint32_t place,
                              Vector sums[TILE_ITEMS][TILE_VECTORS]) {
    uint32_t i = 0;
    for (; form_has_runs(form) && i + RUN / CHUNK <= chunks; i += RUN / CHUNK)
        values_add(items, form, kind, rows, table, token, d + i * CHUNK, RUN, weight,
                   place + i * CHUNK_VECTORS, sums);
    for (; i < chunks; i++)
        values_add(items, form, kind, rows, table, token, d + i * CHUNK, CHUNK, weight,
                   place + i * CHUNK_VECTORS, sums);
}

INLINE void rows_values_step(uint32_t items, RowForms forms, ScaleKind kind, ValueChunks chunks,
                             const RowTables *tables, const float *weights, uint32_t weights_stride,
                             const CodedRows *rows, TokenRange range, float *out) {
    const uint32_t vectors = (chunks.first + chunks.second) * CHUNK_VECTORS;
    Vector sums[TILE_ITEMS][TILE_VECTORS];
    for (uint32_t i = 0; i < items; i++)
        for (uint32_t v = 0; v < vectors; v++)
            sums[i][v] =
                vector_load(out + (size_t)i * rows->out_stride + value_place(rows, chunks, v));
    for (uint32_t token = range.begin; token < range.end; token++) {
        if (rows->next && chunks.first && chunks.d == 0)
            fetch_bytes(rows->next + token * rows->row_bytes, rows->row_bytes);
        Vector weight[TILE_ITEMS];
        CodedToken place = coded_token(kind, &rows[0], token);
        for (uint32_t i = 0; i < items; i++) {
            weight[i] = vector_set(weights[(size_t)i * weights_stride + token]);
            if (kind == SCALE_ROW)
                weight[i] = vector_multiply(weight[i], vector_set(*place.scales));
        }
        values_add_chunks(items, forms.first, kind, &rows[0], &tables->first, &place, chunks.d,
                          chunks.first, weight, 0, sums);
        if (chunks.second == 0) continue;
        place = coded_token(kind, &rows[1], token);
        values_add_chunks(items, forms.second, kind, &rows[1], &tables->second, &place,
                          chunks.second_d, chunks.second, weight, chunks.first * CHUNK_VECTORS,
                          sums);
    }
    for (uint32_t i = 0; i < items; i++)
        for (uint32_t v = 0; v < vectors; v++)
            vector_store(out + (size_t)i * rows->out_stride + value_place(rows, chunks, v),
                         sums[i][v]);
}

INLINE void rows_values(uint32_t items, RowForms forms, ScaleKind kind, const float *weights,
                        uint32_t weights_stride, const CodedRows *rows, TokenRange range,
                        float *out) {
#define STEP(...)                                                                      \
    rows_values_step(items, forms, kind, (ValueChunks){__VA_ARGS__}, &tables, weights, \
                     weights_stride, rows, range, out)
    const RowTables tables = rows_tables(forms, rows);
    const bool few = kind == SCALE_ROW || kind == SCALE_TABLE; /* registers for scales */
    const uint32_t count = few ? STEP_CHUNKS_ROW : STEP_CHUNKS;
    uint32_t d = 0;
    if (range.begin >= range.end) return;
    if (forms.second != FORM_NONE) {
        for (; d < rows->dim; d += CHUNK)
            if (CHUNK_VECTORS == 1)
                STEP(1, 3, d, 3 * d);
            else {
                STEP(1, 1, d, 3 * d);
                STEP(0, 2, 0, 3 * d + CHUNK);
            }
        return;
    }
    for (; d + count * CHUNK <= rows->dim; d += count * CHUNK)
        STEP(count, 0, d, 0);
    for (; d < rows->dim; d += CHUNK)
        STEP(1, 0, d, 0);
#undef STEP
}

/* An item count is a constant inside: arrays become registers. */
INLINE void rows_scores_items(uint32_t items, RowForms forms, ScaleKind kind, const float *q,
                              const CodedHead *keys, TokenRange seen, float scale, float *scores,
                              uint32_t scores_stride) {
    switch (items) {
#define TILE_ROW(n)                                                                             \
    case n:                                                                                     \
        rows_scores(n, forms, kind, q, keys->rows, keys->head.token_count, seen, scale, scores, \
                    scores_stride);                                                             \
        break;
        EACH_TILE(TILE_ROW)
#undef TILE_ROW
    default: CHECK(!"a tile of that many items");
    }
}

INLINE void rows_values_items(uint32_t items, RowForms forms, ScaleKind kind, const float *weights,
                              uint32_t weights_stride, const CodedHead *values, TokenRange range,
                              float *out) {
    switch (items) {
#define TILE_ROW(n) \
    case n: rows_values(n, forms, kind, weights, weights_stride, values->rows, range, out); break;
        EACH_TILE(TILE_ROW)
#undef TILE_ROW
    default: CHECK(!"a tile of that many items");
    }
}

/* ---- heads whose keys and values are rows */

#define ROWS_SCORES(suffix, form, second, kind)                                                \
    static void scores_##suffix(uint32_t items, const float *q, const CodedHead *keys,         \
                                TokenRange seen, float scale, float *scores,                   \
                                uint32_t scores_stride) {                                      \
        rows_scores_items(items, (RowForms){form, second}, kind, q, keys, seen, scale, scores, \
                          scores_stride);                                                      \
    }

#define ROWS_VALUES(suffix, form, second, kind)                                                   \
    static void values_##suffix(uint32_t items, const float *weights, uint32_t weights_stride,    \
                                const void *source, TokenRange range, float *out) {               \
        rows_values_items(items, (RowForms){form, second}, kind, weights, weights_stride, source, \
                          range, out);                                                            \
    }

#define ROWS_BOTH(suffix, form, second, kind) \
    ROWS_SCORES(suffix, form, second, kind)   \
    ROWS_VALUES(suffix, form, second, kind)

ROWS_BOTH(int8, FORM_INT8, FORM_NONE, SCALE_GROUP)
ROWS_BOTH(fp8, FORM_FP8, FORM_NONE, SCALE_ROW)
ROWS_BOTH(int4_group, FORM_HIGH4, FORM_NONE, SCALE_GROUP_OFFSET)
ROWS_VALUES(kivi4, FORM_LOW4, FORM_NONE, SCALE_GROUP_OFFSET)
ROWS_VALUES(kivi2, FORM_LOW2, FORM_NONE, SCALE_GROUP_OFFSET)
ROWS_SCORES(turbo2, FORM_TABLE2, FORM_NONE, SCALE_ROW)
ROWS_VALUES(turbo2, FORM_TABLE2, FORM_NONE, SCALE_TABLE)
ROWS_SCORES(turbo3, FORM_TABLE3, FORM_NONE, SCALE_ROW)
ROWS_VALUES(turbo3, FORM_TABLE3, FORM_NONE, SCALE_TABLE)
ROWS_BOTH(turbo4, FORM_TABLE4, FORM_NONE, SCALE_ROW)
ROWS_BOTH(turbo2_5, FORM_INNER3, FORM_TABLE2, SCALE_TABLE)
ROWS_BOTH(turbo3_5, FORM_TABLE4, FORM_INNER3, SCALE_TABLE)

#undef ROWS_BOTH
#undef ROWS_SCORES
#undef ROWS_VALUES

/* `count` halves that begin at `offset`; the next block's are fetched. (KIVI has so many that fetching them at once costs more.) */
static void open_scales(CodedHead *head, uint64_t offset, uint64_t count) {
    halves_to_floats(head->bytes + offset, count, head->scales);
    if (head->next) fetch_bytes(head->next + offset, count * sizeof(uint16_t));
}

static void open_int8(CodedHead *head) {
    uint32_t groups = (head->head.head_dim + 31) / 32, tokens = head->head.token_count;
    uint64_t codes_bytes = (uint64_t)tokens * head->head.head_dim;
    open_scales(head, codes_bytes, (uint64_t)tokens * groups);
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
    open_scales(head, codes_bytes, head->head.token_count);
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
    open_scales(head, codes_bytes, count);
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
    open_scales(head, plan->mask_bytes + tokens * plan->row_bytes, tokens * plan->vector_count);
    for (uint32_t v = 0; v < plan->vector_count; v++)
        head->rows[v] =
            (CodedRows){.codes = codes + plan->vectors[v].row_offset,
                        .next = head->next && v == 0 ? head->next + plan->mask_bytes : NULL,
                        .row_bytes = plan->row_bytes,
                        .scales = head->scales + v,
                        .scale_stride = plan->vector_count,
                        .centroids = plan->vectors[v].centroids,
                        .first = plan->vectors[v].first,
                        .dim = plan->vectors[v].dim,
                        .out_stride = head->padded_dim};
    head->outliers = head->bytes;
    lane_tables_open();
}

static void turn_turbo(const CodedHead *keys, uint32_t items, const float *q, float *out) {
    const TurboPlan *plan = turbo_plan(&keys->head);
    const uint32_t dim = keys->head.head_dim, stride = keys->padded_dim;
    TurboRow rows[TILE_ITEMS];
    for (uint32_t i = 0; i < items && plan->mask_bytes; i++)
        turbo_order(keys->outliers, dim, q + (size_t)i * stride, rows[i]);
    for (uint32_t i = 0; i < items; i++)
        turbo_rotate(plan, plan->mask_bytes ? rows[i] : q + (size_t)i * stride,
                     out + (size_t)i * stride);
}

static void turn_turbo_back(const CodedHead *values, uint32_t items, float *out) {
    const TurboPlan *plan = turbo_plan(&values->head);
    const uint32_t dim = values->head.head_dim, stride = values->padded_dim;
    TurboRow rows[TILE_ITEMS];
    for (uint32_t i = 0; i < items; i++) {
        float *x = out + (size_t)i * stride;
        turbo_rotate_back(plan, x, plan->mask_bytes ? rows[i] : x);
    }
    for (uint32_t i = 0; i < items && plan->mask_bytes; i++)
        turbo_order_back(values->outliers, dim, rows[i], out + (size_t)i * stride);
}

/* ---- a block */

static const CodedKernels coded_kernels_rows[] = {
    {"int8", open_int8, NULL, NULL, scores_int8, values_int8},
    {"fp8", open_fp8, NULL, NULL, scores_fp8, values_fp8},
    {"int4_group", open_int4_group, NULL, NULL, scores_int4_group, values_int4_group},
    {"kivi4", open_kivi, NULL, NULL, scores_kivi4, values_kivi4},
    {"kivi2", open_kivi, NULL, NULL, scores_kivi2, values_kivi2},
    {"turboquant2", open_turbo, turn_turbo, turn_turbo_back, scores_turbo2, values_turbo2},
    {"turboquant2_5", open_turbo, turn_turbo, turn_turbo_back, scores_turbo2_5, values_turbo2_5},
    {"turboquant3", open_turbo, turn_turbo, turn_turbo_back, scores_turbo3, values_turbo3},
    {"turboquant3_5", open_turbo, turn_turbo, turn_turbo_back, scores_turbo3_5, values_turbo3_5},
    {"turboquant4", open_turbo, turn_turbo, turn_turbo_back, scores_turbo4, values_turbo4},
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
    kernels->turn(keys, items, q, scratch->coded_q);
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
        if (kernels->turn_back) kernels->turn_back(&values, tile.item_count, scratch->partial_out);
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
