#ifndef RUNTIME_ENGINE_PLANNER_H
#define RUNTIME_ENGINE_PLANNER_H

/* Looks for the placement that ends a work first, and for the one nearest to a placement that does not fit. A small search of its
 * own: a grid over what comes in steps (codec, sequences at once, rows of a step, block size, share of the weights on device and
 * host), and for each point keys and values in closed form: as many as fit on the device, then on the host, the rest on
 * disk, which is best for given weights as long as upper tiers are the faster ones. More of anything therefore never makes the answer worse.
 * Pure functions; some tenths of a second for all codecs. */

#include "runtime/engine/plan_cost.h"

SPILLWAY_EXTERN_C_BEGIN

enum { PLAN_SEQUENCES_MAX = 256 }; /* that the engine runs at once */

/* What may be chosen. */
typedef struct PlanFreedom {
    const Codec *const *codecs; /* [codec_count]; NULL in it: f16 */
    uint32_t codec_count;
    int64_t residual_tokens; /* negative: each codec's own */
    uint32_t block_tokens;   /* 0: chosen */
    uint32_t sequences;      /* 0: chosen, up to PLAN_SEQUENCES_MAX */
    uint32_t rows;           /* 0: chosen */
    bool attend_host;        /* of every placement: it gives up bits, so it is never chosen */
} PlanFreedom;

typedef struct PlanChoice {
    PlanPlacement placement;
    PlanCost cost;
} PlanChoice;

/* The fastest that fits; when none does, out->cost.fits is false and its refusal says what lacks with one sequence at once and
 * everything as low as it goes. E-TOO-MANY-RANKS; E-USAGE: no codec of the limits fits the model. */
Status plan_search(const PlanShape *shape, const PlanMachine *machine, const PlanWork *work,
                   const PlanFreedom *limits, PlanChoice *out);

/* The one that fits with the least of weights and of keys and values elsewhere than `asked` has them, in steps of 5 per cent; with
 * half the sequences at once, a quarter, … when none does. out->cost.fits is false when nothing helps. */
Status plan_nearest(const PlanShape *shape, const PlanMachine *machine, const PlanWork *work,
                    const PlanPlacement *asked, PlanChoice *out);

/* Sets the shares of keys and values so that `work` gets the budgets of `kv_bytes`, which were made for another: what its
 * sequences need less of stays on the device. */
Status plan_take_budgets(const PlanShape *shape, const PlanMachine *machine, const PlanWork *work,
                         const uint64_t kv_bytes[TIER_COUNT], PlanPlacement *placement);

/* The machine with so many bytes more in a tier: of each rank's device, or of the node's host memory or disks. */
PlanMachine plan_machine_with(const PlanMachine *machine, Tier tier, double bytes);

SPILLWAY_EXTERN_C_END

#endif
