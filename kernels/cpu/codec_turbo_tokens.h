#ifndef KERNELS_CPU_CODEC_TURBO_TOKENS_H
#define KERNELS_CPU_CODEC_TURBO_TOKENS_H

/* TurboQuant's encoder and decoder with a token a lane: VECTOR_LANES tokens are rotated side by side, so that no number
 * crosses lanes, the order of channels is an order of addresses, and norms are lanes as well. What it costs is to turn
 * halves from [token][channel] to [channel][token] and back, 16 bits a number.
 * Bytes and halves are those of kernels/codec/codec_turboquant.c: the same operations in the same order on every number. */

#include "kernels/cpu/codec_turbo.h"

#ifdef VECTOR_LANES

typedef uint16_t TokenHalves[VECTOR_LANES]; /* of a channel */
typedef float TokenFloats[VECTOR_LANES];
typedef uint32_t TokenWords[VECTOR_LANES];

enum {
    TURBO_CHUNKS_MAX = CODEC_HEAD_DIM_MAX / CHUNK,
    FETCH_TOKENS = 32 /* ahead, of those to be written */
};

/* The codes of a chunk of a token are at most two words. */
typedef struct TokenCodes {
    TokenWords low, high;
} TokenCodes;

/* A batch on its way. */
typedef struct TokenBatch {
    _Alignas(64) TokenHalves columns[CODEC_HEAD_DIM_MAX];
    _Alignas(64) TokenFloats x[CODEC_HEAD_DIM_MAX];
    _Alignas(64) TokenCodes codes[TURBO_CHUNKS_MAX];
} TokenBatch;

/* Where the codes and norms of a batch's first token lie: bytes from the head's begin. */
typedef struct TokenPlace {
    uint64_t codes, norms;
    uint32_t count; /* of tokens */
} TokenPlace;

/* ---- halves between [token][channel] and [channel][token] */

/* Seen as eight rows of eight in each 16 bytes: half i of x[j] becomes half j of x[i]. Each stage moves the highest bit of
 * a half's row number to the end of its place. */
INLINE void lanes_transpose_halves(Lanes x[8]) {
    for (uint32_t stage = 0; stage < 3; stage++) {
        Lanes y[8];
        for (uint32_t i = 0; i < 4; i++) {
            y[2 * i] = lanes_interleave_low(x[i], x[i + 4]);
            y[2 * i + 1] = lanes_interleave_high(x[i], x[i + 4]);
        }
        for (uint32_t i = 0; i < 8; i++)
            x[i] = y[i];
    }
}

INLINE void columns_from_rows(const uint16_t *rows, uint32_t head_dim, TokenHalves *columns) {
    for (uint64_t d = 0; d < head_dim; d += CHUNK) {
        Lanes x[8];
        for (uint64_t t = 0; t < 8; t++)
            x[t] = lanes_load_rows(rows + t * head_dim + d, 8u * (uint64_t)head_dim);
        lanes_transpose_halves(x);
        for (uint64_t c = 0; c < 8; c++)
            lanes_store_columns(columns[d + c], columns[d + 8 + c], x[c]);
    }
}

/* Infinite halves become the largest finite ones. */
INLINE void rows_from_columns(const TokenHalves *columns, uint32_t head_dim, uint16_t *rows) {
    for (uint64_t d = 0; d < head_dim; d += CHUNK) {
        Lanes x[8];
        for (uint64_t c = 0; c < 8; c++)
            x[c] = lanes_halves_finite(lanes_load_columns(columns[d + c], columns[d + 8 + c]));
        lanes_transpose_halves(x);
        for (uint64_t t = 0; t < 8; t++)
            lanes_store_rows(rows + t * head_dim + d, 8u * (uint64_t)head_dim, x[t]);
    }
}

/* ---- the rotation */

/* The stages that reach radix / 2 … 1 strides; radix is a constant: numbers stay in registers. */
INLINE void tokens_stages(uint32_t radix, uint32_t stride, TokenFloats *x) {
    Vector y[VECTOR_REGISTERS / 2];
#pragma GCC unroll 16
    for (uint32_t k = 0; k < radix; k++)
        y[k] = vector_load(x[k * stride]);
    turbo_stages(radix, y);
#pragma GCC unroll 16
    for (uint32_t k = 0; k < radix; k++)
        vector_store(x[k * stride], y[k]);
}

