#include "launch/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "build_libraries.h"
#include "launch/model_defaults.h"
#include "launch/model_open.h"
#include "launch/session_placement.h"
#include "launch/stop.h"
#include "launch/summary.h"
#include "launch/tier_view.h"
#include "runtime/base/log.h"
#include "runtime/base/monotonic.h"
#include "runtime/text/utf8.h"

enum { MODEL_NAME_BYTES = 128 };

/* ---- hooks of the engine ---- */

static StopRequest stop_with_deadline(void *user) {
    Session *session = user;
    StopRequest request = stop_requested();
    if (request != STOP_DRAIN) return request;
    double now = monotonic_seconds();
    if (session->drain_seconds == 0) {
        session->drain_seconds = now;
        log_note("stopping: running requests have %.0f s to finish (--drain-timeout)",
                 session->settings->drain_timeout_s);
    }
    bool late = now - session->drain_seconds > session->settings->drain_timeout_s;
    return late ? STOP_HURRY : STOP_DRAIN;
}

static void unit_begin(void *user, const char *phase) {
    watchdog_unit_begin(((Session *)user)->ranks.watchdog, phase);
}

static void unit_end(void *user) {
    watchdog_unit_end(((Session *)user)->ranks.watchdog);
}

static void load_begin(void *user, const char *part) {
    watchdog_load_begin(((Session *)user)->ranks.watchdog, part);
}

static Status device_open(void *user, const char *device) {
    Session *session = user;
    return ranks_watch_device(&session->ranks, device, session->settings->comm_timeout_s);
}

static void print_state(void *user) {
    const Session *session = user;
    if (!session->engine) {
        log_note("state: loading");
        return;
    }
    const EngineStats *stats = engine_stats(session->engine);
    log_note("state: step %llu, running %u, waiting %u, prompt tokens %llu, generated tokens %llu, "
             "KV %llu of %llu bytes",
             (unsigned long long)stats->steps, stats->running, stats->waiting,
             (unsigned long long)stats->prompt_tokens, (unsigned long long)stats->generated_tokens,
             (unsigned long long)stats->tiers[TIER_DEVICE].used_bytes,
             (unsigned long long)stats->tiers[TIER_DEVICE].capacity_bytes);
}

/* ---- opening ---- */

static void place_rank(void *user, int local_rank) {
    Session *session = user;
    session->bound = rank_place_bind(session->settings, local_rank, &session->place);
}

/* Every rank tells its own, unless it is like all others: without a device on the bus, on a machine of one node. */
static void print_place(const Session *session) {
    const RankPlace *place = &session->place;
    char text[RANK_PLACE_TEXT_BYTES];
    if (!place->found) return;
    rank_place_text(place, text);
    log_line(LOG_INFO, "session", "rank %d%s: %s", session->ranks.comm->rank,
             session->bound ? " is bound to the node of its device" : "", text);
}

/* The effective options as text, for the ranks to compare. */
static Status start_ranks(Session *session) {
    const Settings *settings = session->settings;
    char *text;
    size_t text_bytes;
    FILE *memory = open_memstream(&text, &text_bytes);
    if (!memory) FAIL(MEMORY, "no memory to compare the settings of the ranks");
    options_print_config(settings->options, memory);
    fclose(memory);
    const RanksFact facts[] = {{"program", BUILD_VERSION}, {"settings", text}};
    const RanksOptions options = {
        .size = (int)settings->ranks,
        .threads = (uint32_t)settings->threads,
        .comm_timeout_seconds = settings->comm_timeout_s,
        .place = place_rank,
        .place_user = session,
        .facts = facts,
        .fact_count = sizeof facts / sizeof *facts,
    };
    Status status = ranks_start(&session->ranks, &options);
    free(text);
    return status;
}

