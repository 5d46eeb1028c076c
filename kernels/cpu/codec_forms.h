#ifndef KERNELS_CPU_CODEC_FORMS_H
#define KERNELS_CPU_CODEC_FORMS_H

/* Codes of KV codecs in registers: a chunk of 16 codes becomes 16 floats and back, for the vectors of the instruction
 * set that the file is compiled for. Arithmetic that decides bytes or halves is that of kernels/codec, step by step. */

#include <math.h>
#include <string.h>

#include "kernels/codec.h"
#include "kernels/cpu/vector.h"

#ifdef VECTOR_LANES

#ifndef INLINE
#define INLINE static inline __attribute__((always_inline))
#endif

enum { CHUNK = 16, CHUNK_VECTORS = CHUNK / VECTOR_LANES };

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
} CodeForm;

INLINE uint32_t form_bits(CodeForm form) {
    return form == FORM_INT8 || form == FORM_FP8      ? 8
           : form == FORM_LOW2 || form == FORM_TABLE2 ? 2
           : form == FORM_TABLE3                      ? 3
                                                      : 4;
}

INLINE uint32_t load_word(const uint8_t *bytes) {
    uint32_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

/* The numbers of codes 0 …, repeated so that bits above a code do not matter; two vectors of 8 lanes for 4 bits. */
typedef struct CodeTable {
    Vector low, high;
} CodeTable;

INLINE CodeTable table_load(CodeForm form, const float *centroids) {
    float entries[16];
    uint32_t count = 1u << form_bits(form);
    for (uint32_t i = 0; i < 16; i++)
        entries[i] = centroids && count <= 16 ? centroids[i % count] : (float)(i % count);
    CodeTable table = {vector_load(entries), vector_load(entries + 16 - VECTOR_LANES)};
    return table;
}

#if VECTOR_LANES == 16

typedef __m512i Lanes;

/* Two words, one for each half of the lanes. */
INLINE Lanes lanes_two_words(const uint8_t *low, const uint8_t *high) {
    return _mm512_mask_set1_epi32(_mm512_set1_epi32((int)load_word(low)), 0xff00,
                                  (int)load_word(high));
}

INLINE void form_chunk(CodeForm form, const uint8_t *codes, const CodeTable *table, Vector *out) {
    const Lanes by2 = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const Lanes by3 = _mm512_setr_epi32(0, 3, 6, 9, 12, 15, 18, 21, 0, 3, 6, 9, 12, 15, 18, 21);
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
    if (form_bits(form) == 2)
        lanes = _mm512_srlv_epi32(_mm512_set1_epi32((int)load_word(codes)), by2);
    else if (form_bits(form) == 3)
        lanes = _mm512_srlv_epi32(lanes_two_words(codes, codes + 3), by3);
    else
        lanes = _mm512_srlv_epi32(lanes_two_words(codes, codes + 4),
                                  form == FORM_HIGH4 ? swapped : by4);
    out[0] = _mm512_permutexvar_ps(lanes, table->low);
}

INLINE Lanes lanes_from_vector(Vector whole) {
    return _mm512_cvtps_epi32(whole);
}

INLINE Lanes lanes_shift_or(Lanes sum, Lanes lanes, uint32_t bits) {
    return _mm512_or_si512(sum, _mm512_sll_epi32(lanes, _mm_cvtsi32_si128((int)bits)));
}

INLINE void lanes_store(uint32_t *words, Lanes lanes) {
    _mm512_storeu_si512(words, lanes);
}

INLINE Lanes lanes_load(const uint32_t *words) {
    return _mm512_loadu_si512(words);
}

INLINE Vector vector_from_code(Lanes words, uint32_t shift, uint32_t mask) {
    Lanes codes = _mm512_and_si512(_mm512_srl_epi32(words, _mm_cvtsi32_si128((int)shift)),
                                   _mm512_set1_epi32((int)mask));
    return _mm512_cvtepi32_ps(codes);
}

INLINE __m128i lanes_bytes(Lanes lanes) {
    return _mm512_cvtepi32_epi8(lanes);
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

/* fp8 codes of numbers in [-448, 448], as in kernels/codec/codec_fp8.c */
INLINE Lanes lanes_fp8(Vector x) {
    Lanes bits = _mm512_castps_si512(x);
    Vector magnitude = _mm512_abs_ps(x);
    Lanes small = _mm512_cvtps_epi32(_mm512_mul_ps(magnitude, _mm512_set1_ps(512.0f)));
    Lanes whole = _mm512_castps_si512(magnitude);
    Lanes odd = _mm512_and_si512(_mm512_srli_epi32(whole, 20), _mm512_set1_epi32(1));
    Lanes rounded = _mm512_add_epi32(_mm512_add_epi32(whole, _mm512_set1_epi32(0x7ffff)), odd);
    Lanes large = _mm512_sub_epi32(_mm512_srli_epi32(rounded, 20), _mm512_set1_epi32(120 << 3));
    __mmask16 is_small = _mm512_cmp_ps_mask(magnitude, _mm512_set1_ps(0x1p-6f), _CMP_LT_OQ);
    Lanes sign = _mm512_and_si512(_mm512_srli_epi32(bits, 24), _mm512_set1_epi32(0x80));
    return _mm512_or_si512(sign, _mm512_mask_blend_epi32(is_small, large, small));
}

/* a bit a lane */
INLINE uint32_t vector_lanes_above(Vector a, Vector b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ);
}

INLINE uint32_t vector_lanes_equal(Vector a, Vector b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ);
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

/* How many of the thresholds, in rising order, lie below x: 2^bits - 1 of them, in a table padded to 16. */
INLINE Lanes lanes_count_below(Vector x, const float *thresholds, uint32_t bits) {
    Vector table = vector_load(thresholds);
    Lanes found = _mm512_setzero_si512();
    for (int step = 1 << (bits - 1); step > 0; step /= 2) {
        Lanes middle = _mm512_add_epi32(found, _mm512_set1_epi32(step - 1));
        Vector threshold = _mm512_permutexvar_ps(middle, table);
        __mmask16 above = _mm512_cmp_ps_mask(x, threshold, _CMP_GT_OQ);
        found = _mm512_mask_add_epi32(found, above, found, _mm512_set1_epi32(step));
    }
    return found;
}

/* lane i and lane i ^ reach: their sum in the lower one, their difference in the upper one */
INLINE Vector vector_butterfly(Vector x, int reach) {
    const Lanes numbers = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    Lanes partner = _mm512_xor_si512(numbers, _mm512_set1_epi32(reach));
    __mmask16 upper = _mm512_test_epi32_mask(numbers, _mm512_set1_epi32(reach));
    Vector other = _mm512_permutexvar_ps(partner, x);
    return _mm512_mask_sub_ps(_mm512_add_ps(other, x), upper, other, x);
}

#else

typedef __m256i Lanes;

INLINE Vector vector_absolute(Vector x) {
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
}

INLINE Lanes lanes_word(const uint8_t *codes) {
    return _mm256_set1_epi32((int)load_word(codes));
}

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

INLINE Lanes lanes_from_vector(Vector whole) {
    return _mm256_cvtps_epi32(whole);
}

INLINE Lanes lanes_shift_or(Lanes sum, Lanes lanes, uint32_t bits) {
    return _mm256_or_si256(sum, _mm256_sll_epi32(lanes, _mm_cvtsi32_si128((int)bits)));
}

INLINE void lanes_store(uint32_t *words, Lanes lanes) {
    _mm256_storeu_si256((__m256i *)words, lanes);
}

INLINE Lanes lanes_load(const uint32_t *words) {
    return _mm256_loadu_si256((const __m256i *)words);
}

INLINE Vector vector_from_code(Lanes words, uint32_t shift, uint32_t mask) {
    Lanes codes = _mm256_and_si256(_mm256_srl_epi32(words, _mm_cvtsi32_si128((int)shift)),
                                   _mm256_set1_epi32((int)mask));
    return _mm256_cvtepi32_ps(codes);
}

/* the lowest byte of each, in the lower half */
INLINE __m128i lanes_bytes(Lanes lanes) {
    Lanes low = _mm256_and_si256(lanes, _mm256_set1_epi32(0xff));
    __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
    return _mm_packus_epi16(words, words);
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

/* fp8 codes of numbers in [-448, 448], as in kernels/codec/codec_fp8.c */
INLINE Lanes lanes_fp8(Vector x) {
    Lanes bits = _mm256_castps_si256(x);
    Vector magnitude = vector_absolute(x);
    Lanes small = _mm256_cvtps_epi32(_mm256_mul_ps(magnitude, _mm256_set1_ps(512.0f)));
    Lanes whole = _mm256_castps_si256(magnitude);
    Lanes odd = _mm256_and_si256(_mm256_srli_epi32(whole, 20), _mm256_set1_epi32(1));
    Lanes rounded = _mm256_add_epi32(_mm256_add_epi32(whole, _mm256_set1_epi32(0x7ffff)), odd);
    Lanes large = _mm256_sub_epi32(_mm256_srli_epi32(rounded, 20), _mm256_set1_epi32(120 << 3));
    Vector is_small = _mm256_cmp_ps(magnitude, _mm256_set1_ps(0x1p-6f), _CMP_LT_OQ);
    Lanes sign = _mm256_and_si256(_mm256_srli_epi32(bits, 24), _mm256_set1_epi32(0x80));
    return _mm256_or_si256(sign, _mm256_blendv_epi8(large, small, _mm256_castps_si256(is_small)));
}

/* a bit a lane */
INLINE uint32_t vector_lanes_above(Vector a, Vector b) {
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ));
}

