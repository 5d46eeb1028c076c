#include "tiers/mover.h"

#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/base/bytes.h"
#include "runtime/base/futex.h"
#include "runtime/base/invariant.h"
#include "runtime/base/log.h"
#include "runtime/base/monotonic.h"
#include "tiers/spill_header.h"

enum { RESULTS_AT_ONCE = 64, WATCHES_A_TIMEOUT = 16, DISK_ALIGNMENT = 4096 };
static const double cpu_interval_s = 0.1;
static const uint64_t busy_wait_ns =
    50000; /* how long new jobs may wait while the ring is watched */
static const uint64_t late_wait_ns = 1000000; /* the same while all that it has is late */

typedef enum Trouble {
    TROUBLE_SPACE,
    TROUBLE_IO,
    TROUBLE_WRONG,
    TROUBLE_LATE,
    TROUBLE_COUNT
} Trouble;

/* A job that the ring works on; RingOperation.user is its index. */
typedef struct Flight {
    MoverJob job;
    uint8_t *buffer; /* of device_slots, that the bytes go through; NULL: none */
    uint64_t due_ns;
    uint8_t *codes; /* a code buffer that the write reads; NULL: the slot itself */
    bool in_flight, late;
} Flight;

/* A block on its way between host memory and a device that the host cannot touch. */
typedef struct Crossing {
    MoverJob job;
    uint8_t *buffer; /* of device_slots, on the host's side; NULL: the host's slot is */
    uint64_t hash;   /* up: that its payload must have where it arrives */
} Crossing;

/* One producer, one consumer; capacity a power of two above 2 * transfers_max, so that it is never full. */
typedef struct Queue {
    _Atomic uint32_t head, tail;
} Queue;

enum { STATS_WORDS = sizeof(MoverStats) / sizeof(uint64_t) };

static_assert(sizeof(MoverStats) % sizeof(uint64_t) == 0, "MoverStats is made of words");

/* Two places in turn: nobody waits for the thread, even one put off the CPU as it writes. */
typedef struct PublishedStats {
    _Atomic uint64_t words[2][STATS_WORDS];
    _Atomic uint64_t count; /* of those published; the last is at its parity */
} PublishedStats;

struct Mover {
    MoverOptions options;
    Ring *ring; /* of the thread; NULL without files */
    RingFacts facts;
    uint32_t capacity; /* of both queues */
    MoverJob *jobs;    /* [capacity] */
    MoverDone *done;   /* [capacity] */
    Queue job_queue, done_queue;
    Flight *flights;        /* [transfers_max] */
    uint32_t *free_flights; /* stack, [free_flight_count] */
    uint32_t free_flight_count, late_count;
    Crossing crossings[DEVICE_CROSSINGS_MAX]; /* in turn */
    uint32_t crossing_first, crossing_count;
    uint8_t **free_code_buffers; /* stack, [free_code_buffer_count] */
    uint32_t free_code_buffer_count;
    uint64_t watch_ns; /* when to look for late flights again */
    bool told[TROUBLE_COUNT];
    uint32_t outstanding; /* submitted and not collected; of the submitting thread */
    uint32_t job_end;     /* behind the last job that was submitted; its, too */
    pthread_t thread;
    FutexWord thread_sleeps, owner_sleeps; /* 1 while they do; whoever wakes them makes it 0 */
    _Atomic bool stop, opened;
    Status open_status;   /* once it is opened */
    ErrorCode open_error; /* raised again by the owner, who may capture it */
    char open_text[512];
    bool closed_quietly;
    double cpu_due;           /* seconds; when the thread looks at its CPU clock again */
    MoverStats stats;         /* of the thread */
    PublishedStats published; /* the same as of the last result: for others */
};

/* Before a result can be seen, and before the thread rests. A word that shows tells its reader of the count before it. */
static void publish_stats(Mover *mover) {
    PublishedStats *published = &mover->published;
    uint64_t words[STATS_WORDS],
        next = atomic_load_explicit(&published->count, memory_order_relaxed) + 1;
    memcpy(words, &mover->stats, sizeof words);
    for (uint32_t i = 0; i < STATS_WORDS; i++)
        atomic_store_explicit(&published->words[next & 1][i], words[i], memory_order_release);
    atomic_store(&published->count, next);
}

