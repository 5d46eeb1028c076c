#include "runtime/models/model_memory.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/base/bytes.h"
#include "runtime/base/invariant.h"

enum { PIECE_ALIGNMENT = 64, PLACE_COUNT = MEMORY_HOST + 1 };
static const uint64_t host_chunk_bytes = 64ull << 10;
static const uint64_t device_chunk_bytes = 2ull << 20; /* a page of a GPU */
static const uint64_t huge_chunk_bytes = 64ull << 20;  /* where the host's pages matter */
static const uint64_t pinned_bytes = 1ull << 20;

typedef struct Chunk {
    struct Chunk *next;
    uint8_t *bytes;
    uint64_t size, used;
} Chunk;

/* What model_memory_stage handed out and model_memory_send has still to bring. */
typedef struct Staged {
    uint8_t *host; /* owned, unless it is the place */
    uint8_t *place;
    uint64_t bytes;
} Staged;

struct ModelMemory {
    Device *device;
    DeviceStream *stream;
    Chunk *chunks[PLACE_COUNT]; /* newest first */
    uint8_t *pinned;            /* [pinned_bytes] that copies go through; NULL: none was yet */
    Staged staged;
};

Status model_memory_create(ModelMemory **out, Device *device, DeviceStream *stream) {
    void *memory;
    TRY(memory_take(&memory, 1, sizeof(ModelMemory), "weight memory"));
    *out = memory;
    (*out)->device = device;
    (*out)->stream = stream;
    return STATUS_OK;
}

static void give_chunk(const ModelMemory *memory, MemoryPlace place, Chunk *chunk) {
    if (place == MEMORY_DEVICE)
        memory->device->memory_give(memory->device, MEMORY_DEVICE, chunk->bytes, chunk->size);
    else
        free(chunk->bytes);
    free(chunk);
}

void model_memory_destroy(ModelMemory *memory) {
    if (!memory) return;
    for (int place = 0; place < PLACE_COUNT; place++)
        while (memory->chunks[place]) {
            Chunk *chunk = memory->chunks[place];
            memory->chunks[place] = chunk->next;
            give_chunk(memory, (MemoryPlace)place, chunk);
        }
    if (memory->staged.host != memory->staged.place) free(memory->staged.host);
    memory->device->memory_give(memory->device, MEMORY_HOST, memory->pinned, pinned_bytes);
    free(memory);
}

static Status take_chunk_bytes(ModelMemory *memory, MemoryPlace place, uint64_t size,
                               const char *what, void **out) {
    if (place == MEMORY_HOST) return memory_take(out, size, 1, what);
    return memory->device->memory_take(memory->device, MEMORY_DEVICE, size, what, out);
}

static Status add_chunk(ModelMemory *memory, MemoryPlace place, uint64_t size, const char *what) {
    void *record, *bytes;
    TRY(memory_take(&record, 1, sizeof(Chunk), "weight memory"));
    Status status = take_chunk_bytes(memory, place, size, what, &bytes);
    if (status != STATUS_OK) {
        free(record);
        return status;
    }
    Chunk *chunk = record;
    *chunk = (Chunk){.next = memory->chunks[place], .bytes = bytes, .size = size};
    memory->chunks[place] = chunk;
    return STATUS_OK;
}

static uint64_t chunk_bytes_least(const ModelMemory *memory, MemoryPlace place) {
    if (memory->device->host_addressable) return huge_chunk_bytes;
    return place == MEMORY_DEVICE ? device_chunk_bytes : host_chunk_bytes;
}

Status model_memory_reserve(ModelMemory *memory, uint64_t bytes) {
    CHECK(!memory->device->host_addressable && !memory->chunks[MEMORY_DEVICE]);
    return add_chunk(memory, MEMORY_DEVICE, bytes, "weights");
}

uint64_t model_memory_reserve_bytes(uint64_t bytes) {
    return align_up(bytes, device_chunk_bytes) + device_chunk_bytes;
}

Status model_memory_take(ModelMemory *memory, MemoryPlace place, uint64_t bytes, const char *what,
                         void **out) {
    if (memory->device->host_addressable) place = MEMORY_DEVICE;
    bytes = align_up(bytes ? bytes : 1, PIECE_ALIGNMENT);
    Chunk *chunk = memory->chunks[place];
    if (!chunk || chunk->size - chunk->used < bytes) {
        uint64_t least = chunk_bytes_least(memory, place);
        TRY(add_chunk(memory, place, bytes > least ? bytes : least, what));
        chunk = memory->chunks[place];
    }
    *out = chunk->bytes + chunk->used;
    chunk->used += bytes;
    return STATUS_OK;
}

Status model_memory_stage(ModelMemory *memory, uint64_t bytes, const char *what, void **out_host,
                          void **out_place) {
    CHECK(!memory->staged.host);
    void *place, *host;
    TRY(model_memory_take(memory, MEMORY_DEVICE, bytes, what, &place));
    host = place;
    if (!memory->device->host_addressable) TRY(memory_take(&host, bytes, 1, what));
    memory->staged = (Staged){.host = host, .place = place, .bytes = bytes};
    *out_host = host;
    *out_place = place;
    return STATUS_OK;
}

static Status send_pinned(ModelMemory *memory, uint8_t *place, const uint8_t *host,
                          uint64_t bytes) {
    Device *device = memory->device;
    memcpy(memory->pinned, host, bytes);
    TRY(device->copy(device, memory->stream, place, memory->pinned, bytes));
    return device->stream_wait(device, memory->stream);
}

static Status send_all(ModelMemory *memory, const Staged *staged) {
    Device *device = memory->device;
    if (!memory->pinned)
        TRY(device->memory_take(device, MEMORY_HOST, pinned_bytes, "weights on their way",
                                (void **)&memory->pinned));
    for (uint64_t sent = 0; sent < staged->bytes; sent += pinned_bytes) {
        uint64_t left = staged->bytes - sent;
        TRY(send_pinned(memory, staged->place + sent, staged->host + sent,
                        left < pinned_bytes ? left : pinned_bytes));
    }
    return STATUS_OK;
}

Status model_memory_send(ModelMemory *memory) {
    Staged staged = memory->staged;
    CHECK(staged.host);
    memory->staged = (Staged){0};
    if (staged.host == staged.place) return STATUS_OK;
    Status status = send_all(memory, &staged);
    free(staged.host);
    return status;
}
