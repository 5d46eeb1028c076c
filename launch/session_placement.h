#ifndef LAUNCH_SESSION_PLACEMENT_H
#define LAUNCH_SESSION_PLACEMENT_H

/* --placement on commands with an engine: percentages, given or chosen by the planner, become budgets, and what was predicted is kept
 * for the summary. Numbers that are given need no measurement of the machine; a prediction comes with them where one was
 * made before. */

#include "launch/session.h"

SPILLWAY_EXTERN_C_BEGIN

/* Sets the budgets of `options`, and how many sequences run at once where that is free; nothing without --placement. Collective.
 * E-PLACEMENT: no such placement, or it does not fit; E-USAGE: budgets were given, too, or no folder for what lies on disk. */
Status session_placement_choose(Session *session, uint32_t prompt_tokens, EngineOptions *options);

/* What would have been predicted for the requests that really came, with the same budgets. Rank 0, after a plan that predicts. */
PlanChoice session_placement_hindsight(const Session *session, const EngineStats *stats);

SPILLWAY_EXTERN_C_END

#endif
