#include "kernels/cpu/row_driver.h"

/* Cycles of a call that are not worth waking anybody for, some 10 us, and of the smallest task. */
#define SERIAL_WORK 40000u
#define TASK_WORK   5000u

typedef struct RowsCall {
    RowsFunction *function;
    const void *args;
    uint32_t row_count, task_count;
} RowsCall;

static void run_rows(void *user, uint32_t task_index, uint32_t thread_index) {
    (void)thread_index;
    const RowsCall *call = user;
    call->function(call->args,
                   (uint32_t)team_task_begin(call->row_count, task_index, call->task_count),
                   (uint32_t)team_task_begin(call->row_count, task_index + 1, call->task_count));
}

void rows_run(const KernelContext *context, uint32_t row_count, uint64_t row_work,
              RowsFunction *function, const void *args) {
    uint64_t work = row_count * row_work, pieces = work / TASK_WORK;
    RowsCall call = {.function = function, .args = args, .row_count = row_count, .task_count = 1};
    if (work >= SERIAL_WORK)
        call.task_count = team_task_count(context->team, row_count < pieces ? row_count : pieces);
    team_run(context->team, call.task_count, run_rows, &call);
}
