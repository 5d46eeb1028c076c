#include "launch/batch_job.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>

#include "launch/batch_survey.h"
#include "launch/progress.h"
#include "launch/tier_view.h"
#include "runtime/base/arena.h"
#include "runtime/base/hash.h"
#include "runtime/base/log.h"
#include "runtime/base/monotonic.h"

enum {
    ITEM_BYTES_AHEAD = 64 << 20, /* of lines that wait in the engine */
    ID_HEX_BYTES = 17,
};

typedef struct BatchItem BatchItem;

typedef struct ItemSequence {
    BatchItem *item;
    uint32_t index;
} ItemSequence;

/* A line on its way through the engine. */
struct BatchItem {
    BatchJob *job;
    BatchItem *before, *after; /* in the job's list */
    BatchLine line;
    ApiAnswer answer;
    ItemSequence *sequences; /* owned; [answer.count] */
    uint32_t submitted_count;
    uint64_t ordinal; /* among the lines that get a result in this run */
    size_t bytes;     /* of the line */
    Status status;    /* of the callbacks */
};

/* A result that --ordered holds back. */
typedef struct HeldRecord {
    char *text; /* owned; NULL: none yet */
    size_t bytes;
    bool failed;
} HeldRecord;

struct BatchJob {
    Session *session;
    const Settings *settings; /* outlive the session */
    ApiDefaults defaults;
    BatchFormat format;
    BatchShard shard;
    char *state_path, *errors_path; /* owned */
    int input;                      /* descriptor */
    int64_t created;                /* of the answers: when the input was last changed */
    BatchState state;
    BatchOutput output;
    LineReader reader;
    IdSet seen; /* custom_ids of the lines read so far */
    char fingerprint[24];
    bool input_ended;

    BatchItem *items;   /* all that are on their way */
    BatchItem *waiting; /* read, but the engine had no room for all its sequences */
    uint64_t item_count, item_bytes;
    uint64_t next_ordinal, written_ordinal;
    HeldRecord *held; /* owned; [reorder window] with --ordered */
    Status status;    /* first failure of a callback */

    uint64_t lines_ok, lines_failed, lines_skipped;
    uint64_t bytes_submitted, bytes_skipped;
    Progress progress;
};

/* ---- paths ---- */

static Status join_text(const char *first, size_t first_bytes, const char *second, char **out) {
    size_t bytes = first_bytes + strlen(second) + 1;
    TRY(memory_take((void **)out, 1, bytes, "a file name"));
    snprintf(*out, bytes, "%.*s%s", (int)first_bytes, first, second);
    return STATUS_OK;
}

Status batch_state_path(const char *output, char **out) {
    return join_text(output, strlen(output), ".state", out);
}

Status batch_errors_path(const char *output, char **out) {
    static const char ending[] = ".jsonl";
    size_t bytes = strlen(output), ending_bytes = sizeof ending - 1;
    if (bytes > ending_bytes && strcmp(output + bytes - ending_bytes, ending) == 0)
        bytes -= ending_bytes;
    return join_text(output, bytes, ".errors.jsonl", out);
}

/* ---- records ---- */

/* The same line of the same job has the same id in every run. */
static void make_id(const BatchJob *job, const char *custom_id, char out[ID_HEX_BYTES]) {
    uint64_t input = hash_xxh3(job->state.digest.sha256_hex, 64, 0);
    snprintf(out, ID_HEX_BYTES, "%016" PRIx64, hash_xxh3(custom_id, strlen(custom_id), input));
}

static json_t *failure_record(const BatchJob *job, const BatchLine *line, const ApiError *error) {
    char id[ID_HEX_BYTES], name[BATCH_ID_BYTES + 32];
    snprintf(name, sizeof name, "%s %" PRIu64, line->custom_id, line->number);
    make_id(job, name, id);
    return json_pack("{ss+ ss? sn s{ss ss ss? sI}}", "id", "batch_req_", id, "custom_id",
                     line->custom_id[0] ? line->custom_id : NULL, "response", "error", "code",
                     error->code, "message", error->message, "param",
                     error->param[0] ? error->param : NULL, "line", (json_int_t)line->number);
}