/* ---- slots ---- */

static uint8_t *slot_memory(const Mover *mover, Tier tier, uint32_t slot) {
    return mover->options.slots[tier] + (uint64_t)slot * mover->options.slot_bytes;
}

static uint32_t payload_bytes(const Mover *mover, uint32_t form) {
    uint32_t encoded = mover->options.forms[form].payload_bytes;
    return encoded ? encoded : mover->options.payload_bytes;
}

/* What moves of a slot: of an encoded block whole pages. */
uint64_t mover_moved_bytes(const Mover *mover, uint32_t form) {
    if (mover->options.forms[form].payload_bytes == 0) return mover->options.slot_bytes;
    return align_up(sizeof(SpillHeader) + payload_bytes(mover, form), DISK_ALIGNMENT);
}

static SpillExpectation expectation_of(const Mover *mover, const MoverJob *job, uint32_t form,
                                       uint32_t slot) {
    return (SpillExpectation){.identity = &job->identity,
                              .form = form,
                              .payload_bytes = payload_bytes(mover, form),
                              .slot = slot,
                              .generation = job->transfer.generation,
                              .ordinal = job->ordinal};
}

/* The header names the slot that the bytes go to; a write from the host puts it into the host's copy for as long as it takes.
 * Only the mover writes headers, and a block has one transfer in flight at most. hash: of the payload; NULL: made here. */
static void seal(Mover *mover, const MoverJob *job, uint32_t form, uint8_t *block, uint32_t to_slot,
                 const uint64_t *hash) {
    double start = monotonic_seconds();
    SpillExpectation expectation = expectation_of(mover, job, form, to_slot);
    if (hash)
        spill_header_seal_hashed(block, &expectation, *hash);
    else
        spill_header_seal(block, &expectation);
    mover->stats.seconds_checksum += monotonic_seconds() - start;
}

/* ---- trouble ---- */

static uint32_t disk_slot(const Transfer *transfer) {
    return transfer->to == TIER_NVME ? transfer->to_slot : transfer->from_slot;
}

/* Where on disk (or in host memory) the lower copy of a transfer lies. */
static void describe_place(const Mover *mover, const Transfer *transfer, char *out,
                           size_t out_bytes) {
    uint32_t files = mover->options.ring.file_count, slot = disk_slot(transfer);
    uint64_t bytes = mover->options.slot_bytes;
    if (transfer->to != TIER_NVME && transfer->from != TIER_NVME) {
        snprintf(out, out_bytes, "host memory, slot %u", slot);
        return;
    }
    const char *directory =
        mover->options.directories ? mover->options.directories[slot % files] : "unnamed";
    snprintf(out, out_bytes, "spill file in \"%.200s\", %" PRIu64 " bytes at offset %" PRIu64,
             directory, bytes, slot / files * bytes);
}

typedef struct TroubleRow {
    const char *code;
    const char *after_read, *after_write; /* what happens now, and what a person can change */
} TroubleRow;

static const TroubleRow troubles[TROUBLE_COUNT] = {
    [TROUBLE_SPACE] = {"E-SPILL-NOSPC", NULL,
                       "the tier goes on with the room that it has, and tries to grow again later "
                       "(see --kv-nvme-dir, --kv-nvme-size)"},
    [TROUBLE_IO] = {"E-SPILL-IO", "its sequence is computed again (see --kv-nvme-dir)",
                    "the block stays where it was (see --kv-nvme-dir)"},
    [TROUBLE_WRONG] = {"E-SPILL-CRC",
                       "its sequence is computed again (see --on-corrupt, --max-corrupt)",
                       "the block stays where it was (see --on-corrupt, --max-corrupt)"},
    [TROUBLE_LATE] = {"E-SPILL-LATE",
                      "given up, and its sequence computed again (see --io-timeout)",
                      "given up, and the block stays where it was (see --io-timeout)"},
};

