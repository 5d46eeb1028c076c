/* The planner: figures reckoned by hand, more of anything is never slower, the search beats every point of a grid, and what does
 * not fit is told with the nearest that does. */

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/base/random.h"
#include "runtime/engine/planner.h"
#include "runtime/weights/weight_stream.h"

static const double gib = 1 << 30;

static PlanShape small_shape(void) {
    PlanShape shape = {.layer_count = 2,
                       .hidden_size = 256,
                       .intermediate_size = 512,
                       .vocab_count = 1000,
                       .head_count = 4,
                       .kv_head_count = 2,
                       .head_dim = 64,
                       .mlp_matrix_count = 3,
                       .context_length = 4096,
                       .other_bytes = 1e6};
    shape.attention = (PlanMatrices){.elements = {1e6}, .bytes = 2e6};
    shape.mlp = (PlanMatrices){.elements = {3e6}, .bytes = 6e6};
    shape.head = (PlanMatrices){.elements = {2e6}, .bytes = 4e6};
    return shape;
}

/* Memory of its own behind a link, and a disk. */
static PlanMachine small_machine(void) {
    PlanMachine machine = {.rank_count = 1,
                           .node_count = 1,
                           .thread_count = 2,
                           .device_bytes = gib,
                           .device_rate = 1e12,
                           .head_speed = 1,
                           .prompt_rate = 1e9,
                           .row_rate = 1e12,
                           .logit_rate = 1e9,
                           .host_bytes = 4 * gib,
                           .copy_rate = 1e10,
                           .to_device_rate = 1e9,
                           .from_device_rate = 1e9,
                           .disk_bytes = 100 * gib,
                           .disk_read_rate = 1e7,
                           .disk_write_rate = 1e7,
                           .peer_rate = 1e9,
                           .peer_seconds = 1e-5};
    for (int format = 0; format < PLAN_FORMAT_COUNT; format++)
        for (int i = 0; i < PLAN_ROW_POINTS; i++)
            machine.operation_rate[format][i] = 1e9;
    machine.attention[0] = (PlanAttention){1e9, 1e12};
    return machine;
}

static PlanPlacement placement_of(double weights, double weights_host, double cache,
                                  double cache_host, uint32_t sequences) {
    return (PlanPlacement){.percent = {weights, weights_host, cache, cache_host, 100, 0},
                           .residual_tokens = -1,
                           .block_tokens = 32,
                           .sequences = sequences,
                           .rows = 512};
}

static PlanCost cost_of(const PlanShape *shape, const PlanMachine *machine, const PlanWork *work,
                        const PlanPlacement *placement) {
    PlanCost cost;
    assert_int_equal(plan_cost(shape, machine, work, placement, &cost), STATUS_OK);
    return cost;
}

static void near(double value, double expected) {
    if (fabs(value - expected) > 1e-9 * fabs(expected))
        fail_msg("%.12g, expected %.12g", value, expected);
}

/* ---- by hand ---- */

static const double disk_reached = 0.9; /* of plan_step.c */

static void all_on_the_device(void **state) {
    (void)state;
    PlanShape shape = small_shape();
    PlanMachine machine = small_machine();
    const PlanWork work = {8, 60, 8}; /* the middle of the answer is token 64 */
    PlanPlacement placement = placement_of(100, 0, 100, 0, 8);
    PlanCost cost = cost_of(&shape, &machine, &work, &placement);
    assert_true(cost.fits);
    near(cost.decode.matmul, 2 * 2 * 4e6 * 8 / 1e9);
    near(cost.decode.attention,
         2 * (64 * 512.0 * 8 / 1e9 + 4 * 4 * 64 * 64 * 8 / 1e12)); /* 512 bytes a token */
    near(cost.decode.rows, 2 * 4 * (10 * 256 + 3 * 512.0) * 8 / 1e12);
    near(cost.decode.head, 2 * 2e6 * 8 / 1e9);
    near(cost.decode.sampling, 8 * 1000 / 1e9);
    near(cost.decode.seconds, cost.decode.matmul + cost.decode.attention + cost.decode.rows +
                                  cost.decode.head + cost.decode.sampling);
    near(cost.decode_rate, 8 / cost.decode.seconds);
    assert_int_equal(cost.bottleneck, PLAN_COMPUTE);
    assert_string_equal(plan_bottleneck_name(&cost), "matmul");
    near(cost.passes, 1); /* 480 rows */
    near(cost.seconds, cost.prompt.seconds + 7 * cost.decode.seconds);
    near(cost.total_rate, 64 / cost.seconds);
    near(cost.kv_token_bytes, plan_shape_kv_bytes(&shape));
    near(cost.needs[TIER_DEVICE].weights, 16e6);
    near(cost.decode.kv_read[TIER_HOST] + cost.decode.kv_read[TIER_NVME], 0);
}

