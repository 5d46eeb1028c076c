#include "tiers/mover.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/base/bytes.h"
#include "runtime/base/invariant.h"
#include "runtime/base/monotonic.h"
#include "tiers/spill_header.h"

enum { RESULTS_AT_ONCE = 64 };
static const uint64_t busy_wait_ns =
    50000; /* how long new jobs may wait while the ring is watched */

/* One producer, one consumer; capacity a power of two above transfers_max, so that it is never full. */
typedef struct Queue {
    _Atomic uint32_t head, tail;
} Queue;

struct Mover {
    MoverOptions options;
    Ring *ring; /* of the thread; NULL without files */
    RingFacts facts;
    uint32_t capacity; /* of both queues */
    MoverJob *jobs;    /* [capacity] */
    MoverDone *done;   /* [capacity] */
    Queue job_queue, done_queue;
    MoverJob
        *flying; /* [transfers_max] jobs that the ring works on; RingOperation.user is the index */
    uint32_t *free_flights; /* stack, [free_flight_count] */
    uint32_t free_flight_count;
    uint32_t outstanding; /* submitted and not collected; of the submitting thread */
    pthread_t thread;
    pthread_mutex_t mutex; /* guards sleeping only */
    pthread_cond_t job_ready, done_ready;
    _Atomic bool thread_sleeps, owner_sleeps, stop;
    Status open_status;
    ErrorCode open_error; /* raised again by the owner, who may capture it */
    char open_text[512];
    bool opened;
    MoverStats stats; /* written by the thread; read by others without a promise of one instant */
};

/* ---- slots ---- */

static uint8_t *slot_memory(const Mover *mover, Tier tier, uint32_t slot) {
    return mover->options.slots[tier] + (uint64_t)slot * mover->options.slot_bytes;
}

static SpillExpectation expectation_of(const Mover *mover, const MoverJob *job, uint32_t slot) {
    return (SpillExpectation){.identity = &job->identity,
                              .payload_bytes = mover->options.payload_bytes,
                              .slot = slot,
                              .generation = job->transfer.generation,
                              .ordinal = job->ordinal};
}

/* The header names the slot that the bytes go to; a write from the host puts it into the host's copy for as long as it takes.
 * Only the mover writes headers, and a block has one transfer in flight at most. */
static void seal(Mover *mover, const MoverJob *job, uint8_t *block, uint32_t to_slot) {
    double start = monotonic_seconds();
    SpillExpectation expectation = expectation_of(mover, job, to_slot);
    spill_header_seal(block, &expectation);
    mover->stats.seconds_checksum += monotonic_seconds() - start;
}

static TransferResult verify(Mover *mover, const MoverJob *job, const uint8_t *block) {
    double start = monotonic_seconds();
    SpillExpectation expectation = expectation_of(mover, job, job->transfer.from_slot);
    bool right = spill_header_matches(block, &expectation);
    mover->stats.seconds_checksum += monotonic_seconds() - start;
    mover->stats.corrupt += !right;
    return right ? TRANSFER_OK : TRANSFER_CORRUPT;
}

/* ---- the mover's thread ---- */

static void report(Mover *mover, const MoverJob *job, TransferResult result) {
    const Transfer *transfer = &job->transfer;
    if (result == TRANSFER_OK) {
        mover->stats.read_bytes[transfer->from] += mover->options.slot_bytes;
        mover->stats.written_bytes[transfer->to] += mover->options.slot_bytes;
    }
    uint32_t tail = atomic_load_explicit(&mover->done_queue.tail, memory_order_relaxed);
    mover->done[tail & (mover->capacity - 1)] = (MoverDone){transfer->id, result};
    atomic_store(&mover->done_queue.tail, tail + 1);
    if (!atomic_load(&mover->owner_sleeps)) return;
    pthread_mutex_lock(&mover->mutex);
    pthread_cond_signal(&mover->done_ready);
    pthread_mutex_unlock(&mover->mutex);
}

static TransferResult copy(Mover *mover, const MoverJob *job) {
    const Transfer *transfer = &job->transfer;
    uint8_t *source = slot_memory(mover, transfer->from, transfer->from_slot);
    uint8_t *destination = slot_memory(mover, transfer->to, transfer->to_slot);
    double start = monotonic_seconds();
    memcpy(destination, source, mover->options.slot_bytes);
    mover->stats.seconds_copy += monotonic_seconds() - start;
    if (transfer->from > transfer->to) return verify(mover, job, destination);
    seal(mover, job, destination, transfer->to_slot);
    return TRANSFER_OK;
}

