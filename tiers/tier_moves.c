#include "runtime/base/invariant.h"
#include "tiers/tier_records.h"

/* ---- who moves down ---- */

typedef struct VictimRules {
    const TierManager *manager;
    bool clean_only;   /* with a valid lower copy: nothing to write */
    bool not_wanted;   /* no pin is expected before its read could be planned again */
    bool pins_may_end; /* pinned ones count, too */
} VictimRules;

static bool may_move(void *context, BlockId id) {
    const VictimRules *rules = context;
    Record *record = &rules->manager->records[id];
    if (!record_may_leave(record)) return false;
    if (record->pins > 0 && !rules->pins_may_end) return false;
    if (rules->clean_only && record_lower_tier(record) == TIER_COUNT) return false;
    return !rules->not_wanted || record_wants(rules->manager, record)->served == 0;
}

static Tier tier_with_room(const TierManager *manager) {
    Tier tier = TIER_HOST;
    while (tier < TIER_COUNT && tier_slots_free_count(&manager->slots[tier]) == 0)
        tier++;
    return tier;
}

/* What is parked, else what the policy says. */
static Record *choose_by(TierManager *manager, const VictimRules *rules) {
    BlockId id = block_lists_find(&manager->lists, LIST_PARKED, may_move, (void *)rules);
    if (id == BLOCK_NONE)
        id = manager->options.placement->choose_victim(manager->policy, may_move, (void *)rules);
    if (id == BLOCK_NONE) return NULL;
    CHECK(may_move((void *)rules, id));
    return &manager->records[id];
}

/* What the policy would move, sparing blocks that are about to be used as long as there are others. */
static Record *choose_victim(TierManager *manager) {
    VictimRules rules = {.manager = manager,
                         .clean_only = tier_with_room(manager) == TIER_COUNT,
                         .not_wanted = true};
    Record *record = choose_by(manager, &rules);
    if (record) return record;
    rules.not_wanted = false;
    return choose_by(manager, &rules);
}

bool home_make_room(TierManager *manager) {
    if (manager->moves_settled) return false;
    Record *record = choose_victim(manager);
    if (!record || record_lower_tier(record) == TIER_COUNT) return false;
    home_drop(manager, record);
    return true;
}

/* A write frees the home slot that it reads, a transfer whose block is gone frees both of its slots. Nobody waits for late ones. */
static bool transfer_frees_slots(const TierManager *manager) {
    if (manager->writes_in_flight > 0) return true;
    for (uint32_t i = 0; i < manager->options.transfers_max; i++) {
        const TransferRecord *moving = &manager->transfers[i];
        if (moving->in_flight && moving->orphaned && !moving->late) return true;
    }
    return false;
}

bool home_can_leave(TierManager *manager) {
    if (transfer_frees_slots(manager)) return true;
    VictimRules rules = {.manager = manager,
                         .clean_only = tier_with_room(manager) == TIER_COUNT,
                         .pins_may_end = true};
    return choose_by(manager, &rules) != NULL;
}

/* ---- starting ---- */

/* Late reads hold staging, and late transfers the records of transfers: whether one group of reads still gets through. */
static bool reads_get_through(const TierManager *manager) {
    uint32_t staging = manager->staging_count - manager->slots[TIER_DEVICE].late_count;
    return staging >= manager->options.staging_min &&
           manager->late_count < manager->options.transfers_max;
}

static bool tier_answers(const TierManager *manager, Tier tier) {
    const TierSlots *slots = &manager->slots[tier];
    return reads_get_through(manager) && (!slots->off || slots->late_count == 0);
}

bool lose_if_silent(TierManager *manager, Record *record) {
    bool away = !record_on_device(record) && record->transfer == TRANSFER_NONE;
    if (!away || tier_answers(manager, record_lower_tier(record))) return false;
    record_lose(manager, record);
    return true;
}

void give_spilling_up(TierManager *manager) {
    if (manager->late_count == 0 || reads_get_through(manager)) return;
    manager->slots[TIER_HOST].off = manager->slots[TIER_NVME].off = true;
}