/* 32 tokens of 2 KV heads of 64 are 16 KiB and, with the header, 20 KiB on disk. The least device: a block a sequence, 17 for the 512
 * rows of a step, 16 of staging; besides three blocks a sequence and a quarter of all to read ahead. */
static void all_on_disk(void **state) {
    (void)state;
    PlanShape shape = small_shape();
    PlanMachine machine = small_machine();
    const PlanWork work = {8, 1000, 8}; /* 1,004 tokens: 32 blocks in 16 streams */
    PlanPlacement placement = placement_of(100, 0, 0, 0, 8);
    PlanCost cost = cost_of(&shape, &machine, &work, &placement);
    assert_true(cost.fits);
    near(cost.slot_bytes, 20480);
    near((double)cost.kv_bytes[TIER_DEVICE], (8 + 17 + 16 + 24 + 128) * 20480);
    near(cost.decode.kv_read[TIER_NVME], (16 * 32 - (8 + 17 + 16 + 24)) * 20480);
    near(cost.decode.kv_written[TIER_NVME], 16 / 32.0 * 20480); /* a block in 32 steps */
    near(cost.decode.activity[PLAN_DISK],
         (cost.decode.kv_read[TIER_NVME] + cost.decode.kv_written[TIER_NVME]) / 1e7 / disk_reached);
    assert_string_equal(plan_bottleneck_name(&cost), "disk");
    double rest = cost.decode.head + cost.decode.sampling;
    near(cost.decode.seconds, cost.decode.activity[PLAN_DISK] + rest);
    /* 128 slots of staging, half of them being attended: 64 are read ahead while a slow layer multiplies, and then the disk waits */
    for (int i = 0; i < PLAN_ROW_POINTS; i++)
        machine.operation_rate[PLAN_FLOAT][i] = 2e8;
    cost = cost_of(&shape, &machine, &work, &placement);
    rest = cost.decode.head + cost.decode.sampling;
    double compute = cost.decode.matmul + cost.decode.rows, disk = cost.decode.activity[PLAN_DISK];
    double layer_slots = (16 * 32 - (8 + 17 + 16 + 24)) / 2.0;
    assert_true(compute < disk);
    near(cost.decode.seconds, disk + compute - 64 / layer_slots * disk + rest);
}

/* All of all_on_disk in host memory. Its blocks but the 65 are attended there at 10 GB/s, beside the device; queries and partials cross
 * the link of 1 GB/s: 8 sequences of 4 heads of 64. */
static void blocks_are_attended_in_host_memory(void **state) {
    (void)state;
    PlanShape shape = small_shape();
    PlanMachine machine = small_machine();
    const PlanWork work = {8, 1000, 8};
    PlanPlacement placement = placement_of(100, 0, 0, 100, 8);
    PlanCost read = cost_of(&shape, &machine, &work, &placement);
    placement.attend_host = true;
    PlanCost in_host = cost_of(&shape, &machine, &work, &placement);
    double bytes = (16 * 32 - (8 + 17 + 16 + 24)) * 20480.0, link = 4 * 32 * (64 + 66) / 1e9;
    near(read.decode.kv_read[TIER_HOST], bytes);
    near(in_host.decode.kv_in_host, bytes);
    near(in_host.decode.kv_read[TIER_HOST], 0);
    near(in_host.decode.activity[PLAN_TO_DEVICE], 0);
    machine.copy_rate = 1e8; /* slower than the device's attention of the rest */
    in_host = cost_of(&shape, &machine, &work, &placement);
    near(in_host.decode.attention, bytes / 1e8 + 2 * link);
    assert_true(in_host.decode.seconds > read.decode.seconds); /* then it does not pay */
    machine.copy_rate = 1e12;
    in_host = cost_of(&shape, &machine, &work, &placement);
    near(in_host.decode.attention, read.decode.attention * (8 + 17 + 16 + 24) / (16 * 32));
    assert_true(in_host.decode.seconds < read.decode.seconds);
    machine.unified = true; /* then it means nothing */
    near(cost_of(&shape, &machine, &work, &placement).decode.kv_in_host, 0);
}

