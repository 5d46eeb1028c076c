#include "runtime/engine/engine.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "kernels/backend.h"
#include "runtime/base/arena.h"
#include "runtime/base/bytes.h"
#include "runtime/base/hash.h"
#include "runtime/base/invariant.h"
#include "runtime/base/log.h"
#include "runtime/base/monotonic.h"
#include "runtime/engine/forward.h"
#include "runtime/engine/scheduler.h"
#include "runtime/engine/sequence.h"
#include "runtime/engine/step_plan.h"

enum {
    QUEUE_COUNT = 4096,
    HEAD_ROWS_MAX = 128, /* rows of one head call: bounds logits memory */
    SLOTS_MAX = 256,
};

/* What every rank says after a step. */
typedef struct RankReport {
    uint64_t step, digest;
    uint32_t stop; /* StopRequest seen by that rank */
    uint32_t status;
} RankReport;

/* Which row of the batch a logits row belongs to, on rank 0. */
typedef struct LogitOwner {
    uint32_t task;
    uint32_t position;
} LogitOwner;

struct Engine {
    EngineOptions options;
    const Weights *weights;
    const Tokenizer *tokenizer; /* NULL: tokens only */
    Comm *comm;
    Device *device;
    Kernels kernels;
    KernelContext context;
    ModelConfig config;
    Model model;
    KvCache *cache;
    Pass pass;
    PassTimes times;
    LogitsGather gather;
    Arena activations;
    PlanChannel channel;
    uint32_t head_rows;

    /* the batch of the step; arrays sized by the token budget */
    Batch batch;
    BatchSequence *batch_sequences;
    uint32_t *positions;
    uint32_t *logit_rows;

    /* rank 0 */
    Scheduler *scheduler;
    Sequence *sequences; /* by scheduler task */
    ScheduledRun *runs;  /* [slots] */
    LogitOwner *owners;  /* [token budget] */
    uint32_t *closes;    /* [slots] to close with the next plan */
    uint32_t close_count;
    SamplerWorkspace **samplers; /* [threads] */
    SamplerOutput *sampled;      /* [head rows] */
    Status *sample_status;       /* [head rows] */
    RankReport *reports;         /* [ranks] */
    uint64_t *report_bytes;      /* [ranks] */
    StopRequest stop;
    EngineStats stats;
};

/* ---- opening ---- */

static uint64_t available_memory_bytes(void) {
    FILE *file = fopen("/proc/meminfo", "re");
    unsigned long long kib = 1 << 20;
    char line[128];
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1) break;
    if (file) fclose(file);
    return kib << 10;
}

static Status check_options(Engine *engine) {
    EngineOptions *options = &engine->options;
    if (options->max_model_len == 0) options->max_model_len = engine->config.context_length;
    if (options->max_model_len > engine->config.context_length)
        FAIL(USAGE, "--max-model-len %u: the model was made for at most %u tokens",
             options->max_model_len, engine->config.context_length);
    if (options->max_num_seqs == 0 || options->max_num_seqs > SLOTS_MAX)
        FAIL(USAGE, "--max-num-seqs %u: 1 to %d are possible", options->max_num_seqs, SLOTS_MAX);
    if (options->max_num_batched_tokens < options->max_num_seqs)
        options->max_num_batched_tokens = options->max_num_seqs;
    uint32_t ranks = (uint32_t)engine->comm->size;
    if (options->block_tokens == 0)
        options->block_tokens = kv_block_tokens_auto(
            (uint32_t)divide_up(engine->config.kv_head_count, ranks), engine->config.head_dim);
    if (!is_power_of_two(options->block_tokens) || options->block_tokens > 4096)
        FAIL(USAGE, "--block-size %u: a power of two up to 4096 is needed", options->block_tokens);
    return STATUS_OK;
}

static Status open_backend(Engine *engine) {
    BackendOptions backend = {.cpu_isa = engine->options.cpu_isa};
    TRY(backend_open(engine->options.backend, &backend, &engine->device, &engine->kernels));
    const ModelConfig *config = &engine->config;
    uint64_t attention_width = (uint64_t)config->head_count * config->head_dim;
    uint64_t widest = config->hidden_size;
    if (config->intermediate_size > widest) widest = config->intermediate_size;
    if (attention_width > widest) widest = attention_width;
    if (config->embedding_size > widest) widest = config->embedding_size;
    KernelLimits limits = {.row_count = engine->options.max_num_batched_tokens,
                           .column_count = (uint32_t)widest,
                           .head_count = config->head_count,
                           .head_dim = config->head_dim,
                           .block_tokens = engine->options.block_tokens};
    engine->context.thread_count = engine->options.thread_count;
    engine->context.scratch_bytes =
        engine->kernels.scratch_bytes(&limits, engine->options.thread_count);
    return memory_take(&engine->context.scratch, engine->context.scratch_bytes, 1,
                       "kernel scratch");
}