/* A model without a tokenizer, or with a template that is not known, is good for commands without text. */
static Status open_text(Session *session, const SessionPlan *plan) {
    const char *text, *choice = session->settings->chat_template;
    error_capture_begin();
    Status status = tokenizer_create(&session->tokenizer, session->weights);
    error_capture_end();
    ErrorCode error = error_last(&text);
    if (status != STATUS_OK) return plan->needs_text ? error_raise(error, "%s", text) : STATUS_OK;
    if (strcmp(choice, "auto") != 0)
        return chat_template_choose(session->weights, choice, &session->chat);
    error_capture_begin();
    status = chat_template_choose(session->weights, choice, &session->chat);
    error_capture_end();
    if (status == STATUS_OK) return STATUS_OK;
    error_last(&text);
    session->chat = NULL;
    snprintf(session->chat_refusal, sizeof session->chat_refusal, "%s", text);
    return STATUS_OK;
}

static Status open_model(Session *session, const SessionPlan *plan) {
    TRY(kv_sizes_resolve(session->settings, session->ranks.comm->local_size, &session->kv_sizes));
    TRY(weight_sizes_resolve(session->settings, &session->kv_sizes, &session->weight_sizes));
    TRY(model_open(session->settings, false, &session->weights));
    TRY(open_text(session, plan));
    if (session->settings->kv_trace)
        TRY(kv_trace_read(&session->kv_trace, session->settings->kv_trace));
    return model_defaults_read(session->settings, session->weights, &session->sampling);
}

static Status agree_on_model(Session *session) {
    char fingerprint[32];
    snprintf(fingerprint, sizeof fingerprint, "%016llx",
             (unsigned long long)weights_fingerprint(session->weights));
    const RanksFact fact = {"model", fingerprint};
    return ranks_agree(&session->ranks, &fact, 1);
}

static uint32_t sequence_count_max(const Session *session) {
    uint64_t asked = (uint64_t)session->settings->max_num_seqs, most = session->request_count_max;
    return (uint32_t)(most > 0 && most < asked ? most : asked);
}

/* So that waits for two of them in a row do not look like a rank that hangs. */
static double io_timeout_seconds(const Settings *settings) {
    double most = settings->comm_timeout_s / 3;
    return settings->io_timeout_s < most ? settings->io_timeout_s : most;
}

/* A rank that waits on its device for the others knows which call it is: it speaks before the watchdog does, and the rank whose device
 * hangs before that (three quarters). */
static double sum_timeout_seconds(const Settings *settings) {
    return settings->comm_timeout_s * 9 / 10;
}

/* Placement changes no arithmetic, so every engine of a session has it. */
static void add_weight_options(const Session *session, EngineOptions *options) {
    const WeightSizes *sizes = &session->weight_sizes;
    memcpy(options->weight_bytes, sizes->bytes, sizeof options->weight_bytes);
    memcpy(options->weight_per_cent, sizes->per_cent, sizeof options->weight_per_cent);
    options->weight_nvme_dirs = sizes->nvme_dirs;
    options->weight_nvme_dir_count = sizes->nvme_dir_count;
    options->packed_weights = session->settings->packed_weights;
    options->memory_limit_bytes = sizes->memory_limit_bytes;
}

/* An engine that keeps keys and values as they are, in the device's memory. */
static EngineOptions plain_options(Session *session) {
    const Settings *settings = session->settings;
    EngineOptions options = {
        .backend = settings->backend,
        .emulation_seed = (uint64_t)settings->emulation_seed,
        .emulation_bytes = settings->emulation_memory.bytes,
        .cpu_isa = settings->cpu_isa,
        .thread_count = session->ranks.threads,
        .max_model_len = (uint32_t)settings->max_model_len,
        .max_num_seqs = sequence_count_max(session),
        .max_num_seqs_auto =
            !session->runs_together &&
            options_source(settings->options, "max-num-seqs") == OPTION_SOURCE_DEFAULT,
        .max_num_batched_tokens = (uint32_t)settings->max_num_batched_tokens,
        .block_tokens = (uint32_t)settings->block_size,
        .kv_placement = settings->kv_placement,
        .kv_trace = session->kv_trace.accesses,
        .kv_trace_count = session->kv_trace.count,
        .io_engine = settings->io,
        .io_depth = (uint32_t)settings->io_depth,
        .io_timeout_seconds = io_timeout_seconds(settings),
        .corrupt_max = (uint32_t)settings->max_corrupt,
        .corrupt_is_fatal = strcmp(settings->on_corrupt, "fail") == 0,
        .comm = settings->comm,
        .comm_timeout_seconds = sum_timeout_seconds(settings),
        .hooks = {.user = session,
                  .stop_requested = stop_with_deadline,
                  .unit_begin = unit_begin,
                  .unit_end = unit_end,
                  .device_open = device_open,
                  .load_begin = load_begin},
    };
    add_weight_options(session, &options);
    return options;
}