static void weights_stream(void **state) {
    (void)state;
    PlanShape shape = small_shape();
    PlanMachine machine = small_machine();
    const PlanWork work = {8, 60, 8};
    PlanPlacement placement = placement_of(25, 50, 100, 0, 8);
    PlanCost cost = cost_of(&shape, &machine, &work, &placement);
    near(cost.decode.weights_read[TIER_DEVICE], 16e6); /* two layers stay in their frames */
    shape.layer_count = 4;
    cost = cost_of(&shape, &machine, &work, &placement);
    near(cost.decode.weights_read[TIER_DEVICE], 8e6);
    near(cost.decode.weights_read[TIER_HOST], 16e6);
    near(cost.decode.weights_read[TIER_NVME], 8e6);
    near(cost.decode.activity[PLAN_DISK], 8e6 / 1e7 / disk_reached);
    near(cost.decode.activity[PLAN_TO_DEVICE], 24e6 / 1e9);
    near(cost.needs[TIER_DEVICE].staging, 2 * 6e6); /* two layers' */
    near(cost.needs[TIER_HOST].staging, WEIGHT_FRAMES * 2e6);
    assert_string_equal(plan_bottleneck_name(&cost), "disk");
    machine.unified = true; /* then host memory is used where it lies */
    cost = cost_of(&shape, &machine, &work, &placement);
    near(cost.decode.activity[PLAN_TO_DEVICE], 0);
    near(cost.needs[TIER_DEVICE].staging, WEIGHT_FRAMES * 2e6);
}

static void ranks_share(void **state) {
    (void)state;
    PlanShape shape = small_shape();
    PlanMachine machine = small_machine();
    const PlanWork work = {8, 60, 8};
    PlanPlacement placement = placement_of(100, 0, 100, 0, 8);
    double alone = cost_of(&shape, &machine, &work, &placement).decode.matmul;
    machine.rank_count = 2;
    PlanCost cost = cost_of(&shape, &machine, &work, &placement);
    near(cost.decode.matmul, alone / 2);
    near(cost.decode.collective, 2 * 2 * (1e-5 + 2 * 4 * 8 * 256 * 0.5 / 1e9));
    near(cost.kv_token_bytes, plan_shape_kv_bytes(&shape));
    shape.kv_head_count = 3; /* 2 and 1 */
    shape.head_count = 9;
    PlanShare share;
    assert_int_equal(plan_share(&shape, 2, &share), STATUS_OK);
    assert_int_equal(share.kv_heads, 2);
    near(share.heads, 6 / 9.0);
    machine.rank_count = 100;
    assert_int_equal(plan_cost(&shape, &machine, &work, &placement, &cost), STATUS_BAD_INPUT);
}

static void codecs_take_fewer_bytes(void **state) {
    (void)state;
    PlanShape shape = small_shape();
    PlanMachine machine = small_machine();
    const PlanWork work = {8, 1000, 8};
    PlanPlacement placement = placement_of(100, 0, 0, 0, 8);
    double raw = cost_of(&shape, &machine, &work, &placement).decode.kv_read[TIER_NVME];
    placement.codec = codec_find("int4_group");
    PlanCost cost = cost_of(&shape, &machine, &work, &placement);
    assert_true(cost.decode.kv_read[TIER_NVME] < 0.45 * raw);
    near(cost.kv_token_bytes, plan_shape_kv_bytes(&shape) * 4.5 / 16);
    placement.codec = codec_find("kivi2");
    placement.block_tokens = 16; /* it wants 32 */
    assert_int_equal(plan_cost(&shape, &machine, &work, &placement, &cost), STATUS_BAD_INPUT);
}

