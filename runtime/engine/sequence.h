#ifndef RUNTIME_ENGINE_SEQUENCE_H
#define RUNTIME_ENGINE_SEQUENCE_H

/* One request on its way through the engine: its copy, its tokens, its text so far. Rank 0 only, one thread. */

#include "runtime/engine/sampler.h"
#include "runtime/engine/stop_match.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct Sequence {
    bool live;
    Request request; /* owned deep copy */
    int32_t *tokens; /* owned: prompt, then generated; room for token_capacity */
    uint32_t token_count, token_capacity;
    uint32_t
        logits_reported; /* positions before this one were handed to on_logits, or not asked for */
    bool opened;         /* has a KV slot on all ranks */
    bool cancelled;
    bool parked; /* the ranks know that it pauses */
    TokenStream stream;
    StopMatch stop_match;
    bool text_closed;                                /* a stop string was found: no more text */
    TextBuffer piece, text;                          /* scratch of one token */
    double submitted_at, started_at, first_token_at; /* monotonic seconds; 0: not yet */
} Sequence;

/* Copies the request. token_capacity: prompt + max_tokens. */
Status sequence_begin(Sequence *sequence, const Request *request, const Tokenizer *tokenizer);
void sequence_end(Sequence *sequence);

uint32_t sequence_generated_count(const Sequence *sequence);

/* Takes a sampled token: reports it to the sink. *out_finished with the reason when the sequence is complete; the finish
 * itself is reported by sequence_finish. */
Status sequence_accept(Sequence *sequence, const Tokenizer *tokenizer, const SamplerOutput *sampled,
                       bool *out_finished, FinishReason *out_reason);

/* Reports the finish. error: ERROR_COUNT when there is none. */
void sequence_finish(Sequence *sequence, FinishReason reason, ErrorCode error,
                     const char *error_text);

SPILLWAY_EXTERN_C_END

#endif
