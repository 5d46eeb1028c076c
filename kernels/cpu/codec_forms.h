#ifndef KERNELS_CPU_CODEC_FORMS_H
#define KERNELS_CPU_CODEC_FORMS_H

/* Codes of KV codecs in registers: a chunk of 16 codes, or a run of 32, becomes as many floats and back, for the vectors of the instruction
 * set that the file is compiled for. Arithmetic that decides bytes or halves is that of kernels/codec, step by step. */

#include <math.h>
#include <string.h>

#include "kernels/codec.h"
#include "kernels/cpu/vector.h"

#ifdef VECTOR_LANES

#ifndef INLINE
#define INLINE static inline __attribute__((always_inline))
#endif

enum {
    CHUNK = 16,
    CHUNK_VECTORS = CHUNK / VECTOR_LANES,
    RUN = 32, /* numbers whose codes are better written, or read, together */
    RUN_VECTORS = RUN / VECTOR_LANES,
};

/* How a code is written, and what number it stands for. */
typedef enum CodeForm {
    FORM_INT8,   /* a signed byte */
    FORM_FP8,    /* e4m3 */
    FORM_HIGH4,  /* 0 … 15, the first of two in the high nibble */
    FORM_LOW4,   /* 0 … 15, the first in the lowest bits */
    FORM_LOW2,   /* 0 … 3 */
    FORM_TABLE4, /* centroid of a code of 4, 3, 2 bits, the first in the lowest bits */
    FORM_TABLE3,
    FORM_TABLE2,
    FORM_INNER3, /* FORM_TABLE3 where the byte before the codes can be read, too */
    FORM_NONE,   /* no code */
} CodeForm;

INLINE uint32_t form_bits(CodeForm form) {
    return form == FORM_INT8 || form == FORM_FP8        ? 8
           : form == FORM_LOW2 || form == FORM_TABLE2   ? 2
           : form == FORM_TABLE3 || form == FORM_INNER3 ? 3
                                                        : 4;
}

/* Bytes that will be needed; any address. */
INLINE void fetch_bytes(const void *bytes, uint64_t count) {
    enum { LINE_BYTES = 64 };
    for (uint64_t i = 0; i < count; i += LINE_BYTES)
        _mm_prefetch((const char *)bytes + i, _MM_HINT_T0);
}

/* Beside encoding `count` halves, those a head further are fetched: the next head's, which no prefetcher sees coming. */
INLINE void fetch_next_head(const CodecHead *head, const uint16_t *halves, uint64_t count) {
    fetch_bytes(halves + (uint64_t)head->token_count * head->head_dim, count * sizeof *halves);
}

enum { FETCH_TOKENS = 32 }; /* ahead, when decoding */

/* Beside decoding `count` halves from code_bytes, of token_bytes a token, what lies FETCH_TOKENS further is fetched. */
INLINE void fetch_tokens(const CodecHead *head, const uint16_t *halves, uint64_t count,
                         const uint8_t *codes, uint64_t code_bytes, uint64_t token_bytes) {
    fetch_bytes(halves + FETCH_TOKENS * (uint64_t)head->head_dim, count * sizeof *halves);
    fetch_bytes(codes + FETCH_TOKENS * token_bytes, code_bytes);
}

INLINE uint32_t load_word(const uint8_t *bytes) {
    uint32_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

/* The numbers of codes 0 …, repeated so that bits above a code do not matter; two vectors of 8 lanes for 4 bits, and there the
 * bytes of the floats, too: the first of each, the second, … */
typedef struct CodeTable {
    Vector low, high;
#if VECTOR_LANES == 8
    __m256i bytes[sizeof(float)];
#endif
} CodeTable;

INLINE CodeTable table_load(CodeForm form, const float *centroids) {
    float entries[16];
    uint32_t count = 1u << form_bits(form);
    for (uint32_t i = 0; i < 16; i++)
        entries[i] = centroids && count <= 16 ? centroids[i % count] : (float)(i % count);
    CodeTable table = {.low = vector_load(entries),
                       .high = vector_load(entries + 16 - VECTOR_LANES)};
#if VECTOR_LANES == 8
    const __m128i apart = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m128i four[4]; /* entries 4 i … 4 i + 3: all first bytes, all second ones, … */
    for (uint32_t i = 0; i < 4; i++)
        four[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(entries + 4 * i)), apart);
    __m128i low = _mm_unpacklo_epi32(four[0], four[1]), high = _mm_unpackhi_epi32(four[0], four[1]);
    __m128i low2 = _mm_unpacklo_epi32(four[2], four[3]),
            high2 = _mm_unpackhi_epi32(four[2], four[3]);
    const __m128i bytes[] = {_mm_unpacklo_epi64(low, low2), _mm_unpackhi_epi64(low, low2),
                             _mm_unpacklo_epi64(high, high2), _mm_unpackhi_epi64(high, high2)};
    for (uint32_t byte = 0; byte < sizeof(float) && form == FORM_TABLE4; byte++)
        table.bytes[byte] = _mm256_broadcastsi128_si256(bytes[byte]);
#endif
    return table;
}