/* ---- properties ---- */

static double between(Random *random, double low, double high) {
    return low * pow(high / low, random_unit(random));
}

/* Tiers in their natural order: each rate above the next one's. */
static PlanMachine random_machine(Random *random) {
    PlanMachine machine = small_machine();
    machine.unified = random_below(random, 3) == 0;
    machine.core_count = (uint32_t)random_below(random, 2) * 2;
    machine.device_bytes = between(random, 12e6, 200e6);
    machine.host_bytes = between(random, 20e6, 400e6);
    machine.disk_bytes = between(random, 50e6, 2e9);
    machine.disk_read_rate = between(random, 1e6, 1e9);
    machine.disk_write_rate = between(random, 1e6, 1e9);
    machine.to_device_rate = machine.disk_read_rate * between(random, 1, 10);
    machine.from_device_rate = machine.to_device_rate;
    machine.copy_rate = machine.to_device_rate * 2;
    for (int i = 0; i < PLAN_ROW_POINTS; i++)
        machine.operation_rate[PLAN_FLOAT][i] = 1e8 * (i + 1) * between(random, 1, 1.5);
    return machine;
}

static PlanChoice best_of(const PlanShape *shape, const PlanMachine *machine, const PlanWork *work,
                          uint32_t sequences) {
    static const Codec *const raw[] = {NULL};
    const PlanFreedom limits = {.codecs = raw,
                                .codec_count = 1,
                                .residual_tokens = -1,
                                .block_tokens = 32,
                                .sequences = sequences,
                                .rows = 512};
    PlanChoice choice;
    assert_int_equal(plan_search(shape, machine, work, &limits, &choice), STATUS_OK);
    return choice;
}

static void more_is_never_slower(void **state) {
    (void)state;
    Random random = {.key = 21};
    PlanShape shape = small_shape();
    for (int round = 0; round < 36; round++) {
        PlanMachine machine = random_machine(&random);
        const PlanWork work = {1 + (uint32_t)random_below(&random, 32),
                               1 + (uint32_t)random_below(&random, 2000), 8};
        double before = best_of(&shape, &machine, &work, 0).cost.seconds;
        bool fitted = best_of(&shape, &machine, &work, 0).cost.fits;
        const size_t fields[] = {
            offsetof(PlanMachine, device_bytes),   offsetof(PlanMachine, host_bytes),
            offsetof(PlanMachine, disk_bytes),     offsetof(PlanMachine, device_rate),
            offsetof(PlanMachine, disk_read_rate), offsetof(PlanMachine, disk_write_rate),
            offsetof(PlanMachine, copy_rate),      offsetof(PlanMachine, to_device_rate),
            offsetof(PlanMachine, row_rate),       offsetof(PlanMachine, prompt_rate),
            offsetof(PlanMachine, logit_rate),     offsetof(PlanMachine, from_device_rate),
            offsetof(PlanMachine, attention)};
        for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
            PlanMachine better = machine;
            *(double *)((char *)&better + fields[i]) *= between(&random, 1, 4);
            PlanChoice after = best_of(&shape, &better, &work, 0);
            if (!fitted) continue;
            assert_true(after.cost.fits);
            if (after.cost.seconds > before * (1 + 1e-9))
                fail_msg("round %d, field %zu: %g s after %g", round, i, after.cost.seconds,
                         before);
        }
    }
}

enum { GRID = 10 };

