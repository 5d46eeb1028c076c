/* Any bytes as a line of a batch file. What is accepted stays within the limits of the engine; what is refused is told in a
 * record that is JSON. */

#include <string.h>

#include <jansson.h>

#include "launch/batch_line.h"
#include "tests/fuzz/fuzz.h"

static void check_sampling(const SamplingOptions *sampling) {
    PROMISE(sampling->temperature >= 0 && sampling->temperature <= 2);
    PROMISE(sampling->top_p > 0 && sampling->top_p <= 1);
    PROMISE(sampling->min_p >= 0 && sampling->min_p <= 1);
    PROMISE(sampling->presence_penalty >= -2 && sampling->presence_penalty <= 2);
    PROMISE(sampling->frequency_penalty >= -2 && sampling->frequency_penalty <= 2);
    PROMISE(sampling->repetition_penalty > 0 && sampling->repetition_penalty <= 100);
    PROMISE(sampling->top_logprobs <= SAMPLING_LOGPROBS_MAX);
    PROMISE(sampling->bias_count <= REQUEST_BIASES_MAX);
    for (uint32_t i = 0; i < sampling->bias_count; i++)
        PROMISE(sampling->biases[i].token >= 0 && sampling->biases[i].bias >= -100 &&
                sampling->biases[i].bias <= 100);
}

static void check_sequences(const ApiRequest *request) {
    uint32_t count = api_sequence_count(request);
    PROMISE(count >= 1 && count <= API_SEQUENCES_MAX);
    for (uint32_t i = 0; i < count; i++) {
        Request sequence;
        api_sequence(request, i, 1, &sequence);
        PROMISE(sequence.max_tokens >= 1 && sequence.min_tokens <= sequence.max_tokens);
        PROMISE(sequence.stop_count <= REQUEST_STOPS_MAX);
        for (uint32_t s = 0; s < sequence.stop_count; s++)
            PROMISE(strlen(sequence.stops[s]) > 0);
        for (uint32_t t = 0; t < sequence.stop_token_count; t++)
            PROMISE(sequence.stop_tokens[t] >= 0);
        check_sampling(&sequence.sampling);
    }
}

static void check_prompts(const ApiRequest *request) {
    for (size_t i = 0; i < request->prompt_count; i++) {
        const ApiPrompt *prompt = &request->prompts[i];
        if (request->endpoint == API_CHAT) continue;
        PROMISE((prompt->text != NULL) != (prompt->tokens.count > 0));
        if (prompt->text) PROMISE(strlen(prompt->text) == prompt->text_bytes);
        for (size_t t = 0; t < prompt->tokens.count; t++)
            PROMISE(prompt->tokens.tokens[t] >= 0);
    }
    PROMISE((request->endpoint == API_CHAT) == (request->message_count > 0));
    for (size_t i = 0; i < request->message_count; i++)
        PROMISE(request->messages[i].role &&
                strlen(request->messages[i].content) == request->messages[i].content_bytes);
}

static void check_refusal(const BatchLine *line, const ApiError *error) {
    PROMISE(error->code[0] && error->message[0]);
    json_t *record = json_pack("{ss ss ss ss}", "custom_id", line->custom_id, "code", error->code,
                               "message", error->message, "param", error->param);
    PROMISE(record);
    json_decref(record);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const ApiDefaults defaults = {.sampling = sampling_defaults, .max_tokens = 16};
    for (int format = BATCH_JSONL; format <= BATCH_LINES; format++) {
        const Line text = {.text = (const char *)data, .bytes = size, .number = 1, .ended = true};
        BatchLine line;
        ApiError error;
        Status status = batch_line_read(&line, &text, (BatchFormat)format, &defaults, &error);
        PROMISE(status == STATUS_OK || status == STATUS_BAD_INPUT);
        if (status == STATUS_OK) {
            PROMISE(line.custom_id[0]);
            check_prompts(&line.request);
            check_sequences(&line.request);
        } else {
            check_refusal(&line, &error);
        }
        batch_line_free(&line);
    }
    return 0;
}
