#include "runtime/engine/sequence.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/base/monotonic.h"

static Status copy_array(const void *source, uint64_t count, uint64_t element_bytes, void **out) {
    *out = NULL;
    if (count == 0) return STATUS_OK;
    TRY(memory_take(out, count, element_bytes, "request"));
    memcpy(*out, source, count * element_bytes);
    return STATUS_OK;
}

static Status copy_stops(const Request *request, const char *const **out) {
    *out = NULL;
    if (request->stop_count == 0) return STATUS_OK;
    void *memory;
    TRY(memory_take(&memory, request->stop_count, sizeof(char *), "stop strings"));
    char **stops = memory;
    *out = (const char *const *)stops;
    for (uint32_t i = 0; i < request->stop_count; i++) {
        void *text;
        TRY(copy_array(request->stops[i], strlen(request->stops[i]) + 1, 1, &text));
        stops[i] = text;
    }
    return STATUS_OK;
}

static Status copy_request(Sequence *sequence, const Request *request) {
    Request *copy = &sequence->request;
    *copy = *request;
    copy->prompt = NULL;
    copy->stops = NULL;
    copy->stop_tokens = NULL;
    copy->forced = NULL;
    copy->sampling.biases = NULL;
    void *memory;
    TRY(copy_array(request->stop_tokens, request->stop_token_count, sizeof(int32_t), &memory));
    copy->stop_tokens = memory;
    TRY(copy_array(request->forced, request->forced_count, sizeof(int32_t), &memory));
    copy->forced = memory;
    TRY(copy_array(request->sampling.biases, request->sampling.bias_count, sizeof(LogitBias),
                   &memory));
    copy->sampling.biases = memory;
    TRY(copy_stops(request, &copy->stops));
    TRY(memory_take((void **)&sequence->tokens,
                    (uint64_t)request->prompt_count + request->max_tokens, sizeof(int32_t),
                    "tokens of a request"));
    memcpy(sequence->tokens, request->prompt, request->prompt_count * sizeof(int32_t));
    copy->prompt = sequence->tokens;
    return STATUS_OK;
}

Status sequence_begin(Sequence *sequence, const Request *request, const Tokenizer *tokenizer) {
    *sequence =
        (Sequence){.live = true,
                   .token_count = request->prompt_count,
                   .token_capacity = request->prompt_count + request->max_tokens,
                   .logits_reported = request->generated_logits ? request->prompt_count - 1 : 0,
                   .submitted_at = monotonic_seconds()};
    Status status = copy_request(sequence, request);
    if (status != STATUS_OK) {
        sequence_end(sequence);
        return status;
    }
    if (tokenizer) token_stream_begin(&sequence->stream, tokenizer, !request->keep_special);
    stop_match_begin(&sequence->stop_match, sequence->request.stops, request->stop_count);
    return STATUS_OK;
}

void sequence_end(Sequence *sequence) {
    for (uint32_t i = 0; sequence->request.stops && i < sequence->request.stop_count; i++)
        free((void *)sequence->request.stops[i]);
    free((void *)sequence->request.stops);
    free((void *)sequence->request.stop_tokens);
    free((void *)sequence->request.forced);
    free((void *)sequence->request.sampling.biases);
    free(sequence->tokens);
    stop_match_end(&sequence->stop_match);
    text_buffer_free(&sequence->piece);
    text_buffer_free(&sequence->text);
    *sequence = (Sequence){0};
}

uint32_t sequence_generated_count(const Sequence *sequence) {
    return sequence->token_count - sequence->request.prompt_count;
}

static bool listed(const int32_t *tokens, uint32_t count, int32_t token) {
    for (uint32_t i = 0; i < count; i++)
        if (tokens[i] == token) return true;
    return false;
}

static bool ends_sequence(const Sequence *sequence, const Tokenizer *tokenizer, int32_t token) {
    const Request *request = &sequence->request;
    if (sequence_generated_count(sequence) < request->min_tokens) return false;
    if (listed(request->stop_tokens, request->stop_token_count, token)) return true;
    uint32_t eos_count = 0;
    const int32_t *eos = tokenizer ? tokenizer_eos(tokenizer, &eos_count) : NULL;
    return !request->ignore_eos && listed(eos, eos_count, token);
}

