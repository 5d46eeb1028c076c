#ifndef RUNTIME_BASE_ARENA_H
#define RUNTIME_BASE_ARENA_H

/* Memory taken at start. An Arena hands out pieces of one block and frees them all at once; nothing on the
 * step path allocates. Pieces are 64-byte aligned and zeroed. One thread at a time. */

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct Arena {
    uint8_t *base;
    size_t size_bytes;
    size_t used_bytes;
} Arena;

/* what: names the pool in the error, e.g. "activations". */
Status arena_create(Arena *out, size_t size_bytes, const char *what);
void arena_destroy(Arena *arena);

/* Never fails: asking for more than the arena was made for is a bug (CHECK). */
void *arena_take(Arena *arena, size_t size_bytes);

/* For start-up memory outside arenas: zeroed count × size bytes, 64-byte aligned, or E-MEMORY naming `what`.
 * Free with free(). *out is set only on success; a zero size gives one byte. */
Status memory_take(void **out, uint64_t count, uint64_t element_bytes, const char *what);

SPILLWAY_EXTERN_C_END

#endif
