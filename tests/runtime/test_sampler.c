/* The sampler against frozen choices of torch (golden/sampler), against a slow twin that sorts everything, and
 * against the distribution it should draw from. */

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "runtime/base/random.h"
#include "runtime/engine/sampler.h"
#include "runtime/engine/sampler_passes.h"

typedef struct Case {
    SamplingOptions options;
    SamplerInput input;
    float logits[256];
    LogitBias biases[8];
    int32_t prompt[8], generated[8], banned[8];
} Case;

static uint32_t read_tokens(const json_t *list, int32_t *out) {
    for (size_t i = 0; i < json_array_size(list); i++)
        out[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return (uint32_t)json_array_size(list);
}

static float read_real(const json_t *row, const char *key) {
    return (float)json_number_value(json_object_get(row, key));
}

static float real_or_infinity(const json_t *value) {
    return json_is_null(value) ? -INFINITY : (float)json_number_value(value);
}

static void read_case(const json_t *row, Case *out) {
    memset(out, 0, sizeof *out);
    const json_t *logits = json_object_get(row, "logits");
    for (size_t i = 0; i < json_array_size(logits); i++)
        out->logits[i] = real_or_infinity(json_array_get(logits, i));
    const json_t *biases = json_object_get(row, "biases");
    for (size_t i = 0; i < json_array_size(biases); i++) {
        const json_t *bias = json_array_get(biases, i);
        out->biases[i].token = (int32_t)json_integer_value(json_array_get(bias, 0));
        out->biases[i].bias = (float)json_number_value(json_array_get(bias, 1));
    }
    out->options = (SamplingOptions){
        .temperature = read_real(row, "temperature"),
        .top_k = (uint32_t)json_integer_value(json_object_get(row, "top_k")),
        .top_p = read_real(row, "top_p"),
        .min_p = read_real(row, "min_p"),
        .presence_penalty = read_real(row, "presence_penalty"),
        .frequency_penalty = read_real(row, "frequency_penalty"),
        .repetition_penalty = read_real(row, "repetition_penalty"),
        .seed = (uint64_t)json_integer_value(json_object_get(row, "seed")),
        .biases = out->biases,
        .bias_count = (uint32_t)json_array_size(biases),
        .want_logprobs = true,
        .top_logprobs = (uint32_t)json_integer_value(json_object_get(row, "top_logprobs")),
    };
    out->input = (SamplerInput){
        .logits = out->logits,
        .vocab_count = (uint32_t)json_array_size(logits),
        .options = &out->options,
        .prompt = out->prompt,
        .prompt_count = read_tokens(json_object_get(row, "prompt"), out->prompt),
        .generated = out->generated,
        .generated_count = read_tokens(json_object_get(row, "generated"), out->generated),
        .banned = out->banned,
        .banned_count = read_tokens(json_object_get(row, "banned"), out->banned),
    };
}

static void assert_top(const json_t *top, const SamplerOutput *out, const char *name) {
    if (out->top_count != json_array_size(top)) fail_msg("%s: %u best", name, out->top_count);
    for (uint32_t i = 0; i < out->top_count; i++) {
        const json_t *entry = json_array_get(top, i);
        if (out->top[i].token != json_integer_value(json_array_get(entry, 0)))
            fail_msg("%s: best %u is token %d", name, i, out->top[i].token);
        float expected = real_or_infinity(json_array_get(entry, 1));
        if (isinf(expected))
            assert_true(isinf(out->top[i].logprob));
        else
            assert_float_equal(out->top[i].logprob, expected, 1e-5);
    }
}

static void test_golden(void **state) {
    (void)state;
    json_error_t error;
    json_t *rows = json_load_file(GOLDEN "/sampler/sampler.json", 0, &error);
    if (rows == NULL) fail_msg("sampler.json: %s", error.text);
    assert_true(json_array_size(rows) >= 300);
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        const char *name = json_string_value(json_object_get(row, "name"));
        Case c;
        read_case(row, &c);
        SamplerWorkspace *workspace;
        SamplerOutput out;
        assert_int_equal(sampler_workspace_create(&workspace, c.input.vocab_count), STATUS_OK);
        assert_int_equal(sampler_sample(workspace, &c.input, &out), STATUS_OK);
        if (out.token != json_integer_value(json_object_get(row, "token")))
            fail_msg("%s: token %d", name, out.token);
        assert_float_equal(out.logprob, read_real(row, "logprob"), 1e-5);
        assert_top(json_object_get(row, "top"), &out, name);
        sampler_workspace_destroy(workspace);
    }
    json_decref(rows);
}

