/* Spilling where it is hardest, case by case: the least device memory over every kind of tier below, and each fault that is recovered.
 * test_spilling draws such cases at random; here each is sure to be met. */

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "kernels/backend.h"
#include "tests/runtime/engine_rounds.h"

enum {
    MIB = 1 << 20,
    REQUESTS = 6,
    LEAST = -1,
    ONE_ALONE = 300 << 10
}; /* holds the longest request */

typedef struct Case {
    const char *name;
    int64_t bytes[TIER_COUNT];
    const char *placement, *io;
    const char *fault[2];
    const char *host_codec, *nvme_codec;
    uint32_t block_tokens, rows, sequences; /* 0: 4, 16, 4 */
    bool unseen;                            /* its faults are mended below the engine */
} Case;

static const ModelChoice model = {"gguf_llama_f32/gguf_llama_f32.gguf", 1};
static Result expected[REQUESTS], found[REQUESTS];

/* Requests that all run to their end. */
static void make_plans(uint64_t seed, Plan plans[REQUESTS]) {
    Random random = {.key = seed};
    random_plans(&random, plans, REQUESTS);
    for (int i = 0; i < REQUESTS; i++)
        plans[i].submit_step = plans[i].cancel_step = 0;
}

static const char *backend = "auto";

static Round round_of(const Weights *weights, const Plan *plans, const Case *spill) {
    static const char *directory;
    directory = getenv("TMPDIR") ? getenv("TMPDIR") : "/var/tmp";
    Round round = {
        .weights = weights,
        .rank_count = 1,
        .plans = plans,
        .plan_count = REQUESTS,
        .results = found,
        .faults = {spill->fault[0], spill->fault[1]},
        .options = {
            .backend = backend,
            .cpu_isa = "auto",
            .thread_count = 1,
            .max_num_seqs = spill->sequences ? spill->sequences : 4,
            .max_num_batched_tokens = spill->rows ? spill->rows : 16,
            .block_tokens = spill->block_tokens ? spill->block_tokens : 4,
            .kv_nvme_dirs = &directory,
            .kv_nvme_dir_count = 1,
            .kv_tier_codecs = {[TIER_HOST] = spill->host_codec, [TIER_NVME] = spill->nvme_codec},
            .kv_residual = -1,
            .kv_placement = spill->placement,
            .io_engine = spill->io,
            .io_timeout_seconds = 0.2}};
    for (int tier = 0; tier < TIER_COUNT; tier++)
        round.options.kv_bytes[tier] =
            spill->bytes[tier] == LEAST ? UINT64_MAX : (uint64_t)spill->bytes[tier];
    return round;
}

/* Runs the case beside an unlimited round of the same block size. */
static EngineStats run_case(const Case *spill, const Plan *plans) {
    Weights *weights = open_model(&model);
    const Case unlimited_case = {.name = "unlimited", .block_tokens = spill->block_tokens};
    Round unlimited = round_of(weights, plans, &unlimited_case);
    Round spilled = round_of(weights, plans, spill);
    unlimited.results = expected;
    run_round(&unlimited);
    run_round(&spilled);
    weights_close(weights);
    for (int i = 0; i < REQUESTS; i++) {
        const char *problem = difference(&expected[i], &found[i], false);
        if (problem) fail_msg("%s: request %d: %s differ", spill->name, i, problem);
    }
    return spilled.stats;
}

/* What the tiers say they moved is what was moved; a tier that is not there serves, moves and delays nothing. */
static void assert_books(const Case *spill, const EngineStats *stats) {
    for (int i = 0; i < TIER_COUNT; i++) {
        const EngineTierStats *tier = &stats->tiers[i];
        uint64_t in = 0, out = 0;
        for (int reason = 0; reason < REASON_COUNT; reason++) {
            in += tier->moves_in[reason].bytes;
            out += tier->moves_out[reason].bytes;
        }
        assert_int_equal(in, tier->written_bytes);
        assert_int_equal(out, tier->read_bytes);
        assert_int_equal(tier->filling_blocks + tier->sealed_blocks, 0);
        if (spill->bytes[i] != 0) continue;
        assert_true(tier->hits == 0 && in == 0 && stats->seconds_stalled[i] == 0);
    }
    assert_true(stats->tiers[TIER_HOST].hits + stats->tiers[TIER_NVME].hits > 0);
    assert_true(stats->tiers[TIER_DEVICE].moves_in[REASON_PREFETCH].blocks > 0);
    assert_true(stats->seconds_tier_thread > 0);
}

