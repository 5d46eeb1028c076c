#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

#include "runtime/base/arena.h"
#include "runtime/base/bytes.h"
#include "runtime/base/log.h"
#include "runtime/comm/comm.h"
#include "runtime/comm/comm_shared.h"
#include "runtime/comm/shared_memory.h"

/* Every MPI count is an int, so long messages go in pieces; a reduction's piece also bounds the scratch. */
enum { PIECE_BYTES = 1 << 28, REDUCE_COUNT_MAX = 1 << 18 };

/* Up to here everybody exchanges everything: one message time instead of two. */
enum { WHOLE_COUNT_MAX = 4096 };

typedef struct ByMessage {
    MPI_Comm world;
    float *parts; /* what each rank sent for this rank to add up, in rank order */
    int *counts;  /* [2][size]: of the slices by rank, and of this rank's slice from each rank */
    int *offsets; /* [2][size] */
} ByMessage;

static Status check_mpi(int code, const char *call) {
    if (code == MPI_SUCCESS) return STATUS_OK;
    char text[MPI_MAX_ERROR_STRING];
    int length = 0;
    MPI_Error_string(code, text, &length);
    FAIL(COMM, "%s: %.*s", call, length, text);
}

#define TRY_MPI(call, name) TRY(check_mpi(call, name))

static void add_parts(const float *parts, int size, uint64_t count, float *out) {
    for (uint64_t i = 0; i < count; i++)
        out[i] = parts[i] + parts[count + i];
    for (int rank = 2; rank < size; rank++)
        for (uint64_t i = 0; i < count; i++)
            out[i] += parts[(uint64_t)rank * count + i];
}

static Status reduce_whole(const Comm *comm, float *data, int count) {
    const ByMessage *state = comm->state;
    TRY_MPI(MPI_Allgather(data, count, MPI_FLOAT, state->parts, count, MPI_FLOAT, state->world),
            "MPI_Allgather");
    add_parts(state->parts, comm->size, (uint64_t)count, data);
    return STATUS_OK;
}

/* Every rank gets its slice from all, adds it up, and sends the sum to all. */
static Status reduce_sliced(const Comm *comm, float *data, int count) {
    const ByMessage *state = comm->state;
    for (int rank = 0; rank < comm->size; rank++) {
        state->offsets[rank] = (int)((int64_t)count * rank / comm->size);
        state->counts[rank] =
            (int)((int64_t)count * (rank + 1) / comm->size) - state->offsets[rank];
    }
    int own_count = state->counts[comm->rank];
    int *own_counts = state->counts + comm->size;
    int *own_offsets = state->offsets + comm->size;
    for (int rank = 0; rank < comm->size; rank++) {
        own_counts[rank] = own_count;
        own_offsets[rank] = rank * own_count;
    }
    TRY_MPI(MPI_Alltoallv(data, state->counts, state->offsets, MPI_FLOAT, state->parts, own_counts,
                          own_offsets, MPI_FLOAT, state->world),
            "MPI_Alltoallv");
    add_parts(state->parts, comm->size, (uint64_t)own_count, data + state->offsets[comm->rank]);
    TRY_MPI(MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, data, state->counts, state->offsets,
                           MPI_FLOAT, state->world),
            "MPI_Allgatherv");
    return STATUS_OK;
}

static Status mpi_all_reduce(Comm *comm, float *data, uint64_t count) {
    if (comm->size == 1) return STATUS_OK;
    for (uint64_t begin = 0; begin < count; begin += REDUCE_COUNT_MAX) {
        uint64_t left = count - begin;
        int piece = left < REDUCE_COUNT_MAX ? (int)left : REDUCE_COUNT_MAX;
        if (piece <= WHOLE_COUNT_MAX || comm->size == 2)
            TRY(reduce_whole(comm, data + begin, piece));
        else
            TRY(reduce_sliced(comm, data + begin, piece));
    }
    return STATUS_OK;
}

