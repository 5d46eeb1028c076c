#include "tiers/ring.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/base/bytes.h"
#include "runtime/base/invariant.h"
#include "runtime/base/monotonic.h"
#include "tiers/ring_engine.h"

enum {
    NOWHERE = UINT32_MAX,
    READS_PER_WRITE = 7, /* in a row while a write waits */
    RETRIES_MAX = 16,    /* of one operation: about 1.5 s of EAGAIN */
    PAUSE_NS_MIN = 1000000,
    PAUSE_NS_MAX = 128000000,
    CLOSE_NS = 500000000, /* before what is in flight is cancelled, and once more after that */
};

typedef enum SlotState {
    SLOT_FREE,
    SLOT_QUEUED,
    SLOT_PAUSED,    /* queued again at due_ns */
    SLOT_IN_FLIGHT, /* the engine has its memory */
    SLOT_SWALLOWED, /* an injected fault: never completes */
    SLOT_STUCK,     /* an injected fault: paused, but like one that the kernel has */
    SLOT_DONE,      /* its result waits to be reaped */
} SlotState;

typedef struct Slot {
    RingOperation operation;
    SlotState state;
    uint32_t next;           /* of the list that it is in */
    uint32_t moved_bytes;    /* so far; aligned as the file asks */
    uint32_t transfer_bytes; /* of the transfer in flight */
    uint32_t retries;
    uint64_t due_ns;
    bool fault_drawn; /* for the transfer to come */
    IoFault fault;
    RingError error;
    int os_error;
} Slot;

typedef struct SlotList {
    uint32_t first, last, count;
} SlotList;

struct Ring {
    const RingEngine *engine;
    RingEngineState *state;
    RingFile files[RING_FILES_MAX];
    uint32_t file_count;
    IoFaultPlan *faults;
    RingFacts facts;
    RingStats stats;

    Slot *slots; /* [slot_count] */
    uint32_t slot_count;
    SlotList free, queued[RING_KIND_COUNT], paused, done;
    uint32_t reads_in_row;
    uint32_t stuck_count; /* of those paused */

    RingTransfer *batch; /* [depth] */
    uint32_t batch_count;
    RingCompletion *completions; /* [depth] */
    bool engine_holds_back;      /* the engine took transfers that the kernel did not take yet */
    uint64_t submit_due_ns, submit_pause_ns;
};

static const RingEngine *const engines[] = {&ring_uring, &ring_threads};

enum { ENGINE_COUNT = sizeof engines / sizeof *engines };

/* ---- lists of slots ---- */

static const SlotList empty_list = {NOWHERE, NOWHERE, 0};

static void push_back(Ring *ring, SlotList *list, uint32_t index) {
    ring->slots[index].next = NOWHERE;
    if (list->count++ == 0)
        list->first = index;
    else
        ring->slots[list->last].next = index;
    list->last = index;
}

static void push_front(Ring *ring, SlotList *list, uint32_t index) {
    ring->slots[index].next = list->first;
    if (list->count++ == 0) list->last = index;
    list->first = index;
}

static uint32_t pop_front(Ring *ring, SlotList *list) {
    uint32_t index = list->first;
    CHECK(list->count > 0);
    list->first = ring->slots[index].next;
    if (--list->count == 0) *list = empty_list;
    return index;
}

/* ---- results ---- */

const char *ring_error_name(RingError error) {
    static const char *const names[RING_ERROR_COUNT] = {"none",    "short", "no space", "read only",
                                                        "refused", "io",    "cancelled"};
    CHECK((unsigned)error < RING_ERROR_COUNT);
    return names[error];
}

