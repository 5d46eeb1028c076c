#include "tiers/block_list.h"

#include <stdlib.h>

#include "runtime/base/arena.h"
#include "runtime/base/invariant.h"

Status block_lists_create(BlockLists *out, uint32_t block_count, uint32_t list_count) {
    void *nodes, *lists;
    TRY(memory_take(&nodes, block_count, sizeof(BlockNode), "block lists"));
    Status status = memory_take(&lists, list_count, sizeof(BlockList), "block lists");
    if (status != STATUS_OK) {
        free(nodes);
        return status;
    }
    *out = (BlockLists){nodes, lists, block_count, list_count};
    for (uint32_t i = 0; i < block_count; i++)
        out->nodes[i] = (BlockNode){BLOCK_NONE, BLOCK_NONE, BLOCK_LIST_NONE};
    for (uint32_t i = 0; i < list_count; i++)
        out->lists[i] = (BlockList){BLOCK_NONE, BLOCK_NONE, 0};
    return STATUS_OK;
}

void block_lists_destroy(BlockLists *lists) {
    free(lists->nodes);
    free(lists->lists);
    *lists = (BlockLists){0};
}

/* Between `previous` and `next`, which are neighbours in `list` or its ends. */
static void insert(BlockLists *lists, uint32_t list, BlockId id, BlockId previous, BlockId next) {
    CHECK(id < lists->block_count && list < lists->list_count &&
          lists->nodes[id].list == BLOCK_LIST_NONE);
    lists->nodes[id] = (BlockNode){previous, next, list};
    *(previous == BLOCK_NONE ? &lists->lists[list].first : &lists->nodes[previous].next) = id;
    *(next == BLOCK_NONE ? &lists->lists[list].last : &lists->nodes[next].previous) = id;
    lists->lists[list].count++;
}

void block_lists_push_first(BlockLists *lists, uint32_t list, BlockId id) {
    insert(lists, list, id, BLOCK_NONE, lists->lists[list].first);
}

void block_lists_push_last(BlockLists *lists, uint32_t list, BlockId id) {
    insert(lists, list, id, lists->lists[list].last, BLOCK_NONE);
}

void block_lists_remove(BlockLists *lists, BlockId id) {
    BlockNode node = lists->nodes[id];
    if (node.list == BLOCK_LIST_NONE) return;
    BlockList *list = &lists->lists[node.list];
    *(node.previous == BLOCK_NONE ? &list->first : &lists->nodes[node.previous].next) = node.next;
    *(node.next == BLOCK_NONE ? &list->last : &lists->nodes[node.next].previous) = node.previous;
    list->count--;
    lists->nodes[id] = (BlockNode){BLOCK_NONE, BLOCK_NONE, BLOCK_LIST_NONE};
}

BlockId block_lists_find(const BlockLists *lists, uint32_t list,
                         bool (*may_move)(void *context, BlockId id), void *context) {
    BlockId id = lists->lists[list].first;
    while (id != BLOCK_NONE && !may_move(context, id))
        id = lists->nodes[id].next;
    return id;
}
