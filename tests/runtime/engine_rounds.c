#include "tests/runtime/engine_rounds.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/cpu_features.h"
#include "runtime/base/invariant.h"
#include "runtime/engine/sampler.h"

/* ---- one engine ---- */

static void on_logits(void *user, const LogitsEvent *event) {
    Result *result = user;
    CHECK(event->vocab_count == VOCAB);
    CHECK(event->position == result->position_first + result->position_count);
    memcpy(result->logits[result->position_count++], event->logits, VOCAB * sizeof(float));
}

static void on_token(void *user, const TokenEvent *event) {
    Result *result = user;
    CHECK(event->index == result->token_count && event->index < TOKENS_MAX);
    CHECK(event->top_count == TOP);
    result->tokens[result->token_count] = event->token;
    result->logprobs[result->token_count] = event->logprob;
    memcpy(result->top[result->token_count++], event->top, TOP * sizeof *event->top);
}

static void on_finish(void *user, const FinishEvent *event) {
    Result *result = user;
    result->reason = event->reason;
    result->finish_count++;
}

static void submit(const Round *round, Engine *engine, uint32_t index) {
    const Plan *plan = &round->plans[index];
    Request request = {
        .id = index,
        .prompt = plan->prompt,
        .prompt_count = plan->prompt_count,
        .max_tokens = plan->max_tokens,
        .forced = plan->forced,
        .forced_count = plan->forced ? plan->max_tokens : 0,
        .generated_logits = plan->generated_logits,
        .ignore_eos = true,
        .synthetic_context = plan->synthetic,
        .sampling = plan->sampling,
        .sink = {.user = &round->results[index],
                 .on_token = on_token,
                 .on_finish = on_finish,
                 .on_logits = on_logits},
    };
    round->results[index].position_first = plan->generated_logits ? plan->prompt_count - 1 : 0;
    CHECK(engine_submit(engine, &request) == STATUS_OK);
}

static void run_to_idle(Engine *engine) {
    bool idle = false;
    while (!idle)
        CHECK(engine_step(engine, &idle) == STATUS_OK);
}

static bool all_finished(const Round *round) {
    uint32_t finished = 0;
    for (uint32_t i = 0; i < round->plan_count; i++)
        finished += round->results[i].finish_count > 0;
    return finished == round->plan_count;
}

/* Those that have ended before are not there any more. */
static void disturb(const Plan *plan, Engine *engine, uint64_t id, uint32_t step) {
    if (step == 0) return;
    if (plan->cancel_step == step) engine_cancel(engine, id);
    if (plan->park_step == step) engine_park(engine, id);
    if (plan->park_step > 0 && plan->park_step + PARK_STEPS == step) engine_resume(engine, id);
}

static void run_together(const Round *round, Engine *engine) {
    uint32_t submitted = 0;
    for (uint32_t step = 0; !all_finished(round); step++) {
        bool idle;
        for (; submitted < round->plan_count && round->plans[submitted].submit_step <= step;
             submitted++)
            submit(round, engine, submitted);
        for (uint32_t i = 0; i < submitted; i++)
            disturb(&round->plans[i], engine, i, step);
        CHECK(engine_step(engine, &idle) == STATUS_OK);
    }
}

static void lead(const Round *round, Engine *engine) {
    if (round->one_by_one)
        for (uint32_t i = 0; i < round->plan_count; i++) {
            submit(round, engine, i);
            run_to_idle(engine);
        }
    else
        run_together(round, engine);
    CHECK(engine_stop(engine) == STATUS_OK);
}

/* After engine_stop: blocks are all given back. Rank 0 has the sums of all ranks by then, the others their own. */
static void check_books(const EngineStats *stats) {
    for (int tier = 0; tier < TIER_COUNT; tier++) {
        CHECK(stats->tiers[tier].peak_bytes <= stats->tiers[tier].capacity_bytes);
        CHECK(stats->tiers[tier].used_bytes == 0);
    }
}

typedef struct RankThread {
    pthread_t thread;
    Round *round;
    Comm *comm;
    IoFaultPlan faults, weight_faults;
} RankThread;