INLINE uint32_t vector_lanes_equal(Vector a, Vector b) {
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_EQ_OQ));
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

/* How many of the thresholds, in rising order, lie below x: 2^bits - 1 of them. */
INLINE Lanes lanes_count_below(Vector x, const float *thresholds, uint32_t bits) {
    Lanes found = _mm256_setzero_si256();
    for (uint32_t i = 0; i + 1 < 1u << bits; i++) {
        Vector above = _mm256_cmp_ps(x, _mm256_set1_ps(thresholds[i]), _CMP_GT_OQ);
        found = _mm256_sub_epi32(found, _mm256_castps_si256(above));
    }
    return found;
}

/* lane i and lane i ^ reach: their sum in the lower one, their difference in the upper one */
INLINE Vector vector_butterfly(Vector x, int reach) {
    const Lanes numbers = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    Lanes reaches = _mm256_set1_epi32(reach);
    Vector other = _mm256_permutevar8x32_ps(x, _mm256_xor_si256(numbers, reaches));
    Vector upper =
        _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(numbers, reaches), reaches));
    return _mm256_blendv_ps(_mm256_add_ps(other, x), _mm256_sub_ps(other, x), upper);
}

#endif

/* Neighbours meet by multiply-add, the later one shifted: `count` codes below 2^bits, as bytes, become count * bits / 8.
 * `swapped`: the first of two in the higher bits. */