static bool start(TierManager *manager, Record *record, Tier from, Tier to, uint32_t to_slot,
                  TransferReason reason, Transfer *out) {
    const Block *block = &record->block;
    bool encodes = block->cold && block->form == 0 && manager->options.encodes[to];
    uint32_t id = manager->free_transfers[--manager->free_transfer_count];
    *out = (Transfer){.id = id,
                      .block = record_id(manager, record),
                      .generation = record->block.generation,
                      .from = from,
                      .to = to,
                      .from_slot = record->replicas[from].slot,
                      .to_slot = to_slot,
                      .from_form = block->form,
                      .to_form = encodes ? to : block->form,
                      .reason = reason};
    CHECK(record->transfer == TRANSFER_NONE && record->replicas[from].state == REPLICA_VALID &&
          record->replicas[to].state == REPLICA_NONE);
    record->transfer = id;
    record->replicas[from].state = REPLICA_READING;
    record->replicas[to] = (Replica){to_slot, REPLICA_WRITING};
    manager->transfers[id] =
        (TransferRecord){.transfer = *out, .in_flight = true, .staged = to == TIER_DEVICE};
    return true;
}

/* Room in staging for a read: a free slot, else that of a copy which nobody wants any more, else (for a pin that waits) that
 * of the copy which is needed last: its want returns to the head of the queue. */
static bool make_staging_room(TierManager *manager, bool for_pin) {
    if (manager->staging_used < manager->staging_count) return true;
    BlockId id = manager->lists.lists[LIST_STALE].first;
    if (id == BLOCK_NONE && for_pin) {
        id = manager->lists.lists[LIST_AHEAD].last;
        while (id != BLOCK_NONE && manager->records[id].demanded)
            id = manager->lists.nodes[id].previous;
        if (id != BLOCK_NONE) want_return(manager, &manager->records[id]);
    }
    if (id == BLOCK_NONE) return false;
    staged_drop(manager, &manager->records[id]);
    return true;
}

static bool start_read(TierManager *manager, Record *record, TransferReason reason, Transfer *out) {
    uint32_t slot = tier_slots_take(&manager->slots[TIER_DEVICE], 0);
    CHECK(slot != SLOT_NONE);
    manager->staging_used++;
    record->staged = true;
    record->touched = false;
    return start(manager, record, record_lower_tier(record), TIER_DEVICE, slot, reason, out);
}

static bool start_demanded(TierManager *manager, Transfer *out) {
    BlockId id = manager->lists.lists[LIST_DEMANDED].first;
    if (id == BLOCK_NONE) return false;
    Record *record = &manager->records[id];
    if (!tier_answers(manager, record_lower_tier(record))) return false; /* its pin will lose it */
    if (!make_staging_room(manager, true)) return false;
    block_lists_remove(&manager->lists, id);
    return start_read(manager, record, REASON_DEMAND, out);
}

static bool start_wanted(TierManager *manager, Transfer *out) {
    Record *record = want_next(manager);
    if (!record || !tier_answers(manager, record_lower_tier(record))) return false;
    if (!make_staging_room(manager, false)) return false;
    want_serve_first(manager);
    block_lists_remove(&manager->lists, record_id(manager, record)); /* demanded, too */
    return start_read(manager, record, REASON_PREFETCH, out);
}

/* Of a file: the blocks of a layer lie together, apart from those of them that will come back to be filled. */
static uint32_t slot_group(const TierManager *manager, const Block *block) {
    uint32_t groups = manager->options.stream_groups;
    return (uint32_t)(block->stream % groups) + (block->state == BLOCK_FILLING ? groups : 0);
}

/* Lower tiers are filled from the top. */
static bool start_write(TierManager *manager, Record *record, TransferReason reason,
                        Transfer *out) {
    Tier to = tier_with_room(manager);
    record->copied = true;
    manager->leaving_count++;
    manager->writes_in_flight++;
    uint32_t slot = tier_slots_take(&manager->slots[to], slot_group(manager, &record->block));
    return start(manager, record, TIER_DEVICE, to, slot, reason, out);
}