static void tell(Mover *mover, const Transfer *transfer, Trouble trouble, const char *why) {
    char place[320];
    if (mover->told[trouble]) return;
    mover->told[trouble] = true;
    describe_place(mover, transfer, place, sizeof place);
    const TroubleRow *row = &troubles[trouble];
    log_warning(row->code, "%s: %s; %s", place, why,
                transfer->to == TIER_DEVICE ? row->after_read : row->after_write);
}

static void tell_wrong(Mover *mover, const Transfer *transfer) {
    static const char why[] = "not the bytes that were written there";
    char place[320];
    mover->stats.corrupt++;
    if (!mover->options.corrupt_is_fatal) {
        tell(mover, transfer, TROUBLE_WRONG, why);
        return;
    }
    if (mover->told[TROUBLE_WRONG]) return;
    mover->told[TROUBLE_WRONG] = true;
    describe_place(mover, transfer, place, sizeof place);
    error_raise(ERROR_SPILL_CRC, "%s: %s (see --on-corrupt)", place, why);
}

static void tell_failed(Mover *mover, const Transfer *transfer, const RingResult *result) {
    char why[160];
    bool full = transfer->to == TIER_NVME && result->error == RING_ERROR_NO_SPACE;
    mover->stats.io_errors++;
    snprintf(why, sizeof why, "%s %u of them: %s", transfer->to == TIER_NVME ? "wrote" : "read",
             result->bytes,
             result->os_error ? strerror(result->os_error) : ring_error_name(result->error));
    tell(mover, transfer, full ? TROUBLE_SPACE : TROUBLE_IO, why);
}

static void tell_late(Mover *mover, const Transfer *transfer) {
    char why[96];
    mover->stats.late++;
    snprintf(why, sizeof why, "%s not ended after %.1f s",
             transfer->to == TIER_NVME ? "a write" : "a read",
             (double)mover->options.io_timeout_ns / 1e9);
    tell(mover, transfer, TROUBLE_LATE, why);
}

static TransferResult verify(Mover *mover, const MoverJob *job, const uint8_t *block) {
    double start = monotonic_seconds();
    SpillExpectation expectation =
        expectation_of(mover, job, job->transfer.from_form, job->transfer.from_slot);
    bool right = spill_header_matches(block, &expectation);
    mover->stats.seconds_checksum += monotonic_seconds() - start;
    if (!right) tell_wrong(mover, &job->transfer);
    return right ? TRANSFER_OK : TRANSFER_CORRUPT;
}

/* ---- sleeping ---- */

/* Whoever sleeps says so first, then looks once more; whoever publishes does it the other way round. */
static void wake(FutexWord *sleeps) {
    if (atomic_load(sleeps) && atomic_exchange(sleeps, 0)) futex_wake(sleeps);
}

static bool jobs_wait(const Mover *mover) {
    return atomic_load(&mover->job_queue.head) != atomic_load(&mover->job_queue.tail);
}

static bool done_wait(const Mover *mover) {
    return atomic_load(&mover->done_queue.head) != atomic_load(&mover->done_queue.tail);
}

/* ---- the mover's thread ---- */

static void report(Mover *mover, const MoverJob *job, TransferResult result) {
    const Transfer *transfer = &job->transfer;
    if (result == TRANSFER_OK) {
        uint64_t bytes = mover_moved_bytes(mover, transfer->to_form);
        mover->stats.read_bytes[transfer->from] += bytes;
        mover->stats.written_bytes[transfer->to] += bytes;
    }
    publish_stats(mover);
    uint32_t tail = atomic_load_explicit(&mover->done_queue.tail, memory_order_relaxed);
    mover->done[tail & (mover->capacity - 1)] = (MoverDone){transfer->id, result};
    atomic_store(&mover->done_queue.tail, tail + 1);
    wake(&mover->owner_sleeps);
}

static bool encodes(const Transfer *transfer) {
    return transfer->to_form != transfer->from_form;
}

/* Header's place, codes, zeros up to what moves. */
static void encode(Mover *mover, const Transfer *transfer, const uint8_t *source,
                   uint8_t *destination) {
    const MoverForm *form = &mover->options.forms[transfer->to_form];
    double start = monotonic_seconds();
    uint64_t used = sizeof(SpillHeader) + form->payload_bytes;
    form->encode(form->user, source + sizeof(SpillHeader), destination + sizeof(SpillHeader));
    memset(destination + used, 0, mover_moved_bytes(mover, transfer->to_form) - used);
    mover->stats.seconds_encode += monotonic_seconds() - start;
}

