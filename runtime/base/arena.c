#include "runtime/base/arena.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/bytes.h"
#include "runtime/base/invariant.h"

enum { PIECE_ALIGNMENT = 64 };

Status memory_take(void **out, uint64_t count, uint64_t element_bytes, const char *what) {
    uint64_t size;
    void *memory = NULL;
    if (bytes_multiply(count, element_bytes, &size) && size < UINT64_MAX / 2) {
        size = align_up(size ? size : 1, PIECE_ALIGNMENT);
        memory = aligned_alloc(PIECE_ALIGNMENT, size);
    }
    if (!memory)
        FAIL(MEMORY, "%s: cannot get %llu x %llu bytes of memory", what, (unsigned long long)count,
             (unsigned long long)element_bytes);
    memset(memory, 0, size);
    *out = memory;
    return STATUS_OK;
}

Status arena_create(Arena *out, size_t size_bytes, const char *what) {
    void *base = NULL;
    TRY(memory_take(&base, 1, size_bytes, what));
    *out = (Arena){.base = base, .size_bytes = size_bytes};
    return STATUS_OK;
}

void arena_destroy(Arena *arena) {
    if (!arena) return;
    free(arena->base);
    *arena = (Arena){0};
}

void *arena_take(Arena *arena, size_t size_bytes) {
    size_t first = align_up(arena->used_bytes, PIECE_ALIGNMENT);
    CHECK(first <= arena->size_bytes && size_bytes <= arena->size_bytes - first);
    arena->used_bytes = first + size_bytes;
    return arena->base + first;
}