/* Blocks of one layer that this rank's budget holds. */
static uint32_t affordable_blocks(const Engine *engine, const KvShape *shape) {
    uint64_t layer_block_bytes = align_up(kv_block_bytes(shape), 64) * engine->config.layer_count;
    uint64_t needed = (uint64_t)engine->options.max_num_seqs *
                      divide_up(engine->options.max_model_len, engine->options.block_tokens);
    uint64_t budget = engine->options.kv_device_bytes;
    if (budget == 0) budget = available_memory_bytes() / 2 / (uint64_t)engine->comm->size;
    uint64_t blocks = budget / layer_block_bytes;
    if (blocks > needed) blocks = needed;
    uint64_t most = (BLOCK_NONE - 1) / engine->config.layer_count;
    return (uint32_t)(blocks < most ? blocks : most);
}

typedef struct OpenVote {
    uint32_t status;
    uint32_t block_count;
    RankShare share;
} OpenVote;

/* Ranks agree on the smallest capacity and learn each other's shares; when one failed, all leave with its status. */
static Status agree(Engine *engine, Status mine, uint32_t *block_count) {
    int size = engine->comm->size;
    OpenVote vote = {
        .status = (uint32_t)mine, .block_count = *block_count, .share = engine->model.share};
    void *votes_memory = NULL, *bytes_memory = NULL, *shares_memory = NULL;
    TRY(memory_take(&votes_memory, (uint64_t)size, sizeof(OpenVote), "start-up votes"));
    TRY(memory_take(&bytes_memory, (uint64_t)size, sizeof(uint64_t), "start-up votes"));
    TRY(memory_take(&shares_memory, (uint64_t)size, sizeof(RankShare), "rank shares"));
    OpenVote *votes = votes_memory;
    RankShare *shares = shares_memory;
    engine->gather.part_bytes = bytes_memory;
    engine->gather.shares = shares;
    for (int rank = 0; rank < size; rank++)
        engine->gather.part_bytes[rank] = sizeof(OpenVote);
    Status status = comm_all_gather(engine->comm, &vote, votes, engine->gather.part_bytes);
    for (int rank = 0; rank < size && status == STATUS_OK; rank++) {
        status = votes[rank].status < STATUS_COUNT ? (Status)votes[rank].status : STATUS_PEER;
        shares[rank] = votes[rank].share;
        if (votes[rank].block_count < *block_count) *block_count = votes[rank].block_count;
    }
    free(votes);
    return mine != STATUS_OK ? mine : status;
}

static Status open_model(Engine *engine) {
    TRY(model_read_config(engine->weights, &engine->config));
    TRY(check_options(engine));
    TRY(open_backend(engine));
    ModelLoadOptions load = {.device = engine->device,
                             .kernels = &engine->kernels,
                             .context = &engine->context,
                             .rank = engine->comm->rank,
                             .rank_count = engine->comm->size,
                             .max_model_len = engine->options.max_model_len};
    return model_load(&engine->model, engine->weights, &engine->config, &load);
}

static Status open_cache(Engine *engine, const KvShape *shape, uint32_t block_count) {
    if (block_count == 0)
        FAIL(CONTEXT_LENGTH,
             "--kv-device-size: one block of %u tokens needs %llu bytes in %u layers",
             shape->block_tokens,
             (unsigned long long)(kv_block_bytes(shape) * engine->config.layer_count),
             engine->config.layer_count);
    KvCacheOptions cache = {.device = engine->device,
                            .shape = *shape,
                            .layer_count = engine->config.layer_count,
                            .slot_count = engine->options.max_num_seqs,
                            .row_count_max = engine->options.max_num_batched_tokens,
                            .block_count = block_count * engine->config.layer_count,
                            .model_fingerprint = weights_fingerprint(engine->weights)};
    return kv_cache_create(&engine->cache, &cache);
}

