/* Spilling as a property: logits of prompts and answers, tokens and their logprobs are the same bits at any KV budget, whatever the
 * placement policy, the tiers below, the I/O row, the ranks, who is cancelled or parked, delays of the disk and faults that are
 * recovered, as long as the block size is the same; no budget is exceeded, all that a step reads is read ahead in the order of its use, and
 * in the end every block has been given back.
 *
 *     test_spilling [FIRST [SEEDS [BACKEND]]] */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/bytes.h"
#include "runtime/base/invariant.h"
#include "runtime/engine/kv_budget.h"
#include "runtime/engine/kv_cache.h"
#include "tests/runtime/engine_rounds.h"

/* What a seed draws beside the requests. */
typedef struct Spill {
    const ModelChoice *model;
    uint64_t least_bytes; /* of the device */
    char faults[FAULTS_MAX][64];
    uint32_t fault_count;
} Spill;

static const Placement *random_placement(Random *random) {
    uint32_t count = 0;
    while (placements[count])
        count++;
    for (;;) {
        const Placement *placement = placements[pick(random, 0, count - 1)];
        if (placement->needs == 0) return placement;
    }
}

/* Few enough of each kind that no tier is given up. */
static void random_faults(Random *random, Spill *spill) {
    static const char *const kinds[] = {
        "io.read:delay:ms=2,odds=0.1",
        "io.write:delay:ms=3,odds=0.1",
        "io.read:delay:ms=40,odds=0.5,count=2",
        "io.read:short:odds=0.2",
        "io.write:short:odds=0.2",
        "io.read:eio:odds=0.05,count=1",
        "io.read:flip:odds=0.05,count=3",
        "io.write:misdirected:odds=0.05,count=3",
        "io.write:stale:odds=0.05,count=3",
        "io.write:torn:odds=0.05,count=3",
        "io.write:eio:odds=0.05,count=1",
    };
    spill->fault_count = pick(random, 0, 2) ? pick(random, 0, 2) : 0;
    for (uint32_t i = 0; i < spill->fault_count; i++)
        snprintf(spill->faults[i], sizeof spill->faults[i], "%s,seed=%u",
                 kinds[pick(random, 0, sizeof kinds / sizeof *kinds - 1)], pick(random, 1, 999));
}

/* Of the rank that holds most KV heads. */
static KvBudgetInput budget_input(const Round *round) {
    ModelConfig config;
    const EngineOptions *options = &round->options;
    CHECK(model_read_config(round->weights, &config) == STATUS_OK);
    uint32_t rows = options->max_num_batched_tokens > options->max_num_seqs
                        ? options->max_num_batched_tokens
                        : options->max_num_seqs;
    const KvShape shape = {(uint32_t)divide_up(config.kv_head_count, (uint64_t)round->rank_count),
                           config.head_dim, options->block_tokens};
    return (KvBudgetInput){.bytes = {0, 1, 0},
                           .layout = kv_layout(&shape, codec_find(options->kv_codec),
                                               (uint32_t)options->kv_residual, true),
                           .layer_count = config.layer_count,
                           .sequence_max = options->max_num_seqs,
                           .token_max = config.context_length,
                           .row_count_max = rows};
}

/* From the least that works to half of what the requests need on the device; below it at least room for the largest request. */
static void random_budgets(Random *random, Round *round, Spill *spill) {
    KvBudgetInput input = budget_input(round);
    uint64_t slot_bytes = input.layout.slot_bytes;
    uint32_t largest = 0, all = 0;
    for (uint32_t i = 0; i < round->plan_count; i++) {
        const Plan *plan = &round->plans[i];
        uint32_t blocks = kv_layout_slots(&input.layout, plan->prompt_count + plan->max_tokens) *
                          input.layer_count;
        all += blocks;
        if (blocks > largest) largest = blocks;
    }
    uint64_t *bytes = round->options.kv_bytes;
    spill->least_bytes = kv_budget_device_min(&input);
    bytes[TIER_DEVICE] = UINT64_MAX;
    if (all / 2 * slot_bytes > spill->least_bytes && pick(random, 0, 1))
        bytes[TIER_DEVICE] =
            pick(random, (uint32_t)(spill->least_bytes / slot_bytes), all / 2) * slot_bytes;
    uint64_t below = pick(random, largest, all) + 2 * input.layer_count;
    if (input.layout.codec) /* a prompt is raw in one layer until its end */
        below += divide_up(input.token_max, input.layout.shape.block_tokens);
    switch (pick(random, 0, 2)) {
    case 0: bytes[TIER_HOST] = below * slot_bytes; break;
    case 1:
        bytes[TIER_HOST] = pick(random, 1, largest) * slot_bytes;
        bytes[TIER_NVME] = below * slot_bytes;
        break;
    default: bytes[TIER_NVME] = below * slot_bytes; break;
    }
}

/* Half of the rounds keep blocks as they are, the others with any codec that fits, the same with and without budgets. */
static void random_codec(Random *random, const Weights *weights, EngineOptions *options) {
    ModelConfig config;
    uint32_t count = 0;
    CHECK(model_read_config(weights, &config) == STATUS_OK);
    const KvShape shape = {1, config.head_dim, options->block_tokens};
    options->kv_codec = "f16";
    while (codec_at(count))
        count++;
    bool encodes = pick(random, 0, 1);
    const Codec *codec = codec_at(pick(random, 0, count - 1));
    options->kv_residual = pick(random, 0, 20);
    if (encodes && !codec_refusal(codec, &shape)) options->kv_codec = codec->name;
}

