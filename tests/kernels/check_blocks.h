#ifndef TESTS_KERNELS_CHECK_BLOCKS_H
#define TESTS_KERNELS_CHECK_BLOCKS_H

/* Random weights in the formats of files, with scales of the size that trained models have. */

#include "tests/check/check.h"

SPILLWAY_EXTERN_C_BEGIN

/* count blocks of quant into bytes[count * quant->block_bytes]: scales about 0.01, of both signs; floats N(0, 0.02). */
void check_blocks_fill(Check *check, const Quant *quant, uint64_t count, uint8_t *bytes);

/* The same, but every code is the largest there is. Floats: as above. */
void check_blocks_fill_largest(Check *check, const Quant *quant, uint64_t count, uint8_t *bytes);

const Quant *check_draw_quant(Check *check);

/* A tensor [rows][columns] of random weights in memory that lives until the round ends. */
Tensor check_draw_tensor(Check *check, const Quant *quant, uint64_t rows, uint64_t columns);

SPILLWAY_EXTERN_C_END

#endif
