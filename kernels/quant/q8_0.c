/* A block: f16 d, 32 signed bytes. w = d * byte. Source: ggml block_q8_0. */

#include "kernels/quant/block_codes.h"

enum {
    BLOCK_ELEMENTS = 32,
    BLOCK_BYTES = 34,
};

extern const Quant quant_q8_0;

static void expand_q8_0(const void *blocks, uint64_t count, uint8_t *codes, float *scales,
                        float *offsets) {
    const uint8_t *block = blocks;
    for (uint64_t b = 0; b < count / BLOCK_ELEMENTS; b++, block += BLOCK_BYTES) {
        scales[b] = f16_to_f32(load_u16(block));
        offsets[b] = -128.0f * scales[b];
        for (uint32_t i = 0; i < BLOCK_ELEMENTS; i++) /* signed byte to code: + 128 */
            codes[b * BLOCK_ELEMENTS + i] = block[2 + i] ^ 0x80;
    }
}

static void dequantise_q8_0(const void *blocks, uint64_t count, float *out) {
    codes_dequantise(&quant_q8_0, blocks, count, out);
}

const Quant quant_q8_0 = {
    .name = "q8_0",
    .gguf_type = 8,
    .block_elements = BLOCK_ELEMENTS,
    .block_bytes = BLOCK_BYTES,
    .group_elements = BLOCK_ELEMENTS,
    .code_bits = 8,
    .code_bias = 128,
    .scales_f16 = true,
    .dequantise = dequantise_q8_0,
    .expand = expand_q8_0,
    .random = {.scale_at = 0, .deviation = 74.0f},
};