static RingError classify(int os_error) {
    static const struct {
        int os_error;
        RingError error;
    } rows[] = {
        {ENOSPC, RING_ERROR_NO_SPACE},     {EDQUOT, RING_ERROR_NO_SPACE},
        {EFBIG, RING_ERROR_NO_SPACE},      {EROFS, RING_ERROR_READ_ONLY},
        {EINVAL, RING_ERROR_REFUSED},      {EOPNOTSUPP, RING_ERROR_REFUSED},
        {ECANCELED, RING_ERROR_CANCELLED},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].os_error == os_error) return rows[i].error;
    return RING_ERROR_IO;
}

static void finish(Ring *ring, uint32_t index, RingError error, int os_error) {
    Slot *slot = &ring->slots[index];
    RingKind kind = slot->operation.kind;
    slot->state = SLOT_DONE;
    slot->error = error;
    slot->os_error = os_error;
    push_back(ring, &ring->done, index);
    ring->stats.errors[error]++;
    if (error != RING_ERROR_NONE) return;
    ring->stats.operations[kind]++;
    ring->stats.bytes[kind] += slot->operation.bytes;
}

/* ---- transfers ---- */

/* 0 for the first, then doubling; a run of refusals costs no more than a thousand tries a second. */
static uint64_t pause_for(uint32_t tries) {
    uint64_t pause = PAUSE_NS_MIN;
    for (uint32_t i = 1; i < tries && pause < PAUSE_NS_MAX; i++)
        pause *= 2;
    return pause;
}

static void requeue(Ring *ring, uint32_t index) {
    Slot *slot = &ring->slots[index];
    slot->state = SLOT_QUEUED;
    slot->fault_drawn = false;
    push_front(ring, &ring->queued[slot->operation.kind], index);
}

static void pause_slot(Ring *ring, uint32_t index, uint64_t pause_ns) {
    ring->slots[index].state = SLOT_PAUSED;
    ring->slots[index].due_ns = monotonic_now_ns(&monotonic_system) + pause_ns;
    push_back(ring, &ring->paused, index);
}

static void fail_transfer(Ring *ring, uint32_t index, int os_error) {
    Slot *slot = &ring->slots[index];
    bool again = os_error == EINTR || os_error == EAGAIN;
    if (!again || slot->retries >= RETRIES_MAX) {
        finish(ring, index, classify(os_error), os_error);
        return;
    }
    ring->stats.retried++;
    slot->retries++;
    slot->fault_drawn = false;
    pause_slot(ring, index, os_error == EINTR ? 0 : pause_for(slot->retries));
}

static void flip_bit(const Slot *slot) {
    uint64_t bit = slot->fault.draw % ((uint64_t)slot->operation.bytes * 8);
    ((uint8_t *)slot->operation.memory)[bit / 8] ^= (uint8_t)(1u << bit % 8);
}

/* Torn: half was moved, and all is said to be. */
static bool pretends(const Slot *slot) {
    return slot->fault.kind == IO_FAULT_TORN;
}

/* The engine moved `result` bytes of a transfer, or failed with -result. */
static void complete(Ring *ring, uint32_t index, int32_t result) {
    Slot *slot = &ring->slots[index];
    CHECK(index < ring->slot_count && slot->state == SLOT_IN_FLIGHT);
    ring->stats.in_flight--;
    if (result < 0) {
        fail_transfer(ring, index, -result);
        return;
    }
    uint32_t before = slot->moved_bytes;
    CHECK((uint32_t)result <= slot->transfer_bytes);
    slot->moved_bytes += (uint32_t)result;
    if (pretends(slot)) slot->moved_bytes = slot->operation.bytes;
    if (slot->moved_bytes == slot->operation.bytes) {
        if (slot->fault.kind == IO_FAULT_FLIP) flip_bit(slot);
        finish(ring, index, RING_ERROR_NONE, 0);
        return;
    }
    uint32_t alignment = ring->files[slot->operation.file].alignment_bytes;
    uint32_t aligned = slot->moved_bytes & ~(alignment - 1);
    if (aligned <= before) { /* no whole unit: the file ends here */
        finish(ring, index, RING_ERROR_SHORT, 0);
        return;
    }
    slot->moved_bytes = aligned;
    ring->stats.resubmitted++;
    requeue(ring, index);
}

