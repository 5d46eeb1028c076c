#ifndef LAUNCH_TEXT_WINDOWS_H
#define LAUNCH_TEXT_WINDOWS_H

/* How a long text is scored by a model with a short context: the text is cut into windows, the first tokens of a window are its
 * prompt, the others are scored.
 *
 *     chunked   |pppp ssssssss|pppp ssssssss|    side by side: a prompt of `prefix` tokens, which nobody scores
 *     sliding   |pppp ssssssss|                  each window moves on by `stride` tokens and scores those alone,
 *                 |pppppppp ssss|                so that every token after the first prompt is scored once
 *                     |pppppppp ssss|
 *
 * Pure functions of counts: no token is looked at. */

#include <stdint.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct WindowRule {
    uint32_t context; /* tokens of a window, with the head */
    uint32_t
        head_count; /* tokens put in front of each window (begin of text): 0 or 1; part of its prompt */
    uint32_t prefix;     /* prompt of a window; head_count < prefix < context */
    uint32_t stride;     /* 0: chunked; at most context - prefix */
    uint32_t window_max; /* 0: as many as the text gives */
} WindowRule;

typedef struct TextWindow {
    uint64_t first;        /* of the text's tokens */
    uint32_t count;        /* tokens of the text */
    uint32_t scored_count; /* the last ones, at least 1 */
    uint64_t scored_first; /* scored tokens of the windows before */
} TextWindow;

typedef struct TextWindows {
    TextWindow *items; /* owned; [count] */
    uint32_t count;
    uint64_t scored_count;
    uint64_t left_out_count; /* tokens at the end of the text that are in no window */
} TextWindows;

/* What is wrong with a rule: E-USAGE, naming the option. */
Status window_rule_check(const WindowRule *rule);

/* The rule is right. A tail that is no longer than a prompt is left out; no window at all is E-TEXT. */
Status text_windows_make(const WindowRule *rule, uint64_t token_count, TextWindows *out);
void text_windows_free(TextWindows *windows);

SPILLWAY_EXTERN_C_END

#endif
