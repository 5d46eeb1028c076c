/* A block: f16 d, 32 fifth bits, 16 bytes of two codes. w = d * (code - 16). Source: ggml block_q5_0. */

#include "kernels/quant/block_codes.h"

enum {
    BLOCK_ELEMENTS = 32,
    BLOCK_BYTES = 22,
};

extern const Quant quant_q5_0;

static void expand_q5_0(const void *blocks, uint64_t count, uint8_t *codes, float *scales,
                        float *offsets) {
    const uint8_t *block = blocks;
    for (uint64_t b = 0; b < count / BLOCK_ELEMENTS; b++, block += BLOCK_BYTES) {
        scales[b] = f16_to_f32(load_u16(block));
        offsets[b] = -16.0f * scales[b];
        codes_from_nibbles(block + 6, 16, codes + b * BLOCK_ELEMENTS);
        codes_add_fifth_bits(block + 2, codes + b * BLOCK_ELEMENTS);
    }
}

static void dequantise_q5_0(const void *blocks, uint64_t count, float *out) {
    codes_dequantise(&quant_q5_0, blocks, count, out);
}

const Quant quant_q5_0 = {
    .name = "q5_0",
    .gguf_type = 6,
    .block_elements = BLOCK_ELEMENTS,
    .block_bytes = BLOCK_BYTES,
    .group_elements = BLOCK_ELEMENTS,
    .code_bits = 5,
    .code_bias = 16,
    .scales_f16 = true,
    .dequantise = dequantise_q5_0,
    .expand = expand_q5_0,
    .random = {.scale_at = 0, .deviation = 9.2f},
};