/* A resident block with a lower copy leaves at once. */
static bool start_eviction(TierManager *manager, uint32_t free_wanted, Transfer *out) {
    if (manager->moves_settled || manager->writes_in_flight == manager->options.writes_max)
        return false;
    while (manager->home_count - manager->home_used + manager->leaving_count < free_wanted) {
        Record *record = choose_victim(manager);
        if (!record) {
            manager->moves_settled = true;
            return false;
        }
        if (record_lower_tier(record) < TIER_COUNT) {
            home_drop(manager, record);
            continue;
        }
        return start_write(manager, record, REASON_EVICT, out);
    }
    return false;
}

/* Parked blocks leave while nothing else is to be done. */
static bool start_parking(TierManager *manager, Transfer *out) {
    if (manager->writes_in_flight == manager->options.writes_max) return false;
    VictimRules rules = {.manager = manager, .clean_only = tier_with_room(manager) == TIER_COUNT};
    BlockId id;
    while ((id = block_lists_find(&manager->lists, LIST_PARKED, may_move, &rules)) != BLOCK_NONE) {
        Record *record = &manager->records[id];
        if (record_lower_tier(record) == TIER_COUNT)
            return start_write(manager, record, REASON_PARK, out);
        home_drop(manager, record);
    }
    return false;
}

bool tier_manager_next_transfer(TierManager *manager, Transfer *out) {
    if (manager->free_transfer_count == 0) return false;
    bool waits = manager->take_waits || manager->promotion_waits;
    uint32_t free_wanted = manager->free_target > 0 ? manager->free_target : waits;
    return start_demanded(manager, out) ||
           (manager->take_waits && start_eviction(manager, 1, out)) || start_wanted(manager, out) ||
           start_eviction(manager, free_wanted, out) || start_parking(manager, out);
}

/* ---- ending ---- */

void transfer_orphan(TierManager *manager, Record *record) {
    TransferRecord *moving = &manager->transfers[record->transfer];
    moving->orphaned = true;
    manager->leaving_count -= moving->transfer.to != TIER_DEVICE;
    record->replicas[moving->transfer.from].state = REPLICA_NONE; /* the transfer's until it ends */
    record->replicas[moving->transfer.to].state = REPLICA_NONE;
    record->staged = false;
    record->transfer = TRANSFER_NONE;
}

static TierSlots *lower_slots(TierManager *manager, const Transfer *transfer) {
    return &manager->slots[transfer->to == TIER_DEVICE ? transfer->from : transfer->to];
}

/* Whether this failure is the last of too many in too short a time. */
static bool strikes_out(const TierManager *manager, TierSlots *slots) {
    uint32_t most = manager->options.failures_to_off;
    slots->failure_ns[slots->failure_count++ % most] = manager->now_ns;
    uint64_t first_ns = slots->failure_ns[slots->failure_count % most];
    return slots->failure_count >= most &&
           manager->now_ns - first_ns <= manager->options.failure_window_ns;
}

/* What a failure says about the lower tier, whatever has become of the block. */
static void note_failure(TierManager *manager, const Transfer *transfer, TransferResult result) {
    TierSlots *slots = lower_slots(manager, transfer);
    manager->stats.failed_transfers += result == TRANSFER_FAILED || result == TRANSFER_NO_SPACE;
    manager->stats.corrupt_blocks += result == TRANSFER_CORRUPT;
    if (result == TRANSFER_NO_SPACE) {
        slots->stopped_growing = true;
        slots->grow_ns = manager->now_ns + manager->options.grow_pause_ns;
        return;
    }
    bool out = result == TRANSFER_CORRUPT
                   ? ++slots->corrupt_count >= manager->options.corrupt_to_off
                   : strikes_out(manager, slots);
    if (out) slots->off = true;
}

/* A slot that could not be written is not offered again, one that had no room later. */
static void give_written_slot(TierManager *manager, const Transfer *transfer,
                              TransferResult result) {
    TierSlots *slots = &manager->slots[transfer->to];
    if (result == TRANSFER_OK)
        tier_slots_give(slots, transfer->to_slot);
    else if (result == TRANSFER_NO_SPACE)
        tier_slots_give_roomless(slots, transfer->to_slot);
    else
        tier_slots_retire(slots, transfer->to_slot);
}

static void give_home_slot(TierManager *manager, const Transfer *transfer) {
    tier_slots_give(&manager->slots[TIER_DEVICE], transfer->from_slot);
    manager->home_used--;
}

