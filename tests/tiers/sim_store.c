#include "tests/tiers/sim_store.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/invariant.h"

const char *const sim_fault_names[SIM_FAULT_COUNT] = {
    [SIM_FAULT_SLOW] = "slow",
    [SIM_FAULT_STUCK] = "stuck",
    [SIM_FAULT_FAILED] = "failed",
    [SIM_FAULT_SHORT] = "short",
    [SIM_FAULT_FULL] = "full",
    [SIM_FAULT_CORRUPT] = "corrupt",
    [SIM_FAULT_TORN] = "torn",
    [SIM_FAULT_LOST_WRITE] = "lost_write",
    [SIM_FAULT_MISDIRECTED_WRITE] = "misdirected_write",
    [SIM_FAULT_MISDIRECTED_READ] = "misdirected_read",
};

uint64_t sim_mix(uint64_t hash, uint64_t value) {
    hash = (hash ^ value) * 0x9e3779b97f4a7c15u;
    hash = (hash ^ (hash >> 29)) * 0xbf58476d1ce4e5b9u;
    return hash ^ (hash >> 32);
}

void sim_store_create(SimStore *out, Random *random, const uint32_t slot_count[TIER_COUNT],
                      uint32_t operation_max) {
    *out = (SimStore){.random = random, .operation_max = operation_max};
    for (int tier = 0; tier < TIER_COUNT; tier++) {
        out->slot_count[tier] = slot_count[tier];
        out->slots[tier] = calloc(slot_count[tier] + 1u, sizeof(SimSlot));
        CHECK(out->slots[tier]);
    }
    out->operations = calloc(operation_max, sizeof(SimOperation));
    CHECK(out->operations);
}

void sim_store_destroy(SimStore *store) {
    for (int tier = 0; tier < TIER_COUNT; tier++)
        free(store->slots[tier]);
    free(store->operations);
}

static SimSlot *slot_at(SimStore *store, Tier tier, uint32_t slot) {
    CHECK(slot < store->slot_count[tier]);
    return &store->slots[tier][slot];
}

SimSlot *sim_store_slot(SimStore *store, Tier tier, uint32_t slot) {
    SimSlot *found = slot_at(store, tier, slot);
    CHECK(found->writers == 0); /* nobody touches what a transfer fills */
    return found;
}

static uint64_t checksum(const SimCell *cell) {
    uint64_t hash = 1;
    for (int i = 0; i < 4; i++)
        hash = sim_mix(hash, cell->identity.words[i]);
    hash = sim_mix(hash, (uint64_t)cell->ordinal << 32 | cell->generation);
    hash = sim_mix(hash, (uint64_t)cell->form << 32 | cell->slot);
    return sim_mix(sim_mix(hash, cell->halves[0]), cell->halves[1]);
}

/* ---- starting ---- */

static uint64_t latency(SimStore *store, int fault) {
    uint64_t time = 1 + random_below(store->random, 20);
    if (fault == SIM_FAULT_SLOW) time += random_below(store->random, 500);
    if (fault == SIM_FAULT_STUCK) time += store->io_timeout + random_below(store->random, 50000);
    return time;
}

static bool fits(const SimStore *store, const Transfer *transfer, int fault) {
    bool writes = transfer->to != TIER_DEVICE;
    switch (fault) {
    case SIM_FAULT_SHORT:
    case SIM_FAULT_TORN:
    case SIM_FAULT_LOST_WRITE:
    case SIM_FAULT_MISDIRECTED_WRITE: return writes;
    case SIM_FAULT_FULL: return writes && !store->slots[transfer->to][transfer->to_slot].written;
    case SIM_FAULT_MISDIRECTED_READ: return !writes;
    default: return true;
    }
}

static int draw_fault(SimStore *store, const Transfer *transfer) {
    Tier lower = transfer->to == TIER_DEVICE ? transfer->from : transfer->to;
    if (store->dead[lower]) return SIM_FAULT_FAILED;
    if (store->now < store->hung_until[lower]) return SIM_FAULT_STUCK;
    if (store->now < store->full_until[lower] && fits(store, transfer, SIM_FAULT_FULL))
        return SIM_FAULT_FULL;
    double draw = random_unit(store->random);
    for (int fault = 0; fault < SIM_FAULT_COUNT; fault++) {
        if (draw < store->odds[fault]) return fits(store, transfer, fault) ? fault : -1;
        draw -= store->odds[fault];
    }
    return -1;
}

