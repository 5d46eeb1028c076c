#ifndef RUNTIME_TEXT_TRIE_H
#define RUNTIME_TEXT_TRIE_H

/* A set of byte strings that can be walked byte by byte: all pieces that start at a place of a text. Nodes are
 * numbers, edges live in one hash table. Built by one thread, then read by any. */

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct TrieEdge {
    uint32_t node;  /* where it starts */
    uint32_t child; /* 0: empty slot (the root is nobody's child) */
    int32_t value;  /* of the string that ends at the child, or -1 */
    uint8_t byte;
} TrieEdge;

typedef struct Trie {
    TrieEdge *edges;
    size_t slot_count; /* power of two, or 0 */
    size_t edge_count;
} Trie;

enum { TRIE_ROOT = 0 };

/* Adds a string of at least one byte; the first value of equal strings stays. */
Status trie_add(Trie *trie, const char *text, size_t bytes, int32_t value);
void trie_destroy(Trie *trie);

/* The edge from *node along `byte`, or NULL; moves *node along it. */
const TrieEdge *trie_step(const Trie *trie, uint32_t *node, uint8_t byte);

/* The longest string of the trie that `text` starts with: its value, or -1. */
int32_t trie_longest(const Trie *trie, const char *text, size_t bytes, size_t *out_bytes);

SPILLWAY_EXTERN_C_END

#endif