static void get_stuck(Ring *ring, uint32_t index) {
    uint64_t delay_ns = ring->slots[index].fault.delay_ns;
    pause_slot(ring, index, delay_ns);
    ring->slots[index].state = SLOT_STUCK;
    if (delay_ns == 0) ring->slots[index].due_ns = UINT64_MAX;
    ring->stuck_count++;
}

static uint32_t aligned_part(const Ring *ring, const Slot *slot, uint32_t bytes) {
    return bytes & ~(ring->files[slot->operation.file].alignment_bytes - 1);
}

/* Draws the fault of the transfer to come. False when it does not go to the engine now. */
static bool passes_faults(Ring *ring, uint32_t index) {
    static const IoFaultPoint points[RING_KIND_COUNT] = {IO_FAULT_READ, IO_FAULT_WRITE};
    Slot *slot = &ring->slots[index];
    if (slot->fault_drawn) return true;
    slot->fault = io_fault_next(ring->faults, points[slot->operation.kind]);
    slot->fault_drawn = true;
    switch (slot->fault.kind) {
    case IO_FAULT_ERROR: fail_transfer(ring, index, slot->fault.os_error); return false;
    case IO_FAULT_DELAY: pause_slot(ring, index, slot->fault.delay_ns); return false;
    case IO_FAULT_SWALLOW: slot->state = SLOT_SWALLOWED; return false;
    case IO_FAULT_STUCK: get_stuck(ring, index); return false;
    case IO_FAULT_STALE:
        slot->moved_bytes = slot->operation.bytes;
        finish(ring, index, RING_ERROR_NONE, 0);
        return false;
    default: return true;
    }
}

static RingTransfer transfer_of(const Ring *ring, uint32_t index) {
    const Slot *slot = &ring->slots[index];
    const RingOperation *operation = &slot->operation;
    RingTransfer transfer = {.kind = operation->kind,
                             .file = operation->file,
                             .memory = (uint8_t *)operation->memory + slot->moved_bytes,
                             .offset = operation->offset + slot->moved_bytes,
                             .bytes = operation->bytes - slot->moved_bytes,
                             .slot = index};
    uint32_t part = transfer.bytes;
    if (slot->fault.kind == IO_FAULT_TORN) part = aligned_part(ring, slot, transfer.bytes / 2);
    if (slot->fault.kind == IO_FAULT_SHORT)
        part = aligned_part(ring, slot, (uint32_t)(1 + slot->fault.draw % transfer.bytes));
    if (part > 0) transfer.bytes = part;
    if (slot->fault.kind == IO_FAULT_MISDIRECTED)
        transfer.offset = transfer.offset >= transfer.bytes ? transfer.offset - transfer.bytes
                                                            : transfer.offset + transfer.bytes;
    return transfer;
}

/* ---- handing over ---- */

static uint32_t pop_next(Ring *ring) {
    SlotList *reads = &ring->queued[RING_READ], *writes = &ring->queued[RING_WRITE];
    bool write = writes->count > 0 && (reads->count == 0 || ring->reads_in_row >= READS_PER_WRITE);
    if (!write && reads->count == 0) return NOWHERE;
    ring->reads_in_row = write ? 0 : ring->reads_in_row + 1;
    return pop_front(ring, write ? writes : reads);
}

static void wake_paused(Ring *ring) {
    uint32_t count = ring->paused.count;
    if (count == 0) return;
    uint64_t now = monotonic_now_ns(&monotonic_system);
    while (count-- > 0) {
        uint32_t index = pop_front(ring, &ring->paused);
        Slot *slot = &ring->slots[index];
        if (slot->due_ns > now) {
            push_back(ring, &ring->paused, index);
            continue;
        }
        ring->stuck_count -= slot->state == SLOT_STUCK;
        slot->state = SLOT_QUEUED;
        push_front(ring, &ring->queued[slot->operation.kind], index);
    }
}

