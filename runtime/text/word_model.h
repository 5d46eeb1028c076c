#ifndef RUNTIME_TEXT_WORD_MODEL_H
#define RUNTIME_TEXT_WORD_MODEL_H

/* Contract of a model that turns one word into tokens (bpe.c, unigram.c). State is built by the loaders and immutable
 * afterwards; scratch memory belongs to one call of encode and grows as words need. */

#include <stddef.h>
#include <stdint.h>

#include "runtime/text/tokenizer.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct WordScratch {
    void *memory; /* owned */
    size_t bytes;
} WordScratch;

/* At least `bytes` bytes, aligned for any type; what stood there is lost. */
Status word_scratch_take(WordScratch *scratch, size_t bytes, void **out);
void word_scratch_free(WordScratch *scratch);

typedef struct WordModelRow {
    const char *name;
    /* Appends the tokens of a word of at least one byte: well-formed UTF-8, or any bytes where the model is on bytes. */
    Status (*encode)(const void *state, const char *word, size_t bytes, WordScratch *scratch,
                     TokenList *out);
    void (*destroy)(void *state); /* takes NULL */
} WordModelRow;

typedef struct WordModel {
    const WordModelRow *row;
    void *state; /* owned */
} WordModel;

SPILLWAY_EXTERN_C_END

#endif