static Status open_pass(Engine *engine) {
    uint32_t rows = engine->options.max_num_batched_tokens;
    engine->head_rows = rows < HEAD_ROWS_MAX ? rows : HEAD_ROWS_MAX;
    uint64_t floats = pass_float_count(&engine->model, rows, engine->head_rows);
    bool joins = engine->comm->size > 1 && engine->comm->rank == 0;
    uint64_t join_floats = joins ? (uint64_t)engine->head_rows * engine->config.vocab_count : 0;
    uint64_t bytes = (floats + 2 * join_floats) * sizeof(float) + 4096;
    void *memory;
    TRY(engine->device->memory_take(engine->device, MEMORY_DEVICE, bytes, "activations", &memory));
    engine->activations = (Arena){.base = memory, .size_bytes = bytes};
    engine->pass = (Pass){.model = &engine->model,
                          .kernels = &engine->kernels,
                          .context = &engine->context,
                          .comm = engine->comm,
                          .cache = engine->cache,
                          .batch = &engine->batch,
                          .times = &engine->times};
    pass_bind(&engine->pass, arena_take(&engine->activations, floats * sizeof(float)), rows,
              engine->head_rows);
    if (joins) {
        engine->gather.parts = arena_take(&engine->activations, join_floats * sizeof(float));
        engine->gather.rows = arena_take(&engine->activations, join_floats * sizeof(float));
    }
    TRY(memory_take((void **)&engine->batch_sequences, engine->options.max_num_seqs,
                    sizeof(BatchSequence), "batch"));
    TRY(memory_take((void **)&engine->positions, rows, sizeof(uint32_t), "batch"));
    TRY(memory_take((void **)&engine->logit_rows, rows, sizeof(uint32_t), "batch"));
    PlanLimits limits = {.slot_count = engine->options.max_num_seqs, .token_budget = rows};
    return plan_channel_create(&engine->channel, engine->comm, &limits);
}

static Status open_rank0(Engine *engine, uint32_t block_count) {
    const EngineOptions *options = &engine->options;
    SchedulerLimits limits = {.slot_count = options->max_num_seqs,
                              .token_budget = options->max_num_batched_tokens,
                              .block_tokens = options->block_tokens,
                              .block_count = block_count,
                              .queue_count = QUEUE_COUNT};
    TRY(scheduler_create(&engine->scheduler, &limits));
    TRY(memory_take((void **)&engine->sequences, limits.slot_count + QUEUE_COUNT, sizeof(Sequence),
                    "sequences"));
    TRY(memory_take((void **)&engine->runs, limits.slot_count, sizeof(ScheduledRun), "schedule"));
    TRY(memory_take((void **)&engine->owners, limits.token_budget, sizeof(LogitOwner), "schedule"));
    TRY(memory_take((void **)&engine->closes, limits.slot_count, sizeof(uint32_t), "schedule"));
    TRY(memory_take((void **)&engine->sampled, engine->head_rows, sizeof(SamplerOutput),
                    "samples"));
    TRY(memory_take((void **)&engine->sample_status, engine->head_rows, sizeof(Status), "samples"));
    TRY(memory_take((void **)&engine->samplers, options->thread_count, sizeof(SamplerWorkspace *),
                    "samplers"));
    for (uint32_t i = 0; i < options->thread_count; i++)
        TRY(sampler_workspace_create(&engine->samplers[i], engine->config.vocab_count));
    return STATUS_OK;
}

static Status open_reports(Engine *engine) {
    int size = engine->comm->size;
    TRY(memory_take((void **)&engine->reports, (uint64_t)size, sizeof(RankReport), "rank reports"));
    return memory_take((void **)&engine->report_bytes, (uint64_t)size, sizeof(uint64_t),
                       "rank reports");
}

static Status open_all(Engine *engine) {
    uint32_t block_count = 0;
    KvShape shape = {0};
    Status status = open_model(engine);
    if (status == STATUS_OK) {
        shape = (KvShape){.kv_head_count = share_count(engine->model.share.kv_heads),
                          .head_dim = engine->config.head_dim,
                          .block_tokens = engine->options.block_tokens};
        block_count = affordable_blocks(engine, &shape);
    }
    TRY(agree(engine, status, &block_count));
    TRY(open_cache(engine, &shape, block_count));
    TRY(open_pass(engine));
    TRY(open_reports(engine));
    if (engine->comm->rank == 0) TRY(open_rank0(engine, block_count));
    engine->stats.kv_block_tokens = shape.block_tokens;
    engine->stats.kv_block_bytes = kv_block_bytes(&shape);
    engine->stats.kv_capacity_bytes =
        (uint64_t)block_count * engine->config.layer_count * align_up(kv_block_bytes(&shape), 64);
    engine->stats.weight_bytes = engine->model.weight_bytes;
    return STATUS_OK;
}

Status engine_open(Engine **out, const EngineOptions *options, const Weights *weights,
                   const Tokenizer *tokenizer, Comm *comm) {
    double start = monotonic_seconds();
    void *memory;
    TRY(memory_take(&memory, 1, sizeof(Engine), "engine"));
    Engine *engine = memory;
    engine->options = *options;
    engine->weights = weights;
    engine->tokenizer = tokenizer;
    engine->comm = comm;
    Status status = open_all(engine);
    if (status != STATUS_OK) {
        engine_close(engine);
        return status;
    }
    engine->stats.seconds_load = monotonic_seconds() - start;
    *out = engine;
    return STATUS_OK;
}