static const Case clean[] = {
    {.name = "least device, nvme", .bytes = {LEAST, 0, 8 * MIB}, .io = "auto"},
    {.name = "least device, nvme by threads", .bytes = {LEAST, 0, 8 * MIB}, .io = "threads"},
    {.name = "least device, host", .bytes = {LEAST, 8 * MIB, 0}},
    {.name = "least device, some host, nvme", .bytes = {LEAST, 200 << 10, 8 * MIB}, .io = "auto"},
    {.name = "half a MiB of device, lru",
     .bytes = {MIB / 2, 0, 8 * MIB},
     .io = "auto",
     .placement = "lru"},
    {.name = "one row at a time",
     .bytes = {LEAST, 0, 8 * MIB},
     .io = "auto",
     .rows = 4,
     .block_tokens = 2},
    {.name = "blocks of 8, one sequence",
     .bytes = {LEAST, 0, 8 * MIB},
     .block_tokens = 8,
     .sequences = 1},
};

static void budgets_change_no_bit(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 3; seed++) {
        Plan plans[REQUESTS];
        make_plans(seed, plans);
        for (size_t i = 0; i < sizeof clean / sizeof *clean; i++) {
            EngineStats stats = run_case(&clean[i], plans);
            uint64_t moved =
                stats.tiers[TIER_HOST].written_bytes + stats.tiers[TIER_NVME].written_bytes;
            assert_int_equal(stats.corrupt_blocks + stats.recomputed_tokens, 0);
            if (clean[i].bytes[TIER_DEVICE] != LEAST) continue;
            assert_true(moved > 0);
            assert_books(&clean[i], &stats);
        }
    }
}

/* Where few transfers are made (ONE_ALONE) a fault starts at a number of them: how many there are is a matter of timing, and odds may meet none. */
static const Case faulty[] = {
    {.name = "reads fail",
     .bytes = {LEAST, 0, 8 * MIB},
     .fault = {"io.read:eio:odds=0.02,seed=5,count=2"}},
    {.name = "reads go on failing",
     .bytes = {ONE_ALONE, 0, 8 * MIB},
     .fault = {"io.read:eio:after=8"}},
    {.name = "writes go on failing",
     .bytes = {ONE_ALONE, 0, 8 * MIB},
     .fault = {"io.write:eio:after=10"}},
    {.name = "reads get stuck",
     .bytes = {LEAST, 0, 8 * MIB},
     .fault = {"io.read:stuck:after=20,count=2,ms=700"}},
    {.name = "writes get stuck in the pool",
     .bytes = {LEAST, 0, 8 * MIB},
     .io = "threads",
     .fault = {"io.write:stuck:after=20,count=2,ms=700"}},
    {.name = "the disk hangs",
     .bytes = {ONE_ALONE, 0, 8 * MIB},
     .fault = {"io.read:stuck:after=10,ms=600", "io.write:stuck:after=10,ms=600"}},
    {.name = "the disk hangs, and the host goes on",
     .bytes = {ONE_ALONE, MIB / 32, 8 * MIB},
     .fault = {"io.read:stuck:after=10,ms=600", "io.write:stuck:after=10,ms=600"}},
    {.name = "bits flip",
     .bytes = {LEAST, 0, 8 * MIB},
     .fault = {"io.read:flip:odds=0.1,seed=6,count=12"}},
    {.name = "writes go astray",
     .bytes = {LEAST, 0, 8 * MIB},
     .fault = {"io.write:misdirected:odds=0.1,seed=7,count=3"}},
    {.name = "writes get lost",
     .bytes = {LEAST, 0, 8 * MIB},
     .fault = {"io.write:stale:odds=0.1,seed=8,count=3"}},
    {.name = "short moves",
     .bytes = {LEAST, 0, 8 * MIB},
     .fault = {"io.read:short:odds=0.2,seed=1", "io.write:short:odds=0.2,seed=2"},
     .unseen = true},
    {.name = "the disk goes bad for good",
     .bytes = {ONE_ALONE, 0, 8 * MIB},
     .fault = {"io.read:flip:after=8"}},
    {.name = "the disk fills up",
     .bytes = {ONE_ALONE, 0, 8 * MIB},
     .fault = {"io.write:enospc:after=10"}},
};

