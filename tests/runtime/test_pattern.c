/* Patterns against Oniguruma: every class over every code point (tests/golden/text/classes.json), and what is refused. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "runtime/text/pattern.h"
#include "runtime/text/utf8.h"

static Pattern *pattern_of(const char *expression) {
    Pattern *pattern = NULL;
    assert_int_equal(pattern_create(&pattern, expression, strlen(expression)), STATUS_OK);
    return pattern;
}

/* How many code points the pattern matches alone; *out_hash: FNV-1a over them as UTF-8. */
static size_t count_matches(const Pattern *pattern, uint32_t *out_hash) {
    PatternMatcher matcher;
    size_t count = 0, from, end;
    assert_int_equal(pattern_matcher_begin(&matcher, pattern), STATUS_OK);
    *out_hash = 0x811C9DC5u;
    for (uint32_t code_point = 0; code_point < 0x110000; code_point++) {
        char text[4];
        if (code_point >= 0xD800 && code_point < 0xE000) continue;
        size_t bytes = utf8_write(code_point, text);
        if (pattern_find(&matcher, text, bytes, 0, &from, &end) != STATUS_OK) continue;
        count++;
        for (size_t i = 0; i < bytes; i++)
            *out_hash = (*out_hash ^ (uint8_t)text[i]) * 0x01000193u;
    }
    pattern_matcher_end(&matcher);
    return count;
}

static void test_classes(void **state) {
    (void)state;
    json_error_t error;
    json_t *rows = json_load_file(GOLDEN "/text/classes.json", 0, &error), *row;
    size_t index;
    assert_true(json_array_size(rows) > 20);
    json_array_foreach(rows, index, row) {
        const char *expression = json_string_value(json_array_get(row, 0));
        Pattern *pattern = pattern_of(expression);
        uint32_t hash;
        size_t count = count_matches(pattern, &hash);
        pattern_destroy(pattern);
        if ((json_int_t)count != json_integer_value(json_array_get(row, 1)) ||
            hash != json_integer_value(json_array_get(row, 2)))
            fail_msg("%s matches %zu code points, or other ones", expression, count);
    }
    json_decref(rows);
}

static void test_refused(void **state) {
    (void)state;
    static const char *const expressions[] = {
        "\\",       "\\q",        "\\v",     "\\b",    "\\R",         "\\1",         "\\C",
        "\\pL",     "\\p{Greek}", "\\p{L",   "[a[b]]", "[[:alpha:]]", "[a&&b]",      "[\\S]",
        "[\\P{L}]", "(?m)a",      "(?x: a)", "a(?i)b", "a{2}+",       "\\x4",        "\\x{}",
        "\\u12",    "(",          "[a",      "a**{",   "(?<a>b",      "\\x{110000}",
    };
    for (size_t i = 0; i < sizeof expressions / sizeof expressions[0]; i++) {
        Pattern *pattern = NULL;
        error_capture_begin();
        Status status = pattern_create(&pattern, expressions[i], strlen(expressions[i]));
        error_capture_end();
        if (status != STATUS_BAD_INPUT) fail_msg("%s is taken", expressions[i]);
    }
    char *huge = malloc(1 << 20);
    assert_non_null(huge);
    memset(huge, 'a', 1 << 20);
    Pattern *pattern = NULL;
    error_capture_begin();
    assert_int_equal(pattern_create(&pattern, huge, 1 << 20), STATUS_BAD_INPUT);
    error_capture_end();
    free(huge);
}

static void test_literal(void **state) {
    (void)state;
    Pattern *pattern = NULL;
    TextBuffer out = {0};
    assert_int_equal(pattern_create_literal(&pattern, ".\\E*", 4), STATUS_OK);
    assert_int_equal(pattern_replace(pattern, "a.\\E*b.\\E*", 10, "-", 1, &out), STATUS_OK);
    assert_string_equal(out.text, "a-b-");
    text_buffer_free(&out);
    pattern_destroy(pattern);
}

static void test_empty_matches(void **state) {
    (void)state;
    Pattern *pattern = pattern_of("x*");
    TextBuffer out = {0};
    assert_int_equal(pattern_replace(pattern, "a\xC3\xA9xxb", 6, "-", 1, &out), STATUS_OK);
    assert_string_equal(out.text, "-a-\xC3\xA9-b-");
    text_buffer_free(&out);
    pattern_destroy(pattern);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_classes),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_literal),
        cmocka_unit_test(test_empty_matches),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) ? 1 : 0;
}
