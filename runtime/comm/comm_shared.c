#include "runtime/comm/comm_shared.h"

#include <linux/futex.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/base/arena.h"
#include "runtime/base/bytes.h"
#include "runtime/base/invariant.h"
#include "runtime/base/monotonic.h"

/* How a wait goes on: poll, then sleep until woken. With a core to ourselves, polling for long pays: a wake-up costs
 * tens of microseconds. When others want the core, it is ruin: polling uses up the time slice, and the core is gone
 * for milliseconds just when the peer is ready. So polls yield the core, and only briefly, when this process has more
 * threads than cores or has just lost its core in the middle of polling, which a turn that takes far too long tells. */
enum { POLLS_A_TURN = 64, LOST_CORE_NS = 500000, CONTENDED_NS = 1000000000 };
enum { POLL_NS_MAX = 2000000, POLL_YIELDING_NS_MAX = 50000 };

/* From this many ranks on a reduction is cut into slices, one a rank to add up: all ranks reading everything
 * would read size × bytes each, slices read 2 × bytes. The sums are the same bits. */
enum { SLICED_SIZE_MIN = 4, SLICED_COUNT_MIN = 4096 };

enum { CHUNK_FLOATS = COMM_SHARED_CHUNK_BYTES / sizeof(float) };

/* One a rank, written by it alone but for `sleepers`. Two lines: the neighbour line is fetched along. */
typedef struct RankFlag {
    _Alignas(128) atomic_uint published; /* steps published; wraps */
    atomic_uint sleepers;                /* readers that want a wake-up */
} RankFlag;

typedef struct Shared {
    RankFlag *flags;             /* [size] */
    uint8_t *slots;              /* [size][COMM_SHARED_DEPTH][COMM_SHARED_CHUNK_BYTES] */
    uint32_t step;               /* the next to publish */
    uint64_t contended_until_ns; /* others want our core */
    void (*release)(void *context);
    void *context;
} Shared;

uint64_t comm_shared_region_bytes(int size) {
    return (uint64_t)size *
           (sizeof(RankFlag) + (uint64_t)COMM_SHARED_DEPTH * COMM_SHARED_CHUNK_BYTES);
}

static uint8_t *slot_of(const Shared *shared, int rank, uint32_t step) {
    uint64_t index = (uint64_t)rank * COMM_SHARED_DEPTH + step % COMM_SHARED_DEPTH;
    return shared->slots + index * COMM_SHARED_CHUNK_BYTES;
}

static bool has_published(const RankFlag *flag, uint32_t step) {
    uint32_t published = atomic_load_explicit(&flag->published, memory_order_acquire);
    return (int32_t)(published - step) > 0;
}

/* The flag is in memory that processes share, so the futex is not a private one. */
static void sleep_until_published(RankFlag *flag, uint32_t step) {
    atomic_fetch_add(&flag->sleepers, 1);
    for (;;) {
        uint32_t seen = atomic_load(&flag->published);
        if ((int32_t)(seen - step) > 0) break;
        syscall(SYS_futex, &flag->published, FUTEX_WAIT, seen, NULL, NULL, 0);
    }
    atomic_fetch_sub(&flag->sleepers, 1);
}

static bool poll_a_turn(const RankFlag *flag, uint32_t step, bool yielding) {
    for (int poll = 0; poll < POLLS_A_TURN; poll++) {
        if (has_published(flag, step)) return true;
        if (yielding)
            sched_yield();
        else
            __builtin_ia32_pause();
    }
    return false;
}

static void wait_long(const Comm *comm, RankFlag *flag, uint32_t step) {
    Shared *shared = comm->state;
    uint64_t begin_ns = monotonic_now_ns(&monotonic_system), now_ns = begin_ns;
    bool yielding = comm->crowded || begin_ns < shared->contended_until_ns;
    while (now_ns - begin_ns < (yielding ? POLL_YIELDING_NS_MAX : POLL_NS_MAX)) {
        uint64_t turn_ns = now_ns;
        bool published = poll_a_turn(flag, step, yielding);
        now_ns = monotonic_now_ns(&monotonic_system);
        if (!yielding && now_ns - turn_ns > LOST_CORE_NS) {
            shared->contended_until_ns = now_ns + CONTENDED_NS;
            yielding = true;
        }
        if (published) return;
    }
    sleep_until_published(flag, step);
}

