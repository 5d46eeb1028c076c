#ifndef LAUNCH_LAUNCHER_H
#define LAUNCH_LAUNCHER_H

/* `spillway --ranks N …` started by hand runs itself N times under mpirun and stays its parent; started by
 * mpirun or srun it joins. */

#include <stdbool.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct LauncherPlace {
    const char *
        name; /* "mpirun", "srun"; NULL: started by hand, or by a launcher that started one process */
    int size;       /* processes that it started; 0: not known before MPI is up */
    int rank;       /* of this one; 0 when not known */
    int local_size; /* on this node; 0 when not known */
} LauncherPlace;

/* Looks at the environment that launchers set. E-UNAVAILABLE when srun started several without PMIx. */
Status launcher_find(LauncherPlace *out);

typedef struct LauncherOptions {
    int ranks;
    char *const *argv; /* of this process, NULL-terminated: every rank gets it */
    bool
        forward_input; /* rank 0 reads standard input; else it is left for whoever comes after us */
} LauncherOptions;

/* In rank 0 of a job that launcher_run started with input to forward: standard input is the launcher's from here on;
 * elsewhere nothing. E-UNAVAILABLE when rank 0 is on another node than the launcher. */
Status launcher_take_input(const LauncherPlace *place);

/* Runs this program as that many ranks and waits for them.
 *   standard input    goes to rank 0, when it is to be forwarded and rank 0 takes it
 *   TERM, INT, HUP    the ranks get USR1: they drain; a second one ends them within a second
 *   USR1, USR2        passed on
 *   exit code         of the ranks; 75 when they ended because they were asked to
 * When this process dies, however it does, mpirun gets TERM. E-UNAVAILABLE without mpirun. Call it before any
 * thread is started. */
Status launcher_run(const LauncherOptions *options, int *out_exit_code);

SPILLWAY_EXTERN_C_END

#endif
