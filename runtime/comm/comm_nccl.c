#include "runtime/comm/comm_nccl.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#include "runtime/base/arena.h"
#include "runtime/base/bytes.h"
#include "runtime/base/monotonic.h"
#include "runtime/comm/device_marks.h"

/* Bounds the memory for what peers send, as in comm_device.c. */
enum { PIECE_FLOATS = 1 << 20, PART_ALIGNMENT_FLOATS = 64 };

/* Of a sum in one piece: its input is ready, parts have come, they are added up, the slices of the others have come. */
enum { SUM_MARKS = 4 };

struct CommNccl {
    CommNcclOptions options;
    KernelContext context; /* the options', with the stream of the sums */
    pthread_mutex_t lock; /* of link, around the calls that use it; a group holds it over several */
    NcclComm *link;       /* NULL: not joined, or given up */
    bool ended_outside;   /* given up by comm_abort: whoever called it has told why */
    DeviceMarks marks;
    float *parts; /* [size][part_floats] a slice of every rank */
    uint64_t part_floats;
    uint64_t sums; /* begun */
    bool joins;    /* comm_abort would end it */
};

typedef struct Slice {
    uint64_t first, count;
} Slice;

/* What a failure is told of. */
typedef struct Call {
    const char *name;
    uint64_t sum; /* 0: of the start or the end */
} Call;

/* ---- errors */

/* Nobody else has it then. */
static NcclComm *take_link(CommNccl *nccl, bool outside) {
    pthread_mutex_lock(&nccl->lock);
    NcclComm *link = nccl->link;
    nccl->link = NULL;
    nccl->ended_outside |= outside && link;
    pthread_mutex_unlock(&nccl->lock);
    return link;
}

static void give_link_up(CommNccl *nccl, bool outside) {
    NcclComm *link = take_link(nccl, outside);
    if (link) (void)nccl->options.api->comm_abort(link);
}

static void abandon(CommNccl *nccl) {
    give_link_up(nccl, false);
}

/* CommAbort.run */
static void end_from_outside(void *user) {
    give_link_up(user, true);
}

/* "rank 1 on cuda:0: ncclGroupEnd in sum 17 over ranks" */
static void describe(const CommNccl *nccl, const Call *call, char *out, size_t out_bytes) {
    int used = snprintf(out, out_bytes, "rank %d on %s: %s", nccl->options.comm->rank,
                        nccl->options.device->name, call->name);
    if (call->sum > 0)
        snprintf(out + used, out_bytes - (size_t)used, " in sum %llu over ranks",
                 (unsigned long long)call->sum);
}

static Status break_off(CommNccl *nccl, const Call *call, int result) {
    const NcclApi *api = nccl->options.api;
    char place[160], cause[300];
    describe(nccl, call, place, sizeof place);
    pthread_mutex_lock(&nccl->lock);
    const char *more = nccl->link ? api->last_error(nccl->link) : "";
    snprintf(cause, sizeof cause, "%s%s%s", api->error_string(result), more[0] ? "; " : "", more);
    pthread_mutex_unlock(&nccl->lock);
    abandon(nccl);
    FAIL(COMM, "%s: %s%s", place, cause, call->sum == 0 ? " (--comm host does without)" : "");
}

/* Of two ranks it is clear which. */
static Status give_up(CommNccl *nccl, const Call *call) {
    const Comm *comm = nccl->options.comm;
    char place[160], who[32] = "another rank";
    if (comm->size == 2) snprintf(who, sizeof who, "rank %d", 1 - comm->rank);
    describe(nccl, call, place, sizeof place);
    abandon(nccl);
    FAIL(PEER_LOST, "%s: %s has not come within %g s (see --comm-timeout)", place, who,
         nccl->options.timeout_seconds);
}

/* Less than peers have, so that the rank whose device hangs speaks before those who wait for it. */
static double own_seconds_max(const CommNccl *nccl) {
    return nccl->options.timeout_seconds * 5 / 6;
}

/* The communicator stays: to end it may take for ever on a device that hangs, and whoever ends the process gives it a second. */
static Status give_device_up(const CommNccl *nccl, const DeviceMark *mark) {
    return device_fault_raise(DEVICE_FAULT_LOST, nccl->options.device->name,
                              "no progress for %g s %s sum %llu over ranks (see --comm-timeout)",
                              own_seconds_max(nccl), mark->where, (unsigned long long)mark->sum);
}

static Status refuse_unlinked(CommNccl *nccl) {
    char text[160];
    pthread_mutex_lock(&nccl->lock);
    bool outside = nccl->ended_outside;
    pthread_mutex_unlock(&nccl->lock);
    snprintf(text, sizeof text, "rank %d on %s: its communicator was given up",
             nccl->options.comm->rank, nccl->options.device->name);
    if (outside) return error_adopt(ERROR_PEER_LOST, text);
    FAIL(COMM, "%s", text);
}

