#include <string.h>

#include "runtime/base/invariant.h"
#include "tiers/tier_records.h"

/* An entry stands in the queue until staging serves it; what is resident, or pinned in the host's tier, is served by just passing it. A pin uses up one served
 * entry of its block, or marks one ahead as taken, so that the queue never reads for pins that have been. */

WantCounts *record_wants(const TierManager *manager, Record *record) {
    if (record->wants.epoch != manager->want_epoch)
        record->wants = (WantCounts){.epoch = manager->want_epoch};
    return &record->wants;
}

static Want *entry(TierManager *manager, uint32_t place) {
    return &manager->wants[(manager->want_first + place) % manager->want_capacity];
}

void tier_manager_want(TierManager *manager, const BlockId *ids, uint32_t count,
                       uint32_t *out_taken) {
    uint32_t room = manager->want_count < manager->options.want_count_max
                        ? manager->options.want_count_max - manager->want_count
                        : 0;
    if (count > room) {
        manager->stats.wants_left_out += count - room;
        count = room;
    }
    for (uint32_t i = 0; i < count; i++) {
        CHECK(ids[i] < manager->options.record_count);
        Record *record = &manager->records[ids[i]];
        CHECK(record->block.state != BLOCK_FREE);
        *entry(manager, manager->want_count++) = (Want){ids[i], record->life};
        record_wants(manager, record)->ahead++;
    }
    *out_taken = count;
}

/* Pins that still wait will ask again. */
static void forget_demands(TierManager *manager) {
    BlockId id;
    while ((id = manager->lists.lists[LIST_DEMANDED].first) != BLOCK_NONE) {
        manager->records[id].demanded = false;
        block_lists_remove(&manager->lists, id);
    }
    for (uint32_t i = 0; i < manager->options.transfers_max; i++) {
        const TransferRecord *moving = &manager->transfers[i];
        if (moving->in_flight && !moving->orphaned)
            manager->records[moving->transfer.block].demanded = false;
    }
}

void tier_manager_forget_wants(TierManager *manager) {
    manager->want_count = 0;
    manager->want_epoch++;
    manager->take_waits = false;
    manager->moves_settled = false;
    forget_demands(manager);
    BlockId id = manager->lists.lists[LIST_AHEAD].first;
    while (id != BLOCK_NONE) {
        BlockId next = manager->lists.nodes[id].next;
        manager->records[id].demanded = false;
        staged_park(manager, &manager->records[id]);
        id = next;
    }
}

void want_pinned(TierManager *manager, Record *record) {
    WantCounts *wants = record_wants(manager, record);
    if (wants->served > 0)
        wants->served--;
    else if (wants->taken < wants->ahead)
        wants->taken++;
}

void want_return(TierManager *manager, Record *record) {
    WantCounts *wants = record_wants(manager, record);
    CHECK(wants->served > 0);
    wants->served--;
    if (manager->want_count == manager->want_capacity) return; /* its pin will ask again */
    wants->ahead++;
    manager->want_first =
        (manager->want_first + manager->want_capacity - 1) % manager->want_capacity;
    manager->want_count++;
    *entry(manager, 0) = (Want){record_id(manager, record), record->life};
}

static void pop(TierManager *manager) {
    manager->want_first = (manager->want_first + 1) % manager->want_capacity;
    manager->want_count--;
}

void want_serve_first(TierManager *manager) {
    WantCounts *wants = record_wants(manager, &manager->records[entry(manager, 0)->block]);
    wants->ahead--;
    wants->served++;
    pop(manager);
}

Record *want_next(TierManager *manager) {
    while (manager->want_count > 0) {
        Want want = *entry(manager, 0);
        Record *record = &manager->records[want.block];
        if (record->block.state == BLOCK_FREE || record->life != want.life) {
            pop(manager);
            continue;
        }
        WantCounts *wants = record_wants(manager, record);
        if (wants->taken > 0) {
            wants->taken--;
            wants->ahead--;
            pop(manager);
        } else if (record->block.state == BLOCK_LOST || record->pins > 0 ||
                   record->replicas[TIER_DEVICE].state != REPLICA_NONE) {
            want_serve_first(manager);
            if (block_lists_of(&manager->lists, want.block) == LIST_STALE)
                staged_park(manager, record);
        } else {
            return record;
        }
    }
    return NULL;
}
