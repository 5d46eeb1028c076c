/* Schedule invariance as a property: the logits of a request and the tokens sampled from them have the same bits whatever else is in
 * the batch, however the prompt is cut, however many threads run, who is cancelled beside it, and whether a position was
 * prefilled, decoded or decoded by force. Random models, ranks (as threads), kernels, batches and budgets; every request is compared with itself
 * alone in an engine of one slot.
 *
 *     test_invariance [first seed [seeds]] */

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu_features.h"
#include "runtime/base/invariant.h"
#include "runtime/base/random.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/sampler.h"

enum { VOCAB = 131, PROMPT_MAX = 70, TOKENS_MAX = 20, REQUESTS_MAX = 7, RANKS_MAX = 3, TOP = 5 };

typedef struct Plan {
    int32_t prompt[PROMPT_MAX + TOKENS_MAX];
    uint32_t prompt_count;
    uint32_t max_tokens;
    SamplingOptions sampling;
    uint32_t submit_step;
    uint32_t cancel_step;  /* 0: never */
    const int32_t *forced; /* [max_tokens]; NULL: sampled, and the prompt's logits are reported */
} Plan;

typedef struct Result {
    float logits[PROMPT_MAX + TOKENS_MAX][VOCAB]; /* from position_first on */
    uint32_t position_first;
    int32_t tokens[TOKENS_MAX];
    float logprobs[TOKENS_MAX];
    TokenLogprob top[TOKENS_MAX][TOP];
    uint32_t token_count;
    uint32_t position_count;
    FinishReason reason;
    uint32_t finish_count;
} Result;

typedef struct Round {
    const Weights *weights;
    EngineOptions options;
    int rank_count;
    bool one_by_one; /* each request alone, after the one before has ended */
    const Plan *plans;
    uint32_t plan_count;
    Result *results; /* [plan_count] */
} Round;

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
        .generated_logits = plan->forced != NULL,
        .ignore_eos = true,
        .sampling = plan->sampling,
        .sink = {.user = &round->results[index],
                 .on_token = on_token,
                 .on_finish = on_finish,
                 .on_logits = on_logits},
    };
    round->results[index].position_first = plan->forced ? plan->prompt_count - 1 : 0;
    CHECK(engine_submit(engine, &request) == STATUS_OK);
}

static void run_to_idle(Engine *engine) {
    bool idle = false;
    while (!idle)
        CHECK(engine_step(engine, &idle) == STATUS_OK);
}

