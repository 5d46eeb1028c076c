#include <inttypes.h>
#include <stdio.h>

#include "tests/tiers/sim_engine.h"

static uint32_t between(Random *random, uint32_t least, uint32_t most) {
    return least + (uint32_t)random_below(random, most - least + 1u);
}

static const Placement *draw_placement(Random *random, const char *name) {
    if (name) return placement_find(name);
    uint32_t count = 0;
    while (placements[count])
        count++;
    for (;;) {
        const Placement *placement = placements[random_below(random, count)];
        if (!(placement->needs & PLACEMENT_NEEDS_TRACE)) return placement;
    }
}

static uint32_t blocks_of(const SimOptions *options, uint32_t tokens) {
    return (tokens + options->block_tokens - 1) / options->block_tokens;
}

/* The device: the blocks of one layer that a step holds, of one sequence or of the whole batch. All tiers together: the longest
 * sequence and a place to change places. From there up to plenty. */
static void draw_tiers(SimOptions *options, Random *random) {
    uint32_t longest = blocks_of(options, options->prompt_max + options->answer_max);
    uint32_t filling = (blocks_of(options, options->chunk_tokens) + 1) * options->batch;
    uint32_t home = filling + between(random, 0, 6);
    uint32_t need = longest * options->layers;
    uint32_t lower = need > home ? need - home + 1 : 0;
    lower +=
        between(random, 0, 1) ? between(random, 0, 4) : between(random, 0, need * options->batch);
    options->slot_count[TIER_DEVICE] = home + options->staging_slots;
    options->slot_count[TIER_HOST] = between(random, 0, lower);
    options->slot_count[TIER_NVME] = lower - options->slot_count[TIER_HOST];
}

static void draw_faults(SimOptions *options, Random *random) {
    options->odds[SIM_FAULT_SLOW] = random_unit(random) * 0.3;
    if (between(random, 0, 3) == 0) return; /* late and reordered only */
    options->fault_steps = between(random, 1, 60);
    for (int fault = SIM_FAULT_STUCK; fault < SIM_FAULT_COUNT; fault++)
        if (between(random, 0, 2) == 0) options->odds[fault] = random_unit(random) * 0.05;
    if (between(random, 0, 3) == 0) options->death_odds = 0.02;
    if (between(random, 0, 2) == 0) options->full_odds = 0.05;
    if (between(random, 0, 3) == 0) options->hang_odds = 0.05;
}

SimOptions sim_options_draw(uint64_t seed, const char *placement) {
    Random draws = {.key = seed, .stream = 1}, *random = &draws;
    SimOptions options = {.seed = seed,
                          .placement = draw_placement(random, placement),
                          .layers = between(random, 1, 4),
                          .block_tokens = between(random, 1, 4),
                          .chunk_tokens = between(random, 1, 8),
                          .batch = between(random, 1, 5),
                          .sequence_count = between(random, 1, 8),
                          .prompt_max = between(random, 1, 16),
                          .answer_max = between(random, 1, 16),
                          .group_blocks = between(random, 1, 4),
                          .transfers_max = between(random, 1, 16),
                          .free_target = between(random, 0, 3),
                          .want_count_max = between(random, 1, 64),
                          .ranks = between(random, 0, 3) ? 1 : between(random, 2, 3),
                          .failures_to_off = between(random, 1, 16),
                          .corrupt_to_off = between(random, 1, 16),
                          .failure_window = between(random, 0, 20000),
                          .grow_pause = between(random, 1, 2000),
                          .io_timeout = between(random, 600, 3000),
                          .reserve = between(random, 0, 1),
                          .plan = between(random, 0, 3),
                          .staging_varies = between(random, 0, 1),
                          .cancel_odds = between(random, 0, 1) * 0.03,
                          .park_odds = between(random, 0, 1) * 0.3};
    options.staging_slots = options.group_blocks + between(random, 0, 8);
    options.writes_max = between(random, 1, options.transfers_max);
    options.reserve |= options.ranks > 1; /* who enters is said by the plan */
    for (int tier = TIER_HOST; tier < TIER_COUNT; tier++)
        options.encodes[tier] = between(random, 0, 3) == 0;
    draw_tiers(&options, random);
    draw_faults(&options, random);
    options.host_odds = between(random, 0, 2) == 0 ? random_unit(random) : 0;
    return options;
}

void sim_options_print(const SimOptions *options) {
    printf("seed %" PRIu64
           ": ranks %u placement %s layers %u block_tokens %u chunk_tokens %u batch %u "
           "sequences %u prompt_max %u answer_max %u group_blocks %u staging %u slots %u/%u/%u "
           "transfers_max %u writes_max %u free_target %u want_count_max %u failures_to_off %u "
           "in %" PRIu64 " corrupt_to_off %u grow_pause %" PRIu64 " io_timeout %" PRIu64
           " reserve %d plan %u staging_varies %d cancel_odds %g park_odds %g "
           "encodes %d/%d fault_steps %u death_odds %g full_odds %g hang_odds %g host_odds %g",
           options->seed, options->ranks, options->placement->name, options->layers,
           options->block_tokens, options->chunk_tokens, options->batch, options->sequence_count,
           options->prompt_max, options->answer_max, options->group_blocks, options->staging_slots,
           options->slot_count[TIER_DEVICE], options->slot_count[TIER_HOST],
           options->slot_count[TIER_NVME], options->transfers_max, options->writes_max,
           options->free_target, options->want_count_max, options->failures_to_off,
           options->failure_window, options->corrupt_to_off, options->grow_pause,
           options->io_timeout, options->reserve, options->plan, options->staging_varies,
           options->cancel_odds, options->park_odds, options->encodes[TIER_HOST],
           options->encodes[TIER_NVME], options->fault_steps, options->death_odds,
           options->full_odds, options->hang_odds, options->host_odds);
    for (int fault = 0; fault < SIM_FAULT_COUNT; fault++)
        if (options->odds[fault] > 0)
            printf(" %s %.4f", sim_fault_names[fault], options->odds[fault]);
    printf("\n");
}
