#include "kernels/cuda/emulation/emulated_grid.h"

#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/emulation/grid_parts.h"
#include "runtime/base/arena.h"
#include "runtime/base/invariant.h"

__thread GridRunner *runner_now;

/* ---- defects */

static int print_place(char *out, size_t bytes, const GridRunner *runner,
                       const GridThread *thread) {
    const EmulatedPlace *place = &thread->place;
    return snprintf(out, bytes,
                    "kernel %s: block (%u, %u, %u) thread (%u, %u, %u): ", runner->launch->kernel,
                    place->block_index.x, place->block_index.y, place->block_index.z,
                    place->thread_index.x, place->thread_index.y, place->thread_index.z);
}

__attribute__((format(printf, 3, 0))) static void
note_defect(GridRunner *runner, const GridThread *thread, const char *format, va_list arguments) {
    if (runner->failed) return;
    runner->failed = true;
    int used = print_place(runner->defect, EMULATED_DEFECT_BYTES, runner, thread);
    if (used < EMULATED_DEFECT_BYTES)
        vsnprintf(runner->defect + used, (size_t)(EMULATED_DEFECT_BYTES - used), format, arguments);
}

__attribute__((format(printf, 3, 4))) static void
thread_defect(GridRunner *runner, const GridThread *thread, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    note_defect(runner, thread, format, arguments);
    va_end(arguments);
}

void emulated_defect(const char *format, ...) {
    GridRunner *runner = runner_now;
    va_list arguments;
    va_start(arguments, format);
    note_defect(runner, runner->current, format, arguments);
    va_end(arguments);
    fiber_yield(runner->fibers);
    invariant_broken(__FILE__, __LINE__, "a fiber went on after its launch had ended");
}

/* ---- faults */

static pthread_mutex_t segv_lock = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction segv_before;

/* A plain access of a kernel to what is no memory ends the launch like any other defect: the fiber never goes on, so leaving the
 * handler by a switch is as good as returning. Any other fault is whose it was before. */
static void on_segv(int number, siginfo_t *info, void *context) {
    (void)context;
    if (runner_now && runner_now->current)
        emulated_defect("touches %p, where the device has no memory", info->si_addr);
    sigaction(number, &segv_before, NULL);
}

/* With every runner: a handler that was set since would hide this one. */
static void catch_segv(void) {
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* which tell it themselves */
    struct sigaction action = {.sa_sigaction = on_segv, .sa_flags = SA_SIGINFO | SA_NODEFER};
    struct sigaction now;
    pthread_mutex_lock(&segv_lock);
    sigaction(SIGSEGV, NULL, &now);
    if (now.sa_sigaction != on_segv) sigaction(SIGSEGV, &action, &segv_before);
    pthread_mutex_unlock(&segv_lock);
#else
    (void)on_segv, (void)segv_lock;
#endif
}

/* ---- waiting */

const EmulatedPlace *emulated_place(void) {
    return &runner_now->current->place;
}

static GridThread *wait_at(WaitKind kind, const char *what, int line) {
    GridThread *thread = runner_now->current;
    thread->wait = kind;
    thread->wait_what = what;
    thread->wait_line = line;
    fiber_yield(runner_now->fibers);
    return thread;
}

void emulated_block_sync(int line) {
    wait_at(WAIT_BLOCK, "block_sync", line);
}

void emulated_warp_sync(int line) {
    wait_at(WAIT_WARP, "warp_sync", line);
    GridThread *thread = runner_now->current;
    thread->exchange_bytes = 0;
}

const uint8_t *emulated_warp_exchange(const char *what, int line, const void *mine,
                                      uint32_t bytes) {
    GridThread *thread = runner_now->current;
    CHECK(bytes > 0 && bytes <= EMULATED_EXCHANGE_BYTES_MAX);
    memcpy(thread->exchange, mine, bytes);
    thread->exchange_bytes = bytes;
    wait_at(WAIT_WARP, what, line);
    return runner_now->published[thread->place.flat_thread_index / LANES][0];
}

