#ifndef TESTS_RUNTIME_ENGINE_ROUNDS_H
#define TESTS_RUNTIME_ENGINE_ROUNDS_H

/* Rounds of random requests on a tiny golden model, over ranks that are threads: what property tests of the engine compare. A round
 * is options and plans of requests; what it gives is a Result a request, with every bit that a caller can see. */

#include "runtime/base/random.h"
#include "runtime/engine/engine.h"

enum {
    VOCAB = 131,
    PROMPT_MAX = 70,
    TOKENS_MAX = 20,
    REQUESTS_MAX = 7,
    RANKS_MAX = 3,
    TOP = 5,
    FAULTS_MAX = 4,
    PARK_STEPS = 6
};

typedef struct Plan {
    int32_t prompt[PROMPT_MAX + TOKENS_MAX];
    uint32_t prompt_count;
    uint32_t max_tokens;
    SamplingOptions sampling;
    uint32_t submit_step;
    uint32_t cancel_step;  /* 0: never */
    const int32_t *forced; /* [max_tokens]; NULL: sampled */
    bool generated_logits; /* of generated tokens, not of the prompt */
    bool synthetic;        /* Request.synthetic_context; with generated_logits */
    uint32_t park_step;    /* to be resumed PARK_STEPS later; 0: never */
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
    const char
        *faults[FAULTS_MAX]; /* every rank has a plan of them of its own; up to the first NULL */
    const char *weight_faults[FAULTS_MAX]; /* the same, of streamed weights */
    int rank_count;
    bool one_by_one; /* each request alone, after the one before has ended */
    const Plan *plans;
    uint32_t plan_count;
    Result *results;   /* [plan_count] */
    EngineStats stats; /* out: of rank 0, summed over ranks where engine_stop does */
} Round;

/* Runs it. CHECKs that no rank exceeds a KV budget and that every block is given back in the end. */
void run_round(Round *round);

uint32_t pick(Random *random, uint32_t least, uint32_t greatest);
/* Prompts, samplings, late submits, a cancel now and then. */
void random_plans(Random *random, Plan *plans, uint32_t count);

typedef struct ModelChoice {
    const char *path; /* below tests/golden/models */
    uint32_t ranks_max;
} ModelChoice;

/* Any golden model of this vocabulary: families, head counts and encodings. */
const ModelChoice *random_model(Random *random);
Weights *open_model(const ModelChoice *choice);
const char *random_isa(Random *random); /* that this machine has */

/* What differs, NULL for nothing. A request that was cancelled is held to as much of it as there is. */
const char *difference(const Result *expected, const Result *found, bool cancelled);

enum { ROUND_TEXT_BYTES = 768 };
extern char
    round_text[ROUND_TEXT_BYTES]; /* the options of the seed at work, written by its check */

extern const char *round_backend; /* "cpu", or what the command line says */

/* `test [FIRST [SEEDS [BACKEND]]]`: runs check for every seed and counts. A seed that fails, crashes or hangs prints round_text and the
 * command that replays it. Returns the exit code. */
int run_seeds(int argument_count, char **arguments, uint64_t count, bool (*check)(uint64_t seed));

#endif