static double best_of_grid(const PlanShape *shape, const PlanMachine *machine, const PlanWork *work,
                           uint32_t sequences) {
    double best = INFINITY;
    int host_most = machine->unified ? 0 : 100; /* of hardly any use: it is the same memory */
    for (int w = 0; w <= 100; w += GRID)
        for (int wh = 0; w + wh <= 100 && wh <= host_most; wh += GRID)
            for (int c = 0; c <= 100; c += GRID)
                for (int ch = 0; c + ch <= 100 && ch <= host_most; ch += GRID) {
                    PlanPlacement placement = placement_of(w, wh, c, ch, sequences);
                    PlanCost cost = cost_of(shape, machine, work, &placement);
                    if (cost.fits && cost.seconds < best) best = cost.seconds;
                }
    return best;
}

static void search_beats_the_grid(void **state) {
    (void)state;
    Random random = {.key = 22};
    PlanShape shape = small_shape();
    int fitted = 0, spilled = 0;
    for (int round = 0; round < 24; round++) {
        PlanMachine machine = random_machine(&random);
        shape.layer_count = 2 + 2 * (round % 2);
        const PlanWork work = {8, 100 + (uint32_t)random_below(&random, 1900), 16};
        machine.device_bytes = between(&random, 28e6, 50e6); /* about what is needed */
        machine.host_bytes = between(&random, 30e6, 60e6);
        PlanChoice choice = best_of(&shape, &machine, &work, 8);
        double grid = best_of_grid(&shape, &machine, &work, 8);
        assert_true(choice.cost.fits || isinf(grid));
        if (choice.cost.fits && choice.cost.seconds > grid * (1 + 1e-9))
            fail_msg("round %d: %.9g s, the grid has %.9g", round, choice.cost.seconds, grid);
        fitted += choice.cost.fits;
        spilled += choice.cost.fits && choice.placement.percent[PLAN_CACHE_DEVICE] < 100;
    }
    if (fitted < 10 || spilled < 3) /* or it says nothing */
        fail_msg("%d machines had room, %d of them spilled", fitted, spilled);
}

/* Budgets and shares are two views of one thing. */
static void budgets_become_shares(void **state) {
    (void)state;
    PlanShape shape = small_shape();
    PlanMachine machine = small_machine();
    machine.unified = true;
    const PlanWork work = {8, 1500, 8}, less = {8, 400, 8};
    PlanPlacement placement = placement_of(100, 0, 30, 40, 8), back = placement;
    PlanCost cost = cost_of(&shape, &machine, &work, &placement);
    assert_int_equal(plan_take_budgets(&shape, &machine, &work, cost.kv_bytes, &back), STATUS_OK);
    assert_true(fabs(back.percent[PLAN_CACHE_DEVICE] - 30) < 0.3);
    assert_true(fabs(back.percent[PLAN_CACHE_HOST] - 40) < 0.3);
    PlanCost again = cost_of(&shape, &machine, &work, &back);
    assert_true(fabs(again.decode.seconds / cost.decode.seconds - 1) < 0.02);
    assert_int_equal(plan_take_budgets(&shape, &machine, &less, cost.kv_bytes, &back), STATUS_OK);
    assert_true(back.percent[PLAN_CACHE_DEVICE] == 100); /* all of so little */
}

/* ---- what does not fit ---- */

static void the_nearest_fits(void **state) {
    (void)state;
    PlanShape shape = small_shape();
    PlanMachine machine = small_machine();
    const PlanWork work = {8, 1000, 8};
    PlanPlacement placement = placement_of(100, 0, 100, 0, 8);
    PlanChoice nearest;
    shape.layer_count = 8;
    machine.device_bytes = 95e6; /* 64 MB of weights, 4 of head, 34 of keys and values, rows */
    PlanCost cost = cost_of(&shape, &machine, &work, &placement);
    assert_false(cost.fits);
    assert_non_null(strstr(cost.refusal, "device: 10"));
    assert_int_equal(plan_nearest(&shape, &machine, &work, &placement, &nearest), STATUS_OK);
    assert_true(nearest.cost.fits);
    double moved = 200 - nearest.placement.percent[PLAN_WEIGHTS_DEVICE] -
                   nearest.placement.percent[PLAN_CACHE_DEVICE];
    for (int w = 0; w <= 100; w += 5)
        for (int c = 0; c <= 100; c += 5) {
            PlanPlacement other = placement_of(w, 0, c, 0, 8);
            if (200 - w - c < moved) assert_false(cost_of(&shape, &machine, &work, &other).fits);
        }
    assert_true(moved > 0 && moved < 100);
    machine.device_bytes = 1e6;
    assert_int_equal(plan_nearest(&shape, &machine, &work, &placement, &nearest), STATUS_OK);
    assert_false(nearest.cost.fits);
    PlanChoice none = best_of(&shape, &machine, &work, 0);
    assert_false(none.cost.fits);
    assert_non_null(strstr(none.cost.refusal, "device"));
}