/* A plan of faults belongs to one thread: those of weights, "weights.io.read:eio", have a plan of their own. */
static Status add_faults(Session *session, EngineOptions *options) {
    static const char prefix[] = "weights.";
    const OptionList *faults = &session->settings->fault;
    for (size_t i = 0; i < faults->count; i++) {
        const char *text = faults->items[i];
        bool of_weights = strncmp(text, prefix, strlen(prefix)) == 0;
        TRY(io_fault_add(of_weights ? &session->weight_faults : &session->faults,
                         of_weights ? text + strlen(prefix) : text));
    }
    io_fault_keep_rank(&session->faults, session->ranks.comm->rank);
    io_fault_keep_rank(&session->weight_faults, session->ranks.comm->rank);
    io_fault_take_device(&session->faults, &options->device_failures);
    io_fault_take_device(&session->weight_faults, &options->device_failures);
    if (session->faults.row_count > 0) options->io_faults = &session->faults;
    if (session->weight_faults.row_count > 0) options->weight_faults = &session->weight_faults;
    return STATUS_OK;
}

/* What saves memory of keys and values, and what is told about it. */
static Status add_kv_options(Session *session, EngineOptions *options) {
    const Settings *settings = session->settings;
    memcpy(options->kv_bytes, session->kv_sizes.bytes, sizeof options->kv_bytes);
    options->kv_device_per_cent = session->kv_sizes.device_per_cent;
    options->kv_nvme_dirs = session->kv_sizes.nvme_dirs;
    options->kv_nvme_dir_count = session->kv_sizes.nvme_dir_count;
    options->kv_codec = settings->kv_codec;
    options->kv_tier_codecs[TIER_HOST] = settings->kv_host_codec;
    options->kv_tier_codecs[TIER_NVME] = settings->kv_nvme_codec;
    options->attend_host = strcmp(settings->attend, "host") == 0;
    options->kv_residual = settings->kv_residual;
    options->codec_during_prefill = settings->codec_during_prefill;
    if (settings->kv_trace_out && session->ranks.comm->rank == 0) {
        TRY(kv_trace_create(&session->kv_trace_writer, settings->kv_trace_out));
        options->kv_record = kv_trace_add;
        options->kv_record_user = &session->kv_trace_writer;
    }
    return add_faults(session, options);
}

static Status open_engine(Session *session, const EngineOptions *options) {
    error_capture_begin();
    Status status = engine_open(&session->engine, options, session->weights, session->tokenizer,
                                session->ranks.comm);
    error_capture_end();
    TRY(ranks_vote_captured(&session->ranks, status));
    const RanksFact fact = {"kernels", engine_kernels_name(session->engine)};
    session->loaded_seconds = monotonic_seconds();
    return ranks_agree(&session->ranks, &fact, 1);
}