static bool is_linked(CommNccl *nccl) {
    pthread_mutex_lock(&nccl->lock);
    bool linked = nccl->link != NULL;
    pthread_mutex_unlock(&nccl->lock);
    return linked;
}

static Status check_linked(CommNccl *nccl) {
    return is_linked(nccl) ? STATUS_OK : refuse_unlinked(nccl);
}

/* One look at the communicator during a wait; *out_through: it has nothing more to do on the host. */
static Status look(CommNccl *nccl, const Call *call, bool *out_through) {
    int state = NCCL_SUCCESS, result = NCCL_SUCCESS;
    pthread_mutex_lock(&nccl->lock);
    bool linked = nccl->link != NULL;
    if (linked) result = nccl->options.api->comm_async_error(nccl->link, &state);
    pthread_mutex_unlock(&nccl->lock);
    if (!linked) return refuse_unlinked(nccl);
    if (result == NCCL_SUCCESS) result = state;
    if (result != NCCL_SUCCESS && result != NCCL_IN_PROGRESS) return break_off(nccl, call, result);
    *out_through = result == NCCL_SUCCESS;
    return STATUS_OK;
}

static bool is_over(double start, double seconds_max) {
    return seconds_max > 0 && monotonic_seconds() - start > seconds_max;
}

/* What a call gave; waits for one that is in progress. */
static Status finish(CommNccl *nccl, const char *name, int result) {
    const Call call = {name, nccl->sums};
    if (result == NCCL_SUCCESS) return STATUS_OK;
    if (result != NCCL_IN_PROGRESS) return break_off(nccl, &call, result);
    double start = monotonic_seconds();
    for (;;) {
        bool through = false;
        TRY(look(nccl, &call, &through));
        if (through) return STATUS_OK;
        if (is_over(start, nccl->options.timeout_seconds)) return give_up(nccl, &call);
        sched_yield();
    }
}

/* ---- opening and closing */

/* Two ranks send each other all: the same bytes as by slices, in one round instead of two. */
static bool exchanges_whole(int rank_count) {
    return rank_count == 2;
}

static uint64_t part_floats(int rank_count) {
    uint64_t floats = exchanges_whole(rank_count) ? (uint64_t)PIECE_FLOATS
                                                  : divide_up(PIECE_FLOATS, (uint64_t)rank_count);
    return align_up(floats, PART_ALIGNMENT_FLOATS);
}

uint64_t comm_nccl_device_bytes(int rank_count) {
    return (uint64_t)rank_count * part_floats(rank_count) * sizeof(float);
}

static Status take_all(CommNccl *nccl) {
    Device *device = nccl->options.device;
    int size = nccl->options.comm->size;
    nccl->part_floats = part_floats(size);
    TRY(device->stream_create(device, STREAM_COMPUTE, &nccl->context.stream));
    TRY(device_marks_open(&nccl->marks, device));
    return device->memory_take(device, MEMORY_DEVICE, comm_nccl_device_bytes(size),
                               "sums over ranks", (void **)&nccl->parts);
}

