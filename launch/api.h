#ifndef LAUNCH_API_H
#define LAUNCH_API_H

/* OpenAI-shaped JSON to requests of the engine and back: what the batch files and the HTTP server share. Strict: a
 * field that is not known, not supported or out of range refuses the request and is named; nothing is guessed.
 *
 * A refusal is the answer to one request, so it goes into an ApiError with STATUS_BAD_INPUT and is not logged; what the
 * machine cannot do (no memory) is raised as everywhere. One thread. */

#include "runtime/engine/request.h"
#include "runtime/text/chat_template.h"
#include "runtime/text/tokenizer.h"

struct json_t;

SPILLWAY_EXTERN_C_BEGIN

enum {
    API_LINE_BYTES_MAX = 8 << 20, /* of one JSON text */
    API_DEPTH_MAX = 64,
    API_CHOICES_MAX = 128,   /* n */
    API_SEQUENCES_MAX = 256, /* n × prompts of a request */
};

typedef enum ApiEndpoint { API_COMPLETIONS, API_CHAT, API_ENDPOINT_COUNT } ApiEndpoint;

const char *api_endpoint_url(ApiEndpoint endpoint); /* "/v1/chat/completions" */

typedef struct ApiError {
    char code[40];  /* "invalid_value", "unsupported_parameter", "context_length_exceeded", … */
    char param[72]; /* the field; "" when none is to blame */
    char message[512]; /* what is wrong and what is allowed */
} ApiError;

/* Fills *error and returns STATUS_BAD_INPUT. */
Status api_refuse(ApiError *error, const char *code, const char *param, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

typedef struct ApiDefaults {
    SamplingOptions sampling;
    uint32_t max_tokens; /* of a request that does not say; shortened to what the context leaves */
    const char *const *stops;
    uint32_t stop_count;
    bool ignore_eos;
    const char *served_model_name; /* the only name that "model" may give; NULL: any */
} ApiDefaults;

typedef struct ApiPrompt {
    const char *text; /* borrowed from the body; NULL when ids were given */
    size_t text_bytes;
    TokenList tokens; /* owned; filled by the reader (ids) or by api_tokenize */
} ApiPrompt;

typedef struct ApiRequest {
    ApiEndpoint endpoint;
    struct json_t *body;   /* one reference is owned: texts below point into it */
    ChatMessage *messages; /* [message_count] owned; API_CHAT */
    size_t message_count;
    ApiPrompt *prompts;  /* [prompt_count] owned; one for API_CHAT */
    size_t prompt_count; /* at least 1 */
    uint32_t choice_count;
    bool has_max_tokens, has_seed, add_generation_prompt, skip_special_tokens, return_token_ids;
    uint32_t max_tokens;
    int64_t seed;
    const char **stops;   /* owned array */
    int32_t *stop_tokens; /* owned */
    LogitBias *biases;    /* owned */
    Request request;      /* what all sequences share; id, prompt and sink are not set */
} ApiRequest;

/* Strict JSON (UTF-8, no duplicate keys, depth, length) to a value; *out is a new reference. */
Status api_parse_json(const char *text, size_t text_bytes, struct json_t **out, ApiError *error);

/* body: the JSON object of a request; a reference is taken. Free with api_request_free, also after a refusal. */
Status api_request_read(ApiRequest *out, ApiEndpoint endpoint, struct json_t *body,
                        const ApiDefaults *defaults, ApiError *error);
void api_request_free(ApiRequest *request); /* takes a zeroed request */

/* Fills prompts[].tokens and checks them against the context. chat: the model's template, NULL when it has none that is
 * known (then API_CHAT is refused). */
Status api_request_tokenize(ApiRequest *request, const Tokenizer *tokenizer,
                            const ChatTemplate *chat, uint32_t max_model_len, ApiError *error);

/* Sequences of the request: prompt_count × choice_count, the choices of a prompt side by side. */
static inline uint32_t api_sequence_count(const ApiRequest *request) {
    return (uint32_t)request->prompt_count * request->choice_count;
}

/* The engine's request for sequence `index`; the caller sets id and sink. base_seed: used when the request gives no seed. */
void api_sequence(const ApiRequest *request, uint32_t index, uint64_t base_seed, Request *out);

/* What a sequence has said so far. */
typedef struct ApiChoice {
    TextBuffer text;
    size_t text_characters;
    TokenList tokens;
    struct json_t *logprobs; /* as the endpoint reports them; NULL when not wanted */
    FinishReason reason;
    bool finished;
} ApiChoice;

typedef struct ApiAnswer {
    const ApiRequest *request; /* borrowed */
    const Tokenizer *tokenizer;
    ApiChoice *choices; /* [count] owned */
    uint32_t count, finished_count;
    ApiError
        error; /* code is not empty when a sequence ended with FINISH_ERROR: the request failed */
    bool cancelled; /* a sequence was cancelled */
} ApiAnswer;

Status api_answer_create(ApiAnswer *out, const ApiRequest *request, const Tokenizer *tokenizer);
void api_answer_free(ApiAnswer *answer); /* takes a zeroed answer */
/* Events of sequence `index`. */
Status api_answer_token(ApiAnswer *answer, uint32_t index, const TokenEvent *event);
Status api_answer_finish(ApiAnswer *answer, uint32_t index, const FinishEvent *event);

typedef struct ApiIdentity {
    const char *id;    /* without prefix: "3f2a…" */
    const char *model; /* as the request named it, else the served name */
    const char *system_fingerprint;
    int64_t created; /* Unix seconds */
} ApiIdentity;

/* The body of the response; a new reference. All sequences have finished without error. NULL: out of memory. */
struct json_t *api_answer_body(const ApiAnswer *answer, const ApiIdentity *identity);

SPILLWAY_EXTERN_C_END

#endif