static void describe(const Round *round, const Spill *spill) {
    const EngineOptions *options = &round->options;
    int used = snprintf(
        round_text, sizeof round_text,
        "%s, ranks %d, isa %s, threads %u, block %u, slots %u, token budget %u, requests %u, "
        "device "
        "%lld (least %llu), host %llu, nvme %llu, codec %s, residual %lld, placement %s, io %s, "
        "depth %u",
        spill->model->path, round->rank_count, options->cpu_isa, options->thread_count,
        options->block_tokens, options->max_num_seqs, options->max_num_batched_tokens,
        round->plan_count, (long long)options->kv_bytes[TIER_DEVICE],
        (unsigned long long)spill->least_bytes, (unsigned long long)options->kv_bytes[TIER_HOST],
        (unsigned long long)options->kv_bytes[TIER_NVME], options->kv_codec,
        (long long)options->kv_residual, options->kv_placement, options->io_engine,
        options->io_depth);
    for (uint32_t i = 0; i < spill->fault_count; i++)
        used += snprintf(round_text + used, sizeof round_text - (size_t)used, ", fault %s",
                         spill->faults[i]);
    snprintf(round_text + used, sizeof round_text - (size_t)used, "\n");
}

static const char *compare(const Round *expected, const Round *found, uint32_t *out_culprit) {
    for (uint32_t i = 0; i < found->plan_count; i++) {
        *out_culprit = i;
        const char *problem =
            difference(&expected->results[i], &found->results[i], found->plans[i].cancel_step > 0);
        if (problem) return problem;
    }
    return NULL;
}

static Result unlimited_results[REQUESTS_MAX], results[REQUESTS_MAX];
static uint64_t rounds_moved, rounds_parked, rounds_encoded,
    recomputed_tokens; /* that the property is about anything */

static bool check_seed(uint64_t seed) {
    static const char *const io_engines[] = {"auto", "threads"};
    const char *directory = getenv("TMPDIR") ? getenv("TMPDIR") : "/var/tmp";
    Random random = {.key = seed};
    Spill spill = {.model = random_model(&random)};
    Weights *weights = open_model(spill.model);
    Plan plans[REQUESTS_MAX], to_the_end[REQUESTS_MAX];
    uint32_t count = pick(&random, 1, REQUESTS_MAX);
    random_plans(&random, plans, count);
    bool synthetic = pick(&random, 0, 5) == 0;
    for (uint32_t i = 0; i < count; i++) {
        plans[i].synthetic = synthetic;
        plans[i].generated_logits = synthetic || pick(&random, 0, 1);
    }
    memcpy(to_the_end, plans, sizeof to_the_end);
    for (uint32_t i = 0; i < count; i++) {
        to_the_end[i].cancel_step = 0;
        plans[i].park_step = pick(&random, 0, 3) ? 0 : plans[i].submit_step + pick(&random, 1, 10);
    }

    Round unlimited = {.weights = weights,
                       .rank_count = (int)pick(&random, 1, spill.model->ranks_max),
                       .plans = to_the_end,
                       .plan_count = count,
                       .results = unlimited_results,
                       .options = {.backend = round_backend,
                                   .emulation_seed = seed,
                                   .cpu_isa = random_isa(&random),
                                   .thread_count = 1,
                                   .max_num_seqs = REQUESTS_MAX,
                                   .max_num_batched_tokens = 128,
                                   .block_tokens = 1u << pick(&random, 1, 4)}};
    random_codec(&random, weights, &unlimited.options);
    Round spilled = unlimited;
    spilled.plans = plans;
    spilled.results = results;
    EngineOptions *options = &spilled.options;
    options->emulation_seed++;
    options->thread_count = pick(&random, 1, 2);
    options->max_num_seqs = pick(&random, 1, REQUESTS_MAX);
    options->max_num_batched_tokens = pick(&random, 0, 1) ? pick(&random, 1, 16) : 128;
    options->kv_nvme_dirs = &directory;
    options->kv_nvme_dir_count = 1;
    options->kv_placement = random_placement(&random)->name;
    options->io_engine = io_engines[pick(&random, 0, 1)];
    options->io_depth = pick(&random, 0, 1) ? pick(&random, 1, 8) : 32;
    random_budgets(&random, &spilled, &spill);
    random_faults(&random, &spill);
    for (uint32_t i = 0; i < spill.fault_count; i++)
        spilled.faults[i] = spill.faults[i];
    describe(&spilled, &spill);

    run_round(&unlimited);
    run_round(&spilled);
    weights_close(weights);
    uint32_t culprit = 0;
    const char *problem = compare(&unlimited, &spilled, &culprit);
    if (problem) printf("request %u of %u: %s differ\n", culprit, count, problem);
    unsigned long long left_out = spilled.stats.wants_left_out;
    if (left_out > 0) printf("%llu blocks were not read ahead: the queue was full\n", left_out);
    rounds_moved += spilled.stats.tiers[TIER_HOST].written_bytes +
                        spilled.stats.tiers[TIER_NVME].written_bytes >
                    0;
    rounds_parked += spilled.stats.parks > 0;
    rounds_encoded += spilled.stats.kv_packs > 0;
    recomputed_tokens += spilled.stats.recomputed_tokens;
    return !problem && left_out == 0;
}

int main(int argument_count, char **arguments) {
    int failed = run_seeds(argument_count, arguments, 500, check_seed);
    printf("blocks moved down in %llu rounds, were encoded in %llu, sequences were parked in %llu, "
           "%llu tokens computed again\n",
           (unsigned long long)rounds_moved, (unsigned long long)rounds_encoded,
           (unsigned long long)rounds_parked, (unsigned long long)recomputed_tokens);
    return failed;
}
