#ifndef TIERS_TIER_SLOTS_H
#define TIERS_TIER_SLOTS_H

/* The slots of one tier: which are free, which are taken, which may never be taken again. Inside the tier manager only.
 *
 * Slots are taken from those given back first, then from those that the disk had no room for, then in rising order from those never
 * used: a file is no longer than it must be, and a tier that stops growing (a full disk) goes on with what it has. */

#include <stdint.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

enum { SLOT_NONE = UINT32_MAX, TIER_FAILURES_MAX = 16 };

typedef struct TierSlots {
    uint32_t *
        given_back; /* [slot_count], owned: a stack from the front, and the roomless ones from the back */
    uint32_t given_back_count, roomless_count;
    uint32_t fresh_first; /* slots from here on were never used */
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

Status tier_slots_create(TierSlots *out, uint32_t slot_count);
void tier_slots_destroy(TierSlots *slots);

uint32_t tier_slots_free_count(const TierSlots *slots); /* that may be taken */
uint32_t tier_slots_take(TierSlots *slots);             /* SLOT_NONE when there is none */
void tier_slots_give(TierSlots *slots, uint32_t slot);
void tier_slots_give_roomless(TierSlots *slots, uint32_t slot); /* taken again when growing */
void tier_slots_retire(TierSlots *slots, uint32_t slot);        /* a taken slot leaves for good */

SPILLWAY_EXTERN_C_END

#endif
