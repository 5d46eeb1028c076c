/* A block: f16 d, f16 m, 32 fifth bits, 16 bytes of two codes. w = d * code + m. Source: ggml block_q5_1. */

#include "kernels/quant/block_codes.h"

enum {
    BLOCK_ELEMENTS = 32,
    BLOCK_BYTES = 24,
};

extern const Quant quant_q5_1;

static void expand_q5_1(const void *blocks, uint64_t count, uint8_t *codes, float *scales,
                        float *offsets) {
    const uint8_t *block = blocks;
    for (uint64_t b = 0; b < count / BLOCK_ELEMENTS; b++, block += BLOCK_BYTES) {
        scales[b] = f16_to_f32(load_u16(block));
        offsets[b] = f16_to_f32(load_u16(block + 2));
        codes_from_nibbles(block + 8, 16, codes + b * BLOCK_ELEMENTS);
        codes_add_fifth_bits(block + 4, codes + b * BLOCK_ELEMENTS);
    }
}

static void dequantise_q5_1(const void *blocks, uint64_t count, float *out) {
    codes_dequantise(&quant_q5_1, blocks, count, out);
}

const Quant quant_q5_1 = {
    .name = "q5_1",
    .gguf_type = 7,
    .block_elements = BLOCK_ELEMENTS,
    .block_bytes = BLOCK_BYTES,
    .group_elements = BLOCK_ELEMENTS,
    .code_bits = 5,
    .code_bias = 0,
    .scales_f16 = true,
    .dequantise = dequantise_q5_1,
    .expand = expand_q5_1,
    .random = {.scale_at = 0, .offset_at = 2, .offset_per_scale = -15.5f, .deviation = 9.2f},
};
