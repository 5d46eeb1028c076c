#include "tiers/tier_slots.h"

#include <stdlib.h>

#include "runtime/base/arena.h"
#include "runtime/base/invariant.h"

Status tier_slots_create(TierSlots *out, uint32_t slot_count) {
    void *memory;
    TRY(memory_take(&memory, slot_count, sizeof(uint32_t), "tier slots"));
    *out = (TierSlots){.given_back = memory, .slot_count = slot_count};
    return STATUS_OK;
}

void tier_slots_destroy(TierSlots *slots) {
    free(slots->given_back);
    *slots = (TierSlots){0};
}

uint32_t tier_slots_free_count(const TierSlots *slots) {
    if (slots->off) return 0;
    uint32_t to_grow = slots->roomless_count + slots->slot_count - slots->fresh_first;
    return slots->given_back_count + (slots->stopped_growing ? 0 : to_grow);
}

uint32_t tier_slots_take(TierSlots *slots) {
    if (tier_slots_free_count(slots) == 0) return SLOT_NONE;
    slots->used++;
    if (slots->used > slots->used_peak) slots->used_peak = slots->used;
    if (slots->given_back_count > 0) return slots->given_back[--slots->given_back_count];
    if (slots->roomless_count > 0)
        return slots->given_back[slots->slot_count - slots->roomless_count--];
    return slots->fresh_first++;
}

void tier_slots_give(TierSlots *slots, uint32_t slot) {
    CHECK(slot < slots->fresh_first && slots->used > 0);
    slots->used--;
    slots->given_back[slots->given_back_count++] = slot;
}

void tier_slots_give_roomless(TierSlots *slots, uint32_t slot) {
    CHECK(slot < slots->fresh_first && slots->used > 0);
    slots->used--;
    slots->given_back[slots->slot_count - ++slots->roomless_count] = slot;
}

void tier_slots_retire(TierSlots *slots, uint32_t slot) {
    CHECK(slot < slots->fresh_first && slots->used > 0);
    slots->used--;
    slots->retired_count++;
}