static void close_rank0(Engine *engine) {
    for (uint32_t i = 0; engine->sequences && i < engine->options.max_num_seqs + QUEUE_COUNT; i++)
        if (engine->sequences[i].live) sequence_end(&engine->sequences[i]);
    for (uint32_t i = 0; engine->samplers && i < engine->options.thread_count; i++)
        sampler_workspace_destroy(engine->samplers[i]);
    scheduler_destroy(engine->scheduler);
    free(engine->sequences);
    free(engine->runs);
    free(engine->owners);
    free(engine->closes);
    free(engine->sampled);
    free(engine->sample_status);
    free(engine->samplers);
}

void engine_close(Engine *engine) {
    if (!engine) return;
    close_rank0(engine);
    plan_channel_destroy(&engine->channel);
    kv_cache_destroy(engine->cache);
    model_unload(&engine->model);
    if (engine->activations.base)
        engine->device->memory_give(engine->device, MEMORY_DEVICE, engine->activations.base,
                                    engine->activations.size_bytes);
    free(engine->reports);
    free(engine->report_bytes);
    free(engine->batch_sequences);
    free(engine->positions);
    free(engine->logit_rows);
    free((void *)engine->gather.shares);
    free(engine->gather.part_bytes);
    free(engine->context.scratch);
    if (engine->device) engine->device->close(engine->device);
    free(engine);
}

const ModelConfig *engine_model(const Engine *engine) {
    return &engine->config;
}

uint32_t engine_max_model_len(const Engine *engine) {
    return engine->options.max_model_len;
}

const char *engine_kernels_name(const Engine *engine) {
    return engine->kernels.name;
}

/* ---- requests ---- */

static Status check_request(const Engine *engine, const Request *request) {
    if (request->prompt_count == 0) FAIL(REQUEST, "the prompt is empty");
    for (uint32_t i = 0; i < request->prompt_count; i++)
        if (request->prompt[i] < 0 || (uint32_t)request->prompt[i] >= engine->config.vocab_count)
            FAIL(REQUEST, "token %d at position %u is outside the vocabulary of %u",
                 request->prompt[i], i, engine->config.vocab_count);
    uint64_t total = (uint64_t)request->prompt_count + request->max_tokens;
    if (total > engine->options.max_model_len)
        FAIL(CONTEXT_LENGTH,
             "maximum context length is %u tokens; your request has %u in the prompt and asks for "
             "%u more",
             engine->options.max_model_len, request->prompt_count, request->max_tokens);
    if (!scheduler_fits(engine->scheduler, (uint32_t)total))
        FAIL(CONTEXT_LENGTH,
             "%llu tokens need %llu bytes of KV on a rank; %llu are there (see --kv-device-size)",
             (unsigned long long)total,
             (unsigned long long)(divide_up(total, engine->options.block_tokens) *
                                  engine->stats.kv_block_bytes * engine->config.layer_count),
             (unsigned long long)engine->stats.kv_capacity_bytes);
    if (request->stop_count > REQUEST_STOPS_MAX)
        FAIL(REQUEST, "stop has %u strings; at most %d are possible", request->stop_count,
             REQUEST_STOPS_MAX);
    return sampling_options_check(&request->sampling, engine->config.vocab_count);
}

Status engine_submit(Engine *engine, const Request *request) {
    CHECK(engine->comm->rank == 0 && request->sink.on_finish);
    TRY(check_request(engine, request));
    uint32_t task;
    TRY(scheduler_add(engine->scheduler, request->id, request->prompt_count,
                      request->prompt_count + request->max_tokens, &task));
    Status status = sequence_begin(&engine->sequences[task], request, engine->tokenizer);
    if (status != STATUS_OK) scheduler_remove(engine->scheduler, task);
    return status;
}

static uint32_t task_count(const Engine *engine) {
    return scheduler_running_count(engine->scheduler) + scheduler_waiting_count(engine->scheduler);
}

Status engine_cancel(Engine *engine, uint64_t request_id) {
    for (uint32_t i = 0; i < task_count(engine); i++) {
        uint32_t task = scheduler_task_at(engine->scheduler, i);
        if (engine->sequences[task].request.id != request_id) continue;
        engine->sequences[task].cancelled = true;
        return STATUS_OK;
    }
    return STATUS_NOT_FOUND;
}

