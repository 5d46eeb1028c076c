#ifndef KERNELS_CPU_ATTENTION_VECTOR_H
#define KERNELS_CPU_ATTENTION_VECTOR_H

/* The arithmetic of partial attention on one block, for the vectors of the instruction set that the file is compiled
 * for; included by one file an ISA. In the order that every item gets, whatever shares its tile:
 *
 *     q . k    lane l sums the products of d = l, l + LANES, … by fused multiply-add; the lanes meet in the tree of
 *              vector_sum_four; then times scale, rounded
 *     max      exact
 *     sum      lane l sums the weights of tokens t = l modulo LANES, tokens outside the range as zero; vector_sum
 *     out      for each d one chain of fused multiply-adds over the seen tokens in rising order, from zero
 *     fold     a * kept + b * added, the second product fused
 *
 * Blocks are read as f16 when few items share them, else once into f32 panels: conversion is exact. */

#include "kernels/cpu/attention_tasks.h"
#include "kernels/cpu/vector.h"
#include "runtime/base/invariant.h"

#ifdef VECTOR_LANES

#include <math.h>

#define INLINE static inline __attribute__((always_inline))

enum {
    /* items × 4 accumulators, a vector of each item and one shared fit the registers */
    TILE_ITEMS = VECTOR_REGISTERS == 32 ? 6 : 3,
    TILE_TOKENS = 4,                  /* of a step of q . k */
    TILE_VECTORS = 4,                 /* of out in a step over the tokens */
    PANEL_ITEMS = 2 * TILE_ITEMS + 1, /* so many items pay for a panel */
};

/* Keys or values of a KV head in a block: f16 rows, or an f32 panel when `panel` is set. */
typedef struct TokenRows {
    const uint16_t *halves; /* [token][head_dim] */
    const float *panel;     /* [token][padded_dim]; NULL: none */
    const uint16_t
        *next; /* where the same rows of the next block begin: fetched on the way; NULL: none */
    uint32_t head_dim, padded_dim;
} TokenRows;

typedef struct Tile {
    uint32_t item_count;
    TokenRange ranges[TILE_ITEMS];
    float max[TILE_ITEMS], sum[TILE_ITEMS];
} Tile;

INLINE Vector token_vector(bool panel, const TokenRows *rows, uint32_t token, uint32_t d) {
    return panel ? vector_load(rows->panel + (size_t)token * rows->padded_dim + d)
                 : vector_load_half(rows->halves + (size_t)token * rows->head_dim + d);
}

/* Halves [d, d + count) of the token in the next block. */
INLINE void fetch_next(const TokenRows *rows, uint32_t token, uint32_t d, uint32_t count) {
    enum { LINE_HALVES = 32 };
    if (!rows->next) return;
    const uint16_t *halves = rows->next + (size_t)token * rows->head_dim + d;
    for (uint32_t i = 0; i < count; i += LINE_HALVES)
        _mm_prefetch((const char *)(halves + i), _MM_HINT_T0);
}

/* scores[item][t] for tokens t of the range and up to three on each side, all inside the block */
INLINE void scores_step(uint32_t items, bool panel, const float *q, const TokenRows *keys,
                        uint32_t last_token, TokenRange range, float scale, float *scores,
                        uint32_t scores_stride) {
    uint32_t first = range.begin - range.begin % TILE_TOKENS;
    for (uint32_t token = first; token < range.end; token += TILE_TOKENS) {
        Vector sums[TILE_ITEMS][TILE_TOKENS];
        uint32_t tokens[TILE_TOKENS];
        for (uint32_t t = 0; t < TILE_TOKENS; t++)
            tokens[t] = token + t < last_token ? token + t : last_token;
        if (!panel) fetch_next(keys, token, 0, TILE_TOKENS * keys->head_dim);
        for (uint32_t i = 0; i < items; i++)
            for (uint32_t t = 0; t < TILE_TOKENS; t++)
                sums[i][t] = vector_zero();
        for (uint32_t d = 0; d < keys->padded_dim; d += VECTOR_LANES) {
            Vector query[TILE_ITEMS];
            for (uint32_t i = 0; i < items; i++)
                query[i] = vector_load(q + (size_t)i * keys->padded_dim + d);
            for (uint32_t t = 0; t < TILE_TOKENS; t++) {
                Vector key = token_vector(panel, keys, tokens[t], d);
                for (uint32_t i = 0; i < items; i++)
                    sums[i][t] = vector_fma(query[i], key, sums[i][t]);
            }
        }
        for (uint32_t i = 0; i < items; i++) {
            __m128 four = vector_sum_four(sums[i][0], sums[i][1], sums[i][2], sums[i][3]);
            _mm_storeu_ps(scores + (size_t)i * scores_stride + token,
                          _mm_mul_ps(four, _mm_set1_ps(scale)));
        }
    }
}

