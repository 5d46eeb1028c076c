#include "runtime/engine/step_plan.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/base/bytes.h"
#include "runtime/base/hash.h"
#include "runtime/base/invariant.h"

typedef struct PlanCounts {
    uint32_t opens, sequences, units, closes, parks, tokens;
} PlanCounts;

typedef struct PlanHeader {
    uint32_t magic, kind;
    uint64_t step, digest;
    PlanCounts counts;
    PlanPrefill prefill;
} PlanHeader;

enum { PLAN_MAGIC = 0x4e4c5053 }; /* "SPLN" */

static uint64_t payload_bytes(const PlanCounts *counts) {
    return counts->opens * sizeof(PlanOpen) + counts->sequences * sizeof(PlanSequence) +
           counts->units * sizeof(PlanUnit) +
           ((uint64_t)counts->closes + counts->parks) * sizeof(uint32_t) +
           counts->tokens * sizeof(int32_t);
}

static PlanCounts most(const PlanLimits *limits) {
    return (PlanCounts){.opens = limits->slot_count,
                        .sequences = limits->slot_count,
                        .units = limits->prefill_tokens ? PLAN_UNITS_MAX : 0,
                        .closes = limits->slot_count,
                        .parks = limits->slot_count,
                        .tokens = limits->token_budget + limits->prefill_tokens};
}

static PlanCounts counts_of(const StepPlan *plan) {
    return (PlanCounts){plan->open_count,  plan->sequence_count, plan->unit_count,
                        plan->close_count, plan->park_count,     plan->token_count};
}

Status plan_channel_create(PlanChannel *out, Comm *comm, const PlanLimits *limits) {
    /* a multiple of eight: the upper half begins there, with eight-byte things */
    PlanCounts counts = most(limits);
    uint64_t capacity = align_up(payload_bytes(&counts), 8);
    void *bytes;
    TRY(memory_take(&bytes, 2, capacity, "step plan"));
    *out = (PlanChannel){.comm = comm, .limits = *limits, .bytes = bytes, .capacity = capacity};
    return STATUS_OK;
}

void plan_channel_destroy(PlanChannel *channel) {
    free(channel->bytes);
    *channel = (PlanChannel){0};
}

/* Eight-byte things first, so that every array is aligned. */
static void point_into(uint8_t *bytes, const PlanCounts *counts, StepPlan *plan) {
    plan->opens = (PlanOpen *)bytes;
    bytes += counts->opens * sizeof(PlanOpen);
    plan->sequences = (PlanSequence *)bytes;
    bytes += counts->sequences * sizeof(PlanSequence);
    plan->units = (PlanUnit *)bytes;
    bytes += counts->units * sizeof(PlanUnit);
    plan->closes = (uint32_t *)bytes;
    bytes += counts->closes * sizeof(uint32_t);
    plan->parks = (uint32_t *)bytes;
    bytes += counts->parks * sizeof(uint32_t);
    plan->tokens = (int32_t *)bytes;
}

void plan_begin(PlanChannel *channel, StepKind kind, StepPlan *plan) {
    PlanCounts counts = most(&channel->limits);
    *plan = (StepPlan){.kind = kind};
    /* filled with gaps in the upper half, packed into the lower half by plan_send */
    point_into(channel->bytes + channel->capacity, &counts, plan);
}

static void pack(PlanChannel *channel, const PlanCounts *counts, StepPlan *plan) {
    StepPlan packed = *plan;
    point_into(channel->bytes, counts, &packed);
    memcpy(packed.opens, plan->opens, plan->open_count * sizeof(PlanOpen));
    memcpy(packed.sequences, plan->sequences, plan->sequence_count * sizeof(PlanSequence));
    memcpy(packed.units, plan->units, plan->unit_count * sizeof(PlanUnit));
    memcpy(packed.closes, plan->closes, plan->close_count * sizeof(uint32_t));
    memcpy(packed.parks, plan->parks, plan->park_count * sizeof(uint32_t));
    memcpy(packed.tokens, plan->tokens, plan->token_count * sizeof(int32_t));
    *plan = packed;
}

Status plan_send(PlanChannel *channel, StepPlan *plan) {
    PlanCounts counts = counts_of(plan);
    uint64_t bytes = payload_bytes(&counts);
    CHECK(bytes <= channel->capacity);
    pack(channel, &counts, plan);
    channel->digest = hash_xxh3(channel->bytes, bytes, channel->digest);
    plan->step = channel->step++;
    plan->digest = channel->digest;
    PlanHeader header = {.magic = PLAN_MAGIC,
                         .kind = plan->kind,
                         .step = plan->step,
                         .digest = plan->digest,
                         .counts = counts,
                         .prefill = plan->prefill};
    TRY(comm_broadcast(channel->comm, 0, &header, sizeof header));
    return comm_broadcast(channel->comm, 0, channel->bytes, bytes);
}

