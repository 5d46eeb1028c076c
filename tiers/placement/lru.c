/* Least recently used: the baseline of every cache, and the worst policy for a cyclic scan larger than the device. */

#include <stdlib.h>

#include "runtime/base/arena.h"
#include "tiers/block_list.h"
#include "tiers/placement.h"

enum { RESIDENT, LIST_COUNT }; /* least recently used first */

static Status create(void **out_state, const PlacementOptions *options) {
    void *memory;
    TRY(memory_take(&memory, 1, sizeof(BlockLists), "placement"));
    Status status = block_lists_create(memory, options->block_count, LIST_COUNT);
    if (status != STATUS_OK) {
        free(memory);
        return status;
    }
    *out_state = memory;
    return STATUS_OK;
}

static void destroy(void *state) {
    if (!state) return;
    block_lists_destroy(state);
    free(state);
}

static void added(void *state, BlockId id, const Block *block) {
    (void)block;
    block_lists_push_last(state, RESIDENT, id);
}

static void used(void *state, BlockId id, const Block *block) {
    (void)block;
    if (block_lists_of(state, id) == BLOCK_LIST_NONE) return;
    block_lists_remove(state, id);
    block_lists_push_last(state, RESIDENT, id);
}

static void removed(void *state, BlockId id) {
    block_lists_remove(state, id);
}

static BlockId choose_victim(void *state, bool (*may_move)(void *context, BlockId id),
                             void *context) {
    return block_lists_find(state, RESIDENT, may_move, context);
}

static bool wants_promotion(void *state, BlockId id) {
    (void)state, (void)id;
    return true;
}

const Placement placement_lru = {
    .name = "lru",
    .summary = "least recently used",
    .create = create,
    .destroy = destroy,
    .added = added,
    .used = used,
    .moved_down = removed,
    .forgotten = removed,
    .choose_victim = choose_victim,
    .wants_promotion = wants_promotion,
};
