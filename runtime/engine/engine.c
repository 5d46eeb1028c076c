/* Requests, and a step as rank 0 leads it: schedule, plan, run, sample, deliver. */

#include "runtime/engine/engine.h"

#include <string.h>

#include "runtime/base/bytes.h"
#include "runtime/base/hash.h"
#include "runtime/base/invariant.h"
#include "runtime/base/monotonic.h"
#include "runtime/engine/engine_parts.h"

const ModelConfig *engine_model(const Engine *engine) {
    return &engine->config;
}

uint32_t engine_max_model_len(const Engine *engine) {
    return engine->options.max_model_len;
}

uint32_t engine_max_num_seqs(const Engine *engine) {
    return engine->options.max_num_seqs;
}

const RingFacts *engine_ring(const Engine *engine) {
    return kv_cache_ring(engine->cache);
}

WeightStream *engine_weight_stream(const Engine *engine) {
    return model_weight_stream(&engine->model);
}

const SpillFile *engine_spill_file(const Engine *engine, uint32_t index) {
    return index < engine->spill_file_count ? &engine->spill_files[index] : NULL;
}

const char *engine_sums_text(const Engine *engine) {
    return engine->reduce.text;
}

const char *engine_host_kernels_name(const Engine *engine) {
    return engine->host_attend ? host_attend_kernels_name(engine->host_attend) : NULL;
}

const char *engine_kernels_name(const Engine *engine) {
    return engine->kernels.name;
}

/* ---- requests ---- */

static Status check_tokens(const Engine *engine, const int32_t *tokens, uint32_t count,
                           uint32_t position_first) {
    for (uint32_t i = 0; i < count; i++)
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= engine->config.vocab_count)
            FAIL(REQUEST, "token %d at position %u is outside the vocabulary of %u", tokens[i],
                 position_first + i, engine->config.vocab_count);
    return STATUS_OK;
}

static Status check_request(const Engine *engine, const Request *request) {
    if (request->prompt_count == 0) FAIL(REQUEST, "the prompt is empty");
    TRY(check_tokens(engine, request->prompt, request->prompt_count, 0));
    TRY(check_tokens(engine, request->forced, request->forced_count, request->prompt_count));
    uint64_t total = (uint64_t)request->prompt_count + request->max_tokens;
    if (total > engine->options.max_model_len)
        FAIL(CONTEXT_LENGTH,
             "maximum context length is %u tokens; your request has %u in the prompt and asks for "
             "%u more",
             engine->options.max_model_len, request->prompt_count, request->max_tokens);
    if (!scheduler_fits(engine->scheduler, (uint32_t)total))
        FAIL(CONTEXT_LENGTH,
             "%llu tokens need %llu bytes of KV on a rank; %llu are there (see --kv-device-size, "
             "--kv-host-size, --kv-nvme-size)",
             (unsigned long long)total,
             (unsigned long long)(kv_layout_slots(&engine->layout, (uint32_t)total) *
                                  engine->layout.slot_bytes * engine->config.layer_count),
             (unsigned long long)(engine->budget.layer_blocks * engine->layout.slot_bytes *
                                  engine->config.layer_count));
    if (request->stop_count > REQUEST_STOPS_MAX)
        FAIL(REQUEST, "stop has %u strings; at most %d are possible", request->stop_count,
             REQUEST_STOPS_MAX);
    return sampling_options_check(&request->sampling, engine->config.vocab_count);
}

static uint32_t synthetic_count(const Request *request) {
    return request->synthetic_context ? request->prompt_count - 1 : 0;
}

Status engine_submit(Engine *engine, const Request *request) {
    CHECK(engine->comm->rank == 0 && request->sink.on_finish);
    CHECK(!request->synthetic_context || !request_reports_prompt(request));
    TRY(check_request(engine, request));
    uint32_t task;
    TRY(scheduler_add(engine->scheduler, request->id, request->prompt_count,
                      request->prompt_count + request->max_tokens, &task));
    scheduler_task(engine->scheduler, task)->computed_count = synthetic_count(request);
    Status status = sequence_begin(&engine->sequences[task], request, engine->tokenizer);
    if (status != STATUS_OK) scheduler_remove(engine->scheduler, task);
    return status;
}

static uint32_t task_count(const Engine *engine) {
    return scheduler_running_count(engine->scheduler) + scheduler_waiting_count(engine->scheduler);
}

