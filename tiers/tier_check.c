#include <string.h>

#include "runtime/base/invariant.h"
#include "tiers/tier_records.h"

/* Rule 11. */
static bool pinned_in_host(const Record *record) {
    return record->replicas[TIER_DEVICE].state == REPLICA_NONE &&
           record->replicas[TIER_HOST].state == REPLICA_VALID &&
           record->transfer == TRANSFER_NONE && !record->demanded;
}

static void check_block(const TierManager *manager, const Record *record) {
    const Replica *device = &record->replicas[TIER_DEVICE];
    Tier lower = record_lower_tier(record);
    bool on_device = record_on_device(record);
    bool moving = record->transfer != TRANSFER_NONE;
    switch (record->block.state) {
    case BLOCK_FREE:
    case BLOCK_LOST:
        CHECK(!moving && !record->staged && record->pins == 0 && lower == TIER_COUNT &&
              device->state == REPLICA_NONE);
        break;
    case BLOCK_FILLING:
    case BLOCK_SEALED:
        CHECK(on_device || lower < TIER_COUNT);       /* rule 1 */
        CHECK(!record->staged || lower < TIER_COUNT); /* a staged copy is never the only one */
        CHECK(record->pins == 0 || on_device || pinned_in_host(record));
        break;
    }
    CHECK(!record->held || (record->block.state == BLOCK_FILLING && !moving && !record->staged &&
                            device->state == REPLICA_VALID && lower == TIER_COUNT));
    CHECK(!record->staged || device->state != REPLICA_NONE);
    CHECK(record->block.form == 0 || record->block.cold); /* rule 9 */
    CHECK(!record->block.cold || record->block.state != BLOCK_FILLING);
    uint32_t list = block_lists_of(&manager->lists, record_id(manager, record));
    bool parked = record->staged && on_device && record->pins == 0;
    CHECK(parked == (list == LIST_AHEAD || list == LIST_STALE));
    CHECK(list != LIST_PARKED ||
          (on_device && !record->staged && !record->held && record->pins == 0));
    CHECK(list != LIST_DEMANDED || (record->demanded && device->state == REPLICA_NONE));
    if (parked && record->wants.epoch == manager->want_epoch && list == LIST_STALE)
        CHECK(record->wants.served == 0);
}

/* Rule 8: the replicas that a transfer touches are its own, and no others are being written or read. */
static void check_transfer_of(const TierManager *manager, const Record *record) {
    if (record->transfer == TRANSFER_NONE) {
        for (int tier = 0; tier < TIER_COUNT; tier++)
            CHECK(record->replicas[tier].state == REPLICA_NONE ||
                  record->replicas[tier].state == REPLICA_VALID);
        return;
    }
    const TransferRecord *moving = &manager->transfers[record->transfer];
    const Transfer *transfer = &moving->transfer;
    CHECK(moving->in_flight && !moving->orphaned && transfer->id == record->transfer &&
          transfer->block == record_id(manager, record) &&
          transfer->generation == record->block.generation &&
          transfer->from_form == record->block.form);
    CHECK(record->replicas[transfer->from].state == REPLICA_READING &&
          record->replicas[transfer->from].slot == transfer->from_slot);
    CHECK(record->replicas[transfer->to].state == REPLICA_WRITING &&
          record->replicas[transfer->to].slot == transfer->to_slot);
    CHECK(moving->staged == (transfer->to == TIER_DEVICE) && moving->staged == record->staged);
}

typedef struct DeviceUse {
    uint32_t home, staging;
} DeviceUse;

static void mark(const TierManager *manager, Tier tier, uint32_t slot) {
    CHECK(slot < manager->slots[tier].fresh_first && manager->slot_marks[slot] == 0);
    manager->slot_marks[slot] = 1;
}

