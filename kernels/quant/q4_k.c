/* A block of 8 groups of 32: f16 d, f16 dmin, 12 bytes of 6-bit scales and minima, 128 bytes of two codes.
 * w = (d * scale) * code - dmin * minimum. Source: ggml block_q4_K. */

#include "kernels/quant/block_codes.h"

enum {
    BLOCK_ELEMENTS = 256,
    BLOCK_BYTES = 144,
};

extern const Quant quant_q4_k;

static void expand_q4_k(const void *blocks, uint64_t count, uint8_t *codes, float *scales,
                        float *offsets) {
    const uint8_t *block = blocks;
    for (uint64_t b = 0; b < count / BLOCK_ELEMENTS; b++, block += BLOCK_BYTES) {
        k_scales_load(block, scales + 8 * b, offsets + 8 * b);
        for (uint32_t pair = 0; pair < 4; pair++) /* 32 bytes hold two groups */
            codes_from_nibbles(block + 16 + 32 * pair, 32, codes + b * BLOCK_ELEMENTS + 64 * pair);
    }
}

static void dequantise_q4_k(const void *blocks, uint64_t count, float *out) {
    codes_dequantise(&quant_q4_k, blocks, count, out);
}

const Quant quant_q4_k = {
    .name = "q4_k",
    .gguf_type = 12,
    .block_elements = BLOCK_ELEMENTS,
    .block_bytes = BLOCK_BYTES,
    .group_elements = 32,
    .code_bits = 4,
    .code_bias = 0,
    .dequantise = dequantise_q4_k,
    .expand = expand_q4_k,
    .random = {.scale_at = 0, .offset_at = 2, .offset_per_scale = 7.5f, .deviation = 258.0f},
};
