#include "kernels/team.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/base/futex.h"
#include "runtime/base/invariant.h"
#include "runtime/base/monotonic.h"

enum { LINE_BYTES = 64, PAUSES_A_LOOK = 32 };

/* How long a worker watches for the next call, and the caller for the last task, before they give the core away. */
#define WATCH_SECONDS 50e-6

enum { WORKER_AWAKE, WORKER_ASLEEP };

typedef struct Worker {
    _Alignas(LINE_BYTES) FutexWord state; /* that it sleeps on */
    uint32_t thread_index;
    pthread_t thread;
    Team *team;
} Worker;

/* The call is written before `claims` is published and not again before all of its tasks are done. A worker reads it
 * between loading `claims` and the compare-and-swap that takes a task: success proves that the call was running all
 * along, failure throws away what was read. Hence the relaxed atomics. (To mistake one call for another a worker
 * would have to lie between the two for a multiple of 2^32 calls exactly.) */
struct Team {
    _Alignas(LINE_BYTES) _Atomic uint64_t claims; /* call number << 32 | tasks not claimed yet */
    _Atomic(TeamTask *) task;
    _Atomic(void *) user;
    _Atomic uint32_t task_count;
    _Alignas(LINE_BYTES) _Atomic uint32_t done_count; /* tasks that workers finished in this call */
    _Alignas(LINE_BYTES) _Atomic uint32_t asleep_count; /* workers that sleep or are about to */
    _Atomic bool stop;
    bool running;
    uint32_t worker_count; /* started */
    Worker *workers;
};

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static bool claims_left(uint64_t claims) {
    return (uint32_t)claims != 0;
}

/* ---- tasks ---- */

/* Takes one task of the running call and does it; false when none is left. */
static bool run_one(Team *team, uint32_t thread_index) {
    uint64_t claims = atomic_load_explicit(&team->claims, memory_order_acquire);
    while (claims_left(claims)) {
        TeamTask *task = atomic_load_explicit(&team->task, memory_order_relaxed);
        void *user = atomic_load_explicit(&team->user, memory_order_relaxed);
        uint32_t count = atomic_load_explicit(&team->task_count, memory_order_relaxed);
        if (atomic_compare_exchange_weak_explicit(&team->claims, &claims, claims - 1,
                                                  memory_order_acq_rel, memory_order_acquire)) {
            task(user, count - (uint32_t)claims, thread_index);
            return true;
        }
    }
    return false;
}

/* ---- workers ---- */

/* Until there is something to claim, or nothing came for a while. */
static void watch(const Team *team) {
    double start = monotonic_seconds();
    do {
        for (int i = 0; i < PAUSES_A_LOOK; i++) {
            if (claims_left(atomic_load_explicit(&team->claims, memory_order_relaxed))) return;
            relax();
        }
    } while (monotonic_seconds() - start < WATCH_SECONDS);
}

static void wake(Worker *worker) {
    if (atomic_exchange(&worker->state, WORKER_AWAKE) != WORKER_ASLEEP) return;
    atomic_fetch_sub(&worker->team->asleep_count, 1);
    futex_wake(&worker->state);
}

/* Says first that it sleeps, then looks once more: whoever publishes a call or a stop does it the other way round. */
static void fall_asleep(Worker *worker) {
    Team *team = worker->team;
    atomic_fetch_add(&team->asleep_count, 1);
    atomic_store(&worker->state, WORKER_ASLEEP);
    if (claims_left(atomic_load(&team->claims)) || atomic_load(&team->stop)) wake(worker);
    while (atomic_load(&worker->state) == WORKER_ASLEEP)
        futex_wait(&worker->state, WORKER_ASLEEP, UINT64_MAX);
}

static void *worker_main(void *argument) {
    Worker *worker = argument;
    Team *team = worker->team;
    while (!atomic_load_explicit(&team->stop, memory_order_acquire)) {
        while (run_one(team, worker->thread_index))
            atomic_fetch_add_explicit(&team->done_count, 1, memory_order_release);
        watch(team);
        if (!claims_left(atomic_load_explicit(&team->claims, memory_order_relaxed)))
            fall_asleep(worker);
    }
    return NULL;
}

