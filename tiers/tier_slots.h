#ifndef TIERS_TIER_SLOTS_H
#define TIERS_TIER_SLOTS_H

/* The slots of one tier: which are free, which are taken, which may never be taken again. Inside the tier manager only.
 *
 * Slots are taken from those given back first, then from those that the disk had no room for, then from those never
 * used: a tier that stops growing (a full disk) goes on with what it has.
 *
 * What is read one after the other should lie so, for a disk takes neighbours as one request. So where groups are told apart (a file's),
 * each takes the slot behind its last one if that is free; else it begins a new run, where neighbours are free, and of slots never used it
 * sets SLOT_RUN aside, which others take only when nothing else is left. */

#include <stdint.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

enum { SLOT_NONE = UINT32_MAX, SLOT_RUN = 32, TIER_FAILURES_MAX = 16 };

typedef struct SlotRun {
    uint32_t next;                   /* behind the last one that the group took */
    uint32_t aside_first, aside_end; /* never used and set aside for it */
} SlotRun;

typedef struct TierSlots {
    uint32_t *
        given_back; /* [slot_count], owned: a stack from the front, and the roomless ones from the back */
    uint32_t *places; /* [slot_count], owned: of a slot on the stack, where; else SLOT_NONE */
    SlotRun *runs;    /* [run_count], owned */
    uint32_t run_count;
    uint32_t given_back_count, roomless_count;
    uint32_t fresh_first; /* slots from here on were never used or set aside */
    uint32_t aside_count; /* set aside and never used */
    uint32_t slot_count;
    uint32_t retired_count; /* a write to them failed */
    uint32_t used, used_peak;
    uint32_t
        late_count; /* of those used: held by transfers that were given up and have not ended */
    uint64_t failure_ns[TIER_FAILURES_MAX]; /* when the last failures were, a circle */
    uint32_t failure_count, corrupt_count;
    uint64_t grow_ns; /* when a tier that stopped growing tries again */
    bool stopped_growing, off;
} TierSlots;

/* group_count: 0 where places do not matter. */
Status tier_slots_create(TierSlots *out, uint32_t slot_count, uint32_t group_count);
void tier_slots_destroy(TierSlots *slots);

uint32_t tier_slots_free_count(const TierSlots *slots); /* that may be taken */
/* SLOT_NONE when there is none. group: below group_count; without groups it says nothing. */
uint32_t tier_slots_take(TierSlots *slots, uint32_t group);
void tier_slots_give(TierSlots *slots, uint32_t slot);
void tier_slots_give_roomless(TierSlots *slots, uint32_t slot); /* taken again when growing */
void tier_slots_retire(TierSlots *slots, uint32_t slot);        /* a taken slot leaves for good */

SPILLWAY_EXTERN_C_END

#endif
