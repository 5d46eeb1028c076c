/* Any bytes as arguments (one a line, up to an empty line; SPILLWAY_X=… is a variable of the environment) and a
 * configuration file (the rest). What is accepted prints as a configuration that is accepted and says the same. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launch/command.h"
#include "tests/fuzz/fuzz.h"

enum { ARGUMENTS_MAX = 64 };

static const char takes[] = "@general @log @model @ranks @engine @sampling @batch @bench @command";

static void check_refusal(Status status) {
    const char *text;
    PROMISE(status == STATUS_BAD_INPUT);
    PROMISE(error_last(&text) != ERROR_COUNT && text[0] && !strchr(text, '\n'));
}

/* Cuts the text into lines; returns what follows the empty line. */
static char *split(char *text, const char **arguments, int *argument_count, const char **variables,
                   int *variable_count) {
    while (*text) {
        size_t bytes = strcspn(text, "\n");
        char *next = text + bytes + (text[bytes] == '\n');
        text[bytes] = 0;
        if (bytes == 0) return next;
        bool variable = strncmp(text, "SPILLWAY_", 9) == 0;
        if (variable && *variable_count < ARGUMENTS_MAX) variables[(*variable_count)++] = text;
        if (!variable && *argument_count < ARGUMENTS_MAX) arguments[(*argument_count)++] = text;
        text = next;
    }
    return text;
}

static char *printed(const OptionSet *set) {
    char *text;
    size_t bytes;
    FILE *memory = open_memstream(&text, &bytes);
    PROMISE(memory);
    options_print_config(set, memory);
    fclose(memory);
    return text;
}

/* Sources differ after reading back: only what stands in front of the comments is compared. */
static bool says_the_same(const char *a, const char *b) {
    while (*a && *b) {
        size_t a_line = strcspn(a, "\n"), b_line = strcspn(b, "\n");
        const char *a_comment = memmem(a, a_line, "  # ", 4),
                   *b_comment = memmem(b, b_line, "  # ", 4);
        PROMISE(a_comment && b_comment);
        if (a_comment - a != b_comment - b || memcmp(a, b, (size_t)(a_comment - a)) != 0)
            return false;
        a += a_line + 1;
        b += b_line + 1;
    }
    return *a == *b;
}

static OptionSet *fresh(Settings *settings) {
    OptionSet *set;
    PROMISE(options_create(&set, &settings_table, "fuzz", takes, settings) == STATUS_OK);
    return set;
}

static void check_reads_back(const OptionSet *set) {
    Settings settings;
    OptionSet *again = fresh(&settings);
    char *first = printed(set);
    PROMISE(options_read_config_text(again, first, strlen(first), "printed") == STATUS_OK);
    char *second = printed(again);
    PROMISE(says_the_same(first, second));
    free(first);
    free(second);
    options_destroy(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *arguments[ARGUMENTS_MAX], *variables[ARGUMENTS_MAX + 1] = {NULL};
    int argument_count = 0, variable_count = 0;
    Settings settings;
    char *text = malloc(size + 1);
    PROMISE(text);
    memcpy(text, data, size);
    text[size] = 0;
    char *config = split(text, arguments, &argument_count, variables, &variable_count);
    variables[variable_count] = NULL;
    OptionSet *set = fresh(&settings);
    error_capture_begin();
    Status status = options_read_arguments(set, argument_count, arguments, "model");
    if (status == STATUS_OK) status = options_read_environment(set, variables);
    if (status == STATUS_OK)
        status = options_read_config_text(set, config, (size_t)(text + size - config), "fuzz.yaml");
    if (status == STATUS_OK)
        check_reads_back(set);
    else
        check_refusal(status);
    PROMISE(options_first_positional(&settings_table, argument_count, arguments) <= argument_count);
    error_capture_end();
    options_destroy(set);
    free(text);
    return 0;
}
