#ifndef RUNTIME_COMM_COMM_H
#define RUNTIME_COMM_COMM_H

/* What ranks say to each other. One row a transport (self, shared, mpi); a Comm is one rank's end.
 *
 * Reductions add in rank order whatever the message size, so a sum has the same bits on every rank and in every
 * run: x[0] + x[1] + … + x[size-1], left to right in f32. All ranks make the same calls in the same order, from the
 * thread that created the Comm. Errors are STATUS_PEER; a peer that is silent is the watchdog's business
 * (launch/watchdog.h), so calls here may block for ever. */

#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

/* How to end what this rank's device does with its peers, from any thread: a kernel that waits for a rank that is gone never ends. */
typedef struct CommAbort {
    void (*run)(void *user); /* NULL: nothing to end */
    void *user;
} CommAbort;

typedef struct Comm {
    const struct CommRow *row;
    int rank;
    int size;
    int local_rank; /* among the ranks of this node, which are local_size many */
    int local_size;
    bool
        crowded; /* may be set any time: more threads than cores here, so give the core away while waiting */
    void *state; /* of the row */
    /* How long this rank spent inside collectives, for the time split of a step. */
    double seconds;
    uint64_t calls; /* entered; other threads may read it, atomically (comm_calls) */
    uint64_t moves; /* the same (comm_moves) */
    uint64_t bytes;
    CommAbort abort; /* comm_set_abort, comm_abort */
} Comm;

typedef struct CommRow {
    const char *name;                                              /* "self", "shared", "mpi" */
    Status (*all_reduce)(Comm *comm, float *data, uint64_t count); /* in place, sum in rank order */
    /* receive holds the parts side by side in rank order; part_bytes[size] may differ by rank, also be 0. */
    Status (*all_gather)(Comm *comm, const void *send, void *receive, const uint64_t *part_bytes);
    /* As all_gather, but only rank `root` gets `receive` (others pass NULL). */
    Status (*gather)(Comm *comm, int root, const void *send, void *receive,
                     const uint64_t *part_bytes);
    Status (*broadcast)(Comm *comm, int root, void *data, uint64_t bytes);
    Status (*barrier)(Comm *comm);
    void (*destroy)(Comm *comm);
} CommRow;

/* These wrap the row's slots and keep the counters; a count of zero bytes returns at once on every rank. */
Status comm_all_reduce(Comm *comm, float *data, uint64_t count);
Status comm_all_gather(Comm *comm, const void *send, void *receive, const uint64_t *part_bytes);
Status comm_gather(Comm *comm, int root, const void *send, void *receive,
                   const uint64_t *part_bytes);
Status comm_broadcast(Comm *comm, int root, void *data, uint64_t bytes);
Status comm_barrier(Comm *comm);
void comm_destroy(Comm *comm); /* takes NULL */

/* Notes a collective that went another way, so that the watchdog sees it. */
void comm_count(Comm *comm, uint64_t bytes);

/* Collectives entered so far. Any thread, while the Comm lives. */
uint64_t comm_calls(const Comm *comm);

/* Notes that this rank's device was seen to get on between two collectives, which the watchdog counts as well; and how often it was. As
 * comm_calls. */
void comm_note_move(Comm *comm);
uint64_t comm_moves(const Comm *comm);

/* What comm_abort shall run; when it returns, what stood there before is not running and will not. */
void comm_set_abort(Comm *comm, CommAbort abort);
/* For a process that is about to end: runs it on a thread of its own and waits at most so long. Any thread, while the Comm lives. False
 * when it has not come to its end. */
bool comm_abort(Comm *comm, double seconds_max);

Status comm_self_create(Comm **out); /* one rank, no start-up cost */

bool comm_mpi_built(void); /* is MPI in this build? */

/* Every process that the launcher started. Initialises MPI (FUNNELED), so at most once a process and from the
 * main thread; destroying it finalises MPI, which waits for the other ranks. When all ranks are on one node
 * they talk through shared memory (row "shared") and MPI is only the start-up; else, or when told so, by
 * messages (row "mpi"). E-UNAVAILABLE in a build without MPI. */
Status comm_mpi_create(Comm **out, bool by_message);

/* `size` ranks as threads of this process, for tests: out[size], row "shared". Each is used by a thread of its
 * own and destroyed after all threads are done with theirs. */
Status comm_threads_create(Comm **out, int size);

SPILLWAY_EXTERN_C_END

#endif
