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
    WORD_CODES = 8,    /* of a token, in the lowest bits of a word */
    QUARTER_WORDS = 4, /* of a token in 16 bytes */
    TURBO_WORDS_MAX = CODEC_HEAD_DIM_MAX / WORD_CODES,
};

/* A batch on its way. */
typedef struct TokenBatch {
    _Alignas(64) TokenHalves columns[CODEC_HEAD_DIM_MAX];
    _Alignas(64) TokenFloats x[CODEC_HEAD_DIM_MAX];
    _Alignas(64) TokenWords words[TURBO_WORDS_MAX];
} TokenBatch;

/* Where the codes and norms of a batch's first token lie: bytes from the head's begin. */
typedef struct TokenPlace {
    uint64_t codes, norms;
    uint32_t count; /* of tokens */
} TokenPlace;

/* ---- halves between [token][channel] and [channel][token] */

typedef Lanes Interleave(Lanes a, Lanes b);

/* Seen as `count` rows of as many elements in each 16 bytes: element i of x[j] becomes element j of x[i]. Each stage moves the
 * highest bit of an element's row number to the end of its place. low, high: of elements. */
INLINE void lanes_transpose(uint32_t count, Interleave *low, Interleave *high, Lanes *x) {
    for (uint32_t stage = 1; stage < count; stage *= 2) {
        Lanes y[8];
        for (uint32_t i = 0; i < count / 2; i++) {
            y[2 * i] = low(x[i], x[i + count / 2]);
            y[2 * i + 1] = high(x[i], x[i + count / 2]);
        }
        for (uint32_t i = 0; i < count; i++)
            x[i] = y[i];
    }
}

