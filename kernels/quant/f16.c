/* IEEE 754 binary16. Conversions go through f32 arithmetic that is exact or rounds once, to nearest even. */

#include "kernels/quant/block_codes.h"

float f16_to_f32(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16;
    uint32_t magnitude = (uint32_t)(half & 0x7fff) << 13;
    if (magnitude >= 0x7c00u << 13) /* infinity; a NaN keeps its payload and becomes quiet */
        return float_from_bits(sign | 0x7f800000u | (magnitude & 0x7fffff) |
                               (magnitude & 0x7fffff ? 0x400000u : 0));
    /* the exponent bias differs by 127 - 15 = 112; subnormal halves are normalised by the product */
    return float_from_bits(sign | float_bits(float_from_bits(magnitude) * 0x1p112f));
}

uint16_t f32_to_f16(float value) {
    uint32_t sign = float_bits(value) >> 16 & 0x8000;
    uint32_t magnitude = float_bits(value) & 0x7fffffff;
    if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
    if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00); /* 65520 rounds to infinity */
    if (magnitude < 0x38800000u) {
        /* below 2^-14: halves are multiples of 2^-24, the last place of floats in [0.5, 1) */
        float shifted = float_from_bits(magnitude) + 0.5f;
        return (uint16_t)(sign | (float_bits(shifted) - float_bits(0.5f)));
    }
    uint32_t odd = magnitude >> 13 & 1;
    return (uint16_t)(sign | ((magnitude - (112u << 23) + 0xfff + odd) >> 13));
}

static void dequantise_f16(const void *blocks, uint64_t count, float *out) {
    const uint8_t *bytes = blocks;
    for (uint64_t i = 0; i < count; i++)
        out[i] = f16_to_f32(load_u16(bytes + 2 * i));
}

static void store_f16(float value, void *element) {
    store_u16(element, f32_to_f16(value));
}

const Quant quant_f16 = {
    .name = "f16",
    .gguf_type = 1,
    .safetensors_name = "F16",
    .block_elements = 1,
    .block_bytes = 2,
    .dequantise = dequantise_f16,
    .store = store_f16,
};
