#ifndef LAUNCH_WATCHDOG_H
#define LAUNCH_WATCHDOG_H

/* Notices that a rank is gone or stuck, which MPI does not: a stopped peer hangs a collective for ever. And that the device of a rank alone, or
 * of one that loads, does not end what it was given (E-DEVICE-LOST).
 *
 * One thread a rank, which never calls MPI. The ranks of a node share a board: each writes its heartbeat four
 * times a second, its phase and how many collectives it entered, and reads the others. A rank ends its process
 * with exit code 76, having named the odd rank once a node and ended what its device does with the others (comm_abort), when
 *   - a peer on this node has died without leaving (at once),
 *   - a peer's heartbeat stands still: stopped, frozen, swapped out (3 s),
 *   - the parent, that is the launcher, has died (at once),
 *   - inside a unit of work, no collective was entered, no unit ended and nothing was seen to get on on the device (comm_moves) for
 *     `timeout_seconds`: this alone also sees ranks of other nodes.
 *   - inside a unit of loading, none of that, and the process read or wrote nothing and grew no larger, for as long: E-DEVICE-LOST once its device
 *     is known, for no peer can be what it waits for. A request to stop ends a unit of loading at once, with exit code 75.
 * What the peers of this node leave running is killed a second later by a child that outlives them, so nothing
 * remains where the launcher is gone too. A pause of the whole job (suspend, a debugger on all) is no cause:
 * only ticks that this rank itself lived through count. */

#include "runtime/comm/comm.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct WatchdogOptions {
    Comm *comm; /* borrowed until watchdog_leave */
    void *
        board; /* watchdog_board_bytes(comm->local_size), zeroed, shared by the node's ranks; borrowed */
    const char *host;       /* of this node, for messages */
    double timeout_seconds; /* 0: a unit may take for ever */
} WatchdogOptions;

typedef struct Watchdog Watchdog;

uint64_t watchdog_board_bytes(int local_size);

Status watchdog_start(Watchdog **out, const WatchdogOptions *options);

/* A unit of work: a step, or a layer of a chunk; about a second at most. phase: a few words for messages.
 * From the thread that runs the units; takes NULL. Cheap: no system call. */
void watchdog_unit_begin(Watchdog *watchdog, const char *phase);
void watchdog_unit_end(Watchdog *watchdog);

/* The same around a part of loading, in which this rank talks to no other; the next part, or watchdog_unit_end, ends it. */
void watchdog_load_begin(Watchdog *watchdog, const char *part);

/* From now on it is this device that a rank may wait for, if not for peers. Copied. */
void watchdog_set_device(Watchdog *watchdog, const char *device);

/* This rank is about to end with that exit code: its death is no news to the others, but when the code is not 0
 * they end with the same. The Comm may be destroyed after it. Takes NULL. */
void watchdog_leave(Watchdog *watchdog, int exit_code);
void watchdog_stop(Watchdog *watchdog);

SPILLWAY_EXTERN_C_END

#endif
