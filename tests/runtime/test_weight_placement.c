/* Which packed matrices stay: budgets hold, everything has one place, and no layer has much more to read than another. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "runtime/base/bytes.h"
#include "runtime/base/random.h"
#include "runtime/weights/weight_placement.h"
#include "runtime/weights/weight_stream.h"

enum { ROUNDS = 300, LAYERS_MAX = 12, PIECES_MAX = LAYERS_MAX * LAYER_PIECES_MAX };

static WeightPiece pieces[PIECES_MAX];

/* Layers of up to 8 pieces, of one kind or of several; a layer may have none. */
static uint32_t draw_pieces(Random *random, uint32_t layer_count) {
    uint32_t count = 0, shape = 1 + (uint32_t)random_below(random, 8);
    bool alike = random_below(random, 2);
    uint64_t sizes[LAYER_PIECES_MAX];
    for (uint32_t layer = 0; layer < layer_count; layer++) {
        if (!alike) shape = (uint32_t)random_below(random, 9);
        for (uint32_t i = 0; i < shape; i++) {
            if (layer == 0 || !alike)
                sizes[i] = random_below(random, 9) ? 1 + random_below(random, 100000) : 0;
            pieces[count++] = (WeightPiece){.name = "a", .layer = layer, .bytes = sizes[i]};
        }
    }
    return count;
}

static uint64_t sum_of(uint32_t count, Tier tier) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < count; i++)
        bytes += pieces[i].tier == tier ? pieces[i].bytes : 0;
    return bytes;
}

/* Pieces that a layer has in a tier lie side by side, aligned, in order. */
static void assert_offsets(uint32_t count, Tier tier) {
    uint64_t end = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (i > 0 && pieces[i].layer != pieces[i - 1].layer) end = 0;
        if (pieces[i].tier != tier) continue;
        assert_int_equal(pieces[i].offset, end);
        end += align_up(pieces[i].bytes, PIECE_ALIGNMENT_BYTES);
        assert_true(weight_layer_bytes(pieces, count, tier, pieces[i].layer) >= end);
    }
}

static void test_budgets(void **state) {
    (void)state;
    Random random = {.key = 1};
    for (int round = 0; round < ROUNDS; round++) {
        uint32_t count = draw_pieces(&random, 1 + (uint32_t)random_below(&random, LAYERS_MAX));
        uint64_t all = 0, bytes[TIER_COUNT];
        for (uint32_t i = 0; i < count; i++)
            all += pieces[i].bytes;
        const uint64_t budgets[TIER_COUNT] = {random_below(&random, all + all / 4 + 2),
                                              random_below(&random, all / 2 + 1), 0};
        weight_placement_plan(pieces, count, budgets, bytes);
        for (int tier = 0; tier < TIER_COUNT; tier++)
            assert_int_equal(bytes[tier], sum_of(count, (Tier)tier));
        for (uint32_t i = 0; i < count; i++)
            assert_true(pieces[i].bytes > 0 || pieces[i].tier == TIER_DEVICE);
        assert_true(bytes[TIER_DEVICE] <= budgets[TIER_DEVICE]);
        assert_true(bytes[TIER_HOST] <= budgets[TIER_HOST]);
        assert_int_equal(bytes[TIER_DEVICE] + bytes[TIER_HOST] + bytes[TIER_NVME], all);
        for (int tier = 0; tier < TIER_COUNT; tier++)
            assert_offsets(count, (Tier)tier);
    }
}

static void test_edges(void **state) {
    (void)state;
    Random random = {.key = 2};
    uint32_t count = draw_pieces(&random, 5);
    uint64_t bytes[TIER_COUNT], all = 0;
    for (uint32_t i = 0; i < count; i++)
        all += pieces[i].bytes;
    weight_placement_plan(pieces, count, (uint64_t[]){UINT64_MAX, 0, 0}, bytes);
    assert_int_equal(bytes[TIER_DEVICE], all);
    weight_placement_plan(pieces, count, (uint64_t[]){0, UINT64_MAX, 0}, bytes);
    assert_int_equal(bytes[TIER_HOST], all);
    weight_placement_plan(pieces, count, (uint64_t[]){0, 0, 0}, bytes);
    assert_int_equal(bytes[TIER_NVME], all);
    weight_placement_plan(pieces, 0, (uint64_t[]){7, 7, 7}, bytes);
    assert_int_equal(bytes[TIER_DEVICE] + bytes[TIER_HOST] + bytes[TIER_NVME], 0);
}

/* The layers of OPT-30B, in units of hidden x hidden: at any budget they differ by no more than one matrix, and what the budget has
 * is used to within the smallest. */
static void test_even(void **state) {
    (void)state;
    enum { LAYERS = 12, UNIT = PIECE_ALIGNMENT_BYTES, LAYER = 12 * UNIT };
    static const uint64_t sizes[] = {UNIT, UNIT, UNIT, UNIT, 4 * UNIT, 4 * UNIT};
    for (uint64_t budget = 0; budget <= LAYERS * LAYER; budget += 2900) {
        uint32_t count = 0;
        uint64_t bytes[TIER_COUNT], layers[LAYERS] = {0}, least = UINT64_MAX, most = 0;
        for (uint32_t layer = 0; layer < LAYERS; layer++)
            for (uint32_t i = 0; i < 6; i++)
                pieces[count++] = (WeightPiece){.layer = layer, .bytes = sizes[i]};
        weight_placement_plan(pieces, count, (uint64_t[]){budget, 0, 0}, bytes);
        for (uint32_t i = 0; i < count; i++)
            if (pieces[i].tier == TIER_NVME) layers[pieces[i].layer] += pieces[i].bytes;
        for (uint32_t layer = 0; layer < LAYERS; layer++) {
            least = layers[layer] < least ? layers[layer] : least;
            most = layers[layer] > most ? layers[layer] : most;
        }
        assert_true(most - least <= UNIT);
        assert_true(budget - bytes[TIER_DEVICE] < UNIT);
        uint64_t frames = weight_stream_frame_bytes(pieces, count);
        assert_true(frames >= WEIGHT_FRAMES * most && frames < WEIGHT_FRAMES * (most + 8192));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_budgets),
        cmocka_unit_test(test_edges),
        cmocka_unit_test(test_even),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
