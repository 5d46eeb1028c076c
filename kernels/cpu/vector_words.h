#ifndef KERNELS_CPU_VECTOR_WORDS_H
#define KERNELS_CPU_VECTOR_WORDS_H

/* The integer half of vector.h: a Words has VECTOR_LANES words of four bytes, two halves or one int32, a lane each.
 * AVX-512 counts here only with VNNI. */

#include <stdint.h>

#include "kernels/cpu/vector.h"

#if defined(__AVX512VNNI__) && VECTOR_LANES == 16

typedef __m512i Words;

static inline Words words_set(int32_t value) {
    return _mm512_set1_epi32(value);
}

static inline Words words_load(const void *bytes) {
    return _mm512_loadu_si512(bytes);
}

static inline Words words_and(Words a, Words b) {
    return _mm512_and_si512(a, b);
}

static inline Words words_or(Words a, Words b) {
    return _mm512_or_si512(a, b);
}

/* bits > 0: left, else right, inside halves; callers mask what crosses bytes. bits is a constant. */
static inline __attribute__((always_inline)) Words words_shift_halves(Words a, int bits) {
    return bits > 0 ? _mm512_slli_epi16(a, (unsigned)bits) : _mm512_srli_epi16(a, (unsigned)-bits);
}

static inline Vector vector_from_words(Words int32) {
    return _mm512_cvtepi32_ps(int32);
}

/* bfloat16 in memory */
static inline Vector vector_load_bfloat(const uint16_t *x) {
    __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x));
    return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
}

#elif defined(VECTOR_LANES) && VECTOR_LANES == 8

typedef __m256i Words;

static inline Words words_set(int32_t value) {
    return _mm256_set1_epi32(value);
}

static inline Words words_load(const void *bytes) {
    return _mm256_loadu_si256((const __m256i *)bytes);
}

static inline Words words_and(Words a, Words b) {
    return _mm256_and_si256(a, b);
}

static inline Words words_or(Words a, Words b) {
    return _mm256_or_si256(a, b);
}

/* bits > 0: left, else right, inside halves; callers mask what crosses bytes. bits is a constant. */
static inline __attribute__((always_inline)) Words words_shift_halves(Words a, int bits) {
    return bits > 0 ? _mm256_slli_epi16(a, bits) : _mm256_srli_epi16(a, -bits);
}

static inline Vector vector_from_words(Words int32) {
    return _mm256_cvtepi32_ps(int32);
}

/* bfloat16 in memory */
static inline Vector vector_load_bfloat(const uint16_t *x) {
    __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)x));
    return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
}

#endif

#endif