static bool counts_fit(const PlanCounts *counts, const PlanLimits *limits) {
    PlanCounts limit = most(limits);
    return counts->opens <= limit.opens && counts->sequences <= limit.sequences &&
           counts->units <= limit.units && counts->closes <= limit.closes &&
           counts->parks <= limit.parks && counts->tokens <= limit.tokens;
}

static Status check_header(const PlanChannel *channel, const PlanHeader *header) {
    if (header->magic != PLAN_MAGIC || header->kind > STEP_STOP || header->step != channel->step ||
        !counts_fit(&header->counts, &channel->limits))
        FAIL(RANK_MISMATCH,
             "the plan of step %llu that rank 0 sent is not the one that rank %d expects as step "
             "%llu",
             (unsigned long long)header->step, channel->comm->rank,
             (unsigned long long)channel->step);
    return STATUS_OK;
}

static bool slots_sound(const uint32_t *slots, uint32_t count, uint32_t slot_count) {
    for (uint32_t i = 0; i < count; i++)
        if (slots[i] >= slot_count) return false;
    return true;
}

/* Rows of the units that bring tokens of their own. */
static bool units_sound(const StepPlan *plan, const PlanLimits *limits, uint64_t *rows) {
    const PlanPrefill *prefill = &plan->prefill;
    if (plan->unit_count == 0) return true;
    for (uint32_t i = 0; i < plan->unit_count; i++) {
        const PlanUnit *unit = &plan->units[i];
        if (unit->layer >= limits->layer_count || unit->token_count == 0 ||
            unit->token_count > limits->token_budget ||
            unit->position_first > limits->prefill_tokens ||
            unit->token_count > limits->prefill_tokens - unit->position_first)
            return false;
        *rows += unit->layer == 0 ? unit->token_count : 0;
    }
    return prefill->slot < limits->slot_count && prefill->cached_count <= limits->prefill_tokens &&
           prefill->logit_first <= limits->prefill_tokens &&
           prefill->logit_count <= limits->prefill_tokens - prefill->logit_first;
}

static Status check_payload(const PlanChannel *channel, const StepPlan *plan) {
    const PlanLimits *limits = &channel->limits;
    uint64_t rows = 0, unit_rows = 0;
    bool sound = slots_sound(plan->closes, plan->close_count, limits->slot_count) &&
                 slots_sound(plan->parks, plan->park_count, limits->slot_count) &&
                 units_sound(plan, limits, &unit_rows);
    for (uint32_t i = 0; i < plan->sequence_count; i++) {
        rows += plan->sequences[i].token_count;
        sound = sound && plan->sequences[i].slot < limits->slot_count &&
                plan->sequences[i].token_count > 0 &&
                plan->sequences[i].logit_count <= plan->sequences[i].token_count;
    }
    for (uint32_t i = 0; i < plan->open_count; i++)
        sound = sound && plan->opens[i].slot < limits->slot_count;
    if (!sound || rows > limits->token_budget || rows + unit_rows != plan->token_count)
        FAIL(RANK_MISMATCH, "the plan of step %llu has slots or counts out of range on rank %d",
             (unsigned long long)plan->step, channel->comm->rank);
    return STATUS_OK;
}

Status plan_receive(PlanChannel *channel, StepPlan *out) {
    PlanHeader header;
    TRY(comm_broadcast(channel->comm, 0, &header, sizeof header));
    TRY(check_header(channel, &header));
    uint64_t bytes = payload_bytes(&header.counts);
    TRY(comm_broadcast(channel->comm, 0, channel->bytes, bytes));
    channel->digest = hash_xxh3(channel->bytes, bytes, channel->digest);
    channel->step++;
    if (channel->digest != header.digest)
        FAIL(RANK_MISMATCH, "rank %d disagrees with rank 0 about the plans up to step %llu",
             channel->comm->rank, (unsigned long long)header.step);
    StepPlan plan = {.kind = (StepKind)header.kind,
                     .step = header.step,
                     .digest = header.digest,
                     .close_count = header.counts.closes,
                     .open_count = header.counts.opens,
                     .park_count = header.counts.parks,
                     .sequence_count = header.counts.sequences,
                     .unit_count = header.counts.units,
                     .token_count = header.counts.tokens,
                     .prefill = header.prefill};
    point_into(channel->bytes, &header.counts, &plan);
    TRY(check_payload(channel, &plan));
    *out = plan;
    return STATUS_OK;
}
