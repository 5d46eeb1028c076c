#include "kernels/matrix_source.h"

#include <string.h>

#include "runtime/base/invariant.h"

enum { BLOCK_ELEMENTS_MAX = 256 };

const uint8_t *matrix_source_block(const MatrixSource *source, uint64_t row, uint64_t column) {
    const Quant *quant = source->tensor.quant;
    uint64_t row_blocks =
        source->tensor.shape[source->tensor.dim_count - 1] / quant->block_elements;
    uint64_t block = (source->row_begin + row) * row_blocks + column / quant->block_elements;
    return (const uint8_t *)source->tensor.data + block * quant->block_bytes;
}

void matrix_source_decode_row(const MatrixSource *source, uint64_t row, float *out) {
    const Quant *quant = source->tensor.quant;
    CHECK(quant->block_elements <= BLOCK_ELEMENTS_MAX);
    uint64_t column = source->column_begin;
    while (column < source->column_end) {
        float block[BLOCK_ELEMENTS_MAX];
        uint64_t first = column % quant->block_elements;
        uint64_t count = quant->block_elements - first;
        if (count > source->column_end - column) count = source->column_end - column;
        quant->dequantise(matrix_source_block(source, row, column), quant->block_elements, block);
        memcpy(out + (column - source->column_begin), block + first, count * sizeof *out);
        column += count;
    }
}
