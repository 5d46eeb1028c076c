/* Blocks in host memory attended there, beside the emulated device, or with another backend's name for an argument beside its: logits are those of attention on the device but for rounding, and what
 * is attended in host memory does not travel; which blocks that may be, and that wrong ones are found. */

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/backend.h"
#include "runtime/engine/kv_cache_parts.h"
#include "tests/runtime/engine_rounds.h"

enum {
    MIB = 1 << 20,
    REQUESTS = 3,
    FORCED_TOKENS = 8,
    CONTEXT_TOKENS = 60,
    PROMPT_TOKENS = 40,
    LEAST = -1
};

/* ---- engines ---- */

/* As between instruction sets (tests/README.md): of float weights, of encoded ones. */
static const double float_limit = 3e-3, encoded_limit = 0.2;
/* Where blocks are encoded as they go down, which ones differs, too. */
static const double spill_codec_limit = 0.05;

typedef struct Case {
    const char *model, *codec, *host_codec;
    double limit; /* of the largest difference of logits, as a share of their spread */
    uint32_t block_tokens;
    int64_t bytes[TIER_COUNT];
    bool prompts; /* to be prefilled; else contexts are synthetic */
    bool parks;   /* all but the first pause */
    const char *fault;
    int rank_count;
} Case;

static const char *backend_name = "emulated"; /* whose device it is */
static Result on_device[REQUESTS], in_host[REQUESTS];

static void make_plans(const Case *about, Plan plans[REQUESTS]) {
    static int32_t forced[TOKENS_MAX];
    Random random = {.key = 11};
    random_plans(&random, plans, REQUESTS);
    for (int i = 0; i < TOKENS_MAX; i++)
        forced[i] = (7 * i + 3) % VOCAB;
    for (int i = 0; i < REQUESTS; i++) {
        plans[i].prompt_count = (about->prompts ? PROMPT_TOKENS : CONTEXT_TOKENS) - 3 * (uint32_t)i;
        for (uint32_t t = 0; t < plans[i].prompt_count; t++)
            plans[i].prompt[t] = (int32_t)pick(&random, 3, VOCAB - 1);
        plans[i].max_tokens = FORCED_TOKENS;
        plans[i].forced = forced;
        plans[i].generated_logits = true;
        plans[i].synthetic = !about->prompts;
        plans[i].submit_step = about->prompts ? 3 * (uint32_t)i : 0; /* prompts beside decodes */
        plans[i].cancel_step = 0;
        plans[i].park_step = about->parks && i > 0 ? 2 + 2 * (uint32_t)i : 0;
    }
}

static EngineStats run_case(const Case *about, bool attend_host, Result *results) {
    const char *directory = getenv("TMPDIR") ? getenv("TMPDIR") : "/var/tmp";
    const ModelChoice model = {about->model, 2};
    Plan plans[REQUESTS];
    Weights *weights = open_model(&model);
    make_plans(about, plans);
    Round round = {.weights = weights,
                   .rank_count = about->rank_count ? about->rank_count : 1,
                   .plans = plans,
                   .plan_count = REQUESTS,
                   .results = results,
                   .faults = {about->fault},
                   .options = {.backend = backend_name,
                               .cpu_isa = "auto",
                               .thread_count = 2,
                               .max_num_seqs = REQUESTS,
                               .max_num_batched_tokens = 16,
                               .block_tokens = about->block_tokens,
                               .kv_nvme_dirs = &directory,
                               .kv_nvme_dir_count = 1,
                               .kv_codec = about->codec,
                               .kv_tier_codecs = {[TIER_HOST] = about->host_codec},
                               .attend_host = attend_host}};
    for (int tier = 0; tier < TIER_COUNT; tier++)
        round.options.kv_bytes[tier] =
            about->bytes[tier] == LEAST ? UINT64_MAX : (uint64_t)about->bytes[tier];
    run_round(&round);
    weights_close(weights);
    return round.stats;
}

/* Largest difference of logits as a share of their spread. */
static double distance(void) {
    double largest = 0, squares = 0, count = 0;
    for (int r = 0; r < REQUESTS; r++) {
        assert_int_equal(in_host[r].position_count, FORCED_TOKENS);
        assert_int_equal(on_device[r].position_count, FORCED_TOKENS);
        for (uint32_t p = 0; p < FORCED_TOKENS; p++)
            for (int v = 0; v < VOCAB; v++) {
                double expected = on_device[r].logits[p][v], found = in_host[r].logits[p][v];
                if (!(fabs(found - expected) <= largest)) largest = fabs(found - expected);
                squares += expected * expected;
                count++;
            }
    }
    return largest / sqrt(squares / count);
}

