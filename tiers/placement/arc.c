/* ARC, the adaptive replacement cache (Megiddo and Modha, FAST 2003). Resident blocks lie in T1 (used once) or T2 (used again);
 * B1 and B2 remember the newest that left each. A use of one in B1 says that T1 was too small, of one in B2 that T2
 * was: the target size of T1 moves accordingly.
 *
 * Two differences to the paper: a block that sits below is always known to the tiers, so the ghosts hold ids, not keys; and the
 * manager says which blocks may move, so REPLACE looks further up its list, and then at the other one. */

#include <stdlib.h>

#include "runtime/base/arena.h"
#include "tiers/block_list.h"
#include "tiers/placement.h"

enum { T1, T2, B1, B2, LIST_COUNT }; /* least recently used first */

typedef struct Arc {
    BlockLists lists;
    uint32_t capacity;  /* the paper's c */
    uint32_t t1_target; /* the paper's p */
    bool last_hit_b2;   /* the newest use of a block below was of one in B2 */
} Arc;

static Status create(void **out_state, const PlacementOptions *options) {
    void *memory;
    TRY(memory_take(&memory, 1, sizeof(Arc), "placement"));
    Arc *arc = memory;
    arc->capacity = options->resident_count;
    Status status = block_lists_create(&arc->lists, options->block_count, LIST_COUNT);
    if (status != STATUS_OK) {
        free(arc);
        return status;
    }
    *out_state = arc;
    return STATUS_OK;
}

static void destroy(void *state) {
    Arc *arc = state;
    if (!arc) return;
    block_lists_destroy(&arc->lists);
    free(arc);
}

static uint32_t count(const Arc *arc, uint32_t list) {
    return arc->lists.lists[list].count;
}

static void move(Arc *arc, BlockId id, uint32_t list) {
    block_lists_remove(&arc->lists, id);
    block_lists_push_last(&arc->lists, list, id);
}

/* |B other| / |B own|, at least 1. */
static uint32_t pace(uint32_t own, uint32_t other) {
    return other > own ? other / own : 1;
}

static void adapt(Arc *arc, uint32_t ghosts) {
    uint32_t b1 = count(arc, B1), b2 = count(arc, B2);
    arc->last_hit_b2 = ghosts == B2;
    if (ghosts == B1) {
        uint64_t target = (uint64_t)arc->t1_target + pace(b1, b2);
        arc->t1_target = target < arc->capacity ? (uint32_t)target : arc->capacity;
    } else {
        uint32_t less = pace(b2, b1);
        arc->t1_target = arc->t1_target > less ? arc->t1_target - less : 0;
    }
}

static void used(void *state, BlockId id, const Block *block) {
    Arc *arc = state;
    (void)block;
    uint32_t list = block_lists_of(&arc->lists, id);
    if (list == T1 || list == T2) move(arc, id, T2);
    if (list == B1 || list == B2) adapt(arc, list);
    if (list == BLOCK_LIST_NONE) arc->last_hit_b2 = false;
}

static void added(void *state, BlockId id, const Block *block) {
    Arc *arc = state;
    (void)block;
    move(arc, id, block_lists_of(&arc->lists, id) == BLOCK_LIST_NONE ? T1 : T2);
}

/* The paper keeps |T1| + |B1| ≤ c and all four together ≤ 2c. */
static void trim(Arc *arc) {
    while (count(arc, B1) > 0 && count(arc, T1) + count(arc, B1) > arc->capacity)
        block_lists_remove(&arc->lists, arc->lists.lists[B1].first);
    while (count(arc, B2) > 0 && count(arc, T1) + count(arc, T2) + count(arc, B1) + count(arc, B2) >
                                     2 * (uint64_t)arc->capacity)
        block_lists_remove(&arc->lists, arc->lists.lists[B2].first);
}

static void moved_down(void *state, BlockId id) {
    Arc *arc = state;
    move(arc, id, block_lists_of(&arc->lists, id) == T1 ? B1 : B2);
    trim(arc);
}

static void forgotten(void *state, BlockId id) {
    Arc *arc = state;
    block_lists_remove(&arc->lists, id);
}

static BlockId choose_victim(void *state, bool (*may_move)(void *context, BlockId id),
                             void *context) {
    Arc *arc = state;
    uint32_t t1 = count(arc, T1);
    bool from_t1 = t1 > arc->t1_target || (arc->last_hit_b2 && t1 > 0 && t1 == arc->t1_target);
    BlockId id = block_lists_find(&arc->lists, from_t1 ? T1 : T2, may_move, context);
    if (id != BLOCK_NONE) return id;
    return block_lists_find(&arc->lists, from_t1 ? T2 : T1, may_move, context);
}

static bool wants_promotion(void *state, BlockId id) {
    (void)state, (void)id;
    return true;
}

const Placement placement_arc = {
    .name = "arc",
    .summary = "adaptive replacement (Megiddo and Modha, FAST 2003)",
    .create = create,
    .destroy = destroy,
    .added = added,
    .used = used,
    .moved_down = moved_down,
    .forgotten = forgotten,
    .choose_victim = choose_victim,
    .wants_promotion = wants_promotion,
};
