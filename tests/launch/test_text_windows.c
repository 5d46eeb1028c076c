/* Windows over a text as a property of random rules, and the distance of distributions against closed forms. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include <math.h>

#include "launch/logit_compare.h"
#include "launch/text_windows.h"
#include "runtime/base/random.h"

enum { ROUNDS = 4000, TOKENS_MAX = 300 };

static uint32_t pick(Random *random, uint32_t least, uint32_t greatest) {
    return least + (uint32_t)random_below(random, greatest - least + 1);
}

static WindowRule random_rule(Random *random) {
    WindowRule rule = {.head_count = pick(random, 0, 1)};
    rule.prefix = rule.head_count + pick(random, 1, 20);
    rule.context = rule.prefix + pick(random, 1, 60);
    rule.stride = pick(random, 0, 1) ? pick(random, 1, rule.context - rule.prefix) : 0;
    rule.window_max = pick(random, 0, 3) ? 0 : pick(random, 1, 5);
    return rule;
}

/* A window is as long as it may be unless the text ends, and its scored tokens follow a prompt of at least the prefix, of exactly
 * that where no window is before it or all stand side by side. */
static void check_window(const WindowRule *rule, const TextWindow *window, bool last,
                         bool whole_prefix) {
    uint32_t tokens = rule->head_count + window->count;
    assert_true(tokens <= rule->context && (tokens == rule->context || last));
    assert_true(window->scored_count >= 1 && tokens - window->scored_count >= rule->prefix);
    if (whole_prefix) assert_int_equal(tokens - window->scored_count, rule->prefix);
}

static void windows_cover_the_text(void **state) {
    (void)state;
    Random random = {.key = 7};
    for (int round = 0; round < ROUNDS; round++) {
        WindowRule rule = random_rule(&random);
        uint32_t token_count = pick(&random, 0, TOKENS_MAX), covered = 0;
        uint8_t scored[TOKENS_MAX] = {0};
        TextWindows windows;
        assert_int_equal(window_rule_check(&rule), STATUS_OK);
        error_capture_begin();
        Status status = text_windows_make(&rule, token_count, &windows);
        error_capture_end();
        bool enough = token_count + rule.head_count > rule.prefix;
        assert_int_equal(status, enough ? STATUS_OK : STATUS_BAD_INPUT);
        if (!enough) continue;
        for (uint32_t i = 0; i < windows.count; i++) {
            const TextWindow *window = &windows.items[i];
            check_window(&rule, window, i + 1 == windows.count, i == 0 || rule.stride == 0);
            assert_int_equal(window->scored_first, covered);
            for (uint64_t t = window->first + window->count - window->scored_count;
                 t < window->first + window->count; t++)
                assert_int_equal(scored[t]++, 0);
            covered += window->scored_count;
        }
        const TextWindow *last = &windows.items[windows.count - 1];
        assert_int_equal(windows.scored_count, covered);
        assert_int_equal(windows.left_out_count, token_count - last->first - last->count);
        if (rule.window_max > 0)
            assert_true(windows.count <= rule.window_max);
        else if (rule.stride > 0)
            assert_int_equal(covered, token_count + rule.head_count - rule.prefix);
        else
            assert_true(windows.left_out_count <= rule.prefix - rule.head_count);
        text_windows_free(&windows);
    }
}

static void wrong_rules_are_refused(void **state) {
    (void)state;
    const WindowRule wrong[] = {
        {.context = 1, .prefix = 1},
        {.context = 8, .prefix = 8},
        {.context = 8, .prefix = 1, .head_count = 1},
        {.context = 8, .prefix = 4, .stride = 5},
    };
    error_capture_begin();
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_int_equal(window_rule_check(&wrong[i]), STATUS_BAD_INPUT);
    error_capture_end();
}

/* Two words with probabilities p and q: p log(p/q) + (1-p) log((1-p)/(1-q)). */
static void divergence_of_two_words(void **state) {
    (void)state;
    double weights[3];
    for (double p = 0.05; p < 1; p += 0.1)
        for (double q = 0.05; q < 1; q += 0.1) {
            const float reference[] = {(float)log(p) + 9, (float)log(1 - p) + 9, -INFINITY};
            const float found[] = {(float)log(q) - 3, (float)log(1 - q) - 3, -INFINITY};
            LogitDistance distance = logit_distance(reference, found, 3, weights);
            double expected = p * log(p / q) + (1 - p) * log((1 - p) / (1 - q));
            assert_true(fabs(distance.divergence - expected) < 2e-6);
            assert_int_equal(distance.same_top, (p > 0.5) == (q > 0.5));
        }
}

static void equal_logits_have_no_distance(void **state) {
    (void)state;
    Random random = {.key = 3};
    float logits[97];
    double weights[97];
    for (int round = 0; round < 100; round++) {
        for (int i = 0; i < 97; i++)
            logits[i] = (float)(20 * random_unit(&random));
        LogitDistance distance = logit_distance(logits, logits, 97, weights);
        assert_true(distance.divergence == 0 && distance.same_top);
    }
}

static void summary_of_distances(void **state) {
    (void)state;
    double divergences[101];
    for (int i = 0; i <= 100; i++)
        divergences[i] = 100 - i;
    DistanceSummary summary = distance_summary(divergences, 101, 50);
    assert_true(summary.mean == 50 && summary.p99 == 99 && summary.max == 100);
    assert_true(fabs(summary.same_top_share - 50.0 / 101) < 1e-12);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(windows_cover_the_text),  cmocka_unit_test(wrong_rules_are_refused),
        cmocka_unit_test(divergence_of_two_words), cmocka_unit_test(equal_logits_have_no_distance),
        cmocka_unit_test(summary_of_distances),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