/* Text of the token that became certain → sequence->text. */
static Status add_text(Sequence *sequence, const Tokenizer *tokenizer, int32_t token,
                       bool *out_matched) {
    *out_matched = false;
    sequence->piece.bytes = 0;
    sequence->text.bytes = 0;
    /* an embedding table may be padded beyond the vocabulary: such an id has no text */
    if (!tokenizer || (uint32_t)token >= tokenizer_vocab_count(tokenizer)) return STATUS_OK;
    TRY(token_stream_push(&sequence->stream, token, &sequence->piece));
    if (sequence->piece.bytes == 0) return STATUS_OK;
    if (sequence_generated_count(sequence) < sequence->request.min_tokens)
        return text_buffer_add(&sequence->text, sequence->piece.text, sequence->piece.bytes);
    TRY(stop_match_push(&sequence->stop_match, sequence->piece.text, sequence->piece.bytes,
                        &sequence->text, out_matched));
    sequence->text_closed = *out_matched;
    return STATUS_OK;
}

static void report_token(Sequence *sequence, const SamplerOutput *sampled) {
    const RequestSink *sink = &sequence->request.sink;
    if (!sink->on_token) return;
    TokenEvent event = {.request_id = sequence->request.id,
                        .index = sequence_generated_count(sequence) - 1,
                        .token = sampled->token,
                        .text = sequence->text.bytes ? sequence->text.text : "",
                        .text_bytes = sequence->text.bytes,
                        .logprob = sampled->logprob,
                        .top = sampled->top,
                        .top_count = sampled->top_count};
    sink->on_token(sink->user, &event);
}

Status sequence_accept(Sequence *sequence, const Tokenizer *tokenizer, const SamplerOutput *sampled,
                       bool *out_finished, FinishReason *out_reason) {
    if (sequence->first_token_at == 0) sequence->first_token_at = monotonic_seconds();
    bool ends = false, matched = false;
    sequence->tokens[sequence->token_count++] = sampled->token;
    ends = ends_sequence(sequence, tokenizer, sampled->token);
    sequence->text.bytes = 0;
    if (!ends || sequence->request.keep_special)
        TRY(add_text(sequence, tokenizer, sampled->token, &matched));
    report_token(sequence, sampled);
    bool full = sequence->token_count == sequence->token_capacity;
    *out_finished = ends || matched || full;
    *out_reason = ends || matched ? FINISH_STOP : FINISH_LENGTH;
    return STATUS_OK;
}

void sequence_finish(Sequence *sequence, FinishReason reason, ErrorCode error,
                     const char *error_text) {
    double now = monotonic_seconds();
    sequence->piece.bytes = 0;
    sequence->text.bytes = 0;
    bool matched = sequence->text_closed;
    if (!matched && sequence->stream.tokenizer &&
        token_stream_flush(&sequence->stream, &sequence->piece) == STATUS_OK &&
        sequence->piece.bytes > 0)
        (void)stop_match_push(&sequence->stop_match, sequence->piece.text, sequence->piece.bytes,
                              &sequence->text, &matched);
    if (!matched) (void)stop_match_flush(&sequence->stop_match, &sequence->text);
    FinishEvent event = {
        .request_id = sequence->request.id,
        .reason = reason,
        .text = sequence->text.bytes ? sequence->text.text : "",
        .text_bytes = sequence->text.bytes,
        .tokens = sequence->tokens + sequence->request.prompt_count,
        .token_count = sequence_generated_count(sequence),
        .prompt_count = sequence->request.prompt_count,
        .error = error,
        .error_text = error_text,
        .seconds_queued =
            (sequence->started_at ? sequence->started_at : now) - sequence->submitted_at,
        .seconds_to_first_token =
            sequence->first_token_at ? sequence->first_token_at - sequence->submitted_at : 0,
        .seconds_total = now - sequence->submitted_at,
    };
    sequence->request.sink.on_finish(sequence->request.sink.user, &event);
}
