#ifndef RUNTIME_TEXT_WORDS_H
#define RUNTIME_TEXT_WORDS_H

/* A stretch of text between two added tokens, on its way to the model: normalised as one, then cut into words that
 * the model encodes one by one. Belongs to one call of encode. */

#include <stddef.h>

#include "runtime/text/tokenizer.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct WordSpan {
    size_t start; /* in text */
    size_t bytes;
} WordSpan;

typedef struct Words {
    TextBuffer text; /* well-formed UTF-8 */
    WordSpan *spans; /* [span_count], in order, not empty, not overlapping */
    size_t span_count;
    size_t span_capacity;
    bool opens_text; /* the first byte of text is the first of the whole input */
    bool
        continues; /* broken bytes went before: this is no start of a stretch, so nothing is put in front */
} Words;

void words_free(Words *words);

/* Empties, keeping memory. */
void words_reset(Words *words);

Status words_add_span(Words *words, size_t start, size_t bytes);

/* Exchanges texts and spans. */
void words_swap(Words *a, Words *b);

SPILLWAY_EXTERN_C_END

#endif