/* ---- a slow twin for large vocabularies ---- */

typedef struct Ranked {
    float logit;
    int32_t token;
} Ranked;

static int compare_ranked(const void *a, const void *b) {
    const Ranked *x = a, *y = b;
    if (x->logit != y->logit) return x->logit > y->logit ? -1 : 1;
    return x->token < y->token ? -1 : x->token > y->token;
}

/* The tokens that truncation leaves: kept[token] is the weight, in double. */
static void twin_weights(const SamplerInput *input, double *kept) {
    const SamplingOptions *options = input->options;
    uint32_t count = input->vocab_count;
    Ranked *order = calloc(count, sizeof *order);
    for (uint32_t i = 0; i < count; i++)
        order[i] = (Ranked){input->logits[i], (int32_t)i};
    qsort(order, count, sizeof *order, compare_ranked);
    memset(kept, 0, count * sizeof *kept);
    if (options->top_k > 0 && options->top_k < count) count = options->top_k;
    double total = 0, reached = 0;
    for (uint32_t i = 0; i < count; i++)
        total +=
            exp(((double)order[i].logit - (double)order[0].logit) / (double)options->temperature);
    for (uint32_t i = 0; i < count && (i == 0 || reached < (double)options->top_p * total); i++) {
        double weight =
            exp(((double)order[i].logit - (double)order[0].logit) / (double)options->temperature);
        reached += weight;
        if (weight >= (double)options->min_p) kept[order[i].token] = weight;
    }
    free(order);
}

/* True when `token` is what the twin draws, or lies within rounding of it. */
static bool twin_agrees(const SamplerInput *input, const double *kept, int32_t token) {
    Random random = {.key = input->options->seed, .stream = input->generated_count};
    double unit = random_unit(&random), total = 0, before = 0;
    for (uint32_t i = 0; i < input->vocab_count; i++)
        total += kept[i];
    for (int32_t i = 0; i < token; i++)
        before += kept[i];
    double slack = 2e-6;
    return unit >= before / total - slack && unit <= (before + kept[token]) / total + slack;
}

static void test_large_vocabularies(void **state) {
    (void)state;
    enum { VOCAB = 49152 };
    static const SamplingOptions variants[] = {
        {.temperature = 1, .top_p = 1},
        {.temperature = 0.8f, .top_p = 1, .top_k = 40},
        {.temperature = 1, .top_p = 1, .top_k = 767},
        {.temperature = 1, .top_p = 1, .top_k = 30000},
        {.temperature = 0.7f, .top_p = 0.9f},
        {.temperature = 5, .top_p = 0.95f},
        {.temperature = 100, .top_p = 0.999f},
        {.temperature = 1, .top_p = 1, .min_p = 0.05f},
        {.temperature = 1.2f, .top_p = 0.8f, .top_k = 200, .min_p = 0.01f},
        {.temperature = 1e-6f, .top_p = 1},
    };
    float *logits = calloc(VOCAB, sizeof *logits);
    double *kept = calloc(VOCAB, sizeof *kept);
    SamplerWorkspace *workspace;
    assert_int_equal(sampler_workspace_create(&workspace, VOCAB), STATUS_OK);
    Random random = {.key = 7};
    for (size_t v = 0; v < sizeof variants / sizeof *variants; v++) {
        /* every second variant has many ties, to test the order of ids */
        float grid = v % 2 == 0 ? 1e4f : 8;
        for (uint32_t i = 0; i < VOCAB; i++)
            logits[i] = nearbyintf(random_normal(&random) * 3 * grid) / grid;
        SamplingOptions options = variants[v];
        options.repetition_penalty = 1;
        SamplerInput input = {.logits = logits, .vocab_count = VOCAB, .options = &options};
        twin_weights(&input, kept);
        for (uint64_t seed = 0; seed < 20; seed++) {
            SamplerOutput out;
            options.seed = seed * 977 + v;
            assert_int_equal(sampler_sample(workspace, &input, &out), STATUS_OK);
            if (kept[out.token] == 0) fail_msg("variant %zu: truncated token %d", v, out.token);
            if (!twin_agrees(&input, kept, out.token))
                fail_msg("variant %zu seed %zu: token %d", v, (size_t)seed, out.token);
        }
    }
    sampler_workspace_destroy(workspace);
    free(kept);
    free(logits);
}