static void wait_for(const Comm *comm, int rank, uint32_t step) {
    const Shared *shared = comm->state;
    RankFlag *flag = &shared->flags[rank];
    if (!has_published(flag, step)) wait_long(comm, flag, step);
}

static void wait_for_all(const Comm *comm, uint32_t step) {
    for (int rank = 0; rank < comm->size; rank++)
        wait_for(comm, rank, step);
}

/* Own slot of the next step, once nobody reads what it held. */
static uint8_t *slot_to_fill(const Comm *comm) {
    const Shared *shared = comm->state;
    if (shared->step >= 2) wait_for_all(comm, shared->step - 2);
    return slot_of(shared, comm->rank, shared->step);
}

static void publish(const Comm *comm) {
    Shared *shared = comm->state;
    RankFlag *flag = &shared->flags[comm->rank];
    shared->step++;
    /* Sequentially consistent, as the sleeper's two accesses are: either it sees the new number or we see it. */
    atomic_store(&flag->published, shared->step);
    if (atomic_load(&flag->sleepers) > 0)
        syscall(SYS_futex, &flag->published, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

static void publish_bytes(const Comm *comm, const void *bytes, uint64_t size) {
    uint8_t *slot = slot_to_fill(comm);
    if (size) memcpy(slot, bytes, size);
    publish(comm);
}

/* out[i] = slot 0 + slot 1 + …, left to right */
static void add_slots(const Comm *comm, uint32_t step, uint64_t offset, uint64_t count,
                      float *out) {
    const Shared *shared = comm->state;
    const float *first = (const float *)slot_of(shared, 0, step) + offset;
    const float *second = (const float *)slot_of(shared, 1, step) + offset;
    for (uint64_t i = 0; i < count; i++)
        out[i] = first[i] + second[i];
    for (int rank = 2; rank < comm->size; rank++) {
        const float *next = (const float *)slot_of(shared, rank, step) + offset;
        for (uint64_t i = 0; i < count; i++)
            out[i] += next[i];
    }
}

static uint64_t chunk_length(uint64_t total, uint64_t begin, uint64_t chunk) {
    return total - begin < chunk ? total - begin : chunk;
}

/* Everybody adds up everything. */
static void all_reduce_whole(const Comm *comm, float *data, uint64_t count) {
    const Shared *shared = comm->state;
    uint32_t step = shared->step;
    publish_bytes(comm, data, chunk_length(count, 0, CHUNK_FLOATS) * sizeof *data);
    for (uint64_t begin = 0; begin < count; begin += CHUNK_FLOATS, step++) {
        uint64_t next = begin + CHUNK_FLOATS;
        if (next < count)
            publish_bytes(comm, data + next,
                          chunk_length(count, next, CHUNK_FLOATS) * sizeof *data);
        wait_for_all(comm, step);
        add_slots(comm, step, 0, chunk_length(count, begin, CHUNK_FLOATS), data + begin);
    }
}

static uint64_t slice_begin(const Comm *comm, int rank, uint64_t count) {
    return count * (uint64_t)rank / (uint64_t)comm->size;
}

/* Every rank adds up one slice of a chunk and publishes the sum. */
static void reduce_chunk_sliced(const Comm *comm, float *data, uint64_t count) {
    const Shared *shared = comm->state;
    uint32_t step = shared->step;
    publish_bytes(comm, data, count * sizeof *data);
    wait_for_all(comm, step);
    uint64_t own_begin = slice_begin(comm, comm->rank, count);
    uint64_t own_count = slice_begin(comm, comm->rank + 1, count) - own_begin;
    add_slots(comm, step, own_begin, own_count, data + own_begin);
    publish_bytes(comm, data + own_begin, own_count * sizeof *data);
    wait_for_all(comm, step + 1);
    for (int rank = 0; rank < comm->size; rank++) {
        uint64_t begin = slice_begin(comm, rank, count);
        uint64_t length = slice_begin(comm, rank + 1, count) - begin;
        memcpy(data + begin, slot_of(shared, rank, step + 1), length * sizeof *data);
    }
}

static Status shared_all_reduce(Comm *comm, float *data, uint64_t count) {
    if (comm->size == 1) return STATUS_OK;
    if (comm->size < SLICED_SIZE_MIN || count < SLICED_COUNT_MIN) {
        all_reduce_whole(comm, data, count);
        return STATUS_OK;
    }
    for (uint64_t begin = 0; begin < count; begin += CHUNK_FLOATS)
        reduce_chunk_sliced(comm, data + begin, chunk_length(count, begin, CHUNK_FLOATS));
    return STATUS_OK;
}

static uint64_t longest(const Comm *comm, const uint64_t *part_bytes) {
    uint64_t longest_bytes = 0;
    for (int rank = 0; rank < comm->size; rank++)
        if (part_bytes[rank] > longest_bytes) longest_bytes = part_bytes[rank];
    return longest_bytes;
}

/* The bytes of [begin, begin + chunk) that a part of `total` bytes has. */
static uint64_t bytes_in_chunk(uint64_t total, uint64_t begin) {
    return begin < total ? chunk_length(total, begin, COMM_SHARED_CHUNK_BYTES) : 0;
}

static void copy_chunk_of_all(const Comm *comm, uint32_t step, uint64_t begin,
                              const uint64_t *part_bytes, uint8_t *receive) {
    for (int rank = 0; rank < comm->size; rank++) {
        uint64_t bytes = bytes_in_chunk(part_bytes[rank], begin);
        wait_for(comm, rank, step);
        if (bytes) memcpy(receive + begin, slot_of(comm->state, rank, step), bytes);
        receive += part_bytes[rank];
    }
}

/* receive is NULL on ranks that only send. */
static Status gather_parts(const Comm *comm, const uint8_t *send, uint8_t *receive,
                           const uint64_t *part_bytes) {
    const Shared *shared = comm->state;
    uint64_t end = longest(comm, part_bytes);
    for (uint64_t begin = 0; begin < end; begin += COMM_SHARED_CHUNK_BYTES) {
        uint32_t step = shared->step;
        uint64_t bytes = bytes_in_chunk(part_bytes[comm->rank], begin);
        publish_bytes(comm, bytes ? send + begin : NULL, bytes);
        if (receive) copy_chunk_of_all(comm, step, begin, part_bytes, receive);
    }
    return STATUS_OK;
}

static Status shared_all_gather(Comm *comm, const void *send, void *receive,
                                const uint64_t *part_bytes) {
    return gather_parts(comm, send, receive, part_bytes);
}

static Status shared_gather(Comm *comm, int root, const void *send, void *receive,
                            const uint64_t *part_bytes) {
    return gather_parts(comm, send, comm->rank == root ? receive : NULL, part_bytes);
}

static Status shared_broadcast(Comm *comm, int root, void *data, uint64_t bytes) {
    const Shared *shared = comm->state;
    uint8_t *at = data;
    for (uint64_t begin = 0; begin < bytes; begin += COMM_SHARED_CHUNK_BYTES) {
        uint64_t length = chunk_length(bytes, begin, COMM_SHARED_CHUNK_BYTES);
        if (comm->rank == root) {
            publish_bytes(comm, at + begin, length);
            continue;
        }
        wait_for(comm, root, shared->step);
        memcpy(at + begin, slot_of(shared, root, shared->step), length);
        publish(comm);
    }
    return STATUS_OK;
}

static Status shared_barrier(Comm *comm) {
    const Shared *shared = comm->state;
    uint32_t step = shared->step;
    publish(comm);
    wait_for_all(comm, step);
    return STATUS_OK;
}

static void shared_destroy(Comm *comm) {
    Shared *shared = comm->state;
    if (shared->release) shared->release(shared->context);
    free(shared);
    free(comm);
}

static const CommRow comm_shared = {
    .name = "shared",
    .all_reduce = shared_all_reduce,
    .all_gather = shared_all_gather,
    .gather = shared_gather,
    .broadcast = shared_broadcast,
    .barrier = shared_barrier,
    .destroy = shared_destroy,
};

Status comm_shared_create(Comm **out, const CommSharedOptions *options) {
    CHECK(options->rank >= 0 && options->rank < options->size);
    void *comm_memory, *shared_memory;
    TRY(memory_take(&comm_memory, 1, sizeof(Comm), "communicator"));
    Status status = memory_take(&shared_memory, 1, sizeof(Shared), "communicator");
    if (status != STATUS_OK) {
        free(comm_memory);
        return status;
    }
    Shared *shared = shared_memory;
    shared->flags = options->region;
    shared->slots = (uint8_t *)(shared->flags + options->size);
    shared->release = options->release;
    shared->context = options->context;
    Comm *comm = comm_memory;
    *comm = (Comm){.row = &comm_shared,
                   .rank = options->rank,
                   .size = options->size,
                   .local_rank = options->rank,
                   .local_size = options->size,
                   .state = shared};
    *out = comm;
    return STATUS_OK;
}
