#ifndef LAUNCH_PLAN_REPORT_H
#define LAUNCH_PLAN_REPORT_H

/* A plan as lines for people and as JSON for programs, which say the same. */

#include <stdio.h>

#include <jansson.h>

#include "runtime/engine/planner.h"

SPILLWAY_EXTERN_C_BEGIN

/* What one more GiB of a tier would do. */
typedef struct PlanGain {
    bool there; /* the tier can be had */
    double decode_rate, total_rate;
} PlanGain;

typedef struct PlanReport {
    const char *model;
    const PlanShape *shape;
    const PlanMachine *machine;
    const PlanWork *work;
    const PlanChoice *choice;
    const PlanChoice *nearest; /* NULL: not looked for */
    const PlanGain *gains;     /* [TIER_COUNT]; NULL: not looked for */
    const PlanChoice *in_host; /* the same with --attend host; NULL: it would not be faster */
    const PlanChoice *others;  /* [other_count]: the best with each codec that might be chosen */
    uint32_t other_count;
} PlanReport;

json_t *plan_report_json(const PlanReport *report); /* NULL when there is no memory for it */
void plan_report_print(const PlanReport *report, FILE *out);

/* "100,0,25.5,0,100,0" */
void plan_placement_text(const PlanPlacement *placement, char *out, size_t out_bytes);

/* For the summary of a run: {"placement", "decode_tokens_per_second", …}. */
json_t *plan_choice_json(const PlanChoice *choice);

SPILLWAY_EXTERN_C_END

#endif