static void end_task(Engine *engine, uint32_t task, FinishReason reason, ErrorCode error,
                     const char *error_text) {
    Sequence *sequence = &engine->sequences[task];
    if (sequence->opened)
        engine->closes[engine->close_count++] = scheduler_task(engine->scheduler, task)->slot;
    scheduler_remove(engine->scheduler, task);
    sequence_finish(sequence, reason, error, error_text);
    if (reason == FINISH_ERROR)
        engine->stats.requests_failed++;
    else if (reason == FINISH_CANCELLED)
        engine->stats.requests_cancelled++;
    else
        engine->stats.requests_ok++;
    sequence_end(sequence);
}

/* Ends what was cancelled, what a hurried stop cuts, and what a drain will never start. */
static void end_cancelled(Engine *engine) {
    for (uint32_t i = task_count(engine); i-- > 0;) {
        uint32_t task = scheduler_task_at(engine->scheduler, i);
        bool waiting = i >= scheduler_running_count(engine->scheduler);
        bool stopped = engine->stop == STOP_HURRY || (engine->stop == STOP_DRAIN && waiting);
        if (engine->sequences[task].cancelled || stopped)
            end_task(engine, task, FINISH_CANCELLED, ERROR_COUNT, NULL);
    }
}

/* ---- a step, on every rank ---- */

static void build_batch(Engine *engine, const StepPlan *plan, Batch *out) {
    uint32_t row = 0, logit_row_count = 0;
    for (uint32_t s = 0; s < plan->sequence_count; s++) {
        const PlanSequence *sequence = &plan->sequences[s];
        engine->batch_sequences[s] = (BatchSequence){.slot = sequence->slot,
                                                     .row_first = row,
                                                     .row_count = sequence->token_count,
                                                     .position_first = sequence->position_first};
        for (uint32_t i = 0; i < sequence->token_count; i++, row++) {
            engine->positions[row] = sequence->position_first + i;
            if (i >= sequence->token_count - sequence->logit_count)
                engine->logit_rows[logit_row_count++] = row;
        }
    }
    *out = (Batch){.sequences = engine->batch_sequences,
                   .sequence_count = plan->sequence_count,
                   .tokens = plan->tokens,
                   .positions = engine->positions,
                   .row_count = row,
                   .logit_rows = engine->logit_rows,
                   .logit_row_count = logit_row_count};
}

static Status apply_plan(Engine *engine, const StepPlan *plan) {
    for (uint32_t i = 0; i < plan->close_count; i++)
        kv_cache_close(engine->cache, plan->closes[i]);
    for (uint32_t i = 0; i < plan->open_count; i++)
        TRY(kv_cache_open(engine->cache, plan->opens[i].slot, plan->opens[i].sequence_id,
                          plan->opens[i].token_capacity));
    for (uint32_t i = 0; i < plan->sequence_count; i++) {
        const PlanSequence *sequence = &plan->sequences[i];
        if (kv_cache_token_count(engine->cache, sequence->slot) != sequence->position_first)
            FAIL(RANK_MISMATCH,
                 "rank %d has %u tokens cached in slot %u where the plan of step %llu expects %u",
                 engine->comm->rank, kv_cache_token_count(engine->cache, sequence->slot),
                 sequence->slot, (unsigned long long)plan->step, sequence->position_first);
        /* admission promised the blocks */
        CHECK(kv_cache_extend(engine->cache, sequence->slot, sequence->token_count) == STATUS_OK);
    }
    return STATUS_OK;
}

static StopRequest ask_stop(const Engine *engine) {
    const EngineHooks *hooks = &engine->options.hooks;
    return hooks->stop_requested ? hooks->stop_requested(hooks->user) : STOP_NONE;
}

/* Every rank tells rank 0 that it came through, and whether somebody asked it to stop. */
static Status exchange_reports(Engine *engine, const StepPlan *plan) {
    RankReport report = {
        .step = plan->step, .digest = engine->channel.digest, .stop = ask_stop(engine)};
    if (report.stop > engine->stop) engine->stop = (StopRequest)report.stop;
    if (engine->comm->size == 1) return STATUS_OK;
    for (int rank = 0; rank < engine->comm->size; rank++)
        engine->report_bytes[rank] = sizeof report;
    TRY(comm_gather(engine->comm, 0, &report, engine->comm->rank == 0 ? engine->reports : NULL,
                    engine->report_bytes));
    for (int rank = 0; engine->comm->rank == 0 && rank < engine->comm->size; rank++) {
        const RankReport *theirs = &engine->reports[rank];
        if (theirs->step != report.step || theirs->digest != report.digest)
            FAIL(RANK_MISMATCH, "rank %d disagrees about step %llu", rank,
                 (unsigned long long)plan->step);
        if (theirs->stop > engine->stop && theirs->stop <= STOP_HURRY)
            engine->stop = (StopRequest)theirs->stop;
    }
    return STATUS_OK;
}

