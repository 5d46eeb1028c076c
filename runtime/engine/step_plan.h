#ifndef RUNTIME_ENGINE_STEP_PLAN_H
#define RUNTIME_ENGINE_STEP_PLAN_H

/* What rank 0 tells the others before a step: slots to close and open, and which tokens run. Small, length-prefixed,
 * checked on arrival like a file, with a digest of its bytes and of everything planned before, so that ranks that drifted
 * apart notice at once. Plain data; the arrays of a received plan point into the message. */

#include <stdint.h>

#include "runtime/comm/comm.h"

SPILLWAY_EXTERN_C_BEGIN

typedef enum StepKind { STEP_RUN, STEP_STOP } StepKind;

typedef struct PlanOpen {
    uint32_t slot, token_capacity;
    uint64_t sequence_id;
} PlanOpen;

typedef struct PlanSequence {
    uint32_t slot, token_count;
    uint32_t position_first; /* tokens cached before: each rank checks it against its cache */
    uint32_t logit_count;    /* logits of the last logit_count rows are wanted */
} PlanSequence;

typedef struct StepPlan {
    StepKind kind;
    uint64_t step;
    uint64_t digest; /* chained over all plans so far */
    uint32_t close_count, open_count, sequence_count, token_count;
    uint32_t *closes;        /* [close_count] slots, before the opens */
    PlanOpen *opens;         /* [open_count] */
    PlanSequence *sequences; /* [sequence_count], rows in this order */
    int32_t *tokens;         /* [token_count] */
} StepPlan;

typedef struct PlanLimits {
    uint32_t slot_count, token_budget;
} PlanLimits;

/* One rank's message buffer and digest chain. */
typedef struct PlanChannel {
    Comm *comm; /* borrowed */
    PlanLimits limits;
    uint8_t *bytes; /* owned: room for the largest plan */
    uint64_t capacity;
    uint64_t digest;
    uint64_t step;
} PlanChannel;

Status plan_channel_create(PlanChannel *out, Comm *comm, const PlanLimits *limits);
void plan_channel_destroy(PlanChannel *channel);

/* Rank 0: points the arrays of *plan into the message, with room for the limits, counts zero. */
void plan_begin(PlanChannel *channel, StepKind kind, StepPlan *plan);
/* Rank 0: counts are set; packs, digests, broadcasts. */
Status plan_send(PlanChannel *channel, StepPlan *plan);
/* Other ranks. E-RANK-MISMATCH when digest, step or any count is not what this rank expects. */
Status plan_receive(PlanChannel *channel, StepPlan *out);

SPILLWAY_EXTERN_C_END

#endif