static void *rank_main(void *argument) {
    RankThread *self = argument;
    Round *round = self->round;
    EngineOptions options = round->options;
    Engine *engine;
    for (int i = 0; i < FAULTS_MAX && round->faults[i]; i++)
        CHECK(io_fault_add(&self->faults, round->faults[i]) == STATUS_OK);
    for (int i = 0; i < FAULTS_MAX && round->weight_faults[i]; i++)
        CHECK(io_fault_add(&self->weight_faults, round->weight_faults[i]) == STATUS_OK);
    options.weight_faults = self->weight_faults.row_count > 0 ? &self->weight_faults : NULL;
    options.io_faults = self->faults.row_count > 0 ? &self->faults : NULL;
    CHECK(engine_open(&engine, &options, round->weights, NULL, self->comm) == STATUS_OK);
    if (self->comm->rank == 0)
        lead(round, engine);
    else
        CHECK(engine_follow(engine) == STATUS_OK);
    check_books(engine_stats(engine));
    if (self->comm->rank == 0) round->stats = *engine_stats(engine);
    engine_close(engine);
    comm_destroy(self->comm);
    return NULL;
}

void run_round(Round *round) {
    Comm *comms[RANKS_MAX];
    RankThread ranks[RANKS_MAX];
    memset(round->results, 0, round->plan_count * sizeof *round->results);
    if (round->rank_count == 1)
        CHECK(comm_self_create(&comms[0]) == STATUS_OK);
    else
        CHECK(comm_threads_create(comms, round->rank_count) == STATUS_OK);
    for (int rank = 0; rank < round->rank_count; rank++) {
        ranks[rank] = (RankThread){.round = round, .comm = comms[rank]};
        CHECK(pthread_create(&ranks[rank].thread, NULL, rank_main, &ranks[rank]) == 0);
    }
    for (int rank = 0; rank < round->rank_count; rank++)
        pthread_join(ranks[rank].thread, NULL);
}

/* ---- random rounds ---- */

uint32_t pick(Random *random, uint32_t least, uint32_t greatest) {
    return least + (uint32_t)random_below(random, greatest - least + 1);
}

static SamplingOptions random_sampling(Random *random) {
    static const float temperatures[] = {0, 0.7f, 1, 1.5f};
    static const float top_ps[] = {1, 1, 0.9f, 0.5f};
    SamplingOptions sampling = sampling_defaults;
    sampling.temperature = temperatures[pick(random, 0, 3)];
    sampling.top_p = top_ps[pick(random, 0, 3)];
    sampling.top_k = pick(random, 0, 2) ? 0 : pick(random, 1, 50);
    sampling.repetition_penalty = pick(random, 0, 2) ? 1 : 1.2f;
    sampling.presence_penalty = pick(random, 0, 2) ? 0 : 0.5f;
    sampling.seed = random_u64(random);
    sampling.want_logprobs = true;
    sampling.top_logprobs = TOP;
    return sampling;
}

void random_plans(Random *random, Plan *plans, uint32_t count) {
    uint32_t step = 0;
    for (uint32_t i = 0; i < count; i++) {
        Plan *plan = &plans[i];
        *plan = (Plan){0};
        plan->prompt_count = pick(random, 0, 3) ? pick(random, 2, PROMPT_MAX) : 1;
        for (uint32_t t = 0; t < plan->prompt_count; t++)
            plan->prompt[t] = (int32_t)pick(random, 3, VOCAB - 1);
        plan->max_tokens = pick(random, 0, TOKENS_MAX);
        plan->sampling = random_sampling(random);
        plan->submit_step = step;
        plan->cancel_step = pick(random, 0, 5) ? 0 : pick(random, step + 1, step + 10);
        step += pick(random, 0, 2) ? 0 : pick(random, 1, 8);
    }
}

/* Up to as many ranks as the model has heads and column groups for. */
static const ModelChoice model_choices[] = {
    {"llama_gqa", 3},
    {"llama_mqa_tied", 3},
    {"llama_mha_biases", 3},
    {"llama_rope_linear", 3},
    {"llama_rope_llama3", 3},
    {"llama_wide_heads", 3},
    {"mistral_window", 3},
    {"qwen2_tied", 3},
    {"qwen3", 3},
    {"opt_pre_norm", 3},
    {"opt_post_norm", 3},
    {"gguf_llama_bf16_linear/gguf_llama_bf16_linear.gguf", 3},
    {"gguf_llama_f16_tied/gguf_llama_f16_tied.gguf", 3},
    {"gguf_llama_f32/gguf_llama_f32.gguf", 3},
    {"gguf_llama_factors/gguf_llama_factors.gguf", 2},
    {"gguf_llama_k_quants/gguf_llama_k_quants.gguf", 3},
    {"gguf_llama_q4_0/gguf_llama_q4_0.gguf", 3},
    {"gguf_llama_q5_0/gguf_llama_q5_0.gguf", 3},
    {"gguf_llama_q5_1/gguf_llama_q5_1.gguf", 2},
    {"gguf_llama_q8_0/gguf_llama_q8_0.gguf", 3},
    {"gguf_qwen2/gguf_qwen2.gguf", 3},
    {"gguf_qwen3/gguf_qwen3.gguf", 3},
};