static json_t *answer_record(const BatchJob *job, const BatchItem *item) {
    char id[ID_HEX_BYTES];
    make_id(job, item->line.custom_id, id);
    const ApiIdentity identity = {
        .id = id,
        .model = session_model_name(job->session),
        .system_fingerprint = job->fingerprint,
        .created = job->created,
    };
    return json_pack("{ss+ ss s{si ss+ so} sn}", "id", "batch_req_", id, "custom_id",
                     item->line.custom_id, "response", "status_code", 200, "request_id", "req_", id,
                     "body", api_answer_body(&item->answer, &identity), "error");
}

/* ---- writing ---- */

static void count_line(BatchJob *job, bool failed) {
    job->lines_ok += !failed;
    job->lines_failed += failed;
}

static Status write_held(BatchJob *job) {
    uint64_t window = (uint64_t)job->settings->reorder_window;
    for (;;) {
        HeldRecord *held = &job->held[job->written_ordinal % window];
        if (!held->text) return STATUS_OK;
        TRY(batch_output_add_text(&job->output, held->failed, held->text, held->bytes));
        count_line(job, held->failed);
        free(held->text);
        *held = (HeldRecord){0};
        job->written_ordinal++;
    }
}

/* With --ordered, a line that was cancelled keeps back all that is behind it: that is done again. */
static Status finish_line(BatchJob *job, uint64_t ordinal, bool failed, json_t *record) {
    if (!job->held) {
        TRY(batch_output_add(&job->output, failed, record));
        count_line(job, failed);
        return STATUS_OK;
    }
    HeldRecord held = {.failed = failed};
    TRY(batch_record_text(record, &held.text, &held.bytes));
    job->held[ordinal % (uint64_t)job->settings->reorder_window] = held;
    return write_held(job);
}

/* ---- items ---- */

static void item_destroy(BatchItem *item) {
    BatchJob *job = item->job;
    job->item_count--;
    job->item_bytes -= item->bytes;
    *(item->before ? &item->before->after : &job->items) = item->after;
    if (item->after) item->after->before = item->before;
    api_answer_free(&item->answer);
    batch_line_free(&item->line);
    free(item->sequences);
    free(item);
}

static Status settle_item(BatchItem *item) {
    BatchJob *job = item->job;
    Status status = job->status != STATUS_OK ? job->status : item->status;
    if (status == STATUS_OK && item->answer.error.code[0])
        status = finish_line(job, item->ordinal, true,
                             failure_record(job, &item->line, &item->answer.error));
    else if (status == STATUS_OK && !item->answer.cancelled)
        status = finish_line(job, item->ordinal, false, answer_record(job, item));
    item_destroy(item);
    return status;
}

static void on_token(void *user, const TokenEvent *event) {
    ItemSequence *sequence = user;
    BatchItem *item = sequence->item;
    if (item->status == STATUS_OK)
        item->status = api_answer_token(&item->answer, sequence->index, event);
}

static void on_finish(void *user, const FinishEvent *event) {
    ItemSequence *sequence = user;
    BatchItem *item = sequence->item;
    BatchJob *job = item->job;
    Status status = api_answer_finish(&item->answer, sequence->index, event);
    if (item->status == STATUS_OK) item->status = status;
    if (item->answer.finished_count < item->answer.count) return;
    status = settle_item(item);
    if (job->status == STATUS_OK) job->status = status;
}

static uint64_t base_seed(const BatchJob *job, const BatchLine *line) {
    return hash_xxh3(line->custom_id, strlen(line->custom_id), job->defaults.sampling.seed);
}

