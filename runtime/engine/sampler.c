#include "runtime/engine/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/base/bytes.h"
#include "runtime/base/invariant.h"
#include "runtime/base/random.h"
#include "runtime/engine/sampler_passes.h"

/* How it stays fast with large vocabularies: nothing is ever sorted whole. Every truncation is a Cut: the last token
 * that stays in the order "higher logit first, then lower id". It is found by quickselect among the few tokens above
 * a bound that a vectorised pass found before; all others are only compared with it. Weights stay in the order of
 * ids, and the draw walks them in that order, so it needs no sorted probabilities either. */

typedef struct Candidate {
    float logit;
    int32_t token;
    double mass; /* what a selection counts: 1 for top-k, the softmax weight for top-p */
} Candidate;

typedef struct Cut {
    float logit;
    int32_t token;
} Cut;

struct SamplerWorkspace {
    Arena arena; /* holds all of it */
    const SamplerPasses *passes;
    uint32_t vocab_count;
    float *logits;         /* [vocab] adjusted; after top-k those of tokens[] */
    float *weights;        /* [vocab] exp((logit - max) / temperature); 0: truncated */
    int32_t *tokens;       /* [vocab] ids that top-k left, rising */
    float *run_maxima;     /* [runs] */
    double *run_sums;      /* [runs] */
    uint32_t *occurrences; /* [vocab] zero between calls */
    Candidate *candidates; /* [vocab] scratch of selections */
};

Status sampler_workspace_create(SamplerWorkspace **out, uint32_t vocab_count) {
    enum { PIECES = 8, PIECE_PADDING = 64 };
    uint64_t token_bytes = 3 * sizeof(float) + sizeof(uint32_t) + sizeof(Candidate);
    uint64_t run_bytes = sizeof(float) + sizeof(double);
    Arena arena;
    TRY(arena_create(&arena,
                     sizeof(SamplerWorkspace) + vocab_count * token_bytes +
                         sampler_runs_of(vocab_count) * run_bytes + PIECES * PIECE_PADDING,
                     "sampler workspace"));
    SamplerWorkspace *workspace = arena_take(&arena, sizeof *workspace);
    workspace->passes = sampler_passes_best();
    workspace->vocab_count = vocab_count;
    workspace->logits = arena_take(&arena, vocab_count * sizeof(float));
    workspace->weights = arena_take(&arena, vocab_count * sizeof(float));
    workspace->tokens = arena_take(&arena, vocab_count * sizeof(int32_t));
    workspace->occurrences = arena_take(&arena, vocab_count * sizeof(uint32_t));
    workspace->candidates = arena_take(&arena, vocab_count * sizeof(Candidate));
    workspace->run_maxima = arena_take(&arena, sampler_runs_of(vocab_count) * sizeof(float));
    workspace->run_sums = arena_take(&arena, sampler_runs_of(vocab_count) * sizeof(double));
    workspace->arena = arena;
    *out = workspace;
    return STATUS_OK;
}

void sampler_workspace_destroy(SamplerWorkspace *workspace) {
    if (workspace == NULL) return;
    Arena arena = workspace->arena; /* the workspace lies in it */
    arena_destroy(&arena);
}

/* The first token that has the maximum, after find_maxima. */
static int32_t first_maximum(const SamplerWorkspace *workspace, const float *values,
                             float maximum) {
    uint32_t run = 0;
    while (workspace->run_maxima[run] != maximum)
        run++;
    uint32_t token = run * SAMPLER_RUN_TOKENS;
    while (values[token] != maximum)
        token++;
    return (int32_t)token;
}

/* ---- selection ---- */

static inline bool stands_before(float logit, int32_t token, Cut other) {
    return logit > other.logit || (logit == other.logit && token < other.token);
}

static inline bool stays(float logit, int32_t token, Cut cut) {
    return logit > cut.logit || (logit == cut.logit && token <= cut.token);
}

static void swap_candidates(Candidate *a, Candidate *b) {
    Candidate keep = *a;
    *a = *b;
    *b = keep;
}

