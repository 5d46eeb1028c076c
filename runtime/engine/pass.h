#ifndef RUNTIME_ENGINE_PASS_H
#define RUNTIME_ENGINE_PASS_H

/* One forward pass of one rank: what a family's functions read and write. Activations are f32, row-major, in device memory, and
 * belong to the engine's arena; a family may use every buffer as scratch, but x is the residual stream between layers. */

#include "kernels/kernels.h"
#include "runtime/comm/comm_device.h"
#include "runtime/engine/batch.h"
#include "runtime/engine/host_attend.h"
#include "runtime/engine/kv_cache.h"
#include "runtime/models/model.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct PassTimes {
    double matmul, attention, collective; /* seconds */
} PassTimes;

typedef struct Pass {
    const Model *model;
    const Kernels *kernels;
    const KernelContext *context;
    Comm *comm;
    const CommDevice *reduce; /* sums activations over the ranks of comm */
    KvCache *cache;
    HostAttend *host_attend; /* NULL: all blocks are attended on the device */
    const Batch *batch;

    float *x;             /* [rows][hidden] residual stream */
    float *normed;        /* [rows][max(hidden, embedding)] input of a projection */
    float *sum;           /* [rows][max(hidden, embedding)] output of a row-parallel projection */
    float *q;             /* [rows][heads * head_dim] this rank's */
    float *k, *v;         /* [rows][kv_heads * head_dim] */
    float *attention;     /* [rows][heads * head_dim] */
    float *maxima, *sums; /* [rows][heads] attention state */
    float *gate, *up;     /* [rows][mlp columns] */
    float *logits;        /* [logit rows of one head call][vocabulary rows of this rank] */
    float *host_logits;   /* the same where the host can read them: logits itself, or pinned */

    /* Rows of the batch that the head works on now: logit_rows[head_first .. head_first + head_count) */
    uint32_t head_first, head_count;
    PassTimes *times;

    /* Called once a layer: a step may take longer than a rank may be silent. Optional. */
    void (*progress)(void *user);
    void *progress_user;
} Pass;

/* Floats of activation memory for rows and head_rows rows; pass_bind cuts `memory` into the buffers. */
uint64_t pass_float_count(const Model *model, uint32_t rows, uint32_t head_rows);
void pass_bind(Pass *pass, float *memory, uint32_t rows, uint32_t head_rows);

SPILLWAY_EXTERN_C_END

#endif