/* What the engine refuses about the request becomes its failure. */
static void take_refusal(BatchItem *item) {
    const char *text;
    ErrorCode error = error_last(&text);
    const char *code = error == ERROR_CONTEXT_LENGTH ? "context_length_exceeded" : "invalid_value";
    const char *param = item->line.request.endpoint == API_CHAT ? "messages" : "prompt";
    api_refuse(&item->answer.error, code, error == ERROR_CONTEXT_LENGTH ? param : "", "%s", text);
}

/* Sequences that were not submitted count as finished. When none is in the engine, the item is settled here. */
static Status refuse_item(BatchItem *item) {
    take_refusal(item);
    item->answer.finished_count += item->answer.count - item->submitted_count;
    item->submitted_count = item->answer.count;
    return item->answer.finished_count == item->answer.count ? settle_item(item) : STATUS_OK;
}

/* STATUS_AGAIN when the engine has no room now. */
static Status submit_item(BatchItem *item) {
    while (item->submitted_count < item->answer.count) {
        uint32_t index = item->submitted_count;
        Request request;
        api_sequence(&item->line.request, index, base_seed(item->job, &item->line), &request);
        request.id = item->line.number * API_SEQUENCES_MAX + index;
        request.sink = (RequestSink){
            .user = &item->sequences[index], .on_token = on_token, .on_finish = on_finish};
        error_capture_begin();
        Status status = engine_submit(item->job->session->engine, &request);
        error_capture_end();
        if (status == STATUS_BAD_INPUT) return refuse_item(item);
        TRY(status);
        item->submitted_count++;
    }
    return STATUS_OK;
}

static Status item_create(BatchItem **out, BatchJob *job, const BatchLine *line, size_t bytes) {
    BatchItem *item;
    TRY(memory_take((void **)&item, 1, sizeof *item, "a batch line"));
    item->job = job;
    item->line = *line;
    item->bytes = bytes;
    item->ordinal = job->next_ordinal++;
    Status status = api_answer_create(&item->answer, &item->line.request, job->session->tokenizer);
    if (status == STATUS_OK)
        status = memory_take((void **)&item->sequences, item->answer.count, sizeof *item->sequences,
                             "a batch line");
    job->item_count++;
    job->item_bytes += bytes;
    item->after = job->items;
    if (job->items) job->items->before = item;
    job->items = item;
    if (status != STATUS_OK) {
        item_destroy(item);
        return status;
    }
    for (uint32_t i = 0; i < item->answer.count; i++)
        item->sequences[i] = (ItemSequence){item, i};
    *out = item;
    return STATUS_OK;
}

/* ---- lines ---- */

/* A line that does not run gets its error record, unless an earlier run wrote it. */
static Status refuse_line(BatchJob *job, const BatchLine *line, const ApiError *error,
                          bool about_line) {
    IdKey key = about_line ? id_key_of_number(line->number)
                           : id_key_of_text(line->custom_id, strlen(line->custom_id));
    if (id_set_has(&job->output.done, key)) {
        job->lines_skipped++;
        return STATUS_OK;
    }
    return finish_line(job, job->next_ordinal++, true, failure_record(job, line, error));
}

static Status start_line(BatchJob *job, BatchLine *line, size_t bytes) {
    const Session *session = job->session;
    ApiError error;
    Status status = api_request_tokenize(&line->request, session->tokenizer, session->chat,
                                         engine_max_model_len(session->engine), &error);
    if (status == STATUS_BAD_INPUT) {
        status = refuse_line(job, line, &error, false);
        batch_line_free(line);
        return status;
    }
    BatchItem *item = NULL;
    if (status == STATUS_OK) status = item_create(&item, job, line, bytes);
    TRY(status);
    job->bytes_submitted += bytes;
    status = submit_item(item);
    if (status != STATUS_AGAIN) return status;
    job->waiting = item;
    return STATUS_OK;
}