INLINE void tokens_pass(uint32_t radix, uint32_t count, uint32_t stride, TokenFloats *x) {
    for (uint32_t first = 0; first < count; first += radix * stride)
        for (uint32_t i = 0; i < stride; i++)
            tokens_stages(radix, stride, x + first + i);
}

/* The transform of the count numbers of each lane. */
static void tokens_transform(uint32_t count, TokenFloats *x) {
    const uint32_t radix_max = VECTOR_REGISTERS / 2;
    for (uint32_t stride = count; stride > 1;) {
        uint32_t radix = stride < radix_max ? stride : radix_max;
        stride /= radix;
        switch (radix) {
        case 2: tokens_pass(2, count, stride, x); break;
        case 4: tokens_pass(4, count, stride, x); break;
        case 8: tokens_pass(8, count, stride, x); break;
        default: tokens_pass(radix_max, count, stride, x);
        }
    }
}

static void tokens_parts_transform(const TurboVector *vector, TokenFloats *x) {
    for (uint32_t first = 0; first < vector->dim; first += vector->part_dim)
        tokens_transform(vector->part_dim, x + first);
}

/* ---- encode */

/* A vector's numbers with their signs; returns the sums of squares. Those of halves are exact, so that fusing changes
 * nothing; they meet as in kernels/codec: CHUNK lanes, then halves of them. channels NULL: all, in their order. */
INLINE Vector tokens_load(const TurboPlan *plan, const TurboVector *vector,
                          const uint16_t *channels, TokenBatch *batch) {
    enum { SUMS = VECTOR_REGISTERS / 2 }; /* so many at a time stay in registers */
    const TokenHalves *columns = batch->columns + (channels ? 0 : vector->first);
    TokenFloats *out = batch->x + vector->first;
    Vector sums[CHUNK];
    for (uint64_t from = 0; from < CHUNK; from += SUMS) {
        Vector some[SUMS];
        for (uint64_t l = 0; l < SUMS; l++)
            some[l] = vector_zero();
        for (uint64_t i = from; i < vector->dim; i += CHUNK)
#pragma GCC unroll 16
            for (uint64_t l = 0; l < SUMS; l++) {
                uint64_t channel = channels ? channels[vector->first + i + l] : i + l;
                Vector x = vector_load_half(columns[channel]);
                some[l] = vector_fma(x, x, some[l]);
                vector_store(out[i + l], vector_multiply(x, vector_set(plan->signs[i + l])));
            }
        for (uint64_t l = 0; l < SUMS; l++)
            sums[from + l] = some[l];
    }
    for (uint32_t reach = CHUNK / 2; reach > 0; reach /= 2)
        for (uint32_t l = 0; l < reach; l++)
            sums[l] = vector_add(sums[l], sums[l + reach]);
    return sums[0];
}

/* Codes of the numbers [first, end), the first in the lowest bits. */
INLINE Lanes tokens_code(uint32_t bits, const CodeSearch *search, Vector factor,
                         const TokenFloats *x, uint32_t first, uint32_t end) {
    Lanes codes = lanes_set(0);
    for (uint32_t i = end; i-- > first;)
        codes = lanes_push_code(codes, vector_multiply(vector_load(x[i]), factor), search, bits);
    return codes;
}

INLINE void tokens_encode_bits(uint32_t bits, const TurboVector *vector, const CodeSearch *search,
                               Vector inverse, TokenBatch *batch, uint8_t *row, uint32_t row_bytes,
                               uint32_t count) {
    const uint32_t chunk_bytes = 2 * bits, high_bytes = chunk_bytes - sizeof(uint32_t);
    for (uint64_t i = 0; i < vector->dim; i += CHUNK) {
        const TokenFloats *x = batch->x + vector->first + i;
        TokenCodes *codes = batch->codes + i / CHUNK;
        if (bits == 2) {
            lanes_store(codes->low, tokens_code(bits, search, inverse, x, 0, 16));
            continue;
        }
        Lanes low = tokens_code(bits, search, inverse, x, 0, 8);
        Lanes high = tokens_code(bits, search, inverse, x, 8, 16);
        lanes_store(codes->low, bits == 4 ? low : lanes_or(low, lanes_shift_left(high, 24)));
        lanes_store(codes->high, bits == 4 ? high : lanes_shift_right(high, 8));
    }
    for (uint32_t t = 0; t < count; t++, row += row_bytes)
        for (uint32_t chunk = 0; chunk < vector->dim / CHUNK; chunk++) {
            uint8_t *at = row + chunk * chunk_bytes;
            memcpy(at, &batch->codes[chunk].low[t], sizeof(uint32_t));
            if (high_bytes) memcpy(at + sizeof(uint32_t), &batch->codes[chunk].high[t], high_bytes);
        }
}

