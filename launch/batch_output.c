#include "launch/batch_output.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "launch/line_reader.h"
#include "runtime/base/arena.h"
#include "runtime/base/log.h"

enum { SYNC_LINES = 64 };

static Status open_locked(DurableLog *out, const char *path, const char *writer) {
    Status status = durable_log_open(out, path);
    if (status != STATUS_AGAIN) return status;
    FAIL(BATCH_LOCKED,
         "\"%s\" is being written by another job%s%s; wait for it or give another "
         "--output",
         path, writer[0] ? ", process " : "", writer);
}

Status batch_output_open(BatchOutput *out, const BatchOutputOptions *options, const char *writer) {
    *out = (BatchOutput){
        .options = *options, .results = {.descriptor = -1}, .errors = {.descriptor = -1}};
    TRY(open_locked(&out->results, options->results, writer));
    Status status = STATUS_OK;
    if (options->errors) status = open_locked(&out->errors, options->errors, writer);
    if (status != STATUS_OK) durable_log_close(&out->results);
    return status;
}

static Status file_bytes(const DurableLog *log, uint64_t *out) {
    struct stat about;
    *out = 0;
    if (log->descriptor < 0) return STATUS_OK;
    if (fstat(log->descriptor, &about) != 0)
        FAIL(OUTPUT_CREATE, "\"%s\": %s", log->path, strerror(errno));
    if (!S_ISREG(about.st_mode)) FAIL(OUTPUT_CREATE, "\"%s\" is no regular file", log->path);
    *out = (uint64_t)about.st_size;
    return STATUS_OK;
}

Status batch_output_is_empty(const BatchOutput *output, bool *out) {
    uint64_t results, errors;
    TRY(file_bytes(&output->results, &results));
    TRY(file_bytes(&output->errors, &errors));
    *out = results + errors == 0;
    return STATUS_OK;
}

/* ---- the scan ---- */

bool batch_record_key(const json_t *record, bool trust_numbers, IdKey *out_key, bool *out_failed) {
    const json_t *error = json_object_get(record, "error");
    const json_t *id = json_object_get(record, "custom_id");
    const char *code = json_string_value(json_object_get(error, "code"));
    const json_t *line = json_object_get(error, "line");
    *out_failed = json_is_object(error);
    bool about_line = !json_is_string(id) || (code && strcmp(code, "duplicate_custom_id") == 0);
    if (!about_line) {
        *out_key = id_key_of_text(json_string_value(id), json_string_length(id));
        return true;
    }
    /* Of another input: the record stays, and counts for nothing. */
    *out_key = id_key_of_number(trust_numbers ? (uint64_t)json_integer_value(line) : 0);
    return *out_failed && json_is_integer(line);
}

typedef struct Scan {
    BatchOutput *output;
    DurableLog *log;
    DurableLog *keep; /* copies the lines that stay; NULL: all stay where they are */
    bool torn;        /* the last line is no record */
} Scan;

