/* A step as every rank runs it: the plan is applied, the layers run, logits go to rank 0, reports close the step. */

#include <stdlib.h>
#include <string.h>

#include "runtime/base/bytes.h"
#include "runtime/base/invariant.h"
#include "runtime/base/log.h"
#include "runtime/base/monotonic.h"
#include "runtime/engine/engine_parts.h"

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

static Status open_slot(Engine *engine, const PlanOpen *open) {
    const KvSequence sequence = {.id = open->sequence_id,
                                 .prompt_count = open->synthetic_count > 0 ? open->synthetic_count
                                                                           : open->prompt_count,
                                 .token_capacity = open->token_capacity};
    engine_unit_begin(engine, "context"); /* a synthetic one is written, and may spill */
    TRY(kv_cache_open(engine->cache, open->slot, &sequence));
    return kv_cache_fill(engine->cache, open->slot, open->synthetic_count);
}

static Status apply_plan(Engine *engine, const StepPlan *plan) {
    for (uint32_t i = 0; i < plan->close_count; i++)
        kv_cache_close(engine->cache, plan->closes[i]);
    for (uint32_t i = 0; i < plan->open_count; i++)
        TRY(open_slot(engine, &plan->opens[i]));
    for (uint32_t i = 0; i < plan->park_count; i++)
        kv_cache_park(engine->cache, plan->parks[i]);
    for (uint32_t i = 0; i < plan->sequence_count; i++) {
        const PlanSequence *sequence = &plan->sequences[i];
        if (kv_cache_token_count(engine->cache, sequence->slot) != sequence->position_first)
            FAIL(RANK_MISMATCH,
                 "rank %d has %u tokens cached in slot %u where the plan of step %llu expects %u",
                 engine->comm->rank, kv_cache_token_count(engine->cache, sequence->slot),
                 sequence->slot, (unsigned long long)plan->step, sequence->position_first);
        kv_cache_extend(engine->cache, sequence->slot, sequence->token_count);
    }
    return STATUS_OK;
}

static StopRequest ask_stop(const Engine *engine) {
    const EngineHooks *hooks = &engine->options.hooks;
    return hooks->stop_requested ? hooks->stop_requested(hooks->user) : STOP_NONE;
}

void engine_note_stop(Engine *engine) {
    StopRequest asked = ask_stop(engine);
    if (asked > engine->stop) engine->stop = asked;
}

/* What transfers of a broken device lost, or a tier that they closed, is no matter of sequences: the device says so here. In a step
 * without logits nobody else asks it before requests are judged by the tiers that are left. */
static Status check_device(Engine *engine, const RankReport *report) {
    bool lost = report->layer_blocks < engine->budget.layer_blocks;
    for (size_t i = 0; i < SLOTS_MAX / 64; i++)
        lost |= report->lost[i] != 0;
    Device *device = engine->device;
    return lost ? device->stream_wait(device, engine->context.stream) : STATUS_OK;
}

static void note_lost(const Engine *engine, const StepPlan *plan, RankReport *report) {
    for (uint32_t i = 0; i <= plan->sequence_count; i++) {
        if (i == plan->sequence_count && plan->unit_count == 0) break;
        uint32_t slot = i < plan->sequence_count ? plan->sequences[i].slot : plan->prefill.slot;
        uint64_t bit = 1ull << slot % 64;
        if (kv_cache_is_lost(engine->cache, slot)) report->lost[slot / 64] |= bit;
        if (kv_cache_is_refused(engine->cache, slot)) report->refused[slot / 64] |= bit;
    }
}

static void tell_tiers_off(Engine *engine, const TierManagerStats *stats) {
    for (int tier = TIER_HOST; tier < TIER_COUNT; tier++) {
        if (!stats->tiers[tier].off || engine->off_told[tier]) continue;
        engine->off_told[tier] = true;
        log_warning("E-SPILL-OFF",
                    "the %s tier takes no more blocks after %llu failed and %llu late transfers "
                    "and %llu wrong blocks; going on with the tiers left",
                    tier_name((Tier)tier), (unsigned long long)stats->failed_transfers,
                    (unsigned long long)(stats->late_reads + stats->late_writes),
                    (unsigned long long)stats->corrupt_blocks);
    }
}

/* What admission may promise now, in blocks a layer. */
static uint32_t blocks_left(Engine *engine) {
    KvCacheStats stats = kv_cache_stats(engine->cache);
    tell_tiers_off(engine, &stats.manager);
    uint64_t left = stats.places / engine->config.layer_count;
    return left < engine->budget.layer_blocks ? (uint32_t)left : engine->budget.layer_blocks;
}

