#ifndef CUDA_EMULATION_SHARED_SHADOW_H
#define CUDA_EMULATION_SHARED_SHADOW_H

/* Who touched each byte of a block's shared memory, and when: enough to tell an access that a barrier orders from one that
 * only luck does. Time is counted in barriers of the block (epochs, which also rise from block to block) and, inside a warp, in
 * warp_sync()s (turns). Two accesses of different threads, one a write, are ordered when a block barrier lies between
 * them, or when a warp_sync does and both are of one warp. One thread at a time. */

#include <stdint.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct SharedShadow SharedShadow;

Status shared_shadow_create(SharedShadow **out, uint32_t bytes_max);
void shared_shadow_destroy(SharedShadow *shadow); /* NULL is fine */

/* Nothing is written yet. */
void shared_shadow_begin_block(SharedShadow *shadow);
void shared_shadow_barrier(SharedShadow *shadow);

typedef struct SharedTouch {
    uint32_t offset, bytes;
    bool write;
    uint32_t thread;    /* flat index in the block */
    uint32_t warp_turn; /* warp_syncs that its warp has passed */
} SharedTouch;

typedef enum SharedVerdict {
    SHARED_FINE,
    SHARED_NEVER_WRITTEN,
    SHARED_READ_OF_WRITE,  /* another thread wrote it, unordered */
    SHARED_WRITE_OF_WRITE, /* likewise, and this is a write */
    SHARED_WRITE_OF_READ,  /* another thread read it, unordered */
} SharedVerdict;

/* Judges and records. *out_thread: the other one, for the last three verdicts. */
SharedVerdict shared_shadow_touch(SharedShadow *shadow, const SharedTouch *touch,
                                  uint32_t *out_thread);

SPILLWAY_EXTERN_C_END

#endif
