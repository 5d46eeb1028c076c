#ifndef TIERS_BLOCK_LIST_H
#define TIERS_BLOCK_LIST_H

/* Doubly linked lists over block ids, in one array taken at create: a block is in one list at most, every operation is
 * O(1), and nothing is allocated later. For placement policies and the tier manager. One thread. */

#include "tiers/block.h"

SPILLWAY_EXTERN_C_BEGIN

enum { BLOCK_LIST_NONE = UINT32_MAX };

typedef struct BlockNode {
    BlockId previous, next; /* BLOCK_NONE at the ends */
    uint32_t list;          /* BLOCK_LIST_NONE: in no list */
} BlockNode;

typedef struct BlockList {
    BlockId first, last; /* BLOCK_NONE when empty */
    uint32_t count;
} BlockList;

typedef struct BlockLists {
    BlockNode *nodes; /* [block_count], owned */
    BlockList *lists; /* [list_count], owned */
    uint32_t block_count, list_count;
} BlockLists;

Status block_lists_create(BlockLists *out, uint32_t block_count, uint32_t list_count);
void block_lists_destroy(BlockLists *lists);

void block_lists_push_first(BlockLists *lists, uint32_t list, BlockId id); /* id is in no list */
void block_lists_push_last(BlockLists *lists, uint32_t list, BlockId id);  /* id is in no list */
void block_lists_remove(BlockLists *lists, BlockId id); /* from its list, if any */

static inline uint32_t block_lists_of(const BlockLists *lists, BlockId id) {
    return lists->nodes[id].list;
}

/* The block nearest to the front of `list` that `may_move` allows; BLOCK_NONE when it allows none. */
BlockId block_lists_find(const BlockLists *lists, uint32_t list,
                         bool (*may_move)(void *context, BlockId id), void *context);

SPILLWAY_EXTERN_C_END

#endif
