/* How errors are told: one line on stderr, the status and exit code of the row, captures that keep quiet, a
 * broken invariant that ends the process. What ends or logs runs in a child whose stderr is read. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "runtime/base/arena.h"
#include "runtime/base/invariant.h"

typedef struct Child {
    int exit_code;
    char text[4096]; /* what it wrote to stderr */
} Child;

static Child run_child(void (*work)(void)) {
    int ends[2];
    Child child = {.exit_code = -1};
    assert_int_equal(pipe(ends), 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        work();
        _exit(0);
    }
    close(ends[1]);
    size_t length = 0;
    for (ssize_t got = 1; got > 0; length += got > 0 ? (size_t)got : 0)
        got = read(ends[0], child.text + length, sizeof child.text - 1 - length);
    close(ends[0]);
    int state;
    assert_int_equal(waitpid(pid, &state, 0), pid);
    if (WIFEXITED(state)) child.exit_code = WEXITSTATUS(state);
    return child;
}

static void break_invariant(void) {
    CHECK(1 + 1 == 3);
}

static void test_broken_invariant(void **state) {
    (void)state;
    Child child = run_child(break_invariant);
    assert_int_equal(child.exit_code, 70);
    assert_non_null(strstr(child.text, "error[E-INVARIANT]"));
    assert_non_null(strstr(child.text, "test_status.c"));
    assert_non_null(strstr(child.text, "1 + 1 == 3"));
}

static Status refuse(void) {
    FAIL(GGUF_RANGE, "file \"a\nb\" at byte %d: \033[31mred", 7);
}

static Status forward(void) {
    TRY(refuse());
    return STATUS_OK;
}

static void raise_and_leave(void) {
    Status status = forward();
    (void)error_raise(ERROR_USAGE, "a second one");
    _exit(error_exit_code(status));
}

/* One line, whatever the text quotes; the first error decides the exit code. */
static void test_one_line(void **state) {
    (void)state;
    Child child = run_child(raise_and_leave);
    assert_int_equal(child.exit_code, 65);
    char *line_end = strchr(child.text, '\n');
    assert_non_null(line_end);
    *line_end = 0;
    assert_non_null(strstr(child.text, "error[E-GGUF-RANGE]"));
    assert_non_null(strstr(child.text, "file \"a b\" at byte 7:  [31mred"));
    assert_null(strchr(child.text, '\033'));
    assert_non_null(strstr(line_end + 1, "error[E-USAGE]"));
}

static void capture_and_leave(void) {
    const char *text;
    error_capture_begin();
    error_capture_begin();
    Status status = forward();
    error_capture_end();
    status = status == STATUS_BAD_INPUT ? refuse() : STATUS_OK;
    error_capture_end();
    bool kept = error_last(&text) == ERROR_GGUF_RANGE && strstr(text, "at byte 7");
    _exit(kept && status == STATUS_BAD_INPUT ? 42 : 1);
}

static void test_captures_are_quiet(void **state) {
    (void)state;
    Child child = run_child(capture_and_leave);
    assert_int_equal(child.exit_code, 42);
    assert_string_equal(child.text, "");
}

static void repeat_and_leave(void) {
    for (int i = 0; i < 3; i++)
        (void)error_raise(ERROR_USAGE, "what a broken device says");
    error_capture_begin();
    (void)error_raise(ERROR_USAGE, "what was kept quiet");
    error_capture_end();
    (void)error_raise(ERROR_USAGE, "what was kept quiet");
    _exit(0);
}

static void test_repeats_are_told_once(void **state) {
    (void)state;
    Child child = run_child(repeat_and_leave);
    assert_string_equal(child.text, "spillway: error[E-USAGE]: what a broken device says\n"
                                    "spillway: error[E-USAGE]: what was kept quiet\n");
}

/* Codes are stable names; exit codes are those of the manual. */
static void test_rows(void **state) {
    (void)state;
    const int exit_codes[] = {1, 64, 65, 66, 69, 70, 71, 73, 74, 75, 76};
    for (int a = 0; a < ERROR_COUNT; a++) {
        const ErrorRow *row = error_row((ErrorCode)a);
        bool known = false;
        for (size_t i = 0; i < sizeof exit_codes / sizeof *exit_codes; i++)
            known = known || row->exit_code == exit_codes[i];
        if (!known) fail_msg("%s: exit code %d", row->code, row->exit_code);
        assert_int_equal(strncmp(row->code, "E-", 2), 0);
        assert_int_not_equal(row->status, STATUS_OK);
        assert_true(strlen(row->meaning) > 10);
        for (int b = 0; b < a; b++)
            assert_string_not_equal(row->code, error_row((ErrorCode)b)->code);
    }
    for (int status = 0; status < STATUS_COUNT; status++)
        assert_string_not_equal(status_name((Status)status), "unknown");
}

/* E-MEMORY: a size that no machine has, and one that overflows. */
static void memory_that_is_not_there(void **state) {
    (void)state;
    void *memory = NULL;
    const char *text;
    error_capture_begin();
    assert_int_equal(memory_take(&memory, 1ull << 62, 1, "a table"), STATUS_NO_SPACE);
    assert_int_equal(error_last(&text), ERROR_MEMORY);
    assert_non_null(strstr(text, "a table"));
    assert_int_equal(memory_take(&memory, UINT64_MAX, 16, "a table"), STATUS_NO_SPACE);
    error_capture_end();
    assert_null(memory);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_broken_invariant),
        cmocka_unit_test(test_one_line),
        cmocka_unit_test(test_captures_are_quiet),
        cmocka_unit_test(test_repeats_are_told_once),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(memory_that_is_not_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
