#include "runtime/engine/request.h"

const SamplingOptions sampling_defaults = {
    .temperature = 1,
    .top_p = 1,
    .repetition_penalty = 1,
};

const char *finish_reason_name(FinishReason reason) {
    static const char *const names[] = {
        [FINISH_STOP] = "stop",
        [FINISH_LENGTH] = "length",
        [FINISH_CANCELLED] = "cancelled",
        [FINISH_ERROR] = "error",
    };
    return names[reason];
}

static Status check_biases(const SamplingOptions *options, uint32_t vocab_count) {
    if (options->bias_count > REQUEST_BIASES_MAX)
        FAIL(REQUEST, "logit_bias has %u entries; at most %d are allowed", options->bias_count,
             REQUEST_BIASES_MAX);
    for (uint32_t i = 0; i < options->bias_count; i++) {
        const LogitBias *entry = &options->biases[i];
        if (entry->token < 0 || (uint32_t)entry->token >= vocab_count)
            FAIL(REQUEST, "logit_bias names token %d; the vocabulary has 0 to %u", entry->token,
                 vocab_count - 1);
        if (!(entry->bias >= -100 && entry->bias <= 100))
            FAIL(REQUEST, "logit_bias of token %d is %g; it may be -100 to 100", entry->token,
                 (double)entry->bias);
    }
    return STATUS_OK;
}

Status sampling_options_check(const SamplingOptions *options, uint32_t vocab_count) {
    const struct {
        const char *name;
        float value, least, greatest;
    } ranges[] = {
        {"temperature", options->temperature, 0, 100},
        {"top_p", options->top_p, 0, 1},
        {"min_p", options->min_p, 0, 1},
        {"presence_penalty", options->presence_penalty, -2, 2},
        {"frequency_penalty", options->frequency_penalty, -2, 2},
        {"repetition_penalty", options->repetition_penalty, 0.01f, 100},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        if (!(ranges[i].value >= ranges[i].least && ranges[i].value <= ranges[i].greatest))
            FAIL(REQUEST, "%s is %g; it may be %g to %g", ranges[i].name, (double)ranges[i].value,
                 (double)ranges[i].least, (double)ranges[i].greatest);
    if (options->top_logprobs > SAMPLING_LOGPROBS_MAX)
        FAIL(REQUEST, "top_logprobs is %u; at most %d are reported", options->top_logprobs,
             SAMPLING_LOGPROBS_MAX);
    return check_biases(options, vocab_count);
}

bool request_reports_prompt(const Request *request) {
    return request->sink.on_logits && !request->generated_logits;
}
