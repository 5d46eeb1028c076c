/* A step as every rank runs it: the plan is applied, the layers run, logits go to rank 0, reports close the step. */

#include <stdlib.h>
#include <sys/resource.h>

#include "runtime/base/arena.h"
#include "runtime/base/bytes.h"
#include "runtime/base/invariant.h"
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

void engine_note_stop(Engine *engine) {
    StopRequest asked = ask_stop(engine);
    if (asked > engine->stop) engine->stop = asked;
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

Status engine_run_step(Engine *engine, const StepPlan *plan, LogitsSink sink) {
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
            TRY(engine_gather_memory(engine));
            engine_unit_end(engine);
            return STATUS_OK;
        }
        TRY(engine_run_step(engine, &plan, NULL));
        engine_unit_end(engine);
    }
}

typedef struct MemoryReport {
    uint64_t kv_capacity_bytes, kv_peak_bytes, memory_peak_bytes;
} MemoryReport;

Status engine_gather_memory(Engine *engine) {
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