static const Case cases[] = {
    {.model = "llama_gqa", .limit = float_limit, .block_tokens = 4, .bytes = {LEAST, 8 * MIB}},
    {.model = "llama_wide_heads",
     .limit = float_limit,
     .block_tokens = 2,
     .bytes = {LEAST, 8 * MIB}},
    {.model = "llama_mha_biases",
     .limit = float_limit,
     .block_tokens = 8,
     .bytes = {LEAST, 100 << 10, 8 * MIB}},
    {.model = "mistral_window", .limit = float_limit, .block_tokens = 4, .bytes = {LEAST, 8 * MIB}},
    {.model = "opt_pre_norm",
     .limit = float_limit,
     .block_tokens = 4,
     .bytes = {LEAST, 200 << 10, 8 * MIB},
     .prompts = true},
    {.model = "qwen2_tied", .limit = float_limit, .block_tokens = 1, .bytes = {MIB / 2, 8 * MIB}},
    {.model = "llama_gqa",
     .limit = float_limit,
     .block_tokens = 4,
     .bytes = {LEAST, 8 * MIB},
     .prompts = true,
     .rank_count = 2},
    {.model = "llama_wide_heads",
     .limit = float_limit,
     .block_tokens = 2,
     .bytes = {LEAST, 300 << 10, 8 * MIB},
     .parks = true},
    {.model = "llama_mqa_tied",
     .codec = "int8",
     .limit = float_limit,
     .block_tokens = 2,
     .bytes = {LEAST, 100 << 10, 8 * MIB},
     .prompts = true,
     .fault = "io.read:eio:after=40,count=1"},
    {.model = "llama_rope_llama3",
     .codec = "int8",
     .limit = float_limit,
     .block_tokens = 4,
     .bytes = {LEAST, 8 * MIB}},
    {.model = "llama_mqa_tied",
     .codec = "fp8",
     .limit = float_limit,
     .block_tokens = 8,
     .bytes = {LEAST, 60 << 10, 8 * MIB},
     .prompts = true},
    {.model = "llama_mqa_tied",
     .codec = "int4_group",
     .limit = float_limit,
     .block_tokens = 4,
     .bytes = {LEAST, 8 * MIB}},
    {.model = "llama_rope_llama3",
     .host_codec = "int8",
     .limit = spill_codec_limit,
     .block_tokens = 4,
     .bytes = {LEAST, 8 * MIB}},
    {.model = "gguf_qwen3/gguf_qwen3.gguf",
     .codec = "kivi4",
     .limit = encoded_limit,
     .block_tokens = 32,
     .bytes = {LEAST, 8 * MIB}},
    {.model = "gguf_llama_q5_0/gguf_llama_q5_0.gguf",
     .codec = "turboquant3",
     .limit = encoded_limit,
     .block_tokens = 4,
     .bytes = {LEAST, 8 * MIB}},
};

static void logits_are_those_of_the_device_but_for_rounding(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        EngineStats device = run_case(&cases[i], false, on_device);
        EngineStats host = run_case(&cases[i], true, in_host);
        double found = distance();
        print_message("%s, %s: off by %.1e; %u blocks attended in host memory\n", cases[i].model,
                      cases[i].codec ? cases[i].codec : "f16", found,
                      (unsigned)host.host_attended_blocks);
        if (!(found <= cases[i].limit)) fail_msg("%s: off by %g", cases[i].model, found);
        assert_int_equal(device.host_attended_blocks, 0);
        assert_true(host.host_attended_blocks > 0 && host.host_attended_bytes > 0);
        assert_int_equal(host.corrupt_blocks, 0);
        assert_true(cases[i].fault || host.recomputed_tokens == 0);
        assert_true(!cases[i].parks || host.parks > 0);
    }
}