/* As they lie in the files: the block layer makes one request only of transfers that follow each other. */
static bool lies_before(const RingTransfer *a, const RingTransfer *b) {
    if (a->kind != b->kind) return a->kind < b->kind;
    return a->file != b->file ? a->file < b->file : a->offset < b->offset;
}

/* Among those that are there: they are mostly in order, and few. */
static void add_to_batch(Ring *ring, RingTransfer transfer) {
    uint32_t place = ring->batch_count++;
    for (; place > 0 && lies_before(&transfer, &ring->batch[place - 1]); place--)
        ring->batch[place] = ring->batch[place - 1];
    ring->batch[place] = transfer;
}

static void fill_batch(Ring *ring) {
    ring->batch_count = 0;
    while (ring->stats.in_flight + ring->stuck_count + ring->batch_count < ring->facts.depth) {
        uint32_t index = pop_next(ring);
        if (index == NOWHERE) return;
        if (passes_faults(ring, index)) add_to_batch(ring, transfer_of(ring, index));
    }
}

/* What the engine did not take goes back to the head of its queue. */
static void settle_batch(Ring *ring, uint32_t taken) {
    CHECK(taken <= ring->batch_count);
    for (uint32_t i = ring->batch_count; i-- > taken;)
        push_front(ring, &ring->queued[ring->batch[i].kind], ring->batch[i].slot);
    for (uint32_t i = 0; i < taken; i++) {
        Slot *slot = &ring->slots[ring->batch[i].slot];
        slot->state = SLOT_IN_FLIGHT;
        slot->transfer_bytes = ring->batch[i].bytes;
    }
    ring->stats.in_flight += taken;
    if (ring->stats.in_flight > ring->stats.in_flight_peak)
        ring->stats.in_flight_peak = ring->stats.in_flight;
}

static int submit_batch(Ring *ring, uint32_t *out_taken) {
    IoFault fault = io_fault_next(ring->faults, IO_FAULT_SUBMIT);
    *out_taken = 0;
    if (fault.kind == IO_FAULT_ERROR) return -fault.os_error;
    return ring->engine->submit(ring->state, ring->batch, ring->batch_count, out_taken);
}

void ring_flush(Ring *ring) {
    wake_paused(ring);
    if (ring->submit_due_ns > 0 && monotonic_now_ns(&monotonic_system) < ring->submit_due_ns)
        return;
    fill_batch(ring);
    if (ring->batch_count == 0 && !ring->engine_holds_back) return;
    uint32_t taken;
    int failed = submit_batch(ring, &taken);
    settle_batch(ring, taken);
    ring->engine_holds_back = failed != 0;
    ring->submit_due_ns = 0;
    if (!failed) {
        ring->submit_pause_ns = 0;
        return;
    }
    ring->stats.submit_retries++;
    ring->submit_pause_ns = ring->submit_pause_ns == 0              ? PAUSE_NS_MIN
                            : ring->submit_pause_ns >= PAUSE_NS_MAX ? PAUSE_NS_MAX
                                                                    : ring->submit_pause_ns * 2;
    ring->submit_due_ns = monotonic_now_ns(&monotonic_system) + ring->submit_pause_ns;
}

/* ---- the owner's calls ---- */

static void check_operation(const Ring *ring, const RingOperation *operation) {
    CHECK((unsigned)operation->kind < RING_KIND_COUNT && operation->file < ring->file_count);
    uint32_t mask = ring->files[operation->file].alignment_bytes - 1;
    CHECK(operation->bytes > 0 && operation->bytes <= INT32_MAX);
    CHECK(((operation->bytes | operation->offset | (uintptr_t)operation->memory) & mask) == 0);
}

