/* Every row of the placement table, unedited: victims are resident and may move, one is found whenever there is one, and
 * the same calls give the same choices. Then what each policy is for, against a model of its own or the best possible. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/base/invariant.h"
#include "tests/tiers/placement_trace.h"

enum { BLOCK_COUNT = 48, RESIDENT_MAX = 16, GROUPS = 3, EVENTS = 20000, TRACE_COUNT = 500 };

typedef enum Place { PLACE_FREE, PLACE_RESIDENT, PLACE_BELOW } Place;

/* Two states that must agree. */
typedef struct Twins {
    const Placement *placement;
    void *states[2];
    Block blocks[BLOCK_COUNT];
    Place places[BLOCK_COUNT];
    bool pinned[BLOCK_COUNT];
    uint64_t trace[TRACE_COUNT];
} Twins;

static bool may_move(void *context, BlockId id) {
    const Twins *twins = context;
    assert_true(id < BLOCK_COUNT);
    return twins->places[id] == PLACE_RESIDENT && !twins->pinned[id];
}

static void open_twins(Twins *twins, const Placement *placement, Random *random) {
    *twins = (Twins){.placement = placement};
    for (uint32_t i = 0; i < TRACE_COUNT; i++)
        twins->trace[i] = random_below(random, 5) << 32 | random_below(random, 10);
    PlacementOptions options = {.block_count = BLOCK_COUNT,
                                .stream_groups = GROUPS,
                                .resident_count = RESIDENT_MAX,
                                .trace = twins->trace,
                                .trace_count = TRACE_COUNT};
    for (int i = 0; i < 2; i++)
        assert_int_equal(placement->create(&twins->states[i], &options), STATUS_OK);
}

static void move_one_down(Twins *twins) {
    BlockId ids[2];
    for (int i = 0; i < 2; i++)
        ids[i] = twins->placement->choose_victim(twins->states[i], may_move, twins);
    assert_int_equal(ids[0], ids[1]);
    if (ids[0] == BLOCK_NONE) {
        for (BlockId id = 0; id < BLOCK_COUNT; id++)
            assert_false(may_move(twins, id));
        return;
    }
    assert_true(may_move(twins, ids[0]));
    twins->places[ids[0]] = PLACE_BELOW;
    for (int i = 0; i < 2; i++)
        twins->placement->moved_down(twins->states[i], ids[0]);
}

static uint32_t resident_count(const Twins *twins) {
    uint32_t count = 0;
    for (BlockId id = 0; id < BLOCK_COUNT; id++)
        count += twins->places[id] == PLACE_RESIDENT;
    return count;
}

static void add(Twins *twins, BlockId id) {
    if (resident_count(twins) == RESIDENT_MAX) move_one_down(twins);
    if (resident_count(twins) == RESIDENT_MAX) return; /* all are pinned */
    twins->places[id] = PLACE_RESIDENT;
    for (int i = 0; i < 2; i++)
        twins->placement->added(twins->states[i], id, &twins->blocks[id]);
}

static void use(Twins *twins, BlockId id, double mass) {
    const Placement *placement = twins->placement;
    bool wants[2] = {false, false};
    for (int i = 0; i < 2; i++) {
        placement->used(twins->states[i], id, &twins->blocks[id]);
        if (placement->scored) placement->scored(twins->states[i], id, mass);
        if (placement->wants_promotion && twins->places[id] == PLACE_BELOW)
            wants[i] = placement->wants_promotion(twins->states[i], id);
    }
    assert_int_equal(wants[0], wants[1]);
    if (wants[0]) add(twins, id);
}

static void forget(Twins *twins, BlockId id) {
    twins->places[id] = PLACE_FREE;
    twins->pinned[id] = false;
    for (int i = 0; i < 2; i++)
        twins->placement->forgotten(twins->states[i], id);
}

static void play(Twins *twins, Random *random) {
    for (int event = 0; event < EVENTS; event++) {
        BlockId id = (BlockId)random_below(random, BLOCK_COUNT);
        uint64_t kind = random_below(random, 16);
        if (twins->places[id] == PLACE_FREE) {
            twins->blocks[id] = (Block){.state = BLOCK_SEALED,
                                        .stream = random_below(random, 5),
                                        .ordinal = (uint32_t)random_below(random, 10)};
            add(twins, id);
        } else if (kind == 0) {
            forget(twins, id);
        } else if (kind == 1) {
            move_one_down(twins);
        } else if (kind == 2) {
            twins->pinned[id] = !twins->pinned[id];
        } else {
            use(twins, id, random_unit(random));
        }
    }
}

