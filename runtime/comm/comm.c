#include "runtime/comm/comm.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

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

void comm_note_move(Comm *comm) {
    __atomic_store_n(&comm->moves, comm->moves + 1, __ATOMIC_RELAXED);
}

uint64_t comm_moves(const Comm *comm) {
    return __atomic_load_n(&comm->moves, __ATOMIC_RELAXED);
}

/* ---- ending what devices do with each other */

/* Of the abort of every Comm. */
static pthread_mutex_t abort_lock = PTHREAD_MUTEX_INITIALIZER;

void comm_set_abort(Comm *comm, CommAbort abort) {
    pthread_mutex_lock(&abort_lock);
    comm->abort = abort;
    pthread_mutex_unlock(&abort_lock);
}

/* Left behind where it does not come to its end: the process does. */
typedef struct Aborting {
    Comm *comm;
    sem_t done;
    struct Aborting *next; /* of those left behind */
} Aborting;

static _Atomic(Aborting *) left_behind;

static void leave_behind(Aborting *aborting) {
    aborting->next = atomic_load(&left_behind);
    while (!atomic_compare_exchange_weak(&left_behind, &aborting->next, aborting)) {
    }
}

/* Without a word: whoever aborts has told why, and a broken device would say so once more. */
static void *run_abort(void *argument) {
    Aborting *aborting = argument;
    pthread_mutex_lock(&abort_lock);
    CommAbort abort = aborting->comm->abort;
    error_capture_begin();
    if (abort.run) abort.run(abort.user);
    error_capture_end();
    pthread_mutex_unlock(&abort_lock);
    sem_post(&aborting->done);
    return NULL;
}

static bool wait_for(sem_t *semaphore, double seconds_max) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    uint64_t ns = (uint64_t)until.tv_nsec + (uint64_t)(seconds_max * 1e9);
    until.tv_sec += (time_t)(ns / 1000000000);
    until.tv_nsec = (long)(ns % 1000000000);
    int result;
    do
        result = sem_clockwait(semaphore, CLOCK_MONOTONIC, &until);
    while (result != 0 && errno == EINTR);
    return result == 0;
}

bool comm_abort(Comm *comm, double seconds_max) {
    pthread_t thread;
    Aborting *aborting = malloc(sizeof *aborting);
    if (!aborting) return false;
    aborting->comm = comm;
    sem_init(&aborting->done, 0, 0);
    bool started = pthread_create(&thread, NULL, run_abort, aborting) == 0;
    if (!started || wait_for(&aborting->done, seconds_max)) {
        if (started) pthread_join(thread, NULL);
        sem_destroy(&aborting->done);
        free(aborting);
        return started;
    }
    pthread_detach(thread);
    leave_behind(aborting);
    return false;
}