static bool waits_alike(const GridThread *a, const GridThread *b) {
    return a->wait == b->wait && (a->wait == WAIT_OVER || a->wait_line == b->wait_line);
}

static const char *wait_text(const GridThread *thread, char *out, size_t bytes) {
    if (thread->wait == WAIT_OVER)
        snprintf(out, bytes, "has returned");
    else
        snprintf(out, bytes, "waits in %s at line %d", thread->wait_what, thread->wait_line);
    return out;
}

static void diverged(GridRunner *runner, const GridThread *thread, const GridThread *other) {
    char mine[96], theirs[96];
    thread_defect(runner, thread, "%s, but thread (%u, %u, %u) %s",
                  wait_text(thread, mine, sizeof mine), other->place.thread_index.x,
                  other->place.thread_index.y, other->place.thread_index.z,
                  wait_text(other, theirs, sizeof theirs));
}

/* ---- running */

static void fiber_thread(void *user, uint32_t fiber_index) {
    GridRunner *runner = user;
    runner->launch->run(runner->launch->arguments);
    runner->threads[fiber_index].wait = WAIT_OVER;
}

static void run_lanes(GridRunner *runner, GridThread *lanes) {
    for (uint32_t i = 0; i < LANES && !runner->failed; i++) {
        GridThread *thread = &lanes[runner->lanes_backwards ? LANES - 1 - i : i];
        if (thread->wait != WAIT_NONE) continue;
        runner->current = thread;
        fiber_resume(runner->fibers, thread->place.flat_thread_index);
        runner->current = NULL;
    }
}

static void release_warp(GridRunner *runner, uint32_t warp, GridThread *lanes) {
    if (lanes[0].exchange_bytes == 0) runner->warp_turns[warp]++;
    for (uint32_t i = 0; i < LANES; i++) {
        memcpy(runner->published[warp][i], lanes[i].exchange, lanes[i].exchange_bytes);
        lanes[i].exchange_bytes = 0;
        lanes[i].wait = WAIT_NONE;
    }
}

/* Until every lane is over or stands at the block's barrier. */
static void advance_warp(GridRunner *runner, uint32_t warp) {
    GridThread *lanes = &runner->threads[warp * LANES];
    for (;;) {
        run_lanes(runner, lanes);
        if (runner->failed) return;
        const GridThread *at_warp = NULL, *elsewhere = NULL;
        for (uint32_t i = 0; i < LANES; i++)
            if (lanes[i].wait == WAIT_WARP && !at_warp) at_warp = &lanes[i];
        if (!at_warp) return;
        for (uint32_t i = 0; i < LANES && !elsewhere; i++)
            if (!waits_alike(at_warp, &lanes[i])) elsewhere = &lanes[i];
        if (elsewhere) {
            diverged(runner, at_warp, elsewhere);
            return;
        }
        release_warp(runner, warp, lanes);
    }
}

/* True when the block is over. */
static bool pass_barrier(GridRunner *runner) {
    GridThread *first = &runner->threads[0];
    for (uint32_t i = 1; i < runner->thread_count; i++) {
        if (waits_alike(first, &runner->threads[i])) continue;
        diverged(runner, &runner->threads[i], first);
        return true;
    }
    if (first->wait == WAIT_OVER) return true;
    shared_shadow_barrier(runner->shadow);
    for (uint32_t i = 0; i < runner->thread_count; i++)
        runner->threads[i].wait = WAIT_NONE;
    return false;
}

static void begin_block(GridRunner *runner, Extent3 block_index) {
    for (uint32_t i = 0; i < runner->thread_count; i++) {
        GridThread *thread = &runner->threads[i];
        thread->place.block_index = block_index;
        thread->wait = WAIT_NONE;
        thread->exchange_bytes = 0;
        thread->copy_count = 0;
        thread->group_open = 0;
    }
    memset(runner->warp_turns, 0, sizeof runner->warp_turns);
    shared_shadow_begin_block(runner->shadow);
    runner->lanes_backwards = random_below(&runner->random, 2) == 1;
}

