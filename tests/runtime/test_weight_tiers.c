/* Where weights lie as a property: logits of prompts and answers, tokens and their logprobs are the same bits with all packed layers on
 * the device and with any part of them in host memory or in files, whatever the ranks, chunks, threads, I/O row, who is
 * cancelled, delays and short transfers of the disk, how late the device is, and whether KV spills at the same time. Every pass
 * reads what streams.
 *
 *     test_weight_tiers [FIRST [SEEDS [BACKEND]]] */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/invariant.h"
#include "tests/runtime/engine_rounds.h"

static Result resident_results[REQUESTS_MAX], results[REQUESTS_MAX];
static const char *directories[2];
static uint64_t rounds_streamed, rounds_spilled, bytes_read;

/* More layers than frames, which the golden models have not: shapes with random weights of this vocabulary. */
static const char *const shapes[] = {
    "{\"architectures\":[\"OPTForCausalLM\"],\"hidden_size\":96,\"num_hidden_layers\":6,\"ffn_"
    "dim\":160,"
    "\"num_attention_heads\":6,\"vocab_size\":131,\"max_position_embeddings\":128}",
    "{\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":96,\"num_hidden_layers\":5,"
    "\"intermediate_size\":224,\"num_attention_heads\":6,\"num_key_value_heads\":3,"
    "\"vocab_size\":131,\"max_position_embeddings\":128}",
    "{\"architectures\":[\"Qwen2ForCausalLM\"],\"hidden_size\":64,\"num_hidden_layers\":4,"
    "\"intermediate_size\":96,\"num_attention_heads\":4,\"num_key_value_heads\":2,"
    "\"vocab_size\":131,\"max_position_embeddings\":128}",
};

static Weights *open_shape(Random *random, uint32_t index) {
    static const char *const types[] = {"q4_0", "q5_1", "q8_0", "f16", "f32", "int4_group"};
    char path[256];
    Weights *weights;
    snprintf(path, sizeof path, "%s/spillway_shape_%u_%ld.json", directories[0], index,
             (long)getpid());
    FILE *file = fopen(path, "w");
    CHECK(file && fputs(shapes[index], file) >= 0 && fclose(file) == 0);
    const WeightsOptions options = {.type = types[pick(random, 0, 5)],
                                    .random = {.allowed = true,
                                               .seed = random_u64(random),
                                               .list_tensors = model_list_tensors}};
    CHECK(weights_open_with(&weights, path, &options) == STATUS_OK);
    unlink(path);
    return weights;
}

/* Any shares, the ends included: of the device, and of host memory. */
static void random_tiers(Random *random, EngineOptions *options) {
    static const double device_shares[] = {0, 0, 30, 60, 90, 100}, host_shares[] = {0, 0, 40, 100};
    options->weight_per_cent[TIER_DEVICE] = device_shares[pick(random, 0, 5)];
    options->weight_per_cent[TIER_HOST] = host_shares[pick(random, 0, 3)];
    options->weight_bytes[TIER_NVME] = UINT64_MAX;
    options->weight_nvme_dirs = directories;
    options->weight_nvme_dir_count = pick(random, 1, 2);
}

/* Room for every request below a least device: layers and KV then come from the same disk. */
static void random_spill(Random *random, EngineOptions *options) {
    if (pick(random, 0, 2) > 0) return;
    options->kv_bytes[TIER_DEVICE] = UINT64_MAX;
    options->kv_bytes[TIER_NVME] = 64 << 20;
    options->kv_nvme_dirs = directories;
    options->kv_nvme_dir_count = 1;
}

static void random_faults(Random *random, Round *round) {
    static const char *const kinds[] = {"io.read:delay:ms=2,odds=0.2",
                                        "io.write:delay:ms=2,odds=0.2", "io.read:short:odds=0.3",
                                        "io.write:short:odds=0.3"};
    if (pick(random, 0, 2) == 0) round->weight_faults[0] = kinds[pick(random, 0, 3)];
}

static void describe(const Round *round, const ModelChoice *model) {
    const EngineOptions *options = &round->options;
    snprintf(
        round_text, sizeof round_text,
        "%.60s, ranks %d, isa %s, threads %u, block %u, slots %u, token budget %u, requests %u, "
        "layers on device %.0f %%, in host memory %.0f %%, directories %u, KV %s, io %s, depth %u, "
        "fault %s\n",
        model->path, round->rank_count, options->cpu_isa, options->thread_count,
        options->block_tokens, options->max_num_seqs, options->max_num_batched_tokens,
        round->plan_count, options->weight_per_cent[TIER_DEVICE],
        options->weight_per_cent[TIER_HOST], options->weight_nvme_dir_count,
        options->kv_bytes[TIER_NVME] > 0 ? "spills" : "stays", options->io_engine,
        options->io_depth, round->weight_faults[0] ? round->weight_faults[0] : "none");
}