uint32_t ring_submit(Ring *ring, const RingOperation *operations, uint32_t count) {
    uint32_t taken = 0;
    while (taken < count && ring->free.count > 0) {
        uint32_t index = pop_front(ring, &ring->free);
        check_operation(ring, &operations[taken]);
        ring->slots[index] = (Slot){.operation = operations[taken], .state = SLOT_QUEUED};
        push_back(ring, &ring->queued[operations[taken].kind], index);
        ring->stats.held++;
        taken++;
    }
    return taken;
}

/* How long the engine may wait: until the deadline, or until something of ours is due. */
static uint64_t wait_until(const Ring *ring, uint64_t deadline_ns) {
    uint64_t due = deadline_ns, now = monotonic_now_ns(&monotonic_system);
    if (ring->submit_due_ns > 0 && ring->submit_due_ns < due) due = ring->submit_due_ns;
    for (uint32_t i = ring->paused.first; i != NOWHERE; i = ring->slots[i].next)
        if (ring->slots[i].due_ns < due) due = ring->slots[i].due_ns;
    return due > now ? due - now : 0;
}

static void collect(Ring *ring, uint64_t deadline_ns) {
    uint64_t wait = ring->done.count > 0 || deadline_ns == 0 ? 0 : wait_until(ring, deadline_ns);
    uint32_t count = ring->engine->reap(ring->state, ring->completions, ring->facts.depth, wait);
    for (uint32_t i = 0; i < count; i++)
        complete(ring, ring->completions[i].slot, ring->completions[i].result);
}

static uint32_t take_results(Ring *ring, RingResult *out_results, uint32_t result_max) {
    uint32_t count = 0;
    while (count < result_max && ring->done.count > 0) {
        uint32_t index = pop_front(ring, &ring->done);
        Slot *slot = &ring->slots[index];
        out_results[count++] = (RingResult){.user = slot->operation.user,
                                            .error = slot->error,
                                            .os_error = slot->os_error,
                                            .bytes = slot->moved_bytes};
        slot->state = SLOT_FREE;
        push_front(ring, &ring->free, index);
        ring->stats.held--;
    }
    return count;
}

uint32_t ring_reap(Ring *ring, RingResult *out_results, uint32_t result_max, uint64_t wait_ns) {
    uint64_t deadline = 0;
    if (ring->stats.held == 0) return 0;
    if (wait_ns > 0 && !bytes_add(monotonic_now_ns(&monotonic_system), wait_ns, &deadline))
        deadline = UINT64_MAX;
    do {
        ring_flush(ring);
        collect(ring, deadline);
    } while (ring->done.count == 0 && ring->stats.held > 0 && deadline > 0 &&
             monotonic_now_ns(&monotonic_system) < deadline);
    ring_flush(ring); /* the kernel works on while the caller does */
    return take_results(ring, out_results, result_max);
}

static uint32_t cancel_in(Ring *ring, SlotList *list, uint64_t user) {
    uint32_t cancelled = 0;
    for (uint32_t left = list->count; left > 0; left--) {
        uint32_t index = pop_front(ring, list);
        const Slot *slot = &ring->slots[index];
        if (slot->operation.user == user && slot->state != SLOT_STUCK) {
            finish(ring, index, RING_ERROR_CANCELLED, ECANCELED);
            cancelled++;
        } else {
            push_back(ring, list, index);
        }
    }
    return cancelled;
}

uint32_t ring_cancel(Ring *ring, uint64_t user) {
    uint32_t cancelled = cancel_in(ring, &ring->paused, user);
    for (uint32_t kind = 0; kind < RING_KIND_COUNT; kind++)
        cancelled += cancel_in(ring, &ring->queued[kind], user);
    for (uint32_t i = 0; i < ring->slot_count; i++) {
        const Slot *slot = &ring->slots[i];
        if (slot->operation.user != user) continue;
        if (slot->state == SLOT_IN_FLIGHT) ring->engine->cancel(ring->state, i);
        if (slot->state != SLOT_SWALLOWED) continue;
        finish(ring, i, RING_ERROR_CANCELLED, ECANCELED);
        cancelled++;
    }
    return cancelled;
}