/* Where a file's bytes are written from or read to. */
static uint8_t *io_memory(const Mover *mover, const Transfer *transfer, uint8_t *buffer) {
    if (buffer) return buffer;
    return transfer->to == TIER_NVME ? slot_memory(mover, transfer->from, transfer->from_slot)
                                     : slot_memory(mover, transfer->to, transfer->to_slot);
}

/* Hands a transfer of `memory` to the ring. buffer, codes: what it holds until it has ended, or NULL. */
static void start_io(Mover *mover, const MoverJob *job, uint8_t *memory, uint8_t *buffer,
                     uint8_t *codes) {
    const Transfer *transfer = &job->transfer;
    uint32_t slot = disk_slot(transfer), files = mover->options.ring.file_count;
    uint32_t flight = mover->free_flights[--mover->free_flight_count];
    mover->flights[flight] =
        (Flight){.job = *job,
                 .buffer = buffer,
                 .due_ns = monotonic_now_ns(&monotonic_system) + mover->options.io_timeout_ns,
                 .codes = codes,
                 .in_flight = true};
    RingOperation operation = {.kind = transfer->to == TIER_NVME ? RING_WRITE : RING_READ,
                               .file = slot % files,
                               .memory = memory,
                               .offset = (uint64_t)(slot / files) * mover->options.slot_bytes,
                               .bytes = (uint32_t)mover_moved_bytes(mover, transfer->to_form),
                               .user = flight};
    CHECK(ring_submit(mover->ring, &operation, 1) == 1); /* the ring's queue holds transfers_max */
}

/* What goes to a file and is in host memory; hash: of its payload, where it is known. */
static void write_out(Mover *mover, const MoverJob *job, uint8_t *buffer, const uint64_t *hash) {
    const Transfer *transfer = &job->transfer;
    uint8_t *memory = io_memory(mover, transfer, buffer), *codes = NULL;
    if (encodes(transfer)) {
        if (mover->free_code_buffer_count == 0) {
            if (buffer) device_slots_give(mover->options.device_slots, buffer);
            report(mover, job, TRANSFER_NO_SPACE);
            return;
        }
        codes = mover->free_code_buffers[--mover->free_code_buffer_count];
        encode(mover, transfer, memory, codes);
        memory = codes;
        hash = NULL;
    }
    seal(mover, job, transfer->to_form, memory, transfer->to_slot, hash);
    start_io(mover, job, memory, buffer, codes);
}

/* What lies in host memory goes on from here: into its place, or to a file. */
static void arrive_below(Mover *mover, const Crossing *crossing, uint64_t hash) {
    const MoverJob *job = &crossing->job;
    const Transfer *transfer = &job->transfer;
    if (transfer->to == TIER_NVME) {
        write_out(mover, job, crossing->buffer, &hash);
        return;
    }
    uint8_t *block = slot_memory(mover, TIER_HOST, transfer->to_slot);
    if (crossing->buffer) {
        encode(mover, transfer, crossing->buffer, block);
        device_slots_give(mover->options.device_slots, crossing->buffer);
    }
    seal(mover, job, transfer->to_form, block, transfer->to_slot, crossing->buffer ? NULL : &hash);
    report(mover, job, TRANSFER_OK);
}

static void end_crossing(Mover *mover, Status status, uint64_t hash) {
    const Crossing crossing = mover->crossings[mover->crossing_first];
    const MoverJob *job = &crossing.job;
    mover->crossing_first = (mover->crossing_first + 1) % DEVICE_CROSSINGS_MAX;
    mover->crossing_count--;
    if (status == STATUS_OK && job->transfer.to != TIER_DEVICE) {
        arrive_below(mover, &crossing, hash);
        return;
    }
    if (crossing.buffer) device_slots_give(mover->options.device_slots, crossing.buffer);
    bool right = hash == crossing.hash;
    if (status == STATUS_OK && !right) tell_wrong(mover, &job->transfer);
    report(mover, job,
           status != STATUS_OK ? TRANSFER_FAILED
           : right             ? TRANSFER_OK
                               : TRANSFER_CORRUPT);
}