const ModelChoice *random_model(Random *random) {
    return &model_choices[pick(random, 0, sizeof model_choices / sizeof *model_choices - 1)];
}

Weights *open_model(const ModelChoice *choice) {
    char path[512];
    Weights *weights;
    snprintf(path, sizeof path, "%s/models/%s", GOLDEN, choice->path);
    CHECK(weights_open(&weights, path) == STATUS_OK);
    return weights;
}

const char *round_backend = "cpu";

const char *random_isa(Random *random) {
    static const char *const names[] = {"auto", "auto", "avx2", "reference"};
    const char *name = names[pick(random, 0, 3)];
    bool avx2 = cpu_features() & CPU_AVX2;
    return !strcmp(name, "avx2") && !avx2 ? "auto" : name;
}

const char *difference(const Result *alone, const Result *found, bool cancelled) {
    if (found->finish_count != 1) return "it did not finish once";
    if (!cancelled && (found->position_count != alone->position_count ||
                       found->token_count != alone->token_count || found->reason != alone->reason))
        return "its length";
    if (found->position_count > alone->position_count || found->token_count > alone->token_count)
        return "its length";
    if (memcmp(found->logits, alone->logits, found->position_count * sizeof alone->logits[0]) != 0)
        return "logits";
    if (memcmp(found->tokens, alone->tokens, found->token_count * sizeof alone->tokens[0]) != 0)
        return "tokens";
    if (memcmp(found->logprobs, alone->logprobs, found->token_count * sizeof alone->logprobs[0]) !=
        0)
        return "log-probabilities";
    if (memcmp(found->top, alone->top, found->token_count * sizeof alone->top[0]) != 0)
        return "best tokens";
    return NULL;
}

/* ---- seeds ---- */

enum { SEED_SECONDS_MAX = 60 };

char round_text[ROUND_TEXT_BYTES];
static char replay_text[256];

static void put(const char *text) {
    size_t bytes = strlen(text);
    if (write(STDOUT_FILENO, text, bytes) != (ssize_t)bytes) _exit(1);
}

static void tell_seed(void) {
    put(round_text);
    put(replay_text);
}

static void on_signal(int signal_number) {
    put(signal_number == SIGALRM ? "hangs: " : "crashes: ");
    tell_seed();
    _exit(1);
}

/* In place of the program's, which knows no seed. */
void invariant_broken(const char *file, int line, const char *expression) {
    printf("%s:%d: broken invariant: %s\n", file, line, expression);
    fflush(stdout);
    tell_seed();
    _exit(1);
}

int run_seeds(int argument_count, char **arguments, uint64_t count, bool (*check)(uint64_t seed)) {
    uint64_t first = argument_count > 1 ? strtoull(arguments[1], NULL, 10) : 1, failed = 0;
    if (argument_count > 2) count = strtoull(arguments[2], NULL, 10);
    if (argument_count > 3) round_backend = arguments[3];
    setvbuf(stdout, NULL, _IOLBF, 0); /* what is written past it comes in order */
    signal(SIGSEGV, on_signal);
    signal(SIGALRM, on_signal);
    for (uint64_t seed = first; seed < first + count; seed++) {
        snprintf(replay_text, sizeof replay_text, "again: %s %llu 1 %s\n", arguments[0],
                 (unsigned long long)seed, round_backend);
        alarm(SEED_SECONDS_MAX);
        if (check(seed)) continue;
        tell_seed();
        failed++;
    }
    alarm(0);
    printf("%llu passed, %llu failed, 0 skipped\n", (unsigned long long)(count - failed),
           (unsigned long long)failed);
    return failed ? 1 : 0;
}
