#ifndef KERNELS_CPU_ATTENTION_TASKS_H
#define KERNELS_CPU_ATTENTION_TASKS_H

/* Partial attention of the CPU: how the work is divided, and the driver that the instruction sets share. An ISA
 * file brings the arithmetic on one block (AttendIsa) and nothing else. Internal to kernels/cpu.
 *
 * An item is one query row and one query head. A task is a slice of the items of one sequence that read the same
 * KV head: prefill has many rows in it, decode the few heads of a GQA group; the arithmetic of an item is the
 * same in both. A task folds the blocks of a group into a group state that starts empty, and the group into the
 * running state of AttendArgs. Where there are too few tasks for the threads, the groups of a task are computed
 * side by side, each in a state of its own, and folded in order afterwards: the same operations, the same bits. */

#include "kernels/attend_range.h"
#include "kernels/kernels.h"

SPILLWAY_EXTERN_C_BEGIN

enum {
    ATTEND_ITEMS = 48,     /* of a task, at most: their queries and states stay in the cache */
    ATTEND_TILE_MAX = 6,   /* items that an ISA computes together, at most */
    ATTEND_LANES_MAX = 16, /* rows of scratch are padded to a multiple of it */
};

/* Partials of the items of a task. */
typedef struct AttendState {
    float *max, *sum; /* [item] */
    float *out;       /* [item][padded_dim] */
    bool *seen;       /* [item]: some token of the group was seen */
} AttendState;

/* Of one thread. Rows of padded_dim floats; the padding of q, keys and values is zero. */
typedef struct AttendScratch {
    uint32_t padded_dim;
    uint32_t padded_tokens;
    float *q;    /* [item] */
    float *keys; /* [block_tokens]: a block of one KV head as f32; of an encoded block the scales */
    float *values;      /* [block_tokens] */
    float *scores;      /* [ATTEND_TILE_MAX][padded_tokens] */
    float *partial_out; /* [ATTEND_TILE_MAX] */
    float *coded_q;     /* [ATTEND_TILE_MAX]: queries as the codec of a block meets them */
    AttendState group;
} AttendScratch;

typedef struct AttendTask {
    const AttendRun *runs; /* of the same rows, in rising order */
    uint32_t run_count;
    uint32_t kv_head;
    const uint16_t *heads; /* [head_count] query heads that read kv_head */
    uint32_t head_count;
    uint32_t item_first; /* item i is row i / head_count and head heads[i % head_count] */
    uint32_t item_count;
} AttendTask;

typedef struct AttendIsa {
    /* Folds the partials of one block into `group`, for the items that see any of it. */
    void (*fold_block)(const AttendArgs *args, const AttendTask *task, const AttendRun *run,
                       uint32_t block, const AttendScratch *scratch, const AttendState *group);
    /* Folds the group of one item into its running state: out has head_dim numbers. */
    void (*fold_group)(float group_max, float group_sum, const float *group_out, float *max,
                       float *sum, float *out, uint32_t head_dim);
} AttendIsa;

static inline uint32_t attend_item_row(const AttendTask *task, uint32_t item) {
    return (task->item_first + item) / task->head_count;
}

static inline uint32_t attend_item_head(const AttendTask *task, uint32_t item) {
    return task->heads[(task->item_first + item) % task->head_count];
}

void attend_with(const AttendIsa *isa, const KernelContext *context, const AttendArgs *args);

SPILLWAY_EXTERN_C_END

#endif
