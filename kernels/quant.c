#include "kernels/quant.h"

#include <string.h>

#include "runtime/base/bytes.h"

#define QUANT(name) extern const Quant quant_##name;
#include "kernels/quant/quant_rows.h"
#undef QUANT

const Quant *const quants[] = {
#define QUANT(name) &quant_##name,
#include "kernels/quant/quant_rows.h"
#undef QUANT
    NULL,
};

const Quant *quant_find(const char *name) {
    for (const Quant *const *row = quants; *row; row++)
        if (!strcmp((*row)->name, name)) return *row;
    return NULL;
}

const Quant *quant_find_gguf(uint32_t gguf_type) {
    for (const Quant *const *row = quants; *row && gguf_type != QUANT_NOT_IN_GGUF; row++)
        if ((*row)->gguf_type == gguf_type) return *row;
    return NULL;
}

const Quant *quant_find_safetensors(const char *dtype) {
    for (const Quant *const *row = quants; *row; row++)
        if ((*row)->safetensors_name && !strcmp((*row)->safetensors_name, dtype)) return *row;
    return NULL;
}

bool quant_row_bytes(const Quant *quant, uint64_t count, uint64_t *out_bytes) {
    return count % quant->block_elements == 0 &&
           bytes_multiply(count / quant->block_elements, quant->block_bytes, out_bytes);
}

static const float root_of_3 = 1.7320508f; /* uniform in ±this has deviation 1 */

void quant_draw_block(const Quant *quant, Random *random, float deviation, void *out_block) {
    const QuantRandom *about = &quant->random;
    uint8_t *block = out_block;
    if (quant->store) {
        quant->store(deviation * root_of_3 * (float)(2 * random_unit(random) - 1), block);
        return;
    }
    for (uint32_t at = 0; at < quant->block_bytes; at += 8) {
        uint64_t draw = random_u64(random);
        uint32_t left = quant->block_bytes - at;
        memcpy(block + at, &draw, left < 8 ? left : 8);
    }
    /* codes are not centred on their bias; a scale of either sign makes up for it */
    float scale = (random_u64(random) & 1 ? deviation : -deviation) / about->deviation;
    store_u16(block + about->scale_at, f32_to_f16(scale));
    if (about->offset_at > 0)
        store_u16(block + about->offset_at, f32_to_f16(scale * about->offset_per_scale));
}