/* What scales a vector's rotated numbers to where the thresholds are; stores its norms. */
INLINE Vector tokens_measure(const TurboPlan *plan, uint32_t v, Vector squares,
                             const TokenPlace *place, uint8_t *out_bytes) {
    const TurboVector *vector = &plan->vectors[v];
    uint16_t norms[VECTOR_LANES];
    Vector inverse = vector_divide(vector_set(vector->gain), vector_root(squares));
    vector_store_half(norms, vector_root(vector_divide(squares, vector_set((float)vector->dim))));
    for (uint32_t t = 0; t < place->count; t++)
        memcpy(out_bytes + place->norms + 2 * (t * plan->vector_count + v), &norms[t],
               sizeof norms[t]);
    return vector_finite_or_zero(inverse);
}

static void tokens_rotate(const TurboVector *vector, TokenFloats *x) {
    tokens_parts_transform(vector, x);
    if (vector->part_dim < vector->dim) turbo_reflect(x[0], vector->part_dim * VECTOR_LANES);
}

static void tokens_encode_vector(const TurboPlan *plan, const TurboVector *vector, Vector inverse,
                                 const CodeSearch *search, TokenBatch *batch,
                                 const TokenPlace *place, uint8_t *out_bytes) {
    uint8_t *row = out_bytes + place->codes + vector->row_offset;
    if (vector->bits == 2)
        tokens_encode_bits(2, vector, search, inverse, batch, row, plan->row_bytes, place->count);
    else if (vector->bits == 3)
        tokens_encode_bits(3, vector, search, inverse, batch, row, plan->row_bytes, place->count);
    else
        tokens_encode_bits(4, vector, search, inverse, batch, row, plan->row_bytes, place->count);
}

/* A bit for each channel with less than dim / 4 channels of more energy, or of the same and before it. */
static void turbo_outliers(const CodecHead *head, const uint16_t *halves, uint8_t *mask) {
    enum {
        STRIP = 64,
        STRIP_VECTORS = STRIP / VECTOR_LANES
    }; /* heads with outliers: 64 and more */
    _Alignas(64)
        uint32_t energies[CODEC_HEAD_DIM_MAX]; /* floats without a sign: in order as integers */
    for (uint32_t first = 0; first < head->head_dim; first += STRIP) {
        Vector sums[STRIP_VECTORS];
        for (uint32_t v = 0; v < STRIP_VECTORS; v++)
            sums[v] = vector_zero();
        for (uint64_t token = 0; token < head->token_count; token++)
            for (uint32_t v = 0; v < STRIP_VECTORS; v++) {
                Vector x =
                    vector_load_half(halves + token * head->head_dim + first + v * VECTOR_LANES);
                sums[v] = vector_fma(x, x, sums[v]); /* an exact square */
            }
        for (uint32_t v = 0; v < STRIP_VECTORS; v++)
            lanes_store(energies + first + v * VECTOR_LANES, lanes_of_bits(sums[v]));
    }
    for (uint32_t d = 0; d < head->head_dim; d += VECTOR_LANES) {
        const Lanes own = lanes_load(energies + d), less = lanes_add(own, lanes_set(-1));
        Lanes before = lanes_set(0);
        for (uint32_t e = 0; e < d; e++)
            before = lanes_count_above(before, lanes_set((int32_t)energies[e]), less);
        for (uint32_t l = 0; l < VECTOR_LANES; l++)
            before = lanes_count_above(before, lanes_set((int32_t)energies[d + l]),
                                       lanes_select_later(less, own, l));
        for (uint32_t e = d + VECTOR_LANES; e < head->head_dim; e++)
            before = lanes_count_above(before, lanes_set((int32_t)energies[e]), own);
        uint32_t outliers = lanes_above(lanes_set((int32_t)head->head_dim / 4), before);
        memcpy(mask + d / 8, &outliers, VECTOR_LANES / 8);
    }
}

