#ifndef KERNELS_QUANT_BLOCK_CODES_H
#define KERNELS_QUANT_BLOCK_CODES_H

/* What the formats share: bits of floats, how codes become numbers, and the bit layouts that ggml reuses from format to
 * format. Internal to kernels/quant. */

#include <string.h>

#include "kernels/quant.h"
#include "runtime/base/bytes.h"

enum { BLOCK_CODES_MAX = 256, BLOCK_GROUPS_MAX = 16 };

static inline float float_from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t float_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* Block by block through expand. A biased code is made signed first: the same value, and a zero keeps the sign that
 * ggml gives it. */
static inline void codes_dequantise(const Quant *quant, const void *blocks, uint64_t count,
                                    float *out) {
    const uint8_t *block = (const uint8_t *)blocks;
    for (uint64_t first = 0; first < count; first += quant->block_elements) {
        uint8_t codes[BLOCK_CODES_MAX];
        float scales[BLOCK_GROUPS_MAX], offsets[BLOCK_GROUPS_MAX];
        quant->expand(block, quant->block_elements, codes, scales, offsets);
        for (uint32_t i = 0; i < quant->block_elements; i++) {
            uint32_t group = i / quant->group_elements;
            float scaled = scales[group] * (float)((int32_t)codes[i] - (int32_t)quant->code_bias);
            out[first + i] = quant->code_bias ? scaled : scaled + offsets[group];
        }
        block += quant->block_bytes;
    }
}

/* 2 * half codes from half bytes: low nibbles first, then high nibbles. */
static inline void codes_from_nibbles(const uint8_t *bytes, uint32_t half, uint8_t *codes) {
    for (uint32_t i = 0; i < half; i++) {
        codes[i] = bytes[i] & 15;
        codes[half + i] = bytes[i] >> 4;
    }
}

/* Adds bit i of a little-endian 32-bit word as the fifth bit of code i. */
static inline void codes_add_fifth_bits(const uint8_t *word, uint8_t *codes) {
    uint32_t bits = load_u32(word);
    for (uint32_t i = 0; i < 32; i++)
        codes[i] |= (uint8_t)((bits >> i & 1) << 4);
}

/* Q4_K and Q5_K: eight 6-bit scales and eight 6-bit minima in 12 bytes. Bytes 0-3 and 4-7 hold scales and minima
 * 0-3 in their low six bits; bytes 8-11 hold the low nibbles of scales and minima 4-7, whose upper two bits are the
 * upper two of bytes 0-3 and 4-7. */
static inline void k_scales_unpack(const uint8_t *packed, uint8_t scales[8], uint8_t minima[8]) {
    for (uint32_t i = 0; i < 4; i++) {
        scales[i] = packed[i] & 63;
        minima[i] = packed[4 + i] & 63;
        scales[4 + i] = (uint8_t)((packed[8 + i] & 15) | (packed[i] >> 6 << 4));
        minima[4 + i] = (uint8_t)((packed[8 + i] >> 4) | (packed[4 + i] >> 6 << 4));
    }
}

/* Q4_K and Q5_K begin with f16 d, f16 dmin, 12 packed bytes: scales d * s, offsets -(dmin * m). */
static inline void k_scales_load(const uint8_t *block, float scales[8], float offsets[8]) {
    float d = f16_to_f32(load_u16(block)), d_min = f16_to_f32(load_u16(block + 2));
    uint8_t scale_codes[8], minimum_codes[8];
    k_scales_unpack(block + 4, scale_codes, minimum_codes);
    for (uint32_t i = 0; i < 8; i++) {
        scales[i] = d * (float)scale_codes[i];
        offsets[i] = -(d_min * (float)minimum_codes[i]);
    }
}

#endif
