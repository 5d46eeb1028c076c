#ifndef RUNTIME_TEXT_ADDED_TOKENS_H
#define RUNTIME_TEXT_ADDED_TOKENS_H

/* Tokens that are found in text as they are written, before anything else is done with it: "<|im_start|>" and what a
 * model's makers added to the vocabulary. The leftmost match counts, of those the longest. Immutable once built. */

#include <stddef.h>
#include <stdint.h>

#include "runtime/text/normalize.h"
#include "runtime/text/trie.h"

SPILLWAY_EXTERN_C_BEGIN

/* The fields of tokenizer.json's added_tokens. */
typedef struct AddedToken {
    int32_t token;
    bool special;     /* only where the caller asks for special tokens */
    bool normalized;  /* looked for in normalised text, as normalised itself */
    bool single_word; /* not inside a word */
    bool lstrip;      /* takes the white space before it along */
    bool rstrip;      /* … behind it */
} AddedToken;

typedef struct AddedTokens {
    AddedToken *tokens;
    size_t count, capacity;
    Trie tries[2]; /* [normalized]: text to index in tokens */
    Pattern *word; /* a character of a word; made with the first single_word token */
} AddedTokens;

/* Content has at least one byte. The normalizer is complete by then. */
Status added_tokens_add(AddedTokens *added, AddedToken token, const char *content, size_t bytes,
                        const Normalizer *normalizer);
void added_tokens_destroy(AddedTokens *added);

/* A stretch of text: an added token (token >= 0), or what lies between two. */
typedef struct TextPart {
    size_t start, bytes;
    int32_t token;
} TextPart;

/* Walks a text part by part: begin, then next until it says STATUS_NOT_FOUND. Which tokens: those of `normalized`,
 * and of them special ones only with parse_special. */
typedef struct AddedTokenWalk {
    const AddedTokens *added;
    const char *text;
    size_t bytes;
    size_t at;        /* where the next part starts */
    TextPart pending; /* a token that stands behind the part just given */
    bool normalized, parse_special, has_pending;
} AddedTokenWalk;

Status added_token_walk_next(AddedTokenWalk *walk, TextPart *out);

SPILLWAY_EXTERN_C_END

#endif