/* Blocks that fill stay on the device, and contexts are made there: then hardly anything comes up from host memory. */
static void what_is_attended_in_host_memory_does_not_travel(void **state) {
    (void)state;
    const Case about = {.model = "llama_gqa",
                        .block_tokens = 4,
                        .bytes = {40 * 4096, 8 * MIB},
                        .limit = float_limit};
    EngineStats device = run_case(&about, false, on_device);
    EngineStats host = run_case(&about, true, in_host);
    /* a step reads a block once in either way; a few come home, where a place is free */
    double stayed = (double)host.host_attended_bytes;
    double travelled = (double)device.tiers[TIER_HOST].read_bytes;
    double came = (double)host.tiers[TIER_HOST].read_bytes;
    print_message("%g bytes stayed and %g came, of %g\n", stayed, came, travelled);
    if (stayed < 0.7 * travelled || stayed > 1.5 * travelled || came > 0.1 * travelled)
        fail_msg("%g bytes stayed and %g came, of %g", stayed, came, travelled);
    /* queries down, (max, sum, out) up: a row, layer and step each */
    uint64_t rows = REQUESTS * FORCED_TOKENS, layers = 2, heads = 9, head_dim = 8;
    assert_true(host.host_partial_bytes > 0);
    assert_true(host.host_partial_bytes <=
                rows * layers * heads * (2 * head_dim + 2) * sizeof(float));
    assert_true(distance() <= float_limit);
}

static void refuse(EngineOptions options, ErrorCode code, const char *says) {
    const ModelChoice model = {"llama_gqa", 1};
    Weights *weights = open_model(&model);
    Comm *comm;
    Engine *engine = NULL;
    const char *text;
    assert_int_equal(comm_self_create(&comm), STATUS_OK);
    error_capture_begin();
    assert_int_not_equal(engine_open(&engine, &options, weights, NULL, comm), STATUS_OK);
    error_capture_end();
    assert_int_equal(error_last(&text), code);
    if (!strstr(text, says)) fail_msg("\"%s\"", text);
    comm_destroy(comm);
    weights_close(weights);
}

static void it_is_refused_where_it_means_nothing(void **state) {
    (void)state;
    EngineOptions options = {.backend = "cpu",
                             .cpu_isa = "auto",
                             .thread_count = 1,
                             .max_num_seqs = 2,
                             .max_num_batched_tokens = 16,
                             .block_tokens = 4,
                             .kv_bytes = {UINT64_MAX, MIB},
                             .attend_host = true};
    refuse(options, ERROR_UNAVAILABLE, "--attend host: device cpu computes in host memory");
    options.backend = "emulated";
    options.kv_bytes[TIER_DEVICE] = MIB;
    options.kv_bytes[TIER_HOST] = 0;
    refuse(options, ERROR_USAGE, "see --kv-host-size");
}

/* ---- a cache ---- */

static const KvShape shape = {.kv_head_count = 2, .head_dim = 8, .block_tokens = 4};

enum { CONTEXT = 120, BLOCKS = CONTEXT / 4, DEVICE_SLOTS = 30, STAGING = 16 };

typedef struct Rig {
    Device *device;
    Kernels kernels;
    KernelContext context;
    KvCache *cache;
} Rig;

static KvSequence sequence_of(uint64_t id) {
    return (KvSequence){.id = id, .prompt_count = CONTEXT, .token_capacity = 2 * CONTEXT};
}

/* One layer, one sequence of BLOCKS full blocks; all but 13 of them have come down. */
static void open_rig(Rig *rig) {
    *rig = (Rig){0};
    const BackendOptions backend = {.cpu_isa = "auto"};
    const KernelLimits limits = {
        .row_count = 2, .column_count = 64, .head_count = 2, .head_dim = 8, .block_tokens = 4};
    assert_int_equal(backend_open("emulated", &backend, &rig->device, &rig->kernels), STATUS_OK);
    assert_int_equal(rig->kernels.context_open(&rig->kernels, rig->device, &limits, &rig->context),
                     STATUS_OK);
    const KvCacheOptions options = {.device = rig->device,
                                    .kernels = &rig->kernels,
                                    .context = &rig->context,
                                    .layout = kv_layout(&shape, NULL, 0, true),
                                    .layer_count = 1,
                                    .slot_count = 2,
                                    .row_count_max = 4,
                                    .slots = {DEVICE_SLOTS, 2 * BLOCKS},
                                    .staging_slots = STAGING,
                                    .placement = placement_find("scan"),
                                    .attends_host = true};
    assert_int_equal(kv_cache_create(&rig->cache, &options), STATUS_OK);
    const KvSequence sequence = sequence_of(7);
    assert_int_equal(kv_cache_open(rig->cache, 0, &sequence), STATUS_OK);
    assert_int_equal(kv_cache_fill(rig->cache, 0, CONTEXT), STATUS_OK);
    kv_cache_settle(rig->cache);
}

