#ifndef RUNTIME_TEXT_VOCABULARY_H
#define RUNTIME_TEXT_VOCABULARY_H

/* The pieces of a tokenizer as its file writes them, by id and by text. Owns copies of all texts; immutable after
 * create, so any thread may read. */

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct Piece {
    const char *text; /* not NUL ended; may hold NUL. NULL: the id is not used */
    size_t bytes;
} Piece;

typedef struct Vocabulary {
    char *text;       /* all pieces, one behind the other */
    uint32_t *starts; /* [count + 1] offsets in text */
    uint32_t *slots;  /* hash table of id + 1; 0 is empty */
    uint32_t slot_mask;
    uint32_t count;
    uint32_t piece_bytes_max;
} Vocabulary;

enum { PIECE_BYTES_MAX = 8192 };

/* Of pieces with the same text the first is found. E-TOKENIZER for a piece of more than PIECE_BYTES_MAX bytes, or when
 * they are more than 4 GiB together. */
Status vocabulary_create(Vocabulary *out, const Piece *pieces, uint32_t count);
void vocabulary_destroy(Vocabulary *vocabulary);

int32_t vocabulary_find(const Vocabulary *vocabulary, const char *text, size_t bytes); /* or -1 */

/* A piece that is two others, one behind the other; or -1. */
int32_t vocabulary_find_joined(const Vocabulary *vocabulary, Piece left, Piece right);

static inline Piece vocabulary_piece(const Vocabulary *vocabulary, uint32_t id) {
    uint32_t start = vocabulary->starts[id];
    Piece piece = {vocabulary->text + start, vocabulary->starts[id + 1] - start};
    return piece;
}

SPILLWAY_EXTERN_C_END

#endif
