#ifndef KERNELS_CPU_VECTOR_AVX512_H
#define KERNELS_CPU_VECTOR_AVX512_H

/* vector.h for AVX-512 F, BW, DQ, VL. Include vector.h instead. */

#include <stdint.h>

#ifdef __AVX512F__

#include <immintrin.h>

#define VECTOR_LANES     16
#define VECTOR_REGISTERS 32

typedef __m512 Vector;

static inline Vector vector_set(float x) {
    return _mm512_set1_ps(x);
}

static inline Vector vector_zero(void) {
    return _mm512_setzero_ps();
}

static inline Vector vector_load(const float *x) {
    return _mm512_loadu_ps(x);
}

static inline void vector_store(float *x, Vector value) {
    _mm512_storeu_ps(x, value);
}

static inline __mmask16 vector_tail_mask(uint32_t count) {
    return (__mmask16)((1u << count) - 1u);
}

static inline Vector vector_load_tail(const float *x, uint32_t count) {
    return _mm512_maskz_loadu_ps(vector_tail_mask(count), x);
}

static inline void vector_store_tail(float *x, Vector value, uint32_t count) {
    _mm512_mask_storeu_ps(x, vector_tail_mask(count), value);
}

/* f16 in memory */
static inline Vector vector_load_half(const uint16_t *x) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)x));
}

static inline Vector vector_load_half_tail(const uint16_t *x, uint32_t count) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(vector_tail_mask(count), x));
}

/* nearest even */
static inline void vector_store_half(uint16_t *x, Vector value) {
    _mm256_storeu_si256((__m256i *)x,
                        _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

static inline void vector_store_half_tail(uint16_t *x, Vector value, uint32_t count) {
    _mm256_mask_storeu_epi16(x, vector_tail_mask(count),
                             _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

static inline Vector vector_add(Vector a, Vector b) {
    return _mm512_add_ps(a, b);
}

static inline Vector vector_subtract(Vector a, Vector b) {
    return _mm512_sub_ps(a, b);
}

static inline Vector vector_multiply(Vector a, Vector b) {
    return _mm512_mul_ps(a, b);
}

static inline Vector vector_divide(Vector a, Vector b) {
    return _mm512_div_ps(a, b);
}

/* a * b + c, rounded once */
static inline Vector vector_fma(Vector a, Vector b, Vector c) {
    return _mm512_fmadd_ps(a, b, c);
}

/* b where either is NaN */
static inline Vector vector_max(Vector a, Vector b) {
    return _mm512_max_ps(a, b);
}

static inline Vector vector_min(Vector a, Vector b) {
    return _mm512_min_ps(a, b);
}

static inline Vector vector_round(Vector x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* x * 2^n for whole n in [-150, 128], rounded once */
static inline Vector vector_scale_power(Vector x, Vector n) {
    return _mm512_scalef_ps(x, n);
}

/* even lanes: a * b - c, odd lanes: a * b + c, rounded once */
static inline Vector vector_fma_alternate(Vector a, Vector b, Vector c) {
    return _mm512_fmaddsub_ps(a, b, c);
}

/* (x0 x0 x1 x1 … x7 x7) */
static inline Vector vector_load_doubled(const float *x) {
    __m512i order = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    return _mm512_permutexvar_ps(order, _mm512_castps256_ps512(_mm256_loadu_ps(x)));
}

/* neighbours trade places */
static inline Vector vector_swap_pairs(Vector x) {
    return _mm512_permute_ps(x, 0xB1);
}

/* lane i of x where first <= i < end, else `other` */
static inline Vector vector_keep_lanes(Vector x, Vector other, int32_t first, int32_t end) {
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __mmask16 kept = _mm512_cmpge_epi32_mask(lanes, _mm512_set1_epi32(first)) &
                     _mm512_cmplt_epi32_mask(lanes, _mm512_set1_epi32(end));
    return _mm512_mask_blend_ps(kept, other, x);
}

static inline __m256 vector_upper(Vector x) {
    return _mm512_extractf32x8_ps(x, 1);
}

static inline __m256 vector_lower(Vector x) {
    return _mm512_castps512_ps256(x);
}

/* (x0 + x8) … : halves, quarters, eighths, the last two */
static inline float vector_sum(Vector x) {
    __m256 eight = _mm256_add_ps(vector_lower(x), vector_upper(x));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* of lanes without NaN */
static inline float vector_max_lane(Vector x) {
    __m256 eight = _mm256_max_ps(vector_lower(x), vector_upper(x));
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

/* The sums over all lanes of four vectors, in one fixed tree. */
static inline __m128 vector_sum_four(Vector a, Vector b, Vector c, Vector d) {
    Vector ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    Vector cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    Vector low = _mm512_shuffle_ps(ab, cd, 0x44), high = _mm512_shuffle_ps(ab, cd, 0xEE);
    Vector abcd = _mm512_add_ps(low, high);
    __m256 eight = _mm256_add_ps(vector_lower(abcd), vector_upper(abcd));
    return _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
}

#endif

#endif
