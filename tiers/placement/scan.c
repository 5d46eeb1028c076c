/* Static split for streams that are read whole and in the same order once a step: a cyclic scan. Whatever set stays is hit
 * once a round, so nothing beats a set that never changes; moving blocks up only costs bytes (Belady's MIN with bypass
 * gives the same hit rate, resident / all). The set is even over stream groups (layers), so that each has the same bytes to hide
 * behind its compute. Of a group the newest blocks stay: equal for a full scan, and right for a sliding window. */

#include <stdlib.h>

#include "runtime/base/arena.h"
#include "tiers/block_list.h"
#include "tiers/placement.h"

enum { UNEVEN_MAX = 8 }; /* blocks that a group may have beyond its share */

typedef struct Scan {
    BlockLists groups;  /* a list a stream group: resident blocks, oldest first */
    uint32_t last_left; /* group of the block that moved down last */
} Scan;

static Status create(void **out_state, const PlacementOptions *options) {
    void *memory;
    TRY(memory_take(&memory, 1, sizeof(Scan), "placement"));
    Scan *scan = memory;
    Status status = block_lists_create(&scan->groups, options->block_count, options->stream_groups);
    if (status != STATUS_OK) {
        free(scan);
        return status;
    }
    *out_state = scan;
    return STATUS_OK;
}

static void destroy(void *state) {
    Scan *scan = state;
    if (!scan) return;
    block_lists_destroy(&scan->groups);
    free(scan);
}

static void added(void *state, BlockId id, const Block *block) {
    Scan *scan = state;
    block_lists_push_last(&scan->groups, (uint32_t)(block->stream % scan->groups.list_count), id);
}

/* A filling block is the newest of its stream for as long as it fills. */
static void used(void *state, BlockId id, const Block *block) {
    Scan *scan = state;
    uint32_t group = block_lists_of(&scan->groups, id);
    if (block->state != BLOCK_FILLING || group == BLOCK_LIST_NONE) return;
    block_lists_remove(&scan->groups, id);
    block_lists_push_last(&scan->groups, group, id);
}

static void moved_down(void *state, BlockId id) {
    Scan *scan = state;
    scan->last_left = block_lists_of(&scan->groups, id);
    block_lists_remove(&scan->groups, id);
}

static void forgotten(void *state, BlockId id) {
    Scan *scan = state;
    block_lists_remove(&scan->groups, id);
}

/* Where it keeps the set about even. */
static bool wants_free_place(void *state, const Block *block) {
    const Scan *scan = state;
    uint32_t groups = scan->groups.list_count, count = 0;
    for (uint32_t group = 0; group < groups; group++)
        count += scan->groups.lists[group].count;
    return scan->groups.lists[block->stream % groups].count < count / groups + UNEVEN_MAX;
}

/* From the fullest group that has a block which may move; from the same one as last as long as that keeps the set about even, so that
 * blocks which are read one after the other leave, and lie, one after the other: a disk takes neighbours as one request. */
static BlockId choose_victim(void *state, bool (*may_move)(void *context, BlockId id),
                             void *context) {
    Scan *scan = state;
    BlockId victim = BLOCK_NONE;
    uint32_t count_max = 0;
    for (uint32_t group = 0; group < scan->groups.list_count; group++) {
        uint32_t count = scan->groups.lists[group].count;
        if (group == scan->last_left && count > 0) count += UNEVEN_MAX;
        if (count <= count_max) continue;
        BlockId id = block_lists_find(&scan->groups, group, may_move, context);
        if (id == BLOCK_NONE) continue;
        victim = id;
        count_max = count;
    }
    return victim;
}

const Placement placement_scan = {
    .name = "scan",
    .summary = "static split, even over layers: best for dense attention, which is a cyclic scan",
    .create = create,
    .destroy = destroy,
    .added = added,
    .used = used,
    .moved_down = moved_down,
    .forgotten = forgotten,
    .choose_victim = choose_victim,
    .wants_free_place = wants_free_place,
};