static void run_together(const Round *round, Engine *engine) {
    uint32_t submitted = 0;
    bool idle = false;
    for (uint32_t step = 0; submitted < round->plan_count || !idle; step++) {
        for (; submitted < round->plan_count && round->plans[submitted].submit_step <= step;
             submitted++)
            submit(round, engine, submitted);
        for (uint32_t i = 0; i < submitted; i++)
            if (round->plans[i].cancel_step == step && step > 0) engine_cancel(engine, i);
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

typedef struct RankThread {
    pthread_t thread;
    const Round *round;
    Comm *comm;
} RankThread;

static void *rank_main(void *argument) {
    RankThread *self = argument;
    Engine *engine;
    CHECK(engine_open(&engine, &self->round->options, self->round->weights, NULL, self->comm) ==
          STATUS_OK);
    if (self->comm->rank == 0)
        lead(self->round, engine);
    else
        CHECK(engine_follow(engine) == STATUS_OK);
    engine_close(engine);
    comm_destroy(self->comm);
    return NULL;
}

static void run_round(const Round *round) {
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

static uint32_t pick(Random *random, uint32_t least, uint32_t greatest) {
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

static void random_plans(Random *random, Plan *plans, uint32_t count) {
    uint32_t step = 0;
    for (uint32_t i = 0; i < count; i++) {
        Plan *plan = &plans[i];
        plan->prompt_count = pick(random, 0, 3) ? pick(random, 2, PROMPT_MAX) : 1;
        for (uint32_t t = 0; t < plan->prompt_count; t++)
            plan->prompt[t] = (int32_t)pick(random, 3, VOCAB - 1);
        plan->max_tokens = pick(random, 0, TOKENS_MAX);
        plan->sampling = random_sampling(random);
        plan->submit_step = step;
        plan->cancel_step = pick(random, 0, 5) ? 0 : pick(random, step + 1, step + 10);
        plan->forced = NULL;
        step += pick(random, 0, 2) ? 0 : pick(random, 1, 8);
    }
}

typedef struct ModelChoice {
    const char *path;
    uint32_t ranks_max;
} ModelChoice;

/* Families, head counts and encodings; up to as many ranks as the model has heads and column groups for. */
static const ModelChoice model_choices[] = {
    {"llama_gqa", 3},
    {"llama_mqa_tied", 3},
    {"llama_mha_biases", 3},
    {"mistral_window", 3},
    {"qwen3", 3},
    {"opt_pre_norm", 3},
    {"opt_post_norm", 3},
    {"gguf_llama_f16_tied/gguf_llama_f16_tied.gguf", 3},
    {"gguf_llama_q4_0/gguf_llama_q4_0.gguf", 3},
    {"gguf_llama_q5_1/gguf_llama_q5_1.gguf", 2},
    {"gguf_llama_k_quants/gguf_llama_k_quants.gguf", 3},
    {"gguf_qwen2/gguf_qwen2.gguf", 3},
};

/* Kernels that this machine has. */
static const char *random_isa(Random *random) {
    static const char *const names[] = {"auto", "auto", "avx2", "reference"};
    const char *name = names[pick(random, 0, 3)];
    bool avx2 = cpu_features() & CPU_AVX2;
    return !strcmp(name, "avx2") && !avx2 ? "auto" : name;
}

/* ---- what must hold ---- */

static const char *difference(const Result *alone, const Result *found, bool cancelled) {
    if (found->finish_count != 1) return "it did not finish once";
    if (!cancelled && (found->position_count != alone->position_count ||
                       found->token_count != alone->token_count || found->reason != alone->reason))
        return "its length";
    if (found->position_count > alone->position_count || found->token_count > alone->token_count)
        return "its length";
    if (memcmp(found->logits, alone->logits, found->position_count * sizeof alone->logits[0]) != 0)
        return "prompt logits";
    if (memcmp(found->tokens, alone->tokens, found->token_count * sizeof alone->tokens[0]) != 0)
        return "tokens";
    if (memcmp(found->logprobs, alone->logprobs, found->token_count * sizeof alone->logprobs[0]) !=
        0)
        return "log-probabilities";
    if (memcmp(found->top, alone->top, found->token_count * sizeof alone->top[0]) != 0)
        return "best tokens";
    return NULL;
}

/* Samples again from logits that prefill gave for the positions which had been decoded. */
static const char *decode_difference(const Plan *plan, const Result *alone,
                                     const Result *prefilled) {
    SamplerWorkspace *workspace;
    const char *problem = NULL;
    CHECK(sampler_workspace_create(&workspace, VOCAB) == STATUS_OK);
    for (uint32_t i = 0; i < alone->token_count && !problem; i++) {
        SamplerOutput out;
        SamplerInput input = {.logits = prefilled->logits[plan->prompt_count - 1 + i],
                              .vocab_count = VOCAB,
                              .options = &plan->sampling,
                              .prompt = plan->prompt,
                              .prompt_count = plan->prompt_count,
                              .generated = alone->tokens,
                              .generated_count = i};
        CHECK(sampler_sample(workspace, &input, &out) == STATUS_OK);
        if (out.token != alone->tokens[i] || out.logprob != alone->logprobs[i] ||
            memcmp(out.top, alone->top[i], sizeof alone->top[i]) != 0)
            problem = "a decoded position against the same one prefilled";
    }
    sampler_workspace_destroy(workspace);
    return problem;
}

static void append_answers(Plan *plans, const Result *alone, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        memcpy(plans[i].prompt + plans[i].prompt_count, alone[i].tokens,
               alone[i].token_count * sizeof alone[i].tokens[0]);
        plans[i].prompt_count += alone[i].token_count;
        plans[i].max_tokens = 0;
        plans[i].cancel_step = 0;
    }
}

/* The same answers, but by force: sampling alone would come to others. */
static void force_answers(Plan *plans, const Result *alone, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        plans[i].forced = alone[i].tokens;
        plans[i].cancel_step = 0;
        plans[i].sampling.temperature = 1.5f;
        plans[i].sampling.seed ^= 1;
    }
}

/* Every decoded position reported its logits, and they are those that prefill gave. */
static const char *forced_difference(const Plan *plan, const Result *alone, const Result *prefilled,
                                     const Result *forced) {
    uint32_t count = alone->token_count;
    if (forced->token_count != count || forced->position_count != count) return "forced length";
    if (memcmp(forced->tokens, alone->tokens, count * sizeof alone->tokens[0]) != 0)
        return "forced tokens";
    if (memcmp(forced->logprobs, alone->logprobs, count * sizeof alone->logprobs[0]) != 0)
        return "log-probabilities of forced tokens";
    if (memcmp(forced->logits, prefilled->logits[plan->prompt_count - 1],
               count * sizeof alone->logits[0]) != 0)
        return "logits decoded by force against the same ones prefilled";
    return NULL;
}

static Result alone[REQUESTS_MAX], found[REQUESTS_MAX], prefilled[REQUESTS_MAX],
    forced[REQUESTS_MAX];

/* True when everything held. */
static bool check_seed(uint64_t seed) {
    Random random = {.key = seed};
    Plan plans[REQUESTS_MAX], longer[REQUESTS_MAX], led[REQUESTS_MAX];
    const ModelChoice *choice =
        &model_choices[pick(&random, 0, sizeof model_choices / sizeof *model_choices - 1)];
    char path[512];
    snprintf(path, sizeof path, "%s/models/%s", GOLDEN, choice->path);
    Weights *weights;
    CHECK(weights_open(&weights, path) == STATUS_OK);

    uint32_t count = pick(&random, 1, REQUESTS_MAX);
    random_plans(&random, plans, count);
    memcpy(longer, plans, sizeof longer);
    memcpy(led, plans, sizeof led);
    Round round = {.weights = weights,
                   .rank_count = (int)pick(&random, 1, choice->ranks_max),
                   .one_by_one = true,
                   .plans = plans,
                   .plan_count = count,
                   .results = alone,
                   .options = {.backend = "cpu",
                               .cpu_isa = random_isa(&random),
                               .thread_count = 1,
                               .max_num_seqs = 1,
                               .max_num_batched_tokens = 128,
                               .block_tokens = 1u << pick(&random, 2, 5)}};
    run_round(&round);

    EngineOptions together = round.options;
    together.thread_count = pick(&random, 1, 3);
    together.max_num_seqs = pick(&random, 1, REQUESTS_MAX);
    together.max_num_batched_tokens = pick(&random, 1, 2) == 1 ? pick(&random, 1, 16) : 200;
    Round batch = round;
    batch.one_by_one = false;
    batch.options = together;
    batch.results = found;
    run_round(&batch);

    append_answers(longer, alone, count);
    Round prefill = batch;
    prefill.plans = longer;
    prefill.results = prefilled;
    run_round(&prefill);

    force_answers(led, alone, count);
    Round by_force = batch;
    by_force.plans = led;
    by_force.results = forced;
    run_round(&by_force);
    weights_close(weights);

    const char *problem = NULL;
    uint32_t culprit = 0;
    for (uint32_t i = 0; i < count && !problem; i++) {
        culprit = i;
        problem = difference(&alone[i], &found[i], plans[i].cancel_step > 0);
        if (!problem) problem = decode_difference(&plans[i], &alone[i], &prefilled[i]);
        if (!problem) problem = forced_difference(&plans[i], &alone[i], &prefilled[i], &forced[i]);
    }
    if (problem)
        printf("seed %llu: %s, ranks %d, isa %s, threads %u, slots %u, token budget %u, block %u: "
               "request "
               "%u of %u: %s differ\n",
               (unsigned long long)seed, choice->path, round.rank_count, together.cpu_isa,
               together.thread_count, together.max_num_seqs, together.max_num_batched_tokens,
               together.block_tokens, culprit, count, problem);
    return !problem;
}

int main(int argument_count, char **arguments) {
    uint64_t first = argument_count > 1 ? strtoull(arguments[1], NULL, 10) : 1;
    uint64_t count = argument_count > 2 ? strtoull(arguments[2], NULL, 10) : 60;
    uint64_t failed = 0;
    for (uint64_t seed = first; seed < first + count; seed++)
        failed += !check_seed(seed);
    printf("%llu passed, %llu failed, 0 skipped\n", (unsigned long long)(count - failed),
           (unsigned long long)failed);
    return failed ? 1 : 0;
}