const RingFacts *ring_facts(const Ring *ring) {
    return &ring->facts;
}

RingStats ring_stats(const Ring *ring) {
    return ring->stats;
}

/* ---- opening and closing ---- */

static void check_options(const RingOptions *options) {
    CHECK(options->file_count > 0 && options->file_count <= RING_FILES_MAX);
    CHECK(options->depth > 0 && options->depth <= RING_DEPTH_MAX);
    CHECK(options->queue_count >= options->depth && options->queue_count <= RING_QUEUE_MAX);
    for (uint32_t i = 0; i < options->file_count; i++)
        CHECK(is_power_of_two(options->files[i].alignment_bytes));
}

static int open_engine(Ring *ring, const RingEngine *engine, const RingOptions *options, char *why,
                       size_t why_bytes) {
    IoFault fault = io_fault_next(options->faults, IO_FAULT_SETUP);
    if (fault.kind == IO_FAULT_ERROR) {
        snprintf(why, why_bytes, "%s: %s", engine->name, strerror(fault.os_error));
        return -fault.os_error;
    }
    int failed = engine->open(&ring->state, options, &ring->facts, why, why_bytes);
    if (failed) return failed;
    ring->engine = engine;
    ring->facts.engine = engine->name;
    return 0;
}

/* The rows in order: "auto" goes on where one does not work. */
static Status choose_engine(Ring *ring, const RingOptions *options) {
    bool any = strcmp(options->engine, "auto") == 0, known = any;
    for (size_t i = 0; i < ENGINE_COUNT; i++) {
        char why[sizeof ring->facts.fallback_reason] = "";
        if (!any && strcmp(options->engine, engines[i]->name) != 0) continue;
        known = true;
        if (open_engine(ring, engines[i], options, why, sizeof why) == 0) return STATUS_OK;
        if (!any) FAIL(IO_ENGINE, "--io %s: %s; --io auto takes what works", options->engine, why);
        memcpy(ring->facts.fallback_reason, why, sizeof why);
    }
    if (!known) FAIL(USAGE, "--io %.40s: there are auto, uring and threads", options->engine);
    FAIL(IO_ENGINE, "no way to read and write works here; the last said: %s",
         ring->facts.fallback_reason);
}

static void free_ring(Ring *ring) {
    free(ring->completions);
    free(ring->batch);
    free(ring->slots);
    free(ring);
}

static Status take_memory(Ring *ring, const RingOptions *options) {
    TRY(memory_take((void **)&ring->slots, options->queue_count, sizeof *ring->slots,
                    "operations of the I/O ring"));
    TRY(memory_take((void **)&ring->batch, options->depth, sizeof *ring->batch,
                    "transfers of the I/O ring"));
    return memory_take((void **)&ring->completions, options->depth, sizeof *ring->completions,
                       "completions of the I/O ring");
}

static void fill_ring(Ring *ring, const RingOptions *options) {
    memcpy(ring->files, options->files, options->file_count * sizeof *options->files);
    ring->file_count = options->file_count;
    ring->faults = options->faults;
    ring->facts.depth = options->depth;
    ring->facts.staging_bytes = options->staging ? options->staging_bytes : 0;
    ring->slot_count = options->queue_count;
    ring->free = ring->paused = ring->done = empty_list;
    for (uint32_t kind = 0; kind < RING_KIND_COUNT; kind++)
        ring->queued[kind] = empty_list;
    for (uint32_t i = 0; i < ring->slot_count; i++)
        push_back(ring, &ring->free, i);
}

uint32_t ring_depth_auto(uint64_t transfer_bytes) {
    enum { LEAST = 32, MOST = 128, BYTES_WANTED = 8 << 20 };
    uint64_t depth = BYTES_WANTED / transfer_bytes;
    if (depth < LEAST) return LEAST;
    return depth < MOST ? (uint32_t)depth : MOST;
}