static Status take_line(BatchJob *job, const Line *text) {
    BatchLine line;
    ApiError error;
    bool first = true;
    Status status = batch_line_read(&line, text, job->format, &job->defaults, &error);
    if (status != STATUS_OK && status != STATUS_BAD_INPUT) {
        batch_line_free(&line);
        return status;
    }
    bool named = line.custom_id[0] != 0;
    IdKey key = batch_line_key(&line);
    if (!batch_shard_has(&job->shard, key)) {
        job->bytes_skipped += text->bytes;
        batch_line_free(&line);
        return STATUS_OK;
    }
    if (named) TRY(id_set_add(&job->seen, key, &first));
    if (named && !first)
        status = api_refuse(&error, "duplicate_custom_id", "custom_id",
                            "custom_id \"%.64s\" stands on an earlier line too", line.custom_id);
    if (status == STATUS_BAD_INPUT) {
        status = refuse_line(job, &line, &error, !named || !first);
        batch_line_free(&line);
        return status;
    }
    if (id_set_has(&job->output.done, key)) {
        job->lines_skipped++;
        job->bytes_skipped += text->bytes;
        batch_line_free(&line);
        return STATUS_OK;
    }
    return start_line(job, &line, text->bytes);
}

static bool has_room(const BatchJob *job) {
    const Settings *settings = job->settings;
    uint64_t ahead = 2 * (uint64_t)settings->max_num_seqs + 32;
    bool in_window =
        !job->held || job->next_ordinal - job->written_ordinal < (uint64_t)settings->reorder_window;
    return job->item_count < ahead && job->item_bytes < ITEM_BYTES_AHEAD && in_window;
}

/* Lines into the engine until it is full, the input ends, or a stop was asked for. */
static Status feed(BatchJob *job) {
    if (job->waiting) {
        Status status = submit_item(job->waiting);
        if (status == STATUS_AGAIN) return STATUS_OK;
        job->waiting = NULL;
        TRY(status);
    }
    while (!job->waiting && !job->input_ended && has_room(job)) {
        Line line;
        TRY(line_reader_next(&job->reader, &line, &job->input_ended));
        if (!job->input_ended) TRY(take_line(job, &line));
    }
    return STATUS_OK;
}

/* ---- opening ---- */

/* Everything that decides what an answer says, but the model and the line. */
static void hash_settings(const Session *session, char out[24]) {
    const Settings *settings = session->settings;
    const SamplingOptions *sampling = &session->sampling;
    char text[512];
    int used = snprintf(
        text, sizeof text, "%s %s %s %" PRId64 " %d %.9g %u %.9g %.9g %.9g %.9g %.9g %" PRIu64,
        settings->format, settings->chat_template,
        settings->served_model_name ? settings->served_model_name : "", settings->max_tokens,
        settings->ignore_eos, (double)sampling->temperature, sampling->top_k,
        (double)sampling->top_p, (double)sampling->min_p, (double)sampling->presence_penalty,
        (double)sampling->frequency_penalty, (double)sampling->repetition_penalty, sampling->seed);
    uint64_t hash = hash_xxh3(text, (size_t)used, (uint64_t)settings->max_model_len);
    for (size_t i = 0; i < settings->stop.count; i++)
        hash = hash_xxh3(settings->stop.items[i], strlen(settings->stop.items[i]), hash);
    snprintf(out, 24, "%016" PRIx64, hash);
}

static Status open_input(BatchJob *job) {
    const char *path = job->settings->input;
    struct stat about, other;
    job->input = open(path, O_RDONLY | O_CLOEXEC);
    if (job->input < 0 || fstat(job->input, &about) != 0)
        FAIL(FILE_MISSING, "\"%s\": %s; see --input", path, strerror(errno));
    if (!S_ISREG(about.st_mode))
        FAIL(FILE_MISSING, "\"%s\" is no regular file: a batch must be able to read it again",
             path);
    if (stat(job->settings->output, &other) == 0 && other.st_dev == about.st_dev &&
        other.st_ino == about.st_ino)
        FAIL(USAGE, "--output and --input are the same file, \"%s\"", path);
    job->created = about.st_mtime;
    TRY(batch_digest_read(job->input, path, &job->state.digest));
    return line_reader_open(&job->reader, job->input, path, API_LINE_BYTES_MAX);
}