/* Every rank tells rank 0 that it came through, which sequences it lost, and whether somebody asked it to stop. */
static Status exchange_reports(Engine *engine, const StepPlan *plan) {
    RankReport report = {
        .step = plan->step, .digest = engine->channel.digest, .stop = ask_stop(engine)};
    report.layer_blocks = blocks_left(engine);
    engine->layer_blocks = (uint32_t)report.layer_blocks;
    note_lost(engine, plan, &report);
    TRY(check_device(engine, &report));
    engine_note_kv(engine);
    engine_share_disks(engine);
    report.stats = engine->stats;
    if (report.stop > engine->stop) engine->stop = (StopRequest)report.stop;
    memcpy(engine->lost, report.lost, sizeof engine->lost);
    memcpy(engine->refused, report.refused, sizeof engine->refused);
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
        if (theirs->layer_blocks < engine->layer_blocks)
            engine->layer_blocks = (uint32_t)theirs->layer_blocks;
        for (size_t i = 0; i < SLOTS_MAX / 64; i++) {
            engine->lost[i] |= theirs->lost[i];
            engine->refused[i] |= theirs->refused[i];
        }
    }
    return STATUS_OK;
}

static uint32_t blocks_begun(const Engine *engine, uint32_t position_first, uint32_t token_count) {
    uint32_t block_tokens = engine->options.block_tokens;
    return (uint32_t)(divide_up(position_first + token_count, block_tokens) -
                      divide_up(position_first, block_tokens));
}

/* Blocks that the step takes in one layer. */
static uint32_t take_count(const Engine *engine, const StepPlan *plan) {
    uint32_t count = 0, unit_count = 0;
    for (uint32_t i = 0; i < plan->sequence_count; i++)
        count +=
            blocks_begun(engine, plan->sequences[i].position_first, plan->sequences[i].token_count);
    if (plan->unit_count > 0)
        unit_count =
            blocks_begun(engine, plan->units[0].position_first, plan->units[0].token_count);
    return count > unit_count ? count : unit_count;
}

Status engine_run_head(Engine *engine, Pass *pass, uint32_t owner_first, LogitsSink sink) {
    uint32_t all = pass->batch->logit_row_count;
    for (uint32_t first = 0; first < all; first += engine->head_rows) {
        uint32_t count = all - first < engine->head_rows ? all - first : engine->head_rows;
        const float *logits;
        TRY(forward_logits(pass, &engine->gather, first, count, &logits));
        if (sink) TRY(sink(engine, owner_first + first, count, logits));
    }
    return STATUS_OK;
}

/* Blocks are asked for in the order of their use: this step's, and behind it what the same sequences would read in a next one. */
static Status run_layers(Engine *engine, const StepPlan *plan) {
    KvWant want = {.batch = &engine->batch,
                   .layer_end = engine->config.layer_count,
                   .window = engine->config.window};
    engine_expect_layers(engine, plan);
    kv_cache_begin_step(engine->cache, &engine->batch, take_count(engine, plan));
    kv_cache_want(engine->cache, &want);
    if (plan->unit_count == 0) kv_cache_want_ahead(engine->cache, &want);
    if (engine->batch.row_count > 0) {
        TRY(forward_layers(&engine->pass));
        engine->stats.weights.passes++;
    }
    if (plan->unit_count > 0) {
        TRY(prefill_run_units(engine, plan));
        kv_cache_want_ahead(engine->cache, &want);
    }
    kv_cache_end_layers(engine->cache);
    return STATUS_OK;
}

/* What is spilled shall not take the memory that it was spilled to free; once a second, and nothing to do with direct I/O. */
static void forget_page_cache(Engine *engine) {
    double now = monotonic_seconds();
    if (engine->spill_file_count == 0 || now < engine->forget_due) return;
    for (uint32_t i = 0; i < engine->spill_file_count; i++)
        spill_file_forget(&engine->spill_files[i], 0, engine->spill_files[i].bytes);
    engine->forget_due = now + 1;
}

/* The reports come before the logits: rank 0 takes none of a lost sequence. */
Status engine_run_step(Engine *engine, const StepPlan *plan, LogitsSink sink) {
    TRY(apply_plan(engine, plan));
    build_batch(engine, plan, &engine->batch);
    TRY(run_layers(engine, plan));
    forget_page_cache(engine);
    TRY(comm_device_settle(&engine->reduce));
    TRY(exchange_reports(engine, plan));
    TRY(engine_run_head(engine, &engine->pass, 0, sink));
    return prefill_logits(engine, plan, engine->batch.logit_row_count, sink);
}

void engine_unit_begin(const Engine *engine, const char *phase) {
    if (engine->options.hooks.unit_begin)
        engine->options.hooks.unit_begin(engine->options.hooks.user, phase);
}

void engine_unit_end(const Engine *engine) {
    if (engine->options.hooks.unit_end) engine->options.hooks.unit_end(engine->options.hooks.user);
}

Status engine_follow(Engine *engine) {
    CHECK(engine->comm->rank > 0);
    for (;;) {
        StepPlan plan;
        TRY(plan_receive(&engine->channel, &plan));
        engine_unit_begin(engine, plan.kind == STEP_STOP ? "stop" : "step");
        if (plan.kind == STEP_STOP) {
            TRY(engine_wind_up(engine, &plan));
            engine_unit_end(engine);
            return STATUS_OK;
        }
        TRY(engine_run_step(engine, &plan, NULL));
        engine_unit_end(engine);
    }
}

Status engine_wind_up(Engine *engine, const StepPlan *plan) {
    TRY(apply_plan(engine, plan));
    kv_cache_settle(engine->cache);
    engine->blocks_due_seconds = 0; /* the last count is exact */
    return engine_gather_memory(engine);
}
