#ifndef TESTS_TIERS_SIM_ENGINE_H
#define TESTS_TIERS_SIM_ENGINE_H

/* One simulated run of one to three ranks: everything about it follows from the seed. Sequences come, grow token by token, seal their blocks, are
 * attended layer by layer in groups of pinned blocks, are cancelled, preempted, lost and computed again, while the store
 * (sim_store.h) ends transfers late and wrong. Checked: tier_manager_check after every event; every block attended holds
 * the tokens of its sequence; the oldest sequence advances in each step; everything ends once faults have stopped.
 *
 * Ranks follow the same plan, each with a store, a manager and faults of its own. After each step they tell each other which sequences
 * lost a block and what their tiers can still hold; admission goes by that alone, and what they attended must be equal. */

#include <stdint.h>

#include "tests/tiers/sim_store.h"

typedef struct SimOptions {
    uint64_t seed;
    const Placement *placement;
    uint32_t layers, block_tokens, chunk_tokens; /* chunk: most tokens of a sequence a step */
    uint32_t batch, sequence_count, prompt_max, answer_max;
    uint32_t group_blocks, staging_slots, slot_count[TIER_COUNT];
    uint32_t ranks;
    uint32_t transfers_max, writes_max, free_target, want_count_max;
    uint32_t failures_to_off, corrupt_to_off;
    uint64_t failure_window, grow_pause, io_timeout; /* of the store's clock */
    bool
        reserve; /* admit by the worst case: nothing is ever preempted while no fault takes room away */
    uint32_t plan; /* wants: 0 none, 1 in order, 2 in order and into the next step, 3 shuffled */
    bool encodes[TIER_COUNT]; /* tiers with a codec of their own */
    bool staging_varies;      /* from step to step */
    double cancel_odds;       /* a step */
    double park_odds;         /* a step of a sequence */
    uint32_t fault_steps;     /* faults stop after so many */
    double odds[SIM_FAULT_COUNT];
    double death_odds; /* a step: a lower tier dies until faults stop */
    double full_odds;  /* a step: a lower tier has no room to grow for some time */
    double hang_odds;  /* a step: what a lower tier is asked gets stuck for some time */
    double host_odds;  /* a pin: the block is attended in the host's tier, if it lies there alone */
} SimOptions;

typedef struct SimReport {
    uint64_t steps, checks, attended, preempted, cancelled, lost, refused, finished, moves, late,
        coded, in_host;
    uint64_t injected[SIM_FAULT_COUNT];
} SimReport;

SimOptions sim_options_draw(uint64_t seed, const char *placement);
void sim_options_print(const SimOptions *options);

void sim_report_add(SimReport *sum, const SimReport *report);

/* Ends the process when a rule breaks. */
SimReport sim_run(const SimOptions *options);

#endif
