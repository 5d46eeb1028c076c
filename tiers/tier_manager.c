#include "tiers/tier_manager.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/base/invariant.h"
#include "tiers/tier_records.h"

const char *tier_name(Tier tier) {
    static const char *const names[TIER_COUNT] = {"device", "host", "nvme"};
    CHECK(tier < TIER_COUNT);
    return names[tier];
}

const char *transfer_reason_name(TransferReason reason) {
    static const char *const names[REASON_COUNT] = {"evict", "prefetch", "demand", "park"};
    CHECK(reason < REASON_COUNT);
    return names[reason];
}

/* ---- memory ---- */

static Status take_memory(TierManager *manager) {
    const TierManagerOptions *options = &manager->options;
    uint32_t marks = 0;
    for (int tier = 0; tier < TIER_COUNT; tier++) {
        uint32_t groups = tier == TIER_NVME ? 2 * options->stream_groups : 0;
        TRY(tier_slots_create(&manager->slots[tier], options->slot_count[tier], groups));
        if (options->slot_count[tier] > marks) marks = options->slot_count[tier];
    }
    TRY(memory_take((void **)&manager->records, options->record_count, sizeof(Record), "blocks"));
    TRY(memory_take((void **)&manager->free_ids, options->record_count, sizeof(BlockId), "blocks"));
    TRY(memory_take((void **)&manager->wants, manager->want_capacity, sizeof(Want), "wants"));
    TRY(memory_take((void **)&manager->transfers, options->transfers_max, sizeof(TransferRecord),
                    "transfers"));
    TRY(memory_take((void **)&manager->free_transfers, options->transfers_max, sizeof(uint32_t),
                    "transfers"));
    TRY(memory_take((void **)&manager->slot_marks, marks, 1, "slot marks"));
    return block_lists_create(&manager->lists, options->record_count, LIST_COUNT);
}

static void fill_memory(TierManager *manager) {
    const TierManagerOptions *options = &manager->options;
    for (uint32_t i = 0; i < options->record_count; i++) {
        manager->records[i].transfer = TRANSFER_NONE;
        manager->free_ids[i] = options->record_count - 1 - i; /* lowest record first */
    }
    manager->free_id_count = options->record_count;
    for (uint32_t i = 0; i < options->transfers_max; i++)
        manager->free_transfers[i] = options->transfers_max - 1 - i;
    manager->free_transfer_count = options->transfers_max;
}

static Status create_policy(TierManager *manager) {
    PlacementOptions options = {.block_count = manager->options.record_count,
                                .stream_groups = manager->options.stream_groups,
                                .resident_count = manager->home_count,
                                .trace = manager->options.trace,
                                .trace_count = manager->options.trace_count};
    return manager->options.placement->create(&manager->policy, &options);
}

Status tier_manager_create(TierManager **out, const TierManagerOptions *options) {
    uint64_t slots = 0;
    for (int tier = 0; tier < TIER_COUNT; tier++)
        slots += options->slot_count[tier];
    CHECK(slots < SLOT_NONE && options->staging_slots < options->slot_count[TIER_DEVICE]);
    CHECK(options->transfers_max > 0 && options->stream_groups > 0);
    bool spills = slots > options->slot_count[TIER_DEVICE];
    CHECK(!spills || (options->staging_slots > 0 && options->writes_max > 0));
    CHECK(options->failures_to_off > 0 && options->failures_to_off <= TIER_FAILURES_MAX);

    void *memory;
    TRY(memory_take(&memory, 1, sizeof(TierManager), "tier manager"));
    TierManager *manager = memory;
    manager->options = *options;
    if (options->record_count == 0) manager->options.record_count = (uint32_t)slots;
    manager->staging_count = options->staging_slots;
    manager->home_count = options->slot_count[TIER_DEVICE] - options->staging_slots;
    /* Staged copies that a demand takes away return to the queue: one a staging slot at most. */
    manager->want_capacity = options->want_count_max + options->staging_slots;
    Status status = take_memory(manager);
    if (status == STATUS_OK) status = create_policy(manager);
    if (status != STATUS_OK) {
        tier_manager_destroy(manager);
        return status;
    }
    fill_memory(manager);
    *out = manager;
    return STATUS_OK;
}

