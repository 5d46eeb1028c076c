#ifndef KERNELS_CPU_VECTOR_AVX2_H
#define KERNELS_CPU_VECTOR_AVX2_H

/* vector.h for AVX2 with FMA and F16C. Include vector.h instead. */

#include <stdint.h>
#include <string.h>

#ifdef __AVX2__

#include <immintrin.h>

#define VECTOR_LANES     8
#define VECTOR_REGISTERS 16

typedef __m256 Vector;

static inline Vector vector_set(float x) {
    return _mm256_set1_ps(x);
}

static inline Vector vector_zero(void) {
    return _mm256_setzero_ps();
}

static inline Vector vector_load(const float *x) {
    return _mm256_loadu_ps(x);
}

static inline void vector_store(float *x, Vector value) {
    _mm256_storeu_ps(x, value);
}

static inline __m256i vector_lane_numbers(void) {
    return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
}

static inline __m256i vector_tail_mask(uint32_t count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int32_t)count), vector_lane_numbers());
}

static inline Vector vector_load_tail(const float *x, uint32_t count) {
    return _mm256_maskload_ps(x, vector_tail_mask(count));
}

static inline void vector_store_tail(float *x, Vector value, uint32_t count) {
    _mm256_maskstore_ps(x, vector_tail_mask(count), value);
}

/* f16 in memory */
static inline Vector vector_load_half(const uint16_t *x) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)x));
}

static inline Vector vector_load_half_tail(const uint16_t *x, uint32_t count) {
    uint16_t halves[VECTOR_LANES] = {0};
    memcpy(halves, x, count * sizeof *x);
    return vector_load_half(halves);
}

/* nearest even */
static inline void vector_store_half(uint16_t *x, Vector value) {
    _mm_storeu_si128((__m128i *)x, _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
}

static inline void vector_store_half_tail(uint16_t *x, Vector value, uint32_t count) {
    uint16_t halves[VECTOR_LANES];
    vector_store_half(halves, value);
    memcpy(x, halves, count * sizeof *x);
}

static inline Vector vector_add(Vector a, Vector b) {
    return _mm256_add_ps(a, b);
}

static inline Vector vector_subtract(Vector a, Vector b) {
    return _mm256_sub_ps(a, b);
}

static inline Vector vector_multiply(Vector a, Vector b) {
    return _mm256_mul_ps(a, b);
}

static inline Vector vector_divide(Vector a, Vector b) {
    return _mm256_div_ps(a, b);
}

/* a * b + c, rounded once */
static inline Vector vector_fma(Vector a, Vector b, Vector c) {
    return _mm256_fmadd_ps(a, b, c);
}

/* b where either is NaN */
static inline Vector vector_max(Vector a, Vector b) {
    return _mm256_max_ps(a, b);
}

static inline Vector vector_min(Vector a, Vector b) {
    return _mm256_min_ps(a, b);
}

static inline Vector vector_round(Vector x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* 2^n for whole n in [-126, 127] */
static inline Vector vector_power_of_two(__m256i n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

/* x * 2^n for whole n in [-150, 128], rounded once: only the second product can leave the normal range */
static inline Vector vector_scale_power(Vector x, Vector n) {
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    Vector scaled = _mm256_mul_ps(x, vector_power_of_two(half));
    return _mm256_mul_ps(scaled, vector_power_of_two(_mm256_sub_epi32(whole, half)));
}

/* even lanes: a * b - c, odd lanes: a * b + c, rounded once */
static inline Vector vector_fma_alternate(Vector a, Vector b, Vector c) {
    return _mm256_fmaddsub_ps(a, b, c);
}

/* (x0 x0 x1 x1 x2 x2 x3 x3) */
static inline Vector vector_load_doubled(const float *x) {
    __m256 both = _mm256_broadcast_ps((const __m128 *)x);
    return _mm256_permutevar_ps(both, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
}

/* neighbours trade places */
static inline Vector vector_swap_pairs(Vector x) {
    return _mm256_permute_ps(x, 0xB1);
}

/* lane i of x where first <= i < end, else `other` */
static inline Vector vector_keep_lanes(Vector x, Vector other, int32_t first, int32_t end) {
    __m256i lanes = vector_lane_numbers();
    __m256i kept = _mm256_and_si256(_mm256_cmpgt_epi32(lanes, _mm256_set1_epi32(first - 1)),
                                    _mm256_cmpgt_epi32(_mm256_set1_epi32(end), lanes));
    return _mm256_blendv_ps(other, x, _mm256_castsi256_ps(kept));
}

/* (x0 + x4) … : halves, quarters, the last two */
static inline float vector_sum(Vector x) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* of lanes without NaN */
static inline float vector_max_lane(Vector x) {
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

/* The sums over all lanes of four vectors, in one fixed tree. */
static inline __m128 vector_sum_four(Vector a, Vector b, Vector c, Vector d) {
    Vector ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    Vector cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
    Vector low = _mm256_shuffle_ps(ab, cd, 0x44), high = _mm256_shuffle_ps(ab, cd, 0xEE);
    Vector abcd = _mm256_add_ps(low, high);
    return _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps(abcd, 1));
}

#endif

#endif