static void end_orphan(TierManager *manager, const TransferRecord *moving, TransferResult result) {
    const Transfer *transfer = &moving->transfer;
    if (moving->staged) {
        tier_slots_give(&manager->slots[transfer->from], transfer->from_slot);
        tier_slots_give(&manager->slots[TIER_DEVICE], transfer->to_slot);
        manager->staging_used--;
        return;
    }
    if (!moving->late) give_home_slot(manager, transfer);
    give_written_slot(manager, transfer, result);
}

static void count_late(TierManager *manager, const TransferRecord *moving, int by) {
    manager->late_count += by;
    lower_slots(manager, &moving->transfer)->late_count += by;
    if (moving->staged) manager->slots[TIER_DEVICE].late_count += by;
}

/* A late write may go on reading its source, whoever has it by then: nobody trusts what it writes. */
static void give_up(TierManager *manager, TransferRecord *moving) {
    const Transfer *transfer = &moving->transfer;
    Record *record = &manager->records[transfer->block];
    CHECK(!moving->late);
    moving->late = true;
    manager->stats.late_reads += moving->staged;
    manager->stats.late_writes += !moving->staged;
    manager->writes_in_flight -= !moving->staged;
    count_late(manager, moving, 1);
    note_failure(manager, transfer, TRANSFER_LATE);
    give_spilling_up(manager);
    if (moving->orphaned) {
        if (!moving->staged) give_home_slot(manager, transfer);
        return;
    }
    transfer_orphan(manager, record);
    if (moving->staged)
        record_lose(manager, record);
    else
        record->replicas[transfer->from].state = REPLICA_VALID;
}

static void end_read(TierManager *manager, Record *record, const Transfer *transfer,
                     TransferResult result) {
    record->replicas[transfer->from].state = REPLICA_VALID;
    record->replicas[TIER_DEVICE].state = REPLICA_VALID;
    if (result == TRANSFER_OK)
        staged_park(manager, record);
    else
        record_lose(manager, record);
}

static void end_write(TierManager *manager, Record *record, const Transfer *transfer,
                      TransferResult result) {
    manager->leaving_count--;
    record->replicas[TIER_DEVICE].state = REPLICA_VALID;
    bool used_soon =
        record->pins > 0 || record->demanded || record_wants(manager, record)->served > 0;
    bool encoded = transfer->to_form != transfer->from_form;
    if (result != TRANSFER_OK || (encoded && record->pins > 0)) {
        record->replicas[transfer->to].state = REPLICA_NONE;
        give_written_slot(manager, transfer, result);
        return;
    }
    record->replicas[transfer->to].state = REPLICA_VALID;
    record->block.form = transfer->to_form;
    if (!used_soon || encoded) home_drop(manager, record);
}

void tier_manager_complete(TierManager *manager, uint32_t transfer_id, TransferResult result) {
    CHECK(transfer_id < manager->options.transfers_max &&
          manager->transfers[transfer_id].in_flight);
    manager->moves_settled = false;
    if (result == TRANSFER_LATE) {
        give_up(manager, &manager->transfers[transfer_id]);
        return;
    }
    TransferRecord moving = manager->transfers[transfer_id];
    const Transfer *transfer = &moving.transfer;
    manager->transfers[transfer_id].in_flight = false;
    manager->free_transfers[manager->free_transfer_count++] = transfer_id;
    manager->writes_in_flight -= !moving.staged && !moving.late;
    if (moving.late) count_late(manager, &moving, -1);
    if (result == TRANSFER_OK)
        manager->stats.tiers[transfer->from]
            .moves[transfer->to][transfer->reason][transfer->to_form]++;
    else if (!moving.late)
        note_failure(manager, transfer, result);
    if (moving.orphaned) {
        end_orphan(manager, &moving, result);
        return;
    }
    Record *record = &manager->records[transfer->block];
    CHECK(record->transfer == transfer_id && record->block.generation == transfer->generation);
    record->transfer = TRANSFER_NONE;
    if (moving.staged)
        end_read(manager, record, transfer, result);
    else
        end_write(manager, record, transfer, result);
}