static void lock_create(pthread_mutex_t *lock) {
    pthread_mutexattr_t kind;
    pthread_mutexattr_init(&kind);
    pthread_mutexattr_settype(&kind, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(lock, &kind);
    pthread_mutexattr_destroy(&kind);
}

Status comm_nccl_create(CommNccl **out, const CommNcclOptions *options) {
    void *memory;
    TRY(memory_take(&memory, 1, sizeof(CommNccl), "sums over ranks"));
    CommNccl *nccl = memory;
    *nccl = (CommNccl){.options = *options, .context = *options->context};
    nccl->context.stream = NULL;
    lock_create(&nccl->lock);
    Status status = take_all(nccl);
    if (status != STATUS_OK) {
        comm_nccl_destroy(nccl);
        return status;
    }
    *out = nccl;
    return STATUS_OK;
}

static Status finalize(CommNccl *nccl) {
    pthread_mutex_lock(&nccl->lock);
    bool linked = nccl->link != NULL;
    int result = linked ? nccl->options.api->comm_finalize(nccl->link) : NCCL_SUCCESS;
    pthread_mutex_unlock(&nccl->lock);
    return linked ? finish(nccl, "ncclCommFinalize", result) : refuse_unlinked(nccl);
}

/* With sums on the way somebody has failed: then there is nothing to wait for. */
static void unlink_ranks(CommNccl *nccl) {
    bool settled = device_marks_pending(&nccl->marks) == 0;
    if (is_linked(nccl) && settled && finalize(nccl) == STATUS_OK) {
        NcclComm *link = take_link(nccl, false);
        if (link) (void)nccl->options.api->comm_destroy(link);
    } else {
        abandon(nccl);
    }
}

void comm_nccl_destroy(CommNccl *nccl) {
    if (!nccl) return;
    Device *device = nccl->options.device;
    if (nccl->joins) comm_set_abort(nccl->options.comm, (CommAbort){0});
    unlink_ranks(nccl);
    if (nccl->context.stream) device->stream_destroy(device, nccl->context.stream);
    device_marks_close(&nccl->marks);
    if (nccl->parts)
        device->memory_give(device, MEMORY_DEVICE, nccl->parts,
                            comm_nccl_device_bytes(nccl->options.comm->size));
    pthread_mutex_destroy(&nccl->lock);
    free(nccl);
}

typedef struct Invitation {
    int32_t result; /* of making the id */
    NcclUniqueId id;
} Invitation;

Status comm_nccl_join(CommNccl *nccl) {
    const NcclApi *api = nccl->options.api;
    Comm *comm = nccl->options.comm;
    Invitation invitation = {0};
    NcclConfig config = {
        .size = sizeof config, .magic = nccl_config_magic, .version = NCCL_VERSION_LEAST};
    if (comm->rank == 0) invitation.result = api->get_unique_id(&invitation.id);
    TRY(comm_broadcast(comm, 0, &invitation, sizeof invitation));
    if (invitation.result != NCCL_SUCCESS)
        return break_off(nccl, &(Call){"ncclGetUniqueId of rank 0", 0}, invitation.result);
    pthread_mutex_lock(&nccl->lock);
    int result = api->comm_init(&nccl->link, comm->size, invitation.id, comm->rank, &config);
    pthread_mutex_unlock(&nccl->lock);
    nccl->joins = true;
    comm_set_abort(comm, (CommAbort){.run = end_from_outside, .user = nccl});
    return finish(nccl, "ncclCommInitRankConfig", result);
}

/* ---- marks */

/* Until the oldest mark has passed. Its time begins here: the one before it has passed, or the host had other things to do. */
static Status wait_for_oldest(CommNccl *nccl) {
    Device *device = nccl->options.device;
    const DeviceMark *mark = device_marks_oldest(&nccl->marks);
    const Call call = {"a wait", mark->sum};
    double start = monotonic_seconds();
    bool through = false;
    while (!device->event_done(device, mark->event)) {
        TRY(look(nccl, &call, &through));
        if (mark->of_peers && is_over(start, nccl->options.timeout_seconds))
            return give_up(nccl, &call);
        if (!mark->of_peers && is_over(start, own_seconds_max(nccl)))
            return give_device_up(nccl, mark);
        sched_yield();
    }
    device_marks_pass(&nccl->marks);
    comm_note_move(nccl->options.comm);
    return STATUS_OK;
}

static Status wait_for_room(CommNccl *nccl, uint64_t mark_count) {
    while (device_marks_pending(&nccl->marks) + mark_count > DEVICE_MARKS_MAX)
        TRY(wait_for_oldest(nccl));
    return STATUS_OK;
}

static Status mark(CommNccl *nccl, DeviceStream *stream, const char *where, bool of_peers) {
    TRY(wait_for_room(nccl, 1));
    return device_marks_make(&nccl->marks, stream,
                             (DeviceMark){.where = where, .sum = nccl->sums, .of_peers = of_peers});
}

/* ---- sums */

static Slice slice_of(const CommNccl *nccl, int rank, uint64_t count) {
    uint64_t size = (uint64_t)nccl->options.comm->size;
    if (exchanges_whole(nccl->options.comm->size)) return (Slice){.count = count};
    uint64_t first = count * (uint64_t)rank / size;
    return (Slice){.first = first, .count = count * ((uint64_t)rank + 1) / size - first};
}

static float *part_of(const CommNccl *nccl, int rank) {
    return nccl->parts + (uint64_t)rank * nccl->part_floats;
}

/* One send and one receive with a peer, of which either may be of nothing. */
static Status trade(CommNccl *nccl, int peer, Slice out, Slice in, const float *from, float *to) {
    const NcclApi *api = nccl->options.api;
    DeviceStream *stream = nccl->context.stream;
    if (out.count > 0)
        TRY(finish(nccl, "ncclSend",
                   api->send(from + out.first, out.count, NCCL_FLOAT32, peer, nccl->link, stream)));
    if (in.count == 0) return STATUS_OK;
    return finish(nccl, "ncclRecv",
                  api->recv(to + in.first, in.count, NCCL_FLOAT32, peer, nccl->link, stream));
}

/* What a group is to move: a trade with each peer. */
typedef Status PutTrade(CommNccl *nccl, int peer, float *data, uint64_t count);

/* Every peer's part of this rank's slice comes to parts. */
static Status scatter(CommNccl *nccl, int peer, float *data, uint64_t count) {
    Slice own = {.count = slice_of(nccl, nccl->options.comm->rank, count).count};
    return trade(nccl, peer, slice_of(nccl, peer, count), own, data, part_of(nccl, peer));
}

/* Every rank's summed slice goes to all. */
static Status gather(CommNccl *nccl, int peer, float *data, uint64_t count) {
    Slice own = slice_of(nccl, nccl->options.comm->rank, count);
    return trade(nccl, peer, own, slice_of(nccl, peer, count), data, data);
}

static Status put_group(CommNccl *nccl, PutTrade *put, float *data, uint64_t count,
                        int *out_result) {
    const NcclApi *api = nccl->options.api;
    if (!nccl->link) return refuse_unlinked(nccl);
    TRY(finish(nccl, "ncclGroupStart", api->group_start()));
    for (int peer = 0; peer < nccl->options.comm->size; peer++)
        if (peer != nccl->options.comm->rank) TRY(put(nccl, peer, data, count));
    *out_result = api->group_end();
    return STATUS_OK;
}

/* Nobody takes the communicator away while a group is open. */
static Status run_group(CommNccl *nccl, PutTrade *put, float *data, uint64_t count) {
    int result = NCCL_SUCCESS;
    pthread_mutex_lock(&nccl->lock);
    Status status = put_group(nccl, put, data, count, &result);
    pthread_mutex_unlock(&nccl->lock);
    return status == STATUS_OK ? finish(nccl, "ncclGroupEnd", result) : status;
}

/* x[0] + x[1] + …, left to right. What is summed so far lies where rank 0's part did; own[count] takes the whole. */
static void add_parts(const CommNccl *nccl, float *own, uint64_t count) {
    const Comm *comm = nccl->options.comm;
    const float *sum = comm->rank == 0 ? own : part_of(nccl, 0);
    for (int rank = 1; rank < comm->size && count > 0; rank++) {
        float *out = rank == comm->size - 1 ? own : part_of(nccl, 0);
        ElementwiseArgs args = {.a = sum,
                                .b = rank == comm->rank ? own : part_of(nccl, rank),
                                .out = out,
                                .row_count = 1,
                                .element_count = (uint32_t)count};
        nccl->options.kernels->add(&nccl->context, &args);
        sum = out;
    }
}

static Status reduce_piece(CommNccl *nccl, float *data, uint64_t count) {
    Slice own = slice_of(nccl, nccl->options.comm->rank, count);
    TRY(run_group(nccl, scatter, data, count));
    TRY(mark(nccl, nccl->context.stream, "in", true));
    add_parts(nccl, data + own.first, own.count);
    TRY(mark(nccl, nccl->context.stream, "in", false));
    if (exchanges_whole(nccl->options.comm->size)) return STATUS_OK;
    TRY(run_group(nccl, gather, data, count));
    return mark(nccl, nccl->context.stream, "in", true);
}

Status comm_nccl_all_reduce(CommNccl *nccl, float *data, uint64_t count) {
    Device *device = nccl->options.device;
    DeviceStream *compute = nccl->options.context->stream;
    if (count == 0) return STATUS_OK;
    TRY(check_linked(nccl));
    nccl->sums++;
    comm_count(nccl->options.comm, count * sizeof *data);
    TRY(mark(nccl, compute, "in front of", false));
    TRY(device->stream_wait_event(device, nccl->context.stream,
                                  device_marks_newest(&nccl->marks)->event));
    for (uint64_t first = 0; first < count; first += PIECE_FLOATS) {
        uint64_t left = count - first;
        TRY(reduce_piece(nccl, data + first, left < PIECE_FLOATS ? left : PIECE_FLOATS));
    }
    return device->stream_wait_event(device, compute, device_marks_newest(&nccl->marks)->event);
}

Status comm_nccl_keep_pace(CommNccl *nccl) {
    return wait_for_room(nccl, SUM_MARKS);
}

Status comm_nccl_settle(CommNccl *nccl) {
    Device *device = nccl->options.device;
    bool through = false;
    if (device_marks_pending(&nccl->marks) == 0) return STATUS_OK;
    TRY(check_linked(nccl));
    while (device_marks_pending(&nccl->marks) > 0)
        TRY(wait_for_oldest(nccl));
    TRY(look(nccl, &(Call){"a wait", nccl->sums}, &through));
    /* a device that broke is done with everything */
    return device->event_wait(device, device_marks_newest(&nccl->marks)->event);
}

Status comm_nccl_wait(CommNccl *nccl) {
    TRY(mark(nccl, nccl->options.context->stream, "behind", false));
    return comm_nccl_settle(nccl);
}
