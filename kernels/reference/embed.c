/* Rows of the embedding table, decoded from the file's format. */

#include <string.h>

#include "kernels/reference/reference.h"
#include "runtime/base/invariant.h"

static void embed_reference(const KernelContext *context, const EmbedArgs *args) {
    (void)context;
    uint64_t element_count = args->table.shape[1];
    uint64_t row_bytes;
    CHECK(quant_row_bytes(args->table.quant, element_count, &row_bytes));
    for (uint32_t row = 0; row < args->row_count; row++) {
        float *out = args->out + row * args->out_stride;
        int64_t id = args->ids[row];
        if (id < 0 || (uint64_t)id < args->row_begin || (uint64_t)id >= args->row_end) {
            memset(out, 0, element_count * sizeof *out);
            continue;
        }
        const uint8_t *blocks =
            (const uint8_t *)args->table.data + ((uint64_t)id - args->row_begin) * row_bytes;
        args->table.quant->dequantise(blocks, element_count, out);
    }
}

void embed_fill_reference(Kernels *kernels) {
    kernels->embed = embed_reference;
}