/* What lanes_number finds, scaled. */
INLINE CodeTable table_scaled(const CodeTable *table, float scale) {
    CodeTable scaled = {.low = vector_multiply(table->low, vector_set(scale)),
                        .high = vector_multiply(table->high, vector_set(scale))};
    return scaled;
}

#if VECTOR_LANES == 16

typedef __m512i Lanes;

/* The thresholds of a scalar quantizer by equal cells of the numbers, 32 for codes of four bits, else 16: none holds two
 * thresholds (test_turbo_cells sees to it), so the cell and one comparison give the code. */
typedef struct CodeSearch {
    Vector limit, scale;  /* numbers beyond the limit lie in its cells; cells a unit */
    Vector thresholds[2]; /* by cell; infinity: it has none */
    Lanes below[2];       /* thresholds in the cells before */
} CodeSearch;

/* Two words, one for each half of the lanes. */
INLINE Lanes lanes_two_words(const uint8_t *low, const uint8_t *high) {
    return _mm512_mask_set1_epi32(_mm512_set1_epi32((int)load_word(low)), 0xff00,
                                  (int)load_word(high));
}

/* Eight bytes as two words in turn. */
INLINE Lanes lanes_word_pairs(const uint8_t *bytes) {
    uint64_t words;
    memcpy(&words, bytes, sizeof words);
    return _mm512_set1_epi64((int64_t)words);
}

/* Centroids of a chunk: in lanes 2 j and 2 j + 1 those of codes j and 8 + j, which is what two words in turn give. */
INLINE Lanes lanes_table_codes(CodeForm form, const uint8_t *codes) {
    const Lanes by2 = _mm512_setr_epi32(0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30);
    const Lanes by3 = _mm512_setr_epi32(0, 0, 3, 3, 6, 6, 9, 9, 12, 12, 15, 15, 18, 18, 21, 21);
    const Lanes inner3 =
        _mm512_setr_epi32(8, 0, 11, 3, 14, 6, 17, 9, 20, 12, 23, 15, 26, 18, 29, 21);
    const Lanes by4 = _mm512_setr_epi32(0, 0, 4, 4, 8, 8, 12, 12, 16, 16, 20, 20, 24, 24, 28, 28);
    if (form == FORM_TABLE2)
        return _mm512_srlv_epi32(_mm512_set1_epi32((int)load_word(codes)), by2);
    if (form == FORM_INNER3) return _mm512_srlv_epi32(lanes_word_pairs(codes - 1), inner3);
    if (form == FORM_TABLE4) return _mm512_srlv_epi32(lanes_word_pairs(codes), by4);
    Lanes words = _mm512_mask_set1_epi32(_mm512_set1_epi32((int)load_word(codes)), 0xaaaa,
                                         (int)load_word(codes + 3));
    return _mm512_srlv_epi32(words, by3);
}

INLINE Vector vector_to_code_order(Vector x) {
    const Lanes order = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
    return _mm512_permutexvar_ps(order, x);
}

INLINE Vector vector_from_code_order(Vector x) {
    const Lanes order = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    return _mm512_permutexvar_ps(order, x);
}

/* what the lowest bits of each lane stand for */
INLINE Vector lanes_number(CodeForm form, Lanes lanes, const CodeTable *table) {
    (void)form;
    return _mm512_permutexvar_ps(lanes, table->low);
}

INLINE void form_chunk(CodeForm form, const uint8_t *codes, const CodeTable *table, Vector *out) {
    const Lanes by2 = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const Lanes by4 = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
    const Lanes swapped =
        _mm512_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24, 4, 0, 12, 8, 20, 16, 28, 24);
    Lanes lanes;
    if (form == FORM_INT8) {
        out[0] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)codes)));
        return;
    }
    if (form == FORM_FP8) {
        __m256i shifted =
            _mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)codes)), 8);
        __m256i half =
            _mm256_and_si256(_mm256_srai_epi16(shifted, 1), _mm256_set1_epi16((short)0xbfff));
        out[0] = _mm512_mul_ps(_mm512_cvtph_ps(half), _mm512_set1_ps(256.0f));
        return;
    }
    if (form == FORM_LOW2)
        lanes = _mm512_srlv_epi32(_mm512_set1_epi32((int)load_word(codes)), by2);
    else if (form == FORM_LOW4 || form == FORM_HIGH4)
        lanes = _mm512_srlv_epi32(lanes_two_words(codes, codes + 4),
                                  form == FORM_HIGH4 ? swapped : by4);
    else
        lanes = lanes_table_codes(form, codes);
    out[0] = lanes_number(form, lanes, table);
}

/* Runs of codes that are found faster together than by chunks: none. */
INLINE bool form_has_runs(CodeForm form) {
    (void)form;
    return false;
}

INLINE void form_run(CodeForm form, const uint8_t *codes, const CodeTable *table, Vector *out) {
    form_chunk(form, codes, table, out);
    form_chunk(form, codes + CHUNK / 8 * form_bits(form), table, out + CHUNK_VECTORS);
}