static void start_io(Mover *mover, const MoverJob *job) {
    const Transfer *transfer = &job->transfer;
    bool writes = transfer->to == TIER_NVME;
    uint32_t disk_slot = writes ? transfer->to_slot : transfer->from_slot;
    uint8_t *memory = writes ? slot_memory(mover, transfer->from, transfer->from_slot)
                             : slot_memory(mover, transfer->to, transfer->to_slot);
    if (writes && transfer->from == TIER_HOST && verify(mover, job, memory) != TRANSFER_OK) {
        report(mover, job, TRANSFER_CORRUPT);
        return;
    }
    if (writes) seal(mover, job, memory, disk_slot);
    uint32_t flight = mover->free_flights[--mover->free_flight_count];
    mover->flying[flight] = *job;
    uint32_t files = mover->options.ring.file_count;
    RingOperation operation = {.kind = writes ? RING_WRITE : RING_READ,
                               .file = disk_slot % files,
                               .memory = memory,
                               .offset = (uint64_t)(disk_slot / files) * mover->options.slot_bytes,
                               .bytes = (uint32_t)mover->options.slot_bytes,
                               .user = flight};
    CHECK(ring_submit(mover->ring, &operation, 1) == 1); /* the ring's queue holds transfers_max */
}

static bool take_jobs(Mover *mover) {
    uint32_t head = atomic_load_explicit(&mover->job_queue.head, memory_order_relaxed),
             first = head;
    while (head != atomic_load(&mover->job_queue.tail)) {
        const MoverJob job = mover->jobs[head & (mover->capacity - 1)];
        atomic_store(&mover->job_queue.head, ++head);
        if (job.transfer.from == TIER_NVME || job.transfer.to == TIER_NVME)
            start_io(mover, &job);
        else
            report(mover, &job, copy(mover, &job));
    }
    return head != first;
}

static TransferResult result_of(Mover *mover, const MoverJob *job, const RingResult *result) {
    if (result->error == RING_ERROR_NONE)
        return job->transfer.from == TIER_NVME
                   ? verify(mover, job, slot_memory(mover, job->transfer.to, job->transfer.to_slot))
                   : TRANSFER_OK;
    mover->stats.io_errors++;
    return result->error == RING_ERROR_NO_SPACE ? TRANSFER_NO_SPACE : TRANSFER_FAILED;
}

static void take_results(Mover *mover, uint64_t wait_ns) {
    RingResult results[RESULTS_AT_ONCE];
    uint32_t count = ring_reap(mover->ring, results, RESULTS_AT_ONCE, wait_ns);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t flight = (uint32_t)results[i].user;
        const MoverJob job = mover->flying[flight];
        if (job.transfer.from == TIER_HOST) /* the host's copy is the host's again */
            seal(mover, &job, slot_memory(mover, TIER_HOST, job.transfer.from_slot),
                 job.transfer.from_slot);
        mover->free_flights[mover->free_flight_count++] = flight;
        report(mover, &job, result_of(mover, &job, &results[i]));
    }
}

static bool jobs_wait(const Mover *mover) {
    return atomic_load(&mover->job_queue.head) != atomic_load(&mover->job_queue.tail);
}

static void note_cpu(Mover *mover) {
    struct timespec used;
    if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used) == 0)
        mover->stats.seconds_cpu = (double)used.tv_sec + (double)used.tv_nsec * 1e-9;
}

static void sleep_until_jobs(Mover *mover) {
    note_cpu(mover);
    pthread_mutex_lock(&mover->mutex);
    atomic_store(&mover->thread_sleeps, true);
    while (!jobs_wait(mover) && !atomic_load(&mover->stop))
        pthread_cond_wait(&mover->job_ready, &mover->mutex);
    atomic_store(&mover->thread_sleeps, false);
    pthread_mutex_unlock(&mover->mutex);
}

static void open_ring(Mover *mover) {
    Status status = STATUS_OK;
    const char *text;
    error_capture_begin();
    if (mover->options.ring.file_count > 0) status = ring_open(&mover->ring, &mover->options.ring);
    error_capture_end();
    mover->open_error = error_last(&text);
    snprintf(mover->open_text, sizeof mover->open_text, "%s", text);
    if (mover->ring) mover->facts = *ring_facts(mover->ring);
    pthread_mutex_lock(&mover->mutex);
    mover->open_status = status;
    mover->opened = true;
    pthread_cond_signal(&mover->done_ready);
    pthread_mutex_unlock(&mover->mutex);
}

static void *run(void *argument) {
    Mover *mover = argument;
    open_ring(mover);
    while (mover->open_status == STATUS_OK) {
        bool worked = take_jobs(mover);
        bool in_flight = mover->free_flight_count < mover->options.transfers_max;
        if (in_flight)
            take_results(mover, worked ? 0 : busy_wait_ns);
        else if (atomic_load(&mover->stop) && !jobs_wait(mover))
            break;
        else if (!worked)
            sleep_until_jobs(mover);
    }
    ring_close(mover->ring);
    return NULL;
}

/* ---- the owner's side ---- */

