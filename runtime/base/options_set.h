#ifndef RUNTIME_BASE_OPTIONS_SET_H
#define RUNTIME_BASE_OPTIONS_SET_H

/* Inside of the option files: the state of an OptionSet, the types of values, and the one way to assign. */

#include "runtime/base/options.h"

SPILLWAY_EXTERN_C_BEGIN

enum { OPTION_WHY_BYTES = 256 };

/* Where a value was written, for messages and for the comment of --print-config. */
typedef struct OptionOrigin {
    OptionSource source;
    const char *spelling; /* "--block-size", "SPILLWAY_BLOCK_SIZE", "block_size" */
    const char *path;     /* of the configuration file; else NULL */
    size_t line, column;  /* from 1; config only */
} OptionOrigin;

typedef struct OptionState {
    bool applies;
    OptionSource source;
    const char *path; /* OPTION_SOURCE_CONFIG */
    size_t line;
} OptionState;

typedef struct OptionText {
    struct OptionText *next;
    char text[];
} OptionText;

struct OptionSet {
    const OptionTable *table;
    const char *command;
    unsigned char *target;
    OptionState *states; /* [table->row_count] */
    OptionText *texts;   /* owned strings */
};

typedef struct OptionTypeRow {
    const char *name; /* "a number", for messages */
    size_t value_bytes;
    /* Writes the value, or says why not; does not allocate: strings are borrowed from `text`. */
    bool (*parse)(const OptionRow *row, const char *text, void *out_value, char *out_why);
    /* The value as YAML, such that parse reads it back. */
    void (*print)(const OptionRow *row, const void *value, FILE *out);
} OptionTypeRow;

extern const OptionTypeRow option_types[OPTION_TYPE_COUNT];

/* Parses and stores unless a stronger source has spoken. Raises E-USAGE or E-CONFIG naming the origin. */
Status options_assign(OptionSet *set, const OptionRow *row, const char *text,
                      const OptionOrigin *origin);
/* "--x": or "file:line:column: x": in front of `text`; raises the code that fits the origin. */
Status options_fail(const OptionOrigin *origin, const char *text);

/* Row by name, or by alias when `aliases`; '_' counts as '-'. NULL when there is none. */
const OptionRow *option_find(const OptionTable *table, const char *name, size_t name_bytes,
                             bool aliases);
/* "; did you mean --max-num-seqs?" or "". */
void options_hint(const OptionTable *table, const char *name, const char *prefix, char *out,
                  size_t out_bytes);
/* Calls `visit` for each word of a space separated list until it returns false. */
bool words_each(const char *words, bool (*visit)(void *user, const char *word, size_t bytes),
                void *user);
bool words_contain(const char *words, const char *word, size_t word_bytes);

bool option_text_is_utf8(const char *text);
void yaml_print_escaped(const char *text,
                        FILE *out); /* UTF-8, for the inside of a double quoted scalar */

SPILLWAY_EXTERN_C_END

#endif
