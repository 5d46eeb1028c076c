/* From arguments to a command: finds the row, fills the Settings, runs it, and turns its status into an exit code. */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "launch/command.h"
#include "runtime/base/log.h"

enum { NAMES_MAX = 64 };

static void print_overview(FILE *out) {
    fprintf(out,
            "spillway runs large language models on the ranks of a cluster or on one machine\n\n"
            "usage: spillway COMMAND [MODEL] [options]\n\ncommands:\n");
    for (const Command *const *row = command_rows(); *row; row++)
        fprintf(out, "  %-18s %s\n", (*row)->name, (*row)->summary);
    fprintf(out, "\nspillway COMMAND --help shows the options of a command.\n");
}

static void print_usage(const Command *command, bool all) {
    printf("%s\n\nusage: spillway %s", command->summary, command->name);
    for (const char *at = command->positionals; *at;) {
        size_t bytes = strcspn(at, " ");
        putchar(' ');
        for (size_t i = 0; i < bytes; i++)
            putchar(at[i] >= 'a' && at[i] <= 'z' ? at[i] - 'a' + 'A' : at[i]);
        at += bytes + (at[bytes] == ' ');
    }
    printf(" [options]\n");
    options_print_help(&settings_table, command_takes(command), all, stdout);
    if (!all)
        printf("\n--help-all shows rare options, ranges, other spellings and environment "
               "variables.\n");
}

static Status fail_unknown_command(const char *name) {
    const char *names[NAMES_MAX];
    size_t count = 0;
    for (const Command *const *row = command_rows(); *row && count < NAMES_MAX; row++)
        names[count++] = (*row)->name;
    const char *nearest = nearest_name(name, names, count);
    if (nearest) FAIL(USAGE, "unknown command \"%.60s\"; did you mean %s?", name, nearest);
    FAIL(USAGE, "unknown command \"%.60s\"; spillway --help lists them", name);
}

static Status configure_log(const Settings *settings) {
    static const char *const levels[] = {"error", "warning", "info", "debug", "trace"};
    LogOptions options = {.level = LOG_INFO, .descriptor = STDERR_FILENO, .rank = -1};
    for (int level = 0; level < (int)(sizeof levels / sizeof *levels); level++)
        if (strcmp(settings->log_level, levels[level]) == 0) options.level = (LogLevel)level;
    if (settings->quiet) options.level = LOG_ERROR;
    options.json = strcmp(settings->log_format, "json") == 0;
    if (settings->log_file) {
        options.descriptor =
            open(settings->log_file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        if (options.descriptor < 0)
            FAIL(OUTPUT_CREATE, "log file \"%s\": %s; see --log-file", settings->log_file,
                 strerror(errno));
    }
    log_configure(&options);
    return STATUS_OK;
}

/* Every option that the command needs has a value. */
static Status check_needs(const Command *command, const OptionSet *options) {
    for (const char *at = command->needs; *at;) {
        size_t bytes = strcspn(at, " ");
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)bytes, at);
        if (options_source(options, name) == OPTION_SOURCE_DEFAULT)
            FAIL(USAGE, "\"%s\" needs --%s; spillway %s --help shows its options", command->name,
                 name, command->name);
        at += bytes + (at[bytes] == ' ');
    }
    return STATUS_OK;
}

static Status read_settings(OptionSet *options, const Command *command, int count,
                            const char *const *arguments, Settings *settings) {
    TRY(options_read_arguments(options, count, arguments, command->positionals));
    if (settings->help || settings->help_all) return STATUS_OK;
    TRY(options_read_environment(options, (const char *const *)environ));
    if (settings->config) TRY(options_read_config_file(options, settings->config));
    TRY(configure_log(settings));
    return settings_check(settings);
}

static Status run_command(const Command *command, int count, const char *const *arguments) {
    Settings settings;
    OptionSet *options;
    memset(&settings, 0, sizeof settings);
    TRY(options_create(&options, &settings_table, command->name, command_takes(command),
                       &settings));
    settings.options = options;
    Status status = read_settings(options, command, count, arguments, &settings);
    if (status != STATUS_OK)
        ;
    else if (settings.help || settings.help_all)
        print_usage(command, settings.help_all);
    else if (settings.print_config)
        options_print_config(options, stdout);
    else if ((status = check_needs(command, options)) == STATUS_OK)
        status = command->run(&settings);
    options_destroy(options);
    return status;
}

/* Options may stand in front of the command: moves its words out of the list. */
static Status dispatch(int count, const char **arguments) {
    int first = options_first_positional(&settings_table, count, arguments), words;
    if (first == count) {
        bool version = count > 0 && strcmp(arguments[0], "--version") == 0;
        bool help = count == 0 || strncmp(arguments[0], "--help", 6) == 0 ||
                    strcmp(arguments[0], "-h") == 0;
        if (version)
            return run_command(command_find(1, (const char *const[]){"version"}, &words), 0, NULL);
        if (!help) FAIL(USAGE, "no command; spillway --help lists them");
        print_overview(count == 0 ? stderr : stdout);
        if (count > 0) return STATUS_OK;
        FAIL(USAGE, "no command");
    }
    const Command *command = command_find(count - first, arguments + first, &words);
    if (!command) return fail_unknown_command(arguments[first]);
    memmove(arguments + first, arguments + first + words,
            (size_t)(count - first - words) * sizeof *arguments);
    return run_command(command, count - words, arguments);
}

int main(int argc, char **argv) {
    Status status = dispatch(argc - 1, (const char **)argv + 1);
    if (fflush(stdout) != 0 && status == STATUS_OK)
        status = error_raise(ERROR_OUTPUT_WRITE, "standard output: %s", strerror(errno));
    return error_exit_code(status);
}