static Status find_task(const Engine *engine, uint64_t request_id, uint32_t *out_task) {
    for (uint32_t i = 0; i < task_count(engine); i++) {
        *out_task = scheduler_task_at(engine->scheduler, i);
        if (engine->sequences[*out_task].request.id == request_id) return STATUS_OK;
    }
    return STATUS_NOT_FOUND;
}

Status engine_cancel(Engine *engine, uint64_t request_id) {
    uint32_t task;
    TRY(find_task(engine, request_id, &task));
    engine->sequences[task].cancelled = true;
    return STATUS_OK;
}

Status engine_park(Engine *engine, uint64_t request_id) {
    uint32_t task;
    TRY(find_task(engine, request_id, &task));
    scheduler_park(engine->scheduler, task, true);
    return STATUS_OK;
}

Status engine_resume(Engine *engine, uint64_t request_id) {
    uint32_t task;
    TRY(find_task(engine, request_id, &task));
    scheduler_park(engine->scheduler, task, false);
    return STATUS_OK;
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

/* ---- a step, on rank 0 ---- */

/* How many of the run's last rows want logits: all prompt rows of a request that reports them, else the last row when the
 * next token is sampled from it. */
static uint32_t wanted_logits(const Engine *engine, const ScheduledRun *run) {
    const Sequence *sequence = &engine->sequences[run->task];
    const ScheduledTask *task = scheduler_task(engine->scheduler, run->task);
    bool prompt = task->computed_count < sequence->request.prompt_count;
    const Request *request = &sequence->request;
    if (prompt && request_reports_prompt(request)) return run->token_count;
    bool reaches_end = task->computed_count + run->token_count == task->token_count;
    return reaches_end && request->max_tokens > 0 ? 1 : 0;
}

void plan_open(Engine *engine, uint32_t task, StepPlan *plan) {
    Sequence *sequence = &engine->sequences[task];
    const ScheduledTask *scheduled = scheduler_task(engine->scheduler, task);
    if (sequence->opened) return;
    plan->opens[plan->open_count++] =
        (PlanOpen){.slot = scheduled->slot,
                   .prompt_count = scheduled->prompt_count,
                   .token_capacity = scheduled->token_capacity,
                   .sequence_id = scheduled->id,
                   .synthetic_count = synthetic_count(&sequence->request)};
    sequence->opened = true;
    if (sequence->started_at == 0) sequence->started_at = monotonic_seconds();
}

static void plan_run(Engine *engine, const ScheduledRun *run, uint32_t *logit_row_count,
                     StepPlan *plan) {
    Sequence *sequence = &engine->sequences[run->task];
    const ScheduledTask *task = scheduler_task(engine->scheduler, run->task);
    plan_open(engine, run->task, plan);
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

static void plan_parks(Engine *engine, StepPlan *plan) {
    for (uint32_t i = 0; i < scheduler_running_count(engine->scheduler); i++) {
        uint32_t task = scheduler_task_at(engine->scheduler, i);
        const ScheduledTask *scheduled = scheduler_task(engine->scheduler, task);
        Sequence *sequence = &engine->sequences[task];
        bool begins = scheduled->parked && !sequence->parked && sequence->opened;
        if (begins) plan->parks[plan->park_count++] = scheduled->slot;
        engine->stats.parks += begins;
        sequence->parked = scheduled->parked && sequence->opened;
    }
}

static void add_closes(Engine *engine, StepPlan *plan) {
    memcpy(plan->closes, engine->closes, engine->close_count * sizeof(uint32_t));
    plan->close_count = engine->close_count;
    engine->close_count = 0;
}

static void build_plan(Engine *engine, uint32_t run_count, StepPlan *plan) {
    plan_begin(&engine->channel, STEP_RUN, plan);
    add_closes(engine, plan);
    plan_parks(engine, plan);
    uint32_t logit_row_count = 0;
    for (uint32_t i = 0; i < run_count; i++)
        plan_run(engine, &engine->runs[i], &logit_row_count, plan);
    prefill_plan(engine, plan, logit_row_count);
}

static bool is_lost(const Engine *engine, uint32_t task) {
    uint32_t slot = scheduler_task(engine->scheduler, task)->slot;
    return engine->lost[slot / 64] >> slot % 64 & 1;
}

static bool samples_next(const Engine *engine, const LogitOwner *owner) {
    const Sequence *sequence = &engine->sequences[owner->task];
    if (is_lost(engine, owner->task)) return false;
    return sequence->request.max_tokens > 0 && owner->position + 1 == sequence->token_count;
}

static Status sample_row(const Engine *engine, const LogitOwner *owner, const float *logits,
                         SamplerWorkspace *workspace, SamplerOutput *out) {
    const Sequence *sequence = &engine->sequences[owner->task];
    const Request *request = &sequence->request;
    uint32_t eos_count = 0;
    const int32_t *eos = engine->tokenizer ? tokenizer_eos(engine->tokenizer, &eos_count) : NULL;
    uint32_t generated_count = sequence_generated_count(sequence);
    bool too_early = generated_count < request->min_tokens;
    bool forced = generated_count < request->forced_count;
    SamplerInput input = {.logits = logits,
                          .vocab_count = engine->config.vocab_count,
                          .options = &request->sampling,
                          .prompt = sequence->tokens,
                          .prompt_count = request->prompt_count,
                          .generated = sequence->tokens + request->prompt_count,
                          .generated_count = generated_count,
                          .banned = eos,
                          .banned_count = too_early ? eos_count : 0,
                          .forced = forced ? request->forced + generated_count : NULL};
    error_capture_begin();
    Status status = sampler_sample(workspace, &input, out);
    error_capture_end();
    return status;
}

static void report_logits(Engine *engine, const LogitOwner *owner, const float *logits) {
    Sequence *sequence = &engine->sequences[owner->task];
    const Request *request = &sequence->request;
    const RequestSink *sink = &request->sink;
    bool wanted =
        sink->on_logits && (request->generated_logits || owner->position < request->prompt_count);
    if (!wanted || owner->position != sequence->logits_reported || is_lost(engine, owner->task))
        return;
    sequence->logits_reported++;
    LogitsEvent event = {.request_id = request->id,
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

typedef struct SampleCall {
    const Engine *engine;
    const LogitOwner *owners;
    const float *logits; /* [owners][vocab] */
} SampleCall;

static void sample_owner(void *user, uint32_t index, uint32_t thread_index) {
    const SampleCall *call = user;
    const Engine *engine = call->engine;
    if (!samples_next(engine, &call->owners[index])) return;
    engine->sample_status[index] = sample_row(
        engine, &call->owners[index], call->logits + (uint64_t)index * engine->config.vocab_count,
        engine->samplers[thread_index], &engine->sampled[index]);
}

/* Logits of owners [first, first + count) on rank 0: report, sample side by side, deliver in order. */
static Status take_logits(Engine *engine, uint32_t first, uint32_t count, const float *logits) {
    double start = monotonic_seconds();
    const LogitOwner *owners = engine->owners + first;
    uint64_t vocab = engine->config.vocab_count;
    SampleCall call = {engine, owners, logits};
    team_run(engine->context.team, count, sample_owner, &call);
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
static bool settle_runs(Engine *engine, const StepPlan *plan, uint32_t run_count) {
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
    if (plan->prefill.cached_count > 0) {
        engine->stats.prompt_tokens += plan->prefill.cached_count;
        scheduler_task(engine->scheduler, engine->layer_major.task)->computed_count =
            plan->prefill.cached_count;
    }
    return any_prompt || plan->unit_count > 0;
}

/* The task gives its KV back and waits ahead of the others, to be computed anew: prompt and answer so far. */
static void requeue(Engine *engine, uint32_t task) {
    ScheduledTask *scheduled = scheduler_task(engine->scheduler, task);
    Sequence *sequence = &engine->sequences[task];
    if (sequence->opened) engine->closes[engine->close_count++] = scheduled->slot;
    sequence->opened = sequence->parked = false;
    engine->stats.recomputed_tokens += scheduled->computed_count;
    scheduler_requeue(engine->scheduler, task);
    scheduled->computed_count = synthetic_count(&sequence->request);
}

/* Sequences that lost a block are computed again. What tiers still hold limits who runs and what is admitted from now on. */
static void requeue_lost(Engine *engine) {
    for (uint32_t i = scheduler_running_count(engine->scheduler); i-- > 0;) {
        uint32_t task = scheduler_task_at(engine->scheduler, i);
        if (!engine->sequences[task].opened || !is_lost(engine, task)) continue;
        uint32_t slot = scheduler_task(engine->scheduler, task)->slot;
        if (engine->refused[slot / 64] >> slot % 64 & 1)
            end_task(engine, task, FINISH_ERROR, ERROR_NAN_LOGITS,
                     "keys or values of this request are not finite, and the KV codec takes finite "
                     "numbers only");
        else
            requeue(engine, task);
    }
    scheduler_set_block_count(engine->scheduler, engine->layer_blocks);
}

/* The youngest give way where room is short. */
static void make_way(Engine *engine) {
    uint32_t count = scheduler_make_way(engine->scheduler, engine->dropped);
    for (uint32_t i = 0; i < count; i++)
        requeue(engine, engine->dropped[i]);
}

/* What no longer fits after a tier went away ends with the reason. */
static void end_unfit(Engine *engine) {
    for (uint32_t i = task_count(engine); i-- > scheduler_running_count(engine->scheduler);) {
        uint32_t task = scheduler_task_at(engine->scheduler, i);
        if (!scheduler_fits(engine->scheduler,
                            scheduler_task(engine->scheduler, task)->token_capacity))
            end_task(engine, task, FINISH_ERROR, ERROR_CONTEXT_LENGTH,
                     "a KV tier went away, and the tiers left cannot hold this request");
    }
}

static void end_prompt_only(Engine *engine, uint32_t task) {
    const Sequence *sequence = &engine->sequences[task];
    if (!sequence->live || sequence->request.max_tokens > 0) return;
    if (scheduler_task(engine->scheduler, task)->computed_count == sequence->request.prompt_count)
        end_task(engine, task, FINISH_LENGTH, ERROR_COUNT, NULL);
}

static void end_prompts_only(Engine *engine, const StepPlan *plan, uint32_t run_count) {
    for (uint32_t i = 0; i < run_count; i++)
        end_prompt_only(engine, engine->runs[i].task);
    if (plan->prefill.cached_count > 0) end_prompt_only(engine, engine->layer_major.task);
}

static void note_load(Engine *engine) {
    engine_note_kv(engine);
    engine->stats.running = scheduler_running_count(engine->scheduler);
    engine->stats.waiting = scheduler_waiting_count(engine->scheduler);
    engine->stats.parked = 0;
    for (uint32_t i = 0; i < engine->stats.running; i++) {
        uint32_t task = scheduler_task_at(engine->scheduler, i);
        engine->stats.parked += scheduler_task(engine->scheduler, task)->parked;
    }
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
    engine_note_stop(engine);
    end_cancelled(engine);
    make_way(engine);
    end_unfit(engine);
    uint32_t run_count = scheduler_plan(engine->scheduler, engine->stop == STOP_NONE, engine->runs);
    *out_idle = run_count == 0 && scheduler_layer_major(engine->scheduler) == SCHEDULER_NONE;
    note_load(engine);
    if (*out_idle) {
        CHECK(task_count(engine) == 0 || engine->stats.parked > 0);
        return STATUS_OK;
    }
    double start = monotonic_seconds();
    StepPlan plan;
    build_plan(engine, run_count, &plan);
    bool any_prompt = settle_runs(engine, &plan, run_count);
    engine_unit_begin(engine, any_prompt ? "prefill" : "decode");
    TRY(plan_send(&engine->channel, &plan));
    TRY(engine_run_step(engine, &plan, take_logits));
    engine_unit_end(engine);
    requeue_lost(engine);
    end_prompts_only(engine, &plan, run_count);
    note_times(engine, monotonic_seconds() - start, any_prompt);
    note_load(engine);
    return STATUS_OK;
}

Status engine_visit_blocks(Engine *engine,
                           Status (*visit)(void *user, const KvShape *shape, const void *block),
                           void *user) {
    return kv_cache_visit(engine->cache, visit, user);
}

StopRequest engine_stop_seen(const Engine *engine) {
    return engine->stop;
}

Status engine_stop(Engine *engine) {
    StepPlan plan;
    plan_begin(&engine->channel, STEP_STOP, &plan);
    add_closes(engine, &plan);
    engine_unit_begin(engine, "stop");
    TRY(plan_send(&engine->channel, &plan));
    TRY(engine_wind_up(engine, &plan));
    engine_unit_end(engine);
    return STATUS_OK;
}

const EngineStats *engine_stats(const Engine *engine) {
    return &engine->stats;
}
