/* Second chance: the hand passes over blocks in a circle and takes the first that was not used since it came by last
 * (Corbató, A paging experiment with the Multics system, 1969). LRU's choice, nearly, without moving anything at a use. */

#include <stdlib.h>

#include "runtime/base/arena.h"
#include "tiers/block_list.h"
#include "tiers/placement.h"

enum { CIRCLE, LIST_COUNT }; /* the hand stands before the first */

typedef struct Clock {
    BlockLists lists;
    bool *referenced; /* [block_count] */
} Clock;

static void destroy(void *state) {
    Clock *clock = state;
    if (!clock) return;
    block_lists_destroy(&clock->lists);
    free(clock->referenced);
    free(clock);
}

static Status create(void **out_state, const PlacementOptions *options) {
    void *memory;
    TRY(memory_take(&memory, 1, sizeof(Clock), "placement"));
    Clock *clock = memory;
    Status status = block_lists_create(&clock->lists, options->block_count, LIST_COUNT);
    if (status == STATUS_OK)
        status = memory_take((void **)&clock->referenced, options->block_count, sizeof(bool),
                             "placement");
    if (status != STATUS_OK) {
        destroy(clock);
        return status;
    }
    *out_state = clock;
    return STATUS_OK;
}

static void added(void *state, BlockId id, const Block *block) {
    Clock *clock = state;
    (void)block;
    clock->referenced[id] = false;
    block_lists_push_last(&clock->lists, CIRCLE, id);
}

static void used(void *state, BlockId id, const Block *block) {
    Clock *clock = state;
    (void)block;
    clock->referenced[id] = true;
}

static void removed(void *state, BlockId id) {
    Clock *clock = state;
    block_lists_remove(&clock->lists, id);
}

/* Two rounds: the first clears the marks of all that may move. */
static BlockId choose_victim(void *state, bool (*may_move)(void *context, BlockId id),
                             void *context) {
    Clock *clock = state;
    BlockList *circle = &clock->lists.lists[CIRCLE];
    for (uint64_t steps = 2 * (uint64_t)circle->count; steps > 0; steps--) {
        BlockId id = circle->first;
        bool movable = may_move(context, id);
        if (movable && !clock->referenced[id]) return id;
        if (movable) clock->referenced[id] = false;
        block_lists_remove(&clock->lists, id);
        block_lists_push_last(&clock->lists, CIRCLE, id);
    }
    return BLOCK_NONE;
}

static bool wants_promotion(void *state, BlockId id) {
    (void)state, (void)id;
    return true;
}

const Placement placement_clock = {
    .name = "clock",
    .summary = "second chance (Corbató, 1969)",
    .create = create,
    .destroy = destroy,
    .added = added,
    .used = used,
    .moved_down = removed,
    .forgotten = removed,
    .choose_victim = choose_victim,
    .wants_promotion = wants_promotion,
};
