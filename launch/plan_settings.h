#ifndef LAUNCH_PLAN_SETTINGS_H
#define LAUNCH_PLAN_SETTINGS_H

/* From options to what the planner takes. */

#include "launch/settings.h"
#include "runtime/engine/planner.h"

SPILLWAY_EXTERN_C_BEGIN

/* --placement: true for six numbers, false for "auto" or none. E-PLACEMENT. */
Status plan_settings_percent(const char *text, double out[PLAN_PART_COUNT], bool *out_given);

typedef struct PlanRanks {
    uint32_t rank_count, node_count; /* 0: one; with --machine: the file's */
    uint32_t thread_count;           /* of each rank; 0: its cores */
    bool only_kept;                  /* never measure: STATUS_NOT_FOUND, not logged */
} PlanRanks;

/* --machine, else this one. */
Status plan_settings_machine(const Settings *settings, const PlanRanks *ranks, PlanMachine *out);

/* The model's shape; on a machine of unified memory as the kernels of this CPU pack it. Also checks that the work fits its context. */
Status plan_settings_shape(const Settings *settings, const Weights *weights,
                           const PlanMachine *machine, const PlanWork *work, PlanShape *out);

/* `codecs` is room for all of them, for --any-codec. What was not given is free. */
PlanFreedom plan_settings_limits(const Settings *settings, const Codec *codecs[PLAN_CODECS_MAX]);

SPILLWAY_EXTERN_C_END

#endif