/* Goes on with what has crossed. `wait`: for the oldest. */
static void end_crossings(Mover *mover, bool wait) {
    uint64_t hashes[DEVICE_DIGESTS_MAX];
    uint32_t count = mover->crossing_count;
    while (count > 0 && mover->crossing_count > 0) {
        double start = monotonic_seconds();
        Status status = device_slots_crossed(mover->options.device_slots, wait, hashes, &count);
        mover->stats.seconds_copy += monotonic_seconds() - start;
        for (uint32_t i = 0; i < count; i++)
            end_crossing(mover, status, hashes[i]);
        wait = false;
    }
}

/* block: on the host's side; what goes up has its header read. */
static TransferResult begin_crossing(Mover *mover, const MoverJob *job, uint8_t *block,
                                     uint8_t *buffer) {
    DeviceSlots *slots = mover->options.device_slots;
    const Transfer *transfer = &job->transfer;
    bool up = transfer->to == TIER_DEVICE;
    SpillExpectation expectation =
        up ? expectation_of(mover, job, transfer->from_form, transfer->from_slot)
           : expectation_of(mover, job, transfer->to_form, transfer->to_slot);
    DeviceCrossing crossing = {.up = up,
                               .slot = up ? transfer->to_slot : transfer->from_slot,
                               .block = block,
                               .bytes = payload_bytes(mover, transfer->from_form),
                               .hash_seed = spill_header_seed(&expectation)};
    uint64_t hash = 0;
    if (up && !spill_header_claims(block, &expectation, &hash)) {
        tell_wrong(mover, transfer);
        return TRANSFER_CORRUPT;
    }
    Status status = device_slots_cross(slots, &crossing);
    if (status == STATUS_AGAIN) {
        if (mover->ring) ring_flush(mover->ring);
        end_crossings(mover, true);
        status = device_slots_cross(slots, &crossing);
    }
    if (status != STATUS_OK) return TRANSFER_FAILED;
    uint32_t last = (mover->crossing_first + mover->crossing_count++) % DEVICE_CROSSINGS_MAX;
    mover->crossings[last] = (Crossing){*job, buffer, hash};
    return TRANSFER_OK;
}

/* The same, with the result of what does not even begin, and its buffer given back. */
static void cross(Mover *mover, const MoverJob *job, uint8_t *block, uint8_t *buffer) {
    TransferResult result = begin_crossing(mover, job, block, buffer);
    if (result == TRANSFER_OK) return;
    if (buffer) device_slots_give(mover->options.device_slots, buffer);
    report(mover, job, result);
}

static TransferResult copy(Mover *mover, const MoverJob *job) {
    const Transfer *transfer = &job->transfer;
    uint8_t *source = slot_memory(mover, transfer->from, transfer->from_slot);
    uint8_t *destination = slot_memory(mover, transfer->to, transfer->to_slot);
    if (encodes(transfer)) {
        encode(mover, transfer, source, destination);
    } else {
        double start = monotonic_seconds();
        memcpy(destination, source, mover_moved_bytes(mover, transfer->from_form));
        mover->stats.seconds_copy += monotonic_seconds() - start;
    }
    if (transfer->from > transfer->to) return verify(mover, job, destination);
    seal(mover, job, transfer->to_form, destination, transfer->to_slot, NULL);
    return TRANSFER_OK;
}

/* A block that needs no file. buffer: one of device_slots that it comes through; else NULL. */
static void move(Mover *mover, const MoverJob *job, uint8_t *buffer) {
    const Transfer *transfer = &job->transfer;
    bool up = transfer->to == TIER_DEVICE;
    uint32_t slot = up ? transfer->from_slot : transfer->to_slot;
    if (mover->options.device_slots)
        cross(mover, job, buffer ? buffer : slot_memory(mover, TIER_HOST, slot), buffer);
    else
        report(mover, job, copy(mover, job));
}

