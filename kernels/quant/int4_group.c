/* FlexGen's group-wise 4 bits for weights (Sheng et al., arXiv 2303.06865; compress and decompress of FlexLLMGen's compression.py),
 * made of a row's numbers when a model is loaded: 64 of them, rounded to f16, between their minimum and maximum; the last group of a
 * row is filled up with zeros that count. FlexGen itself groups weights over outputs; kernels that multiply integers want a scale along
 * the inputs. Codes are found in f32, with the reciprocal of the step before it was rounded, as FlexGen finds them on a CPU. It
 * keeps that reciprocal as f16 and divides by it; a block keeps what dividing 1 by it gives, as f16 again, so that it reads like any
 * other. A group whose reciprocal is too large for f16 decodes to its minimum.
 *
 * A block: f16 step, f16 minimum, 32 bytes of two codes (elements i and 32 + i). w = step * code + minimum. */

#include "kernels/quant/block_codes.h"

#include <string.h>

enum {
    BLOCK_ELEMENTS = 64,
    GROUP_ELEMENTS = 32, /* as packers have them: two of a block, with one scale and offset */
    CODES_BYTES = BLOCK_ELEMENTS / 2,
    BLOCK_BYTES = 4 + CODES_BYTES,
    LEVELS = 15,
    HALF_INFINITY = 0x7c00,
};

extern const Quant quant_int4_group;

static void expand_int4_group(const void *blocks, uint64_t count, uint8_t *codes, float *scales,
                              float *offsets) {
    const uint8_t *block = blocks;
    for (uint64_t b = 0; b < count / BLOCK_ELEMENTS; b++, block += BLOCK_BYTES) {
        scales[2 * b] = scales[2 * b + 1] = f16_to_f32(load_u16(block));
        offsets[2 * b] = offsets[2 * b + 1] = f16_to_f32(load_u16(block + 2));
        codes_from_nibbles(block + 4, CODES_BYTES, codes + b * BLOCK_ELEMENTS);
    }
}

static void dequantise_int4_group(const void *blocks, uint64_t count, float *out) {
    codes_dequantise(&quant_int4_group, blocks, count, out);
}

/* ---- encoding: loops without branches, which compilers turn into vectors, for a model has billions of numbers ---- */

/* f16_to_f32(f32_to_f16(number)); *wrong gets a bit where that is not finite. -0 becomes 0. */
static inline float half_of(float number, uint32_t *wrong) {
    uint32_t sign = float_bits(number) & 0x80000000u, magnitude = float_bits(number) ^ sign;
    uint32_t rounded = (magnitude + 0xfff + (magnitude >> 13 & 1)) & ~0x1fffu;
    float small = (float_from_bits(magnitude) + 0.5f) - 0.5f; /* below 2^-14: multiples of 2^-24 */
    uint32_t is_small = 0u - (magnitude < 0x38800000u);
    *wrong |= magnitude >= 0x477ff000u;
    return float_from_bits((float_bits(small) & is_small) | (rounded & ~is_small) | sign) + 0.0f;
}

static void find_extent(const float *numbers, float *out_min, float *out_max) {
    enum { HALF_BLOCK = BLOCK_ELEMENTS / 2 };
    float min[HALF_BLOCK], max[HALF_BLOCK];
    for (uint32_t i = 0; i < HALF_BLOCK; i++) {
        float a = numbers[i], b = numbers[HALF_BLOCK + i];
        min[i] = b < a ? b : a;
        max[i] = b > a ? b : a;
    }
    for (uint32_t width = HALF_BLOCK / 2; width > 0; width /= 2)
        for (uint32_t i = 0; i < width; i++) {
            min[i] = min[width + i] < min[i] ? min[width + i] : min[i];
            max[i] = max[width + i] > max[i] ? max[width + i] : max[i];
        }
    *out_min = min[0];
    *out_max = max[0];
}

/* What is 15 at most, but for its last place, becomes an integer, halves to even, in the last places of 2^23. */
static void find_codes(const float *numbers, float min, float reciprocal, uint8_t *codes) {
    for (uint32_t i = 0; i < BLOCK_ELEMENTS; i++)
        codes[i] = (uint8_t)(float_bits((numbers[i] - min) * reciprocal + 0x1p23f) & 15);
}

/* The numbers are halves, finite. */
static void encode_block(const float *numbers, uint8_t *block) {
    float min, max;
    uint8_t codes[BLOCK_ELEMENTS] = {0};
    find_extent(numbers, &min, &max);
    float reciprocal = LEVELS / (max - min);
    uint16_t half = f32_to_f16(reciprocal);
    bool usable = half != HALF_INFINITY;
    if (usable) find_codes(numbers, min, reciprocal, codes);
    store_u16(block, usable ? f32_to_f16(1.0f / f16_to_f32(half)) : 0);
    store_u16(block + 2, f32_to_f16(min));
    for (uint32_t i = 0; i < CODES_BYTES; i++)
        block[4 + i] = (uint8_t)(codes[i] | codes[CODES_BYTES + i] << 4);
}

static bool encode_int4_group(const float *numbers, uint64_t count, void *out_blocks) {
    uint8_t *block = out_blocks;
    uint32_t wrong = 0;
    for (uint64_t first = 0; first < count; first += BLOCK_ELEMENTS, block += BLOCK_BYTES) {
        uint64_t left = count - first < BLOCK_ELEMENTS ? count - first : BLOCK_ELEMENTS;
        float halves[BLOCK_ELEMENTS] = {0.0f};
        memcpy(halves, numbers + first, left * sizeof *halves);
        for (uint32_t i = 0; i < BLOCK_ELEMENTS; i++)
            halves[i] = half_of(halves[i], &wrong);
        if (wrong) return false;
        encode_block(halves, block);
    }
    return true;
}

const Quant quant_int4_group = {
    .name = "int4_group",
    .gguf_type = QUANT_NOT_IN_GGUF,
    .block_elements = BLOCK_ELEMENTS,
    .block_bytes = BLOCK_BYTES,
    .group_elements = GROUP_ELEMENTS,
    .code_bits = 4,
    .code_bias = 0,
    .scales_f16 = true,
    .dequantise = dequantise_int4_group,
    .expand = expand_int4_group,
    .encode = encode_int4_group,
    .random = {.scale_at = 0, .offset_at = 2, .offset_per_scale = -7.5f, .deviation = 4.6f},
};
