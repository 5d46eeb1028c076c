#include "runtime/engine/kv_encoder.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "runtime/base/arena.h"
#include "runtime/base/futex.h"
#include "runtime/base/invariant.h"
#include "runtime/base/monotonic.h"

/* A job waits until thread or owner claims it; whoever did the work sets JOB_DONE and wakes an owner that watches. */
enum { JOB_FREE, JOB_WAITS, JOB_RUNS, JOB_WATCHED, JOB_DONE };

typedef struct Slot {
    FutexWord state;
    KvEncoderJob job;
    Status status;
    double seconds;
} Slot;

struct KvEncoder {
    const Kernels *kernels;
    KvLayout layout;
    Slot slots[KV_ENCODER_JOBS_MAX];
    /* slot indices in the order of submit; overwritten once round, which a thread that lags sees as jobs to claim all the same */
    _Atomic uint32_t order[KV_ENCODER_JOBS_MAX];
    _Atomic uint32_t submit_count;
    FutexWord thread_sleeps; /* 1 while it does; whoever wakes it makes it 0 */
    _Atomic bool stop;
    pthread_t thread;
    double seconds, seconds_waited; /* of the owner */
};

static void run_job(KvEncoder *encoder, Slot *slot) {
    const KvLayout *layout = &encoder->layout;
    double start = monotonic_seconds();
    Status status = STATUS_OK;
    for (uint32_t i = 0; i < slot->job.block_count && status == STATUS_OK; i++)
        status = encoder->kernels->kv_encode(layout->codec, &layout->shape, slot->job.blocks[i],
                                             slot->job.out_bytes + i * layout->encoded_bytes);
    slot->status = status;
    slot->seconds = monotonic_seconds() - start;
    if (atomic_exchange(&slot->state, JOB_DONE) == JOB_WATCHED) futex_wake(&slot->state);
}

static bool claim(Slot *slot) {
    uint32_t waits = JOB_WAITS;
    return atomic_compare_exchange_strong(&slot->state, &waits, JOB_RUNS);
}

/* ---- the thread ---- */

static void fall_asleep(KvEncoder *encoder, uint32_t seen) {
    atomic_store(&encoder->thread_sleeps, 1);
    while (atomic_load(&encoder->submit_count) == seen && !atomic_load(&encoder->stop) &&
           atomic_load(&encoder->thread_sleeps))
        futex_wait(&encoder->thread_sleeps, 1, UINT64_MAX);
    atomic_store(&encoder->thread_sleeps, 0);
}

static void *thread_main(void *argument) {
    KvEncoder *encoder = argument;
    uint32_t next = 0;
    while (!atomic_load(&encoder->stop)) {
        if (next == atomic_load(&encoder->submit_count)) {
            fall_asleep(encoder, next);
            continue;
        }
        Slot *slot = &encoder->slots[atomic_load(&encoder->order[next++ % KV_ENCODER_JOBS_MAX])];
        if (claim(slot)) run_job(encoder, slot);
    }
    return NULL;
}

static void wake_thread(KvEncoder *encoder) {
    if (atomic_load(&encoder->thread_sleeps) && atomic_exchange(&encoder->thread_sleeps, 0))
        futex_wake(&encoder->thread_sleeps);
}

/* ---- the owner ---- */

Status kv_encoder_create(KvEncoder **out, const Kernels *kernels, const KvLayout *layout) {
    CHECK(layout->codec && layout->pack_blocks <= KV_PACK_BLOCKS_MAX);
    void *memory;
    TRY(memory_take(&memory, 1, sizeof(KvEncoder), "KV encoder"));
    KvEncoder *encoder = memory;
    encoder->kernels = kernels;
    encoder->layout = *layout;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool started = pthread_create(&encoder->thread, NULL, thread_main, encoder) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!started) {
        free(encoder);
        FAIL(MEMORY, "the encoder's thread cannot be started: raise the limit of processes");
    }
    *out = encoder;
    return STATUS_OK;
}

void kv_encoder_destroy(KvEncoder *encoder) {
    if (!encoder) return;
    atomic_store(&encoder->stop, true);
    wake_thread(encoder);
    pthread_join(encoder->thread, NULL);
    free(encoder);
}

uint32_t kv_encoder_submit(KvEncoder *encoder, const KvEncoderJob *job) {
    uint32_t index = 0;
    while (index < KV_ENCODER_JOBS_MAX &&
           atomic_load_explicit(&encoder->slots[index].state, memory_order_relaxed) != JOB_FREE)
        index++;
    CHECK(index < KV_ENCODER_JOBS_MAX);
    encoder->slots[index].job = *job;
    atomic_store(&encoder->slots[index].state, JOB_WAITS);
    uint32_t count = atomic_load_explicit(&encoder->submit_count, memory_order_relaxed);
    atomic_store(&encoder->order[count % KV_ENCODER_JOBS_MAX], index);
    atomic_store(&encoder->submit_count, count + 1);
    wake_thread(encoder);
    return index;
}

Status kv_encoder_wait(KvEncoder *encoder, uint32_t job_index) {
    Slot *slot = &encoder->slots[job_index];
    double start = monotonic_seconds();
    if (claim(slot)) run_job(encoder, slot);
    uint32_t runs = JOB_RUNS;
    atomic_compare_exchange_strong(&slot->state, &runs, JOB_WATCHED);
    while (atomic_load(&slot->state) == JOB_WATCHED)
        futex_wait(&slot->state, JOB_WATCHED, UINT64_MAX);
    CHECK(atomic_load(&slot->state) == JOB_DONE);
    encoder->seconds += slot->seconds;
    encoder->seconds_waited += monotonic_seconds() - start;
    Status status = slot->status;
    atomic_store(&slot->state, JOB_FREE);
    return status;
}

double kv_encoder_seconds(const KvEncoder *encoder) {
    return encoder->seconds;
}

double kv_encoder_seconds_waited(const KvEncoder *encoder) {
    return encoder->seconds_waited;
}
