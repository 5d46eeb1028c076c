/* A block: f16 d, 16 bytes of two codes (elements i and 16 + i). w = d * (code - 8).
 * Source: ggml block_q4_0. */

#include "kernels/quant/block_codes.h"

enum {
    BLOCK_ELEMENTS = 32,
    BLOCK_BYTES = 18,
};

extern const Quant quant_q4_0;

static void expand_q4_0(const void *blocks, uint64_t count, uint8_t *codes, float *scales,
                        float *offsets) {
    const uint8_t *block = blocks;
    for (uint64_t b = 0; b < count / BLOCK_ELEMENTS; b++, block += BLOCK_BYTES) {
        scales[b] = f16_to_f32(load_u16(block));
        offsets[b] = -8.0f * scales[b];
        codes_from_nibbles(block + 2, 16, codes + b * BLOCK_ELEMENTS);
    }
}

static void dequantise_q4_0(const void *blocks, uint64_t count, float *out) {
    codes_dequantise(&quant_q4_0, blocks, count, out);
}

const Quant quant_q4_0 = {
    .name = "q4_0",
    .gguf_type = 2,
    .block_elements = BLOCK_ELEMENTS,
    .block_bytes = BLOCK_BYTES,
    .group_elements = BLOCK_ELEMENTS,
    .code_bits = 4,
    .code_bias = 8,
    .scales_f16 = true,
    .dequantise = dequantise_q4_0,
    .expand = expand_q4_0,
    .random = {.scale_at = 0, .deviation = 4.6f},
};