INLINE Lanes lanes_from_vector(Vector whole) {
    return _mm512_cvtps_epi32(whole);
}

INLINE Lanes lanes_of_bits(Vector x) {
    return _mm512_castps_si512(x);
}

INLINE Lanes lanes_set(int32_t value) {
    return _mm512_set1_epi32(value);
}

INLINE Lanes lanes_add(Lanes a, Lanes b) {
    return _mm512_add_epi32(a, b);
}

INLINE Lanes lanes_or(Lanes a, Lanes b) {
    return _mm512_or_si512(a, b);
}

/* bits: a constant once loops are unrolled */
INLINE Lanes lanes_shift_left(Lanes lanes, uint32_t bits) {
    return (Lanes)((__v16su)lanes << bits);
}

INLINE Lanes lanes_shift_right(Lanes lanes, uint32_t bits) {
    return (Lanes)((__v16su)lanes >> bits);
}

INLINE void lanes_store(uint32_t *words, Lanes lanes) {
    _mm512_storeu_si512(words, lanes);
}

INLINE Lanes lanes_load(const uint32_t *words) {
    return _mm512_loadu_si512(words);
}

INLINE Vector vector_from_code(Lanes words, uint32_t shift, uint32_t mask) {
    Lanes codes = _mm512_and_si512(lanes_shift_right(words, shift), _mm512_set1_epi32((int)mask));
    return _mm512_cvtepi32_ps(codes);
}

/* count + 1 where a > b */
INLINE Lanes lanes_count_above(Lanes count, Lanes a, Lanes b) {
    return _mm512_mask_add_epi32(count, _mm512_cmpgt_epi32_mask(a, b), count, _mm512_set1_epi32(1));
}

/* a bit a lane: a > b */
INLINE uint32_t lanes_above(Lanes a, Lanes b) {
    return _mm512_cmpgt_epi32_mask(a, b);
}

/* `later` in the lanes after the given one */
INLINE Lanes lanes_select_later(Lanes later, Lanes other, uint32_t lane) {
    return _mm512_mask_blend_epi32((__mmask16)(0xfffeu << lane), other, later);
}

/* Words of 16 bits of a and b in turn, inside each 16 bytes: from their lower and their upper halves. */
INLINE Lanes lanes_interleave_low(Lanes a, Lanes b) {
    return _mm512_unpacklo_epi16(a, b);
}

INLINE Lanes lanes_interleave_high(Lanes a, Lanes b) {
    return _mm512_unpackhi_epi16(a, b);
}

/* The same of words of 32 bits. */
INLINE Lanes lanes_interleave_words_low(Lanes a, Lanes b) {
    return _mm512_unpacklo_epi32(a, b);
}

INLINE Lanes lanes_interleave_words_high(Lanes a, Lanes b) {
    return _mm512_unpackhi_epi32(a, b);
}

/* A quarter: 16 bytes. Four of them `step` bytes apart; one for all; one of those of x. */
INLINE Lanes lanes_load_quarters(const uint8_t *bytes, uint64_t step) {
    Lanes x = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)bytes));
    x = _mm512_inserti32x4(x, _mm_loadu_si128((const __m128i *)(bytes + step)), 1);
    x = _mm512_inserti32x4(x, _mm_loadu_si128((const __m128i *)(bytes + 2 * step)), 2);
    return _mm512_inserti32x4(x, _mm_loadu_si128((const __m128i *)(bytes + 3 * step)), 3);
}

INLINE Lanes lanes_repeat_quarter(const uint8_t *bytes) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)bytes));
}

INLINE __m128i lanes_quarter(Lanes x, uint32_t quarter) {
    return quarter == 0   ? _mm512_castsi512_si128(x)
           : quarter == 1 ? _mm512_extracti32x4_epi32(x, 1)
           : quarter == 2 ? _mm512_extracti32x4_epi32(x, 2)
                          : _mm512_extracti32x4_epi32(x, 3);
}

INLINE Lanes lanes_shuffle_bytes(Lanes x, Lanes order) {
    return _mm512_shuffle_epi8(x, order);
}

/* 16 halves of a row and 16 of the one `step` halves further. */
INLINE Lanes lanes_load_rows(const uint16_t *row, uint64_t step) {
    Lanes first = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)row));
    return _mm512_inserti64x4(first, _mm256_loadu_si256((const __m256i *)(row + step)), 1);
}

INLINE void lanes_store_rows(uint16_t *row, uint64_t step, Lanes lanes) {
    _mm256_storeu_si256((__m256i *)row, _mm512_castsi512_si256(lanes));
    _mm256_storeu_si256((__m256i *)(row + step), _mm512_extracti64x4_epi64(lanes, 1));
}

/* 8 halves of a, of b, again of a, of b: a column of 16 each */
INLINE Lanes lanes_load_columns(const uint16_t *a, const uint16_t *b) {
    Lanes both = lanes_load_rows(a, (uint64_t)(b - a));
    return _mm512_shuffle_i64x2(both, both, _MM_SHUFFLE(3, 1, 2, 0));
}

