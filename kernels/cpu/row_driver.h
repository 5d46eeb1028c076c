#ifndef KERNELS_CPU_ROW_DRIVER_H
#define KERNELS_CPU_ROW_DRIVER_H

/* Divides rows that do not depend on each other over the team of a context. Internal to kernels/cpu. */

#include "kernels/kernels.h"

SPILLWAY_EXTERN_C_BEGIN

/* Rows [row_begin, row_end) of a slot's arguments. */
typedef void RowsFunction(const void *args, uint32_t row_begin, uint32_t row_end);

/* row_work: cycles a row, about; small calls stay on the calling thread. */
void rows_run(const KernelContext *context, uint32_t row_count, uint64_t row_work,
              RowsFunction *function, const void *args);

SPILLWAY_EXTERN_C_END

#endif