/* The middle of three, so that sorted input costs no more than random input. */
static Cut choose_pivot(const Candidate *candidates, uint32_t count) {
    const Candidate *a = &candidates[0], *b = &candidates[count / 2], *c = &candidates[count - 1];
    Cut cuts[3] = {{a->logit, a->token}, {b->logit, b->token}, {c->logit, c->token}};
    bool ab = stands_before(a->logit, a->token, cuts[1]);
    bool bc = stands_before(b->logit, b->token, cuts[2]);
    bool ac = stands_before(a->logit, a->token, cuts[2]);
    if (ab == bc) return cuts[1];
    return ab == ac ? cuts[2] : cuts[0];
}

/* The cut after the shortest run of best candidates whose mass reaches `target`; the last of all where none
 * does. Quickselect by mass: the part that holds the cut is divided until one is left. */
static Cut select_cut(Candidate *candidates, uint32_t count, double target) {
    while (count > 1) {
        Cut pivot = choose_pivot(candidates, count);
        uint32_t before = 0;
        double mass = 0;
        for (uint32_t i = 0; i < count; i++) {
            if (!stays(candidates[i].logit, candidates[i].token, pivot)) continue;
            mass += candidates[i].mass;
            swap_candidates(&candidates[before++], &candidates[i]);
        }
        if (before == count) { /* the pivot is the last: set it apart, or nothing would shrink */
            uint32_t last = 0;
            while (candidates[last].token != pivot.token)
                last++;
            mass -= candidates[last].mass;
            if (mass < target) return pivot;
            swap_candidates(&candidates[last], &candidates[--count]);
        } else if (mass >= target) {
            count = before;
        } else {
            target -= mass;
            candidates += before;
            count -= before;
        }
    }
    return (Cut){candidates[0].logit, candidates[0].token};
}

/* A bound that at least top_k logits reach: the top_k-th greatest of the run maxima. -inf where there are
 * fewer runs than that. */
static float bound_of_top_k(SamplerWorkspace *workspace, uint32_t top_k) {
    uint32_t run_count = sampler_runs_of(workspace->vocab_count);
    if (top_k > run_count) return -INFINITY;
    for (uint32_t run = 0; run < run_count; run++)
        workspace->candidates[run] = (Candidate){workspace->run_maxima[run], (int32_t)run, 1};
    return select_cut(workspace->candidates, run_count, top_k).logit;
}

static Cut find_top_k_cut(SamplerWorkspace *workspace, uint32_t top_k) {
    float bound = bound_of_top_k(workspace, top_k);
    uint32_t count = 0;
    for (uint32_t run = 0; run < sampler_runs_of(workspace->vocab_count); run++) {
        if (workspace->run_maxima[run] < bound) continue;
        uint32_t begin = run * SAMPLER_RUN_TOKENS, end = begin + SAMPLER_RUN_TOKENS;
        if (end > workspace->vocab_count) end = workspace->vocab_count;
        for (uint32_t i = begin; i < end; i++)
            if (workspace->logits[i] >= bound)
                workspace->candidates[count++] = (Candidate){workspace->logits[i], (int32_t)i, 1};
    }
    return select_cut(workspace->candidates, count, top_k);
}

/* Moves what stays to the front of logits[] and tokens[], in the order of ids. */
static uint32_t keep_top_k(SamplerWorkspace *workspace, uint32_t top_k) {
    uint32_t vocab_count = workspace->vocab_count, count = 0;
    if (top_k == 0 || top_k >= vocab_count) {
        for (uint32_t i = 0; i < vocab_count; i++)
            workspace->tokens[i] = (int32_t)i;
        return vocab_count;
    }
    Cut cut = find_top_k_cut(workspace, top_k);
    for (uint32_t i = 0; i < vocab_count; i++) {
        if (!stays(workspace->logits[i], (int32_t)i, cut)) continue;
        workspace->logits[count] = workspace->logits[i];
        workspace->tokens[count++] = (int32_t)i;
    }
    return count;
}

