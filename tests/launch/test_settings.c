/* The real option table and command rows: that they agree with each other and with their help. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "launch/command.h"

enum { SCREEN_LINES = 24, SCREEN_COLUMNS = 100 };

static void test_table(void **state) {
    (void)state;
    char why[256];
    if (!option_table_check(&settings_table, why, sizeof why)) fail_msg("%s", why);
}

static bool is_row(const char *word, size_t bytes) {
    for (size_t i = 0; i < settings_table.row_count; i++)
        if (strlen(settings_table.rows[i].name) == bytes &&
            memcmp(settings_table.rows[i].name, word, bytes) == 0)
            return true;
    return false;
}

static bool is_group(const char *word, size_t bytes) {
    for (size_t i = 0; i < settings_table.group_count; i++)
        if (strlen(settings_table.groups[i].name) == bytes &&
            memcmp(settings_table.groups[i].name, word, bytes) == 0)
            return true;
    return false;
}

static void check_words(const char *command, const char *words) {
    for (const char *at = words; *at;) {
        size_t bytes = strcspn(at, " ");
        bool known = at[0] == '@' ? is_group(at + 1, bytes - 1) : is_row(at, bytes);
        if (!known) fail_msg("%s: there is no option or group %.*s", command, (int)bytes, at);
        at += bytes + (at[bytes] == ' ');
    }
}

/* What a command fills from bare arguments or needs, it also takes. */
static void check_taken(const Command *command, const char *words) {
    for (const char *at = words; *at;) {
        size_t bytes = strcspn(at, " ");
        bool taken = false;
        for (size_t i = 0; i < settings_table.row_count; i++) {
            const OptionRow *row = &settings_table.rows[i];
            if (strlen(row->name) == bytes && memcmp(row->name, at, bytes) == 0)
                taken = option_applies(&settings_table, command_takes(command), row);
        }
        if (!taken) fail_msg("%s does not take its %.*s", command->name, (int)bytes, at);
        at += bytes + (at[bytes] == ' ');
    }
}

static void test_commands(void **state) {
    (void)state;
    size_t count = 0;
    for (const Command *const *row = command_rows(); *row; row++, count++) {
        const Command *command = *row;
        assert_non_null(command->run);
        assert_true(strlen(command->summary) > 0);
        check_words(command->name, command->takes);
        check_words(command->name, command->positionals);
        check_words(command->name, command->needs);
        check_taken(command, command->positionals);
        check_taken(command, command->needs);
        for (const Command *const *other = command_rows(); other != row; other++)
            assert_string_not_equal((*other)->name, command->name);
    }
    assert_true(count >= 8);
}

/* Each option belongs to a command. */
static void test_no_option_is_lost(void **state) {
    (void)state;
    for (size_t i = 0; i < settings_table.row_count; i++) {
        bool taken = false;
        for (const Command *const *row = command_rows(); *row && !taken; row++)
            taken = option_applies(&settings_table, command_takes(*row), &settings_table.rows[i]);
        if (!taken) fail_msg("no command takes --%s", settings_table.rows[i].name);
    }
}

static void test_find(void **state) {
    (void)state;
    int words = 0;
    const char *batch[] = {"batch", "status", "x"}, *model[] = {"batch", "model"};
    const char *none[] = {"bat"};
    assert_string_equal(command_find(3, batch, &words)->name, "batch status");
    assert_int_equal(words, 2);
    assert_string_equal(command_find(2, model, &words)->name, "batch");
    assert_int_equal(words, 1);
    assert_string_equal(command_find(1, batch, &words)->name, "batch");
    assert_null(command_find(1, none, &words));
    assert_null(command_find(0, none, &words));
}

static char *help_text(const char *takes, bool all) {
    char *text;
    size_t bytes;
    FILE *memory = open_memstream(&text, &bytes);
    options_print_help(&settings_table, takes, all, memory);
    fclose(memory);
    return text;
}

/* A group of --help fits a screen; no line is longer than one. */
static void test_help_fits(void **state) {
    (void)state;
    for (const Command *const *row = command_rows(); *row; row++) {
        char *text = help_text(command_takes(*row), false);
        int lines = 0;
        for (char *line = text; *line;) {
            size_t bytes = strcspn(line, "\n");
            lines = bytes == 0 ? 0 : lines + 1;
            if (bytes > SCREEN_COLUMNS) fail_msg("%.*s", (int)bytes, line);
            if (lines > SCREEN_LINES) fail_msg("%s: a group is longer than a screen", (*row)->name);
            line += bytes + 1;
        }
        free(text);
    }
}

static void test_help_all_names_every_option(void **state) {
    (void)state;
    for (const Command *const *row = command_rows(); *row; row++) {
        const char *takes = command_takes(*row);
        char *text = help_text(takes, true);
        for (size_t i = 0; i < settings_table.row_count; i++) {
            const OptionRow *option = &settings_table.rows[i];
            char wanted[80];
            snprintf(wanted, sizeof wanted, "--%s", option->name);
            if (option_applies(&settings_table, takes, option))
                assert_non_null(strstr(text, wanted));
        }
        free(text);
    }
}

static void test_combinations(void **state) {
    (void)state;
    Settings settings;
    OptionSet *options;
    const char *odd[] = {"--block-size", "48"}, *even[] = {"--block-size", "64"};
    assert_int_equal(
        options_create(&options, &settings_table, "test", "@engine @sampling", &settings),
        STATUS_OK);
    assert_int_equal(settings_check(&settings), STATUS_OK);
    assert_int_equal(options_read_arguments(options, 2, odd, ""), STATUS_OK);
    assert_int_equal(settings_check(&settings), STATUS_BAD_INPUT);
    assert_int_equal(options_read_arguments(options, 2, even, ""), STATUS_OK);
    assert_int_equal(settings_check(&settings), STATUS_OK);
    for (int i = 0; i < 17; i++) {
        const char *stop[] = {"--stop", "x"};
        assert_int_equal(options_read_arguments(options, 2, stop, ""), STATUS_OK);
    }
    assert_int_equal(settings_check(&settings), STATUS_BAD_INPUT);
    options_destroy(options);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_commands),
        cmocka_unit_test(test_no_option_is_lost),
        cmocka_unit_test(test_find),
        cmocka_unit_test(test_help_fits),
        cmocka_unit_test(test_help_all_names_every_option),
        cmocka_unit_test(test_combinations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
