#include "runtime/text/vocabulary.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/base/bytes.h"
#include "runtime/base/hash.h"

/* The slot of a text: where its id stands, or the empty slot where it belongs. */
static uint32_t *slot_of(const Vocabulary *vocabulary, const char *text, size_t bytes) {
    uint32_t at = (uint32_t)hash_xxh3(text, bytes, 0) & vocabulary->slot_mask;
    for (;; at = (at + 1) & vocabulary->slot_mask) {
        uint32_t entry = vocabulary->slots[at];
        if (!entry) break;
        Piece piece = vocabulary_piece(vocabulary, entry - 1);
        if (piece.bytes == bytes && !memcmp(piece.text, text, bytes)) break;
    }
    return &vocabulary->slots[at];
}

static Status take_memory(Vocabulary *vocabulary, uint64_t text_bytes) {
    uint64_t slot_count = 16;
    while (slot_count < 2 * (uint64_t)vocabulary->count)
        slot_count *= 2;
    vocabulary->slot_mask = (uint32_t)(slot_count - 1);
    void *memory;
    TRY(memory_take(&memory, text_bytes, 1, "vocabulary text"));
    vocabulary->text = memory;
    TRY(memory_take(&memory, (uint64_t)vocabulary->count + 1, sizeof(uint32_t), "vocabulary"));
    vocabulary->starts = memory;
    TRY(memory_take(&memory, slot_count, sizeof(uint32_t), "vocabulary hash"));
    vocabulary->slots = memory;
    return STATUS_OK;
}

Status vocabulary_create(Vocabulary *out, const Piece *pieces, uint32_t count) {
    Vocabulary made = {.count = count};
    uint64_t text_bytes = 0;
    for (uint32_t id = 0; id < count; id++) {
        if (pieces[id].bytes > PIECE_BYTES_MAX)
            FAIL(TOKENIZER, "token %u has %zu bytes; at most %d are taken", id, pieces[id].bytes,
                 PIECE_BYTES_MAX);
        if (!bytes_add(text_bytes, pieces[id].bytes, &text_bytes) || text_bytes > UINT32_MAX)
            FAIL(TOKENIZER, "the vocabulary's texts are more than 4 GiB at token %u", id);
    }

    Status status = take_memory(&made, text_bytes);
    if (status != STATUS_OK) {
        vocabulary_destroy(&made);
        return status;
    }
    uint32_t end = 0;
    for (uint32_t id = 0; id < count; id++) {
        made.starts[id] = end;
        if (pieces[id].bytes) memcpy(made.text + end, pieces[id].text, pieces[id].bytes);
        end += (uint32_t)pieces[id].bytes;
        made.starts[id + 1] = end;
        if (pieces[id].bytes > made.piece_bytes_max)
            made.piece_bytes_max = (uint32_t)pieces[id].bytes;
        if (!pieces[id].text) continue;
        uint32_t *slot = slot_of(&made, pieces[id].text, pieces[id].bytes);
        if (!*slot) *slot = id + 1;
    }
    *out = made;
    return STATUS_OK;
}

void vocabulary_destroy(Vocabulary *vocabulary) {
    free(vocabulary->text);
    free(vocabulary->starts);
    free(vocabulary->slots);
    *vocabulary = (Vocabulary){0};
}

int32_t vocabulary_find(const Vocabulary *vocabulary, const char *text, size_t bytes) {
    if (!vocabulary->slots || bytes > vocabulary->piece_bytes_max) return -1;
    uint32_t entry = *slot_of(vocabulary, text, bytes);
    return (int32_t)entry - 1;
}

int32_t vocabulary_find_joined(const Vocabulary *vocabulary, Piece left, Piece right) {
    char joined[PIECE_BYTES_MAX];
    if (left.bytes > sizeof joined || right.bytes > sizeof joined - left.bytes) return -1;
    memcpy(joined, left.text, left.bytes);
    memcpy(joined + left.bytes, right.text, right.bytes);
    return vocabulary_find(vocabulary, joined, left.bytes + right.bytes);
}
