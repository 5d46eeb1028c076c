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

/* True when no quant block is cut, so that blocks can be repacked as they are. */
bool matrix_source_whole_blocks(const MatrixSource *source);

/* First block of `row` (counted from row_begin), for sources of whole blocks. */
const void *matrix_source_blocks(const MatrixSource *source, uint64_t row);

/* Decodes `row` (counted from row_begin) to out[matrix_source_columns(source)]. */
void matrix_source_decode_row(const MatrixSource *source, uint64_t row, float *out);

SPILLWAY_EXTERN_C_END

#endif
