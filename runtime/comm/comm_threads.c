#include <stdatomic.h>
#include <stdlib.h>

#include "runtime/base/arena.h"
#include "runtime/base/invariant.h"
#include "runtime/comm/comm.h"
#include "runtime/comm/comm_shared.h"

typedef struct SharedRegion {
    void *memory;
    atomic_int users;
} SharedRegion;

static void region_release(void *context) {
    SharedRegion *region = context;
    if (atomic_fetch_sub(&region->users, 1) > 1) return;
    free(region->memory);
    free(region);
}

static Status region_create(SharedRegion **out, int size) {
    void *memory;
    TRY(memory_take(&memory, 1, sizeof(SharedRegion), "thread ranks"));
    SharedRegion *region = memory;
    Status status =
        memory_take(&region->memory, 1, comm_shared_region_bytes(size), "slots of thread ranks");
    if (status != STATUS_OK) {
        free(region);
        return status;
    }
    atomic_init(&region->users, 1);
    *out = region;
    return STATUS_OK;
}

static Status create_ranks(Comm **out, SharedRegion *region, int size) {
    for (int rank = 0; rank < size; rank++) {
        const CommSharedOptions options = {.region = region->memory,
                                           .rank = rank,
                                           .size = size,
                                           .release = region_release,
                                           .context = region};
        TRY(comm_shared_create(&out[rank], &options));
        out[rank]->crowded = true;
        atomic_fetch_add(&region->users, 1);
    }
    return STATUS_OK;
}

Status comm_threads_create(Comm **out, int size) {
    CHECK(size > 0);
    for (int rank = 0; rank < size; rank++)
        out[rank] = NULL;
    SharedRegion *region;
    TRY(region_create(&region, size));
    Status status = create_ranks(out, region, size);
    if (status != STATUS_OK)
        for (int rank = 0; rank < size; rank++)
            comm_destroy(out[rank]);
    region_release(region);
    return status;
}
