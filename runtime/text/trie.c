#include "runtime/text/trie.h"

#include <stdlib.h>

#include "runtime/base/arena.h"

static size_t edge_hash(uint32_t node, uint8_t byte) {
    uint64_t key = (uint64_t)node << 8 | byte;
    key *= 0x9E3779B97F4A7C15u;
    return key >> 32;
}

static TrieEdge *edge_slot(const Trie *trie, uint32_t node, uint8_t byte) {
    size_t at = edge_hash(node, byte) & (trie->slot_count - 1);
    while (trie->edges[at].child && (trie->edges[at].node != node || trie->edges[at].byte != byte))
        at = (at + 1) & (trie->slot_count - 1);
    return &trie->edges[at];
}

static Status trie_grow(Trie *trie) {
    Trie grown = {.slot_count = trie->slot_count ? 2 * trie->slot_count : 64,
                  .edge_count = trie->edge_count};
    void *memory;
    TRY(memory_take(&memory, grown.slot_count, sizeof(TrieEdge), "trie of pieces"));
    grown.edges = memory;
    for (size_t i = 0; i < trie->slot_count; i++) {
        const TrieEdge *edge = &trie->edges[i];
        if (edge->child) *edge_slot(&grown, edge->node, edge->byte) = *edge;
    }
    free(trie->edges);
    *trie = grown;
    return STATUS_OK;
}

Status trie_add(Trie *trie, const char *text, size_t bytes, int32_t value) {
    uint32_t node = TRIE_ROOT;
    TrieEdge *edge = NULL;
    for (size_t i = 0; i < bytes; i++) {
        if (2 * (trie->edge_count + 1) > trie->slot_count) TRY(trie_grow(trie));
        edge = edge_slot(trie, node, (uint8_t)text[i]);
        if (!edge->child) {
            uint32_t child = (uint32_t)++trie->edge_count;
            *edge = (TrieEdge){.node = node, .child = child, .value = -1, .byte = (uint8_t)text[i]};
        }
        node = edge->child;
    }
    if (edge && edge->value < 0) edge->value = value;
    return STATUS_OK;
}

void trie_destroy(Trie *trie) {
    free(trie->edges);
    *trie = (Trie){0};
}

const TrieEdge *trie_step(const Trie *trie, uint32_t *node, uint8_t byte) {
    if (!trie->slot_count) return NULL;
    const TrieEdge *edge = edge_slot(trie, *node, byte);
    if (!edge->child) return NULL;
    *node = edge->child;
    return edge;
}

int32_t trie_longest(const Trie *trie, const char *text, size_t bytes, size_t *out_bytes) {
    uint32_t node = TRIE_ROOT;
    int32_t found = -1;
    const TrieEdge *edge;
    for (size_t i = 0; i < bytes && (edge = trie_step(trie, &node, (uint8_t)text[i])); i++) {
        if (edge->value < 0) continue;
        found = edge->value;
        *out_bytes = i + 1;
    }
    return found;
}