/* Does it come from or go to where only device_slots can reach it, and not just by a copy? */
static bool needs_buffer(const Mover *mover, const Transfer *transfer) {
    bool file = transfer->from == TIER_NVME || transfer->to == TIER_NVME;
    bool device = transfer->from == TIER_DEVICE || transfer->to == TIER_DEVICE;
    return mover->options.device_slots && device && (file || encodes(transfer));
}

/* A block that comes from or goes to a file. buffer: one of device_slots where it needs that. */
static void move_by_file(Mover *mover, const MoverJob *job, uint8_t *buffer) {
    const Transfer *transfer = &job->transfer;
    uint8_t *memory = io_memory(mover, transfer, buffer);
    if (transfer->from == TIER_NVME)
        start_io(mover, job, memory, buffer, NULL);
    else if (buffer)
        cross(mover, job, buffer, buffer);
    else if (transfer->from == TIER_HOST && verify(mover, job, memory) != TRANSFER_OK)
        report(mover, job, TRANSFER_CORRUPT);
    else
        write_out(mover, job, NULL, NULL);
}

/* Nothing that is under way may ever end. */
static bool all_flights_late(const Mover *mover) {
    return mover->options.transfers_max - mover->free_flight_count == mover->late_count;
}

static bool take_jobs(Mover *mover) {
    uint32_t head = atomic_load_explicit(&mover->job_queue.head, memory_order_relaxed),
             first = head;
    while (head != atomic_load(&mover->job_queue.tail)) {
        const MoverJob job = mover->jobs[head & (mover->capacity - 1)];
        uint8_t *buffer = NULL;
        bool buffered = needs_buffer(mover, &job.transfer);
        if (buffered) buffer = device_slots_take(mover->options.device_slots);
        if (buffered && !buffer && (mover->crossing_count > 0 || !all_flights_late(mover)))
            break; /* one will be given back */
        atomic_store(&mover->job_queue.head, ++head);
        if (buffered && !buffer)
            report(mover, &job,
                   job.transfer.to == TIER_DEVICE ? TRANSFER_FAILED : TRANSFER_NO_SPACE);
        else if (job.transfer.from == TIER_NVME || job.transfer.to == TIER_NVME)
            move_by_file(mover, &job, buffer);
        else
            move(mover, &job, buffer);
    }
    return head != first;
}

/* What a read brings into a buffer is on its way to the device. */
static bool goes_on(const Flight *flight) {
    return flight->buffer && flight->job.transfer.to == TIER_DEVICE;
}

static TransferResult outcome(const RingResult *result) {
    if (result->error == RING_ERROR_NONE) return TRANSFER_OK;
    return result->error == RING_ERROR_NO_SPACE ? TRANSFER_NO_SPACE : TRANSFER_FAILED;
}

/* Nobody asks any more what a late read brought; what goes on to a device is verified there. */
static TransferResult result_of(Mover *mover, const Flight *flight, const RingResult *result) {
    const MoverJob *job = &flight->job;
    if (flight->late) return outcome(result);
    if (result->error != RING_ERROR_NONE) tell_failed(mover, &job->transfer, result);
    bool read = result->error == RING_ERROR_NONE && job->transfer.from == TIER_NVME;
    if (!read || goes_on(flight)) return outcome(result);
    return verify(mover, job, io_memory(mover, &job->transfer, flight->buffer));
}

/* The host's copy names its own slot again. */
static void restore_source(Mover *mover, const Flight *flight) {
    const Transfer *transfer = &flight->job.transfer;
    if (transfer->from != TIER_HOST || flight->codes) return;
    seal(mover, &flight->job, transfer->from_form,
         slot_memory(mover, TIER_HOST, transfer->from_slot), transfer->from_slot, NULL);
}

