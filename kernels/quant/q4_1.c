/* A block: f16 d, f16 m, 16 bytes of two codes (elements i and 16 + i). w = d * code + m. Source: ggml block_q4_1. */

#include "kernels/quant/block_codes.h"

enum {
    BLOCK_ELEMENTS = 32,
    BLOCK_BYTES = 20,
};

extern const Quant quant_q4_1;

static void expand_q4_1(const void *blocks, uint64_t count, uint8_t *codes, float *scales,
                        float *offsets) {
    const uint8_t *block = blocks;
    for (uint64_t b = 0; b < count / BLOCK_ELEMENTS; b++, block += BLOCK_BYTES) {
        scales[b] = f16_to_f32(load_u16(block));
        offsets[b] = f16_to_f32(load_u16(block + 2));
        codes_from_nibbles(block + 4, 16, codes + b * BLOCK_ELEMENTS);
    }
}

static void dequantise_q4_1(const void *blocks, uint64_t count, float *out) {
    codes_dequantise(&quant_q4_1, blocks, count, out);
}

const Quant quant_q4_1 = {
    .name = "q4_1",
    .gguf_type = 3,
    .block_elements = BLOCK_ELEMENTS,
    .block_bytes = BLOCK_BYTES,
    .group_elements = BLOCK_ELEMENTS,
    .code_bits = 4,
    .code_bias = 0,
    .scales_f16 = true,
    .dequantise = dequantise_q4_1,
    .expand = expand_q4_1,
    .random = {.scale_at = 0, .offset_at = 2, .offset_per_scale = -7.5f, .deviation = 4.6f},
};
