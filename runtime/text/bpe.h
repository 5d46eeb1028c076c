#ifndef RUNTIME_TEXT_BPE_H
#define RUNTIME_TEXT_BPE_H

/* Byte-pair encoding (Sennrich et al., arXiv 1508.07909): a word starts as its characters or bytes; the pair of
 * neighbours with the lowest rank is merged, the leftmost first, until no pair is in the table. A heap of pairs
 * makes that O(n log n) for a word of n bytes. SentencePiece's form, where the merged piece's score decides, is the
 * same with ranks made from scores. */

#include <stdint.h>

#include "runtime/text/vocabulary.h"
#include "runtime/text/word_model.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct BpeMerge {
    int32_t left, right; /* left -1: empty slot */
    int32_t token;       /* what they become */
    uint32_t rank;
} BpeMerge;

typedef struct Bpe {
    const Vocabulary *vocabulary; /* borrowed */
    BpeMerge *merges;             /* hash table by (left, right) */
    uint32_t merge_mask;
    bool on_bytes;      /* words start as bytes, else as characters */
    bool byte_fallback; /* a character without a token becomes its bytes, where all have tokens */
    bool fuse_unknown;  /* neighbours without tokens become one unknown token */
    bool whole_words;   /* a word that is a token is not cut */
    int32_t unknown;    /* -1: characters without tokens are dropped */
    int32_t byte_token[256]; /* -1: none; on_bytes: of the byte's character, else of "<0xHH>" */
} Bpe;

extern const WordModelRow bpe_model;

/* An empty model with room for merge_count merges. The caller sets the flags and byte_token. */
Status bpe_create(Bpe **out, const Vocabulary *vocabulary, uint64_t merge_count);
/* At most as often as room was asked for. A pair that is there already keeps its first rank. */
void bpe_add_merge(Bpe *bpe, int32_t left, int32_t right, int32_t token, uint32_t rank);
/* The same by texts; false when one of the three pieces is not in the vocabulary. */
bool bpe_add_merge_of_pieces(Bpe *bpe, Piece left, Piece right, uint32_t rank);
/* Cuts "left right", as files write a merge; false when it is no pair. */
bool bpe_split_merge(const char *text, size_t bytes, Piece *out_left, Piece *out_right);
/* Where words start as bytes: sets byte_token from the pieces of GPT-2's alphabet. */
void bpe_start_from_bytes(Bpe *bpe);

const BpeMerge *bpe_find_merge(const Bpe *bpe, int32_t left, int32_t right); /* or NULL */

SPILLWAY_EXTERN_C_END

#endif