static Status describe_job(BatchJob *job) {
    const Session *session = job->session;
    BatchState *state = &job->state;
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    snprintf(state->status, sizeof state->status, "in_progress");
    snprintf(state->input, sizeof state->input, "%s", session->settings->input);
    snprintf(state->errors, sizeof state->errors, "%s", job->errors_path ? job->errors_path : "");
    snprintf(state->model, sizeof state->model, "%016" PRIx64,
             weights_fingerprint(session->weights));
    snprintf(state->writer, sizeof state->writer, "%ld@%s", (long)getpid(), host);
    snprintf(state->shard, sizeof state->shard, "%u/%u", job->shard.number, job->shard.count);
    hash_settings(session, state->settings);
    state->started_at = time(NULL);
    const char *parts[] = {state->model, state->settings};
    uint64_t hash = hash_xxh3(parts[1], strlen(parts[1]), hash_xxh3(parts[0], strlen(parts[0]), 0));
    snprintf(job->fingerprint, sizeof job->fingerprint, "fp_%016" PRIx64, hash);
    return STATUS_OK;
}

/* Is what is there the beginning of this very job? */
static Status compare_state(const BatchJob *job, const BatchState *before) {
    const Settings *settings = job->settings;
    static const char advice[] = "give another --output, or --resume ids to go by custom_id alone";
    if (strcmp(before->digest.sha256_hex, job->state.digest.sha256_hex) != 0) {
        uint64_t first, last;
        TRY(batch_digest_locate(job->input, settings->input, &before->digest, &first, &last));
        FAIL(BATCH_OUTPUT,
             "\"%s\" holds results of another input: \"%s\" first differs in lines %" PRIu64
             " to %" PRIu64 " (then %" PRIu64 " lines, now %" PRIu64 "); %s",
             settings->output, settings->input, first, last, before->digest.lines,
             job->state.digest.lines, advice);
    }
    if (strcmp(before->model, job->state.model) != 0)
        FAIL(BATCH_OUTPUT, "\"%s\" holds results of another model (%s, now %s); %s",
             settings->output, before->model, job->state.model, advice);
    if (strcmp(before->shard, job->state.shard) != 0)
        FAIL(BATCH_OUTPUT, "\"%s\" holds the results of --shard %s, now it is %s; %s",
             settings->output, before->shard, job->state.shard, advice);
    if (strcmp(before->settings, job->state.settings) != 0)
        FAIL(BATCH_OUTPUT,
             "\"%s\" was begun with other options that decide what answers say (sampling, stop, "
             "max-tokens, chat-template, format); %s",
             settings->output, advice);
    return STATUS_OK;
}

/* Whether results that are there belong to this job; *out_same: line numbers in them are ours. */
static Status check_earlier_run(BatchJob *job, const BatchState *before, bool known,
                                bool *out_same) {
    bool empty;
    TRY(batch_output_is_empty(&job->output, &empty));
    *out_same =
        empty || (known && strcmp(before->digest.sha256_hex, job->state.digest.sha256_hex) == 0);
    if (empty || strcmp(job->settings->resume, "ids") == 0) return STATUS_OK;
    if (known) return compare_state(job, before);
    FAIL(BATCH_OUTPUT,
         "\"%s\" is not empty, and there is no \"%s\" that says whose results these are: give "
         "another --output, or --resume ids to go by custom_id alone",
         job->settings->output, job->state_path);
}