static void run_block(GridRunner *runner, Extent3 block_index) {
    begin_block(runner, block_index);
    uint32_t warp_first = (uint32_t)random_below(&runner->random, runner->warp_count);
    do {
        for (uint32_t i = 0; i < runner->warp_count && !runner->failed; i++)
            advance_warp(runner, (warp_first + i) % runner->warp_count);
    } while (!runner->failed && !pass_barrier(runner));
}

static void place_threads(GridRunner *runner) {
    const EmulatedLaunch *launch = runner->launch;
    uint32_t i = 0;
    for (uint32_t z = 0; z < launch->block.z; z++)
        for (uint32_t y = 0; y < launch->block.y; y++)
            for (uint32_t x = 0; x < launch->block.x; x++, i++)
                runner->threads[i].place = (EmulatedPlace){.thread_index = {x, y, z},
                                                           .block = launch->block,
                                                           .grid = launch->grid,
                                                           .flat_thread_index = i};
}

static uint64_t extent_volume(Extent3 extent) {
    return (uint64_t)extent.x * extent.y * extent.z;
}

/* NULL when a GPU would take the launch. */
static const char *launch_refusal(const EmulatedLaunch *launch) {
    uint64_t threads = extent_volume(launch->block);
    if (threads == 0 || extent_volume(launch->grid) == 0) return "the grid or the block is empty";
    if (threads > EMULATED_THREADS_MAX || launch->block.z > 64)
        return "a block has 1024 threads at most";
    if (threads % LANES) return "the block is not whole warps";
    if (launch->grid.x > INT32_MAX || launch->grid.y > UINT16_MAX || launch->grid.z > UINT16_MAX)
        return "the grid is too large";
    if (launch->shared_bytes > EMULATED_SHARED_BYTES_MAX) return "too much shared memory";
    return NULL;
}

/* Each block once, from a drawn one on: no block may lean on another. */
static void run_blocks(GridRunner *runner) {
    Extent3 grid = runner->launch->grid;
    uint64_t count = extent_volume(grid), first = random_below(&runner->random, count);
    for (uint64_t i = 0; i < count && !runner->failed; i++) {
        uint64_t flat = (first + i) % count;
        Extent3 block_index = {(uint32_t)(flat % grid.x), (uint32_t)(flat / grid.x % grid.y),
                               (uint32_t)(flat / grid.x / grid.y)};
        run_block(runner, block_index);
    }
}

bool grid_run(GridRunner *runner, const EmulatedLaunch *launch, char *out_defect) {
    CHECK(!runner_now);
    const char *refusal = launch_refusal(launch);
    if (refusal) {
        snprintf(out_defect, EMULATED_DEFECT_BYTES, "kernel %s: cannot be launched: %s",
                 launch->kernel, refusal);
        return false;
    }
    runner_now = runner;
    runner->launch = launch;
    runner->thread_count = (uint32_t)extent_volume(launch->block);
    runner->warp_count = runner->thread_count / LANES;
    runner->failed = false;
    runner->defect = out_defect;
    place_threads(runner);
    run_blocks(runner);
    if (runner->failed) fiber_pool_reset(runner->fibers);
    runner_now = NULL;
    return !runner->failed;
}

/* ---- the runner */

Status grid_runner_create(GridRunner **out, uint64_t seed, EmulatedHolds *holds, void *user) {
    void *memory;
    catch_segv();
    TRY(memory_take(&memory, 1, sizeof(GridRunner), "the emulated device"));
    GridRunner *runner = memory;
    runner->random = (Random){.key = seed};
    runner->holds = holds;
    runner->holds_user = user;
    Status status = fiber_pool_create(&runner->fibers, EMULATED_THREADS_MAX, fiber_thread, runner);
    if (status == STATUS_OK)
        status = shared_shadow_create(&runner->shadow, EMULATED_SHARED_BYTES_MAX);
    if (status != STATUS_OK) {
        grid_runner_destroy(runner);
        return status;
    }
    *out = runner;
    return STATUS_OK;
}

void grid_runner_destroy(GridRunner *runner) {
    if (!runner) return;
    shared_shadow_destroy(runner->shadow);
    fiber_pool_destroy(runner->fibers);
    free(runner);
}