static bool same(const Round *expected, const Round *found) {
    for (uint32_t i = 0; i < found->plan_count; i++) {
        const char *problem =
            difference(&expected->results[i], &found->results[i], found->plans[i].cancel_step > 0);
        if (!problem) continue;
        printf("request %u of %u: %s differ\n", i, found->plan_count, problem);
        return false;
    }
    return true;
}

/* Every byte of the layers has one place, and files are read where something lies in them. */
static bool books_are_right(const EngineStats *resident, const EngineStats *tiered) {
    const uint64_t *bytes = tiered->weights.bytes;
    uint64_t all = 0;
    for (int tier = 0; tier < TIER_COUNT; tier++)
        all += bytes[tier];
    bool comes_by = bytes[TIER_HOST] + bytes[TIER_NVME] > 0 && strcmp(round_backend, "cpu") != 0;
    bool right = resident->weights.bytes[TIER_NVME] == 0 && resident->weights.read_bytes == 0 &&
                 all == resident->weights.bytes[TIER_DEVICE] &&
                 (bytes[TIER_NVME] == 0 || tiered->weights.read_bytes > 0) &&
                 (tiered->weights.sent_bytes > 0) == comes_by;
    if (!right) printf("the books of weights are wrong\n");
    return right;
}

static bool check_seed(uint64_t seed) {
    static const char *const io_engines[] = {"auto", "threads"};
    Random random = {.key = seed};
    ModelChoice model = *random_model(&random);
    bool golden = pick(&random, 0, 2) == 0;
    uint32_t shape = pick(&random, 0, sizeof shapes / sizeof *shapes - 1);
    if (!golden) model = (ModelChoice){shapes[shape], 3};
    Weights *weights = golden ? open_model(&model) : open_shape(&random, shape);
    Plan plans[REQUESTS_MAX], to_the_end[REQUESTS_MAX];
    uint32_t count = pick(&random, 1, REQUESTS_MAX);
    random_plans(&random, plans, count);
    memcpy(to_the_end, plans, sizeof to_the_end);
    for (uint32_t i = 0; i < count; i++)
        to_the_end[i].cancel_step = 0;
    Round resident = {.weights = weights,
                      .rank_count = (int)pick(&random, 1, model.ranks_max),
                      .plans = to_the_end,
                      .plan_count = count,
                      .results = resident_results,
                      .options = {.backend = round_backend,
                                  .emulation_seed = seed,
                                  .cpu_isa = random_isa(&random),
                                  .thread_count = 1,
                                  .max_num_seqs = REQUESTS_MAX,
                                  .max_num_batched_tokens = 128,
                                  .block_tokens = 1u << pick(&random, 1, 4)}};
    Round tiered = resident;
    tiered.plans = plans;
    tiered.results = results;
    EngineOptions *options = &tiered.options;
    options->emulation_seed++;
    options->thread_count = pick(&random, 1, 2);
    options->max_num_batched_tokens = pick(&random, 0, 1) ? pick(&random, 1, 16) : 128;
    options->io_engine = io_engines[pick(&random, 0, 1)];
    options->io_depth = pick(&random, 0, 1) ? pick(&random, 1, 8) : 32;
    random_tiers(&random, options);
    random_spill(&random, options);
    random_faults(&random, &tiered);
    describe(&tiered, &model);

    run_round(&resident);
    run_round(&tiered);
    weights_close(weights);
    rounds_streamed += tiered.stats.weights.bytes[TIER_NVME] > 0;
    rounds_spilled += tiered.stats.tiers[TIER_NVME].written_bytes > 0;
    bytes_read += tiered.stats.weights.read_bytes;
    return same(&resident, &tiered) && books_are_right(&resident.stats, &tiered.stats);
}

int main(int argument_count, char **arguments) {
    directories[0] = directories[1] = getenv("TMPDIR") ? getenv("TMPDIR") : "/var/tmp";
    int failed = run_seeds(argument_count, arguments, 120, check_seed);
    printf("layers streamed in %llu rounds, %llu MiB of them were read, KV spilled in %llu\n",
           (unsigned long long)rounds_streamed, (unsigned long long)(bytes_read >> 20),
           (unsigned long long)rounds_spilled);
    return failed;
}
