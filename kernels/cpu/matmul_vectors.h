#ifndef KERNELS_CPU_MATMUL_VECTORS_H
#define KERNELS_CPU_MATMUL_VECTORS_H

/* The vector type of the ISA that the including file is compiled for, for kernels written once: one lane a column
 * of a tile. Empty where neither AVX2 nor AVX-512 is on. */

#include <stdint.h>

#define INLINE static inline __attribute__((always_inline))

#if defined(__AVX512VNNI__)

#include <immintrin.h>

enum { COLUMNS = 16 };
typedef __m512 Floats;
typedef __m512i Words; /* COLUMNS words of 4 bytes, 2 halves or one int32 */
typedef __mmask16 LaneMask;

/* Lanes [0, count). */
INLINE LaneMask lane_mask(int count) {
    return count >= COLUMNS ? 0xffff : (LaneMask)((1u << count) - 1);
}

INLINE Floats floats_zero(void) {
    return _mm512_setzero_ps();
}
INLINE Floats floats_set(float value) {
    return _mm512_set1_ps(value);
}
INLINE Floats floats_load(const void *bytes) {
    return _mm512_loadu_ps(bytes);
}
INLINE Floats floats_load_f16(const void *bytes) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)bytes));
}
INLINE Floats floats_load_bf16(const void *bytes) {
    __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)bytes));
    return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
}
INLINE Floats floats_load_lanes(const float *numbers, LaneMask mask) {
    return _mm512_maskz_loadu_ps(mask, numbers);
}
INLINE void floats_store_lanes(float *numbers, LaneMask mask, Floats value) {
    _mm512_mask_storeu_ps(numbers, mask, value);
}
INLINE Floats floats_from_int32(Words words) {
    return _mm512_cvtepi32_ps(words);
}
INLINE Floats floats_add(Floats a, Floats b) {
    return _mm512_add_ps(a, b);
}
INLINE Floats floats_multiply(Floats a, Floats b) {
    return _mm512_mul_ps(a, b);
}
/* a * b + c, rounded once */
INLINE Floats floats_fma(Floats a, Floats b, Floats c) {
    return _mm512_fmadd_ps(a, b, c);
}

INLINE Words words_set(int32_t value) {
    return _mm512_set1_epi32(value);
}
INLINE Words words_load(const void *bytes) {
    return _mm512_loadu_si512(bytes);
}
INLINE Words words_and(Words a, Words b) {
    return _mm512_and_si512(a, b);
}
INLINE Words words_or(Words a, Words b) {
    return _mm512_or_si512(a, b);
}
/* Shifts inside halves; callers mask what crosses bytes. */
INLINE Words halves_shift_left(Words a, int bits) {
    return _mm512_slli_epi16(a, (unsigned)bits);
}
INLINE Words halves_shift_right(Words a, int bits) {
    return _mm512_srli_epi16(a, (unsigned)bits);
}

#elif defined(__AVX2__)

#include <immintrin.h>

enum { COLUMNS = 8 };
typedef __m256 Floats;
typedef __m256i Words; /* COLUMNS words of 4 bytes, 2 halves or one int32 */
typedef __m256i LaneMask;

/* Lanes [0, count). */
INLINE LaneMask lane_mask(int count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

INLINE Floats floats_zero(void) {
    return _mm256_setzero_ps();
}
INLINE Floats floats_set(float value) {
    return _mm256_set1_ps(value);
}
INLINE Floats floats_load(const void *bytes) {
    return _mm256_loadu_ps((const float *)bytes);
}
INLINE Floats floats_load_f16(const void *bytes) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)bytes));
}
INLINE Floats floats_load_bf16(const void *bytes) {
    __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)bytes));
    return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
}
INLINE Floats floats_load_lanes(const float *numbers, LaneMask mask) {
    return _mm256_maskload_ps(numbers, mask);
}
INLINE void floats_store_lanes(float *numbers, LaneMask mask, Floats value) {
    _mm256_maskstore_ps(numbers, mask, value);
}
INLINE Floats floats_from_int32(Words words) {
    return _mm256_cvtepi32_ps(words);
}
INLINE Floats floats_add(Floats a, Floats b) {
    return _mm256_add_ps(a, b);
}
INLINE Floats floats_multiply(Floats a, Floats b) {
    return _mm256_mul_ps(a, b);
}
/* a * b + c, rounded once */
INLINE Floats floats_fma(Floats a, Floats b, Floats c) {
    return _mm256_fmadd_ps(a, b, c);
}

INLINE Words words_set(int32_t value) {
    return _mm256_set1_epi32(value);
}
INLINE Words words_load(const void *bytes) {
    return _mm256_loadu_si256((const __m256i *)bytes);
}
INLINE Words words_and(Words a, Words b) {
    return _mm256_and_si256(a, b);
}
INLINE Words words_or(Words a, Words b) {
    return _mm256_or_si256(a, b);
}
/* Shifts inside halves; callers mask what crosses bytes. */
INLINE Words halves_shift_left(Words a, int bits) {
    return _mm256_slli_epi16(a, bits);
}
INLINE Words halves_shift_right(Words a, int bits) {
    return _mm256_srli_epi16(a, bits);
}

#endif

#endif