static Status open_output(BatchJob *job) {
    const Settings *settings = job->settings;
    BatchState *before;
    TRY(memory_take((void **)&before, 1, sizeof *before, "the state of the batch"));
    Status status = batch_state_read(job->state_path, before);
    bool known = status == STATUS_OK;
    if (status == STATUS_NOT_FOUND ||
        (status == STATUS_BAD_INPUT && strcmp(settings->resume, "ids") == 0))
        status = STATUS_OK;
    const BatchOutputOptions options = {
        .results = settings->output,
        .errors = job->errors_path,
        .sync_interval_s = settings->sync_interval_s,
        .retry_errors = settings->retry_errors,
    };
    if (status == STATUS_OK) status = batch_output_open(&job->output, &options, before->writer);
    if (status == STATUS_OK)
        status = check_earlier_run(job, before, known, &job->output.options.trust_numbers);
    if (status == STATUS_OK && known && before->started_at > 0 && job->output.options.trust_numbers)
        job->state.started_at = before->started_at;
    free(before);
    TRY(status);
    TRY(batch_output_scan(&job->output));
    return batch_state_write(job->state_path, &job->state);
}

/* How many lines are to be answered: known before the first, for progress and `batch status`. */
static Status count_lines(BatchJob *job) {
    const Settings *settings = job->settings;
    const BatchSurveyOptions options = {.input = job->input,
                                        .path = settings->input,
                                        .format = job->format,
                                        .defaults = &job->defaults,
                                        .shard = job->shard,
                                        .strict = !settings->lenient};
    job->state.lines = job->state.digest.lines;
    if (settings->lenient && job->shard.count == 1) return STATUS_OK;
    return batch_survey(&options, &job->state.lines);
}

/* They are written into the state file. */
static Status check_paths(const Settings *settings) {
    const char *const paths[] = {settings->input, settings->output,
                                 settings->errors ? settings->errors : ""};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        if (strlen(paths[i]) >= BATCH_PATH_BYTES - 16)
            FAIL(USAGE, "the file name \"%.200s…\" is too long", paths[i]);
    }
    return STATUS_OK;
}

static Status open_all(BatchJob *job) {
    Session *session = job->session;
    const Settings *settings = session->settings;
    TRY(check_paths(settings));
    job->defaults = session_api_defaults(session);
    job->format = strcmp(settings->format, "lines") == 0 ? BATCH_LINES : BATCH_JSONL;
    TRY(batch_shard_read(&job->shard, settings->shard));
    TRY(batch_state_path(settings->output, &job->state_path));
    if (!settings->one_file) {
        if (settings->errors)
            TRY(join_text(settings->errors, strlen(settings->errors), "", &job->errors_path));
        else
            TRY(batch_errors_path(settings->output, &job->errors_path));
        if (strcmp(job->errors_path, settings->output) == 0)
            FAIL(USAGE, "--output and --errors are the same file: use --one-file for that");
    }
    TRY(open_input(job));
    TRY(describe_job(job));
    TRY(count_lines(job));
    if (settings->dry_run) return STATUS_OK;
    TRY(open_output(job));
    if (settings->ordered)
        TRY(memory_take((void **)&job->held, (uint64_t)settings->reorder_window, sizeof *job->held,
                        "results that --ordered holds back"));
    return STATUS_OK;
}

Status batch_job_open(BatchJob **out, Session *session) {
    BatchJob *job;
    TRY(memory_take((void **)&job, 1, sizeof *job, "the batch"));
    job->session = session;
    job->settings = session->settings;
    job->input = job->output.results.descriptor = job->output.errors.descriptor = -1;
    Status status = open_all(job);
    if (status != STATUS_OK) {
        batch_job_close(job);
        return status;
    }
    session->request_count_max = job->state.lines;
    *out = job;
    return STATUS_OK;
}

void batch_job_close(BatchJob *job) {
    if (!job) return;
    while (job->items)
        item_destroy(job->items);
    for (int64_t i = 0; job->held && i < job->settings->reorder_window; i++)
        free(job->held[i].text);
    free(job->held);
    batch_output_close(&job->output);
    line_reader_close(&job->reader);
    id_set_free(&job->seen);
    if (job->input >= 0) close(job->input);
    free(job->state_path);
    free(job->errors_path);
    free(job);
}

