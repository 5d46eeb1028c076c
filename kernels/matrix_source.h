#ifndef KERNELS_MATRIX_SOURCE_H
#define KERNELS_MATRIX_SOURCE_H

/* Reading a part of a file's tensor, for the packers of every backend, and turning one of floats into blocks before that. Pure
 * functions, any thread. */

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

/* What a matrix of floats is in a format that encodes: its rows filled up to whole blocks; data NULL. False: it has no floats, or
 * is too large. */
bool matrix_encoded(const Tensor *matrix, const Quant *quant, Tensor *out);

/* The source's rows, of floats, as blocks of quant: out[matrix_source_rows(source)][row of blocks]. Whole rows of the tensor, for
 * groups begin where a row does. False: row *out_row, counted from row_begin and the first such, holds a number that quant cannot encode. */
bool matrix_source_encode(Team *team, const MatrixSource *source, const Quant *quant, void *out,
                          uint64_t *out_row);

SPILLWAY_EXTERN_C_END

#endif
