#ifndef TIERS_RING_ENGINE_H
#define TIERS_RING_ENGINE_H

/* The contract between ring.c and the two ways to reach the kernel. A row only moves transfers; queueing, short results,
 * retries, faults and classes of errors are ring.c's, so that the rows behave alike. One thread calls a row. */

#include <stddef.h>

#include "tiers/ring.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct RingEngineState RingEngineState;

typedef struct RingTransfer {
    RingKind kind;
    uint32_t file;
    void *memory;
    uint64_t offset;
    uint32_t bytes;
    uint32_t slot; /* comes back in the completion */
} RingTransfer;

typedef struct RingCompletion {
    uint32_t slot;
    int32_t result; /* bytes moved, or -errno */
} RingCompletion;

typedef struct RingEngine {
    const char *name; /* as written after --io */

    /* 0 when it would work here, else -errno, with the reason for people. Leaves nothing behind. */
    int (*probe)(char *out_why, size_t why_bytes);

    /* As probe, and ready for options->depth transfers. Fills the facts that only the row knows. Not ready for more than
     * depth at once: ring.c keeps count. */
    int (*open)(RingEngineState **out, const RingOptions *options, RingFacts *facts, char *out_why,
                size_t why_bytes);

    /* Takes the first *out_taken transfers for good and hands over what it holds; -errno when the kernel would not take some
     * of those now: call again, with or without new ones. */
    int (*submit)(RingEngineState *state, const RingTransfer *transfers, uint32_t count,
                  uint32_t *out_taken);

    /* Up to completion_max; waits up to wait_ns for the first one. */
    uint32_t (*reap)(RingEngineState *state, RingCompletion *out, uint32_t completion_max,
                     uint64_t wait_ns);

    /* Asks the kernel to end the transfer of this slot early. It completes all the same, with -ECANCELED if that worked. */
    void (*cancel)(RingEngineState *state, uint32_t slot);

    /* Nothing is in flight. */
    void (*close)(RingEngineState *state);
} RingEngine;

extern const RingEngine ring_uring, ring_threads;

SPILLWAY_EXTERN_C_END

#endif