INLINE void lanes_store_columns(uint16_t *a, uint16_t *b, Lanes lanes) {
    lanes_store_rows(a, (uint64_t)(b - a),
                     _mm512_shuffle_i64x2(lanes, lanes, _MM_SHUFFLE(3, 1, 2, 0)));
}

/* The larger of `largest` and twice a half, which leaves its sign out. */
INLINE Lanes lanes_max_twice(Lanes largest, const uint16_t *halves) {
    Lanes some = _mm512_loadu_si512(halves);
    return _mm512_max_epu16(largest, _mm512_add_epi16(some, some));
}

/* Are all words of 16 bits below the limit? */
INLINE bool lanes_words_below(Lanes words, uint16_t limit) {
    return _mm512_cmplt_epu16_mask(words, _mm512_set1_epi16((short)limit)) == 0xffffffff;
}

/* halves without NaN: those beyond the finite ones are the largest */
INLINE Lanes lanes_halves_finite(Lanes halves) {
    Lanes low = _mm512_min_epi16(halves, _mm512_set1_epi16(0x7bff));
    return _mm512_min_epu16(low, _mm512_set1_epi16((short)0xfbff));
}

INLINE __m128i lanes_bytes(Lanes lanes) {
    return _mm512_cvtepi32_epi8(lanes);
}

/* 32 codes as bytes */
INLINE __m256i run_bytes(const Lanes *codes) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(lanes_bytes(codes[0])),
                                   lanes_bytes(codes[1]), 1);
}

/* x as it is after a step of arithmetic in f16 */
INLINE Vector vector_half_round(Vector x) {
    return _mm512_cvtph_ps(_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}

/* the same; what is beyond its range is kept */
INLINE Vector vector_half_round_kept(Vector x) {
    Vector rounded = vector_half_round(x);
    __mmask16 beyond =
        _mm512_cmp_ps_mask(_mm512_abs_ps(rounded), _mm512_set1_ps(INFINITY), _CMP_EQ_OQ);
    return _mm512_mask_blend_ps(beyond, rounded, x);
}

INLINE Vector vector_absolute(Vector x) {
    return _mm512_abs_ps(x);
}

/* the power of two at or below x > 0 */
INLINE Vector vector_power_below(Vector x) {
    return _mm512_and_ps(x, _mm512_castsi512_ps(_mm512_set1_epi32(0x7f800000)));
}

/* 1 / x in even lanes */
INLINE Vector vector_invert_even(Vector x) {
    return _mm512_mask_div_ps(x, 0x5555, _mm512_set1_ps(1.0f), x);
}

/* c - a * b, rounded once */
INLINE Vector vector_fma_negated(Vector a, Vector b, Vector c) {
    return _mm512_fnmadd_ps(a, b, c);
}

INLINE Vector vector_root(Vector x) {
    return _mm512_sqrt_ps(x);
}

/* 0 where x is infinite */
INLINE Vector vector_finite_or_zero(Vector x) {
    __mmask16 finite = _mm512_cmp_ps_mask(_mm512_abs_ps(x), _mm512_set1_ps(INFINITY), _CMP_LT_OQ);
    return _mm512_maskz_mov_ps(finite, x);
}

/* The cell of each number, in the lowest bits: a sum beside which only whole numbers stay. */
INLINE Lanes search_cells(const CodeSearch *search, Vector x) {
    enum { LESSER_MAGNITUDE = 2 };
    Vector near = _mm512_range_ps(x, search->limit, LESSER_MAGNITUDE);
    return _mm512_castps_si512(_mm512_fmadd_ps(near, search->scale, _mm512_set1_ps(0x1.8p23f)));
}

/* Of 2^bits - 1 thresholds in rising order; 16 can be read. Cells count from the middle: the entries of those below it
 * lie in the upper half of a table. */
INLINE CodeSearch search_open(const float *thresholds, uint32_t bits) {
    const int32_t count = (1 << bits) - 1, half = bits == 4 ? 16 : 8;
    const float limit = fmaxf(-thresholds[0], thresholds[count - 1]);
    CodeSearch search = {
        .limit = vector_set(limit),
        .scale = vector_set(((float)half - 0.6f) / limit), /* not to the half */
        .thresholds = {vector_set(INFINITY), vector_set(INFINITY)},
    };
    const Lanes numbers = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const Lanes around = _mm512_mask_sub_epi32(numbers, 0xff00, numbers, _mm512_set1_epi32(16));
    const Lanes places[2] = {half == 8 ? around : numbers,
                             _mm512_sub_epi32(numbers, _mm512_set1_epi32(16))};
    for (int32_t t = 0; t < count; t++) {
        const Vector threshold = vector_set(thresholds[t]);
        const Lanes cell = _mm512_sub_epi32(search_cells(&search, threshold),
                                            _mm512_castps_si512(_mm512_set1_ps(0x1.8p23f)));
        for (uint32_t table = 0; table < 2; table++) {
            __mmask16 own = _mm512_cmpeq_epi32_mask(places[table], cell);
            __mmask16 above = _mm512_cmpgt_epi32_mask(places[table], cell);
            search.thresholds[table] = _mm512_mask_mov_ps(search.thresholds[table], own, threshold);
            search.below[table] = _mm512_mask_add_epi32(search.below[table], above,
                                                        search.below[table], _mm512_set1_epi32(1));
        }
    }
    return search;
}

/* codes << bits | how many of the thresholds lie below x */
INLINE Lanes lanes_push_code(Lanes codes, Vector x, const CodeSearch *search, uint32_t bits) {
    Lanes cells = search_cells(search, x), below;
    Vector threshold;
    if (bits == 4) {
        threshold = _mm512_permutex2var_ps(search->thresholds[0], cells, search->thresholds[1]);
        below = _mm512_permutex2var_epi32(search->below[0], cells, search->below[1]);
    } else {
        threshold = _mm512_permutexvar_ps(cells, search->thresholds[0]);
        below = _mm512_permutexvar_epi32(cells, search->below[0]);
    }
    codes = _mm512_or_si512(lanes_shift_left(codes, bits), below);
    __mmask16 above = _mm512_cmp_ps_mask(x, threshold, _CMP_GT_OQ);
    return _mm512_mask_add_epi32(codes, above, codes, _mm512_set1_epi32(1));
}

/* lane i and lane i ^ reach: their sum in the lower one, their difference in the upper one */
INLINE Vector vector_butterfly(Vector x, int reach) {
    const Lanes numbers = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    Lanes reaches = _mm512_set1_epi32(reach);
    __mmask16 upper = _mm512_test_epi32_mask(numbers, reaches);
    Vector signs = _mm512_mask_blend_ps(upper, _mm512_set1_ps(1.0f), _mm512_set1_ps(-1.0f));
    Vector other = _mm512_permutexvar_ps(_mm512_xor_si512(numbers, reaches), x);
    return _mm512_fmadd_ps(x, signs, other);
}

#else

typedef __m256i Lanes;

/* The thresholds of a scalar quantizer for a search from the highest bit down: a table a stage, by what was found. */
typedef struct CodeSearch {
    Vector stages[4];
} CodeSearch;

/* centroids of a chunk lie in the order of their codes */
INLINE Vector vector_to_code_order(Vector x) {
    return x;
}

INLINE Vector vector_from_code_order(Vector x) {
    return x;
}

INLINE Vector vector_absolute(Vector x) {
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
}

INLINE Lanes lanes_word(const uint8_t *codes) {
    return _mm256_set1_epi32((int)load_word(codes));
}

/* what the lowest bits of each lane stand for */
INLINE Vector lanes_number(CodeForm form, Lanes lanes, const CodeTable *table) {
    if (form == FORM_HIGH4 || form == FORM_LOW4)
        return _mm256_cvtepi32_ps(_mm256_and_si256(lanes, _mm256_set1_epi32(15)));
    Vector low = _mm256_permutevar8x32_ps(table->low, lanes);
    if (form_bits(form) < 4) return low;
    Vector high = _mm256_permutevar8x32_ps(table->high, lanes);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(lanes, 28)));
}

