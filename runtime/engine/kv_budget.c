#include "runtime/engine/kv_budget.h"

#include "runtime/base/bytes.h"
#include "runtime/engine/kv_cache.h"
#include "tiers/ring.h"

enum {
    SEQUENCES_LEAST = 8,
    STAGING_SLOTS_MIN = 2 * ATTEND_GROUP_BLOCKS,
    STAGING_SHARE = 4, /* of the device's slots at most, or of all that are needed */
    BOUNCE_SLOTS_MIN = 8,
    BOUNCE_SLOTS_MAX = 64,
    BOUNCE_SHARE = 4, /* of the host's slots at most */
};
static const uint64_t staging_bytes_max = 1ull << 30;

static bool spills(const KvBudgetInput *input) {
    return input->bytes[TIER_HOST] > 0 || input->bytes[TIER_NVME] > 0;
}

static uint32_t smaller(uint64_t a, uint64_t b) {
    return (uint32_t)(a < b ? a : b);
}

/* Blocks that one layer of a step may fill before it seals them, beside the one that each sequence goes on with. */
static uint32_t step_blocks(const KvBudgetInput *input) {
    return (uint32_t)divide_up(input->row_count_max, input->layout.shape.block_tokens) + 1;
}

/* Of the device, for so many sequences at once: one layer's blocks are held there at a time. */
static uint64_t slots_min(const KvBudgetInput *input, uint32_t sequence_count) {
    if (!spills(input)) return input->layer_count;
    return (uint64_t)sequence_count + step_blocks(input) + STAGING_SLOTS_MIN;
}

/* Slots' worth of the device budget in which blocks are encoded on their way to a file. */
static uint32_t code_buffers(const KvBudgetInput *input) {
    return input->layout.tier_codecs[TIER_NVME] && spills(input) ? KV_CODE_BUFFERS : 0;
}

/* A filling block that travels costs two moves a step where one that is read costs one: more sequences at once are worth it only
 * until weights are shared by enough rows. */
static uint32_t sequences_wanted(const KvBudgetInput *input, uint64_t room) {
    if (!input->sequence_auto) return input->sequence_max;
    uint64_t resident = room / input->layer_count;
    return smaller(input->sequence_max, resident > SEQUENCES_LEAST ? resident : SEQUENCES_LEAST);
}

uint64_t kv_budget_device_min(const KvBudgetInput *input) {
    return (slots_min(input, sequences_wanted(input, 0)) + code_buffers(input)) *
           input->layout.slot_bytes;
}

/* Beside what was promised: a prompt on its way through a layer is raw there until its end. */
static uint64_t prompt_slots(const KvBudgetInput *input) {
    return input->layout.codec ? divide_up(input->token_max, input->layout.shape.block_tokens) : 0;
}

/* What sequence_max sequences of token_max tokens need, in slots. */
static uint64_t slots_needed(const KvBudgetInput *input) {
    return (uint64_t)input->sequence_max * kv_layout_slots(&input->layout, input->token_max) *
               input->layer_count +
           prompt_slots(input);
}

uint32_t kv_budget_staging_least(uint32_t ring_depth) {
    return 2 * ATTEND_GROUP_BLOCKS + 2 * ring_depth;
}

uint64_t kv_budget_staging_most(const KvBudgetInput *input, uint64_t device_slots) {
    uint64_t slot_bytes = input->layout.slot_bytes, share = device_slots / STAGING_SHARE;
    uint64_t least = 0;
    if (input->reads_ahead)
        least = smaller(kv_budget_staging_least(ring_depth_auto(slot_bytes)),
                        slots_needed(input) / STAGING_SHARE);
    return smaller(share > least ? share : least, staging_bytes_max / slot_bytes);
}

/* Where the host's tier is small it gives up all of itself before there are fewer than work at all. */
static void plan_bounces(const KvBudgetInput *input, KvBudget *budget) {
    uint32_t *host_slots = &budget->slots[TIER_HOST];
    bool encodes = input->layout.tier_codecs[TIER_HOST] && input->bytes[TIER_HOST] > 0;
    if (!input->bounces || (input->bytes[TIER_NVME] == 0 && !encodes)) return;
    uint32_t count = BOUNCE_SLOTS_MAX;
    if (input->bytes[TIER_HOST] > 0) count = smaller(count, *host_slots / BOUNCE_SHARE);
    budget->bounce_slots = count > BOUNCE_SLOTS_MIN ? count : BOUNCE_SLOTS_MIN;
    *host_slots -= smaller(*host_slots, budget->bounce_slots);
}

Status kv_budget_plan(const KvBudgetInput *input, KvBudget *out) {
    KvBudget budget = {0};
    uint64_t slot_bytes = input->layout.slot_bytes;
    uint64_t needed = slots_needed(input), least = slots_min(input, 1),
             spare = spills(input) ? slots_min(input, input->sequence_max) : 0;
    uint64_t most = (BLOCK_NONE - 1) / TIER_COUNT;
    for (int tier = 0; tier < TIER_COUNT; tier++) {
        uint64_t room = input->bytes[tier] / slot_bytes;
        if (tier == TIER_DEVICE) room -= smaller(room, code_buffers(input));
        budget.slots[tier] = smaller(smaller(room, needed + spare), most);
    }
    plan_bounces(input, &budget);
    if (budget.slots[TIER_DEVICE] < least)
        FAIL(CONTEXT_LENGTH,
             "--kv-device-size: %llu bytes; one step of one sequence needs %llu, in %u layers of "
             "%llu bytes a block",
             (unsigned long long)input->bytes[TIER_DEVICE],
             (unsigned long long)((least + code_buffers(input)) * slot_bytes), input->layer_count,
             (unsigned long long)slot_bytes);
    uint64_t kept = budget.slots[TIER_DEVICE];
    budget.sequence_max = input->sequence_max;
    if (spills(input)) {
        uint64_t room = kept - step_blocks(input) - STAGING_SLOTS_MIN;
        budget.sequence_max = smaller(sequences_wanted(input, room), room);
        room -= budget.sequence_max;
        uint64_t staging = kv_budget_staging_most(input, kept);
        if (staging < STAGING_SLOTS_MIN) staging = STAGING_SLOTS_MIN;
        budget.staging_slots = smaller(staging, STAGING_SLOTS_MIN + room);
        kept -= budget.staging_slots + 1; /* the place that tier_manager_has_room keeps free */
    }
    uint64_t all = kept + budget.slots[TIER_HOST] + budget.slots[TIER_NVME];
    all -= smaller(all, prompt_slots(input));
    budget.layer_blocks = smaller(all / input->layer_count, most);
    *out = budget;
    return STATUS_OK;
}

uint32_t kv_budget_block_tokens(uint32_t kv_head_count, uint32_t head_dim, bool encodes) {
    enum { TOKENS_MIN = 32, TOKENS_MAX = 256 };
    const uint64_t bytes_wanted = encodes ? 32 << 10 : 64 << 10;
    KvShape shape = {kv_head_count, head_dim, TOKENS_MIN};
    while (shape.block_tokens < TOKENS_MAX && kv_block_bytes(&shape) < bytes_wanted)
        shape.block_tokens *= 2;
    return shape.block_tokens;
}
