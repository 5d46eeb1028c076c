#ifndef KERNELS_TEAM_H
#define KERNELS_TEAM_H

/* Threads that share the tasks of one call after the other. Tasks are claimed one by one, by the caller and by those
 * workers that are awake: a call is over when its tasks are done, and never waits for a worker that claimed none.
 * So a worker that the operating system does not run costs its share of the speed and nothing more; only a worker that
 * is interrupted inside a task holds the call up. Workers watch for the next call for some tens of microseconds, then
 * sleep until one comes.
 *
 * One call at a time, from any one thread; a task may not call its own team. Workers take no signals. Nothing is
 * allocated after team_create. */

#include <stdint.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct Team Team;

/* thread_index is the caller's (0) or a worker's (1 …); no two tasks with the same one run at the same time, and one
 * thread meets task indices in rising order. */
typedef void TeamTask(void *user, uint32_t task_index, uint32_t thread_index);

/* The caller and thread_count - 1 workers. E-MEMORY when the system gives fewer. */
Status team_create(Team **out, uint32_t thread_count);
void team_destroy(Team *team); /* NULL is fine; no call may be running */

/* No team (NULL) is a team of the caller alone. */
uint32_t team_thread_count(const Team *team);

/* Runs task(user, 0 … task_count - 1), each once; all they wrote is visible on return. A single task, or a team of
 * one thread, runs on the caller without touching a shared word. */
void team_run(Team *team, uint32_t task_count, TeamTask *task, void *user);

/* Tasks to cut `pieces` equal pieces of work into: enough a thread that a late or slow one costs little. */
static inline uint32_t team_task_count(const Team *team, uint64_t pieces) {
    uint64_t most = 8u * (uint64_t)team_thread_count(team);
    return (uint32_t)(pieces < most ? pieces : most);
}

/* Where task number `task_index` of `task_count` begins in `total` pieces; it ends where the next one begins. */
static inline uint64_t team_task_begin(uint64_t total, uint32_t task_index, uint32_t task_count) {
    return total * task_index / task_count;
}

SPILLWAY_EXTERN_C_END

#endif
