#ifndef RUNTIME_ENGINE_PLAN_LOAD_H
#define RUNTIME_ENGINE_PLAN_LOAD_H

/* What the parts of plan_cost share: a work at a placement, in slots and bytes of the busiest rank (plan_load.c), and what a step of
 * it takes (plan_step.c). Private to them. */

#include "runtime/engine/plan_cost.h"
#include "runtime/weights/device_frames.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct PlanLoad {
    const PlanShape *shape;
    const PlanMachine *machine;
    const PlanWork *work;
    const PlanPlacement *placement;
    PlanShare share;
    KvLayout layout;
    KvBudgetInput input;
    KvBudget budget;
    double weight_bytes; /* of a layer on this rank */
    double home;         /* slots of the device that hold what stays */
    double node_ranks;
} PlanLoad;

static inline double plan_larger(double a, double b) {
    return a > b ? a : b;
}

static inline double plan_smaller(double a, double b) {
    return a < b ? a : b;
}

/* ---- plan_load.c ---- */

/* Fills the load and the budgets of `out`. */
Status plan_load_set_up(PlanLoad *load, PlanCost *out);
void plan_add_needs(const PlanLoad *load, PlanCost *out);
bool plan_check_fit(const PlanLoad *load, PlanCost *out); /* sets the refusal */

double plan_disk_percent(const PlanPlacement *placement, PlanPart device);
bool plan_cache_spills(const PlanPlacement *placement);
uint32_t plan_rows_of(const PlanPlacement *placement); /* of a step, at most */
/* Slots of `sequences` at their longest, as admission promises them. */
double plan_cache_slots(const PlanLoad *load);
/* Where KV spills, a longer prompt than a step runs layer by layer. */
bool plan_runs_by_layer(const PlanLoad *load);
/* Weights that are not on the device, of one layer: PLAN_WEIGHTS_HOST, else those on disk. */
double plan_streamed_bytes(const PlanLoad *load, PlanPart from);

double plan_staging_least(const PlanLoad *load); /* slots */
void plan_set_home(PlanLoad *load, double staging_slots);

/* ---- plan_step.c; steps are zeros before ---- */

void plan_decode_step(const PlanLoad *load, PlanStep *step);
/* Slots that the engine gives to staging while it runs such steps. */
double plan_staging_of(const PlanLoad *load, const PlanStep *step);
double plan_rows_of_pass(const PlanLoad *load); /* that one pass over the layers works on */
void plan_prompt_pass(const PlanLoad *load, double rows, PlanStep *step);

/* Layers that come by and are where they are computed, at once: the frames of a WeightStream, or those of a device with its own memory. */
double plan_layers_staged(const PlanLoad *load);

SPILLWAY_EXTERN_C_END

#endif
