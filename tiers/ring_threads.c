/* The twin of io_uring: a pool of threads with pread and pwrite, one for each transfer in flight. */

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "runtime/base/arena.h"
#include "runtime/base/invariant.h"
#include "tiers/ring_engine.h"

enum { THREADS_MAX = 64, STACK_BYTES = 256 << 10, NS_PER_SECOND = 1000000000 };

struct RingEngineState {
    RingFile files[RING_FILES_MAX];
    uint32_t depth;
    pthread_t threads[THREADS_MAX];
    uint32_t thread_count;

    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t work, done;
    bool stop;
    RingTransfer *waiting; /* [depth] a circle: waiting_count from waiting_first on */
    uint32_t waiting_first, waiting_count;
    RingCompletion *finished; /* [depth] a circle */
    uint32_t finished_first, finished_count;
};

static int32_t move(const RingEngineState *state, const RingTransfer *transfer) {
    int descriptor = state->files[transfer->file].descriptor;
    off_t offset = (off_t)transfer->offset;
    ssize_t moved = transfer->kind == RING_READ
                        ? pread(descriptor, transfer->memory, transfer->bytes, offset)
                        : pwrite(descriptor, transfer->memory, transfer->bytes, offset);
    return moved < 0 ? -errno : (int32_t)moved;
}

static void *work_loop(void *argument) {
    RingEngineState *state = argument;
    pthread_mutex_lock(&state->lock);
    for (;;) {
        while (!state->stop && state->waiting_count == 0)
            pthread_cond_wait(&state->work, &state->lock);
        if (state->stop) break;
        RingTransfer transfer = state->waiting[state->waiting_first];
        state->waiting_first = (state->waiting_first + 1) % state->depth;
        state->waiting_count--;
        pthread_mutex_unlock(&state->lock);
        int32_t result = move(state, &transfer);
        pthread_mutex_lock(&state->lock);
        CHECK(state->finished_count < state->depth);
        state->finished[(state->finished_first + state->finished_count++) % state->depth] =
            (RingCompletion){.slot = transfer.slot, .result = result};
        if (state->finished_count == 1) pthread_cond_signal(&state->done);
    }
    pthread_mutex_unlock(&state->lock);
    return NULL;
}

/* As many of depth as the system gives; signals are for other threads. */
static int start_threads(RingEngineState *state) {
    pthread_attr_t attributes;
    sigset_t all, before;
    int failed = 0;
    uint32_t wanted = state->depth < THREADS_MAX ? state->depth : THREADS_MAX;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (state->thread_count < wanted && !failed) {
        failed =
            pthread_create(&state->threads[state->thread_count], &attributes, work_loop, state);
        state->thread_count += !failed;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return state->thread_count > 0 ? 0 : failed;
}

static void open_locks(RingEngineState *state) {
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&state->lock, NULL);
    pthread_cond_init(&state->work, NULL);
    pthread_cond_init(&state->done, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

static void threads_close(RingEngineState *state) {
    pthread_mutex_lock(&state->lock);
    state->stop = true;
    pthread_cond_broadcast(&state->work);
    pthread_mutex_unlock(&state->lock);
    for (uint32_t i = 0; i < state->thread_count; i++)
        pthread_join(state->threads[i], NULL);
    pthread_cond_destroy(&state->done);
    pthread_cond_destroy(&state->work);
    pthread_mutex_destroy(&state->lock);
    free(state->finished);
    free(state->waiting);
    free(state);
}

static int threads_probe(char *out_why, size_t why_bytes) {
    if (why_bytes > 0) out_why[0] = '\0';
    return 0;
}

static int threads_open(RingEngineState **out, const RingOptions *options, RingFacts *facts,
                        char *out_why, size_t why_bytes) {
    RingEngineState *state = calloc(1, sizeof *state);
    if (state) state->waiting = calloc(options->depth, sizeof *state->waiting);
    if (state) state->finished = calloc(options->depth, sizeof *state->finished);
    if (!state || !state->waiting || !state->finished) {
        if (state) free(state->finished);
        if (state) free(state->waiting);
        free(state);
        snprintf(out_why, why_bytes, "no memory for a queue of %u", options->depth);
        return -ENOMEM;
    }
    state->depth = options->depth;
    memcpy(state->files, options->files, options->file_count * sizeof *options->files);
    open_locks(state);
    int failed = start_threads(state);
    if (failed) {
        threads_close(state);
        snprintf(out_why, why_bytes, "no thread could be started: %s", strerror(failed));
        return -failed;
    }
    facts->thread_count = state->thread_count;
    *out = state;
    return 0;
}

static int threads_submit(RingEngineState *state, const RingTransfer *transfers, uint32_t count,
                          uint32_t *out_taken) {
    *out_taken = count;
    if (count == 0) return 0;
    pthread_mutex_lock(&state->lock);
    CHECK(count <= state->depth - state->waiting_count);
    for (uint32_t i = 0; i < count; i++)
        state->waiting[(state->waiting_first + state->waiting_count++) % state->depth] =
            transfers[i];
    if (count == 1)
        pthread_cond_signal(&state->work);
    else
        pthread_cond_broadcast(&state->work);
    pthread_mutex_unlock(&state->lock);
    return 0;
}

/* One that no thread has begun; a system call that goes on cannot be stopped. */
static void threads_cancel(RingEngineState *state, uint32_t slot) {
    pthread_mutex_lock(&state->lock);
    uint32_t left = state->waiting_count;
    for (uint32_t i = 0; i < left; i++) {
        RingTransfer transfer = state->waiting[state->waiting_first];
        state->waiting_first = (state->waiting_first + 1) % state->depth;
        uint32_t back = (state->waiting_first + left - 1) % state->depth;
        if (transfer.slot != slot) {
            state->waiting[back] = transfer;
            continue;
        }
        state->waiting_count--;
        state->finished[(state->finished_first + state->finished_count++) % state->depth] =
            (RingCompletion){.slot = slot, .result = -ECANCELED};
        break;
    }
    pthread_mutex_unlock(&state->lock);
}

static struct timespec time_in(uint64_t wait_ns) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    time.tv_sec += (time_t)(wait_ns / NS_PER_SECOND);
    time.tv_nsec += (long)(wait_ns % NS_PER_SECOND);
    time.tv_sec += time.tv_nsec / NS_PER_SECOND;
    time.tv_nsec %= NS_PER_SECOND;
    return time;
}

static uint32_t threads_reap(RingEngineState *state, RingCompletion *out, uint32_t completion_max,
                             uint64_t wait_ns) {
    uint32_t taken = 0;
    struct timespec until = time_in(wait_ns);
    pthread_mutex_lock(&state->lock);
    while (wait_ns > 0 && state->finished_count == 0 &&
           pthread_cond_timedwait(&state->done, &state->lock, &until) != ETIMEDOUT)
        ;
    while (taken < completion_max && state->finished_count > 0) {
        out[taken++] = state->finished[state->finished_first];
        state->finished_first = (state->finished_first + 1) % state->depth;
        state->finished_count--;
    }
    pthread_mutex_unlock(&state->lock);
    return taken;
}

const RingEngine ring_threads = {
    .name = "threads",
    .probe = threads_probe,
    .open = threads_open,
    .submit = threads_submit,
    .reap = threads_reap,
    .cancel = threads_cancel,
    .close = threads_close,
};