/* out[item][d] += weights[item][t] * values[t][d] over t of the range, for `vectors` vectors of d */
INLINE void values_step(uint32_t items, uint32_t vectors, bool panel, const float *weights,
                        uint32_t weights_stride, const TokenRows *values, TokenRange range,
                        uint32_t d, float *out) {
    Vector sums[TILE_ITEMS][TILE_VECTORS];
    for (uint32_t i = 0; i < items; i++)
        for (uint32_t v = 0; v < vectors; v++)
            sums[i][v] = vector_load(out + (size_t)i * values->padded_dim + d + v * VECTOR_LANES);
    for (uint32_t token = range.begin; token < range.end; token++) {
        if (!panel) fetch_next(values, token, d, vectors * VECTOR_LANES);
        Vector weight[TILE_ITEMS];
        for (uint32_t i = 0; i < items; i++)
            weight[i] = vector_set(weights[(size_t)i * weights_stride + token]);
        for (uint32_t v = 0; v < vectors; v++) {
            Vector value = token_vector(panel, values, token, d + v * VECTOR_LANES);
            for (uint32_t i = 0; i < items; i++)
                sums[i][v] = vector_fma(weight[i], value, sums[i][v]);
        }
    }
    for (uint32_t i = 0; i < items; i++)
        for (uint32_t v = 0; v < vectors; v++)
            vector_store(out + (size_t)i * values->padded_dim + d + v * VECTOR_LANES, sums[i][v]);
}

INLINE void values_all(uint32_t items, bool panel, const float *weights, uint32_t weights_stride,
                       const TokenRows *values, TokenRange range, float *out) {
    uint32_t d = 0, step = TILE_VECTORS * VECTOR_LANES;
    if (range.begin >= range.end) return;
    for (; d + step <= values->padded_dim; d += step)
        values_step(items, TILE_VECTORS, panel, weights, weights_stride, values, range, d, out);
    for (; d < values->padded_dim; d += VECTOR_LANES)
        values_step(items, 1, panel, weights, weights_stride, values, range, d, out);
}

/* Scores to weights exp(score - max) in place, items side by side. A lane that the item does not see becomes a
 * weight of zero, so that it does not matter how far the tile reaches beyond the item's own range. */
INLINE void softmax_step(uint32_t items, Tile *tile, TokenRange seen, float *scores,
                         uint32_t scores_stride) {
    const Vector minimum = vector_set(-INFINITY);
    Vector max[TILE_ITEMS], sum[TILE_ITEMS];
    uint32_t first = seen.begin - seen.begin % VECTOR_LANES;
    for (uint32_t i = 0; i < items; i++)
        max[i] = minimum;
    for (uint32_t t = first; t < seen.end; t += VECTOR_LANES)
        for (uint32_t i = 0; i < items; i++) {
            float *at = scores + (size_t)i * scores_stride + t;
            Vector score = vector_keep_lanes(vector_load(at), minimum,
                                             (int32_t)tile->ranges[i].begin - (int32_t)t,
                                             (int32_t)tile->ranges[i].end - (int32_t)t);
            vector_store(at, score);
            max[i] = vector_max(score, max[i]); /* passes over NaN, which will reach the sum */
        }
    for (uint32_t i = 0; i < items; i++) {
        tile->max[i] = vector_max_lane(max[i]);
        max[i] = vector_set(tile->max[i] == -INFINITY ? 0.0f : tile->max[i]);
        sum[i] = vector_zero();
    }
    for (uint32_t t = first; t < seen.end; t += VECTOR_LANES)
        for (uint32_t i = 0; i < items; i++) {
            float *at = scores + (size_t)i * scores_stride + t;
            Vector weight = vector_exp(vector_subtract(vector_load(at), max[i]));
            vector_store(at, weight);
            sum[i] = vector_add(sum[i], weight);
        }
    for (uint32_t i = 0; i < items; i++)
        tile->sum[i] = vector_sum(sum[i]);
}