static SimCell junk(SimStore *store) {
    SimCell cell;
    memset(&cell, (int)random_below(store->random, 256), sizeof cell);
    return cell;
}

void sim_store_start(SimStore *store, const Transfer *transfer, const Block *block) {
    SimSlot *from = slot_at(store, transfer->from, transfer->from_slot);
    SimSlot *to = slot_at(store, transfer->to, transfer->to_slot);
    CHECK(from->writers == 0 && from->readers == 0); /* a block has one transfer at most */
    CHECK(from->pins == 0);                          /* and none while it is pinned */
    CHECK(to->writers == 0 && to->readers == 0 && to->pins == 0);
    CHECK(store->operation_count < store->operation_max);
    CHECK(block->state != BLOCK_FREE && block->state != BLOCK_LOST &&
          block->generation == transfer->generation && block->form == transfer->from_form);
    CHECK(transfer->from_form == transfer->to_form || (block->cold && transfer->from_form == 0));
    for (uint32_t i = 0; i < store->operation_count; i++)
        CHECK(store->operations[i].transfer.id != transfer->id);
    from->readers++;
    to->writers++;
    SimOperation *operation = &store->operations[store->operation_count++];
    *operation = (SimOperation){.transfer = *transfer,
                                .source = from->cell,
                                .read_early = random_below(store->random, 2),
                                .identity = block->identity,
                                .ordinal = block->ordinal,
                                .tie = random_u64(store->random),
                                .fault = draw_fault(store, transfer)};
    operation->time = store->now + latency(store, operation->fault);
    operation->late_time = store->now + store->io_timeout;
    if (operation->fault == SIM_FAULT_STUCK && random_below(store->random, 4) == 0)
        operation->time = SIM_NEVER;
    if (operation->fault >= 0) store->injected[operation->fault]++;
    if (transfer->to == TIER_DEVICE) to->cell = junk(store); /* until the bytes have come */
}

/* ---- ending ---- */

static SimSlot *another_slot(SimStore *store, Tier tier) {
    return slot_at(store, tier, (uint32_t)random_below(store->random, store->slot_count[tier]));
}

static bool is_right(const SimCell *cell, const BlockIdentity *identity, const SimCell *expected) {
    return memcmp(&cell->identity, identity, sizeof cell->identity) == 0 &&
           cell->ordinal == expected->ordinal && cell->generation == expected->generation &&
           cell->slot == expected->slot && cell->form == expected->form &&
           cell->checksum == checksum(cell);
}

bool sim_store_is_right(const SimStore *store, Tier tier, uint32_t slot, const Block *block) {
    const SimCell expected = {.ordinal = block->ordinal,
                              .generation = block->generation,
                              .slot = slot,
                              .form = block->form};
    return is_right(&store->slots[tier][slot].cell, &block->identity, &expected);
}

/* What is being attended in place is spared: nobody could know. */
static SimCell *astray(SimStore *store, Tier tier) {
    SimSlot *slot = another_slot(store, tier);
    while (slot->pins > 0)
        slot = another_slot(store, tier);
    return &slot->cell;
}

static TransferResult end_write(SimStore *store, const SimOperation *operation, SimCell cell) {
    const Transfer *transfer = &operation->transfer;
    SimSlot *to = slot_at(store, transfer->to, transfer->to_slot);
    cell.identity = operation->identity;
    cell.ordinal = operation->ordinal;
    cell.generation = transfer->generation;
    cell.slot = transfer->to_slot;
    cell.form = transfer->to_form;
    SimCell sealed = cell; /* before anybody could change the source */
    memcpy(sealed.halves, operation->source.halves, sizeof sealed.halves);
    cell.checksum = checksum(&sealed);
    SimCell *target = &to->cell;
    switch (operation->fault) {
    case SIM_FAULT_FULL: return TRANSFER_NO_SPACE;
    case SIM_FAULT_FAILED: return TRANSFER_FAILED;
    case SIM_FAULT_LOST_WRITE: return TRANSFER_OK;
    case SIM_FAULT_MISDIRECTED_WRITE: target = astray(store, transfer->to); break;
    case SIM_FAULT_CORRUPT: cell.halves[random_below(store->random, 2)] ^= 1u << 7; break;
    case SIM_FAULT_TORN:
    case SIM_FAULT_SHORT: cell.halves[1] = target->halves[1]; break;
    default: break;
    }
    *target = cell;
    to->written = true;
    return operation->fault == SIM_FAULT_SHORT ? TRANSFER_FAILED : TRANSFER_OK;
}

