#ifndef LAUNCH_SUMMARY_H
#define LAUNCH_SUMMARY_H

/* What a run did: the lines at its end for people, and --summary-json for programs. Counters are sums over ranks. */

#include <stdint.h>
#include <stdio.h>

#include "runtime/engine/engine.h"
#include "runtime/engine/planner.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct Summary {
    const EngineStats *stats; /* after engine_stop */
    uint64_t lines_ok, lines_failed, lines_skipped;
    double seconds_total, seconds_load;
    uint64_t
        decode_tokens; /* generated in steps without prompt rows: what the decode rate counts */
    const PlanChoice *plan;      /* what was predicted; NULL: nothing */
    const PlanChoice *hindsight; /* the same for the requests that came */
} Summary;

/* E-OUTPUT-CREATE, E-OUTPUT-WRITE. */
Status summary_write_json(const Summary *summary, const char *path);
void summary_print(const Summary *summary, FILE *out);

/* 0 when nothing was measured. */
double
summary_prefill_rate(const Summary *summary); /* prompt tokens a second of steps with prompt rows */
double summary_decode_rate(const Summary *summary); /* tokens a second of pure decode steps */

SPILLWAY_EXTERN_C_END

#endif