INLINE void form_chunk(CodeForm form, const uint8_t *codes, const CodeTable *table, Vector *out) {
    const Lanes by2 = _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14);
    const Lanes by2_upper = _mm256_setr_epi32(16, 18, 20, 22, 24, 26, 28, 30);
    const Lanes by3 = _mm256_setr_epi32(0, 3, 6, 9, 12, 15, 18, 21);
    const Lanes by4 = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
    const Lanes swapped = _mm256_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24);
    for (uint32_t half = 0; half < 2; half++) {
        if (form == FORM_INT8) {
            __m128i bytes = _mm_loadl_epi64((const __m128i *)(codes + 8 * half));
            out[half] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
        } else if (form == FORM_FP8) {
            __m128i bytes = _mm_loadl_epi64((const __m128i *)(codes + 8 * half));
            __m128i shifted = _mm_slli_epi16(_mm_cvtepu8_epi16(bytes), 8);
            __m128i halves =
                _mm_and_si128(_mm_srai_epi16(shifted, 1), _mm_set1_epi16((short)0xbfff));
            out[half] = _mm256_mul_ps(_mm256_cvtph_ps(halves), _mm256_set1_ps(256.0f));
        } else {
            uint32_t bits = form_bits(form);
            Lanes word = lanes_word(bits == 2 ? codes : codes + bits * half);
            Lanes shifts = bits == 2            ? (half ? by2_upper : by2)
                           : bits == 3          ? by3
                           : form == FORM_HIGH4 ? swapped
                                                : by4;
            out[half] = lanes_number(form, _mm256_srlv_epi32(word, shifts), table);
        }
    }
}

