#ifndef LAUNCH_ID_SET_H
#define LAUNCH_ID_SET_H

/* A growing set of names, kept as 128-bit hashes: 16 to 32 bytes a name whatever its length. Two names share a key
 * with a chance of 2^-128. One thread. */

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct IdKey {
    uint64_t low, high;
} IdKey;

IdKey id_key_of_text(const char *text, size_t text_bytes);
IdKey id_key_of_number(uint64_t number); /* never that of a text */

typedef struct IdSet {
    IdKey *slots; /* owned; [capacity], a power of two */
    uint64_t capacity, count;
} IdSet; /* zeroed: empty */

Status id_set_add(IdSet *set, IdKey key, bool *out_added); /* false: it was there */
bool id_set_has(const IdSet *set, IdKey key);
void id_set_free(IdSet *set);

SPILLWAY_EXTERN_C_END

#endif
