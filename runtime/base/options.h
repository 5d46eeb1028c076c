#ifndef RUNTIME_BASE_OPTIONS_H
#define RUNTIME_BASE_OPTIONS_H

/* The one option table. A row gives an option its flag, its configuration key, its environment twin
 * (SPILLWAY_MAX_MODEL_LEN), its help, its range and its completion; nothing else reads arguments or the environment.
 *
 * A value from the command line wins over the environment, that over the configuration file, that over the default; the
 * order of the reading calls does not matter. Values are parsed into a plain struct of the caller at row->offset.
 * Wrong input is told once, naming flag, variable or file:line:column. One thread. */

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

typedef enum OptionType {
    OPTION_FLAG,     /* bool; --x, --no-x, --x=false */
    OPTION_INTEGER,  /* int64_t */
    OPTION_REAL,     /* double */
    OPTION_SIZE,     /* OptionSize; "64GiB", "500MB", "90%", "0" */
    OPTION_DURATION, /* double, seconds; "500ms", "2m"; a bare number is seconds */
    OPTION_STRING,   /* const char *; NULL when unset */
    OPTION_CHOICE,   /* const char *; one of row->choices */
    OPTION_LIST,     /* OptionList of strings; the flag may be repeated */
    OPTION_TYPE_COUNT,
} OptionType;

typedef struct OptionSize {
    uint64_t bytes; /* when per_cent is 0 */
    double per_cent;
} OptionSize;

#define OPTION_SIZE_LEAST \
    UINT64_MAX /* bytes: the least that works, whoever reads it knows how much */

typedef struct OptionList {
    const char **items; /* [count]; owned by the OptionSet */
    size_t count;
} OptionList;

typedef struct OptionRow {
    const char *name;    /* "max-model-len": the flag without dashes and the configuration key */
    const char *shorts;  /* spellings after one dash, space separated: "m", "tp"; NULL */
    const char *aliases; /* spellings after two dashes, space separated; NULL */
    OptionType type;
    const char *value_name;   /* "N" in help; NULL for flags */
    const char *default_text; /* as one would write it; NULL: unset */
    const char *zero_word;    /* "auto": word that stands for 0; NULL */
    const char *least_word;   /* OPTION_SIZE: "min", word that stands for OPTION_SIZE_LEAST; NULL */
    const char *choices;      /* OPTION_CHOICE: "text|json" */
    double min, max;          /* OPTION_INTEGER, OPTION_REAL, OPTION_DURATION; both 0: any */
    const char *help;         /* one sentence, lower case, no full stop */
    const char *group;        /* name of an OptionGroup */
    bool expert;              /* only in --help-all */
    bool not_in_config;       /* no key of a configuration file: help, config itself */
    size_t offset;            /* of the value in the target struct */
} OptionRow;

typedef struct OptionGroup {
    const char *name;  /* "engine" */
    const char *title; /* "Engine" */
} OptionGroup;

typedef struct OptionTable {
    const OptionRow *rows;
    size_t row_count;
    const OptionGroup *groups; /* in the order of help */
    size_t group_count;
} OptionTable;

typedef enum OptionSource {
    OPTION_SOURCE_DEFAULT,
    OPTION_SOURCE_CONFIG,
    OPTION_SOURCE_ENVIRONMENT,
    OPTION_SOURCE_FLAG,
} OptionSource;

typedef struct OptionSet OptionSet;

/* Checks a table: names, spellings and groups unique and known, defaults parse. For tests: a wrong row is a bug. */
bool option_table_check(const OptionTable *table, char *out_why, size_t out_why_bytes);

/* takes: which rows apply, space separated: "@group" for all of a group, or a name ("@engine input output").
 * target: the caller's struct; defaults are written at once. command names the command in messages. Strings and
 * lists in the target live until options_destroy. The table is borrowed. */
Status options_create(OptionSet **out, const OptionTable *table, const char *command,
                      const char *takes, void *target);
void options_destroy(OptionSet *set);

/* positionals: names of the options that take the arguments without a dash, in order, space separated ("model"). */
Status options_read_arguments(OptionSet *set, int argument_count, const char *const *arguments,
                              const char *positionals);
/* Index of the first argument that is neither an option of the table nor an option's value; argument_count when there is
 * none. */
int options_first_positional(const OptionTable *table, int argument_count,
                             const char *const *arguments);
/* environment: "NAME=value" ended by NULL. Rows that do not apply are ignored; unknown SPILLWAY_ names warn. */
Status options_read_environment(OptionSet *set, const char *const *environment);
/* A YAML mapping of flat keys (with - or _) to scalars, or lists of scalars. Rows that do not apply are checked for type
 * and ignored, so that one file serves several commands. */
Status options_read_config_file(OptionSet *set, const char *path);
Status options_read_config_text(OptionSet *set, const char *text, size_t text_bytes,
                                const char *path);

OptionSource options_source(const OptionSet *set, const char *name);
const char *option_source_name(OptionSource source); /* "default", "config", "env", "flag" */
bool option_applies(const OptionTable *table, const char *takes, const OptionRow *row);

/* Effective settings as YAML with the source of each in a comment; reading it back gives the same settings. */
void options_print_config(const OptionSet *set, FILE *out);

/* Groups with at least one row that applies, each fitting a screen; all: expert rows, ranges and environment names too. */
void options_print_help(const OptionTable *table, const char *takes, bool all, FILE *out);

/* The nearest of `names` by edit distance, or NULL when none is near. */
const char *nearest_name(const char *name, const char *const *names, size_t name_count);

SPILLWAY_EXTERN_C_END

#endif
