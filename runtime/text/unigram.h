#ifndef RUNTIME_TEXT_UNIGRAM_H
#define RUNTIME_TEXT_UNIGRAM_H

/* Unigram language model (Kudo, arXiv 1804.10959): of all ways to cut a word into pieces, the one whose scores (log
 * probabilities) have the largest sum, found by Viterbi in one pass. O(n times the longest piece). */

#include <stdint.h>

#include "runtime/text/trie.h"
#include "runtime/text/vocabulary.h"
#include "runtime/text/word_model.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct Unigram {
    Trie pieces;             /* text to token */
    double *scores;          /* [vocab_count], owned */
    double unknown_score;    /* of a character that no piece covers: below all others */
    int32_t unknown;         /* -1: such a character is E-TEXT */
    bool byte_fallback;      /* it becomes its bytes, where all have tokens */
    int32_t byte_token[256]; /* of "<0xHH>", or -1 */
} Unigram;

extern const WordModelRow unigram_model;

/* scores: [vocab_count], finite, copied. The caller adds pieces and sets the other fields. */
Status unigram_create(Unigram **out, const double *scores, uint32_t vocab_count);
/* Makes a token one that words may be cut into; its text has at least one byte. */
Status unigram_add(Unigram *unigram, Piece piece, int32_t token);

SPILLWAY_EXTERN_C_END

#endif