static void every_policy_keeps_the_contract(void **state) {
    (void)state;
    Random random = {.key = 11};
    for (size_t p = 0; placements[p]; p++) {
        Twins twins;
        open_twins(&twins, placements[p], &random);
        play(&twins, &random);
        for (int i = 0; i < 2; i++)
            placements[p]->destroy(twins.states[i]);
        placements[p]->destroy(NULL);
    }
}

static void rows_are_whole_and_found_by_name(void **state) {
    (void)state;
    for (size_t p = 0; placements[p]; p++) {
        const Placement *row = placements[p];
        assert_non_null(row->summary);
        assert_true(row->create && row->destroy && row->added && row->used && row->moved_down &&
                    row->forgotten && row->choose_victim);
        assert_int_equal(row->scored != NULL, (row->needs & PLACEMENT_NEEDS_MASS) != 0);
        assert_ptr_equal(placement_find(row->name), row);
    }
    assert_null(placement_find("fifo"));
}

static double hit_rate(const PlacementTrace *trace, const char *name, uint32_t resident,
                       uint64_t from) {
    return placement_trace_hit_rate(trace, placement_find(name), resident, from);
}

static void scan_is_the_best_that_can_be_on_a_scan(void **state) {
    (void)state;
    for (uint32_t resident = 12; resident <= 96; resident += 12) {
        PlacementTrace trace = placement_trace_scan(120, 6, 20);
        double best = hit_rate(&trace, "belady", resident, 240);
        assert_true(hit_rate(&trace, "scan", resident, 240) >= 0.98 * best);
        assert_true(hit_rate(&trace, "lru", resident, 240) == 0);
        placement_trace_free(&trace);
    }
}

static bool is_marked(void *context, BlockId id) {
    return ((const bool *)context)[id];
}

/* Neighbours leave together, from one group until another has eight more. */
static void scan_takes_runs_from_the_fullest_group(void **state) {
    (void)state;
    enum { COUNT = 60, MOVES = 36 };
    const Placement *scan = placement_find("scan");
    const PlacementOptions options = {
        .block_count = COUNT, .stream_groups = GROUPS, .resident_count = COUNT};
    bool resident[COUNT];
    uint32_t counts[GROUPS] = {0}, runs = 0, last = GROUPS;
    void *policy;
    assert_int_equal(scan->create(&policy, &options), STATUS_OK);
    for (BlockId id = 0; id < COUNT; id++) {
        Block block = {.state = BLOCK_SEALED, .stream = id < COUNT - 6 ? id % GROUPS : 0};
        scan->added(policy, id, &block);
        resident[id] = true;
        counts[block.stream]++;
    }
    for (int move = 0; move < MOVES; move++) {
        BlockId id = scan->choose_victim(policy, is_marked, resident);
        assert_true(id < COUNT && resident[id]);
        uint32_t group = id < COUNT - 6 ? id % GROUPS : 0;
        scan->moved_down(policy, id);
        resident[id] = false;
        counts[group]--;
        runs += group != last;
        last = group;
        for (uint32_t other = 0; other < GROUPS; other++)
            assert_true(counts[other] <= counts[group] + 9);
    }
    assert_true(runs <= 6);
    scan->destroy(policy);
}

enum { TINY_BLOCKS = 6, TINY_SETS = 1 << TINY_BLOCKS };

/* Most hits that any policy can have, by trying all: best[set] after each access; a missed block may come in for any other. At
 * the start the block that was sealed last is resident, with any others. */
static uint32_t most_hits(const PlacementTrace *trace, uint32_t capacity) {
    int best[TINY_SETS], next[TINY_SETS];
    for (int set = 0; set < TINY_SETS; set++) {
        bool start = __builtin_popcount((unsigned)set) == (int)capacity && set >= TINY_SETS / 2;
        best[set] = start ? 0 : -1;
    }
    for (uint64_t i = 0; i < trace->access_count; i++) {
        int bit = 1 << trace->accesses[i];
        memset(next, -1, sizeof next);
        for (int set = 0; set < TINY_SETS; set++) {
            if (best[set] < 0) continue;
            int hits = best[set] + ((set & bit) != 0);
            if (hits > next[set]) next[set] = hits;
            for (int out = 1; out < TINY_SETS && !(set & bit); out <<= 1) {
                int changed = (set & ~out) | bit;
                if ((set & out) && hits > next[changed]) next[changed] = hits;
            }
        }
        memcpy(best, next, sizeof best);
    }
    int most = 0;
    for (int set = 0; set < TINY_SETS; set++)
        if (best[set] > most) most = best[set];
    return (uint32_t)most;
}