static void faults_change_no_bit(void **state) {
    (void)state;
    Plan plans[REQUESTS];
    make_plans(4, plans);
    for (size_t i = 0; i < sizeof faulty / sizeof *faulty; i++) {
        EngineStats stats = run_case(&faulty[i], plans);
        uint64_t seen = stats.corrupt_blocks + stats.io_errors + stats.late_transfers;
        if ((seen == 0) != faulty[i].unseen)
            fail_msg("%s: %llu faults were seen", faulty[i].name, (unsigned long long)seen);
    }
}

/* ---- codecs on spill ---- */

enum { FORCED_TOKENS = 12 };

/* Synthetic contexts and fixed answers: what differs between rounds are the keys and values that were read. */
static void make_forced_plans(Plan plans[REQUESTS]) {
    static int32_t forced[TOKENS_MAX];
    make_plans(9, plans);
    for (int i = 0; i < TOKENS_MAX; i++)
        forced[i] = (7 * i + 3) % VOCAB;
    for (int i = 0; i < REQUESTS; i++) {
        plans[i].prompt_count = PROMPT_MAX - (uint32_t)i;
        plans[i].max_tokens = FORCED_TOKENS;
        plans[i].forced = forced;
        plans[i].generated_logits = plans[i].synthetic = true;
    }
}

/* Largest difference of logits as a share of their spread. */
static double distance(void) {
    double largest = 0, squares = 0, count = 0;
    for (int r = 0; r < REQUESTS; r++) {
        assert_int_equal(found[r].position_count, expected[r].position_count);
        for (uint32_t p = 0; p < found[r].position_count; p++)
            for (int v = 0; v < VOCAB; v++) {
                double off = fabs((double)found[r].logits[p][v] - expected[r].logits[p][v]);
                if (off > largest) largest = off;
                squares += (double)expected[r].logits[p][v] * expected[r].logits[p][v];
                count++;
            }
    }
    return largest / sqrt(squares / count);
}

static EngineStats run_forced(const Case *spill, Result *results, const char *codec) {
    static const ModelChoice wide = {"llama_rope_llama3", 1};
    Plan plans[REQUESTS];
    make_forced_plans(plans);
    Weights *weights = open_model(&wide);
    Round round = round_of(weights, plans, spill);
    round.results = results;
    round.options.kv_codec = codec;
    round.options.kv_residual = 0;
    run_round(&round);
    weights_close(weights);
    return round.stats;
}

static void check_codecs_of_tiers(void) {
    const Case all = {.name = "all", .block_tokens = 32};
    run_forced(&all, expected, NULL);
    run_forced(&all, found, "int8");
    double everywhere = distance();
    assert_true(everywhere > 0);
    for (Tier tier = TIER_HOST; tier < TIER_COUNT; tier++) {
        Case plenty = {.name = "plenty", .bytes = {16 * MIB}, .block_tokens = 32};
        plenty.bytes[tier] = 8 * MIB;
        plenty.host_codec = tier == TIER_HOST ? "int8" : NULL;
        plenty.nvme_codec = tier == TIER_NVME ? "int8" : NULL;
        run_forced(&plenty, found, NULL);
        assert_true(distance() == 0);
        Case least = plenty;
        least.bytes[TIER_DEVICE] = LEAST;
        EngineStats coded = run_forced(&least, found, NULL);
        double spilled = distance();
        if (!(spilled > 0 && spilled < 2 * everywhere))
            fail_msg("%s: off by %g, everywhere %g", tier_name(tier), spilled, everywhere);
        least.host_codec = least.nvme_codec = NULL;
        EngineStats raw = run_forced(&least, found, NULL);
        assert_true(distance() == 0);
        assert_true(coded.tiers[tier].read_bytes < raw.tiers[tier].read_bytes);
    }
}

static void what_goes_down_is_encoded_there(void **state) {
    (void)state;
    check_codecs_of_tiers();
}

static bool has_emulation(void) {
    Device *device;
    Kernels kernels;
    error_capture_begin();
    Status status = backend_open("emulated", &(BackendOptions){0}, &device, &kernels);
    error_capture_end();
    if (status == STATUS_OK) device->close(device);
    return status == STATUS_OK;
}

/* Out of the host's reach: blocks come down raw and are encoded in host memory. */
static void what_goes_down_from_a_device_is_encoded_there(void **state) {
    (void)state;
    if (!has_emulation()) skip();
    backend = "emulated";
    check_codecs_of_tiers();
    backend = "auto";
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(budgets_change_no_bit),
        cmocka_unit_test(faults_change_no_bit),
        cmocka_unit_test(what_goes_down_is_encoded_there),
        cmocka_unit_test(what_goes_down_from_a_device_is_encoded_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