static TransferResult end_read(SimStore *store, const SimOperation *operation, SimCell cell) {
    const Transfer *transfer = &operation->transfer;
    if (operation->fault == SIM_FAULT_FAILED) return TRANSFER_FAILED;
    if (operation->fault == SIM_FAULT_MISDIRECTED_READ)
        cell = another_slot(store, transfer->from)->cell;
    if (operation->fault == SIM_FAULT_CORRUPT) cell.halves[random_below(store->random, 2)] ^= 1;
    slot_at(store, TIER_DEVICE, transfer->to_slot)->cell = cell;
    const SimCell expected = {.ordinal = operation->ordinal,
                              .generation = transfer->generation,
                              .slot = transfer->from_slot,
                              .form = transfer->from_form};
    return is_right(&cell, &operation->identity, &expected) ? TRANSFER_OK : TRANSFER_CORRUPT;
}

static TransferResult end(SimStore *store, const SimOperation *operation) {
    const Transfer *transfer = &operation->transfer;
    SimSlot *from = slot_at(store, transfer->from, transfer->from_slot);
    SimSlot *to = slot_at(store, transfer->to, transfer->to_slot);
    SimCell cell = operation->read_early ? operation->source : from->cell;
    bool source_held = !operation->late || transfer->to == TIER_DEVICE;
    CHECK(to->writers == 1 && to->readers == 0 && to->pins == 0);
    CHECK(!source_held || (from->readers == 1 && from->writers == 0));
    TransferResult result = transfer->to == TIER_DEVICE ? end_read(store, operation, cell)
                                                        : end_write(store, operation, cell);
    from->readers -= source_held;
    to->writers--;
    store->completed++;
    return result;
}

/* From now on whoever has the source of a write may change it. */
static TransferResult give_up(SimStore *store, SimOperation *operation) {
    const Transfer *transfer = &operation->transfer;
    operation->late = true;
    if (transfer->to != TIER_DEVICE) slot_at(store, transfer->from, transfer->from_slot)->readers--;
    store->late++;
    return TRANSFER_LATE;
}

static uint64_t next_time(const SimOperation *operation) {
    return !operation->late && operation->late_time < operation->time ? operation->late_time
                                                                      : operation->time;
}

bool sim_store_end_next(SimStore *store, uint64_t until, uint32_t *out_transfer_id,
                        TransferResult *out_result) {
    SimOperation *next = NULL;
    for (uint32_t i = 0; i < store->operation_count; i++) {
        SimOperation *operation = &store->operations[i];
        uint64_t time = next_time(operation);
        if (time != SIM_NEVER && (!next || time < next_time(next) ||
                                  (time == next_time(next) && operation->tie < next->tie)))
            next = operation;
    }
    if (!next || next_time(next) > until) {
        if (until != UINT64_MAX) store->now = until;
        return false;
    }
    store->now = next_time(next);
    if (store->now != next->time) {
        *out_transfer_id = next->transfer.id;
        *out_result = give_up(store, next);
        return true;
    }
    SimOperation operation = *next;
    *next = store->operations[--store->operation_count];
    *out_transfer_id = operation.transfer.id;
    *out_result = end(store, &operation);
    return true;
}

uint32_t sim_store_held(const SimStore *store, Tier tier) {
    uint32_t held = 0;
    for (uint32_t slot = 0; slot < store->slot_count[tier]; slot++)
        held += store->slots[tier][slot].readers + store->slots[tier][slot].writers;
    return held;
}