/* ---- running ---- */

static ProgressState progress_state(const BatchJob *job) {
    const EngineStats of_ranks = engine_stats_of_ranks(job->session->engine), *stats = &of_ranks;
    uint64_t now = job->lines_ok + job->lines_failed;
    ProgressState state = {
        .lines_done = now + job->lines_skipped,
        .lines_total = job->state.lines,
        .lines_now = now,
        .bytes_read = job->bytes_submitted,
        .bytes_total = job->state.digest.bytes - job->bytes_skipped,
        .prompt_tokens = stats->prompt_tokens,
        .generated_tokens = stats->generated_tokens,
        .running = stats->running,
        .spills = tier_view_spills(stats) || tier_view_streams(stats),
        .hit_share = tier_view_hit_share(stats),
        .stall_share = tier_view_stall_share(stats),
    };
    for (int tier = 0; tier < TIER_COUNT; tier++)
        state.kv_shares[tier] = tier_view_used_share(stats, (Tier)tier);
    return state;
}

static Status run_steps(BatchJob *job) {
    Session *session = job->session;
    bool idle = false;
    while (!idle || job->waiting || !job->input_ended) {
        bool stopping = engine_stop_seen(session->engine) != STOP_NONE;
        if (stopping && idle) return STATUS_OK;
        if (!stopping) TRY(feed(job));
        TRY(session_step(session, &idle));
        TRY(job->status);
        double now = monotonic_seconds();
        TRY(batch_output_tick(&job->output, now));
        const ProgressState state = progress_state(job);
        progress_tick(&job->progress, &state, now);
    }
    return STATUS_OK;
}

static Status write_end(BatchJob *job) {
    BatchState *state = &job->state;
    snprintf(state->status, sizeof state->status, "completed");
    state->finished_at = time(NULL);
    state->completed = job->output.done_ok + job->lines_ok;
    state->failed = job->output.done_failed + job->lines_failed;
    return batch_state_write(job->state_path, state);
}

static void count_for_summary(BatchJob *job) {
    Session *session = job->session;
    session->lines_ok = job->lines_ok;
    session->lines_failed = job->lines_failed;
    session->lines_skipped = job->lines_skipped;
}

Status batch_job_run(BatchJob *job) {
    Session *session = job->session;
    const Settings *settings = session->settings;
    ProgressStyle style = settings->quiet || settings->no_progress
                              ? PROGRESS_NONE
                              : progress_style(settings->progress, STDERR_FILENO);
    progress_begin(&job->progress, style, STDERR_FILENO, monotonic_seconds());
    Status status = run_steps(job);
    if (status == STATUS_OK || status == STATUS_STOPPED) {
        const ProgressState state = progress_state(job);
        progress_end(&job->progress, &state, monotonic_seconds());
    }
    count_for_summary(job);
    Status synced = batch_output_sync(&job->output);
    TRY(status);
    TRY(synced);
    uint64_t left = job->state.lines - job->lines_ok - job->lines_failed - job->lines_skipped;
    if (engine_stop_seen(session->engine) != STOP_NONE && left > 0)
        FAIL(STOPPED,
             "stopped on request with %" PRIu64 " of %" PRIu64
             " lines to do; the same command goes on with them",
             left, job->state.lines);
    TRY(write_end(job));
    log_note("answers are in \"%s\"%s%s%s", settings->output,
             job->errors_path ? ", failures in \"" : "", job->errors_path ? job->errors_path : "",
             job->errors_path ? "\"" : "");
    uint64_t failed = job->state.failed;
    if (settings->fail_on_request_error && failed > 0)
        FAIL(REQUESTS_FAILED, "%" PRIu64 " requests failed (--fail-on-request-error)", failed);
    return STATUS_OK;
}