/* A tile's item count and the kind of rows are constants inside: arrays become registers. */
#if VECTOR_REGISTERS == 32
#define EACH_TILE(row) row(1) row(2) row(3) row(4) row(5) row(6)
#else
#define EACH_TILE(row) row(1) row(2) row(3)
#endif

static void tile_scores(uint32_t items, const float *q, const TokenRows *keys, uint32_t last_token,
                        TokenRange seen, float scale, float *scores, uint32_t scores_stride) {
    switch (items) {
#define TILE_ROW(n)                                                                         \
    case n:                                                                                 \
        if (keys->panel)                                                                    \
            scores_step(n, true, q, keys, last_token, seen, scale, scores, scores_stride);  \
        else                                                                                \
            scores_step(n, false, q, keys, last_token, seen, scale, scores, scores_stride); \
        break;
        EACH_TILE(TILE_ROW)
#undef TILE_ROW
    default: CHECK(!"a tile of that many items");
    }
}

/* out[item][d] += weights[item][t] * values[t][d] over t of the range */
typedef void TileValues(uint32_t items, const float *weights, uint32_t weights_stride,
                        const void *source, TokenRange range, float *out);

static void tile_values(uint32_t items, const float *weights, uint32_t weights_stride,
                        const void *source, TokenRange range, float *out) {
    const TokenRows *values = source;
    switch (items) {
#define TILE_ROW(n)                                                            \
    case n:                                                                    \
        if (values->panel)                                                     \
            values_all(n, true, weights, weights_stride, values, range, out);  \
        else                                                                   \
            values_all(n, false, weights, weights_stride, values, range, out); \
        break;
        EACH_TILE(TILE_ROW)
#undef TILE_ROW
    default: CHECK(!"a tile of that many items");
    }
}

static void tile_softmax(Tile *tile, TokenRange seen, float *scores, uint32_t scores_stride) {
    switch (tile->item_count) {
#define TILE_ROW(n) \
    case n: softmax_step(n, tile, seen, scores, scores_stride); break;
        EACH_TILE(TILE_ROW)
#undef TILE_ROW
    default: CHECK(!"a tile of that many items");
    }
}

/* Each item takes the tokens that it sees, in rising order: those that all see are taken together. */
static void tile_partial_out(const Tile *tile, TokenRange seen, const AttendScratch *scratch,
                             TileValues *add_values, const void *values) {
    const float *weights = scratch->scores;
    float *out = scratch->partial_out;
    uint32_t weights_stride = scratch->padded_tokens, out_stride = scratch->padded_dim;
    for (uint32_t d = 0; d < tile->item_count * out_stride; d += VECTOR_LANES)
        vector_store(out + d, vector_zero());
    TokenRange common = seen;
    for (uint32_t i = 0; i < tile->item_count; i++) {
        if (tile->ranges[i].begin > common.begin) common.begin = tile->ranges[i].begin;
        if (tile->ranges[i].end < common.end) common.end = tile->ranges[i].end;
    }
    if (common.begin >= common.end) common.begin = common.end = seen.end;
    for (uint32_t i = 0; i < tile->item_count && common.begin > seen.begin; i++) {
        uint32_t end = tile->ranges[i].end < common.begin ? tile->ranges[i].end : common.begin;
        TokenRange before = {tile->ranges[i].begin, end};
        add_values(1, weights + (size_t)i * weights_stride, weights_stride, values, before,
                   out + (size_t)i * out_stride);
    }
    add_values(tile->item_count, weights, weights_stride, values, common, out);
    for (uint32_t i = 0; i < tile->item_count && common.end < seen.end; i++) {
        TokenRange after = {common.end, tile->ranges[i].end};
        add_values(1, weights + (size_t)i * weights_stride, weights_stride, values, after,
                   out + (size_t)i * out_stride);
    }
}

