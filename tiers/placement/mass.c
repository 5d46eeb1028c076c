/* Keeps the blocks with the most attention mass, decayed by 0.95 a step; of equal ones the newer. The scores are those by which
 * H2O (Zhang et al., arXiv 2306.14048) drops tokens; here they only choose what moves down.
 *
 * A step has passed when a block is scored that had its score of this step already. Scores are kept in the unit of the newest step
 * (a score of a step ago weighs 0.95): instead of all old scores falling, the weight of new ones rises. */

#include <stdlib.h>

#include "runtime/base/arena.h"
#include "tiers/block_list.h"
#include "tiers/placement.h"

static const double decay = 0.95;
static const double weight_max = 1e200;

enum { RESIDENT, LIST_COUNT };

typedef struct Mass {
    BlockLists lists;
    double *scores;      /* [block_count] */
    uint64_t *scored_at; /* [block_count] step of the newest score */
    uint64_t *added_at;  /* [block_count] when the block was first seen, in blocks */
    double weight;       /* of a score in this step */
    uint64_t step, births;
} Mass;

static void destroy(void *state) {
    Mass *mass = state;
    if (!mass) return;
    block_lists_destroy(&mass->lists);
    free(mass->scores);
    free(mass->scored_at);
    free(mass->added_at);
    free(mass);
}

static Status take_memory(Mass *mass, uint32_t count) {
    TRY(block_lists_create(&mass->lists, count, LIST_COUNT));
    TRY(memory_take((void **)&mass->scores, count, sizeof(double), "placement"));
    TRY(memory_take((void **)&mass->scored_at, count, sizeof(uint64_t), "placement"));
    return memory_take((void **)&mass->added_at, count, sizeof(uint64_t), "placement");
}

static Status create(void **out_state, const PlacementOptions *options) {
    void *memory;
    TRY(memory_take(&memory, 1, sizeof(Mass), "placement"));
    Mass *mass = memory;
    mass->weight = 1;
    mass->step = 1;
    Status status = take_memory(mass, options->block_count);
    if (status != STATUS_OK) {
        destroy(mass);
        return status;
    }
    *out_state = mass;
    return STATUS_OK;
}

static void added(void *state, BlockId id, const Block *block) {
    Mass *mass = state;
    (void)block;
    if (mass->added_at[id] == 0) mass->added_at[id] = ++mass->births;
    block_lists_push_last(&mass->lists, RESIDENT, id);
}

static void used(void *state, BlockId id, const Block *block) {
    (void)state, (void)id, (void)block;
}

static void next_step(Mass *mass) {
    mass->step++;
    mass->weight /= decay;
    if (mass->weight < weight_max) return;
    for (uint32_t id = 0; id < mass->lists.block_count; id++)
        mass->scores[id] /= mass->weight;
    mass->weight = 1;
}

static void scored(void *state, BlockId id, double share) {
    Mass *mass = state;
    if (mass->scored_at[id] == mass->step) next_step(mass);
    mass->scored_at[id] = mass->step;
    mass->scores[id] += mass->weight * share;
}

static void moved_down(void *state, BlockId id) {
    Mass *mass = state;
    block_lists_remove(&mass->lists, id);
}

static void forgotten(void *state, BlockId id) {
    Mass *mass = state;
    block_lists_remove(&mass->lists, id);
    mass->scores[id] = 0;
    mass->scored_at[id] = mass->added_at[id] = 0;
}

static bool is_less(const Mass *mass, BlockId a, BlockId b) {
    if (mass->scores[a] != mass->scores[b]) return mass->scores[a] < mass->scores[b];
    return mass->added_at[a] < mass->added_at[b];
}

static BlockId choose_victim(void *state, bool (*may_move)(void *context, BlockId id),
                             void *context) {
    Mass *mass = state;
    BlockId least = BLOCK_NONE, id = mass->lists.lists[RESIDENT].first;
    for (; id != BLOCK_NONE; id = mass->lists.nodes[id].next)
        if ((least == BLOCK_NONE || is_less(mass, id, least)) && may_move(context, id)) least = id;
    return least;
}

static bool any(void *context, BlockId id) {
    (void)context, (void)id;
    return true;
}

static bool wants_promotion(void *state, BlockId id) {
    BlockId least = choose_victim(state, any, NULL);
    return least == BLOCK_NONE || is_less(state, least, id);
}

const Placement placement_mass = {
    .name = "mass",
    .summary = "most decayed attention mass stays (scores as in H2O, arXiv 2306.14048)",
    .needs = PLACEMENT_NEEDS_MASS,
    .create = create,
    .destroy = destroy,
    .added = added,
    .used = used,
    .scored = scored,
    .moved_down = moved_down,
    .forgotten = forgotten,
    .choose_victim = choose_victim,
    .wants_promotion = wants_promotion,
};