static Status scan_line(Scan *scan, const Line *line) {
    BatchOutput *output = scan->output;
    json_t *record =
        json_loadb(line->text, line->bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    IdKey key;
    bool failed, added;
    bool good = record && batch_record_key(record, output->options.trust_numbers, &key, &failed);
    json_decref(record);
    scan->torn = !good || !line->ended;
    if (scan->torn) return STATUS_OK;
    if (failed && output->options.retry_errors) return STATUS_OK;
    TRY(id_set_add(&output->done, key, &added));
    output->done_ok += added && !failed;
    output->done_failed += added && failed;
    uint64_t end = line->offset + line->bytes + 1;
    if (scan->keep) TRY(durable_log_add(scan->keep, line->text, line->bytes + 1));
    scan->log->bytes = end;
    scan->log->lines++;
    return STATUS_OK;
}

static Status scan_lines(Scan *scan, LineReader *reader) {
    Line line;
    bool end;
    for (;;) {
        uint64_t number = reader->number;
        TRY(line_reader_next(reader, &line, &end));
        if (end) return STATUS_OK;
        if (scan->torn)
            FAIL(BATCH_OUTPUT,
                 "\"%s\": line %" PRIu64 " is no result of a batch, and more lines follow: move "
                 "the file away, or remove the line",
                 scan->log->path, number);
        TRY(scan_line(scan, &line));
    }
}

static Status scan_log(BatchOutput *output, DurableLog *log, DurableLog *keep) {
    Scan scan = {.output = output, .log = log, .keep = keep};
    LineReader reader;
    uint64_t bytes;
    TRY(file_bytes(log, &bytes));
    TRY(line_reader_open(&reader, log->descriptor, log->path, BATCH_RECORD_BYTES_MAX));
    Status status = scan_lines(&scan, &reader);
    line_reader_close(&reader);
    TRY(status);
    if (!scan.torn || keep) return STATUS_OK;
    log_warning("E-BATCH-OUTPUT",
                "\"%s\": the last line was cut off by a crash (%" PRIu64
                " bytes); its request runs again",
                log->path, bytes - log->bytes);
    return durable_log_cut(log, log->bytes, log->lines);
}

/* With one file, the answers move to a new one without the failures, which then takes the old one's name. */
static Status drop_failures(BatchOutput *output) {
    char *fresh;
    size_t name_bytes = strlen(output->results.path) + sizeof ".new";
    TRY(memory_take((void **)&fresh, 1, name_bytes, "a file name"));
    snprintf(fresh, name_bytes, "%s.new", output->results.path);
    DurableLog kept = {.descriptor = -1};
    unlink(fresh);
    Status status = open_locked(&kept, fresh, "");
    if (status == STATUS_OK) status = scan_log(output, &output->results, &kept);
    if (status == STATUS_OK) status = durable_log_sync(&kept);
    if (status == STATUS_OK && rename(fresh, output->results.path) != 0)
        status = error_raise(ERROR_OUTPUT_WRITE, "\"%s\": %s", fresh, strerror(errno));
    if (status == STATUS_OK) status = durable_folder_sync(output->results.path);
    free(fresh);
    if (status != STATUS_OK) {
        durable_log_close(&kept);
        return status;
    }
    kept.path = output->results.path;
    durable_log_close(&output->results);
    output->results = kept;
    return STATUS_OK;
}

Status batch_output_scan(BatchOutput *output) {
    bool one_file = output->errors.descriptor < 0;
    if (one_file && output->options.retry_errors) return drop_failures(output);
    TRY(scan_log(output, &output->results, NULL));
    if (one_file) return STATUS_OK;
    if (output->options.retry_errors) return durable_log_cut(&output->errors, 0, 0);
    return scan_log(output, &output->errors, NULL);
}

/* ---- adding ---- */

Status batch_output_add_text(BatchOutput *output, bool failed, const char *line, size_t bytes) {
    bool to_errors = failed && output->errors.descriptor >= 0;
    return durable_log_add(to_errors ? &output->errors : &output->results, line, bytes);
}

Status batch_record_text(json_t *record, char **out_line, size_t *out_bytes) {
    char *text = record ? json_dumps(record, JSON_COMPACT) : NULL;
    json_decref(record);
    if (!text) FAIL(MEMORY, "no memory for a result");
    *out_bytes = strlen(text) + 1;
    text[*out_bytes - 1] = '\n';
    *out_line = text;
    return STATUS_OK;
}

Status batch_output_add(BatchOutput *output, bool failed, json_t *record) {
    char *text = NULL;
    size_t bytes = 0;
    TRY(batch_record_text(record, &text, &bytes));
    Status status = batch_output_add_text(output, failed, text, bytes);
    free(text);
    return status;
}

Status batch_output_sync(BatchOutput *output) {
    TRY(durable_log_sync(&output->results));
    return output->errors.descriptor >= 0 ? durable_log_sync(&output->errors) : STATUS_OK;
}

Status batch_output_tick(BatchOutput *output, double now_s) {
    uint32_t unsynced = output->results.unsynced_lines + output->errors.unsynced_lines;
    bool due =
        unsynced >= SYNC_LINES || now_s - output->synced_at >= output->options.sync_interval_s;
    if (unsynced == 0 || !due) return STATUS_OK;
    output->synced_at = now_s;
    return batch_output_sync(output);
}

void batch_output_close(BatchOutput *output) {
    durable_log_close(&output->results);
    durable_log_close(&output->errors);
    id_set_free(&output->done);
}
