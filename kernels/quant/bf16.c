#include "kernels/quant.h"

#include <string.h>

#include "runtime/base/bytes.h"

float bf16_to_f32(uint16_t value) {
    uint32_t bits = (uint32_t)value << 16;
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}

static void dequantise_bf16(const void *blocks, uint64_t count, float *out) {
    const uint8_t *bytes = blocks;
    for (uint64_t i = 0; i < count; i++)
        out[i] = bf16_to_f32(load_u16(bytes + 2 * i));
}

static void store_bf16(float value, void *element) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    store_u16(element,
              (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)); /* finite values only */
}

const Quant quant_bf16 = {
    .name = "bf16",
    .gguf_type = 30,
    .safetensors_name = "BF16",
    .block_elements = 1,
    .block_bytes = 2,
    .dequantise = dequantise_bf16,
    .store = store_bf16,
};
