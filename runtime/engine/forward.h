#ifndef RUNTIME_ENGINE_FORWARD_H
#define RUNTIME_ENGINE_FORWARD_H

/* The layer loop. A batch goes in, logits of the wanted rows come out on rank 0, a bounded number of rows at a time. */

#include "runtime/engine/pass.h"

SPILLWAY_EXTERN_C_BEGIN

/* Runs embedding and all layers; pass->x then holds the final residual stream. Collective. */
Status forward_layers(Pass *pass);

/* One layer, once its weights are at hand; they stay for a next call with the same layer. */
Status forward_layer(Pass *pass, uint32_t layer);

/* Logits of batch->logit_rows [first, first + count), count at most the head rows of the pass. Rank 0 gets
 * *out_logits [count][vocab], valid until the next call; others get NULL. Collective. */
typedef struct LogitsGather {
    const RankShare *shares; /* [ranks] */
    float *parts;         /* rank 0 of several: [head rows][vocab], the ranks' parts side by side */
    float *rows;          /* rank 0 of several: [head rows][vocab] */
    uint64_t *part_bytes; /* [ranks] scratch */
} LogitsGather;

Status forward_logits(Pass *pass, const LogitsGather *gather, uint32_t first, uint32_t count,
                      const float **out_logits);

SPILLWAY_EXTERN_C_END

#endif
