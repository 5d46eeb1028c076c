/* Layer-major prefill: a prompt of several chunks runs one layer over all of them, then the next. Between layers its residual
 * stream rests in prefill_x. A unit is one layer of one chunk; a step has as many as take about half a second, behind its
 * decodes. Row and block arithmetic are those of any other batch, so the logits have the same bits. */

#include "runtime/base/bytes.h"
#include "runtime/base/monotonic.h"
#include "runtime/engine/engine_parts.h"

static const double units_seconds_max = 0.5;

/* ---- every rank ---- */

static Status run_unit(Engine *engine, uint32_t slot, const PlanUnit *unit, const int32_t *tokens) {
    const ModelFamily *family = engine->config.family;
    const BatchSequence sequence = {
        .slot = slot, .row_count = unit->token_count, .position_first = unit->position_first};
    const Batch batch = {.sequences = &sequence,
                         .sequence_count = 1,
                         .tokens = tokens,
                         .positions = engine->prefill_numbers + unit->position_first,
                         .row_count = unit->token_count};
    Pass pass = engine->pass;
    pass.batch = &batch;
    pass.x = engine->prefill_x + (uint64_t)unit->position_first * engine->config.hidden_size;
    KvWant want = {.batch = &batch,
                   .layer_first = unit->layer,
                   .layer_end = unit->layer + 1,
                   .window = engine->config.window};
    kv_cache_want(engine->cache, &want);
    if (unit->layer == 0) TRY(family->embed(&pass));
    return forward_layer(&pass, unit->layer);
}

Status prefill_run_units(Engine *engine, const StepPlan *plan) {
    const PlanPrefill *prefill = &plan->prefill;
    const int32_t *tokens = plan->tokens + engine->batch.row_count;
    double start = monotonic_seconds();
    for (uint32_t i = 0; i < plan->unit_count; i++) {
        const PlanUnit *unit = &plan->units[i];
        engine_unit_end(engine);
        engine_unit_begin(engine, "prefill");
        TRY(run_unit(engine, prefill->slot, unit, tokens));
        if (unit->layer == 0) tokens += unit->token_count;
    }
    engine->unit_seconds = (monotonic_seconds() - start) / plan->unit_count;
    if (prefill->cached_count > 0) {
        kv_cache_extend(engine->cache, prefill->slot, prefill->cached_count);
        return model_layer_release(&engine->model);
    }
    return STATUS_OK;
}

Status prefill_logits(Engine *engine, const StepPlan *plan, uint32_t owner_first, LogitsSink sink) {
    const Batch batch = {.logit_rows = engine->prefill_numbers + plan->prefill.logit_first,
                         .logit_row_count = plan->prefill.logit_count};
    Pass pass = engine->pass;
    pass.batch = &batch;
    pass.x = engine->prefill_x;
    return engine_run_head(engine, &pass, owner_first, sink);
}

/* ---- rank 0 ---- */

static void begin(Engine *engine, uint32_t task, StepPlan *plan) {
    engine->layer_major =
        (LayerMajor){.task = task, .token_count = scheduler_next_count(engine->scheduler, task)};
    plan_open(engine, task, plan);
}

/* Positions whose logits are wanted of the last layer's rows [first, end). */
static void want_logits(Engine *engine, uint32_t first, uint32_t end, StepPlan *plan) {
    const LayerMajor *layer_major = &engine->layer_major;
    const Request *request = &engine->sequences[layer_major->task].request;
    PlanPrefill *prefill = &plan->prefill;
    if (!request_reports_prompt(request)) {
        const ScheduledTask *task = scheduler_task(engine->scheduler, layer_major->task);
        bool last = end == task->token_count && request->max_tokens > 0;
        if (last) *prefill = (PlanPrefill){prefill->slot, 0, end - 1, 1};
        return;
    }
    if (prefill->logit_count == 0) prefill->logit_first = first;
    prefill->logit_count += end - first;
}

static void add_unit(Engine *engine, StepPlan *plan) {
    LayerMajor *next = &engine->layer_major;
    uint32_t left = next->token_count - next->position,
             rows = engine->options.max_num_batched_tokens;
    PlanUnit unit = {next->layer, next->position, left < rows ? left : rows};
    const int32_t *tokens = engine->sequences[next->task].tokens + unit.position_first;
    for (uint32_t i = 0; unit.layer == 0 && i < unit.token_count; i++)
        plan->tokens[plan->token_count++] = tokens[i];
    next->position += unit.token_count;
    plan->units[plan->unit_count++] = unit;
    if (unit.layer + 1 == engine->config.layer_count)
        want_logits(engine, unit.position_first, next->position, plan);
    if (next->position < next->token_count) return;
    next->position = 0;
    next->layer++;
}

static void note_owners(Engine *engine, const PlanPrefill *prefill, uint32_t logit_row_count) {
    for (uint32_t i = 0; i < prefill->logit_count; i++)
        engine->owners[logit_row_count + i] =
            (LogitOwner){.task = engine->layer_major.task, .position = prefill->logit_first + i};
}

void prefill_plan(Engine *engine, StepPlan *plan, uint32_t logit_row_count) {
    uint32_t task = scheduler_layer_major(engine->scheduler);
    if (task == SCHEDULER_NONE) return;
    LayerMajor *layer_major = &engine->layer_major;
    if (!engine->sequences[task].opened) begin(engine, task, plan);
    plan->prefill.slot = scheduler_task(engine->scheduler, task)->slot;
    double seconds = 0;
    do {
        add_unit(engine, plan);
        seconds += engine->unit_seconds > 0 ? engine->unit_seconds : units_seconds_max;
    } while (layer_major->layer < engine->config.layer_count && plan->unit_count < PLAN_UNITS_MAX &&
             seconds < units_seconds_max);
    if (layer_major->layer == engine->config.layer_count)
        plan->prefill.cached_count = layer_major->token_count;
    note_owners(engine, &plan->prefill, logit_row_count);
}
