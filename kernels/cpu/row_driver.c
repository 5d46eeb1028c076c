#include "kernels/cpu/row_driver.h"

/* Cycles below which a parallel region costs more than it brings: some 10 us. */
#define SERIAL_WORK 40000u

void rows_run(const KernelContext *context, uint32_t row_count, uint64_t row_work,
              RowsFunction *function, const void *args) {
    uint32_t thread_count = context->thread_count < row_count ? context->thread_count : row_count;
    if (thread_count < 2 || row_count * row_work < SERIAL_WORK) {
        function(args, 0, row_count);
        return;
    }
#pragma omp parallel for num_threads(thread_count) schedule(static, 1)
    for (uint32_t thread = 0; thread < thread_count; thread++)
        function(args, (uint32_t)((uint64_t)row_count * thread / thread_count),
                 (uint32_t)((uint64_t)row_count * (thread + 1) / thread_count));
}