/* Rule 4: a slot has one owner: a block, a transfer that outlived its block, or the free stack. */
static void check_slots(const TierManager *manager, Tier tier, DeviceUse *use) {
    const TierSlots *slots = &manager->slots[tier];
    memset(manager->slot_marks, 0, slots->slot_count);
    uint32_t used = 0, late = 0;
    for (uint32_t i = 0; i < manager->options.record_count; i++) {
        const Record *record = &manager->records[i];
        if (record->replicas[tier].state == REPLICA_NONE) continue;
        mark(manager, tier, record->replicas[tier].slot);
        used++;
        use->staging += tier == TIER_DEVICE && record->staged;
    }
    for (uint32_t i = 0; i < manager->options.transfers_max; i++) {
        const TransferRecord *moving = &manager->transfers[i];
        const Transfer *transfer = &moving->transfer;
        if (!moving->in_flight || !moving->orphaned) continue;
        if (transfer->from != tier && transfer->to != tier) continue;
        if (moving->late && !moving->staged && transfer->from == tier) continue; /* rule 10 */
        late += moving->late;
        mark(manager, tier, transfer->from == tier ? transfer->from_slot : transfer->to_slot);
        used++;
        use->staging += tier == TIER_DEVICE && moving->staged;
    }
    for (uint32_t i = 0; i < slots->given_back_count; i++) {
        mark(manager, tier, slots->given_back[i]);
        CHECK(slots->places[slots->given_back[i]] == i);
    }
    for (uint32_t i = 1; i <= slots->roomless_count; i++)
        mark(manager, tier, slots->given_back[slots->slot_count - i]);
    uint32_t aside = 0;
    for (uint32_t i = 0; i < slots->run_count; i++)
        for (uint32_t slot = slots->runs[i].aside_first; slot < slots->runs[i].aside_end; slot++) {
            mark(manager, tier, slot);
            aside++;
        }
    if (tier == TIER_DEVICE) use->home = used - use->staging;
    CHECK(aside == slots->aside_count);
    CHECK(late == slots->late_count);
    CHECK(used == slots->used && used <= slots->used_peak && slots->used_peak <= slots->slot_count);
    CHECK(used + slots->given_back_count + slots->roomless_count + slots->retired_count +
                  slots->aside_count ==
              slots->fresh_first &&
          slots->fresh_first <= slots->slot_count);
}

static void check_counts(const TierManager *manager) {
    uint32_t states[BLOCK_LOST + 1] = {0}, writes = 0, leaving = 0, in_flight = 0, late = 0;
    for (uint32_t i = 0; i < manager->options.record_count; i++)
        states[manager->records[i].block.state]++;
    for (uint32_t i = 0; i < manager->options.transfers_max; i++) {
        const TransferRecord *moving = &manager->transfers[i];
        in_flight += moving->in_flight;
        late += moving->in_flight && moving->late;
        writes += moving->in_flight && !moving->staged && !moving->late;
        leaving += moving->in_flight && !moving->staged && !moving->orphaned;
    }
    CHECK(states[BLOCK_FREE] == manager->free_id_count);
    CHECK(states[BLOCK_FILLING] == manager->stats.filling &&
          states[BLOCK_SEALED] == manager->stats.sealed &&
          states[BLOCK_LOST] == manager->stats.lost);
    CHECK(late == manager->late_count);
    CHECK(in_flight == tier_manager_in_flight(manager) && writes == manager->writes_in_flight &&
          leaving == manager->leaving_count && writes <= manager->options.writes_max);
}

void tier_manager_check(const TierManager *manager) {
    DeviceUse use = {0};
    for (uint32_t i = 0; i < manager->options.record_count; i++) {
        check_block(manager, &manager->records[i]);
        check_transfer_of(manager, &manager->records[i]);
    }
    for (int tier = 0; tier < TIER_COUNT; tier++)
        check_slots(manager, tier, &use);
    CHECK(use.home == manager->home_used && use.home <= manager->home_count);
    CHECK(use.staging == manager->staging_used && use.staging <= manager->staging_count &&
          manager->staging_count <= manager->options.staging_slots);
    check_counts(manager);
}