/* How much two partials count against their common maximum: kept[i] of a, added[i] of b. No aliasing. */
static void fold_factors(uint32_t count, const float *a, const float *b, float *out_max,
                         float *out_kept, float *out_added) {
    float differences[2 * VECTOR_LANES] = {0.0f};
    for (uint32_t i = 0; i < count; i++) {
        out_max[i] = a[i] > b[i] ? a[i] : b[i];
        float shift = out_max[i] == -INFINITY ? 0.0f : out_max[i];
        differences[i] = a[i] - shift;
        differences[TILE_ITEMS + i] = b[i] - shift;
    }
    vector_store(differences, vector_exp(vector_load(differences)));
    for (uint32_t i = 0; i < count; i++) {
        out_kept[i] = differences[i];
        out_added[i] = differences[TILE_ITEMS + i];
    }
}

static void fold_rows(float kept, float added, float *into, const float *from, uint32_t dim) {
    Vector a = vector_set(kept), b = vector_set(added);
    for (uint32_t d = 0; d < dim; d += VECTOR_LANES) {
        Vector old = vector_load_tail_or_full(into + d, dim - d);
        Vector fresh = vector_multiply(vector_load(from + d), b);
        vector_store_tail_or_full(into + d, vector_fma(old, a, fresh), dim - d);
    }
}

static void tile_fold(const Tile *tile, const AttendScratch *scratch, const AttendState *group,
                      uint32_t item_first) {
    float max[TILE_ITEMS], kept[TILE_ITEMS], added[TILE_ITEMS];
    fold_factors(tile->item_count, group->max + item_first, tile->max, max, kept, added);
    for (uint32_t i = 0; i < tile->item_count; i++) {
        uint32_t item = item_first + i;
        if (tile->ranges[i].begin == tile->ranges[i].end) continue;
        group->seen[item] = true;
        group->max[item] = max[i];
        group->sum[item] = fmaf(group->sum[item], kept[i], tile->sum[i] * added[i]);
        fold_rows(kept[i], added[i], group->out + (size_t)item * scratch->padded_dim,
                  scratch->partial_out + (size_t)i * scratch->padded_dim, scratch->padded_dim);
    }
}

/* The tile's items against the block; false when none sees any of it. */
static bool tile_ranges(const AttendArgs *args, const AttendTask *task, const AttendRun *run,
                        uint32_t block, uint32_t item_first, Tile *tile, TokenRange *out_seen) {
    uint32_t row = attend_item_row(task, item_first);
    uint32_t head = (task->item_first + item_first) % task->head_count;
    TokenRange range = attend_range(args, run, row, block);
    *out_seen = (TokenRange){UINT32_MAX, 0};
    for (uint32_t i = 0; i < tile->item_count; i++, head++) {
        if (head == task->head_count) {
            head = 0;
            range = attend_range(args, run, ++row, block);
        }
        tile->ranges[i] = range;
        if (range.begin == range.end) continue;
        if (range.begin < out_seen->begin) out_seen->begin = range.begin;
        if (range.end > out_seen->end) out_seen->end = range.end;
    }
    return out_seen->begin < out_seen->end;
}

static void fill_panel(const TokenRows *rows, TokenRange range, float *panel) {
    uint32_t whole = rows->head_dim - rows->head_dim % VECTOR_LANES;
    for (uint32_t token = range.begin; token < range.end; token++) {
        const uint16_t *halves = rows->halves + (size_t)token * rows->head_dim;
        fetch_next(rows, token, 0, rows->head_dim);
        float *out = panel + (size_t)token * rows->padded_dim;
        for (uint32_t d = 0; d < whole; d += VECTOR_LANES)
            vector_store(out + d, vector_load_half(halves + d));
        for (uint32_t d = whole; d < rows->padded_dim; d += VECTOR_LANES)
            vector_store(out + d, d < rows->head_dim
                                      ? vector_load_half_tail(halves + d, rows->head_dim - d)
                                      : vector_zero());
    }
}