INLINE void lanes_transpose_halves(Lanes x[8]) {
    lanes_transpose(8, lanes_interleave_low, lanes_interleave_high, x);
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

/* ---- codes between [token][byte] and [word][token] */

/* Where the bytes of four words lie that are packed, `bits` a word, or where the packed ones lie in the words. */
INLINE Lanes code_bytes_order(uint32_t bits, bool packed) {
    uint8_t order[16];
    memset(order, 0x80, sizeof order); /* a zero */
    for (uint32_t word = 0; word < QUARTER_WORDS; word++)
        for (uint32_t byte = 0; byte < bits; byte++) {
            uint32_t in_words = 4 * word + byte, in_bytes = bits * word + byte;
            order[packed ? in_bytes : in_words] = (uint8_t)(packed ? in_words : in_bytes);
        }
    return lanes_repeat_quarter(order);
}

INLINE void lanes_transpose_words(Lanes x[4]) {
    lanes_transpose(4, lanes_interleave_words_low, lanes_interleave_words_high, x);
}

/* row: codes of the first of VECTOR_LANES tokens; 16 bytes can be read wherever a word begins. word_count is even; up to
 * two words more are stored. */
INLINE void words_from_rows(uint32_t bits, uint32_t word_count, const uint8_t *row,
                            uint64_t row_bytes, TokenWords *words) {
    const Lanes order = code_bytes_order(bits, false);
    for (uint64_t w = 0; w < word_count; w += QUARTER_WORDS, row += QUARTER_WORDS * bits) {
        Lanes x[4];
        for (uint64_t t = 0; t < 4; t++)
            x[t] = lanes_load_quarters(row + t * row_bytes, 4 * row_bytes);
        for (uint64_t t = 0; t < 4 && bits < 4; t++)
            x[t] = lanes_shuffle_bytes(x[t], order);
        lanes_transpose_words(x);
        for (uint64_t i = 0; i < QUARTER_WORDS; i++)
            lanes_store(words[w + i], x[i]);
    }
}

INLINE void store_quarter(uint8_t *to, __m128i quarter, uint32_t bytes) {
    uint64_t low = (uint64_t)_mm_cvtsi128_si64(quarter);
    if (bytes == 16) {
        _mm_storeu_si128((__m128i *)to, quarter);
        return;
    }
    memcpy(to, &low, bytes < sizeof low ? bytes : sizeof low);
    if (bytes == 12) {
        uint32_t high = (uint32_t)_mm_extract_epi32(quarter, 2);
        memcpy(to + sizeof low, &high, sizeof high);
    }
}

/* `own` of four words of all tokens, from words to `row`. */
INLINE void rows_from_quarter(uint32_t bits, uint32_t own, const TokenWords *words, uint8_t *row,
                              uint64_t row_bytes, uint32_t count) {
    const Lanes order = code_bytes_order(bits, true);
    Lanes x[4];
    for (uint64_t i = 0; i < QUARTER_WORDS; i++)
        x[i] = i < own ? lanes_load(words[i]) : lanes_set(0);
    lanes_transpose_words(x);
#pragma GCC unroll 4
    for (uint32_t t = 0; t < 4; t++) {
        if (bits < 4) x[t] = lanes_shuffle_bytes(x[t], order);
#pragma GCC unroll 4
        for (uint32_t quarter = 0; quarter < VECTOR_LANES / 4; quarter++)
            if (4 * quarter + t < count)
                store_quarter(row + (4 * quarter + t) * row_bytes, lanes_quarter(x[t], quarter),
                              own * bits);
    }
}

INLINE void rows_from_words(uint32_t bits, uint32_t word_count, const TokenWords *words,
                            uint8_t *row, uint64_t row_bytes, uint32_t count) {
    uint32_t w = 0;
    for (; w + QUARTER_WORDS <= word_count; w += QUARTER_WORDS, row += QUARTER_WORDS * bits)
        rows_from_quarter(bits, QUARTER_WORDS, words + w, row, row_bytes, count);
    if (w < word_count)
        rows_from_quarter(bits, QUARTER_WORDS / 2, words + w, row, row_bytes, count);
}

/* ---- the rotation */

/* The stages that reach radix / 2 … 1 strides; radix is a constant: numbers stay in registers. */
INLINE void tokens_stages(uint32_t radix, uint32_t stride, TokenFloats *x) {
    Vector y[16];
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

enum { RADIX_MAX = VECTOR_REGISTERS / 2 };

/* Of the last pass of a transform: the others leave numbers side by side to meet. */
INLINE uint32_t tokens_last_radix(uint32_t count) {
    while (count > RADIX_MAX)
        count /= RADIX_MAX;
    return count;
}

/* All passes but the last of the transforms of each lane. */
static void tokens_first_passes(const TurboVector *vector, TokenFloats *x) {
    for (uint32_t stride = vector->part_dim; stride > RADIX_MAX;) {
        stride /= RADIX_MAX;
        tokens_pass(RADIX_MAX, vector->dim, stride, x);
    }
}

static void tokens_transform(const TurboVector *vector, TokenFloats *x) {
    tokens_first_passes(vector, x);
    switch (tokens_last_radix(vector->part_dim)) {
    case 2: tokens_pass(2, vector->dim, 1, x); break;
    case 4: tokens_pass(4, vector->dim, 1, x); break;
    case 8: tokens_pass(8, vector->dim, 1, x); break;
    default: tokens_pass(RADIX_MAX, vector->dim, 1, x);
    }
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

/* x: what the parts have at the same place. Of three, the reflection across them. */
INLINE void tokens_reflect(uint32_t parts, Vector *x) {
    if (parts < 3) return;
    Vector sum = vector_add(vector_add(x[0], x[1]), x[2]);
    Vector taken = vector_multiply(sum, vector_set(2.0f / 3.0f));
    for (uint32_t part = 0; part < 3; part++)
        x[part] = vector_subtract(x[part], taken);
}

INLINE void tokens_encode_words(uint32_t bits, uint32_t parts, const TurboVector *vector,
                                const CodeSearch *search, Vector inverse, const TokenFloats *x,
                                TokenWords *words) {
    const uint64_t part_words = vector->part_dim / WORD_CODES;
    for (uint64_t w = 0; w < part_words; w++) {
        Lanes codes[3] = {lanes_set(0), lanes_set(0), lanes_set(0)};
        for (uint32_t k = WORD_CODES; k-- > 0;) {
            Vector y[3];
            for (uint64_t part = 0; part < parts; part++)
                y[part] = vector_load(x[part * vector->part_dim + WORD_CODES * w + k]);
            tokens_reflect(parts, y);
            for (uint64_t part = 0; part < parts; part++)
                codes[part] =
                    lanes_push_code(codes[part], vector_multiply(y[part], inverse), search, bits);
        }
        for (uint64_t part = 0; part < parts; part++)
            lanes_store(words[part * part_words + w], codes[part]);
    }
}

INLINE void tokens_encode_bits(uint32_t bits, const TurboVector *vector, const CodeSearch *search,
                               Vector inverse, TokenBatch *batch, uint8_t *row, uint32_t row_bytes,
                               uint32_t count) {
    const TokenFloats *x = batch->x + vector->first;
    if (vector->part_dim == vector->dim)
        tokens_encode_words(bits, 1, vector, search, inverse, x, batch->words);
    else
        tokens_encode_words(bits, 3, vector, search, inverse, x, batch->words);
    rows_from_words(bits, vector->dim / WORD_CODES, batch->words, row, row_bytes, count);
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

/* Of the plan that this thread encoded by last: heads are short, and come in thousands. */
static const CodeSearch *turbo_searches(const TurboPlan *plan) {
    static _Thread_local const TurboPlan *opened;
    static _Thread_local CodeSearch searches[TURBO_VECTORS_MAX];
    for (uint32_t v = 0; v < plan->vector_count && opened != plan; v++)
        searches[v] = search_open(plan->vectors[v].thresholds, plan->vectors[v].bits);
    opened = plan;
    return searches;
}

static void encode_turbo_vector(const CodecHead *head, const uint16_t *halves, uint8_t *out_bytes) {
    const TurboPlan *plan = turbo_plan(head);
    const CodeSearch *searches = turbo_searches(plan);
    uint16_t channels[CODEC_HEAD_DIM_MAX], padded[VECTOR_LANES * CODEC_HEAD_DIM_MAX];
    TokenBatch batch;
    if (plan->mask_bytes) {
        turbo_outliers(head, halves, out_bytes);
        turbo_channels(plan, out_bytes, head->head_dim, channels);
    }
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
            tokens_transform(&plan->vectors[v], batch.x + plan->vectors[v].first);
        for (uint32_t v = 0; v < plan->vector_count; v++)
            tokens_encode_vector(plan, &plan->vectors[v], inverses[v], &searches[v], &batch, &place,
                                 out_bytes);
    }
}

/* ---- decode */

INLINE void tokens_decode_words(CodeForm form, uint32_t parts, const TurboVector *vector,
                                const CodeTable *table, const TokenWords *words, TokenFloats *x) {
    const uint64_t part_words = vector->part_dim / WORD_CODES;
    for (uint64_t w = 0; w < part_words; w++) {
        Lanes codes[3];
        for (uint64_t part = 0; part < parts; part++)
            codes[part] = lanes_load(words[part * part_words + w]);
#pragma GCC unroll 8
        for (uint32_t k = 0; k < WORD_CODES; k++) {
            Vector y[3];
            for (uint64_t part = 0; part < parts; part++)
                y[part] =
                    lanes_number(form, lanes_shift_right(codes[part], form_bits(form) * k), table);
            tokens_reflect(parts, y);
            for (uint64_t part = 0; part < parts; part++)
                vector_store(x[part * vector->part_dim + WORD_CODES * w + k], y[part]);
        }
    }
}

INLINE void tokens_decode_form(CodeForm form, const TurboVector *vector, const CodeTable *table,
                               const uint8_t *row, uint32_t row_bytes, TokenBatch *batch) {
    words_from_rows(form_bits(form), vector->dim / WORD_CODES, row, row_bytes, batch->words);
    if (vector->part_dim == vector->dim)
        tokens_decode_words(form, 1, vector, table, batch->words, batch->x);
    else
        tokens_decode_words(form, 3, vector, table, batch->words, batch->x);
}

/* The last pass of the rotation back; channels NULL: all, in their order. */
INLINE void tokens_finish(uint32_t radix, const TurboVector *vector, Vector norm,
                          const float *signs, const uint16_t *channels, TokenBatch *batch) {
    for (uint64_t i = 0; i < vector->dim; i += radix) {
        Vector y[16];
#pragma GCC unroll 16
        for (uint64_t k = 0; k < radix; k++)
            y[k] = vector_load(batch->x[i + k]);
        turbo_stages(radix, y);
#pragma GCC unroll 16
        for (uint64_t k = 0; k < radix; k++) {
            uint64_t channel = channels ? channels[i + k] : i + k;
            Vector factor = vector_multiply(norm, vector_set(signs[i + k])); /* exact */
            vector_store_half(batch->columns[channel], vector_multiply(y[k], factor));
        }
    }
}

INLINE void tokens_finish_any(const TurboVector *vector, Vector norm, const float *signs,
                              const uint16_t *channels, TokenBatch *batch) {
    switch (tokens_last_radix(vector->part_dim)) {
    case 2: tokens_finish(2, vector, norm, signs, channels, batch); break;
    case 4: tokens_finish(4, vector, norm, signs, channels, batch); break;
    case 8: tokens_finish(8, vector, norm, signs, channels, batch); break;
    default: tokens_finish(RADIX_MAX, vector, norm, signs, channels, batch);
    }
}

static void tokens_decode_vector(const TurboPlan *plan, uint32_t v, const uint16_t *channels,
                                 const CodeTable *table, const uint8_t *rows, const uint8_t *norms,
                                 uint32_t count, TokenBatch *batch) {
    const TurboVector *vector = &plan->vectors[v];
    const uint8_t *row = rows + vector->row_offset;
    uint16_t own_norms[VECTOR_LANES] = {0};
    for (uint32_t t = 0; t < count; t++)
        memcpy(&own_norms[t], norms + 2 * (t * plan->vector_count + v), sizeof *own_norms);
    if (vector->bits == 2)
        tokens_decode_form(FORM_TABLE2, vector, table, row, plan->row_bytes, batch);
    else if (vector->bits == 3)
        tokens_decode_form(FORM_TABLE3, vector, table, row, plan->row_bytes, batch);
    else
        tokens_decode_form(FORM_TABLE4, vector, table, row, plan->row_bytes, batch);
    tokens_first_passes(vector, batch->x);
    Vector norm = vector_multiply(vector_load_half(own_norms), vector_set(vector->unit));
    if (plan->mask_bytes)
        tokens_finish_any(vector, norm, plan->signs, channels + vector->first, batch);
    else
        tokens_finish_any(vector, norm, plan->signs, NULL, batch);
}

/* The codes of a batch: its own, or a copy where tokens lack and so 16 bytes cannot be read from each word. */
INLINE const uint8_t *tokens_codes(const TurboPlan *plan, const TokenPlace *place,
                                   const uint8_t *bytes, uint8_t *padded, uint64_t padded_bytes) {
    if (place->count == VECTOR_LANES) return bytes + place->codes;
    memset(padded, 0, padded_bytes);
    memcpy(padded, bytes + place->codes, (uint64_t)place->count * plan->row_bytes);
    return padded;
}

static void decode_turbo_vector(const CodecHead *head, const uint8_t *bytes, uint16_t *out_halves) {
    enum { READ_BEYOND = 16, CODES_BYTES_MAX = VECTOR_LANES * CODEC_HEAD_DIM_MAX / 2 };
    const TurboPlan *plan = turbo_plan(head);
    uint16_t channels[CODEC_HEAD_DIM_MAX], padded[VECTOR_LANES * CODEC_HEAD_DIM_MAX];
    uint8_t padded_codes[CODES_BYTES_MAX + READ_BEYOND];
    CodeTable tables[TURBO_VECTORS_MAX];
    TokenBatch batch;
    if (plan->mask_bytes) turbo_channels(plan, bytes, head->head_dim, channels);
    for (uint32_t v = 0; v < plan->vector_count; v++)
        tables[v] = table_load(turbo_form(&plan->vectors[v]), plan->vectors[v].centroids);
    for (uint64_t first = 0; first < head->token_count; first += VECTOR_LANES) {
        TokenPlace place = tokens_place(head, plan, first);
        uint16_t *rows = out_halves + first * head->head_dim;
        const uint8_t *codes = tokens_codes(plan, &place, bytes, padded_codes, sizeof padded_codes);
        fetch_tokens(head, rows, VECTOR_LANES * (uint64_t)head->head_dim, bytes + place.codes,
                     VECTOR_LANES * (uint64_t)plan->row_bytes, plan->row_bytes);
        for (uint32_t v = 0; v < plan->vector_count; v++)
            tokens_decode_vector(plan, v, channels, &tables[v], codes, bytes + place.norms,
                                 place.count, &batch);
        rows_from_columns(batch.columns, head->head_dim,
                          place.count == VECTOR_LANES ? rows : padded);
        if (place.count < VECTOR_LANES)
            memcpy(rows, padded, (size_t)place.count * head->head_dim * sizeof *rows);
    }
}

#endif

#endif