/* Runs of codes that are found faster together than by chunks. */
INLINE bool form_has_runs(CodeForm form) {
    return form == FORM_TABLE4;
}

/* 32 codes: each byte of a float has a table of its own. */
INLINE void form_run(CodeForm form, const uint8_t *codes, const CodeTable *table, Vector *out) {
    const Lanes spread =
        _mm256_setr_epi8(0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1, 2, -1, 3, -1, 6,
                         -1, 7, -1, 10, -1, 11, -1, 14, -1, 15, -1);
    (void)form;
    Lanes words = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)codes));
    Lanes pairs = _mm256_shuffle_epi8(words, spread); /* of codes: a byte, and room for one */
    Lanes index = _mm256_or_si256(pairs, _mm256_slli_epi16(pairs, 4));
    index = _mm256_and_si256(index, _mm256_set1_epi8(0x0f));
    Lanes a = _mm256_shuffle_epi8(table->bytes[0], index);
    Lanes b = _mm256_shuffle_epi8(table->bytes[1], index);
    Lanes c = _mm256_shuffle_epi8(table->bytes[2], index);
    Lanes d = _mm256_shuffle_epi8(table->bytes[3], index);
    Lanes ab = _mm256_unpacklo_epi8(a, b), cd = _mm256_unpacklo_epi8(c, d);
    out[0] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(ab, cd));
    out[1] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(ab, cd));
    ab = _mm256_unpackhi_epi8(a, b);
    cd = _mm256_unpackhi_epi8(c, d);
    out[2] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(ab, cd));
    out[3] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(ab, cd));
}

INLINE Lanes lanes_from_vector(Vector whole) {
    return _mm256_cvtps_epi32(whole);
}

INLINE Lanes lanes_of_bits(Vector x) {
    return _mm256_castps_si256(x);
}

INLINE Lanes lanes_set(int32_t value) {
    return _mm256_set1_epi32(value);
}

INLINE Lanes lanes_add(Lanes a, Lanes b) {
    return _mm256_add_epi32(a, b);
}

INLINE Lanes lanes_or(Lanes a, Lanes b) {
    return _mm256_or_si256(a, b);
}

/* bits: a constant once loops are unrolled */
INLINE Lanes lanes_shift_left(Lanes lanes, uint32_t bits) {
    return (Lanes)((__v8su)lanes << bits);
}

INLINE Lanes lanes_shift_right(Lanes lanes, uint32_t bits) {
    return (Lanes)((__v8su)lanes >> bits);
}

INLINE void lanes_store(uint32_t *words, Lanes lanes) {
    _mm256_storeu_si256((__m256i *)words, lanes);
}

INLINE Lanes lanes_load(const uint32_t *words) {
    return _mm256_loadu_si256((const __m256i *)words);
}

INLINE Vector vector_from_code(Lanes words, uint32_t shift, uint32_t mask) {
    Lanes codes = _mm256_and_si256(lanes_shift_right(words, shift), _mm256_set1_epi32((int)mask));
    return _mm256_cvtepi32_ps(codes);
}

/* count + 1 where a > b */
INLINE Lanes lanes_count_above(Lanes count, Lanes a, Lanes b) {
    return _mm256_sub_epi32(count, _mm256_cmpgt_epi32(a, b));
}

/* a bit a lane: a > b */
INLINE uint32_t lanes_above(Lanes a, Lanes b) {
    return (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(a, b)));
}

/* `later` in the lanes after the given one */
INLINE Lanes lanes_select_later(Lanes later, Lanes other, uint32_t lane) {
    const Lanes numbers = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_blendv_epi8(other, later, _mm256_cmpgt_epi32(numbers, lanes_set((int32_t)lane)));
}

/* Words of 16 bits of a and b in turn, inside each 16 bytes: from their lower and their upper halves. */
INLINE Lanes lanes_interleave_low(Lanes a, Lanes b) {
    return _mm256_unpacklo_epi16(a, b);
}

INLINE Lanes lanes_interleave_high(Lanes a, Lanes b) {
    return _mm256_unpackhi_epi16(a, b);
}

/* The same of words of 32 bits. */
INLINE Lanes lanes_interleave_words_low(Lanes a, Lanes b) {
    return _mm256_unpacklo_epi32(a, b);
}

INLINE Lanes lanes_interleave_words_high(Lanes a, Lanes b) {
    return _mm256_unpackhi_epi32(a, b);
}

/* A quarter: 16 bytes. Two of them `step` bytes apart; one for all; one of those of x. */
INLINE Lanes lanes_load_quarters(const uint8_t *bytes, uint64_t step) {
    Lanes x = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)bytes));
    return _mm256_inserti128_si256(x, _mm_loadu_si128((const __m128i *)(bytes + step)), 1);
}

INLINE Lanes lanes_repeat_quarter(const uint8_t *bytes) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)bytes));
}

INLINE __m128i lanes_quarter(Lanes x, uint32_t quarter) {
    return quarter == 0 ? _mm256_castsi256_si128(x) : _mm256_extracti128_si256(x, 1);
}