static Status mpi_broadcast(Comm *comm, int root, void *data, uint64_t bytes) {
    const ByMessage *state = comm->state;
    for (uint64_t begin = 0; begin < bytes; begin += PIECE_BYTES) {
        uint64_t left = bytes - begin;
        int piece = left < PIECE_BYTES ? (int)left : PIECE_BYTES;
        TRY_MPI(MPI_Bcast((uint8_t *)data + begin, piece, MPI_BYTE, root, state->world),
                "MPI_Bcast");
    }
    return STATUS_OK;
}

/* Part after part, each from its owner to all. */
static Status mpi_all_gather(Comm *comm, const void *send, void *receive,
                             const uint64_t *part_bytes) {
    uint8_t *at = receive;
    for (int rank = 0; rank < comm->size; rank++) {
        if (rank == comm->rank && part_bytes[rank]) memmove(at, send, part_bytes[rank]);
        TRY(mpi_broadcast(comm, rank, at, part_bytes[rank]));
        at += part_bytes[rank];
    }
    return STATUS_OK;
}

static Status send_pieces(const ByMessage *state, int to, const uint8_t *data, uint64_t bytes) {
    for (uint64_t begin = 0; begin < bytes; begin += PIECE_BYTES) {
        uint64_t left = bytes - begin;
        int piece = left < PIECE_BYTES ? (int)left : PIECE_BYTES;
        TRY_MPI(MPI_Send(data + begin, piece, MPI_BYTE, to, 0, state->world), "MPI_Send");
    }
    return STATUS_OK;
}

static Status receive_pieces(const ByMessage *state, int from, uint8_t *data, uint64_t bytes) {
    for (uint64_t begin = 0; begin < bytes; begin += PIECE_BYTES) {
        uint64_t left = bytes - begin;
        int piece = left < PIECE_BYTES ? (int)left : PIECE_BYTES;
        TRY_MPI(MPI_Recv(data + begin, piece, MPI_BYTE, from, 0, state->world, MPI_STATUS_IGNORE),
                "MPI_Recv");
    }
    return STATUS_OK;
}

static Status mpi_gather(Comm *comm, int root, const void *send, void *receive,
                         const uint64_t *part_bytes) {
    const ByMessage *state = comm->state;
    if (comm->rank != root) return send_pieces(state, root, send, part_bytes[comm->rank]);
    uint8_t *at = receive;
    for (int rank = 0; rank < comm->size; rank++) {
        if (rank != root)
            TRY(receive_pieces(state, rank, at, part_bytes[rank]));
        else if (part_bytes[rank])
            memmove(at, send, part_bytes[rank]);
        at += part_bytes[rank];
    }
    return STATUS_OK;
}

static Status mpi_barrier(Comm *comm) {
    const ByMessage *state = comm->state;
    return check_mpi(MPI_Barrier(state->world), "MPI_Barrier");
}

static void by_message_free(ByMessage *state) {
    if (!state) return;
    free(state->parts);
    free(state->counts);
    free(state->offsets);
    free(state);
}

static void mpi_destroy(Comm *comm) {
    by_message_free(comm->state);
    free(comm);
    MPI_Finalize();
}

static const CommRow comm_mpi = {
    .name = "mpi",
    .all_reduce = mpi_all_reduce,
    .all_gather = mpi_all_gather,
    .gather = mpi_gather,
    .broadcast = mpi_broadcast,
    .barrier = mpi_barrier,
    .destroy = mpi_destroy,
};

