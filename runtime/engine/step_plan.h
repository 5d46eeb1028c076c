#ifndef RUNTIME_ENGINE_STEP_PLAN_H
#define RUNTIME_ENGINE_STEP_PLAN_H

/* What rank 0 tells the others before a step: slots to close, open and park, which tokens run through all layers, and which
 * units of a layer-major prefill run behind them. Small, length-prefixed,
 * checked on arrival like a file, with a digest of its bytes and of everything planned before, so that ranks that drifted
 * apart notice at once. Plain data; the arrays of a received plan point into the message. */

#include <stdint.h>

#include "runtime/comm/comm.h"

SPILLWAY_EXTERN_C_BEGIN

typedef enum StepKind { STEP_RUN, STEP_STOP } StepKind;

typedef struct PlanOpen {
    uint32_t slot, prompt_count, token_capacity;
    uint32_t synthetic_count; /* tokens that are cached at once, without being computed */
    uint64_t sequence_id;
} PlanOpen;

typedef struct PlanSequence {
    uint32_t slot, token_count;
    uint32_t position_first; /* tokens cached before: each rank checks it against its cache */
    uint32_t logit_count;    /* logits of the last logit_count rows are wanted */
} PlanSequence;

/* One layer of a few tokens of the prompt that runs layer by layer. */
typedef struct PlanUnit {
    uint32_t layer, position_first, token_count;
} PlanUnit;

typedef struct PlanPrefill {
    uint32_t slot;
    uint32_t cached_count;             /* tokens that count as cached after the units; 0: not yet */
    uint32_t logit_first, logit_count; /* positions whose logits are wanted after the units */
} PlanPrefill;

typedef struct StepPlan {
    StepKind kind;
    uint64_t step;
    uint64_t digest; /* chained over all plans so far */
    uint32_t close_count, open_count, park_count, sequence_count, unit_count, token_count;
    uint32_t *closes;        /* [close_count] slots, before the opens */
    PlanOpen *opens;         /* [open_count] */
    uint32_t *parks;         /* [park_count] slots that pause */
    PlanSequence *sequences; /* [sequence_count], rows in this order */
    PlanPrefill prefill;     /* when there are units */
    PlanUnit *units;         /* [unit_count] in order */
    int32_t *tokens;         /* [token_count] of the sequences, then of the units of layer 0 */
} StepPlan;

enum { PLAN_UNITS_MAX = 64 };

typedef struct PlanLimits {
    uint32_t slot_count, token_budget;
    uint32_t layer_count;
    uint32_t prefill_tokens; /* longest prompt that runs layer by layer; 0: none does */
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