static void fewer_sequences_fit(void **state) {
    (void)state;
    PlanShape shape = small_shape();
    PlanMachine machine = small_machine();
    const PlanWork work = {64, 1000, 8};
    PlanPlacement placement = placement_of(100, 0, 100, 0, 64);
    PlanChoice nearest;
    machine.device_bytes = 60e6;
    machine.host_bytes = 2e6;
    machine.disk_bytes = 1e6;
    assert_int_equal(plan_nearest(&shape, &machine, &work, &placement, &nearest), STATUS_OK);
    assert_true(nearest.cost.fits && nearest.placement.sequences < 64);
    near(nearest.cost.turns, ceil(64.0 / nearest.placement.sequences));
    PlanChoice best = best_of(&shape, &machine, &work, 0);
    assert_true(best.cost.fits && best.cost.seconds <= nearest.cost.seconds);
}

static void activations_stay(void **state) {
    (void)state;
    PlanShape shape = small_shape();
    PlanMachine machine = small_machine();
    const PlanWork work = {8, 60, 8};
    PlanPlacement placement = placement_of(100, 0, 100, 0, 8);
    placement.percent[PLAN_ACTIVATIONS_DEVICE] = 0;
    placement.percent[PLAN_ACTIVATIONS_HOST] = 100;
    PlanCost cost = cost_of(&shape, &machine, &work, &placement);
    assert_false(cost.fits);
    assert_non_null(strstr(cost.refusal, "activations"));
}

/* ---- from a file ---- */

static void shapes_of_files(void **state) {
    (void)state;
    static const char *const paths[] = {GOLDEN "/models/gguf_llama_q4_0/gguf_llama_q4_0.gguf",
                                        GOLDEN "/models/llama_gqa", GOLDEN "/models/opt_pre_norm"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        Weights *weights;
        ModelConfig config;
        PlanShape shape;
        assert_int_equal(weights_open(&weights, paths[i]), STATUS_OK);
        assert_int_equal(model_read_config(weights, &config), STATUS_OK);
        assert_int_equal(plan_shape_read(weights, &config, NULL, &shape), STATUS_OK);
        double attention = 0, mlp = 0, head = 0;
        for (int format = 0; format < PLAN_FORMAT_COUNT; format++) {
            attention += shape.attention.elements[format];
            mlp += shape.mlp.elements[format];
            head += shape.head.elements[format];
        }
        double heads = 2.0 * config.head_count + 2.0 * config.kv_head_count;
        near(attention, heads * config.head_dim * config.hidden_size);
        near(mlp, (double)config.family->mlp_matrix_count * config.hidden_size *
                      config.intermediate_size);
        near(head, (double)config.vocab_count * config.embedding_size);
        assert_true(shape.other_bytes > 0 && shape.attention.bytes > 0);
        weights_close(weights);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_on_the_device),
        cmocka_unit_test(all_on_disk),
        cmocka_unit_test(blocks_are_attended_in_host_memory),
        cmocka_unit_test(weights_stream),
        cmocka_unit_test(ranks_share),
        cmocka_unit_test(codecs_take_fewer_bytes),
        cmocka_unit_test(more_is_never_slower),
        cmocka_unit_test(search_beats_the_grid),
        cmocka_unit_test(budgets_become_shares),
        cmocka_unit_test(the_nearest_fits),
        cmocka_unit_test(fewer_sequences_fit),
        cmocka_unit_test(activations_stay),
        cmocka_unit_test(shapes_of_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