/* The batch's rows: padded with zeros where tokens lack. */
INLINE const uint16_t *tokens_padded(const uint16_t *rows, uint32_t count, uint32_t head_dim,
                                     uint16_t *padded) {
    if (count == VECTOR_LANES) return rows;
    memset(padded, 0, (size_t)VECTOR_LANES * head_dim * sizeof *padded);
    memcpy(padded, rows, (size_t)count * head_dim * sizeof *padded);
    return padded;
}

INLINE TokenPlace tokens_place(const CodecHead *head, const TurboPlan *plan, uint64_t first) {
    uint64_t left = head->token_count - first,
             norms = head->token_count * (uint64_t)plan->row_bytes;
    TokenPlace place = {plan->mask_bytes + first * plan->row_bytes,
                        plan->mask_bytes + norms + 2 * first * plan->vector_count,
                        left < VECTOR_LANES ? (uint32_t)left : VECTOR_LANES};
    return place;
}

static void encode_turbo_vector(const CodecHead *head, const uint16_t *halves, uint8_t *out_bytes) {
    const TurboPlan *plan = turbo_plan(head);
    uint16_t channels[CODEC_HEAD_DIM_MAX], padded[VECTOR_LANES * CODEC_HEAD_DIM_MAX];
    CodeSearch searches[TURBO_VECTORS_MAX];
    TokenBatch batch;
    if (plan->mask_bytes) turbo_outliers(head, halves, out_bytes);
    turbo_channels(plan, out_bytes, head->head_dim, channels);
    for (uint32_t v = 0; v < plan->vector_count; v++)
        searches[v] = search_open(plan->vectors[v].thresholds, plan->vectors[v].bits);
    for (uint64_t first = 0; first < head->token_count; first += VECTOR_LANES) {
        TokenPlace place = tokens_place(head, plan, first);
        fetch_bytes(out_bytes + place.codes, (uint64_t)VECTOR_LANES * plan->row_bytes);
        fetch_bytes(out_bytes + place.norms, 2 * (uint64_t)VECTOR_LANES * plan->vector_count);
        fetch_next_head(head, halves + first * head->head_dim,
                        (uint64_t)VECTOR_LANES * head->head_dim);
        const uint16_t *rows =
            tokens_padded(halves + first * head->head_dim, place.count, head->head_dim, padded);
        columns_from_rows(rows, head->head_dim, batch.columns);
        Vector inverses[TURBO_VECTORS_MAX];
        for (uint32_t v = 0; v < plan->vector_count; v++) {
            const TurboVector *vector = &plan->vectors[v];
            Vector squares = plan->mask_bytes ? tokens_load(plan, vector, channels, &batch)
                                              : tokens_load(plan, vector, NULL, &batch);
            inverses[v] = tokens_measure(plan, v, squares, &place, out_bytes);
        }
        for (uint32_t v = 0; v < plan->vector_count; v++) /* while divisions run */
            tokens_rotate(&plan->vectors[v], batch.x + plan->vectors[v].first);
        for (uint32_t v = 0; v < plan->vector_count; v++)
            tokens_encode_vector(plan, &plan->vectors[v], inverses[v], &searches[v], &batch, &place,
                                 out_bytes);
    }
}

/* ---- decode */

