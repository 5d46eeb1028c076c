#include "tiers/tier_slots.h"

#include <stdlib.h>

#include "runtime/base/arena.h"
#include "runtime/base/invariant.h"

Status tier_slots_create(TierSlots *out, uint32_t slot_count, uint32_t group_count) {
    TierSlots slots = {.slot_count = slot_count, .run_count = group_count};
    Status status = memory_take((void **)&slots.given_back, slot_count, sizeof(uint32_t), "slots");
    if (status == STATUS_OK)
        status = memory_take((void **)&slots.places, slot_count, sizeof(uint32_t), "slots");
    if (status == STATUS_OK)
        status = memory_take((void **)&slots.runs, group_count, sizeof(SlotRun), "slots");
    if (status != STATUS_OK) {
        tier_slots_destroy(&slots);
        return status;
    }
    for (uint32_t slot = 0; slot < slot_count; slot++)
        slots.places[slot] = SLOT_NONE;
    *out = slots;
    return STATUS_OK;
}

void tier_slots_destroy(TierSlots *slots) {
    free(slots->given_back);
    free(slots->places);
    free(slots->runs);
    *slots = (TierSlots){0};
}

uint32_t tier_slots_free_count(const TierSlots *slots) {
    if (slots->off) return 0;
    uint32_t to_grow =
        slots->roomless_count + slots->aside_count + slots->slot_count - slots->fresh_first;
    return slots->given_back_count + (slots->stopped_growing ? 0 : to_grow);
}

/* ---- of the stack ---- */

static bool is_given_back(const TierSlots *slots, uint32_t slot) {
    return slot < slots->slot_count && slots->places[slot] != SLOT_NONE;
}

static uint32_t take_given_back(TierSlots *slots, uint32_t slot) {
    uint32_t place = slots->places[slot], last = slots->given_back[--slots->given_back_count];
    slots->given_back[place] = last;
    slots->places[last] = place;
    slots->places[slot] = SLOT_NONE;
    return slot;
}

/* The one given back last, or where groups are told apart the first of the neighbours that are free with it. */
static uint32_t take_last_given_back(TierSlots *slots) {
    uint32_t slot = slots->given_back[slots->given_back_count - 1];
    uint32_t steps = slots->run_count > 0 ? SLOT_RUN : 0;
    for (; steps > 0 && slot > 0 && is_given_back(slots, slot - 1); steps--)
        slot--;
    return take_given_back(slots, slot);
}

/* ---- of those never used ---- */

static uint32_t aside_count(const SlotRun *run) {
    return run->aside_end - run->aside_first;
}

static uint32_t take_aside(TierSlots *slots, SlotRun *run) {
    slots->aside_count--;
    return run->aside_first++;
}

/* All that is left is set aside for others: `run` takes over what is most. */
static void take_over(TierSlots *slots, SlotRun *run) {
    SlotRun *most = &slots->runs[0];
    for (uint32_t i = 1; i < slots->run_count; i++)
        if (aside_count(&slots->runs[i]) > aside_count(most)) most = &slots->runs[i];
    run->aside_first = most->aside_first;
    run->aside_end = most->aside_end;
    most->aside_first = most->aside_end;
}

static void set_aside(TierSlots *slots, SlotRun *run) {
    uint32_t left = slots->slot_count - slots->fresh_first;
    uint32_t count = left < SLOT_RUN ? left : SLOT_RUN;
    run->aside_first = slots->fresh_first;
    run->aside_end = slots->fresh_first += count;
    slots->aside_count += count;
}

static uint32_t take_fresh(TierSlots *slots, SlotRun *run) {
    if (!run) return slots->fresh_first++;
    if (aside_count(run) == 0) {
        if (slots->fresh_first < slots->slot_count)
            set_aside(slots, run);
        else
            take_over(slots, run);
    }
    return take_aside(slots, run);
}

/* ---- the door ---- */

static uint32_t take_of(TierSlots *slots, SlotRun *run) {
    if (run && is_given_back(slots, run->next)) return take_given_back(slots, run->next);
    bool goes_on = run && aside_count(run) > 0 && run->aside_first == run->next;
    if (goes_on && !slots->stopped_growing) return take_aside(slots, run);
    if (slots->given_back_count > 0) return take_last_given_back(slots);
    if (slots->roomless_count > 0)
        return slots->given_back[slots->slot_count - slots->roomless_count--];
    return take_fresh(slots, run);
}

uint32_t tier_slots_take(TierSlots *slots, uint32_t group) {
    if (tier_slots_free_count(slots) == 0) return SLOT_NONE;
    SlotRun *run = slots->run_count > 0 ? &slots->runs[group] : NULL;
    slots->used++;
    if (slots->used > slots->used_peak) slots->used_peak = slots->used;
    uint32_t slot = take_of(slots, run);
    if (run) run->next = slot + 1;
    return slot;
}

/* A slot that leaves was taken, and is nobody's now. */
static void leave(TierSlots *slots, uint32_t slot) {
    CHECK(slot < slots->fresh_first && slots->used > 0 && !is_given_back(slots, slot));
    slots->used--;
}

void tier_slots_give(TierSlots *slots, uint32_t slot) {
    leave(slots, slot);
    slots->places[slot] = slots->given_back_count;
    slots->given_back[slots->given_back_count++] = slot;
}

void tier_slots_give_roomless(TierSlots *slots, uint32_t slot) {
    leave(slots, slot);
    slots->given_back[slots->slot_count - ++slots->roomless_count] = slot;
}

void tier_slots_retire(TierSlots *slots, uint32_t slot) {
    leave(slots, slot);
    slots->retired_count++;
}
