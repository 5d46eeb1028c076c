#include "kernels/quant.h"

#include <string.h>

static void dequantise_f32(const void *blocks, uint64_t count, float *out) {
    memcpy(out, blocks, count * sizeof *out);
}

static void store_f32(float value, void *element) {
    memcpy(element, &value, sizeof value);
}

const Quant quant_f32 = {
    .name = "f32",
    .gguf_type = 0,
    .safetensors_name = "F32",
    .block_elements = 1,
    .block_bytes = 4,
    .dequantise = dequantise_f32,
    .store = store_f32,
};
