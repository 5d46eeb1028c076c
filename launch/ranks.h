#ifndef LAUNCH_RANKS_H
#define LAUNCH_RANKS_H

/* The ranks of this job, from this rank's point of view: joins the others, makes sure that all run the same
 * program with the same settings, watches them, and ends with them.
 *
 *     ranks_start → ranks_agree (what is known later: the model) → ranks_vote after each part of start-up that
 *     can fail on one rank alone → work → ranks_stop (or ranks_abort)
 *
 * From the main thread. With one rank there is no MPI, no watchdog but for a device, and the same calls work. */

#include <stdint.h>

#include "launch/watchdog.h"
#include "runtime/comm/comm.h"
#include "runtime/comm/shared_memory.h"

SPILLWAY_EXTERN_C_BEGIN

enum {
    RANKS_FACTS_MAX = 16,
    RANKS_FACT_NAME_BYTES = 32,
    RANKS_FACT_TEXT_BYTES = 16384,
    RANKS_FACT_SHOWN_BYTES = 96
};

/* Something that must be the same on all ranks. Values are compared in full (by hash); of those that differ the first line that does is
 * shown, cut, if it lies in the first RANKS_FACT_TEXT_BYTES. */
typedef struct RanksFact {
    const char *name; /* "program", "model", "settings" */
    const char *text;
} RanksFact;

typedef struct RanksOptions {
    int size; /* --ranks: refused when the launcher started another number; 0: as many as it started */
    uint32_t
        threads; /* --threads; 0: this rank's share of the cores that the ranks of its node may use */
    double comm_timeout_seconds; /* --comm-timeout */
    /* Binds this rank, before its CPUs are counted and threads start. Optional. */
    void (*place)(void *user, int local_rank);
    void *place_user;
    const RanksFact *facts; /* known before the model is: program version, settings */
    int fact_count;
} RanksOptions;

typedef struct Ranks {
    Comm *comm;
    Watchdog *watchdog; /* NULL with one rank that has no device */
    uint32_t threads;   /* what the kernels of this rank should use */
    SharedMemory board; /* of the watchdog */
} Ranks;

Status ranks_start(Ranks *out, const RanksOptions *options);

/* All ranks compare the facts (names in the same order); STATUS_PEER with E-RANK-MISMATCH, said once, naming the
 * rank that differs from most. Collective. */
Status ranks_agree(Ranks *ranks, const RanksFact *facts, int fact_count);

/* Did this part of start-up work on all ranks? When it did not, every rank gets the status of the lowest rank
 * that failed, and ends with its exit code; a rank that did not fail itself stays silent. Collective. */
Status ranks_vote(Ranks *ranks, Status mine);

/* The same after a part that ran between error_capture_begin and error_capture_end, because several ranks may have met the same
 * error: each is told once, by the lowest rank that met it. Collective. */
Status ranks_vote_captured(Ranks *ranks, Status mine);

/* For kernels that run on a device: the watchdog knows it from now on. Of a rank alone it begins to watch, so that a unit of work without progress for
 * so long ends the process; several ranks are watched from the start. device: for messages. */
Status ranks_watch_device(Ranks *ranks, const char *device, double timeout_seconds);

/* All ranks are on their way out (the engine has stopped, or a vote failed): waits for them and ends MPI. main
 * then returns the exit code, which need not be the same on all. Write and sync everything before: once a rank
 * has ended with another code than 0, mpirun gives the rest a second. */
void ranks_stop(Ranks *ranks, int exit_code);

/* Ends this process now, and with it the job: for an error that the other ranks do not know of. They sit in a
 * collective, where waiting for them would be for ever; they end with the same code. */
void ranks_abort(Ranks *ranks, int exit_code) __attribute__((noreturn));

SPILLWAY_EXTERN_C_END

#endif