/* Zeroes the weights outside the smallest set of best tokens that holds top_p of the mass. */
static void apply_top_p(SamplerWorkspace *workspace, uint32_t count, float top_p) {
    float *weights = workspace->weights;
    double target =
        (double)top_p * workspace->passes->find_sums(weights, count, workspace->run_sums);
    float bound = 0.25f; /* of the best token's weight, 1 */
    while (bound > 1e-30f && workspace->passes->sum_from(weights, count, bound) < target)
        bound *= 0.0625f;
    if (bound <= 1e-30f) bound = 0;
    uint32_t candidate_count = 0;
    for (uint32_t i = 0; i < count; i++)
        if (weights[i] >= bound)
            workspace->candidates[candidate_count++] =
                (Candidate){workspace->logits[i], workspace->tokens[i], (double)weights[i]};
    Cut cut = select_cut(workspace->candidates, candidate_count, target);
    for (uint32_t i = 0; i < count; i++)
        if (!stays(workspace->logits[i], workspace->tokens[i], cut)) weights[i] = 0;
}

/* ---- the steps ---- */

static void count_occurrences(SamplerWorkspace *workspace, const int32_t *tokens, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        CHECK(tokens[i] >= 0 && (uint32_t)tokens[i] < workspace->vocab_count);
        workspace->occurrences[tokens[i]]++;
    }
}

/* Once a token, however often it came: the count is zeroed as it is used, which also cleans up. */
static void penalise_repetition(SamplerWorkspace *workspace, const SamplerInput *input,
                                const int32_t *tokens, uint32_t count) {
    float penalty = input->options->repetition_penalty;
    for (uint32_t i = 0; i < count; i++) {
        float *logit = &workspace->logits[tokens[i]];
        if (workspace->occurrences[tokens[i]] == 0) continue;
        workspace->occurrences[tokens[i]] = 0;
        *logit = *logit > 0 ? *logit / penalty : *logit * penalty;
    }
}

static void penalise_presence(SamplerWorkspace *workspace, const SamplerInput *input) {
    const SamplingOptions *options = input->options;
    for (uint32_t i = 0; i < input->generated_count; i++) {
        int32_t token = input->generated[i];
        if (workspace->occurrences[token] == 0) continue;
        workspace->logits[token] -=
            options->presence_penalty +
            options->frequency_penalty * (float)workspace->occurrences[token];
        workspace->occurrences[token] = 0;
    }
}

static bool needs_adjustment(const SamplerInput *input) {
    const SamplingOptions *options = input->options;
    return options->bias_count > 0 || input->banned_count > 0 || options->repetition_penalty != 1 ||
           options->presence_penalty != 0 || options->frequency_penalty != 0;
}

/* workspace->logits = input's with bias, penalties and bans. */
static void adjust(SamplerWorkspace *workspace, const SamplerInput *input) {
    const SamplingOptions *options = input->options;
    memcpy(workspace->logits, input->logits, input->vocab_count * sizeof(float));
    for (uint32_t i = 0; i < options->bias_count; i++) {
        int32_t token = options->biases[i].token;
        CHECK(token >= 0 && (uint32_t)token < input->vocab_count);
        workspace->logits[token] += options->biases[i].bias;
    }
    if (options->repetition_penalty != 1) {
        count_occurrences(workspace, input->prompt, input->prompt_count);
        count_occurrences(workspace, input->generated, input->generated_count);
        penalise_repetition(workspace, input, input->prompt, input->prompt_count);
        penalise_repetition(workspace, input, input->generated, input->generated_count);
    }
    if (options->presence_penalty != 0 || options->frequency_penalty != 0) {
        count_occurrences(workspace, input->generated, input->generated_count);
        penalise_presence(workspace, input);
    }
    for (uint32_t i = 0; i < input->banned_count; i++) {
        CHECK(input->banned[i] >= 0 && (uint32_t)input->banned[i] < input->vocab_count);
        workspace->logits[input->banned[i]] = -INFINITY;
    }
}

/* The token at `unit` of the way through the weights, in the order of ids. Runs without weight are never
 * entered, so that rounding at the very end cannot choose a truncated token. */
static int32_t draw(SamplerWorkspace *workspace, uint32_t count, double unit) {
    double left =
        unit * workspace->passes->find_sums(workspace->weights, count, workspace->run_sums);
    uint32_t chosen_run = 0, chosen = 0;
    for (uint32_t run = 0; run < sampler_runs_of(count); run++) {
        if (workspace->run_sums[run] == 0) continue;
        chosen_run = run;
        if (left < workspace->run_sums[run]) break;
        left -= workspace->run_sums[run];
    }
    for (uint32_t i = chosen_run * SAMPLER_RUN_TOKENS; i < count; i++) {
        if (workspace->weights[i] == 0) continue;
        chosen = i;
        left -= (double)workspace->weights[i];
        if (left < 0) break;
    }
    return workspace->tokens[chosen];
}

