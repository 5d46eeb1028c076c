#ifndef LAUNCH_PROGRESS_H
#define LAUNCH_PROGRESS_H

/* How far a batch job is: one line that is rewritten 4 times a second on a terminal, a plain line every 30 s elsewhere
 * (job logs), nothing when told so. The time left comes from tokens, not lines. One thread. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tiers/tier_manager.h"

SPILLWAY_EXTERN_C_BEGIN

typedef enum ProgressStyle { PROGRESS_NONE, PROGRESS_TERMINAL, PROGRESS_PLAIN } ProgressStyle;

typedef struct ProgressState {
    uint64_t lines_done, lines_total;         /* done: with earlier runs */
    uint64_t lines_now;                       /* done in this run */
    uint64_t bytes_read, bytes_total;         /* of the input, what this run submitted and has to */
    uint64_t prompt_tokens, generated_tokens; /* of this run */
    uint32_t running;
    double kv_shares[TIER_COUNT]; /* in use; negative: no such tier */
    bool spills;
    double hit_share, stall_share; /* shown when KV spills or weights stream */
} ProgressState;

typedef struct Progress {
    ProgressStyle style;
    int descriptor;
    double started_s, shown_s;
    double window_s; /* start of the window that the rates are taken over */
    uint64_t window_prompt, window_generated;
    double prompt_rate, generated_rate;
    size_t shown_bytes; /* length of the line on the terminal */
} Progress;

/* name: "auto", "terminal", "plain" or "none". */
ProgressStyle progress_style(const char *name, int descriptor);

void progress_begin(Progress *progress, ProgressStyle style, int descriptor, double now_s);
/* Cheap when nothing is due. */
void progress_tick(Progress *progress, const ProgressState *state, double now_s);
/* The last line, always shown unless the style is none. */
void progress_end(Progress *progress, const ProgressState *state, double now_s);

/* The line itself, for tests. */
void progress_format(const Progress *progress, const ProgressState *state, double now_s, char *out,
                     size_t out_bytes);

SPILLWAY_EXTERN_C_END

#endif