static void print_tiers(const Session *session) {
    const EngineStats *stats = engine_stats(session->engine);
    if (stats->tiers[TIER_HOST].capacity_bytes + stats->tiers[TIER_NVME].capacity_bytes == 0)
        return;
    log_line(LOG_INFO, "session",
             "KV spills: host %.1f MiB, nvme %.1f MiB a rank, placement %s, %u sequences at once",
             (double)stats->tiers[TIER_HOST].capacity_bytes / 1048576,
             (double)stats->tiers[TIER_NVME].capacity_bytes / 1048576,
             session->settings->kv_placement, engine_max_num_seqs(session->engine));
    const RingFacts *ring = engine_ring(session->engine);
    const SpillFile *file;
    const char *variable = session->kv_sizes.scratch.variable;
    char text[512];
    for (uint32_t i = 0; (file = engine_spill_file(session->engine, i)); i++) {
        spill_file_describe(file, text, sizeof text);
        log_line(LOG_INFO, "session", "spill file in \"%s\"%s%s: %s",
                 session->kv_sizes.nvme_dirs[i], variable ? ", which is $" : "",
                 variable ? variable : "", text);
    }
    if (!ring) return;
    ring_describe(ring, text, sizeof text);
    log_line(LOG_INFO, "session", "spill I/O: %s", text);
}

static void print_weight_tiers(const Session *session) {
    const EngineWeightStats *weights = &engine_stats(session->engine)->weights;
    const WeightStream *stream = engine_weight_stream(session->engine);
    const SpillFile *file;
    char text[512];
    if (!stream && weights->bytes[TIER_HOST] == 0) return;
    log_line(LOG_INFO, "session",
             "packed layers a rank: device %.1f MiB, host %.1f MiB, streamed %.1f MiB",
             (double)weights->bytes[TIER_DEVICE] / 1048576,
             (double)weights->bytes[TIER_HOST] / 1048576,
             (double)weights->bytes[TIER_NVME] / 1048576);
    for (uint32_t i = 0; stream && (file = weight_stream_file(stream, i)); i++) {
        spill_file_describe(file, text, sizeof text);
        log_line(LOG_INFO, "session", "weight file in \"%s\": %s",
                 session->weight_sizes.nvme_dirs[i], text);
    }
    if (!stream) return;
    ring_describe(weight_stream_ring(stream), text, sizeof text);
    log_line(LOG_INFO, "session", "weight I/O: %s", text);
}

/* What it took to open this engine. */
static double load_seconds(const Session *session) {
    return session->loaded_seconds - session->started_seconds - session->reference_seconds;
}

static void print_codec(const Session *session) {
    const EngineStats *stats = engine_stats(session->engine);
    if (stats->kv_pack_blocks == 0) return;
    log_line(LOG_INFO, "session",
             "KV codec %s: blocks older than the newest %u tokens, %u to a slot of %.1f KiB",
             session->settings->kv_codec, stats->kv_residual_tokens, stats->kv_pack_blocks,
             (double)stats->kv_block_bytes / 1024);
    if (session->settings->codec_during_prefill)
        log_note("--codec-during-prefill: chunks of a prompt read what is encoded of those before "
                 "them, so its own forward pass is lossy, too");
}

static void print_tier_codecs(const Session *session) {
    const Settings *settings = session->settings;
    if (codec_is_raw(codec_find(settings->kv_host_codec)) &&
        codec_is_raw(codec_find(settings->kv_nvme_codec)))
        return;
    log_line(LOG_INFO, "session",
             "KV codecs on spill: host %s, nvme %s, of blocks older than the newest %u tokens",
             settings->kv_host_codec, settings->kv_nvme_codec,
             engine_stats(session->engine)->kv_residual_tokens);
    log_note("--kv-host-codec, --kv-nvme-codec: which blocks are encoded follows from budgets and "
             "timing, and "
             "so do answers; --kv-codec depends on token counts alone");
}

static void print_attend(const Session *session) {
    const char *kernels = engine_host_kernels_name(session->engine);
    if (!kernels) return;
    log_line(LOG_INFO, "session",
             "attention: decode attends blocks in host memory there, kernels %s, the others on the "
             "device",
             kernels);
    log_note("--attend host: which blocks the CPU attends follows from budgets and timing, and so "
             "do the last bits of logits; --attend device gives the same bits at any budget");
}

