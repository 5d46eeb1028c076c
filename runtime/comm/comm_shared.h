#ifndef RUNTIME_COMM_COMM_SHARED_H
#define RUNTIME_COMM_COMM_SHARED_H

/* Collectives of ranks that see the same memory: processes of one node, or threads in tests. Row "shared".
 *
 * A collective is a run of numbered steps; every rank goes through the same numbers. In a step a rank copies at
 * most one chunk into its own slot, then publishes the number; readers wait for that number. A rank has
 * COMM_SHARED_DEPTH slots, used in turn, and publishes one chunk ahead of the one it reads, so that copying in
 * and adding up overlap between ranks. The chunk is small enough for the slots to stay in a core's cache.
 *
 * Why a slot is free when its turn comes again: a rank publishes step s only after it finished reading s - 2.
 * So once every rank has published s - 2, step s - 4 has been read by all, and its slot may be written for s. */

#include <stdbool.h>
#include <stdint.h>

#include "runtime/comm/comm.h"

SPILLWAY_EXTERN_C_BEGIN

enum { COMM_SHARED_DEPTH = 4, COMM_SHARED_CHUNK_BYTES = 32768 };

typedef struct CommSharedOptions {
    void *
        region; /* comm_shared_region_bytes(size) bytes, 64-byte aligned, zero before the first rank uses it */
    int rank;
    int size;
    /* Called once by destroy, may be NULL: gives the region back. */
    void (*release)(void *context);
    void *context;
} CommSharedOptions;

uint64_t comm_shared_region_bytes(int size);
Status comm_shared_create(Comm **out, const CommSharedOptions *options);

SPILLWAY_EXTERN_C_END

#endif