static void take_results(Mover *mover, uint64_t wait_ns) {
    RingResult results[RESULTS_AT_ONCE];
    uint32_t count = ring_reap(mover->ring, results, RESULTS_AT_ONCE, wait_ns);
    for (uint32_t i = 0; i < count; i++) {
        Flight *flight = &mover->flights[results[i].user];
        TransferResult result = result_of(mover, flight, &results[i]);
        bool lands = result == TRANSFER_OK && !flight->late && goes_on(flight);
        if (!flight->late) restore_source(mover, flight);
        mover->late_count -= flight->late;
        flight->in_flight = false;
        if (flight->codes)
            mover->free_code_buffers[mover->free_code_buffer_count++] = flight->codes;
        mover->free_flights[mover->free_flight_count++] = (uint32_t)results[i].user;
        if (lands) {
            cross(mover, &flight->job, flight->buffer, flight->buffer);
            continue;
        }
        if (flight->buffer) device_slots_give(mover->options.device_slots, flight->buffer);
        report(mover, &flight->job, result);
    }
}

/* Gives up what has not ended in time. It stays in flight: the kernel may still write to its memory. */
static void watch_flights(Mover *mover) {
    uint64_t timeout_ns = mover->options.io_timeout_ns,
             now = timeout_ns > 0 ? monotonic_now_ns(&monotonic_system) : 0;
    if (now < mover->watch_ns || timeout_ns == 0) return;
    mover->watch_ns = now + timeout_ns / WATCHES_A_TIMEOUT;
    for (uint32_t i = 0; i < mover->options.transfers_max; i++) {
        Flight *flight = &mover->flights[i];
        if (!flight->in_flight || flight->late || now < flight->due_ns) continue;
        flight->late = true;
        mover->late_count++;
        tell_late(mover, &flight->job.transfer);
        restore_source(mover, flight);
        report(mover, &flight->job, TRANSFER_LATE);
        ring_cancel(mover->ring, i);
    }
}

/* The CPU clock of a thread is a system call: now and then. */
static void note_cpu(Mover *mover) {
    double now = monotonic_seconds();
    struct timespec used;
    if (now < mover->cpu_due || clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used) != 0) return;
    mover->cpu_due = now + cpu_interval_s;
    mover->stats.seconds_cpu = (double)used.tv_sec + (double)used.tv_nsec * 1e-9;
    publish_stats(mover);
}

static void sleep_until_jobs(Mover *mover) {
    note_cpu(mover);
    atomic_store(&mover->thread_sleeps, 1);
    while (!jobs_wait(mover) && !atomic_load(&mover->stop) && atomic_load(&mover->thread_sleeps))
        futex_wait(&mover->thread_sleeps, 1, UINT64_MAX);
    atomic_store(&mover->thread_sleeps, 0);
}

static void open_ring(Mover *mover) {
    const char *text;
    error_capture_begin();
    if (mover->options.ring.file_count > 0)
        mover->open_status = ring_open(&mover->ring, &mover->options.ring);
    error_capture_end();
    mover->open_error = error_last(&text);
    snprintf(mover->open_text, sizeof mover->open_text, "%s", text);
    if (mover->ring) mover->facts = *ring_facts(mover->ring);
    atomic_store(&mover->opened, true);
    wake(&mover->owner_sleeps);
}

static void *run(void *argument) {
    Mover *mover = argument;
    open_ring(mover);
    while (mover->open_status == STATUS_OK && !atomic_load(&mover->stop)) {
        bool worked = take_jobs(mover);
        uint32_t in_flight = mover->options.transfers_max - mover->free_flight_count;
        if (in_flight > 0) {
            uint64_t wait = in_flight > mover->late_count ? busy_wait_ns : late_wait_ns;
            take_results(mover, worked || mover->crossing_count > 0 ? 0 : wait);
            watch_flights(mover);
        }
        if (mover->crossing_count > 0)
            end_crossings(mover, !worked);
        else if (in_flight == 0 && !worked)
            sleep_until_jobs(mover);
    }
    while (mover->crossing_count > 0)
        end_crossings(mover, true);
    mover->closed_quietly = ring_close(mover->ring);
    return NULL;
}

/* ---- the owner's side ---- */

