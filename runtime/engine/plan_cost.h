#ifndef RUNTIME_ENGINE_PLAN_COST_H
#define RUNTIME_ENGINE_PLAN_COST_H

/* What a placement costs: bytes that each tier must hold, bytes that move in a step, seconds of a decode step and of the prompts. A
 * step runs layer by layer. While one computes, its successors' weights and blocks are on their way, so a layer takes the
 * longest of its activities:
 *
 *     layer = max(compute, disk, to the device, from the device, memory copies, cores)      step = layers + head + sampling
 *
 * Where staging is too small for what could be read while a layer computes, the rest of that time is added to what is read.
 * Decode is reckoned for the middle of the answer. Sizes are those of the engine itself (kv_layout, kv_budget), so bytes a step are what
 * it moves. FlexGen's cost model (arXiv 2303.06865, and its code) is the pattern; it lets weights wait for the rest, and attends on the
 * host. Pure functions; figures are those of the busiest rank. */

#include "runtime/engine/kv_budget.h"
#include "runtime/engine/plan_machine.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct PlanWork {
    uint32_t batch; /* requests */
    uint32_t prompt_tokens, output_tokens;
} PlanWork;

/* FlexGen's six, in its order: per cent on the device and on the host; the rest lies on disk. */
typedef enum PlanPart {
    PLAN_WEIGHTS_DEVICE,
    PLAN_WEIGHTS_HOST,
    PLAN_CACHE_DEVICE,
    PLAN_CACHE_HOST,
    PLAN_ACTIVATIONS_DEVICE,
    PLAN_ACTIVATIONS_HOST,
    PLAN_PART_COUNT,
} PlanPart;

typedef struct PlanPlacement {
    double percent[PLAN_PART_COUNT];
    const Codec *codec;      /* NULL: f16 */
    int64_t residual_tokens; /* negative: the codec's own */
    uint32_t block_tokens;   /* 0: auto */
    uint32_t sequences;      /* at once; the batch comes in turns of so many */
    uint32_t rows;           /* of a step that works on prompts: --max-num-batched-tokens */
    bool attend_host; /* decode attends in host memory what lies there, unless memory is unified */
} PlanPlacement;

typedef enum PlanActivity {
    PLAN_COMPUTE,
    PLAN_DISK,
    PLAN_TO_DEVICE,
    PLAN_FROM_DEVICE,
    PLAN_COPY,  /* between parts of one memory */
    PLAN_CORES, /* kernels and I/O on the same ones */
    PLAN_ACTIVITY_COUNT,
} PlanActivity;

const char *plan_activity_name(PlanActivity activity); /* "disk" */

/* A step, or a pass over prompts. */
typedef struct PlanStep {
    double seconds;
    double activity[PLAN_ACTIVITY_COUNT]; /* seconds of all layers, each as if it were alone */
    double matmul, attention, rows, collective; /* parts of compute */
    double head, sampling;                      /* after the layers */
    double weights_read[TIER_COUNT];            /* bytes, from this tier; device: what stays */
    double kv_read[TIER_COUNT], kv_written[TIER_COUNT];
    double kv_in_host; /* bytes that are attended in host memory and not read from it */
} PlanStep;

typedef struct PlanNeed {
    double weights, cache, staging, activations, other; /* bytes of a rank */
    double total, capacity;                             /* capacity: what a rank may take */
} PlanNeed;

typedef struct PlanCost {
    bool fits;
    char refusal[240]; /* what does not fit */
    PlanNeed needs[TIER_COUNT];
    uint64_t kv_bytes[TIER_COUNT], weight_bytes[TIER_COUNT]; /* budgets of a rank for the engine */
    double
        cache_bytes; /* of keys and values in slots, wherever they lie, without what the device needs besides */
    uint32_t block_tokens;
    double slot_bytes, kv_token_bytes; /* a token in all layers and ranks, as stored when cold */
    PlanStep decode, prompt;           /* prompt: one pass of `pass_rows` rows */
    double pass_rows, passes;          /* prompts of one turn; the last pass may be a part */
    double turns;
    double decode_rate, prompt_rate, total_rate; /* tokens a second; total: answers over all time */
    double seconds;                              /* of the whole work */
    PlanActivity bottleneck;                     /* of decode */
} PlanCost;

/* "attention" or "matmul" where compute is what takes longest. */
const char *plan_bottleneck_name(const PlanCost *cost);

/* E-TOO-MANY-RANKS, E-USAGE: a codec that does not fit the model's heads. A placement that does not fit is no error. */
Status plan_cost(const PlanShape *shape, const PlanMachine *machine, const PlanWork *work,
                 const PlanPlacement *placement, PlanCost *out);

SPILLWAY_EXTERN_C_END

#endif
