#ifndef LAUNCH_TIER_SOCKET_H
#define LAUNCH_TIER_SOCKET_H

/* The door of a running job: rank 0 listens on a Unix socket, and whoever connects is told once, in one line of JSON, what the
 * tiers of all ranks hold as of the last step, and is let go. The line fits the empty send buffer of a fresh connection, so nothing waits
 * for a client and none is remembered: one that never reads, or goes away, costs what one that reads costs.
 *
 * No thread: between steps, at most 20 times a second, one system call looks whether somebody is there. Sockets lie, readable by
 * their owner alone, in a folder of the user's (tier_socket_folders); their names hold the pid. */

#include <stdbool.h>
#include <stddef.h>

#include "runtime/engine/engine.h"

SPILLWAY_EXTERN_C_BEGIN

enum { TIER_SOCKET_PATH_BYTES = 108, TIER_SOCKET_FOLDERS_MAX = 3 };

/* What is told of the job, beside the figures of its engine. */
typedef struct TierJob {
    const Engine *engine;
    const char *model;
    int rank_count;
    double started_seconds; /* monotonic_seconds */
} TierJob;

typedef struct TierSocket {
    bool open;
    int descriptor;
    char path[TIER_SOCKET_PATH_BYTES];
    TierJob job;
    double looked_seconds; /* when somebody was last looked for */
} TierSocket;

/* path NULL: a name of its own in the first of the user's folders that can be used; sockets there whose job is gone are removed.
 * E-OUTPUT-CREATE. */
Status tier_socket_open(TierSocket *out, const char *path, const TierJob *job);
void tier_socket_close(TierSocket *socket); /* removes it; takes one that is not open */
/* Answers who is there, if it is time to look. Call between steps. */
void tier_socket_serve(TierSocket *socket);

/* Where sockets may lie: $XDG_RUNTIME_DIR/spillway, $TMPDIR/spillway-UID, /tmp/spillway-UID, those that are set. */
int tier_socket_folders(char out[TIER_SOCKET_FOLDERS_MAX][TIER_SOCKET_PATH_BYTES]);

typedef struct TierSocketName {
    char path[TIER_SOCKET_PATH_BYTES];
} TierSocketName;

/* Sockets behind which a job listens, up to count_max, in the first of the user's folders that has any; pid 0: of any job. */
int tier_socket_find(long pid, TierSocketName *out, int count_max);
/* The line of the job at `path`; free it. E-NO-JOB: nobody listens, the socket is another user's, or no whole line comes in time. */
Status tier_socket_ask(const char *path, char **out_text, size_t *out_bytes);

SPILLWAY_EXTERN_C_END

#endif
