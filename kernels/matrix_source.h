#ifndef KERNELS_MATRIX_SOURCE_H
#define KERNELS_MATRIX_SOURCE_H

/* Reading a part of a file's tensor, for the packers of every backend. Pure functions, any thread. */

#include "kernels/kernels.h"

SPILLWAY_EXTERN_C_BEGIN

static inline uint64_t matrix_source_rows(const MatrixSource *source) {
    return source->row_end - source->row_begin;
}

static inline uint64_t matrix_source_columns(const MatrixSource *source) {
    return source->column_end - source->column_begin;
}

/* The block that holds `column` (of the tensor) of `row` (counted from row_begin). */
const uint8_t *matrix_source_block(const MatrixSource *source, uint64_t row, uint64_t column);

/* Decodes `row` (counted from row_begin) to out[matrix_source_columns(source)]. */
void matrix_source_decode_row(const MatrixSource *source, uint64_t row, float *out);

SPILLWAY_EXTERN_C_END

#endif