static int start_workers(Team *team, uint32_t wanted) {
    sigset_t all, before;
    int failed = 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (team->worker_count < wanted && !failed) {
        Worker *worker = &team->workers[team->worker_count];
        worker->team = team;
        worker->thread_index = team->worker_count + 1;
        failed = pthread_create(&worker->thread, NULL, worker_main, worker);
        team->worker_count += !failed;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failed;
}

Status team_create(Team **out, uint32_t thread_count) {
    CHECK(thread_count >= 1);
    void *memory;
    TRY(memory_take(&memory, 1, sizeof(Team), "thread team"));
    Team *team = memory;
    memory = NULL;
    Status status = memory_take(&memory, thread_count, sizeof(Worker), "thread team");
    team->workers = memory;
    int failed = status == STATUS_OK ? start_workers(team, thread_count - 1) : 0;
    uint32_t started = team->worker_count;
    if (status != STATUS_OK || failed) team_destroy(team);
    TRY(status);
    if (failed)
        FAIL(MEMORY,
             "cannot start thread %u of %u (%s): lower --threads or raise the limit of processes",
             started + 2, thread_count, strerror(failed));
    *out = team;
    return STATUS_OK;
}

void team_destroy(Team *team) {
    if (!team) return;
    CHECK(!team->running);
    atomic_store(&team->stop, true);
    for (uint32_t i = 0; i < team->worker_count; i++)
        wake(&team->workers[i]);
    for (uint32_t i = 0; i < team->worker_count; i++)
        pthread_join(team->workers[i].thread, NULL);
    free(team->workers);
    free(team);
}

uint32_t team_thread_count(const Team *team) {
    return team ? team->worker_count + 1 : 1;
}

/* ---- the caller ---- */

static void publish(Team *team, uint32_t task_count, TeamTask *task, void *user) {
    uint64_t call = (atomic_load_explicit(&team->claims, memory_order_relaxed) >> 32) + 1;
    atomic_store_explicit(&team->task, task, memory_order_relaxed);
    atomic_store_explicit(&team->user, user, memory_order_relaxed);
    atomic_store_explicit(&team->task_count, task_count, memory_order_relaxed);
    atomic_store_explicit(&team->done_count, 0, memory_order_relaxed);
    atomic_store(&team->claims, call << 32 | task_count);
}

/* As many sleepers as the call has tasks beside the caller's own. */
static void wake_sleepers(Team *team, uint32_t task_count) {
    uint32_t wanted = task_count - 1;
    for (uint32_t i = 0; i < team->worker_count && wanted && atomic_load(&team->asleep_count);
         i++) {
        Worker *worker = &team->workers[i];
        if (atomic_load(&worker->state) != WORKER_ASLEEP) continue;
        wake(worker);
        wanted--;
    }
}

/* Until workers have done what they claimed: a short task soon ends, the owner of a longer one may need this core. */
static void wait_done(const Team *team, uint32_t count) {
    double start = monotonic_seconds();
    while (atomic_load_explicit(&team->done_count, memory_order_acquire) != count) {
        if (monotonic_seconds() - start < WATCH_SECONDS)
            relax();
        else
            sched_yield();
    }
}

void team_run(Team *team, uint32_t task_count, TeamTask *task, void *user) {
    if (team_thread_count(team) == 1 || task_count < 2) {
        for (uint32_t i = 0; i < task_count; i++)
            task(user, i, 0);
        return;
    }
    CHECK(!team->running);
    team->running = true;
    publish(team, task_count, task, user);
    if (atomic_load(&team->asleep_count)) wake_sleepers(team, task_count);
    uint32_t own_count = 0;
    while (run_one(team, 0))
        own_count++;
    if (own_count < task_count) wait_done(team, task_count - own_count);
    team->running = false;
}