static void belady_hits_as_often_as_can_be(void **state) {
    (void)state;
    Random random = {.key = 5};
    for (int round = 0; round < 200; round++) {
        uint32_t capacity = 1 + (uint32_t)random_below(&random, TINY_BLOCKS - 1);
        PlacementTrace trace = placement_trace_zipf(&random, TINY_BLOCKS, 0.5, 0.1, 6);
        double hits = hit_rate(&trace, "belady", capacity, 0) * (double)trace.access_count;
        assert_true((uint32_t)(hits + 0.5) == most_hits(&trace, capacity));
        for (size_t p = 0; placements[p]; p++)
            assert_true(placement_trace_hit_rate(&trace, placements[p], capacity, 0) *
                            (double)trace.access_count <=
                        hits + 0.5);
        placement_trace_free(&trace);
    }
}

/* The textbook: a queue from least to most recently used. */
static void lru_follows_the_textbook(void **state) {
    (void)state;
    Random random = {.key = 6};
    PlacementTrace trace = placement_trace_zipf(&random, 20, 0.8, 0.01, 100);
    enum { CAPACITY = 7 };
    uint32_t queue[CAPACITY], hits = 0;
    for (uint32_t i = 0; i < CAPACITY; i++)
        queue[i] = 20 - CAPACITY + i; /* the last that were sealed */
    for (uint64_t i = 0; i < trace.access_count; i++) {
        uint32_t place = 0;
        while (place < CAPACITY && queue[place] != trace.accesses[i])
            place++;
        hits += place < CAPACITY;
        if (place == CAPACITY) place = 0;
        memmove(queue + place, queue + place + 1, (CAPACITY - 1 - place) * sizeof *queue);
        queue[CAPACITY - 1] = trace.accesses[i];
    }
    assert_true(hit_rate(&trace, "lru", CAPACITY, 0) == (double)hits / (double)trace.access_count);
    placement_trace_free(&trace);
}

/* Eight hot blocks used twice, then forty of many cold ones, again and again: recency alone forgets the hot ones each time. */
static void arc_and_mass_keep_what_is_used_again(void **state) {
    (void)state;
    enum { HOT = 8, COLD = 400, PASS = 40, PERIOD = 2 * HOT + PASS, RESIDENT = 12 };
    PlacementTrace trace = placement_trace_scan(HOT + COLD, 1, 28);
    for (uint64_t i = 0; i < trace.access_count; i++) {
        uint64_t place = i % PERIOD, cold = i / PERIOD * PASS + place;
        trace.accesses[i] = (uint32_t)(place < 2 * HOT ? place % HOT : HOT + cold % COLD);
    }
    uint64_t from = trace.access_count / 2;
    double best = hit_rate(&trace, "belady", RESIDENT, from);
    assert_true(hit_rate(&trace, "lru", RESIDENT, from) < 0.6 * best);
    assert_true(hit_rate(&trace, "arc", RESIDENT, from) > 0.9 * best);
    assert_true(hit_rate(&trace, "mass", RESIDENT, from) > 0.9 * best);
    placement_trace_free(&trace);
}

static bool all_may_move(void *context, BlockId id) {
    (void)context, (void)id;
    return true;
}

static void mass_moves_the_least_and_of_equals_the_older(void **state) {
    (void)state;
    PlacementOptions options = {.block_count = 4, .stream_groups = 1, .resident_count = 4};
    const Placement *mass = placement_find("mass");
    void *policy;
    Block block = {.state = BLOCK_SEALED};
    assert_int_equal(mass->create(&policy, &options), STATUS_OK);
    for (BlockId id = 0; id < 4; id++)
        mass->added(policy, 3 - id, &block);
    mass->scored(policy, 3, 0.5); /* the first step */
    mass->scored(policy, 0, 0.5);
    mass->scored(policy, 3, 0.1); /* the second: 3 has 0.575, 1 has 0.48, 0 has 0.475 */
    mass->scored(policy, 1, 0.48);
    const BlockId order[] = {2, 0, 1, 3};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(mass->choose_victim(policy, all_may_move, NULL), order[i]);
        mass->moved_down(policy, order[i]);
    }
    for (BlockId id = 0; id < 4; id++)
        mass->forgotten(policy, id);
    for (BlockId id = 0; id < 4; id++)
        mass->added(policy, 3 - id, &block);
    assert_int_equal(mass->choose_victim(policy, all_may_move, NULL), 3);
    mass->destroy(policy);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_whole_and_found_by_name),
        cmocka_unit_test(every_policy_keeps_the_contract),
        cmocka_unit_test(scan_is_the_best_that_can_be_on_a_scan),
        cmocka_unit_test(scan_takes_runs_from_the_fullest_group),
        cmocka_unit_test(belady_hits_as_often_as_can_be),
        cmocka_unit_test(lru_follows_the_textbook),
        cmocka_unit_test(arc_and_mass_keep_what_is_used_again),
        cmocka_unit_test(mass_moves_the_least_and_of_equals_the_older),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
