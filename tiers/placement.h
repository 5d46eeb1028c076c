#ifndef TIERS_PLACEMENT_H
#define TIERS_PLACEMENT_H

/* Placement policies: which blocks stay on the device and which move down a tier. Lossless: nothing is ever
 * dropped here. A policy is one file under placement/ and one word in its meson.build; a file exports `const Placement
 * placement_<name>`. Policies judge blocks by stream, ordinal, recency and scores that runtime hands over; they know no heads,
 * tokens or models, keep no clock, and take no memory after create: the same calls give the same choices on every rank.
 *
 * Called by the tier manager alone, on its thread. */

#include <stdint.h>

#include "tiers/block.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct PlacementOptions {
    uint32_t block_count; /* records: BlockIds lie below it */
    uint32_t
        stream_groups; /* streams fall into this many groups of equal use (layers): group = stream % stream_groups */
    uint32_t resident_count; /* blocks that the device can keep */
    const uint64_t
        *trace; /* belady: recorded (stream << 32 | ordinal) accesses, [trace_count]; else NULL */
    uint64_t trace_count;
} PlacementOptions;

typedef struct Placement {
    const char *name;    /* --kv-placement */
    const char *summary; /* with the source */
    uint32_t needs;      /* PLACEMENT_NEEDS_… */
    Status (*create)(void **out_state, const PlacementOptions *options);
    void (*destroy)(void *state); /* takes NULL */
    void (*added)(void *state, BlockId id,
                  const Block *block); /* filling or sealed, on the device */
    /* attended, wherever it lay; or, filling, about to grow on the device */
    void (*used)(void *state, BlockId id, const Block *block);
    void (*scored)(void *state, BlockId id, double mass); /* optional: share of attention mass */
    void (*moved_down)(void *state, BlockId id); /* left the device, remembered (ghost lists) */
    void (*forgotten)(void *state, BlockId id);  /* released: its record may be taken again */
    /* The device block to move down next among those `may_move` allows; BLOCK_NONE when it allows none. */
    BlockId (*choose_victim)(void *state, bool (*may_move)(void *context, BlockId id),
                             void *context);
    /* Whether a block that was just used from a lower tier is worth a device place, at the price of choose_victim's.
     * NULL: never (a scan gains nothing from it). */
    bool (*wants_promotion)(void *state, BlockId id);
    /* The same for a place that is free. NULL: always. */
    bool (*wants_free_place)(void *state, const Block *block);
} Placement;

enum {
    PLACEMENT_NEEDS_MASS = 1u << 0,  /* scored() with attention mass */
    PLACEMENT_NEEDS_TRACE = 1u << 1, /* options.trace */
};

extern const Placement *const placements[];        /* ended by NULL */
const Placement *placement_find(const char *name); /* NULL when unknown */

SPILLWAY_EXTERN_C_END

#endif