/* The tokens of the block that any item sees, with the neighbours that scores_step may read. */
static TokenRange block_range(const AttendArgs *args, const AttendTask *task, const AttendRun *run,
                              uint32_t block) {
    TokenRange first = attend_range(args, run, attend_item_row(task, 0), block);
    TokenRange last = attend_range(args, run, attend_item_row(task, task->item_count - 1), block);
    uint32_t end = (last.end + TILE_TOKENS - 1) / TILE_TOKENS * TILE_TOKENS;
    uint32_t capacity = args->shape.block_tokens;
    return (TokenRange){first.begin - first.begin % TILE_TOKENS, end < capacity ? end : capacity};
}

/* Tiles of at most TILE_ITEMS, as equal as can be. */
static uint32_t tile_items_of(const AttendTask *task) {
    uint32_t tile_count = (task->item_count + TILE_ITEMS - 1) / TILE_ITEMS;
    return (task->item_count + tile_count - 1) / tile_count;
}

static void fold_tiles(const AttendArgs *args, const AttendTask *task, const AttendRun *run,
                       uint32_t block, const TokenRows *keys, const TokenRows *values,
                       const AttendScratch *scratch, const AttendState *group) {
    uint32_t tile_items = tile_items_of(task);
    for (uint32_t first = 0; first < task->item_count; first += tile_items) {
        uint32_t left = task->item_count - first;
        Tile tile = {.item_count = left < tile_items ? left : tile_items};
        TokenRange seen;
        if (!tile_ranges(args, task, run, block, first, &tile, &seen)) continue;
        tile_scores(tile.item_count, scratch->q + (size_t)first * scratch->padded_dim, keys,
                    args->shape.block_tokens - 1, seen, args->scale, scratch->scores,
                    scratch->padded_tokens);
        tile_softmax(&tile, seen, scratch->scores, scratch->padded_tokens);
        tile_partial_out(&tile, seen, scratch, tile_values, values);
        tile_fold(&tile, scratch, group, first);
    }
}

static void fold_raw_block(const AttendArgs *args, const AttendTask *task, const AttendRun *run,
                           uint32_t block, const AttendScratch *scratch, const AttendState *group) {
    const KvShape *shape = &args->shape;
    uint64_t head_elements = (uint64_t)shape->block_tokens * shape->head_dim;
    uint64_t keys_first = task->kv_head * head_elements;
    uint64_t values_first = (shape->kv_head_count + task->kv_head) * head_elements;
    const uint16_t *halves = (const uint16_t *)run->blocks[block];
    const uint16_t *next = block + 1 < run->block_count && !attend_codec(run, block + 1)
                               ? (const uint16_t *)run->blocks[block + 1]
                               : NULL;
    TokenRows keys = {halves + keys_first, NULL, next ? next + keys_first : NULL, shape->head_dim,
                      scratch->padded_dim};
    TokenRows values = keys;
    values.halves = halves + values_first;
    values.next = next ? next + values_first : NULL;
    if (task->item_count >= PANEL_ITEMS || shape->head_dim % ATTEND_LANES_MAX != 0) {
        TokenRange range = block_range(args, task, run, block);
        fill_panel(&keys, range, scratch->keys);
        fill_panel(&values, range, scratch->values);
        keys.panel = scratch->keys;
        values.panel = scratch->values;
    }
    fold_tiles(args, task, run, block, &keys, &values, scratch, group);
}

static void fold_group(float group_max, float group_sum, const float *group_out, float *max,
                       float *sum, float *out, uint32_t head_dim) {
    float common, kept, added;
    fold_factors(1, max, &group_max, &common, &kept, &added);
    *max = common;
    *sum = fmaf(*sum, kept, group_sum * added);
    fold_rows(kept, added, out, group_out, head_dim);
}

#endif

#endif
