/* Spilling is invisible: prompts' logits, generated tokens and their logprobs are the same bits at any budget, with any placement
 * policy, I/O engine and fault that is recovered, as long as the block size is the same. Random requests on a tiny golden model with blocks of a few tokens. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/base/hash.h"
#include "runtime/base/random.h"
#include "runtime/engine/engine.h"

static const char model_path[] = GOLDEN "/models/gguf_llama_f32/gguf_llama_f32.gguf";

enum { REQUESTS = 6, PROMPT_MAX = 44, GENERATED_MAX = 16, VOCAB = 131 };

typedef struct Workload {
    int32_t prompts[REQUESTS][PROMPT_MAX];
    uint32_t prompt_counts[REQUESTS], max_tokens[REQUESTS];
} Workload;

typedef struct Answer {
    uint64_t digest; /* of all bits seen, in order */
    uint32_t finishes;
    FinishReason reason;
} Answer;

typedef struct Scenario {
    const char *name;
    uint64_t
        bytes[TIER_COUNT]; /* device UINT64_MAX: the least; nvme: the directory is the test's own */
    const char *placement, *io;
    const char *faults[3];
    uint32_t block_tokens, rows, sequences;
    bool unseen; /* its faults are mended below the engine */
} Scenario;

typedef struct Outcome {
    Answer answers[REQUESTS];
    EngineStats stats;
} Outcome;

static void on_logits(void *user, const LogitsEvent *event) {
    Answer *answer = user;
    answer->digest = hash_xxh3(event->logits, event->vocab_count * sizeof(float), answer->digest);
}

static void on_token(void *user, const TokenEvent *event) {
    Answer *answer = user;
    answer->digest = hash_xxh3(&event->token, sizeof event->token, answer->digest);
    answer->digest = hash_xxh3(&event->logprob, sizeof event->logprob, answer->digest);
}

static void on_finish(void *user, const FinishEvent *event) {
    Answer *answer = user;
    answer->finishes++;
    answer->reason = event->reason;
}

static void make_workload(uint64_t seed, Workload *out) {
    Random random = {.key = seed};
    for (int r = 0; r < REQUESTS; r++) {
        out->prompt_counts[r] = 1 + (uint32_t)random_below(&random, PROMPT_MAX);
        out->max_tokens[r] = 1 + (uint32_t)random_below(&random, GENERATED_MAX);
        for (uint32_t i = 0; i < out->prompt_counts[r]; i++)
            out->prompts[r][i] = (int32_t)random_below(&random, VOCAB);
    }
}

static void submit(Engine *engine, const Workload *workload, int r, Answer *answer) {
    Request request = {.id = (uint64_t)r,
                       .prompt = workload->prompts[r],
                       .prompt_count = workload->prompt_counts[r],
                       .max_tokens = workload->max_tokens[r],
                       .sampling = sampling_defaults,
                       .sink = {answer, on_token, on_finish, on_logits}};
    request.sampling.seed = (uint64_t)r;
    request.sampling.want_logprobs = true;
    assert_int_equal(engine_submit(engine, &request), STATUS_OK);
}

static void run(const Workload *workload, const Scenario *scenario, Outcome *out) {
    Weights *weights;
    Comm *comm;
    Engine *engine;
    IoFaultPlan faults = {0};
    const char *directory = getenv("TMPDIR") ? getenv("TMPDIR") : "/var/tmp";
    for (int i = 0; i < 3 && scenario->faults[i]; i++)
        assert_int_equal(io_fault_add(&faults, scenario->faults[i]), STATUS_OK);
    EngineOptions options = {.backend = "auto",
                             .cpu_isa = "auto",
                             .thread_count = 1,
                             .max_num_seqs = scenario->sequences ? scenario->sequences : 4,
                             .max_num_batched_tokens = scenario->rows ? scenario->rows : 16,
                             .block_tokens = scenario->block_tokens ? scenario->block_tokens : 4,
                             .kv_nvme_dirs = &directory,
                             .kv_nvme_dir_count = 1,
                             .kv_placement = scenario->placement,
                             .io_engine = scenario->io,
                             .io_timeout_seconds = 0.2,
                             .io_faults = faults.row_count ? &faults : NULL};
    memcpy(options.kv_bytes, scenario->bytes, sizeof options.kv_bytes);
    memset(out, 0, sizeof *out);
    assert_int_equal(weights_open(&weights, model_path), STATUS_OK);
    assert_int_equal(comm_self_create(&comm), STATUS_OK);
    assert_int_equal(engine_open(&engine, &options, weights, NULL, comm), STATUS_OK);
    for (int r = 0; r < REQUESTS; r++)
        submit(engine, workload, r, &out->answers[r]);
    bool idle = false;
    for (int step = 0; !idle; step++) {
        assert_true(step < 5000);
        assert_int_equal(engine_step(engine, &idle), STATUS_OK);
    }
    assert_int_equal(engine_stop(engine), STATUS_OK);
    out->stats = *engine_stats(engine);
    engine_close(engine);
    comm_destroy(comm);
    weights_close(weights);
}

