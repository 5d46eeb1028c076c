#include "launch/model_defaults.h"

#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "runtime/base/log.h"

static const char file_name[] = "generation_config.json";

static void from_settings(const Settings *settings, SamplingOptions *out) {
    *out = sampling_defaults;
    out->temperature = (float)settings->temperature;
    out->top_k = (uint32_t)settings->top_k;
    out->top_p = (float)settings->top_p;
    out->min_p = (float)settings->min_p;
    out->presence_penalty = (float)settings->presence_penalty;
    out->frequency_penalty = (float)settings->frequency_penalty;
    out->repetition_penalty = (float)settings->repetition_penalty;
    out->seed = (uint64_t)settings->seed;
}

/* A number of the file, when the option was not given; text stays as it is when the key is absent or null. */
static Status read_number(const Settings *settings, const json_t *config, const char *key,
                          const char *option, double min, double max, double *out,
                          bool *out_found) {
    const json_t *value = json_object_get(config, key);
    *out_found = false;
    if (!value || json_is_null(value) ||
        options_source(settings->options, option) != OPTION_SOURCE_DEFAULT)
        return STATUS_OK;
    double number = json_number_value(value);
    if (!json_is_number(value) || !(number >= min && number <= max))
        FAIL(HF_CONFIG, "%s: \"%s\" must be a number from %g to %g; --%s overrides it", file_name,
             key, min, max, option);
    *out = number;
    *out_found = true;
    return STATUS_OK;
}

static Status from_file(const Settings *settings, const json_t *config, SamplingOptions *out) {
    const struct {
        const char *key, *option;
        double min, max;
        float *place;
    } rows[] = {
        {"temperature", "temperature", 0, 100, &out->temperature},
        {"top_p", "top-p", 1e-9, 1, &out->top_p},
        {"min_p", "min-p", 0, 1, &out->min_p},
        {"repetition_penalty", "repetition-penalty", 0.01, 100, &out->repetition_penalty},
    };
    double number;
    bool found;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        TRY(read_number(settings, config, rows[i].key, rows[i].option, rows[i].min, rows[i].max,
                        &number, &found));
        if (found) *rows[i].place = (float)number;
    }
    TRY(read_number(settings, config, "top_k", "top-k", 0, 1e9, &number, &found));
    if (found) out->top_k = (uint32_t)number;
    log_line(LOG_DEBUG, "session", "temperature %g, top-p %g, top-k %u with %s",
             (double)out->temperature, (double)out->top_p, out->top_k, file_name);
    return STATUS_OK;
}

Status model_defaults_read(const Settings *settings, const Weights *weights, SamplingOptions *out) {
    char *text;
    size_t text_bytes;
    from_settings(settings, out);
    Status status = weights_read_side_file(weights, file_name, &text, &text_bytes);
    if (status == STATUS_NOT_FOUND) return STATUS_OK;
    TRY(status);
    json_error_t where;
    json_t *config = json_loadb(text, text_bytes, JSON_REJECT_DUPLICATES, &where);
    free(text);
    if (!config)
        FAIL(HF_CONFIG, "%s:%d:%d: not JSON: %s", file_name, where.line, where.column, where.text);
    status = from_file(settings, config, out);
    json_decref(config);
    return status;
}