void tier_manager_destroy(TierManager *manager) {
    if (!manager) return;
    manager->options.placement->destroy(manager->policy);
    block_lists_destroy(&manager->lists);
    for (int tier = 0; tier < TIER_COUNT; tier++)
        tier_slots_destroy(&manager->slots[tier]);
    free(manager->records);
    free(manager->free_ids);
    free(manager->wants);
    free(manager->transfers);
    free(manager->free_transfers);
    free(manager->slot_marks);
    free(manager);
}

/* ---- records ---- */

static Record *record_at(const TierManager *manager, BlockId id) {
    CHECK(id < manager->options.record_count);
    Record *record = &manager->records[id];
    CHECK(record->block.state != BLOCK_FREE);
    return record;
}

Tier record_lower_tier(const Record *record) {
    Tier tier = TIER_HOST;
    while (tier < TIER_COUNT && record->replicas[tier].state < REPLICA_VALID)
        tier++;
    return tier;
}

bool record_on_device(const Record *record) {
    return record->replicas[TIER_DEVICE].state >= REPLICA_VALID;
}

static void give_replica(TierManager *manager, Record *record, Tier tier) {
    Replica *replica = &record->replicas[tier];
    if (replica->state == REPLICA_NONE) return;
    tier_slots_give(&manager->slots[tier], replica->slot);
    if (tier == TIER_DEVICE) {
        manager->home_used -= !record->staged;
        manager->staging_used -= record->staged;
        record->staged = false;
    }
    replica->state = REPLICA_NONE;
}

bool record_may_leave(const Record *record) {
    bool movable = record->block.state == BLOCK_FILLING || record->block.state == BLOCK_SEALED;
    return movable && !record->held && !record->demanded && !record->staged &&
           record_on_device(record) && record->transfer == TRANSFER_NONE;
}

void home_drop(TierManager *manager, Record *record) {
    CHECK(record_may_leave(record) && record->pins == 0 && record_lower_tier(record) < TIER_COUNT);
    block_lists_remove(&manager->lists, record_id(manager, record));
    give_replica(manager, record, TIER_DEVICE);
    manager->options.placement->moved_down(manager->policy, record_id(manager, record));
}

void staged_drop(TierManager *manager, Record *record) {
    CHECK(record->staged && record->pins == 0 && record->transfer == TRANSFER_NONE &&
          record_lower_tier(record) < TIER_COUNT);
    block_lists_remove(&manager->lists, record_id(manager, record));
    manager->stats.prefetch_wasted += !record->touched;
    give_replica(manager, record, TIER_DEVICE);
}

void staged_park(TierManager *manager, Record *record) {
    BlockId id = record_id(manager, record);
    block_lists_remove(&manager->lists, id);
    if (record->demanded)
        block_lists_push_first(&manager->lists, LIST_AHEAD, id);
    else if (record_wants(manager, record)->served > 0)
        block_lists_push_last(&manager->lists, LIST_AHEAD, id);
    else
        block_lists_push_last(&manager->lists, LIST_STALE, id);
}

void record_lose(TierManager *manager, Record *record) {
    BlockId id = record_id(manager, record);
    BlockState state = record->block.state;
    CHECK((state == BLOCK_FILLING || state == BLOCK_SEALED) && record->pins == 0);
    Tier below = record_lower_tier(record);
    if (below < TIER_COUNT) manager->stats.tiers[below].lost++;
    block_lists_remove(&manager->lists, id);
    for (int tier = 0; tier < TIER_COUNT; tier++)
        give_replica(manager, record, tier);
    manager->options.placement->forgotten(manager->policy, id);
    record->block.state = BLOCK_LOST;
    record->demanded = false;
    manager->stats.filling -= state == BLOCK_FILLING;
    manager->stats.sealed -= state == BLOCK_SEALED;
    manager->stats.lost++;
    manager->stats.lost_blocks++;
}

/* ---- the life of a block ---- */

/* A place at home, without a write; whoever waits for one is noted. */
static Status find_home(TierManager *manager) {
    manager->moves_settled = false;
    if (manager->home_used == manager->home_count && !home_make_room(manager)) {
        manager->take_waits = true;
        return home_can_leave(manager) ? STATUS_AGAIN : STATUS_NO_SPACE;
    }
    manager->take_waits = false;
    return STATUS_OK;
}