static void assert_same(const Scenario *scenario, const Outcome *expected, const Outcome *got) {
    for (int r = 0; r < REQUESTS; r++) {
        assert_int_equal(got->answers[r].finishes, 1);
        assert_int_equal(got->answers[r].reason, FINISH_LENGTH);
        if (got->answers[r].digest != expected->answers[r].digest)
            fail_msg("%s: request %d has other bits than without tiers", scenario->name, r);
    }
    for (int tier = 0; tier < TIER_COUNT; tier++)
        assert_true(got->stats.tiers[tier].peak_bytes <= got->stats.tiers[tier].capacity_bytes);
}

/* What the tiers say they moved is what was moved, but for the transfers whose end nobody waited for; a tier that is not
 * there serves, moves and delays nothing. */
static void assert_books(const Scenario *scenario, const EngineStats *stats) {
    enum { TRANSFERS_MAX = 256 };
    for (int i = 0; i < TIER_COUNT; i++) {
        const EngineTierStats *tier = &stats->tiers[i];
        uint64_t in = 0, out = 0, slack = TRANSFERS_MAX * stats->kv_block_bytes;
        for (int reason = 0; reason < REASON_COUNT; reason++) {
            in += tier->moves_in[reason].bytes;
            out += tier->moves_out[reason].bytes;
        }
        assert_true(in <= tier->written_bytes && tier->written_bytes <= in + slack);
        assert_true(out <= tier->read_bytes && tier->read_bytes <= out + slack);
        uint64_t copies = tier->filling_blocks + tier->sealed_blocks;
        assert_true(copies * stats->kv_block_bytes <= tier->used_bytes);
        if (scenario->bytes[i] > 0) continue;
        assert_true(tier->hits == 0 && in == 0 && stats->seconds_stalled[i] == 0);
    }
    assert_true(stats->tiers[TIER_HOST].hits + stats->tiers[TIER_NVME].hits > 0);
    assert_true(stats->tiers[TIER_DEVICE].moves_in[REASON_PREFETCH].blocks > 0);
    assert_true(stats->seconds_tier_thread > 0);
}

enum { MIB = 1 << 20, ONE_ALONE = 220 << 10 }; /* device memory for the longest request */

static const Scenario clean[] = {
    {.name = "least device, nvme", .bytes = {UINT64_MAX, 0, 8 * MIB}, .io = "auto"},
    {.name = "least device, nvme by threads", .bytes = {UINT64_MAX, 0, 8 * MIB}, .io = "threads"},
    {.name = "least device, host", .bytes = {UINT64_MAX, 8 * MIB, 0}},
    {.name = "least device, some host, nvme",
     .bytes = {UINT64_MAX, 200 << 10, 8 * MIB},
     .io = "auto"},
    {.name = "half a MiB of device, lru",
     .bytes = {MIB / 2, 0, 8 * MIB},
     .io = "auto",
     .placement = "lru"},
    {.name = "one row at a time",
     .bytes = {UINT64_MAX, 0, 8 * MIB},
     .io = "auto",
     .rows = 4,
     .block_tokens = 2},
    {.name = "blocks of 8, one sequence",
     .bytes = {UINT64_MAX, 0, 8 * MIB},
     .block_tokens = 8,
     .sequences = 1},
};

