/* A block of 16 groups of 16: 128 bytes of low nibbles, 64 bytes of upper bit pairs, 16 signed scales, f16 d.
 * w = (d * scale) * (code - 32). Source: ggml block_q6_K. */

#include "kernels/quant/block_codes.h"

enum {
    BLOCK_ELEMENTS = 256,
    BLOCK_BYTES = 210,
    GROUP_ELEMENTS = 16,
};

extern const Quant quant_q6_k;

/* Element e of half h (128 each) in quarter q = e / 32: the low nibbles of bytes 0-63 hold quarters 0 and 1, the
 * high nibbles 2 and 3; bits 2q and 2q + 1 of the upper bytes belong to quarter q. */
static void half_codes(const uint8_t *low, const uint8_t *high, uint8_t *codes) {
    codes_from_nibbles(low, 64, codes);
    for (uint32_t e = 0; e < 128; e++)
        codes[e] |= (uint8_t)((high[e % 32] >> (e / 32 * 2) & 3) << 4);
}

static void expand_q6_k(const void *blocks, uint64_t count, uint8_t *codes, float *scales,
                        float *offsets) {
    const uint8_t *block = blocks;
    for (uint64_t b = 0; b < count / BLOCK_ELEMENTS; b++, block += BLOCK_BYTES) {
        const uint8_t *low = block, *high = block + 128, *group_scales = block + 192;
        float d = f16_to_f32(load_u16(block + 208));
        for (uint32_t half = 0; half < 2; half++)
            half_codes(low + 64 * half, high + 32 * half, codes + b * BLOCK_ELEMENTS + 128 * half);
        for (uint32_t g = 0; g < BLOCK_ELEMENTS / GROUP_ELEMENTS; g++) {
            float scale = d * (float)(int8_t)group_scales[g];
            scales[b * (BLOCK_ELEMENTS / GROUP_ELEMENTS) + g] = scale;
            offsets[b * (BLOCK_ELEMENTS / GROUP_ELEMENTS) + g] = -32.0f * scale;
        }
    }
}

static void dequantise_q6_k(const void *blocks, uint64_t count, float *out) {
    codes_dequantise(&quant_q6_k, blocks, count, out);
}

const Quant quant_q6_k = {
    .name = "q6_k",
    .gguf_type = 14,
    .block_elements = BLOCK_ELEMENTS,
    .block_bytes = BLOCK_BYTES,
    .group_elements = GROUP_ELEMENTS,
    .code_bits = 6,
    .code_bias = 32,
    .dequantise = dequantise_q6_k,
    .expand = expand_q6_k,
    .random = {.scale_at = 208, .deviation = 1365.0f},
};