Status tier_manager_take(TierManager *manager, const BlockIdentity *identity, uint64_t stream,
                         uint32_t ordinal, BlockId *out) {
    if (!tier_manager_has_room(manager, 1)) return STATUS_NO_SPACE;
    TRY(find_home(manager));
    BlockId id = manager->free_ids[--manager->free_id_count];
    Record *record = &manager->records[id];
    uint32_t life = record->life + 1;
    uint32_t slot = tier_slots_take(&manager->slots[TIER_DEVICE], 0);
    CHECK(record->block.state == BLOCK_FREE && slot != SLOT_NONE);
    *record = (Record){.block = {.state = BLOCK_FILLING,
                                 .identity = *identity,
                                 .stream = stream,
                                 .ordinal = ordinal,
                                 .generation = ++manager->generation},
                       .transfer = TRANSFER_NONE,
                       .life = life,
                       .held = true};
    record->replicas[TIER_DEVICE] = (Replica){slot, REPLICA_VALID};
    manager->home_used++;
    manager->stats.filling++;
    manager->options.placement->added(manager->policy, id, &record->block);
    *out = id;
    return STATUS_OK;
}

static void demand(TierManager *manager, Record *record) {
    if (record->demanded) return;
    record->demanded = true;
    manager->stats.prefetch_late++;
    if (record->replicas[TIER_DEVICE].state == REPLICA_NONE)
        block_lists_push_last(&manager->lists, LIST_DEMANDED, record_id(manager, record));
}

/* A staged copy becomes a resident one: places are shared out by count. */
static void move_in(TierManager *manager, Record *record) {
    block_lists_remove(&manager->lists, record_id(manager, record));
    record->staged = false;
    manager->staging_used--;
    manager->home_used++;
    manager->options.placement->added(manager->policy, record_id(manager, record), &record->block);
}

static void note_use(TierManager *manager, BlockId id, const Block *block) {
    const TierManagerOptions *options = &manager->options;
    options->placement->used(manager->policy, id, block);
    if (options->record)
        options->record(options->record_user, block->stream << 32 | block->ordinal);
}

Status tier_manager_hold(TierManager *manager, BlockId id, uint32_t *out_slot) {
    Record *record = record_at(manager, id);
    if (record->block.state == BLOCK_LOST) return STATUS_IO;
    CHECK(record->block.state == BLOCK_FILLING && !record->held);
    if (lose_if_silent(manager, record)) return STATUS_IO;
    if (!record_on_device(record) || record->transfer != TRANSFER_NONE) {
        demand(manager, record);
        return STATUS_AGAIN;
    }
    if (record->staged) {
        TRY(find_home(manager));
        manager->stats.prefetch_useful += !record->touched && !record->demanded;
        move_in(manager, record);
    }
    Tier lower = record_lower_tier(record);
    manager->stats.tiers[lower < TIER_COUNT ? lower : TIER_DEVICE].hits++;
    if (lower < TIER_COUNT) give_replica(manager, record, lower);
    block_lists_remove(&manager->lists, id); /* parked no more */
    want_pinned(manager, record);
    record->demanded = false;
    record->held = true;
    if (record->copied) record->block.generation = ++manager->generation;
    record->copied = false;
    note_use(manager, id, &record->block);
    *out_slot = record->replicas[TIER_DEVICE].slot;
    return STATUS_OK;
}

void tier_manager_let_go(TierManager *manager, BlockId id) {
    Record *record = record_at(manager, id);
    if (!record->held) return;
    record->held = false;
    manager->moves_settled = false;
}

void tier_manager_seal(TierManager *manager, BlockId id) {
    Record *record = record_at(manager, id);
    CHECK(record->block.state == BLOCK_FILLING && record->held);
    record->held = false;
    record->block.state = BLOCK_SEALED;
    manager->stats.filling--;
    manager->stats.sealed++;
    manager->moves_settled = false;
}

void tier_manager_cool(TierManager *manager, BlockId id) {
    Record *record = record_at(manager, id);
    CHECK(record->block.state == BLOCK_SEALED && record_on_device(record));
    record->block.cold = true;
}

void tier_manager_park(TierManager *manager, BlockId id) {
    Record *record = record_at(manager, id);
    if (!record_may_leave(record) || record->pins > 0) return;
    block_lists_remove(&manager->lists, id);
    block_lists_push_last(&manager->lists, LIST_PARKED, id);
    manager->moves_settled = false;
}

