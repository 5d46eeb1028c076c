/* From arguments to a command: finds the row, fills the Settings, runs it, and turns its status into an exit code. */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "launch/command.h"
#include "launch/launcher.h"
#include "launch/named_config.h"
#include "runtime/base/log.h"

enum { NAMES_MAX = 64, ARGUMENTS_MAX = 4096 };

static char *const *program_arguments; /* as they were given: what the launcher starts again */

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
    if (settings->config) TRY(named_config_read(options, settings->config));
    TRY(configure_log(settings));
    return settings_check(settings);
}

static bool wants_ranks(const Command *command, const Settings *settings) {
    const char *place = strstr(command->takes, "@ranks");
    return place && settings->ranks > 1;
}

/* Whether an option names standard input. */
static bool reads_input(const Settings *settings) {
    const char *const files[] = {settings->prompt, settings->tokens_file, settings->file};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if (files[i] && strcmp(files[i], "-") == 0) return true;
    return false;
}

/* Standard error of the ranks is a pipe of mpirun: what it ends in is known here only. */
static void add_terminal(const Settings *settings, char **out_arguments) {
    static char option[] = "--progress=terminal";
    size_t count = 0;
    bool terminal = strcmp(settings->progress, "auto") == 0 && isatty(STDERR_FILENO);
    while (program_arguments[count]) {
        out_arguments[count] = program_arguments[count];
        count++;
    }
    if (terminal) out_arguments[count++] = option;
    out_arguments[count] = NULL;
}

/* Under a launcher, or alone, the command runs here; else mpirun starts this program again, once a rank. */
static int run_ranks(const Command *command, const Settings *settings) {
    LauncherPlace place = {0};
    if (!wants_ranks(command, settings)) return command->run(settings);
    Status status = launcher_find(&place);
    if (status == STATUS_OK && place.name) status = launcher_take_input(&place);
    if (status == STATUS_OK && place.name) return command->run(settings);
    char *arguments[ARGUMENTS_MAX + 2];
    add_terminal(settings, arguments);
    const LauncherOptions options = {.ranks = (int)settings->ranks,
                                     .argv = arguments,
                                     .forward_input =
                                         command->interactive || reads_input(settings)};
    int exit_code = 0;
    if (status == STATUS_OK) status = launcher_run(&options, &exit_code);
    return status == STATUS_OK ? exit_code : error_exit_code(status);
}

static int run_command(const Command *command, int count, const char *const *arguments) {
    Settings settings;
    OptionSet *options;
    memset(&settings, 0, sizeof settings);
    Status status =
        options_create(&options, &settings_table, command->name, command_takes(command), &settings);
    if (status != STATUS_OK) return error_exit_code(status);
    settings.options = options;
    int exit_code = 0;
    status = read_settings(options, command, count, arguments, &settings);
    if (status != STATUS_OK)
        exit_code = error_exit_code(status);
    else if (settings.help || settings.help_all)
        print_usage(command, settings.help_all);
    else if (settings.print_config)
        options_print_config(options, stdout);
    else if ((status = check_needs(command, options)) != STATUS_OK)
        exit_code = error_exit_code(status);
    else
        exit_code = run_ranks(command, &settings);
    options_destroy(options);
    return exit_code;
}

/* No command: --version, --help, or a mistake. */
static int run_without_command(int count, const char *const *arguments) {
    int words;
    if (count > 0 && strcmp(arguments[0], "--version") == 0)
        return run_command(command_find(1, (const char *const[]){"version"}, &words), 0, NULL);
    bool help = count > 0 && (strcmp(arguments[0], "-h") == 0 ||
                              strncmp(arguments[0], "--help", strlen("--help")) == 0);
    if (help || count == 0) print_overview(help ? stdout : stderr);
    return help ? 0 : error_exit_code(error_raise(ERROR_USAGE, "no command"));
}

/* Options may stand in front of the command: its words are taken out of the list. */
static int dispatch(int count, const char **arguments) {
    int first = options_first_positional(&settings_table, count, arguments), words;
    if (first == count) return run_without_command(count, arguments);
    const Command *command = command_find(count - first, arguments + first, &words);
    if (!command) return error_exit_code(fail_unknown_command(arguments[first]));
    memmove(arguments + first, arguments + first + words,
            (size_t)(count - first - words) * sizeof *arguments);
    return run_command(command, count - words, arguments);
}

int main(int argc, char **argv) {
    const char *arguments[ARGUMENTS_MAX];
    if (argc > ARGUMENTS_MAX)
        return error_exit_code(error_raise(ERROR_USAGE, "more than %d arguments", ARGUMENTS_MAX));
    program_arguments = argv;
    memcpy(arguments, argv, (size_t)argc * sizeof *arguments);
    int exit_code = dispatch(argc - 1, arguments + 1);
    bool written = fflush(stdout) == 0 && !ferror(stdout);
    if (!written && exit_code == 0)
        exit_code = error_exit_code(
            error_raise(ERROR_OUTPUT_WRITE, "standard output: %s", strerror(errno)));
    return exit_code;
}