INLINE void tokens_decode_bits(uint32_t bits, CodeForm form, const TurboVector *vector,
                               const CodeTable *table, const uint8_t *row, uint32_t row_bytes,
                               uint32_t count, TokenBatch *batch) {
    const uint32_t chunk_bytes = 2 * bits, high_bytes = chunk_bytes - sizeof(uint32_t);
    for (uint32_t t = 0; t < count; t++, row += row_bytes)
        for (uint32_t chunk = 0; chunk < vector->dim / CHUNK; chunk++) {
            const uint8_t *at = row + chunk * chunk_bytes;
            uint32_t high = 0;
            memcpy(&batch->codes[chunk].low[t], at, sizeof(uint32_t));
            memcpy(&high, at + sizeof(uint32_t), high_bytes);
            if (high_bytes) batch->codes[chunk].high[t] = high;
        }
    for (uint64_t i = 0; i < vector->dim; i += CHUNK) {
        TokenFloats *x = batch->x + i;
        Lanes low = lanes_load(batch->codes[i / CHUNK].low);
        Lanes high = lanes_load(batch->codes[i / CHUNK].high);
        if (bits == 2) high = lanes_shift_right(low, 16);
        if (bits == 3) high = lanes_or(lanes_shift_right(low, 24), lanes_shift_left(high, 8));
        for (uint32_t k = 0; k < CHUNK / 2; k++) {
            vector_store(x[k], lanes_number(form, lanes_shift_right(low, bits * k), table));
            vector_store(x[CHUNK / 2 + k],
                         lanes_number(form, lanes_shift_right(high, bits * k), table));
        }
    }
}

static void tokens_decode_vector(const TurboPlan *plan, uint32_t v, const uint16_t *channels,
                                 const CodeTable *table, TokenBatch *batch, const TokenPlace *place,
                                 const uint8_t *bytes) {
    const TurboVector *vector = &plan->vectors[v];
    const uint8_t *row = bytes + place->codes + vector->row_offset;
    uint16_t norms[VECTOR_LANES] = {0};
    for (uint32_t t = 0; t < place->count; t++)
        memcpy(&norms[t], bytes + place->norms + 2 * (t * plan->vector_count + v), sizeof norms[t]);
    if (vector->bits == 2)
        tokens_decode_bits(2, FORM_TABLE2, vector, table, row, plan->row_bytes, place->count,
                           batch);
    else if (vector->bits == 3)
        tokens_decode_bits(3, FORM_TABLE3, vector, table, row, plan->row_bytes, place->count,
                           batch);
    else
        tokens_decode_bits(4, FORM_TABLE4, vector, table, row, plan->row_bytes, place->count,
                           batch);
    if (vector->part_dim < vector->dim) turbo_reflect(batch->x[0], vector->part_dim * VECTOR_LANES);
    tokens_parts_transform(vector, batch->x);
    Vector norm = vector_multiply(vector_load_half(norms), vector_set(vector->unit));
    for (uint64_t i = 0; i < vector->dim; i += CHUNK)
#pragma GCC unroll 16
        for (uint64_t l = 0; l < CHUNK; l++) {
            Vector factor = vector_multiply(norm, vector_set(plan->signs[i + l])); /* exact */
            vector_store_half(batch->columns[channels[vector->first + i + l]],
                              vector_multiply(vector_load(batch->x[i + l]), factor));
        }
}

static void decode_turbo_vector(const CodecHead *head, const uint8_t *bytes, uint16_t *out_halves) {
    const TurboPlan *plan = turbo_plan(head);
    uint16_t channels[CODEC_HEAD_DIM_MAX], padded[VECTOR_LANES * CODEC_HEAD_DIM_MAX];
    CodeTable tables[TURBO_VECTORS_MAX];
    const uint64_t batch_bytes = VECTOR_LANES * head->head_dim * sizeof *out_halves;
    TokenBatch batch;
    if (head->token_count % VECTOR_LANES) memset(batch.codes, 0, sizeof batch.codes);
    turbo_channels(plan, bytes, head->head_dim, channels);
    for (uint32_t v = 0; v < plan->vector_count; v++)
        tables[v] = table_load(turbo_form(&plan->vectors[v]), plan->vectors[v].centroids);
    for (uint64_t first = 0; first < head->token_count; first += VECTOR_LANES) {
        TokenPlace place = tokens_place(head, plan, first);
        uint16_t *rows = out_halves + first * head->head_dim;
        fetch_bytes(rows + FETCH_TOKENS * head->head_dim, batch_bytes);
        for (uint32_t v = 0; v < plan->vector_count; v++)
            tokens_decode_vector(plan, v, channels, &tables[v], &batch, &place, bytes);
        rows_from_columns(batch.columns, head->head_dim,
                          place.count == VECTOR_LANES ? rows : padded);
        if (place.count < VECTOR_LANES)
            memcpy(rows, padded, (size_t)place.count * head->head_dim * sizeof *rows);
    }
}

#endif

#endif
