/* Belady's MIN over a recorded trace (IBM Systems Journal 5(2), 1966): the block whose next use is farthest away goes, and one that comes by
 * moves in only if it is needed sooner. No policy hits more often: the yardstick for the others, not one to run with.
 *
 * The n-th used() is the n-th access of the trace. Where a run leaves its trace, next uses are those that the trace still
 * holds for the block from there on. */

#include <stdlib.h>

#include "runtime/base/arena.h"
#include "tiers/block_list.h"
#include "tiers/placement.h"

enum { RESIDENT, LIST_COUNT };

typedef struct Access {
    uint64_t key;   /* stream << 32 | ordinal */
    uint64_t place; /* in the trace */
} Access;

typedef struct Belady {
    BlockLists lists;
    Access *accesses; /* [access_count] by key, then place */
    uint64_t *
        cursors; /* [block_count] the block's next access, or one that has passed; access_count: none */
    uint64_t access_count, now;
} Belady;

static int compare(const void *left, const void *right) {
    const Access *a = left, *b = right;
    if (a->key != b->key) return a->key < b->key ? -1 : 1;
    return a->place < b->place ? -1 : a->place > b->place;
}

static void destroy(void *state) {
    Belady *belady = state;
    if (!belady) return;
    block_lists_destroy(&belady->lists);
    free(belady->accesses);
    free(belady->cursors);
    free(belady);
}

static Status take_memory(Belady *belady, const PlacementOptions *options) {
    TRY(block_lists_create(&belady->lists, options->block_count, LIST_COUNT));
    TRY(memory_take((void **)&belady->accesses, options->trace_count, sizeof(Access), "trace"));
    return memory_take((void **)&belady->cursors, options->block_count, sizeof(uint64_t), "trace");
}

static Status create(void **out_state, const PlacementOptions *options) {
    void *memory;
    TRY(memory_take(&memory, 1, sizeof(Belady), "placement"));
    Belady *belady = memory;
    belady->access_count = options->trace_count;
    Status status = take_memory(belady, options);
    if (status != STATUS_OK) {
        destroy(belady);
        return status;
    }
    for (uint64_t i = 0; i < options->trace_count; i++)
        belady->accesses[i] = (Access){options->trace[i], i};
    qsort(belady->accesses, options->trace_count, sizeof(Access), compare);
    for (uint32_t id = 0; id < options->block_count; id++)
        belady->cursors[id] = belady->access_count;
    *out_state = belady;
    return STATUS_OK;
}

/* The first access of the block's key; access_count when the trace has none. */
static void find(Belady *belady, BlockId id, const Block *block) {
    uint64_t key = block->stream << 32 | block->ordinal, begin = 0, end = belady->access_count;
    while (begin < end) {
        uint64_t middle = begin + (end - begin) / 2;
        if (belady->accesses[middle].key < key)
            begin = middle + 1;
        else
            end = middle;
    }
    bool found = begin < belady->access_count && belady->accesses[begin].key == key;
    belady->cursors[id] = found ? begin : belady->access_count;
}

/* Place of the next use, UINT64_MAX for never. */
static uint64_t next_use(Belady *belady, BlockId id) {
    uint64_t *cursor = &belady->cursors[id];
    while (*cursor < belady->access_count && belady->accesses[*cursor].place < belady->now) {
        uint64_t key = belady->accesses[*cursor].key;
        ++*cursor;
        if (*cursor < belady->access_count && belady->accesses[*cursor].key != key)
            *cursor = belady->access_count;
    }
    return *cursor < belady->access_count ? belady->accesses[*cursor].place : UINT64_MAX;
}

static void added(void *state, BlockId id, const Block *block) {
    Belady *belady = state;
    find(belady, id, block);
    block_lists_push_last(&belady->lists, RESIDENT, id);
}

static void used(void *state, BlockId id, const Block *block) {
    Belady *belady = state;
    (void)id, (void)block;
    belady->now++;
}

static void removed(void *state, BlockId id) {
    Belady *belady = state;
    block_lists_remove(&belady->lists, id);
}

static BlockId choose_victim(void *state, bool (*may_move)(void *context, BlockId id),
                             void *context) {
    Belady *belady = state;
    BlockId last = BLOCK_NONE;
    uint64_t use_max = 0;
    BlockId id = belady->lists.lists[RESIDENT].first;
    for (; id != BLOCK_NONE; id = belady->lists.nodes[id].next) {
        uint64_t use = next_use(belady, id);
        if ((last != BLOCK_NONE && use <= use_max) || !may_move(context, id)) continue;
        last = id;
        use_max = use;
    }
    return last;
}

static bool any(void *context, BlockId id) {
    (void)context, (void)id;
    return true;
}

static bool wants_promotion(void *state, BlockId id) {
    BlockId last = choose_victim(state, any, NULL);
    return last == BLOCK_NONE || next_use(state, id) < next_use(state, last);
}

const Placement placement_belady = {
    .name = "belady",
    .summary = "farthest next use of a recorded trace (Belady, 1966): the yardstick",
    .needs = PLACEMENT_NEEDS_TRACE,
    .create = create,
    .destroy = destroy,
    .added = added,
    .used = used,
    .moved_down = removed,
    .forgotten = removed,
    .choose_victim = choose_victim,
    .wants_promotion = wants_promotion,
};
