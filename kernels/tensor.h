#ifndef KERNELS_TENSOR_H
#define KERNELS_TENSOR_H

/* A view of numbers in memory that somebody else owns (usually a mapped weight file). Row-major; shape[0] is
 * the slowest dimension, the last is contiguous and holds whole quant blocks. Plain data. */

#include <stdint.h>

#include "kernels/quant.h"

enum { TENSOR_DIMS_MAX = 4 };

typedef struct Tensor {
    const Quant *quant;
    uint32_t dim_count;
    uint64_t shape[TENSOR_DIMS_MAX]; /* unused entries are 1 */
    const void *data;                /* may be unaligned */
    uint64_t bytes;
} Tensor;

#endif
