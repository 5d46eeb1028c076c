#include "runtime/comm/comm.h"

#include "runtime/base/invariant.h"
#include "runtime/base/monotonic.h"

static uint64_t sum_of_parts(const Comm *comm, const uint64_t *part_bytes) {
    uint64_t sum = 0;
    for (int rank = 0; rank < comm->size; rank++)
        sum += part_bytes[rank];
    return sum;
}

void comm_count(Comm *comm, uint64_t bytes) {
    __atomic_store_n(&comm->calls, comm->calls + 1, __ATOMIC_RELAXED);
    comm->bytes += bytes;
}

static double enter(Comm *comm, uint64_t bytes) {
    comm_count(comm, bytes);
    return monotonic_seconds();
}

static Status leave(Comm *comm, double entered_seconds, Status status) {
    comm->seconds += monotonic_seconds() - entered_seconds;
    return status;
}

Status comm_all_reduce(Comm *comm, float *data, uint64_t count) {
    if (count == 0) return STATUS_OK;
    double entered = enter(comm, count * sizeof *data);
    return leave(comm, entered, comm->row->all_reduce(comm, data, count));
}

Status comm_all_gather(Comm *comm, const void *send, void *receive, const uint64_t *part_bytes) {
    uint64_t bytes = sum_of_parts(comm, part_bytes);
    if (bytes == 0) return STATUS_OK;
    double entered = enter(comm, bytes);
    return leave(comm, entered, comm->row->all_gather(comm, send, receive, part_bytes));
}

Status comm_gather(Comm *comm, int root, const void *send, void *receive,
                   const uint64_t *part_bytes) {
    CHECK(root >= 0 && root < comm->size);
    uint64_t bytes = sum_of_parts(comm, part_bytes);
    if (bytes == 0) return STATUS_OK;
    double entered = enter(comm, bytes);
    return leave(comm, entered, comm->row->gather(comm, root, send, receive, part_bytes));
}

Status comm_broadcast(Comm *comm, int root, void *data, uint64_t bytes) {
    CHECK(root >= 0 && root < comm->size);
    if (bytes == 0) return STATUS_OK;
    double entered = enter(comm, bytes);
    return leave(comm, entered, comm->row->broadcast(comm, root, data, bytes));
}

Status comm_barrier(Comm *comm) {
    double entered = enter(comm, 0);
    return leave(comm, entered, comm->row->barrier(comm));
}

void comm_destroy(Comm *comm) {
    if (comm) comm->row->destroy(comm);
}

uint64_t comm_calls(const Comm *comm) {
    return __atomic_load_n(&comm->calls, __ATOMIC_RELAXED);
}
