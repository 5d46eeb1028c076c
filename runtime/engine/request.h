#ifndef RUNTIME_ENGINE_REQUEST_H
#define RUNTIME_ENGINE_REQUEST_H

/* What a caller asks of the engine and what comes back: plain data. The engine copies everything in a Request at
 * submit. Events are delivered on the thread that calls engine_step; pointers inside an event live until the callback returns. */

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

enum {
    SAMPLING_LOGPROBS_MAX = 20, /* alternatives reported a token */
    REQUEST_STOPS_MAX = 16,
    REQUEST_BIASES_MAX = 1024,
};

typedef struct LogitBias {
    int32_t token;
    float bias; /* -100 … 100, added to the logit */
} LogitBias;

typedef struct SamplingOptions {
    float temperature;       /* 0: greedy */
    uint32_t top_k;          /* 0: off */
    float top_p;             /* 1: off */
    float min_p;             /* 0: off */
    float presence_penalty;  /* -2 … 2, tokens generated so far */
    float frequency_penalty; /* -2 … 2 */
    float
        repetition_penalty; /* 1: off; prompt and generated tokens, as in CTRL (arXiv 1909.05858) */
    uint64_t seed;          /* draws are a function of (seed, index of the generated token) only */
    const LogitBias *biases;
    uint32_t bias_count;
    bool want_logprobs;
    uint32_t top_logprobs; /* alternatives beside the chosen token, at most SAMPLING_LOGPROBS_MAX */
} SamplingOptions;

/* temperature 1, everything else off */
extern const SamplingOptions sampling_defaults;

/* E-REQUEST naming the field that is out of range. Everyone who fills options from outside calls it; the sampler
 * trusts what it gets. */
Status sampling_options_check(const SamplingOptions *options, uint32_t vocab_count);

typedef struct TokenLogprob {
    int32_t token;
    float logprob; /* natural, of the distribution before temperature and truncation */
} TokenLogprob;

typedef struct TokenEvent {
    uint64_t request_id;
    uint32_t index; /* 0 for the first generated token */
    int32_t token;
    const char *
        text; /* whole characters that became certain with this token; may be empty (held back for UTF-8 or a stop string) */
    size_t text_bytes;
    float logprob;           /* valid when want_logprobs, and of a forced token */
    const TokenLogprob *top; /* [top_count], best first */
    uint32_t top_count;
} TokenEvent;

typedef enum FinishReason {
    FINISH_STOP,      /* end of text, a stop token or a stop string */
    FINISH_LENGTH,    /* max_tokens or the context is full */
    FINISH_CANCELLED, /* engine_cancel, or the engine stops */
    FINISH_ERROR,     /* error_code and error_text say why */
} FinishReason;

const char *finish_reason_name(FinishReason reason); /* "stop", "length", "cancelled", "error" */

typedef struct FinishEvent {
    uint64_t request_id;
    FinishReason reason;
    const char *text; /* rest of the held back text */
    size_t text_bytes;
    const int32_t *tokens; /* all generated tokens, in order */
    uint32_t token_count;
    uint32_t prompt_count;
    ErrorCode error; /* FINISH_ERROR */
    const char *error_text;
    double seconds_queued, seconds_to_first_token, seconds_total;
} FinishEvent;

/* Logits of one position, for `logits` and evaluations. [vocab_count] */
typedef struct LogitsEvent {
    uint64_t request_id;
    uint32_t position;
    const float *logits;
    uint32_t vocab_count;
} LogitsEvent;

typedef struct RequestSink {
    void *user;
    void (*on_token)(void *user, const TokenEvent *event);   /* optional */
    void (*on_finish)(void *user, const FinishEvent *event); /* exactly once a submitted request */
    /* optional; when set, every prompt position reports, rising; with generated_logits those positions instead that
     * generated tokens are taken from */
    void (*on_logits)(void *user, const LogitsEvent *event);
} RequestSink;

typedef struct Request {
    uint64_t id; /* the caller's; unique among requests in the engine */
    const int32_t *prompt;
    uint32_t prompt_count; /* at least 1 */
    uint32_t max_tokens;   /* 0: only the prompt is run (logits) */
    uint32_t min_tokens;   /* end of text and stops are ignored before */
    /* Teacher forcing: generated token i is forced[i] as long as there is one, and its log-probability is reported; ends
     * and stops apply to it as to a sampled one. */
    const int32_t *forced;
    uint32_t forced_count;
    bool generated_logits; /* of which positions on_logits hears */
    bool ignore_eos;
    bool keep_special; /* text shows special tokens */
    /* Benchmarks: all of the prompt but its last token counts as cached, with pseudo-random K and V that depend on `id` and
     * place alone. Nothing is learnt from what it generates. Its prompt reports no logits. */
    bool synthetic_context;
    const int32_t *stop_tokens;
    uint32_t stop_token_count;
    const char *const
        *stops; /* NUL ended strings; text before the first match is kept, the match is not */
    uint32_t stop_count;
    SamplingOptions sampling;
    RequestSink sink;
} Request;

/* Whether on_logits hears of every prompt position. */
bool request_reports_prompt(const Request *request);

SPILLWAY_EXTERN_C_END

#endif
