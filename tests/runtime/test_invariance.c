/* Schedule invariance as a property: the logits of a request and the tokens sampled from them have the same bits whatever else is in
 * the batch, however the prompt is cut, however many threads run, who is cancelled beside it, and whether a position was
 * prefilled, decoded or decoded by force. Random models, ranks (as threads), kernels, batches and budgets; every request is compared with itself
 * alone in an engine of one slot.
 *
 *     test_invariance [FIRST [SEEDS [BACKEND]]] */

#include <stdio.h>
#include <string.h>

#include "runtime/base/invariant.h"
#include "runtime/engine/sampler.h"
#include "tests/runtime/engine_rounds.h"

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
        plans[i].generated_logits = true;
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
    const ModelChoice *choice = random_model(&random);
    Weights *weights = open_model(choice);

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
                   .options = {.backend = round_backend,
                               .emulation_seed = seed,
                               .cpu_isa = random_isa(&random),
                               .thread_count = 1,
                               .max_num_seqs = 1,
                               .max_num_batched_tokens = 128,
                               .block_tokens = 1u << pick(&random, 2, 5)}};
    run_round(&round);

    EngineOptions together = round.options;
    together.emulation_seed++;
    together.thread_count = pick(&random, 1, 3);
    together.max_num_seqs = pick(&random, 1, REQUESTS_MAX);
    together.max_num_batched_tokens = pick(&random, 1, 2) == 1 ? pick(&random, 1, 16) : 200;
    snprintf(round_text, sizeof round_text,
             "%s, ranks %d, isa %s, threads %u, slots %u, token budget %u, block %u\n",
             choice->path, round.rank_count, together.cpu_isa, together.thread_count,
             together.max_num_seqs, together.max_num_batched_tokens, together.block_tokens);
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
    if (problem) printf("request %u of %u: %s differ\n", culprit, count, problem);
    return !problem;
}

int main(int argument_count, char **arguments) {
    return run_seeds(argument_count, arguments, 60, check_seed);
}