static void print_banner(const Session *session) {
    const ModelConfig *model = engine_model(session->engine);
    const EngineStats *stats = engine_stats(session->engine);
    log_line(LOG_INFO, "session",
             "spillway %s, model %s (%s, %u layers), kernels %s, ranks %d, threads %u a rank",
             BUILD_VERSION, session_model_name(session), model->architecture, model->layer_count,
             engine_kernels_name(session->engine), session->ranks.comm->size,
             session->ranks.threads);
    log_line(LOG_INFO, "session",
             "context %u tokens, KV %.1f MiB a rank in blocks of %u tokens, weights %.1f MiB a "
             "rank, loaded in %.2f s",
             engine_max_model_len(session->engine),
             (double)stats->tiers[TIER_DEVICE].capacity_bytes / 1048576, stats->kv_block_tokens,
             (double)stats->weight_bytes / 1048576, load_seconds(session));
    const char *sums = engine_sums_text(session->engine);
    if (sums[0]) log_line(LOG_INFO, "session", "sums over ranks: %s", sums);
    if (stats->random_weights)
        log_note(
            "the weights are random numbers (%s, seed %lld): it measures speed and memory, and "
            "what it answers means nothing",
            stats->weight_type, (long long)session->settings->weight_seed);
    else if (stats->weight_type)
        log_line(LOG_INFO, "session", "matrices of layers are encoded as %s", stats->weight_type);
}

static Status open_files(Session *session, const SessionPlan *plan) {
    error_capture_begin();
    Status status = open_model(session, plan);
    error_capture_end();
    TRY(ranks_vote_captured(&session->ranks, status));
    TRY(agree_on_model(session));
    if (session->ranks.comm->rank == 0 && plan->prepare)
        status = plan->prepare(session, plan->user);
    TRY(ranks_vote(&session->ranks, status));
    return comm_broadcast(session->ranks.comm, 0, &session->request_count_max,
                          sizeof session->request_count_max);
}

/* ---- work ---- */

static Status tell_summary(const Session *session, const SessionPlan *plan) {
    PlanChoice hindsight;
    if (session->plan_predicts)
        hindsight = session_placement_hindsight(session, engine_stats(session->engine));
    const Summary summary = {
        .stats = engine_stats(session->engine),
        .lines_ok = session->lines_ok,
        .lines_failed = session->lines_failed,
        .lines_skipped = session->lines_skipped,
        .seconds_total = monotonic_seconds() - session->started_seconds,
        .seconds_load = load_seconds(session),
        .decode_tokens = session->decode_tokens,
        .plan = session->plan_predicts ? &session->plan : NULL,
        .hindsight = session->plan_predicts ? &hindsight : NULL,
    };
    if (plan->tells_summary && !session->settings->quiet) summary_print(&summary, stderr);
    if (!session->settings->summary_json) return STATUS_OK;
    return summary_write_json(&summary, session->settings->summary_json);
}

/* A socket that was asked for must work; one of our own is only missed. */
static Status open_tier_socket(Session *session) {
    const char *choice = session->settings->tiers_socket, *reason;
    const TierJob job = {.engine = session->engine,
                         .model = session_model_name(session),
                         .rank_count = session->ranks.comm->size,
                         .started_seconds = session->started_seconds};
    if (strcmp(choice, "none") == 0) return STATUS_OK;
    if (strcmp(choice, "auto") != 0) return tier_socket_open(&session->tier_socket, choice, &job);
    const EngineStats *stats = engine_stats(session->engine);
    if (!tier_view_spills(stats) && !tier_view_streams(stats)) return STATUS_OK;
    error_capture_begin();
    Status status = tier_socket_open(&session->tier_socket, NULL, &job);
    error_capture_end();
    error_last(&reason);
    if (status != STATUS_OK) log_note("spillway tiers cannot ask this job: %s", reason);
    return STATUS_OK;
}

