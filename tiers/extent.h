#ifndef TIERS_EXTENT_H
#define TIERS_EXTENT_H

/* Who has which place in a spill file. Places come in a few sizes, the classes, each a multiple of 4 KiB. The space is cut
 * into slabs of equal size; a slab serves one class while any of its slots is taken and belongs to none otherwise, so that
 * sizes may come and go without the space falling to pieces (Bonwick's slabs, USENIX 1994).
 *
 * Only numbers: no file, no I/O, nothing allocated after extent_create. One thread. */

#include <stdint.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

enum {
    EXTENT_UNIT_BYTES = 4096,
    EXTENT_CLASSES_MAX = 8,
};

#define EXTENT_ANYWHERE UINT64_MAX

typedef struct ExtentSpace ExtentSpace;

typedef struct ExtentOptions {
    uint64_t bytes; /* of the space; a multiple of EXTENT_UNIT_BYTES */
    /* Sizes of slots, rising, multiples of EXTENT_UNIT_BYTES, none above bytes. */
    uint64_t class_bytes[EXTENT_CLASSES_MAX];
    uint32_t class_count;
    uint64_t slab_bytes; /* 0: eight of the largest slots, at least 4 MiB */
} ExtentOptions;

typedef struct Extent {
    uint64_t offset; /* in the space, a multiple of EXTENT_UNIT_BYTES */
    uint64_t bytes;  /* of the slot: at least what was asked */
} Extent;

typedef struct ExtentStats {
    uint64_t taken_bytes, taken_count, taken_bytes_peak; /* slots */
    uint64_t slab_count, slabs_in_use;
    uint64_t adjacent_count; /* takes that lie right behind the place they were asked near */
} ExtentStats;

Status extent_create(ExtentSpace **out, const ExtentOptions *options);
void extent_destroy(ExtentSpace *space);

/* A slot of the smallest class that holds `bytes`, if possible right behind the byte before `near` (the end of a neighbour),
 * else as low as possible in a slab of its class. STATUS_NO_SPACE without logging when no slab has room; more than the
 * largest class is a bug. */
Status extent_take(ExtentSpace *space, uint64_t bytes, uint64_t near, Extent *out);

/* Exactly as it was taken. */
void extent_release(ExtentSpace *space, const Extent *extent);

ExtentStats extent_stats(const ExtentSpace *space);

SPILLWAY_EXTERN_C_END

#endif
