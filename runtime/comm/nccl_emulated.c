/* The twin of NCCL over emulated devices, for ranks of one node: processes, or threads of one. What a group sends and receives is work
 * on a stream, as late as the device is; bytes go through memory that the ranks share, a box for each pair and direction. A
 * group whose peers have not come yet stays on its stream, as NCCL's kernels spin.
 *
 * What the engine does with it may not rely on work that nobody waits for: an emulated device runs nothing while its rank
 * sits in a collective of the host, where a GPU would go on. So sums are settled first (comm_nccl_settle). */

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/emulation/emulated_device.h"
#include "runtime/base/invariant.h"
#include "runtime/comm/nccl_api.h"
#include "runtime/comm/shared_memory.h"

extern const NcclLibrary nccl_emulated;

enum { SIZE_MAX_RANKS = 8, BOX_BYTES = 1 << 17, TRANSFERS_MAX = 2 * SIZE_MAX_RANKS };

/* A ring: one rank writes, one reads. */
typedef struct Box {
    _Alignas(64) _Atomic uint64_t written;
    _Alignas(64) _Atomic uint64_t read;
    uint8_t bytes[BOX_BYTES];
} Box;

typedef struct Meeting {
    atomic_int arrived;
    Box boxes[SIZE_MAX_RANKS][SIZE_MAX_RANKS]; /* [from][to] */
} Meeting;

struct NcclComm {
    int rank, size;
    SharedMemory memory;
    atomic_int users; /* its owner, and every group on a stream */
    atomic_bool aborted;
};

_Static_assert(sizeof(SharedMemoryTicket) <= sizeof(NcclUniqueId), "it travels in a unique id");

/* Behind the last unique id that this thread made, until its communicator, of rank 0, takes it over. */
static _Thread_local SharedMemory invited;

typedef struct Transfer {
    bool sends;
    uint8_t *data;
    uint64_t left; /* bytes */
    Box *box;
} Transfer;

typedef struct Group {
    NcclComm *comm;
    DeviceStream *stream;
    uint32_t count;
    Transfer transfers[TRANSFERS_MAX]; /* one of each kind a peer */
} Group;

static _Thread_local Group open_group; /* between group_start and group_end */

/* ---- communicators */

static Meeting *meeting_of(const NcclComm *comm) {
    return comm->memory.base;
}

static void comm_release(NcclComm *comm) {
    if (atomic_fetch_sub(&comm->users, 1) > 1) return;
    shared_memory_destroy(&comm->memory);
    free(comm);
}

static int twin_get_version(int *out) {
    *out = NCCL_VERSION_LEAST;
    return NCCL_SUCCESS;
}

static const char *twin_error_string(int result) {
    static const char *const texts[] = {
        [NCCL_SUCCESS] = "no error",
        [NCCL_SYSTEM_ERROR] = "unhandled system error",
        [NCCL_INVALID_ARGUMENT] = "invalid argument",
        [NCCL_REMOTE_ERROR] = "remote process exited or there was a network error",
        [NCCL_IN_PROGRESS] = "in progress",
    };
    bool known = result >= 0 && result <= NCCL_IN_PROGRESS && texts[result];
    return known ? texts[result] : "unknown result";
}

static const char *twin_last_error(NcclComm *comm) {
    (void)comm;
    return "";
}

static int twin_get_unique_id(NcclUniqueId *out) {
    SharedMemoryTicket ticket;
    shared_memory_destroy(&invited);
    if (shared_memory_create(&invited, sizeof(Meeting), &ticket) != STATUS_OK)
        return NCCL_SYSTEM_ERROR;
    memset(out, 0, sizeof *out);
    memcpy(out->bytes, &ticket, sizeof ticket);
    return NCCL_SUCCESS;
}

static int twin_comm_init(NcclComm **out, int size, NcclUniqueId id, int rank, NcclConfig *config) {
    SharedMemoryTicket ticket;
    memcpy(&ticket, id.bytes, sizeof ticket);
    bool good = size > 0 && size <= SIZE_MAX_RANKS && rank >= 0 && rank < size;
    if (!good || config->magic != nccl_config_magic || config->blocking)
        return NCCL_INVALID_ARGUMENT;
    NcclComm *comm = calloc(1, sizeof *comm);
    if (!comm) return NCCL_SYSTEM_ERROR;
    *comm = (NcclComm){.rank = rank, .size = size};
    atomic_init(&comm->users, 1);
    if (rank == 0) {
        CHECK(invited.base);
        comm->memory = invited;
        invited = (SharedMemory){.descriptor = -1};
    } else if (shared_memory_open(&comm->memory, &ticket) != STATUS_OK) {
        free(comm);
        return NCCL_SYSTEM_ERROR;
    }
    atomic_fetch_add(&meeting_of(comm)->arrived, 1);
    *out = comm;
    return NCCL_IN_PROGRESS;
}