/* An error that the other ranks cannot know of ends the job from here. */
static Status lead(Session *session, Status (*work)(Session *session, void *user), void *user) {
    print_banner(session);
    print_codec(session);
    print_tier_codecs(session);
    print_attend(session);
    print_weight_tiers(session);
    print_tiers(session);
    Status status = open_tier_socket(session);
    if (status == STATUS_OK) status = work(session, user);
    tier_socket_close(&session->tier_socket);
    bool engine_broken = status == STATUS_DEVICE || status == STATUS_PEER;
    if (engine_broken && session->ranks.comm->size > 1)
        ranks_abort(&session->ranks, error_exit_code(status));
    Status stopped = engine_stop(session->engine);
    Status traced = kv_trace_finish(&session->kv_trace_writer);
    if (status != STATUS_OK) return status;
    return stopped == STATUS_OK ? traced : stopped;
}

static Status follow(Session *session) {
    Status status = engine_follow(session->engine);
    if (status != STATUS_OK) ranks_abort(&session->ranks, error_exit_code(status));
    return status;
}

static Status run_reference(Session *session, const SessionPlan *plan) {
    const char *isa = session->settings->reference_isa;
    double start = monotonic_seconds();
    EngineOptions options = plain_options(session);
    if (strcmp(isa, "same") != 0) options.cpu_isa = isa;
    TRY(open_engine(session, &options));
    Status status = session->ranks.comm->rank == 0 ? lead(session, plan->reference_work, plan->user)
                                                   : follow(session);
    TRY(ranks_vote(&session->ranks, status));
    Engine *engine = session->engine;
    session->engine = NULL;
    engine_close(engine);
    session->decode_steps = session->decode_tokens = 0;
    session->reference_seconds = monotonic_seconds() - start;
    return STATUS_OK;
}

static Status lead_work(Session *session, const SessionPlan *plan) {
    Status status = lead(session, plan->work, plan->user);
    Status summed =
        status == STATUS_OK || status == STATUS_STOPPED ? tell_summary(session, plan) : STATUS_OK;
    return status == STATUS_OK ? summed : status;
}

static Status run_all(Session *session, const SessionPlan *plan) {
    TRY(open_files(session, plan));
    if (session->settings->dry_run) {
        if (session->ranks.comm->rank == 0)
            log_note("dry run: %s and its files are in order; %d rank%s of %u threads would run it",
                     session_model_name(session), session->ranks.comm->size,
                     session->ranks.comm->size == 1 ? "" : "s", session->ranks.threads);
        return STATUS_OK;
    }
    if (plan->reference_work) TRY(run_reference(session, plan));
    EngineOptions options = plain_options(session);
    error_capture_begin();
    Status status = add_kv_options(session, &options);
    error_capture_end();
    TRY(ranks_vote_captured(&session->ranks, status));
    TRY(session_placement_choose(session, plan->prompt_tokens, &options));
    TRY(open_engine(session, &options));
    status = session->ranks.comm->rank == 0 ? lead_work(session, plan) : follow(session);
    return ranks_vote(&session->ranks, status);
}

static void name_rank_in_log(const Session *session) {
    static char host[64];
    if (session->ranks.comm->size == 1) return;
    gethostname(host, sizeof host - 1);
    LogOptions options = *log_configured();
    options.rank = session->ranks.comm->rank;
    options.host = host;
    log_configure(&options);
}

int session_run(const Settings *settings, const SessionPlan *plan) {
    Session session = {.settings = settings,
                       .runs_together = plan->runs_together,
                       .started_seconds = monotonic_seconds()};
    Status status = stop_install(print_state, &session);
    if (status == STATUS_OK) status = start_ranks(&session);
    if (status != STATUS_OK) return error_exit_code(status);
    name_rank_in_log(&session);
    print_place(&session);
    weights_guard_install();
    status = run_all(&session, plan);
    int exit_code = error_exit_code(status);
    engine_close(session.engine);
    session.engine = NULL;
    kv_trace_free(&session.kv_trace);
    tokenizer_destroy(session.tokenizer);
    weights_close(session.weights);
    ranks_stop(&session.ranks, exit_code);
    return exit_code;
}

