#include "launch/id_set.h"

#include <stdlib.h>

#include "runtime/base/arena.h"
#include "runtime/base/hash.h"

enum { FIRST_CAPACITY = 1024 };

/* An empty slot is all zero, so no key may be. */
static IdKey make_key(const void *bytes, size_t size, uint64_t kind) {
    IdKey key = {hash_xxh3(bytes, size, kind), hash_xxh3(bytes, size, kind + 1)};
    if (key.low == 0) key.low = 1;
    return key;
}

IdKey id_key_of_text(const char *text, size_t text_bytes) {
    return make_key(text, text_bytes, 0x7465787400000000);
}

IdKey id_key_of_number(uint64_t number) {
    return make_key(&number, sizeof number, 0x6e756d6265720000);
}

/* Its slot, or the empty one where it belongs. */
static IdKey *find_slot(IdKey *slots, uint64_t capacity, IdKey key) {
    uint64_t at = key.low & (capacity - 1);
    while (slots[at].low != 0 && (slots[at].low != key.low || slots[at].high != key.high))
        at = (at + 1) & (capacity - 1);
    return &slots[at];
}

static Status grow(IdSet *set) {
    uint64_t capacity = set->capacity ? set->capacity * 2 : FIRST_CAPACITY;
    void *slots;
    TRY(memory_take(&slots, capacity, sizeof(IdKey), "custom_ids"));
    for (uint64_t i = 0; i < set->capacity; i++)
        if (set->slots[i].low != 0) *find_slot(slots, capacity, set->slots[i]) = set->slots[i];
    free(set->slots);
    set->slots = slots;
    set->capacity = capacity;
    return STATUS_OK;
}

Status id_set_add(IdSet *set, IdKey key, bool *out_added) {
    if (set->count * 2 >= set->capacity) TRY(grow(set));
    IdKey *slot = find_slot(set->slots, set->capacity, key);
    *out_added = slot->low == 0;
    if (*out_added) {
        *slot = key;
        set->count++;
    }
    return STATUS_OK;
}

bool id_set_has(const IdSet *set, IdKey key) {
    return set->capacity > 0 && find_slot(set->slots, set->capacity, key)->low != 0;
}

void id_set_free(IdSet *set) {
    free(set->slots);
    *set = (IdSet){0};
}