INLINE Lanes lanes_shuffle_bytes(Lanes x, Lanes order) {
    return _mm256_shuffle_epi8(x, order);
}

/* 16 halves of a row; there is no room for those of another */
INLINE Lanes lanes_load_rows(const uint16_t *row, uint64_t step) {
    (void)step;
    return _mm256_loadu_si256((const __m256i *)row);
}

INLINE void lanes_store_rows(uint16_t *row, uint64_t step, Lanes lanes) {
    (void)step;
    _mm256_storeu_si256((__m256i *)row, lanes);
}

/* 8 halves of a, then of b: a column each */
INLINE Lanes lanes_load_columns(const uint16_t *a, const uint16_t *b) {
    Lanes first = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)a));
    return _mm256_inserti128_si256(first, _mm_loadu_si128((const __m128i *)b), 1);
}

INLINE void lanes_store_columns(uint16_t *a, uint16_t *b, Lanes lanes) {
    _mm_storeu_si128((__m128i *)a, _mm256_castsi256_si128(lanes));
    _mm_storeu_si128((__m128i *)b, _mm256_extracti128_si256(lanes, 1));
}

/* The larger of `largest` and twice a half, which leaves its sign out. */
INLINE Lanes lanes_max_twice(Lanes largest, const uint16_t *halves) {
    __m256i some = _mm256_loadu_si256((const __m256i *)halves);
    return _mm256_max_epu16(largest, _mm256_add_epi16(some, some));
}

/* Are all words of 16 bits below the limit? */
INLINE bool lanes_words_below(Lanes words, uint16_t limit) {
    Lanes reached = _mm256_max_epu16(words, _mm256_set1_epi16((short)limit));
    reached = _mm256_cmpeq_epi16(reached, words);
    return _mm256_testz_si256(reached, reached);
}

/* halves without NaN: those beyond the finite ones are the largest */
INLINE Lanes lanes_halves_finite(Lanes halves) {
    Lanes low = _mm256_min_epi16(halves, _mm256_set1_epi16(0x7bff));
    return _mm256_min_epu16(low, _mm256_set1_epi16((short)0xfbff));
}

/* the lowest byte of each, in the lower half */
INLINE __m128i lanes_bytes(Lanes lanes) {
    Lanes low = _mm256_and_si256(lanes, _mm256_set1_epi32(0xff));
    __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
    return _mm_packus_epi16(words, words);
}

/* 32 codes below 128 as bytes */
INLINE __m256i run_bytes(const Lanes *codes) {
    const Lanes order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    Lanes bytes = _mm256_packus_epi16(_mm256_packs_epi32(codes[0], codes[1]),
                                      _mm256_packs_epi32(codes[2], codes[3]));
    return _mm256_permutevar8x32_epi32(bytes, order);
}

/* x as it is after a step of arithmetic in f16 */
INLINE Vector vector_half_round(Vector x) {
    return _mm256_cvtph_ps(_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}

/* the same; what is beyond its range is kept */
INLINE Vector vector_half_round_kept(Vector x) {
    Vector rounded = vector_half_round(x);
    Vector beyond = _mm256_cmp_ps(vector_absolute(rounded), _mm256_set1_ps(INFINITY), _CMP_EQ_OQ);
    return _mm256_blendv_ps(rounded, x, beyond);
}

/* the power of two at or below x > 0 */
INLINE Vector vector_power_below(Vector x) {
    return _mm256_and_ps(x, _mm256_castsi256_ps(_mm256_set1_epi32(0x7f800000)));
}

/* 1 / x in even lanes */
INLINE Vector vector_invert_even(Vector x) {
    return _mm256_blend_ps(x, _mm256_div_ps(_mm256_set1_ps(1.0f), x), 0x55);
}

/* c - a * b, rounded once */
INLINE Vector vector_fma_negated(Vector a, Vector b, Vector c) {
    return _mm256_fnmadd_ps(a, b, c);
}

INLINE Vector vector_root(Vector x) {
    return _mm256_sqrt_ps(x);
}

/* 0 where x is infinite */
INLINE Vector vector_finite_or_zero(Vector x) {
    Vector finite = _mm256_cmp_ps(vector_absolute(x), _mm256_set1_ps(INFINITY), _CMP_LT_OQ);
    return _mm256_and_ps(finite, x);
}

/* Of 2^bits - 1 thresholds in rising order. */
INLINE CodeSearch search_open(const float *thresholds, uint32_t bits) {
    CodeSearch search;
    for (uint32_t stage = 0; stage < bits; stage++) {
        float entries[VECTOR_LANES];
        uint32_t step = 1u << (bits - 1 - stage);
        for (uint32_t i = 0; i < VECTOR_LANES; i++) {
            uint32_t found = (0u - i) & ((1u << stage) - 1); /* counted in minus ones */
            entries[i] = thresholds[2 * step * found + step - 1];
        }
        search.stages[stage] = vector_load(entries);
    }
    return search;
}

/* codes << bits | how many of the thresholds lie below x */
INLINE Lanes lanes_push_code(Lanes codes, Vector x, const CodeSearch *search, uint32_t bits) {
    Lanes minus = _mm256_castps_si256(_mm256_cmp_ps(x, search->stages[0], _CMP_GT_OQ));
    for (uint32_t stage = 1; stage < bits; stage++) {
        Vector threshold = _mm256_permutevar8x32_ps(search->stages[stage], minus);
        Lanes above = _mm256_castps_si256(_mm256_cmp_ps(x, threshold, _CMP_GT_OQ));
        minus = _mm256_add_epi32(_mm256_add_epi32(minus, minus), above);
    }
    return _mm256_sub_epi32(lanes_shift_left(codes, bits), minus);
}

/* lane i and lane i ^ reach: their sum in the lower one, their difference in the upper one */
INLINE Vector vector_butterfly(Vector x, int reach) {
    const Lanes numbers = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    Lanes reaches = _mm256_set1_epi32(reach);
    Vector upper =
        _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(numbers, reaches), reaches));
    Vector signs = _mm256_blendv_ps(_mm256_set1_ps(1.0f), _mm256_set1_ps(-1.0f), upper);
    Vector other = _mm256_permutevar8x32_ps(x, _mm256_xor_si256(numbers, reaches));
    return _mm256_fmadd_ps(x, signs, other);
}

