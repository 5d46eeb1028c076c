/* Stop strings over text that arrives in random pieces, against a search of the whole text. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/base/random.h"
#include "runtime/engine/stop_match.h"

enum { STOPS_MAX = 3, TEXT_BYTES = 40 };

static void random_text(Random *random, char *out, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        out[i] = (char)('a' + random_below(random, 2)); /* two letters: many near misses */
    out[bytes] = 0;
}

/* Bytes before the first stop string that is complete, the longest text allowed out. */
static size_t first_match(const char *text, const char *const *stops, uint32_t stop_count,
                          bool *out_matched) {
    size_t earliest = strlen(text);
    *out_matched = false;
    for (uint32_t i = 0; i < stop_count; i++) {
        const char *found = strstr(text, stops[i]);
        if (!found || (size_t)(found - text) >= earliest + !*out_matched) continue;
        earliest = (size_t)(found - text);
        *out_matched = true;
    }
    return earliest;
}

/* The streamed answer: text before the stop that completes first. With stops of one length both agree. */
static void pieces_equal_the_whole(void **state) {
    (void)state;
    Random random = {.key = 5};
    for (int trial = 0; trial < 20000; trial++) {
        char text[TEXT_BYTES + 1], stop_text[STOPS_MAX][8];
        const char *stops[STOPS_MAX];
        uint32_t stop_count = (uint32_t)random_below(&random, STOPS_MAX + 1);
        size_t stop_bytes = 1 + random_below(&random, 6),
               bytes = random_below(&random, TEXT_BYTES + 1);
        random_text(&random, text, bytes);
        for (uint32_t i = 0; i < stop_count; i++) {
            random_text(&random, stop_text[i], stop_bytes);
            stops[i] = stop_text[i];
        }
        StopMatch match;
        TextBuffer out = {0};
        bool matched = false, expected;
        stop_match_begin(&match, stops, stop_count);
        for (size_t at = 0; at < bytes && !matched;) {
            size_t piece = 1 + random_below(&random, 5);
            if (piece > bytes - at) piece = bytes - at;
            assert_int_equal(stop_match_push(&match, text + at, piece, &out, &matched), STATUS_OK);
            at += piece;
        }
        if (!matched) assert_int_equal(stop_match_flush(&match, &out), STATUS_OK);
        size_t kept = first_match(text, stops, stop_count, &expected);
        assert_int_equal(matched, expected);
        assert_int_equal(out.bytes, kept);
        if (kept > 0) assert_memory_equal(out.text, text, kept);
        stop_match_end(&match);
        text_buffer_free(&out);
    }
}

static void holds_back_what_may_become_a_stop(void **state) {
    (void)state;
    const char *const stops[] = {"###", "END"};
    StopMatch match;
    TextBuffer out = {0};
    bool matched;
    stop_match_begin(&match, stops, 2);
    assert_int_equal(stop_match_push(&match, "go #", 4, &out, &matched), STATUS_OK);
    assert_int_equal(out.bytes, 3);
    assert_int_equal(stop_match_push(&match, "# EN", 4, &out, &matched), STATUS_OK);
    assert_string_equal(out.text, "go ## ");
    assert_int_equal(stop_match_push(&match, "D of it", 7, &out, &matched), STATUS_OK);
    assert_true(matched);
    assert_string_equal(out.text, "go ## ");
    stop_match_end(&match);
    text_buffer_free(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_equal_the_whole),
        cmocka_unit_test(holds_back_what_may_become_a_stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
