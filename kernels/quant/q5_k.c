/* A block of 8 groups of 32: f16 d, f16 dmin, 12 bytes of 6-bit scales and minima, 32 bytes of fifth bits (bit g of
 * byte i belongs to element i of group g), 128 bytes of two codes. w = (d * scale) * code - dmin * minimum.
 * Source: ggml block_q5_K. */

#include "kernels/quant/block_codes.h"

enum {
    BLOCK_ELEMENTS = 256,
    BLOCK_BYTES = 176,
};

extern const Quant quant_q5_k;

static void expand_q5_k(const void *blocks, uint64_t count, uint8_t *codes, float *scales,
                        float *offsets) {
    const uint8_t *block = blocks;
    for (uint64_t b = 0; b < count / BLOCK_ELEMENTS; b++, block += BLOCK_BYTES) {
        k_scales_load(block, scales + 8 * b, offsets + 8 * b);
        const uint8_t *fifth = block + 16, *nibbles = block + 48;
        uint8_t *block_codes = codes + b * BLOCK_ELEMENTS;
        for (uint32_t pair = 0; pair < 4; pair++) /* 32 bytes hold two groups */
            codes_from_nibbles(nibbles + 32 * pair, 32, block_codes + 64 * pair);
        for (uint32_t i = 0; i < BLOCK_ELEMENTS; i++)
            block_codes[i] |= (uint8_t)((fifth[i % 32] >> (i / 32) & 1) << 4);
    }
}

static void dequantise_q5_k(const void *blocks, uint64_t count, float *out) {
    codes_dequantise(&quant_q5_k, blocks, count, out);
}

const Quant quant_q5_k = {
    .name = "q5_k",
    .gguf_type = 13,
    .block_elements = BLOCK_ELEMENTS,
    .block_bytes = BLOCK_BYTES,
    .group_elements = 32,
    .code_bits = 5,
    .code_bias = 0,
    .dequantise = dequantise_q5_k,
    .expand = expand_q5_k,
    .random = {.scale_at = 0, .offset_at = 2, .offset_per_scale = 15.5f, .deviation = 530.0f},
};