#endif

/* Codes of a run below 2^bits, 2 or 4: neighbours meet by multiply-add, the later one shifted.
 * `swapped`: the first of two in the higher bits. */
INLINE void run_store_codes(uint8_t *out, uint32_t bits, bool swapped, const Lanes *codes) {
    const __m256i first_high = _mm256_set1_epi16((short)(1 << 8 | 1 << bits));
    const __m256i first_low = _mm256_set1_epi16((short)(1 << bits << 8 | 1));
    __m256i two = _mm256_maddubs_epi16(run_bytes(codes), swapped ? first_high : first_low);
    if (bits == 4) {
        __m256i bytes = _mm256_permute4x64_epi64(_mm256_packus_epi16(two, two), 0x08);
        _mm_storeu_si128((__m128i *)out, _mm256_castsi256_si128(bytes));
        return;
    }
    __m256i four = _mm256_madd_epi16(two, _mm256_set1_epi32(1 << 2 * bits << 16 | 1));
    __m128i words =
        _mm_packs_epi32(_mm256_castsi256_si128(four), _mm256_extracti128_si256(four, 1));
    _mm_storel_epi64((__m128i *)out, _mm_packus_epi16(words, words));
}

INLINE void lanes_store_bytes(uint8_t *out, Lanes lanes) {
    if (VECTOR_LANES == 16)
        _mm_storeu_si128((__m128i *)out, lanes_bytes(lanes));
    else
        _mm_storel_epi64((__m128i *)out, lanes_bytes(lanes));
}

/* A half to divide by, and its inverse: 0 for 0 and infinity, by which anything gives 0. */
typedef struct Divisor {
    Vector half, inverse;
} Divisor;

INLINE Divisor divisor_of(Vector half) {
    Divisor divisor = {vector_finite_or_zero(half),
                       vector_finite_or_zero(vector_divide(vector_set(1.0f), half))};
    return divisor;
}

INLINE Divisor divisor_set(float half) {
    bool usable = half != 0.0f && fabsf(half) < INFINITY;
    Divisor divisor = {vector_set(usable ? half : 0.0f), vector_set(usable ? 1.0f / half : 0.0f)};
    return divisor;
}

/* x / half, correctly rounded: the remainder of a first quotient is exact, and with a divisor of 11 bits no quotient lies so
 * near the middle of two floats that its last step could miss. Several times as fast as the division. */
INLINE Vector vector_divide_half(Vector x, const Divisor *divisor) {
    Vector quotient = vector_multiply(x, divisor->inverse);
    Vector remainder = vector_fma_negated(quotient, divisor->half, x);
    return vector_fma(remainder, divisor->inverse, quotient);
}

INLINE uint16_t half_of(float x) {
    return _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT);
}

INLINE float float_of(uint16_t half) {
    return _cvtsh_ss(half);
}

INLINE Vector vector_clamp(Vector x, float low, float high) {
    return vector_min(vector_max(x, vector_set(low)), vector_set(high));
}

/* nearest finite halves */
INLINE void vector_store_finite_half(uint16_t *halves, Vector x) {
    vector_store_half(halves, vector_clamp(x, -65504.0f, 65504.0f));
}

/* count halves at any alignment as floats */
static inline void halves_to_floats(const uint8_t *halves, uint64_t count, float *out) {
    uint64_t i = 0;
    for (; i + VECTOR_LANES <= count; i += VECTOR_LANES)
        vector_store(out + i, vector_load_half((const uint16_t *)(halves + 2 * i)));
    for (; i < count; i++) {
        uint16_t half;
        memcpy(&half, halves + 2 * i, sizeof half);
        out[i] = float_of(half);
    }
}

#endif

#endif