static Status by_message_fill(ByMessage *state, int size) {
    void *memory;
    /* Two whole pieces, or `size` small ones; `size` slices of a piece, rounded up, are less than two pieces. */
    uint64_t small = (uint64_t)size * WHOLE_COUNT_MAX, large = 2 * (uint64_t)REDUCE_COUNT_MAX;
    TRY(memory_take(&memory, small > large ? small : large, sizeof(float),
                    "messages between ranks"));
    state->parts = memory;
    TRY(memory_take(&memory, 2 * (uint64_t)size, sizeof(int), "messages between ranks"));
    state->counts = memory;
    TRY(memory_take(&memory, 2 * (uint64_t)size, sizeof(int), "messages between ranks"));
    state->offsets = memory;
    return STATUS_OK;
}

static Status create_by_message(Comm **out, const Comm *place) {
    void *memory;
    TRY(memory_take(&memory, 1, sizeof(ByMessage), "communicator"));
    ByMessage *state = memory;
    Status status = by_message_fill(state, place->size);
    if (status == STATUS_OK) status = memory_take(&memory, 1, sizeof(Comm), "communicator");
    if (status != STATUS_OK) {
        by_message_free(state);
        return status;
    }
    state->world = MPI_COMM_WORLD;
    Comm *comm = memory;
    *comm = *place;
    comm->row = &comm_mpi;
    comm->state = state;
    *out = comm;
    return STATUS_OK;
}

static void node_region_release(void *context) {
    shared_memory_destroy(context);
    free(context);
    MPI_Finalize();
}

static bool all_agree(bool mine) {
    int all = mine;
    MPI_Allreduce(MPI_IN_PLACE, &all, 1, MPI_INT, MPI_LAND, MPI_COMM_WORLD);
    return all;
}

/* Collective; false on all ranks when one cannot see the memory that rank 0 made. */
static bool node_region_open(SharedMemory *out, const Comm *place) {
    SharedMemoryTicket ticket = {0};
    uint64_t size_bytes = comm_shared_region_bytes(place->size);
    bool mine = place->rank != 0 || shared_memory_create(out, size_bytes, &ticket) == STATUS_OK;
    MPI_Bcast(&ticket, sizeof ticket, MPI_BYTE, 0, MPI_COMM_WORLD);
    /* A program built otherwise would lay the memory out otherwise: leave it to the digest to name it. */
    if (place->rank != 0)
        mine = ticket.size_bytes == size_bytes && shared_memory_open(out, &ticket) == STATUS_OK;
    bool opened = all_agree(mine);
    if (opened)
        shared_memory_close_door(out);
    else
        shared_memory_destroy(out);
    return opened;
}

static Status create_shared(Comm **out, const Comm *place, const SharedMemory *memory) {
    void *kept;
    TRY(memory_take(&kept, 1, sizeof *memory, "communicator"));
    *(SharedMemory *)kept = *memory;
    const CommSharedOptions options = {.region = memory->base,
                                       .rank = place->rank,
                                       .size = place->size,
                                       .release = node_region_release,
                                       .context = kept};
    return comm_shared_create(out, &options);
}

/* Where this rank stands; MPI must be initialised. */
static Status find_place(Comm *out) {
    MPI_Comm node;
    MPI_Comm_rank(MPI_COMM_WORLD, &out->rank);
    MPI_Comm_size(MPI_COMM_WORLD, &out->size);
    TRY_MPI(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node),
            "MPI_Comm_split_type");
    MPI_Comm_rank(node, &out->local_rank);
    MPI_Comm_size(node, &out->local_size);
    MPI_Comm_free(&node);
    return STATUS_OK;
}

bool comm_mpi_built(void) {
    return true;
}

Status comm_mpi_create(Comm **out, bool by_message) {
    int provided;
    TRY_MPI(MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    Comm place = {0};
    TRY(find_place(&place));
    SharedMemory memory = {.descriptor = -1};
    if (!by_message && place.size > 1 && place.local_size == place.size) {
        if (node_region_open(&memory, &place)) return create_shared(out, &place, &memory);
        if (place.rank == 0)
            log_note("the ranks of this node cannot share memory (containers, or different "
                     "programs?): they talk by messages, which is slower");
    }
    return create_by_message(out, &place);
}
