#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "launch/batch_job.h"
#include "launch/command.h"
#include "runtime/base/arena.h"

/* ---- batch ---- */

static Status open_job(Session *session, void *user) {
    return batch_job_open(user, session);
}

static Status run_job(Session *session, void *user) {
    (void)session;
    BatchJob **job = user;
    return batch_job_run(*job);
}

static int batch(const Settings *settings) {
    BatchJob *job = NULL;
    const SessionPlan plan = {
        .needs_text = true,
        .prepare = open_job,
        .work = run_job,
        .tells_summary = true,
        .user = &job,
    };
    int exit_code = session_run(settings, &plan);
    batch_job_close(job);
    return exit_code;
}

/* ---- batch status ---- */

typedef struct BatchCounts {
    IdSet seen;
    uint64_t completed, failed;
} BatchCounts;

/* Whole records only; a torn last line is not counted and not touched. */
static Status count_lines(LineReader *reader, BatchCounts *counts) {
    for (;;) {
        Line line;
        bool end, failed, added;
        IdKey key;
        TRY(line_reader_next(reader, &line, &end));
        if (end) return STATUS_OK;
        json_t *record = json_loadb(line.text, line.bytes, JSON_ALLOW_NUL, NULL);
        bool good = line.ended && record && batch_record_key(record, true, &key, &failed);
        json_decref(record);
        if (!good) continue;
        TRY(id_set_add(&counts->seen, key, &added));
        counts->completed += added && !failed;
        counts->failed += added && failed;
    }
}

/* *out_running: a process holds the lock of the file. A missing file counts as empty. */
static Status count_file(const char *path, BatchCounts *counts, bool *out_running) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0 && errno == ENOENT) return STATUS_OK;
    if (descriptor < 0) FAIL(FILE_MISSING, "\"%s\": %s", path, strerror(errno));
    *out_running |= fcntl(descriptor, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
    LineReader reader;
    Status status = line_reader_open(&reader, descriptor, path, BATCH_RECORD_BYTES_MAX);
    if (status == STATUS_OK) status = count_lines(&reader, counts);
    line_reader_close(&reader);
    close(descriptor);
    return status;
}

static json_t *time_or_null(int64_t seconds) {
    return seconds > 0 ? json_integer(seconds) : json_null();
}

/* The batch object of the hosted service, and whether somebody works on it now. */
static void print_json(const Settings *settings, const BatchState *state, const BatchCounts *counts,
                       bool running) {
    json_t *root = json_pack(
        "{ss ss sn ss sn ss ss ss? sI so so s{sI sI sI} sb sn}", "id", state->digest.sha256_hex,
        "object", "batch", "errors", "input_file_id", state->input, "completion_window", "status",
        state->status, "output_file_id", settings->output, "error_file_id",
        state->errors[0] ? state->errors : NULL, "created_at", (json_int_t)state->started_at,
        "in_progress_at", time_or_null(state->started_at), "completed_at",
        time_or_null(state->finished_at), "request_counts", "total", (json_int_t)state->lines,
        "completed", (json_int_t)counts->completed, "failed", (json_int_t)counts->failed, "running",
        (int)running, "metadata");
    json_dumpf(root, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(root);
}

static void print_text(const BatchState *state, const BatchCounts *counts, bool running) {
    uint64_t done = counts->completed + counts->failed;
    uint64_t total = state->lines, left = total > done ? total - done : 0;
    if (running)
        printf("status     running as %s\n", state->writer);
    else if (left > 0)
        printf("status     stopped; the same command goes on\n");
    else
        printf("status     completed\n");
    printf("total      %" PRIu64 "\ncompleted  %" PRIu64 "\nfailed     %" PRIu64
           "\nremaining  %" PRIu64 "\n",
           total, counts->completed, counts->failed, left);
}

static Status read_status(const Settings *settings, BatchState *state, BatchCounts *counts) {
    char *path;
    bool running = false;
    TRY(batch_state_path(settings->output, &path));
    Status status = batch_state_read(path, state);
    if (status == STATUS_NOT_FOUND)
        status = error_raise(ERROR_FILE_MISSING, "\"%s\": there is no batch of that output", path);
    free(path);
    TRY(status);
    TRY(count_file(settings->output, counts, &running));
    if (state->errors[0]) TRY(count_file(state->errors, counts, &running));
    if (settings->json)
        print_json(settings, state, counts, running);
    else
        print_text(state, counts, running);
    return STATUS_OK;
}

static int batch_status(const Settings *settings) {
    BatchState *state;
    BatchCounts counts = {0};
    Status status = memory_take((void **)&state, 1, sizeof *state, "the state of the batch");
    if (status == STATUS_OK) {
        status = read_status(settings, state, &counts);
        free(state);
    }
    id_set_free(&counts.seen);
    return error_exit_code(status);
}

const Command command_batch[] = {
    {.name = "batch",
     .summary = "answer a file of requests; run it again to go on after a stop",
     .positionals = "model",
     .needs = "model input output",
     .takes = "@model @ranks @engine placement machine @sampling @batch input output errors "
              "summary-json dry-run",
     .run = batch},
    {.name = "batch status",
     .summary = "how far the batch of an output file is",
     .positionals = "output",
     .needs = "output",
     .takes = "output json",
     .run = batch_status},
    {.name = NULL},
};
