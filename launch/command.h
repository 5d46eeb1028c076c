#ifndef LAUNCH_COMMAND_H
#define LAUNCH_COMMAND_H

/* What spillway can be told to do. A command is one file launch/cmd_<word>.c and one word in launch/meson.build; the file
 * exports rows `const Command command_<word>[]`, ended by a row without a name. */

#include "launch/settings.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct Command {
    const char *name;        /* "batch", or two words: "batch status" */
    const char *summary;     /* one line of the overview */
    const char *positionals; /* options that the bare arguments fill, in order: "model"; "" */
    const char *needs;       /* options that must have a value; "" */
    const char *takes; /* options it takes, "@group" or name; "@general @log" come by themselves */
    bool interactive;  /* reads standard input all the time */
    /* Runs on every rank; raises what goes wrong and returns the exit code: error_exit_code(status). */
    int (*run)(const Settings *settings);
} Command;

/* All rows, ended by NULL. */
const Command *const *command_rows(void);

/* The command at arguments[0] (and [1], for names of two words); *out_words says how many belong to its name. NULL when
 * there is none. */
const Command *command_find(int argument_count, const char *const *arguments, int *out_words);

/* takes with what every command takes; valid until the next call. One thread. */
const char *command_takes(const Command *command);

SPILLWAY_EXTERN_C_END

#endif