/* ---- what commands use ---- */

Status session_step(Session *session, bool *out_idle) {
    const EngineStats *stats = engine_stats(session->engine);
    double decode_before = stats->seconds_decode;
    uint64_t generated_before = stats->generated_tokens;
    TRY(engine_step(session->engine, out_idle));
    tier_socket_serve(&session->tier_socket);
    if (stats->seconds_decode > decode_before) {
        session->decode_steps++;
        session->decode_tokens += stats->generated_tokens - generated_before;
    }
    return STATUS_OK;
}

Status session_run_until_idle(Session *session) {
    bool idle = false;
    while (!idle)
        TRY(session_step(session, &idle));
    if (engine_stop_seen(session->engine) == STOP_NONE) return STATUS_OK;
    FAIL(STOPPED, "stopped on request before the end");
}

void session_request(const Session *session, const TokenList *tokens, Request *out) {
    const Settings *settings = session->settings;
    uint32_t context = engine_max_model_len(session->engine);
    uint32_t max_tokens = (uint32_t)settings->max_tokens;
    bool given = options_source(settings->options, "max-tokens") != OPTION_SOURCE_DEFAULT;
    if (!given && tokens->count < context && max_tokens > context - tokens->count)
        max_tokens = context - (uint32_t)tokens->count;
    *out = (Request){
        .prompt = tokens->tokens,
        .prompt_count = (uint32_t)tokens->count,
        .max_tokens = max_tokens,
        .ignore_eos = settings->ignore_eos,
        .stops = settings->stop.items,
        .stop_count = (uint32_t)settings->stop.count,
        .sampling = session->sampling,
    };
}

Status session_encode_prompt(const Session *session, const char *text, size_t text_bytes,
                             TokenList *out) {
    const Settings *settings = session->settings;
    const ChatTemplate *chat = settings->raw ? NULL : session->chat;
    if (!chat && !settings->raw && session->chat_refusal[0])
        FAIL(CHAT_TEMPLATE, "%s", session->chat_refusal);
    if (!chat)
        return tokenizer_encode(session->tokenizer, text, text_bytes, TOKENIZE_ADD_SPECIAL, out);
    const char *system = settings->system ? settings->system : "";
    const ChatMessage messages[] = {{"system", system, strlen(system)}, {"user", text, text_bytes}};
    size_t skipped = settings->system ? 0 : 1;
    TextBuffer prompt = {0};
    Status status = chat->render(chat, messages + skipped, 2 - skipped, true, &prompt);
    if (status == STATUS_OK)
        status = tokenizer_encode(session->tokenizer, prompt.text, prompt.bytes,
                                  TOKENIZE_PARSE_SPECIAL, out);
    text_buffer_free(&prompt);
    return status;
}

ApiDefaults session_api_defaults(const Session *session) {
    const Settings *settings = session->settings;
    return (ApiDefaults){
        .sampling = session->sampling,
        .max_tokens = (uint32_t)settings->max_tokens,
        .stops = settings->stop.items,
        .stop_count = (uint32_t)settings->stop.count,
        .ignore_eos = settings->ignore_eos,
        .served_model_name = settings->served_model_name,
    };
}

const char *session_model_name(const Session *session) {
    static char name[MODEL_NAME_BYTES];
    const Settings *settings = session->settings;
    if (settings->served_model_name) return settings->served_model_name;
    size_t bytes = strlen(settings->model);
    while (bytes > 1 && settings->model[bytes - 1] == '/')
        bytes--;
    size_t start = bytes;
    while (start > 0 && settings->model[start - 1] != '/')
        start--;
    snprintf(name, sizeof name, "%.*s", (int)(bytes - start), settings->model + start);
    char *suffix = strstr(name, ".gguf");
    if (suffix && suffix[5] == 0) *suffix = 0;
    utf8_repair(name, strlen(name));
    return name;
}
