#include "launch/batch_survey.h"

#include <inttypes.h>
#include <string.h>

enum { STRICT_ERRORS_MAX = 20 }; /* lines told of before the file is refused */

typedef struct Survey {
    const BatchSurveyOptions *options;
    IdSet ids; /* of all lines, where they are judged */
    uint64_t own, wrong;
} Survey;

/* STATUS_BAD_INPUT with *error when the name stands on an earlier line. */
static Status add_name(Survey *survey, const BatchLine *line, ApiError *error) {
    bool added;
    TRY(id_set_add(&survey->ids, batch_line_key(line), &added));
    if (added) return STATUS_OK;
    return api_refuse(error, "duplicate_custom_id", "custom_id",
                      "custom_id \"%.64s\" stands on an earlier line too", line->custom_id);
}

static Status look_at(Survey *survey, const Line *text) {
    const BatchSurveyOptions *options = survey->options;
    BatchLine line;
    ApiError error;
    Status status = batch_line_read(&line, text, options->format, options->defaults, &error);
    survey->own += batch_shard_has(&options->shard, batch_line_key(&line));
    if (status == STATUS_OK && options->strict) status = add_name(survey, &line, &error);
    batch_line_free(&line);
    if (status != STATUS_BAD_INPUT) return status;
    survey->wrong++;
    if (options->strict)
        (void)error_raise(ERROR_BATCH_LINE, "\"%s\": line %" PRIu64 ": %s%s%s", options->path,
                          text->number, error.param, error.param[0] ? ": " : "", error.message);
    return STATUS_OK;
}

static Status look_at_all(Survey *survey, LineReader *reader) {
    bool strict = survey->options->strict;
    while (!strict || survey->wrong < STRICT_ERRORS_MAX) {
        Line text;
        bool end;
        TRY(line_reader_next(reader, &text, &end));
        if (end) break;
        TRY(look_at(survey, &text));
    }
    if (!strict || survey->wrong == 0) return STATUS_OK;
    FAIL(BATCH_LINE, "\"%s\" was refused as a whole (--no-lenient)", survey->options->path);
}

Status batch_survey(const BatchSurveyOptions *options, uint64_t *out_lines) {
    Survey survey = {.options = options};
    LineReader reader;
    TRY(line_reader_open(&reader, options->input, options->path, API_LINE_BYTES_MAX));
    Status status = look_at_all(&survey, &reader);
    line_reader_close(&reader);
    id_set_free(&survey.ids);
    if (status == STATUS_OK) *out_lines = survey.own;
    return status;
}