static void budgets_change_no_bit(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 3; seed++) {
        Workload workload;
        Outcome expected, got;
        make_workload(seed, &workload);
        for (size_t i = 0; i < sizeof clean / sizeof *clean; i++) {
            const Scenario unlimited = {.name = "unlimited", .block_tokens = clean[i].block_tokens};
            run(&workload, &unlimited, &expected);
            run(&workload, &clean[i], &got);
            assert_same(&clean[i], &expected, &got);
            assert_int_equal(got.stats.corrupt_blocks, 0);
            uint64_t moved =
                got.stats.tiers[TIER_HOST].written_bytes + got.stats.tiers[TIER_NVME].written_bytes;
            if (clean[i].bytes[TIER_DEVICE] != UINT64_MAX) continue;
            assert_true(moved > 0);
            assert_books(&clean[i], &got.stats);
        }
    }
}

static const Scenario faulty[] = {
    {.name = "reads fail",
     .bytes = {UINT64_MAX, 0, 8 * MIB},
     .faults = {"io.read:eio:odds=0.02,seed=5,count=2"}},
    {.name = "reads go on failing",
     .bytes = {ONE_ALONE, 0, 8 * MIB},
     .faults = {"io.read:eio:odds=0.02,seed=5"}},
    {.name = "writes go on failing",
     .bytes = {ONE_ALONE, 0, 8 * MIB},
     .faults = {"io.write:eio:after=10"}},
    {.name = "reads get stuck",
     .bytes = {UINT64_MAX, 0, 8 * MIB},
     .faults = {"io.read:stuck:after=20,count=2,ms=700"}},
    {.name = "writes get stuck in the pool",
     .bytes = {UINT64_MAX, 0, 8 * MIB},
     .io = "threads",
     .faults = {"io.write:stuck:after=20,count=2,ms=700"}},
    {.name = "the disk hangs",
     .bytes = {ONE_ALONE, 0, 8 * MIB},
     .faults = {"io.read:stuck:after=10,ms=600", "io.write:stuck:after=10,ms=600"}},
    {.name = "the disk hangs, and the host goes on",
     .bytes = {ONE_ALONE, MIB / 32, 8 * MIB},
     .faults = {"io.read:stuck:after=10,ms=600", "io.write:stuck:after=10,ms=600"}},
    {.name = "bits flip",
     .bytes = {UINT64_MAX, 0, 8 * MIB},
     .faults = {"io.read:flip:odds=0.1,seed=6,count=6"}},
    {.name = "writes go astray",
     .bytes = {UINT64_MAX, 0, 8 * MIB},
     .faults = {"io.write:misdirected:odds=0.1,seed=7,count=3"}},
    {.name = "writes get lost",
     .bytes = {UINT64_MAX, 0, 8 * MIB},
     .faults = {"io.write:stale:odds=0.1,seed=8,count=3"}},
    {.name = "short moves",
     .bytes = {UINT64_MAX, 0, 8 * MIB},
     .faults = {"io.read:short:odds=0.2,seed=1", "io.write:short:odds=0.2,seed=2"},
     .unseen = true},
    {.name = "the disk goes bad for good",
     .bytes = {ONE_ALONE, 0, 8 * MIB},
     .faults = {"io.read:flip:odds=0.3,seed=3"}},
    {.name = "the disk fills up",
     .bytes = {ONE_ALONE, 0, 8 * MIB},
     .faults = {"io.write:enospc:after=10"}},
};

static void faults_change_no_bit(void **state) {
    (void)state;
    Workload workload;
    Outcome expected, got;
    const Scenario unlimited = {.name = "unlimited"};
    make_workload(4, &workload);
    run(&workload, &unlimited, &expected);
    for (size_t i = 0; i < sizeof faulty / sizeof *faulty; i++) {
        run(&workload, &faulty[i], &got);
        assert_same(&faulty[i], &expected, &got);
        uint64_t seen = got.stats.corrupt_blocks + got.stats.io_errors + got.stats.late_transfers;
        if ((seen == 0) != faulty[i].unseen)
            fail_msg("%s: %llu faults were seen", faulty[i].name, (unsigned long long)seen);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(budgets_change_no_bit),
        cmocka_unit_test(faults_change_no_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