static int32_t sample(SamplerWorkspace *workspace, const SamplerInput *input, float maximum) {
    const SamplingOptions *options = input->options;
    Random random = {.key = options->seed, .stream = input->generated_count};
    uint32_t count = keep_top_k(workspace, options->top_k);
    workspace->passes->fill_weights(workspace->weights, workspace->logits, count, maximum,
                                    options->temperature);
    if (options->top_p < 1) apply_top_p(workspace, count, options->top_p);
    if (options->min_p > 0)
        for (uint32_t i = 0; i < count; i++)
            workspace->weights[i] =
                workspace->weights[i] >= options->min_p ? workspace->weights[i] : 0;
    return draw(workspace, count, random_unit(&random));
}

/* The best `top_logprobs` tokens of the untouched logits, by insertion: few tokens ever enter the list. */
static void find_best(const SamplerInput *input, SamplerOutput *out) {
    uint32_t wanted = input->options->top_logprobs;
    if (wanted > SAMPLING_LOGPROBS_MAX) wanted = SAMPLING_LOGPROBS_MAX;
    if (wanted > input->vocab_count) wanted = input->vocab_count;
    out->top_count = 0;
    for (uint32_t i = 0; i < input->vocab_count && wanted > 0; i++) {
        float logit = input->logits[i];
        if (out->top_count == wanted && !(logit > out->top[wanted - 1].logprob)) continue;
        uint32_t place = out->top_count < wanted ? out->top_count++ : wanted - 1;
        for (; place > 0 && logit > out->top[place - 1].logprob; place--)
            out->top[place] = out->top[place - 1];
        out->top[place] = (TokenLogprob){(int32_t)i, logit};
    }
}

/* log softmax of the untouched logits: for the chosen token and the best ones. */
static void report_logprobs(SamplerWorkspace *workspace, const SamplerInput *input, float maximum,
                            SamplerOutput *out) {
    workspace->passes->fill_weights(workspace->weights, input->logits, input->vocab_count, maximum,
                                    1);
    double log_sum = log(
        workspace->passes->find_sums(workspace->weights, input->vocab_count, workspace->run_sums));
    double shift = (double)maximum + log_sum;
    out->logprob = (float)((double)input->logits[out->token] - shift);
    find_best(input, out);
    for (uint32_t i = 0; i < out->top_count; i++)
        out->top[i].logprob = (float)((double)out->top[i].logprob - shift);
}

Status sampler_sample(SamplerWorkspace *workspace, const SamplerInput *input, SamplerOutput *out) {
    const SamplingOptions *options = input->options;
    CHECK(input->vocab_count == workspace->vocab_count);
    if (!workspace->passes->all_below_infinity(input->logits, input->vocab_count))
        FAIL(NAN_LOGITS,
             "a logit of generated token %u is NaN or infinite: the weights or the "
             "arithmetic are broken",
             input->generated_count);
    float raw_maximum =
        workspace->passes->find_maxima(input->logits, input->vocab_count, workspace->run_maxima);
    float maximum = raw_maximum;
    const float *logits = input->logits;
    if (needs_adjustment(input)) {
        adjust(workspace, input);
        logits = workspace->logits;
        maximum = workspace->passes->find_maxima(logits, input->vocab_count, workspace->run_maxima);
    } else if (options->temperature > 0) {
        memcpy(workspace->logits, input->logits, input->vocab_count * sizeof(float));
    }
    if (maximum == -INFINITY)
        FAIL(NAN_LOGITS, "no token can come after %u generated ones: every logit is -inf or banned",
             input->generated_count);
    if (input->forced)
        out->token = *input->forced;
    else
        out->token = options->temperature > 0 ? sample(workspace, input, maximum)
                                              : first_maximum(workspace, logits, maximum);
    out->logprob = 0;
    out->top_count = 0;
    if (options->want_logprobs || input->forced)
        report_logprobs(workspace, input, raw_maximum, out);
    return STATUS_OK;
}