typedef Status (*LogitsSink)(Engine *engine, uint32_t first, uint32_t count, const float *logits);

static Status run_step(Engine *engine, const StepPlan *plan, LogitsSink sink) {
    TRY(apply_plan(engine, plan));
    build_batch(engine, plan, &engine->batch);
    if (engine->batch.row_count > 0) TRY(forward_layers(&engine->pass));
    for (uint32_t first = 0; first < engine->batch.logit_row_count; first += engine->head_rows) {
        uint32_t left = engine->batch.logit_row_count - first,
                 count = left < engine->head_rows ? left : engine->head_rows;
        const float *logits;
        TRY(forward_logits(&engine->pass, &engine->gather, first, count, &logits));
        if (sink) TRY(sink(engine, first, count, logits));
    }
    return exchange_reports(engine, plan);
}

static void unit_begin(const Engine *engine, const char *phase) {
    if (engine->options.hooks.unit_begin)
        engine->options.hooks.unit_begin(engine->options.hooks.user, phase);
}

static void unit_end(const Engine *engine) {
    if (engine->options.hooks.unit_end) engine->options.hooks.unit_end(engine->options.hooks.user);
}

/* ---- a step, on rank 0 ---- */

/* How many of the run's last rows want logits: all prompt rows of a request that reports them, else the last row when the
 * next token is sampled from it. */
static uint32_t wanted_logits(const Engine *engine, const ScheduledRun *run) {
    const Sequence *sequence = &engine->sequences[run->task];
    const ScheduledTask *task = scheduler_task(engine->scheduler, run->task);
    bool prompt = task->computed_count < sequence->request.prompt_count;
    if (prompt && sequence->request.sink.on_logits) return run->token_count;
    bool reaches_end = task->computed_count + run->token_count == task->token_count;
    return reaches_end && sequence->request.max_tokens > 0 ? 1 : 0;
}

static void plan_run(Engine *engine, const ScheduledRun *run, uint32_t *logit_row_count,
                     StepPlan *plan) {
    Sequence *sequence = &engine->sequences[run->task];
    const ScheduledTask *task = scheduler_task(engine->scheduler, run->task);
    if (run->newly_admitted) {
        plan->opens[plan->open_count++] = (PlanOpen){
            .slot = task->slot, .token_capacity = task->token_capacity, .sequence_id = task->id};
        sequence->opened = true;
        sequence->started_at = monotonic_seconds();
    }
    uint32_t logit_count = wanted_logits(engine, run);
    plan->sequences[plan->sequence_count++] = (PlanSequence){.slot = task->slot,
                                                             .token_count = run->token_count,
                                                             .position_first = task->computed_count,
                                                             .logit_count = logit_count};
    memcpy(plan->tokens + plan->token_count, sequence->tokens + task->computed_count,
           run->token_count * sizeof(int32_t));
    plan->token_count += run->token_count;
    for (uint32_t i = 0; i < logit_count; i++)
        engine->owners[(*logit_row_count)++] =
            (LogitOwner){.task = run->task,
                         .position = task->computed_count + run->token_count - logit_count + i};
}

static void build_plan(Engine *engine, uint32_t run_count, StepPlan *plan) {
    plan_begin(&engine->channel, STEP_RUN, plan);
    memcpy(plan->closes, engine->closes, engine->close_count * sizeof(uint32_t));
    plan->close_count = engine->close_count;
    engine->close_count = 0;
    uint32_t logit_row_count = 0;
    for (uint32_t i = 0; i < run_count; i++)
        plan_run(engine, &engine->runs[i], &logit_row_count, plan);
}

static bool samples_next(const Engine *engine, const LogitOwner *owner) {
    const Sequence *sequence = &engine->sequences[owner->task];
    return sequence->request.max_tokens > 0 && owner->position + 1 == sequence->token_count;
}

static Status sample_row(Engine *engine, const LogitOwner *owner, const float *logits,
                         SamplerOutput *out) {
    const Sequence *sequence = &engine->sequences[owner->task];
    const Request *request = &sequence->request;
    uint32_t eos_count = 0;
    const int32_t *eos = engine->tokenizer ? tokenizer_eos(engine->tokenizer, &eos_count) : NULL;
    bool too_early = sequence_generated_count(sequence) < request->min_tokens;
    SamplerInput input = {.logits = logits,
                          .vocab_count = engine->config.vocab_count,
                          .options = &request->sampling,
                          .prompt = sequence->tokens,
                          .prompt_count = request->prompt_count,
                          .generated = sequence->tokens + request->prompt_count,
                          .generated_count = sequence_generated_count(sequence),
                          .banned = eos,
                          .banned_count = too_early ? eos_count : 0};
    error_capture_begin();
    Status status = sampler_sample(engine->samplers[omp_get_thread_num()], &input, out);
    error_capture_end();
    return status;
}

