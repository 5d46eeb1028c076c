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
    for (const Quant *const *row = quants; *row; row++)
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