static Status take_memory(Mover *mover) {
    uint32_t count = mover->options.transfers_max;
    mover->capacity = 1;
    while (mover->capacity <= count)
        mover->capacity *= 2;
    TRY(memory_take((void **)&mover->jobs, mover->capacity, sizeof(MoverJob), "mover"));
    TRY(memory_take((void **)&mover->done, mover->capacity, sizeof(MoverDone), "mover"));
    TRY(memory_take((void **)&mover->flying, count, sizeof(MoverJob), "mover"));
    TRY(memory_take((void **)&mover->free_flights, count, sizeof(uint32_t), "mover"));
    for (uint32_t i = 0; i < count; i++)
        mover->free_flights[i] = i;
    mover->free_flight_count = count;
    return STATUS_OK;
}

static void give_memory(Mover *mover) {
    free(mover->jobs);
    free(mover->done);
    free(mover->flying);
    free(mover->free_flights);
    free(mover);
}

static Status start(Mover *mover) {
    pthread_mutex_init(&mover->mutex, NULL);
    pthread_cond_init(&mover->job_ready, NULL);
    pthread_cond_init(&mover->done_ready, NULL);
    if (pthread_create(&mover->thread, NULL, run, mover) != 0)
        FAIL(MEMORY, "the tier thread cannot be started");
    pthread_mutex_lock(&mover->mutex);
    while (!mover->opened)
        pthread_cond_wait(&mover->done_ready, &mover->mutex);
    pthread_mutex_unlock(&mover->mutex);
    if (mover->open_status == STATUS_OK) return STATUS_OK;
    pthread_join(mover->thread, NULL);
    return error_raise(mover->open_error, "%s", mover->open_text);
}

Status mover_create(Mover **out, const MoverOptions *options) {
    CHECK(options->transfers_max > 0 && options->ring.file_count <= RING_FILES_MAX);
    void *memory;
    TRY(memory_take(&memory, 1, sizeof(Mover), "mover"));
    Mover *mover = memory;
    mover->options = *options;
    Status status = take_memory(mover);
    if (status == STATUS_OK) status = start(mover);
    if (status != STATUS_OK) {
        give_memory(mover);
        return status;
    }
    *out = mover;
    return STATUS_OK;
}

static void wake_thread(Mover *mover) {
    if (!atomic_load(&mover->thread_sleeps)) return;
    pthread_mutex_lock(&mover->mutex);
    pthread_cond_signal(&mover->job_ready);
    pthread_mutex_unlock(&mover->mutex);
}

void mover_destroy(Mover *mover) {
    if (!mover) return;
    atomic_store(&mover->stop, true);
    pthread_mutex_lock(&mover->mutex);
    pthread_cond_signal(&mover->job_ready);
    pthread_mutex_unlock(&mover->mutex);
    pthread_join(mover->thread, NULL);
    pthread_cond_destroy(&mover->job_ready);
    pthread_cond_destroy(&mover->done_ready);
    pthread_mutex_destroy(&mover->mutex);
    give_memory(mover);
}

Status mover_submit(Mover *mover, const MoverJob *job) {
    if (mover->outstanding == mover->options.transfers_max) return STATUS_AGAIN;
    uint32_t tail = atomic_load_explicit(&mover->job_queue.tail, memory_order_relaxed);
    mover->jobs[tail & (mover->capacity - 1)] = *job;
    atomic_store(&mover->job_queue.tail, tail + 1);
    mover->outstanding++;
    wake_thread(mover);
    return STATUS_OK;
}

static bool done_wait(const Mover *mover) {
    return atomic_load(&mover->done_queue.head) != atomic_load(&mover->done_queue.tail);
}

static void sleep_until_done(Mover *mover, uint64_t wait_ns) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    uint64_t ns = (uint64_t)until.tv_nsec + wait_ns;
    until.tv_sec += (time_t)(ns / 1000000000u);
    until.tv_nsec = (long)(ns % 1000000000u);
    pthread_mutex_lock(&mover->mutex);
    atomic_store(&mover->owner_sleeps, true);
    while (!done_wait(mover))
        if (pthread_cond_timedwait(&mover->done_ready, &mover->mutex, &until) != 0) break;
    atomic_store(&mover->owner_sleeps, false);
    pthread_mutex_unlock(&mover->mutex);
}

uint32_t mover_collect(Mover *mover, MoverDone *out, uint32_t count_max, uint64_t wait_ns) {
    if (wait_ns > 0 && mover->outstanding > 0 && !done_wait(mover))
        sleep_until_done(mover, wait_ns);
    uint32_t head = atomic_load_explicit(&mover->done_queue.head, memory_order_relaxed), count = 0;
    while (count < count_max && head != atomic_load(&mover->done_queue.tail))
        out[count++] = mover->done[head++ & (mover->capacity - 1)];
    atomic_store(&mover->done_queue.head, head);
    mover->outstanding -= count;
    return count;
}

MoverStats mover_stats(const Mover *mover) {
    return mover->stats;
}

const RingFacts *mover_ring_facts(const Mover *mover) {
    return mover->ring || mover->facts.engine ? &mover->facts : NULL;
}
