#include "runtime/text/unigram.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/text/utf8.h"

/* The best way to cut the bytes before a place of the word. */
typedef struct Cell {
    double score;
    uint32_t start; /* of the last piece; NOWHERE: no way ends here */
    uint32_t next;  /* end of the piece behind it, on the best way */
    int32_t token;  /* of the last piece; -1: a character that no piece covers */
} Cell;

enum { NOWHERE = UINT32_MAX };

static const double unknown_penalty = 10.0;

Status unigram_create(Unigram **out, const double *scores, uint32_t vocab_count) {
    void *memory;
    TRY(memory_take(&memory, 1, sizeof(Unigram), "unigram model"));
    Unigram *unigram = memory;
    Status status = memory_take(&memory, vocab_count, sizeof(double), "unigram scores");
    if (status != STATUS_OK) {
        free(unigram);
        return status;
    }
    memcpy(memory, scores, vocab_count * sizeof(double));
    unigram->scores = memory;
    double least = scores[0];
    for (uint32_t id = 1; id < vocab_count; id++)
        least = scores[id] < least ? scores[id] : least;
    unigram->unknown_score = least - unknown_penalty;
    unigram->unknown = -1;
    for (size_t i = 0; i < 256; i++)
        unigram->byte_token[i] = -1;
    *out = unigram;
    return STATUS_OK;
}

static void unigram_destroy(void *state) {
    Unigram *unigram = state;
    if (!unigram) return;
    trie_destroy(&unigram->pieces);
    free(unigram->scores);
    free(unigram);
}

Status unigram_add(Unigram *unigram, Piece piece, int32_t token) {
    return trie_add(&unigram->pieces, piece.text, piece.bytes, token);
}

static void offer(Cell *cell, double score, uint32_t start, int32_t token) {
    if (cell->start != NOWHERE && score <= cell->score) return;
    *cell = (Cell){.score = score, .start = start, .token = token};
}

/* Offers every piece that starts at `start`, and the bare character where no piece is just that. */
static void offer_pieces(const Unigram *unigram, const char *word, size_t bytes, uint32_t start,
                         size_t character_bytes, Cell *cells) {
    double score = cells[start].score;
    uint32_t node = TRIE_ROOT;
    bool covered = false;
    const TrieEdge *edge;
    for (size_t end = start;
         end < bytes && (edge = trie_step(&unigram->pieces, &node, (uint8_t)word[end]));) {
        end++;
        if (edge->value < 0) continue;
        offer(&cells[end], score + unigram->scores[edge->value], start, edge->value);
        covered = covered || end - start == character_bytes;
    }
    if (!covered) offer(&cells[start + character_bytes], score + unigram->unknown_score, start, -1);
}

static Status add_unknown(const Unigram *unigram, const char *text, size_t bytes, TokenList *out) {
    bool falls_back = unigram->byte_fallback;
    for (size_t i = 0; falls_back && i < bytes; i++)
        falls_back = unigram->byte_token[(uint8_t)text[i]] >= 0;
    if (falls_back) {
        for (size_t i = 0; i < bytes; i++)
            TRY(token_list_add(out, unigram->byte_token[(uint8_t)text[i]]));
        return STATUS_OK;
    }
    if (unigram->unknown < 0)
        FAIL(TEXT, "the vocabulary has no token for \"%.*s\", and none for what is unknown",
             (int)(bytes < 64 ? bytes : 64), text);
    return token_list_add(out, unigram->unknown);
}

/* Adds the pieces of the best way; neighbours that no piece covers are one unknown. */
static Status add_best_way(const Unigram *unigram, const char *word, size_t bytes, Cell *cells,
                           TokenList *out) {
    for (size_t end = bytes; end > 0; end = cells[end].start)
        cells[cells[end].start].next = (uint32_t)end;
    for (size_t at = 0, end; at < bytes; at = end) {
        end = cells[at].next;
        int32_t token = cells[end].token;
        while (token < 0 && end < bytes && cells[cells[end].next].token < 0)
            end = cells[end].next;
        if (token >= 0)
            TRY(token_list_add(out, token));
        else
            TRY(add_unknown(unigram, word + at, end - at, out));
    }
    return STATUS_OK;
}

static Status unigram_encode(const void *state, const char *word, size_t bytes,
                             WordScratch *scratch, TokenList *out) {
    const Unigram *unigram = state;
    void *memory;
    if (bytes >= NOWHERE) FAIL(TEXT, "a word of %zu bytes is too long to encode", bytes);
    TRY(word_scratch_take(scratch, (bytes + 1) * sizeof(Cell), &memory));
    Cell *cells = memory;
    for (size_t i = 0; i <= bytes; i++)
        cells[i] = (Cell){.start = NOWHERE};
    cells[0].start = 0;
    size_t length;
    for (size_t at = 0; at < bytes; at += length) {
        utf8_next(word + at, bytes - at, &length);
        offer_pieces(unigram, word, bytes, (uint32_t)at, length, cells);
    }
    return add_best_way(unigram, word, bytes, cells, out);
}

const WordModelRow unigram_model = {
    .name = "unigram", .encode = unigram_encode, .destroy = unigram_destroy};