Status ring_open(Ring **out, const RingOptions *options) {
    Ring *ring;
    check_options(options);
    TRY(memory_take((void **)&ring, 1, sizeof *ring, "I/O ring"));
    Status status = take_memory(ring, options);
    if (status == STATUS_OK) {
        fill_ring(ring, options);
        status = choose_engine(ring, options);
    }
    if (status != STATUS_OK) {
        free_ring(ring);
        return status;
    }
    *out = ring;
    return STATUS_OK;
}

static void cancel_in_flight(Ring *ring) {
    for (uint32_t i = 0; i < ring->slot_count; i++)
        if (ring->slots[i].state == SLOT_IN_FLIGHT) ring->engine->cancel(ring->state, i);
}

/* What an injected fault holds ends as if the kernel had let it go. */
static void end_stuck(Ring *ring) {
    uint64_t now = monotonic_now_ns(&monotonic_system);
    for (uint32_t i = ring->paused.first; i != NOWHERE; i = ring->slots[i].next) {
        if (ring->slots[i].state != SLOT_STUCK || ring->slots[i].due_ns > now) continue;
        ring->slots[i].state = SLOT_DONE;
        ring->stuck_count--;
    }
}

/* Nothing new is handed over, but what the engine holds back must still reach the kernel to come back. */
static void wait_for_kernel(Ring *ring, uint64_t wait_ns) {
    uint64_t deadline_ns = monotonic_now_ns(&monotonic_system) + wait_ns;
    while (ring->stats.in_flight + ring->stuck_count > 0 &&
           monotonic_now_ns(&monotonic_system) < deadline_ns) {
        uint32_t taken;
        if (ring->engine_holds_back)
            ring->engine_holds_back = ring->engine->submit(ring->state, NULL, 0, &taken) != 0;
        uint32_t count =
            ring->engine->reap(ring->state, ring->completions, ring->facts.depth, PAUSE_NS_MAX);
        for (uint32_t i = 0; i < count; i++)
            ring->slots[ring->completions[i].slot].state = SLOT_DONE;
        ring->stats.in_flight -= count;
        end_stuck(ring);
    }
}

bool ring_close(Ring *ring) {
    if (!ring) return true;
    wait_for_kernel(ring, CLOSE_NS);
    if (ring->stats.in_flight > 0) cancel_in_flight(ring);
    wait_for_kernel(ring, CLOSE_NS);
    if (ring->stats.in_flight + ring->stuck_count > 0) return false;
    ring->engine->close(ring->state);
    free_ring(ring);
    return true;
}

bool ring_probe(uint32_t index, const char **out_name, char *out_text, uint32_t text_bytes) {
    if (index >= ENGINE_COUNT) return false;
    *out_name = engines[index]->name;
    if (engines[index]->probe(out_text, text_bytes) == 0) snprintf(out_text, text_bytes, "yes");
    return true;
}

void ring_describe(const RingFacts *facts, char *out_text, uint32_t text_bytes) {
    const double mebibyte = 1 << 20;
    char pool[64] = "", limit[64] = "";
    if (facts->thread_count > 0) snprintf(pool, sizeof pool, " (pool of %u)", facts->thread_count);
    if (facts->memlock_bytes == UINT64_MAX)
        snprintf(limit, sizeof limit, ", no memlock limit");
    else if (facts->memlock_bytes > 0)
        snprintf(limit, sizeof limit, ", memlock limit %.1f MiB",
                 (double)facts->memlock_bytes / mebibyte);
    snprintf(out_text, text_bytes,
             "%s%s, depth %u, files %sregistered, %.1f of %.1f MiB staging registered%s%s%s",
             facts->engine, pool, facts->depth, facts->files_registered ? "" : "not ",
             (double)facts->registered_bytes / mebibyte, (double)facts->staging_bytes / mebibyte,
             limit, facts->fallback_reason[0] ? "; " : "", facts->fallback_reason);
}
