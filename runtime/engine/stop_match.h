#ifndef RUNTIME_ENGINE_STOP_MATCH_H
#define RUNTIME_ENGINE_STOP_MATCH_H

/* Stop strings over streamed text. Text that might be the beginning of a stop string is held back until it is certain.
 * What comes out, joined, is the text before the first match (or all of it). One sequence, one thread. */

#include "runtime/text/tokenizer.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct StopMatch {
    const char *const *stops; /* borrowed, [stop_count] */
    uint32_t stop_count;
    TextBuffer held; /* owned */
} StopMatch;

void stop_match_begin(StopMatch *match, const char *const *stops, uint32_t stop_count);
void stop_match_end(StopMatch *match);

/* Adds text, appends to *out what is certain. *out_matched: a stop string is complete; nothing after it comes out. */
Status stop_match_push(StopMatch *match, const char *text, size_t bytes, TextBuffer *out,
                       bool *out_matched);

/* The sequence ended without a match: appends what was held. */
Status stop_match_flush(StopMatch *match, TextBuffer *out);

SPILLWAY_EXTERN_C_END

#endif