static void report_logits(Engine *engine, const LogitOwner *owner, const float *logits) {
    Sequence *sequence = &engine->sequences[owner->task];
    const RequestSink *sink = &sequence->request.sink;
    if (!sink->on_logits || owner->position >= sequence->request.prompt_count) return;
    LogitsEvent event = {.request_id = sequence->request.id,
                         .position = owner->position,
                         .logits = logits,
                         .vocab_count = engine->config.vocab_count};
    sink->on_logits(sink->user, &event);
}

static Status deliver(Engine *engine, const LogitOwner *owner, Status sample_status,
                      const SamplerOutput *sampled) {
    Sequence *sequence = &engine->sequences[owner->task];
    if (sample_status != STATUS_OK) {
        end_task(engine, owner->task, FINISH_ERROR, ERROR_NAN_LOGITS,
                 "the logits of this request are not finite");
        return STATUS_OK;
    }
    uint64_t drawn[3] = {sequence->request.id, sequence_generated_count(sequence),
                         (uint64_t)sampled->token};
    engine->stats.determinism_digest += hash_xxh3(drawn, sizeof drawn, 0);
    engine->stats.generated_tokens++;
    bool finished;
    FinishReason reason;
    TRY(sequence_accept(sequence, engine->tokenizer, sampled, &finished, &reason));
    scheduler_task(engine->scheduler, owner->task)->token_count = sequence->token_count;
    if (finished) end_task(engine, owner->task, reason, ERROR_COUNT, NULL);
    return STATUS_OK;
}

/* Logits of owners [first, first + count) on rank 0: report, sample side by side, deliver in order. */
static Status take_logits(Engine *engine, uint32_t first, uint32_t count, const float *logits) {
    double start = monotonic_seconds();
    const LogitOwner *owners = engine->owners + first;
    uint64_t vocab = engine->config.vocab_count;
#pragma omp parallel for schedule(dynamic, 1) \
    num_threads((int)engine->options.thread_count) if (count > 1)
    for (uint32_t i = 0; i < count; i++)
        if (samples_next(engine, &owners[i]))
            engine->sample_status[i] =
                sample_row(engine, &owners[i], logits + i * vocab, &engine->sampled[i]);
    for (uint32_t i = 0; i < count; i++) {
        bool samples = samples_next(engine, &owners[i]);
        report_logits(engine, &owners[i], logits + i * vocab);
        if (samples)
            TRY(deliver(engine, &owners[i], engine->sample_status[i], &engine->sampled[i]));
    }
    engine->stats.seconds_sampling += monotonic_seconds() - start;
    return STATUS_OK;
}

/* After a step: what was computed counts as cached; prompts without answers are done. True when a prompt was among the runs. */
static bool settle_runs(Engine *engine, uint32_t run_count) {
    bool any_prompt = false;
    for (uint32_t i = 0; i < run_count; i++) {
        const ScheduledRun *run = &engine->runs[i];
        ScheduledTask *task = scheduler_task(engine->scheduler, run->task);
        const Sequence *sequence = &engine->sequences[run->task];
        uint32_t prompt_count = sequence->request.prompt_count;
        if (task->computed_count < prompt_count) {
            any_prompt = true;
            engine->stats.prompt_tokens += run->token_count;
        }
        task->computed_count += run->token_count;
    }
    return any_prompt;
}

static void end_prompt_only(Engine *engine, uint32_t run_count) {
    for (uint32_t i = 0; i < run_count; i++) {
        const Sequence *sequence = &engine->sequences[engine->runs[i].task];
        if (!sequence->live || sequence->request.max_tokens > 0) continue;
        if (scheduler_task(engine->scheduler, engine->runs[i].task)->computed_count ==
            sequence->request.prompt_count)
            end_task(engine, engine->runs[i].task, FINISH_LENGTH, ERROR_COUNT, NULL);
    }
}

static void note_kv(Engine *engine) {
    BlockTableStats blocks = kv_cache_stats(engine->cache);
    uint64_t block_bytes = align_up(engine->stats.kv_block_bytes, 64);
    engine->stats.kv_used_bytes = (blocks.filling + blocks.sealed) * block_bytes;
    engine->stats.kv_peak_bytes = blocks.used_peak * block_bytes;
    engine->stats.running = scheduler_running_count(engine->scheduler);
    engine->stats.waiting = scheduler_waiting_count(engine->scheduler);
}

