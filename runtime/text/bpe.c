#include "runtime/text/bpe.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/base/invariant.h"
#include "runtime/text/byte_level.h"
#include "runtime/text/utf8.h"

/* A piece of the word while it is merged; a doubly linked list through an array. */
typedef struct Symbol {
    int32_t token;          /* GONE: merged into the one before; UNKNOWN: no token */
    int32_t previous, next; /* -1: none */
} Symbol;

enum { GONE = -2, UNKNOWN = -1 };

/* A merge that was possible when it was pushed. */
typedef struct Candidate {
    uint32_t rank;
    int32_t left; /* index of the left symbol */
    const BpeMerge *merge;
} Candidate;

typedef struct Heap {
    Candidate *items;
    size_t count;
} Heap;

static bool comes_before(const Candidate *a, const Candidate *b) {
    return a->rank != b->rank ? a->rank < b->rank : a->left < b->left;
}

static void heap_push(Heap *heap, Candidate item) {
    size_t at = heap->count++;
    while (at > 0 && comes_before(&item, &heap->items[(at - 1) / 2])) {
        heap->items[at] = heap->items[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap->items[at] = item;
}

static Candidate heap_pop(Heap *heap) {
    Candidate top = heap->items[0], last = heap->items[--heap->count];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < heap->count; at = child) {
        if (child + 1 < heap->count && comes_before(&heap->items[child + 1], &heap->items[child]))
            child++;
        if (!comes_before(&heap->items[child], &last)) break;
        heap->items[at] = heap->items[child];
    }
    heap->items[at] = last;
    return top;
}

static uint32_t merge_slot(const Bpe *bpe, int32_t left, int32_t right) {
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    key *= 0x9E3779B97F4A7C15u;
    uint32_t at = (uint32_t)(key >> 32) & bpe->merge_mask;
    while (bpe->merges[at].left >= 0 &&
           (bpe->merges[at].left != left || bpe->merges[at].right != right))
        at = (at + 1) & bpe->merge_mask;
    return at;
}

const BpeMerge *bpe_find_merge(const Bpe *bpe, int32_t left, int32_t right) {
    if (left < 0 || right < 0) return NULL;
    const BpeMerge *merge = &bpe->merges[merge_slot(bpe, left, right)];
    return merge->left < 0 ? NULL : merge;
}

void bpe_add_merge(Bpe *bpe, int32_t left, int32_t right, int32_t token, uint32_t rank) {
    CHECK(left >= 0 && right >= 0);
    BpeMerge *merge = &bpe->merges[merge_slot(bpe, left, right)];
    if (merge->left < 0)
        *merge = (BpeMerge){.left = left, .right = right, .token = token, .rank = rank};
}

bool bpe_add_merge_of_pieces(Bpe *bpe, Piece left, Piece right, uint32_t rank) {
    int32_t left_token = vocabulary_find(bpe->vocabulary, left.text, left.bytes);
    int32_t right_token = vocabulary_find(bpe->vocabulary, right.text, right.bytes);
    int32_t token = vocabulary_find_joined(bpe->vocabulary, left, right);
    if (left_token < 0 || right_token < 0 || token < 0) return false;
    bpe_add_merge(bpe, left_token, right_token, token, rank);
    return true;
}

bool bpe_split_merge(const char *text, size_t bytes, Piece *out_left, Piece *out_right) {
    const char *space = bytes > 2 ? memchr(text + 1, ' ', bytes - 2) : NULL;
    if (!space) return false;
    size_t left_bytes = (size_t)(space - text);
    *out_left = (Piece){text, left_bytes};
    *out_right = (Piece){space + 1, bytes - left_bytes - 1};
    return true;
}

void bpe_start_from_bytes(Bpe *bpe) {
    bpe->on_bytes = true;
    for (int byte = 0; byte < 256; byte++) {
        char character[4];
        size_t bytes = byte_level_write((uint8_t)byte, character);
        bpe->byte_token[byte] = vocabulary_find(bpe->vocabulary, character, bytes);
    }
}

static void bpe_destroy(void *state) {
    Bpe *bpe = state;
    if (bpe) free(bpe->merges);
    free(bpe);
}

Status bpe_create(Bpe **out, const Vocabulary *vocabulary, uint64_t merge_count) {
    uint64_t slot_count = 16;
    while (slot_count < 2 * merge_count && slot_count < (uint64_t)1 << 31)
        slot_count *= 2;
    if (slot_count < 2 * merge_count)
        FAIL(TOKENIZER, "the tokenizer has %llu merges; at most 2^30 are taken",
             (unsigned long long)merge_count);
    void *memory;
    TRY(memory_take(&memory, 1, sizeof(Bpe), "BPE model"));
    Bpe *bpe = memory;
    Status status = memory_take(&memory, slot_count, sizeof(BpeMerge), "BPE merges");
    if (status != STATUS_OK) {
        free(bpe);
        return status;
    }
    *bpe = (Bpe){.vocabulary = vocabulary,
                 .merges = memory,
                 .merge_mask = (uint32_t)(slot_count - 1),
                 .unknown = -1};
    for (uint64_t i = 0; i < slot_count; i++)
        bpe->merges[i].left = -1;
    for (size_t i = 0; i < 256; i++)
        bpe->byte_token[i] = -1;
    *out = bpe;
    return STATUS_OK;
}

static void push_pair(const Bpe *bpe, const Symbol *symbols, int32_t left, Heap *heap) {
    int32_t right = left < 0 ? -1 : symbols[left].next;
    if (right < 0) return;
    const BpeMerge *merge = bpe_find_merge(bpe, symbols[left].token, symbols[right].token);
    if (merge) heap_push(heap, (Candidate){.rank = merge->rank, .left = left, .merge = merge});
}

static bool still_stands(const Symbol *symbols, const Candidate *candidate) {
    int32_t right = symbols[candidate->left].next;
    return symbols[candidate->left].token == candidate->merge->left && right >= 0 &&
           symbols[right].token == candidate->merge->right;
}

static void merge_all(const Bpe *bpe, Symbol *symbols, Heap *heap) {
    while (heap->count) {
        Candidate candidate = heap_pop(heap);
        if (!still_stands(symbols, &candidate)) continue;
        Symbol *left = &symbols[candidate.left];
        Symbol *right = &symbols[left->next];
        left->token = candidate.merge->token;
        left->next = right->next;
        right->token = GONE;
        if (left->next >= 0) symbols[left->next].previous = candidate.left;
        push_pair(bpe, symbols, left->previous, heap);
        push_pair(bpe, symbols, candidate.left, heap);
    }
}

typedef struct SymbolList {
    Symbol *symbols;
    int32_t count;
} SymbolList;

static void add_symbol(SymbolList *list, int32_t token) {
    int32_t at = list->count++;
    list->symbols[at] = (Symbol){.token = token, .previous = at - 1, .next = at + 1};
}

static bool bytes_have_tokens(const Bpe *bpe, const char *text, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        if (bpe->byte_token[(uint8_t)text[i]] < 0) return false;
    return true;
}

static void add_character(const Bpe *bpe, const char *text, size_t bytes, SymbolList *list) {
    int32_t token = vocabulary_find(bpe->vocabulary, text, bytes);
    if (token >= 0) {
        add_symbol(list, token);
    } else if (bpe->byte_fallback && bytes_have_tokens(bpe, text, bytes)) {
        for (size_t i = 0; i < bytes; i++)
            add_symbol(list, bpe->byte_token[(uint8_t)text[i]]);
    } else if (bpe->unknown >= 0) {
        bool fuses =
            bpe->fuse_unknown && list->count && list->symbols[list->count - 1].token == UNKNOWN;
        if (!fuses) add_symbol(list, UNKNOWN);
    }
}

static void list_symbols(const Bpe *bpe, const char *word, size_t bytes, SymbolList *list) {
    size_t length;
    for (size_t at = 0; at < bytes; at += length) {
        length = 1;
        if (bpe->on_bytes) {
            int32_t token = bpe->byte_token[(uint8_t)word[at]];
            if (token >= 0 || bpe->unknown >= 0) add_symbol(list, token);
        } else {
            utf8_next(word + at, bytes - at, &length);
            add_character(bpe, word + at, length, list);
        }
    }
    if (list->count) list->symbols[list->count - 1].next = -1;
}

/* The token that a whole word is, or -1. */
static int32_t whole_word(const Bpe *bpe, const char *word, size_t bytes) {
    if (!bpe->on_bytes) return vocabulary_find(bpe->vocabulary, word, bytes);
    char written[512];
    if (bytes > sizeof written / 2) return -1;
    size_t end = 0;
    for (size_t i = 0; i < bytes; i++) {
        char character[4];
        size_t length = byte_level_write((uint8_t)word[i], character);
        memcpy(written + end, character, length);
        end += length;
    }
    return vocabulary_find(bpe->vocabulary, written, end);
}

static Status bpe_encode(const void *state, const char *word, size_t bytes, WordScratch *scratch,
                         TokenList *out) {
    const Bpe *bpe = state;
    int32_t whole = bpe->whole_words ? whole_word(bpe, word, bytes) : -1;
    if (whole >= 0) return token_list_add(out, whole);
    if (bytes > INT32_MAX / 2) FAIL(TEXT, "a word of %zu bytes is too long to encode", bytes);

    /* Each pair is pushed once at first; each merge takes one candidate out and puts at most two in. */
    void *memory;
    size_t symbols_bytes = (bytes * sizeof(Symbol) + 15) & ~(size_t)15;
    TRY(word_scratch_take(scratch, symbols_bytes + 2 * bytes * sizeof(Candidate), &memory));
    SymbolList list = {.symbols = memory};
    Heap heap = {.items = (Candidate *)((char *)memory + symbols_bytes)};
    list_symbols(bpe, word, bytes, &list);
    for (int32_t i = 0; i + 1 < list.count; i++)
        push_pair(bpe, list.symbols, i, &heap);
    merge_all(bpe, list.symbols, &heap);
    for (int32_t i = 0; i >= 0 && i < list.count; i = list.symbols[i].next) {
        int32_t token = list.symbols[i].token;
        TRY(token_list_add(out, token == UNKNOWN ? bpe->unknown : token));
    }
    return STATUS_OK;
}

const WordModelRow bpe_model = {.name = "bpe", .encode = bpe_encode, .destroy = bpe_destroy};