/* 40,000 draws over 12 tokens; chi-square with 11 degrees of freedom stays below its 99.9 % point. The seeds are
 * fixed, so this passes or fails for good. */
static void test_distribution(void **state) {
    (void)state;
    enum { TOKENS = 12, DRAWS = 40000 };
    const float logits[TOKENS] = {0, 1, -1, 2, 0.5f, -2, 1.5f, 0, -0.5f, 3, -3, 1};
    SamplingOptions options = sampling_defaults;
    SamplerInput input = {.logits = logits, .vocab_count = TOKENS, .options = &options};
    SamplerWorkspace *workspace;
    assert_int_equal(sampler_workspace_create(&workspace, TOKENS), STATUS_OK);
    uint32_t hits[TOKENS] = {0};
    for (uint64_t draw = 0; draw < DRAWS; draw++) {
        SamplerOutput out;
        options.seed = draw;
        assert_int_equal(sampler_sample(workspace, &input, &out), STATUS_OK);
        hits[out.token]++;
    }
    double total = 0, chi_square = 0;
    for (int i = 0; i < TOKENS; i++)
        total += exp((double)logits[i]);
    for (int i = 0; i < TOKENS; i++) {
        double expected = DRAWS * exp((double)logits[i]) / total;
        chi_square += (hits[i] - expected) * (hits[i] - expected) / expected;
    }
    assert_true(chi_square < 31.26);
    sampler_workspace_destroy(workspace);
}

/* The draws of one request are those of its seed and index, and differ between indices. */
static void test_draws_follow_seed_and_index(void **state) {
    (void)state;
    enum { TOKENS = 100, STEPS = 32 };
    float logits[TOKENS] = {0};
    int32_t generated[STEPS], again[STEPS];
    SamplingOptions options = sampling_defaults;
    options.seed = 42;
    SamplerInput input = {
        .logits = logits, .vocab_count = TOKENS, .options = &options, .generated = generated};
    SamplerWorkspace *workspace;
    assert_int_equal(sampler_workspace_create(&workspace, TOKENS), STATUS_OK);
    SamplerOutput out;
    uint32_t changes = 0;
    for (uint32_t i = 0; i < STEPS; i++) {
        input.generated_count = i;
        assert_int_equal(sampler_sample(workspace, &input, &out), STATUS_OK);
        generated[i] = out.token;
        changes += i > 0 && generated[i] != generated[i - 1];
    }
    for (uint32_t i = STEPS; i-- > 0;) {
        input.generated_count = i;
        assert_int_equal(sampler_sample(workspace, &input, &out), STATUS_OK);
        again[i] = out.token;
    }
    assert_memory_equal(generated, again, sizeof again);
    assert_true(changes > STEPS / 2);
    sampler_workspace_destroy(workspace);
}

static void test_bad_logits(void **state) {
    (void)state;
    const float bad[] = {NAN, INFINITY, -NAN};
    SamplingOptions options = sampling_defaults;
    SamplerWorkspace *workspace;
    SamplerOutput out = {.token = -7};
    error_capture_begin();
    for (uint32_t position = 0; position < 70; position++) {
        for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
            float logits[70] = {0};
            SamplerInput input = {.logits = logits, .vocab_count = 70, .options = &options};
            logits[position] = bad[i];
            assert_int_equal(sampler_workspace_create(&workspace, 70), STATUS_OK);
            assert_int_equal(sampler_sample(workspace, &input, &out), STATUS_BAD_INPUT);
            assert_int_equal(error_last(NULL), ERROR_NAN_LOGITS);
            sampler_workspace_destroy(workspace);
        }
    }
    const float none[3] = {-INFINITY, -INFINITY, -INFINITY};
    SamplerInput input = {.logits = none, .vocab_count = 3, .options = &options};
    assert_int_equal(sampler_workspace_create(&workspace, 3), STATUS_OK);
    assert_int_equal(sampler_sample(workspace, &input, &out), STATUS_BAD_INPUT);
    assert_int_equal(error_last(NULL), ERROR_NAN_LOGITS);
    sampler_workspace_destroy(workspace);
    error_capture_end();
    assert_int_equal(out.token, -7);
}