static void note_times(Engine *engine, double seconds, bool any_prompt) {
    EngineStats *stats = &engine->stats;
    stats->steps++;
    *(any_prompt ? &stats->seconds_prefill : &stats->seconds_decode) += seconds;
    stats->seconds_matmul = engine->times.matmul;
    stats->seconds_attention = engine->times.attention;
    stats->seconds_collective = engine->times.collective;
    stats->seconds_other = stats->seconds_prefill + stats->seconds_decode - stats->seconds_matmul -
                           stats->seconds_attention - stats->seconds_collective -
                           stats->seconds_sampling;
}

Status engine_step(Engine *engine, bool *out_idle) {
    StopRequest asked = ask_stop(engine);
    if (asked > engine->stop) engine->stop = asked;
    end_cancelled(engine);
    uint32_t run_count = scheduler_plan(engine->scheduler, engine->stop == STOP_NONE, engine->runs);
    *out_idle = run_count == 0;
    note_kv(engine);
    if (run_count == 0) {
        CHECK(task_count(engine) == 0);
        return STATUS_OK;
    }
    double start = monotonic_seconds();
    StepPlan plan;
    build_plan(engine, run_count, &plan);
    bool any_prompt = settle_runs(engine, run_count);
    unit_begin(engine, any_prompt ? "prefill" : "decode");
    TRY(plan_send(&engine->channel, &plan));
    TRY(run_step(engine, &plan, take_logits));
    unit_end(engine);
    end_prompt_only(engine, run_count);
    note_times(engine, monotonic_seconds() - start, any_prompt);
    note_kv(engine);
    return STATUS_OK;
}

StopRequest engine_stop_seen(const Engine *engine) {
    return engine->stop;
}

/* ---- the end, and the other ranks ---- */

typedef struct MemoryReport {
    uint64_t kv_capacity_bytes, kv_peak_bytes, memory_peak_bytes;
} MemoryReport;

/* Collective: every rank's memory figures, summed on rank 0. */
static Status gather_memory(Engine *engine) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    BlockTableStats blocks = kv_cache_stats(engine->cache);
    int size = engine->comm->size;
    MemoryReport mine = {.kv_capacity_bytes = engine->stats.kv_capacity_bytes,
                         .kv_peak_bytes =
                             blocks.used_peak * align_up(engine->stats.kv_block_bytes, 64),
                         .memory_peak_bytes = (uint64_t)usage.ru_maxrss << 10};
    void *memory;
    TRY(memory_take(&memory, (uint64_t)size, sizeof(MemoryReport), "memory reports"));
    MemoryReport *all = memory;
    for (int rank = 0; rank < size; rank++)
        engine->report_bytes[rank] = sizeof mine;
    Status status = comm_gather(engine->comm, 0, &mine, engine->comm->rank == 0 ? all : NULL,
                                engine->report_bytes);
    if (status == STATUS_OK && engine->comm->rank == 0) {
        MemoryReport sum = {0};
        for (int rank = 0; rank < size; rank++) {
            sum.kv_capacity_bytes += all[rank].kv_capacity_bytes;
            sum.kv_peak_bytes += all[rank].kv_peak_bytes;
            sum.memory_peak_bytes += all[rank].memory_peak_bytes;
        }
        engine->stats.kv_capacity_bytes = sum.kv_capacity_bytes;
        engine->stats.kv_peak_bytes = sum.kv_peak_bytes;
        engine->stats.memory_peak_bytes = sum.memory_peak_bytes;
    }
    free(all);
    return status;
}

Status engine_stop(Engine *engine) {
    StepPlan plan;
    plan_begin(&engine->channel, STEP_STOP, &plan);
    unit_begin(engine, "stop");
    TRY(plan_send(&engine->channel, &plan));
    TRY(gather_memory(engine));
    unit_end(engine);
    return STATUS_OK;
}

Status engine_follow(Engine *engine) {
    CHECK(engine->comm->rank > 0);
    for (;;) {
        StepPlan plan;
        TRY(plan_receive(&engine->channel, &plan));
        unit_begin(engine, plan.kind == STEP_STOP ? "stop" : "step");
        if (plan.kind == STEP_STOP) {
            TRY(gather_memory(engine));
            unit_end(engine);
            return STATUS_OK;
        }
        TRY(run_step(engine, &plan, NULL));
        unit_end(engine);
    }
}

const EngineStats *engine_stats(const Engine *engine) {
    return &engine->stats;
}
