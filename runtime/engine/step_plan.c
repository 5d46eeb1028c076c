#include "runtime/engine/step_plan.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/base/bytes.h"
#include "runtime/base/hash.h"
#include "runtime/base/invariant.h"

typedef struct PlanHeader {
    uint32_t magic, kind;
    uint64_t step, digest;
    uint32_t close_count, open_count, sequence_count, token_count;
} PlanHeader;

enum { PLAN_MAGIC = 0x4e4c5053 }; /* "SPLN" */

static uint64_t payload_bytes(uint32_t closes, uint32_t opens, uint32_t sequences,
                              uint32_t tokens) {
    return (uint64_t)opens * sizeof(PlanOpen) + (uint64_t)sequences * sizeof(PlanSequence) +
           (uint64_t)closes * sizeof(uint32_t) + (uint64_t)tokens * sizeof(int32_t);
}

Status plan_channel_create(PlanChannel *out, Comm *comm, const PlanLimits *limits) {
    /* a multiple of eight: the upper half begins there, with eight-byte things */
    uint64_t capacity = align_up(payload_bytes(limits->slot_count, limits->slot_count,
                                               limits->slot_count, limits->token_budget),
                                 8);
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
static void point_into(uint8_t *bytes, uint32_t opens, uint32_t sequences, uint32_t closes,
                       StepPlan *plan) {
    plan->opens = (PlanOpen *)bytes;
    bytes += opens * sizeof(PlanOpen);
    plan->sequences = (PlanSequence *)bytes;
    bytes += sequences * sizeof(PlanSequence);
    plan->closes = (uint32_t *)bytes;
    bytes += closes * sizeof(uint32_t);
    plan->tokens = (int32_t *)bytes;
}

void plan_begin(PlanChannel *channel, StepKind kind, StepPlan *plan) {
    uint32_t slots = channel->limits.slot_count;
    *plan = (StepPlan){.kind = kind};
    /* filled with gaps in the upper half, packed into the lower half by plan_send */
    point_into(channel->bytes + channel->capacity, slots, slots, slots, plan);
}

static uint64_t pack(PlanChannel *channel, StepPlan *plan) {
    StepPlan packed = *plan;
    point_into(channel->bytes, plan->open_count, plan->sequence_count, plan->close_count, &packed);
    memcpy(packed.opens, plan->opens, plan->open_count * sizeof(PlanOpen));
    memcpy(packed.sequences, plan->sequences, plan->sequence_count * sizeof(PlanSequence));
    memcpy(packed.closes, plan->closes, plan->close_count * sizeof(uint32_t));
    memcpy(packed.tokens, plan->tokens, plan->token_count * sizeof(int32_t));
    *plan = packed;
    return payload_bytes(plan->close_count, plan->open_count, plan->sequence_count,
                         plan->token_count);
}

Status plan_send(PlanChannel *channel, StepPlan *plan) {
    uint64_t bytes = pack(channel, plan);
    CHECK(bytes <= channel->capacity);
    channel->digest = hash_xxh3(channel->bytes, bytes, channel->digest);
    plan->step = channel->step++;
    plan->digest = channel->digest;
    PlanHeader header = {.magic = PLAN_MAGIC,
                         .kind = plan->kind,
                         .step = plan->step,
                         .digest = plan->digest,
                         .close_count = plan->close_count,
                         .open_count = plan->open_count,
                         .sequence_count = plan->sequence_count,
                         .token_count = plan->token_count};
    TRY(comm_broadcast(channel->comm, 0, &header, sizeof header));
    return comm_broadcast(channel->comm, 0, channel->bytes, bytes);
}

static Status check_header(const PlanChannel *channel, const PlanHeader *header) {
    const PlanLimits *limits = &channel->limits;
    if (header->magic != PLAN_MAGIC || header->kind > STEP_STOP || header->step != channel->step ||
        header->close_count > limits->slot_count || header->open_count > limits->slot_count ||
        header->sequence_count > limits->slot_count || header->token_count > limits->token_budget)
        FAIL(RANK_MISMATCH,
             "the plan of step %llu that rank 0 sent is not the one that rank %d expects as step "
             "%llu",
             (unsigned long long)header->step, channel->comm->rank,
             (unsigned long long)channel->step);
    return STATUS_OK;
}

static Status check_payload(const PlanChannel *channel, const StepPlan *plan) {
    uint64_t rows = 0;
    bool sound = true;
    for (uint32_t i = 0; i < plan->sequence_count; i++) {
        rows += plan->sequences[i].token_count;
        sound = sound && plan->sequences[i].slot < channel->limits.slot_count &&
                plan->sequences[i].token_count > 0 &&
                plan->sequences[i].logit_count <= plan->sequences[i].token_count;
    }
    for (uint32_t i = 0; i < plan->open_count; i++)
        sound = sound && plan->opens[i].slot < channel->limits.slot_count;
    for (uint32_t i = 0; i < plan->close_count; i++)
        sound = sound && plan->closes[i] < channel->limits.slot_count;
    if (!sound || rows != plan->token_count)
        FAIL(RANK_MISMATCH, "the plan of step %llu has slots or counts out of range on rank %d",
             (unsigned long long)plan->step, channel->comm->rank);
    return STATUS_OK;
}

Status plan_receive(PlanChannel *channel, StepPlan *out) {
    PlanHeader header;
    TRY(comm_broadcast(channel->comm, 0, &header, sizeof header));
    TRY(check_header(channel, &header));
    uint64_t bytes = payload_bytes(header.close_count, header.open_count, header.sequence_count,
                                   header.token_count);
    TRY(comm_broadcast(channel->comm, 0, channel->bytes, bytes));
    channel->digest = hash_xxh3(channel->bytes, bytes, channel->digest);
    channel->step++;
    if (channel->digest != header.digest)
        FAIL(RANK_MISMATCH, "rank %d disagrees with rank 0 about the plans up to step %llu",
             channel->comm->rank, (unsigned long long)header.step);
    StepPlan plan = {.kind = (StepKind)header.kind,
                     .step = header.step,
                     .digest = header.digest,
                     .close_count = header.close_count,
                     .open_count = header.open_count,
                     .sequence_count = header.sequence_count,
                     .token_count = header.token_count};
    point_into(channel->bytes, plan.open_count, plan.sequence_count, plan.close_count, &plan);
    TRY(check_payload(channel, &plan));
    *out = plan;
    return STATUS_OK;
}