static void close_rig(Rig *rig) {
    kv_cache_close(rig->cache, 0);
    kv_cache_destroy(rig->cache);
    rig->kernels.context_close(rig->device, &rig->context);
    rig->device->close(rig->device);
}

typedef struct Walk {
    uint32_t device_blocks, host_blocks;
} Walk;

static bool lies_in(const Rig *rig, Tier tier, const void *bytes) {
    const KvCacheOptions *options = &rig->cache->options;
    const uint8_t *memory = rig->cache->memory[tier], *at = bytes;
    return at >= memory && at < memory + options->slots[tier] * options->layout.slot_bytes;
}

static uint32_t count_blocks(const Rig *rig, const AttendRun *runs, uint32_t run_count, Tier tier) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < run_count; i++) {
        assert_true(attend_run_in_groups(&runs[i]));
        for (uint32_t b = 0; b < runs[i].block_count; b++)
            assert_true(lies_in(rig, tier, runs[i].blocks[b]));
        count += runs[i].block_count;
    }
    return count;
}

/* The newest `row_count` tokens against all blocks. */
static Walk walk(const Rig *rig, uint32_t row_count) {
    Walk seen = {0};
    const BatchSequence sequence = {.row_count = row_count, .position_first = CONTEXT - row_count};
    const Batch batch = {.sequences = &sequence, .sequence_count = 1, .row_count = row_count};
    const KvWant want = {.batch = &batch, .layer_end = 1};
    kv_cache_begin_step(rig->cache, &batch, 0);
    kv_cache_want(rig->cache, &want);
    KvCursor cursor = kv_cache_begin(rig->cache, &batch, 0, 0);
    for (;;) {
        KvRuns runs;
        assert_int_equal(kv_cache_next(&cursor, &runs), STATUS_OK);
        tier_manager_check(rig->cache->manager);
        if (runs.device_count + runs.host_count == 0) return seen;
        seen.device_blocks += count_blocks(rig, runs.device, runs.device_count, TIER_DEVICE);
        seen.host_blocks += count_blocks(rig, runs.host, runs.host_count, TIER_HOST);
    }
}

static void decodes_read_blocks_where_they_lie(void **state) {
    (void)state;
    Rig rig;
    open_rig(&rig);
    for (int step = 0; step < 3; step++) {
        Walk seen = walk(&rig, 1);
        assert_int_equal(seen.device_blocks + seen.host_blocks, BLOCKS);
        assert_true(seen.host_blocks >= BLOCKS - (DEVICE_SLOTS - STAGING));
        KvCacheStats stats = kv_cache_stats(rig.cache);
        assert_int_equal(stats.mover.read_bytes[TIER_HOST], 0);
        assert_int_equal(stats.host_blocks, (step + 1) * seen.host_blocks);
        assert_int_equal(stats.host_bytes, stats.host_blocks * stats.slot_bytes);
    }
    Walk prefill = walk(&rig, 2); /* more rows than one: the device's */
    assert_int_equal(prefill.host_blocks, 0);
    assert_int_equal(prefill.device_blocks, BLOCKS);
    assert_true(kv_cache_stats(rig.cache).mover.read_bytes[TIER_HOST] > 0);
    close_rig(&rig);
}

/* The first slot of the host's tier holds a block that came down, and nobody has read it there yet. */
static void wrong_blocks_are_found_before_they_are_attended(void **state) {
    (void)state;
    Rig rig;
    open_rig(&rig);
    rig.cache->memory[TIER_HOST][sizeof(SpillHeader)] ^= 1;
    walk(&rig, 1);
    assert_true(kv_cache_is_lost(rig.cache, 0));
    assert_int_equal(kv_cache_stats(rig.cache).manager.corrupt_blocks, 1);
    close_rig(&rig);
}

/* What the other cases count depends on how fast the emulated device is, or is within it. */
int main(int argument_count, char **arguments) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_are_those_of_the_device_but_for_rounding),
        cmocka_unit_test(what_is_attended_in_host_memory_does_not_travel),
        cmocka_unit_test(it_is_refused_where_it_means_nothing),
        cmocka_unit_test(decodes_read_blocks_where_they_lie),
        cmocka_unit_test(wrong_blocks_are_found_before_they_are_attended),
    };
    if (argument_count > 1) {
        backend_name = arguments[1];
        cmocka_set_test_filter("logits_*");
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