static Status take_memory(Mover *mover) {
    uint32_t count = mover->options.transfers_max;
    mover->capacity = 1;
    while (mover->capacity <= 2 * count)
        mover->capacity *= 2;
    TRY(memory_take((void **)&mover->jobs, mover->capacity, sizeof(MoverJob), "mover"));
    TRY(memory_take((void **)&mover->done, mover->capacity, sizeof(MoverDone), "mover"));
    TRY(memory_take((void **)&mover->flights, count, sizeof(Flight), "mover"));
    TRY(memory_take((void **)&mover->free_flights, count, sizeof(uint32_t), "mover"));
    for (uint32_t i = 0; i < count; i++)
        mover->free_flights[i] = i;
    mover->free_flight_count = count;
    uint32_t code_buffer_count = mover->options.code_buffer_count;
    TRY(memory_take((void **)&mover->free_code_buffers, code_buffer_count, sizeof(uint8_t *),
                    "mover"));
    for (uint32_t i = 0; i < code_buffer_count; i++)
        mover->free_code_buffers[i] = mover->options.code_buffers + i * mover->options.slot_bytes;
    mover->free_code_buffer_count = code_buffer_count;
    return STATUS_OK;
}

static void give_memory(Mover *mover) {
    free(mover->jobs);
    free(mover->done);
    free(mover->flights);
    free(mover->free_flights);
    free(mover->free_code_buffers);
    free(mover);
}

static Status start(Mover *mover) {
    if (pthread_create(&mover->thread, NULL, run, mover) != 0)
        FAIL(MEMORY, "the tier thread cannot be started");
    atomic_store(&mover->owner_sleeps, 1);
    while (!atomic_load(&mover->opened))
        futex_wait(&mover->owner_sleeps, 1, UINT64_MAX);
    atomic_store(&mover->owner_sleeps, 0);
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

bool mover_destroy(Mover *mover) {
    if (!mover) return true;
    atomic_store(&mover->stop, true);
    wake(&mover->thread_sleeps);
    pthread_join(mover->thread, NULL);
    bool quiet = mover->closed_quietly;
    give_memory(mover);
    return quiet;
}

Status mover_submit(Mover *mover, const MoverJob *job) {
    if (mover->outstanding == mover->options.transfers_max) return STATUS_AGAIN;
    mover->jobs[mover->job_end++ & (mover->capacity - 1)] = *job;
    mover->outstanding++;
    return STATUS_OK;
}

void mover_flush(Mover *mover) {
    if (atomic_load_explicit(&mover->job_queue.tail, memory_order_relaxed) == mover->job_end)
        return;
    atomic_store(&mover->job_queue.tail, mover->job_end);
    wake(&mover->thread_sleeps);
}

static void sleep_until_done(Mover *mover, uint64_t wait_ns) {
    atomic_store(&mover->owner_sleeps, 1);
    if (!done_wait(mover)) futex_wait(&mover->owner_sleeps, 1, wait_ns);
    atomic_store(&mover->owner_sleeps, 0);
}

uint32_t mover_collect(Mover *mover, MoverDone *out, uint32_t count_max, uint64_t wait_ns) {
    mover_flush(mover);
    if (wait_ns > 0 && mover->outstanding > 0 && !done_wait(mover))
        sleep_until_done(mover, wait_ns);
    uint32_t head = atomic_load_explicit(&mover->done_queue.head, memory_order_relaxed), count = 0;
    while (count < count_max && head != atomic_load(&mover->done_queue.tail)) {
        out[count] = mover->done[head++ & (mover->capacity - 1)];
        mover->outstanding -= out[count++].result != TRANSFER_LATE;
    }
    atomic_store(&mover->done_queue.head, head);
    return count;
}

/* Again when the thread may have begun to write what was read. */
MoverStats mover_stats(const Mover *mover) {
    const PublishedStats *published = &mover->published;
    MoverStats stats;
    uint64_t words[STATS_WORDS], count;
    do {
        count = atomic_load(&published->count);
        for (uint32_t i = 0; i < STATS_WORDS; i++)
            words[i] = atomic_load_explicit(&published->words[count & 1][i], memory_order_acquire);
    } while (atomic_load(&published->count) != count);
    memcpy(&stats, words, sizeof stats);
    return stats;
}

const RingFacts *mover_ring_facts(const Mover *mover) {
    return mover->ring || mover->facts.engine ? &mover->facts : NULL;
}