INLINE void bytes_store_codes(uint8_t *out, uint32_t bits, bool swapped, __m128i bytes,
                              uint32_t count) {
    const __m128i first_high = _mm_set1_epi16((short)(1 << 8 | 1 << bits));
    const __m128i first_low = _mm_set1_epi16((short)(1 << bits << 8 | 1));
    __m128i two = _mm_maddubs_epi16(bytes, swapped ? first_high : first_low);
    if (bits == 4) {
        uint64_t word = (uint64_t)_mm_cvtsi128_si64(_mm_packus_epi16(two, two));
        memcpy(out, &word, count / 2);
        return;
    }
    __m128i four = _mm_madd_epi16(two, _mm_set1_epi32(1 << 2 * bits << 16 | 1));
    __m128i eight = _mm_or_si128(four, _mm_srli_epi64(four, 32 - 4 * (int)bits));
    uint32_t low = (uint32_t)_mm_cvtsi128_si32(eight);
    memcpy(out, &low, bits);
    if (count == 8) return;
    uint32_t high = (uint32_t)_mm_extract_epi32(eight, 2);
    memcpy(out + bits, &high, bits);
}

/* VECTOR_LANES codes of a stream */
INLINE void lanes_store_codes(uint8_t *out, uint32_t bits, bool swapped, Lanes codes) {
    bytes_store_codes(out, bits, swapped, lanes_bytes(codes), VECTOR_LANES);
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