static void test_options_are_checked(void **state) {
    (void)state;
    const LogitBias biases[] = {{3, 101}, {-1, 0}, {50, 0}};
    const struct {
        SamplingOptions options;
        const char *field;
    } rows[] = {
        {{.temperature = -1, .top_p = 1, .repetition_penalty = 1}, "temperature"},
        {{.temperature = NAN, .top_p = 1, .repetition_penalty = 1}, "temperature"},
        {{.top_p = 1.5f, .repetition_penalty = 1}, "top_p"},
        {{.top_p = 1, .min_p = -0.5f, .repetition_penalty = 1}, "min_p"},
        {{.top_p = 1, .presence_penalty = 2.5f, .repetition_penalty = 1}, "presence_penalty"},
        {{.top_p = 1, .frequency_penalty = -3, .repetition_penalty = 1}, "frequency_penalty"},
        {{.top_p = 1, .repetition_penalty = 0}, "repetition_penalty"},
        {{.top_p = 1, .repetition_penalty = 1, .top_logprobs = 21}, "top_logprobs"},
        {{.top_p = 1, .repetition_penalty = 1, .biases = &biases[0], .bias_count = 1},
         "logit_bias"},
        {{.top_p = 1, .repetition_penalty = 1, .biases = &biases[1], .bias_count = 1},
         "logit_bias"},
        {{.top_p = 1, .repetition_penalty = 1, .biases = &biases[2], .bias_count = 1},
         "logit_bias"},
        {{.top_p = 1, .repetition_penalty = 1, .biases = biases, .bias_count = 1025}, "logit_bias"},
    };
    assert_int_equal(sampling_options_check(&sampling_defaults, 50), STATUS_OK);
    error_capture_begin();
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *text;
        assert_int_equal(sampling_options_check(&rows[i].options, 50), STATUS_BAD_INPUT);
        assert_int_equal(error_last(&text), ERROR_REQUEST);
        assert_non_null(strstr(text, rows[i].field));
    }
    error_capture_end();
}

enum { PASS_COUNT_MAX = 5000 };

typedef struct PassResults {
    float maximum, maxima[PASS_COUNT_MAX / SAMPLER_RUN_TOKENS + 1], weights[PASS_COUNT_MAX];
    double sum, part, sums[PASS_COUNT_MAX / SAMPLER_RUN_TOKENS + 1];
    bool below;
} PassResults;

static void run_passes(const SamplerPasses *passes, const float *logits, uint32_t count,
                       PassResults *out) {
    memset(out, 0, sizeof *out);
    out->below = passes->all_below_infinity(logits, count);
    out->maximum = passes->find_maxima(logits, count, out->maxima);
    passes->fill_weights(out->weights, logits, count, out->maximum, 0.7f);
    out->sum = passes->find_sums(out->weights, count, out->sums);
    out->part = passes->sum_from(out->weights, count, 1e-3f);
}

/* Every instruction set that this CPU has gives the bits of plain C. */
static void test_passes_have_the_same_bits(void **state) {
    (void)state;
    static const uint32_t counts[] = {1, 7, 8, 63, 64, 65, 129, 1000, PASS_COUNT_MAX};
    static float logits[PASS_COUNT_MAX];
    static PassResults expected, found;
    Random random = {.key = 5};
    for (int i = 0; i < PASS_COUNT_MAX; i++)
        logits[i] = (float)(random_unit(&random) * 60 - 30);
    const SamplerPasses *plain = sampler_passes_rows;
    while (plain[1].name)
        plain++;
    assert_true(sampler_passes_run(plain));
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        run_passes(plain, logits, counts[i], &expected);
        assert_true(expected.below && expected.part > 0 && expected.part <= expected.sum);
        for (const SamplerPasses *passes = sampler_passes_rows; passes->name; passes++) {
            if (!sampler_passes_run(passes)) continue;
            run_passes(passes, logits, counts[i], &found);
            if (memcmp(&expected, &found, sizeof found))
                fail_msg("%s gives other bits for %u tokens", passes->name, counts[i]);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_large_vocabularies),
        cmocka_unit_test(test_distribution),
        cmocka_unit_test(test_draws_follow_seed_and_index),
        cmocka_unit_test(test_bad_logits),
        cmocka_unit_test(test_options_are_checked),
        cmocka_unit_test(test_passes_have_the_same_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