void tier_manager_release(TierManager *manager, BlockId id) {
    Record *record = record_at(manager, id);
    CHECK(record->pins == 0);
    BlockState state = record->block.state;
    manager->stats.filling -= state == BLOCK_FILLING;
    manager->stats.sealed -= state == BLOCK_SEALED;
    manager->stats.lost -= state == BLOCK_LOST;
    if (state != BLOCK_LOST) manager->options.placement->forgotten(manager->policy, id);
    record->held = false;
    if (record->staged && record->transfer == TRANSFER_NONE)
        manager->stats.prefetch_wasted += !record->touched;
    block_lists_remove(&manager->lists, id);
    if (record->transfer != TRANSFER_NONE) transfer_orphan(manager, record);
    for (int tier = 0; tier < TIER_COUNT; tier++)
        give_replica(manager, record, tier);
    record->block.state = BLOCK_FREE;
    manager->free_ids[manager->free_id_count++] = id;
    manager->moves_settled = false;
}

const Block *tier_manager_block(const TierManager *manager, BlockId id) {
    CHECK(id < manager->options.record_count);
    return &manager->records[id].block;
}

uint32_t tier_manager_device_slot(const TierManager *manager, BlockId id) {
    const Record *record = record_at(manager, id);
    return record_on_device(record) && !record->staged ? record->replicas[TIER_DEVICE].slot
                                                       : SLOT_NONE;
}

/* ---- reading ---- */

Status tier_manager_pin(TierManager *manager, BlockId id, uint32_t *out_slot) {
    Record *record = record_at(manager, id);
    if (record->block.state == BLOCK_LOST) return STATUS_IO;
    if (lose_if_silent(manager, record)) return STATUS_IO;
    if (!record_on_device(record)) {
        CHECK(record->pins == 0); /* rule 11 */
        demand(manager, record);
        return STATUS_AGAIN;
    }
    want_pinned(manager, record);
    block_lists_remove(&manager->lists, id);
    if (record->staged) {
        manager->stats.prefetch_useful += !record->touched && !record->demanded;
        record->touched = true;
    }
    manager->stats.tiers[record->staged ? record_lower_tier(record) : TIER_DEVICE].hits++;
    record->demanded = false;
    record->pins++;
    if (record->block.state == BLOCK_SEALED) note_use(manager, id, &record->block);
    *out_slot = record->replicas[TIER_DEVICE].slot;
    return STATUS_OK;
}

Status tier_manager_pin_host(TierManager *manager, BlockId id, uint32_t *out_slot) {
    Record *record = record_at(manager, id);
    if (record->replicas[TIER_DEVICE].state != REPLICA_NONE ||
        record->replicas[TIER_HOST].state != REPLICA_VALID)
        return STATUS_NOT_FOUND;
    want_pinned(manager, record);
    block_lists_remove(&manager->lists, id); /* demanded no more */
    manager->stats.tiers[TIER_HOST].hits++;
    record->demanded = false;
    record->pins++;
    if (record->block.state == BLOCK_SEALED) note_use(manager, id, &record->block);
    *out_slot = record->replicas[TIER_HOST].slot;
    return STATUS_OK;
}

/* Beside the places that are kept free. */
static bool home_is_free(const TierManager *manager, uint32_t others) {
    return (uint64_t)manager->home_used + manager->free_target + others < manager->home_count;
}

static bool wants_free_place(const TierManager *manager, const Record *record) {
    const Placement *placement = manager->options.placement;
    return !placement->wants_free_place ||
           placement->wants_free_place(manager->policy, &record->block);
}

bool tier_manager_has_home(const TierManager *manager, BlockId id, uint32_t others) {
    return !manager->take_waits && home_is_free(manager, others) &&
           wants_free_place(manager, record_at(manager, id));
}

/* A staged copy that has just been attended moves in, if the policy wants it and a place is there or can be made without a
 * write. Takes that wait go first. */
static bool promote(TierManager *manager, Record *record) {
    const Placement *placement = manager->options.placement;
    BlockId id = record_id(manager, record);
    if (manager->take_waits) return false;
    bool free = home_is_free(manager, 0);
    if (free && !wants_free_place(manager, record)) return false;
    if (!free) {
        if (!placement->wants_promotion || !placement->wants_promotion(manager->policy, id))
            return false;
        bool full = manager->home_used == manager->home_count;
        manager->promotion_waits = full && !home_make_room(manager);
        if (manager->promotion_waits) return false;
    }
    move_in(manager, record);
    return true;
}

