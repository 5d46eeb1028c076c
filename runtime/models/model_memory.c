#include "runtime/models/model_memory.h"

#include <stdlib.h>

#include "runtime/base/arena.h"
#include "runtime/base/bytes.h"

enum { PIECE_ALIGNMENT = 64 };
static const uint64_t chunk_bytes_min = 64ull << 20;

typedef struct Chunk {
    struct Chunk *next;
    uint8_t *bytes;
    uint64_t size, used;
} Chunk;

struct ModelMemory {
    Device *device;
    MemoryPlace place;
    Chunk *chunks; /* newest first */
};

Status model_memory_create(ModelMemory **out, Device *device, MemoryPlace place) {
    void *memory;
    TRY(memory_take(&memory, 1, sizeof(ModelMemory), "weight memory"));
    *out = memory;
    (*out)->device = device;
    (*out)->place = place;
    return STATUS_OK;
}

void model_memory_destroy(ModelMemory *memory) {
    if (!memory) return;
    while (memory->chunks) {
        Chunk *chunk = memory->chunks;
        memory->chunks = chunk->next;
        memory->device->memory_give(memory->device, memory->place, chunk->bytes, chunk->size);
        free(chunk);
    }
    free(memory);
}

static Status add_chunk(ModelMemory *memory, uint64_t size, const char *what) {
    void *record, *bytes;
    TRY(memory_take(&record, 1, sizeof(Chunk), "weight memory"));
    Status status = memory->device->memory_take(memory->device, memory->place, size, what, &bytes);
    if (status != STATUS_OK) {
        free(record);
        return status;
    }
    Chunk *chunk = record;
    *chunk = (Chunk){.next = memory->chunks, .bytes = bytes, .size = size};
    memory->chunks = chunk;
    return STATUS_OK;
}

Status model_memory_take(ModelMemory *memory, uint64_t bytes, const char *what, void **out) {
    bytes = align_up(bytes ? bytes : 1, PIECE_ALIGNMENT);
    if (!memory->chunks || memory->chunks->size - memory->chunks->used < bytes)
        TRY(add_chunk(memory, bytes > chunk_bytes_min ? bytes : chunk_bytes_min, what));
    Chunk *chunk = memory->chunks;
    *out = chunk->bytes + chunk->used;
    chunk->used += bytes;
    return STATUS_OK;
}
