/* The matrix product for AVX2 with FMA and F16C: 8 columns a tile, `vpmaddubsw` (int8) and `vpmaddwd` (int16); and
 * the rounding of activations, which AVX-512 machines use as well. */

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/matmul_kernels.h"

/* Scale of 32 numbers whose largest magnitude becomes code_max; *out_inverse is 0 for (almost) zero groups. A group
 * with an infinity or a NaN gets such a scale, and so do the outputs of its row. */
INLINE float group_scale(const __m256 x[4], float code_max, float *out_inverse) {
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256i most = _mm256_setzero_si256();
    for (int i = 0; i < 4; i++) /* as integers, so that NaN counts as largest */
        most = _mm256_max_epi32(most, _mm256_and_si256(_mm256_castps_si256(x[i]), magnitude));
    __m128i half = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
    half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0xb1));
    float most_magnitude = _mm_cvtss_f32(_mm_castsi128_ps(half));
    *out_inverse = most_magnitude >= 0x1p-100f ? code_max / most_magnitude : 0.0f;
    return most_magnitude / code_max;
}

INLINE int32_t sum_of_words(__m256i words) {
    __m128i half = _mm_add_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1));
    return _mm_cvtsi128_si32(half);
}

/* Rounds 32 numbers to nearest even and fills *out. */
INLINE void group_quantise(const float *numbers, float code_max, __m256i words[4],
                           ActivationHead *out) {
    __m256 x[4];
    for (int i = 0; i < 4; i++)
        x[i] = _mm256_loadu_ps(numbers + 8 * i);
    float inverse;
    out->scale = group_scale(x, code_max, &inverse);
    for (int i = 0; i < 4; i++) {
        __m256 scaled = _mm256_mul_ps(x[i], _mm256_set1_ps(inverse));
        /* min takes its second operand where the first is NaN: codes of a spoilt group stay in range */
        words[i] = _mm256_cvtps_epi32(_mm256_min_ps(scaled, _mm256_set1_ps(code_max)));
    }
    out->sums[0] = sum_of_words(_mm256_add_epi32(words[0], words[1]));
    out->sums[1] = sum_of_words(_mm256_add_epi32(words[2], words[3]));
    out->scaled_sum = out->scale * (float)(out->sums[0] + out->sums[1]);
}

void quantise_int8_avx2(const float *x, uint64_t count, uint8_t *records) {
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7); /* packs work by halves */
    for (uint64_t k = 0; k < count; k += TILE_GROUP, records += INT8_RECORD_BYTES) {
        __m256i words[4];
        ActivationHead *head = (ActivationHead *)(void *)records;
        group_quantise(x + k, 127.0f, words, head);
        __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(words[0], words[1]),
                                           _mm256_packs_epi32(words[2], words[3]));
        _mm256_storeu_si256((__m256i *)(void *)(head + 1),
                            _mm256_permutevar8x32_epi32(bytes, order));
    }
}

void quantise_int16_avx2(const float *x, uint64_t count, uint8_t *records) {
    for (uint64_t k = 0; k < count; k += TILE_GROUP, records += INT16_RECORD_BYTES) {
        __m256i words[4];
        ActivationHead *head = (ActivationHead *)(void *)records;
        group_quantise(x + k, 32767.0f, words, head);
        for (int i = 0; i < 2; i++) {
            __m256i halves = _mm256_packs_epi32(words[2 * i], words[2 * i + 1]);
            halves = _mm256_permute4x64_epi64(halves, 0xd8);
            halves = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(halves, 0xd8), 0xd8);
            _mm256_storeu_si256((__m256i *)(void *)(head + 1) + i, halves);
        }
    }
}

void matmul_fill_avx2(Kernels *kernels) {
    tile_slots_fill(kernels);
}