Tier tier_manager_tier(const TierManager *manager, BlockId id) {
    const Record *record = record_at(manager, id);
    return record_on_device(record) ? TIER_DEVICE : record_lower_tier(record);
}

void tier_manager_unpin(TierManager *manager, BlockId id) {
    Record *record = record_at(manager, id);
    CHECK(record->pins > 0);
    manager->moves_settled = false;
    if (--record->pins > 0 || !record->staged || promote(manager, record)) return;
    if (record_wants(manager, record)->served > 0)
        staged_park(manager, record);
    else
        staged_drop(manager, record);
}

void tier_manager_score(TierManager *manager, BlockId id, double mass) {
    const Placement *placement = manager->options.placement;
    if (record_at(manager, id)->block.state == BLOCK_SEALED && placement->scored)
        placement->scored(manager->policy, id, mass);
}

/* ---- time and counts ---- */

void tier_manager_tick(TierManager *manager, uint64_t now_ns) {
    CHECK(now_ns >= manager->now_ns);
    manager->now_ns = now_ns;
    for (int tier = TIER_HOST; tier < TIER_COUNT; tier++) {
        TierSlots *slots = &manager->slots[tier];
        if (!slots->stopped_growing || now_ns < slots->grow_ns) continue;
        slots->stopped_growing = false;
        manager->moves_settled = false;
    }
}

void tier_manager_set_staging(TierManager *manager, uint32_t staging_slots) {
    uint32_t most = manager->options.staging_slots, least = manager->staging_used;
    staging_slots += manager->slots[TIER_DEVICE].late_count; /* those are of no use */
    uint32_t room = manager->home_count - manager->home_used;
    if (most > manager->staging_count + room) most = manager->staging_count + room;
    if (staging_slots > most) staging_slots = most;
    if (staging_slots < least) staging_slots = least;
    manager->staging_count = staging_slots;
    manager->home_count = manager->options.slot_count[TIER_DEVICE] - staging_slots;
    manager->moves_settled = false;
    give_spilling_up(manager);
}

void tier_manager_set_free_target(TierManager *manager, uint32_t free_target) {
    manager->free_target = free_target < manager->home_count ? free_target : manager->home_count;
    manager->moves_settled = false;
}

uint32_t tier_manager_in_flight(const TierManager *manager) {
    return manager->options.transfers_max - manager->free_transfer_count;
}

static uint32_t slots_left(const TierSlots *slots) {
    return slots->used - slots->late_count + tier_slots_free_count(slots);
}

/* A block takes one place, whatever copies it has: a device copy with a valid lower one can always go. One place below is kept
 * free: a filling block that comes back to be held changes places with one that leaves. */
uint64_t tier_manager_places(const TierManager *manager) {
    uint64_t below = 0;
    for (int tier = TIER_HOST; tier < TIER_COUNT; tier++)
        below += slots_left(&manager->slots[tier]);
    return manager->home_count + (below > 0 ? below - 1 : 0);
}

bool tier_manager_has_room(const TierManager *manager, uint32_t count) {
    uint64_t blocks = (uint64_t)manager->stats.filling + manager->stats.sealed;
    return count <= manager->free_id_count && blocks + count <= tier_manager_places(manager);
}

TierManagerStats tier_manager_stats(const TierManager *manager) {
    TierManagerStats stats = manager->stats;
    for (int tier = 0; tier < TIER_COUNT; tier++) {
        const TierSlots *slots = &manager->slots[tier];
        stats.tiers[tier].slot_count = slots->slot_count;
        stats.tiers[tier].slots_used = slots->used;
        stats.tiers[tier].slots_peak = slots->used_peak;
        stats.tiers[tier].off = slots->off;
    }
    return stats;
}

void tier_manager_count_blocks(const TierManager *manager, TierBlocks out[TIER_COUNT]) {
    memset(out, 0, TIER_COUNT * sizeof *out);
    for (uint32_t id = 0; id < manager->options.record_count; id++) {
        const Record *record = &manager->records[id];
        for (int tier = 0; tier < TIER_COUNT; tier++) {
            if (record->replicas[tier].state < REPLICA_VALID) continue;
            out[tier].filling += record->block.state == BLOCK_FILLING;
            out[tier].sealed += record->block.state == BLOCK_SEALED;
        }
    }
}