static int twin_comm_async_error(NcclComm *comm, int *out_state) {
    bool complete = atomic_load(&meeting_of(comm)->arrived) >= comm->size;
    if (complete) shared_memory_close_door(&comm->memory);
    *out_state = complete ? NCCL_SUCCESS : NCCL_IN_PROGRESS;
    return NCCL_SUCCESS;
}

static int twin_comm_finalize(NcclComm *comm) {
    (void)comm; /* groups hold the memory for as long as they need it */
    return NCCL_SUCCESS;
}

static int twin_comm_destroy(NcclComm *comm) {
    comm_release(comm);
    return NCCL_SUCCESS;
}

static int twin_comm_abort(NcclComm *comm) {
    atomic_store(&comm->aborted, true);
    return twin_comm_destroy(comm);
}

/* ---- groups */

/* Moves what it can, up to the end of the ring; true when it moved some. */
static bool transfer_some(Transfer *transfer) {
    Box *box = transfer->box;
    uint64_t written = atomic_load_explicit(&box->written, memory_order_acquire);
    uint64_t read = atomic_load_explicit(&box->read, memory_order_acquire);
    uint64_t ready = transfer->sends ? BOX_BYTES - (written - read) : written - read;
    uint64_t at = (transfer->sends ? written : read) % BOX_BYTES;
    uint64_t bytes = ready < BOX_BYTES - at ? ready : BOX_BYTES - at;
    if (bytes > transfer->left) bytes = transfer->left;
    if (bytes == 0) return false;
    if (transfer->sends)
        memcpy(box->bytes + at, transfer->data, bytes);
    else
        memcpy(transfer->data, box->bytes + at, bytes);
    atomic_fetch_add_explicit(transfer->sends ? &box->written : &box->read, bytes,
                              memory_order_release);
    transfer->data += bytes;
    transfer->left -= bytes;
    return true;
}

static bool group_run(void *user) {
    Group *group = user;
    bool done = true;
    if (atomic_load(&group->comm->aborted)) return true;
    for (uint32_t i = 0; i < group->count; i++) {
        while (group->transfers[i].left > 0 && transfer_some(&group->transfers[i]))
            ;
        done &= group->transfers[i].left == 0;
    }
    return done;
}

static void group_leave(void *user) {
    Group *group = user;
    comm_release(group->comm);
    free(group);
}

static int twin_group_start(void) {
    open_group = (Group){0};
    return NCCL_SUCCESS;
}

static int twin_group_end(void) {
    if (open_group.count == 0) return NCCL_SUCCESS;
    Group *group = malloc(sizeof *group);
    if (!group) return NCCL_SYSTEM_ERROR;
    *group = open_group;
    atomic_fetch_add(&group->comm->users, 1);
    const EmulatedTask task = {.run = group_run, .end = group_leave, .user = group};
    emulated_device_task(group->stream, &task);
    return NCCL_SUCCESS;
}

static int group_add(const Transfer *transfer, const char *call, NcclComm *comm,
                     DeviceStream *stream) {
    const EmulatedArguments arguments = {.stream = stream, .kernel = call};
    CHECK(open_group.count < TRANSFERS_MAX);
    emulated_arguments_pointer(&arguments, transfer->data);
    open_group.comm = comm;
    open_group.stream = stream;
    open_group.transfers[open_group.count++] = *transfer;
    return NCCL_SUCCESS;
}

static int twin_send(const void *data, size_t count, int type, int peer, NcclComm *comm,
                     DeviceStream *stream) {
    CHECK(type == NCCL_FLOAT32);
    const Transfer transfer = {.sends = true,
                               .data = (uint8_t *)data,
                               .left = count * sizeof(float),
                               .box = &meeting_of(comm)->boxes[comm->rank][peer]};
    return group_add(&transfer, "ncclSend", comm, stream);
}

static int twin_recv(void *data, size_t count, int type, int peer, NcclComm *comm,
                     DeviceStream *stream) {
    CHECK(type == NCCL_FLOAT32);
    const Transfer transfer = {.data = data,
                               .left = count * sizeof(float),
                               .box = &meeting_of(comm)->boxes[peer][comm->rank]};
    return group_add(&transfer, "ncclRecv", comm, stream);
}

static const NcclApi twin = {
    .get_version = twin_get_version,
    .error_string = twin_error_string,
    .last_error = twin_last_error,
    .get_unique_id = twin_get_unique_id,
    .comm_init = twin_comm_init,
    .comm_async_error = twin_comm_async_error,
    .comm_finalize = twin_comm_finalize,
    .comm_destroy = twin_comm_destroy,
    .comm_abort = twin_comm_abort,
    .group_start = twin_group_start,
    .group_end = twin_group_end,
    .send = twin_send,
    .recv = twin_recv,
};

static const NcclApi *open_twin(const char **out_reason) {
    (void)out_reason;
    return &twin;
}

const NcclLibrary nccl_emulated = {
    .name = "emulated", .text = "the twin of NCCL", .open = open_twin};
