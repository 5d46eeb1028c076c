#include "runtime/base/options.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/base/invariant.h"
#include "runtime/base/log.h"
#include "runtime/base/options_set.h"

enum { NAME_BYTES_MAX = 64, LIST_ITEMS_MAX = 64, OPTION_ROWS_MAX = 512 };

static const char environment_prefix[] = "SPILLWAY_";
/* Variables that the tests of the project read; the program itself ignores them. */
static const char environment_test_prefix[] = "SPILLWAY_TEST_";

/* ---- words and names ---- */

bool words_each(const char *words, bool (*visit)(void *user, const char *word, size_t bytes),
                void *user) {
    for (const char *at = words ? words : ""; *at;) {
        size_t bytes = strcspn(at, " ");
        if (bytes > 0 && !visit(user, at, bytes)) return false;
        at += bytes;
        at += *at == ' ';
    }
    return true;
}

typedef struct Wanted {
    const char *word;
    size_t bytes;
} Wanted;

static bool is_other_word(void *user, const char *word, size_t bytes) {
    const Wanted *wanted = user;
    return bytes != wanted->bytes || memcmp(word, wanted->word, bytes) != 0;
}

bool words_contain(const char *words, const char *word, size_t word_bytes) {
    Wanted wanted = {word, word_bytes};
    return !words_each(words, is_other_word, &wanted);
}

static void copy_dashed(char out[NAME_BYTES_MAX], const char *name, size_t bytes) {
    if (bytes >= NAME_BYTES_MAX) bytes = NAME_BYTES_MAX - 1;
    for (size_t i = 0; i < bytes; i++)
        out[i] = name[i] == '_' ? '-' : name[i];
    out[bytes] = 0;
}

const OptionRow *option_find(const OptionTable *table, const char *name, size_t name_bytes,
                             bool aliases) {
    char dashed[NAME_BYTES_MAX];
    if (name_bytes == 0 || name_bytes >= sizeof dashed) return NULL;
    copy_dashed(dashed, name, name_bytes);
    for (size_t i = 0; i < table->row_count; i++) {
        const OptionRow *row = &table->rows[i];
        if (strcmp(row->name, dashed) == 0) return row;
        if (aliases && words_contain(row->aliases, dashed, name_bytes)) return row;
    }
    return NULL;
}

static const OptionRow *option_find_short(const OptionTable *table, const char *name,
                                          size_t name_bytes) {
    for (size_t i = 0; i < table->row_count; i++)
        if (words_contain(table->rows[i].shorts, name, name_bytes)) return &table->rows[i];
    return NULL;
}

/* Optimal string alignment: insert, delete, replace, swap neighbours; each costs 1. */
static size_t edit_distance(const char *a, const char *b) {
    size_t a_length = strlen(a), b_length = strlen(b);
    if (a_length >= NAME_BYTES_MAX || b_length >= NAME_BYTES_MAX) return NAME_BYTES_MAX;
    size_t rows[3][NAME_BYTES_MAX + 1];
    for (size_t j = 0; j <= b_length; j++)
        rows[0][j] = j;
    for (size_t i = 1; i <= a_length; i++) {
        size_t *row = rows[i % 3], *above = rows[(i + 2) % 3], *two_above = rows[(i + 1) % 3];
        row[0] = i;
        for (size_t j = 1; j <= b_length; j++) {
            size_t best = above[j - 1] + (a[i - 1] != b[j - 1]);
            if (above[j] + 1 < best) best = above[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                two_above[j - 2] + 1 < best)
                best = two_above[j - 2] + 1;
            row[j] = best;
        }
    }
    return rows[a_length % 3][b_length];
}

const char *nearest_name(const char *name, const char *const *names, size_t name_count) {
    size_t best = strlen(name) < 6 ? 2 : 3;
    const char *nearest = NULL;
    for (size_t i = 0; i < name_count; i++) {
        size_t distance = edit_distance(name, names[i]);
        bool begins = strlen(name) >= 4 && strncmp(name, names[i], strlen(name)) == 0;
        if (begins) distance = 1;
        if (distance >= best) continue;
        best = distance;
        nearest = names[i];
    }
    return nearest;
}

void options_hint(const OptionTable *table, const char *name, const char *prefix, char *out,
                  size_t out_bytes) {
    char dashed[NAME_BYTES_MAX];
    const char *names[OPTION_ROWS_MAX];
    copy_dashed(dashed, name, strlen(name));
    for (size_t i = 0; i < table->row_count; i++)
        names[i] = table->rows[i].name;
    const char *nearest = nearest_name(dashed, names, table->row_count);
    if (nearest)
        snprintf(out, out_bytes, "; did you mean %s%s?", prefix, nearest);
    else
        snprintf(out, out_bytes, "; --help-all lists what there is");
}

/* ---- the set ---- */

bool option_applies(const OptionTable *table, const char *takes, const OptionRow *row) {
    (void)table;
    char group[NAME_BYTES_MAX];
    int bytes = snprintf(group, sizeof group, "@%s", row->group);
    return words_contain(takes, row->name, strlen(row->name)) ||
           words_contain(takes, group, (size_t)bytes);
}

static void *value_of(const OptionSet *set, const OptionRow *row) {
    return set->target + row->offset;
}

static OptionState *state_of(const OptionSet *set, const OptionRow *row) {
    return &set->states[row - set->table->rows];
}

static Status keep_text(OptionSet *set, const char *text, const char **out) {
    size_t bytes = strlen(text) + 1;
    OptionText *kept;
    TRY(memory_take((void **)&kept, 1, sizeof *kept + bytes, "an option's text"));
    memcpy(kept->text, text, bytes);
    kept->next = set->texts;
    set->texts = kept;
    *out = kept->text;
    return STATUS_OK;
}

Status options_create(OptionSet **out, const OptionTable *table, const char *command,
                      const char *takes, void *target) {
    CHECK(table->row_count <= OPTION_ROWS_MAX);
    OptionSet *set;
    TRY(memory_take((void **)&set, 1, sizeof *set, "options"));
    Status status =
        memory_take((void **)&set->states, table->row_count, sizeof *set->states, "options");
    if (status != STATUS_OK) {
        free(set);
        return status;
    }
    set->table = table;
    set->command = command;
    set->target = target;
    for (size_t i = 0; i < table->row_count; i++) {
        const OptionRow *row = &table->rows[i];
        char why[OPTION_WHY_BYTES];
        set->states[i].applies = option_applies(table, takes, row);
        memset(value_of(set, row), 0, option_types[row->type].value_bytes);
        if (row->default_text)
            CHECK(option_types[row->type].parse(row, row->default_text, value_of(set, row), why));
    }
    *out = set;
    return STATUS_OK;
}

void options_destroy(OptionSet *set) {
    if (!set) return;
    for (size_t i = 0; i < set->table->row_count; i++) {
        const OptionRow *row = &set->table->rows[i];
        if (row->type != OPTION_LIST) continue;
        OptionList *list = value_of(set, row);
        free(list->items);
        memset(list, 0, sizeof *list);
    }
    while (set->texts) {
        OptionText *next = set->texts->next;
        free(set->texts);
        set->texts = next;
    }
    free(set->states);
    free(set);
}

Status options_fail(const OptionOrigin *origin, const char *text) {
    if (origin->path)
        FAIL(CONFIG, "%s:%zu:%zu: %s %s", origin->path, origin->line, origin->column,
             origin->spelling, text);
    FAIL(USAGE, "%s %s", origin->spelling, text);
}

static Status list_add(OptionSet *set, const OptionRow *row, const char *text, bool afresh,
                       const OptionOrigin *origin) {
    OptionList *list = value_of(set, row);
    if (afresh) list->count = 0;
    if (!list->items)
        TRY(memory_take((void **)&list->items, LIST_ITEMS_MAX, sizeof *list->items, "a list"));
    if (list->count == LIST_ITEMS_MAX) return options_fail(origin, "has more than 64 items");
    TRY(keep_text(set, text, &list->items[list->count]));
    list->count++;
    return STATUS_OK;
}

Status options_assign(OptionSet *set, const OptionRow *row, const char *text,
                      const OptionOrigin *origin) {
    OptionState *state = state_of(set, row);
    union {
        bool flag;
        int64_t integer;
        double real;
        OptionSize size;
        const char *text;
        OptionList list;
    } value;
    char why[OPTION_WHY_BYTES] = "is not UTF-8";
    if (!option_text_is_utf8(text) || !option_types[row->type].parse(row, text, &value, why)) {
        char message[OPTION_WHY_BYTES * 2];
        snprintf(message, sizeof message, "\"%.100s\": %s", text, why);
        return options_fail(origin, message);
    }
    if (!state->applies || origin->source < state->source) return STATUS_OK;
    if (row->type == OPTION_LIST) {
        TRY(list_add(set, row, text, origin->source > state->source, origin));
    } else {
        if (row->type == OPTION_STRING || row->type == OPTION_CHOICE)
            TRY(keep_text(set, text, &value.text));
        memcpy(value_of(set, row), &value, option_types[row->type].value_bytes);
    }
    state->source = origin->source;
    state->line = origin->line;
    if (origin->path) TRY(keep_text(set, origin->path, &state->path));
    return STATUS_OK;
}

OptionSource options_source(const OptionSet *set, const char *name) {
    const OptionRow *row = option_find(set->table, name, strlen(name), false);
    CHECK(row);
    return state_of(set, row)->source;
}

const char *option_source_name(OptionSource source) {
    return (const char *const[]){"default", "config", "env", "flag"}[source];
}

/* ---- command line ---- */

typedef struct Arguments {
    OptionSet *set;
    const char *const *items;
    int count, next;
    const char *positionals; /* rest of the names */
} Arguments;

/* Does this argument look like a flag that we know? Then it is no value that somebody meant. */
static bool is_known_flag(const OptionTable *table, const char *argument) {
    if (strncmp(argument, "--", 2) != 0) return false;
    return option_find(table, argument + 2, strcspn(argument + 2, "="), true) != NULL;
}

static Status assign_argument(Arguments *arguments, const OptionRow *row, const char *spelling,
                              const char *attached) {
    OptionSet *set = arguments->set;
    OptionOrigin origin = {.source = OPTION_SOURCE_FLAG, .spelling = spelling};
    if (!state_of(set, row)->applies)
        FAIL(USAGE, "%s is not an option of \"%s\"; --help-all lists them", spelling, set->command);
    if (row->type == OPTION_FLAG)
        return options_assign(set, row, attached ? attached : "true", &origin);
    if (!attached) {
        if (arguments->next == arguments->count)
            FAIL(USAGE, "%s needs %s behind it", spelling, option_types[row->type].name);
        attached = arguments->items[arguments->next++];
        if (is_known_flag(set->table, attached))
            FAIL(USAGE, "%s needs %s, but %s follows; write %s=%s if that is meant", spelling,
                 option_types[row->type].name, attached, spelling, attached);
    }
    return options_assign(set, row, attached, &origin);
}

/* --no-x for a flag x, and --x for a flag no-x. */
static const OptionRow *find_negated(const OptionTable *table, const char *name, size_t bytes) {
    char turned[NAME_BYTES_MAX];
    if (bytes + 4 > sizeof turned) return NULL;
    if (bytes > 3 && (memcmp(name, "no-", 3) == 0 || memcmp(name, "no_", 3) == 0))
        copy_dashed(turned, name + 3, bytes - 3);
    else
        snprintf(turned, sizeof turned, "no-%.*s", (int)bytes, name);
    const OptionRow *row = option_find(table, turned, strlen(turned), false);
    return row && row->type == OPTION_FLAG ? row : NULL;
}

static Status read_long(Arguments *arguments, const char *argument) {
    const OptionTable *table = arguments->set->table;
    char spelling[NAME_BYTES_MAX + 2], hint[128];
    size_t bytes = strcspn(argument + 2, "=");
    const char *attached = argument[2 + bytes] ? argument + 3 + bytes : NULL;
    snprintf(spelling, sizeof spelling, "%.*s", (int)bytes + 2, argument);
    const OptionRow *row = option_find(table, argument + 2, bytes, true);
    if (row) return assign_argument(arguments, row, spelling, attached);
    row = find_negated(table, argument + 2, bytes);
    if (row && attached) FAIL(USAGE, "%s takes no value", spelling);
    if (row) return assign_argument(arguments, row, spelling, "false");
    options_hint(table, spelling + 2, "--", hint, sizeof hint);
    FAIL(USAGE, "unknown option %s%s", spelling, hint);
}

/* -m FILE, -mFILE, -m=FILE, -tp 2 */
static Status read_short(Arguments *arguments, const char *argument) {
    const OptionTable *table = arguments->set->table;
    char spelling[NAME_BYTES_MAX];
    size_t bytes = strcspn(argument + 1, "=");
    const char *attached = argument[1 + bytes] ? argument + 2 + bytes : NULL;
    const OptionRow *row = option_find_short(table, argument + 1, bytes);
    if (!row) {
        row = option_find_short(table, argument + 1, 1);
        if (row && row->type == OPTION_FLAG) row = NULL;
        attached = argument + 2;
        bytes = 1;
    }
    if (!row) FAIL(USAGE, "unknown option %.100s; --help-all lists what there is", argument);
    snprintf(spelling, sizeof spelling, "%.*s", (int)bytes + 1, argument);
    return assign_argument(arguments, row, spelling, attached);
}

static Status read_positional(Arguments *arguments, const char *argument) {
    const char *name = arguments->positionals + strspn(arguments->positionals, " ");
    size_t bytes = strcspn(name, " ");
    if (bytes == 0)
        FAIL(USAGE, "unexpected argument \"%.100s\" for \"%s\"", argument, arguments->set->command);
    const OptionRow *row = option_find(arguments->set->table, name, bytes, false);
    CHECK(row);
    OptionOrigin origin = {.source = OPTION_SOURCE_FLAG, .spelling = row->value_name};
    arguments->positionals = name + bytes;
    return options_assign(arguments->set, row, argument, &origin);
}

Status options_read_arguments(OptionSet *set, int argument_count, const char *const *arguments,
                              const char *positionals) {
    Arguments state = {set, arguments, argument_count, 0, positionals ? positionals : ""};
    bool only_positionals = false;
    while (state.next < state.count) {
        const char *argument = state.items[state.next++];
        if (only_positionals || argument[0] != '-' || argument[1] == 0)
            TRY(read_positional(&state, argument));
        else if (strcmp(argument, "--") == 0)
            only_positionals = true;
        else if (argument[1] == '-')
            TRY(read_long(&state, argument));
        else
            TRY(read_short(&state, argument));
    }
    return STATUS_OK;
}

int options_first_positional(const OptionTable *table, int argument_count,
                             const char *const *arguments) {
    for (int i = 0; i < argument_count; i++) {
        const char *argument = arguments[i];
        if (argument[0] != '-' || argument[1] == 0) return i;
        if (strchr(argument, '=')) continue;
        const OptionRow *row = argument[1] == '-'
                                   ? option_find(table, argument + 2, strlen(argument + 2), true)
                                   : option_find_short(table, argument + 1, strlen(argument + 1));
        if (row && row->type != OPTION_FLAG) i++;
    }
    return argument_count;
}

/* ---- environment ---- */

/* SPILLWAY_MAX_MODEL_LEN → max-model-len; anything but upper case, digits and _ is no twin. */
static bool twin_to_name(const char *twin, size_t bytes, char out[NAME_BYTES_MAX]) {
    if (bytes == 0 || bytes >= NAME_BYTES_MAX) return false;
    for (size_t i = 0; i < bytes; i++) {
        if (!isupper((unsigned char)twin[i]) && !isdigit((unsigned char)twin[i]) && twin[i] != '_')
            return false;
        out[i] = twin[i] == '_' ? '-' : (char)tolower((unsigned char)twin[i]);
    }
    out[bytes] = 0;
    return true;
}

static Status read_variable(OptionSet *set, const char *variable) {
    const size_t prefix = sizeof environment_prefix - 1;
    size_t bytes = strcspn(variable, "=");
    if (variable[bytes] != '=') return STATUS_OK;
    char name[NAME_BYTES_MAX] = "", spelling[2 * NAME_BYTES_MAX];
    snprintf(spelling, sizeof spelling, "%.*s", (int)bytes, variable);
    const OptionRow *row = NULL;
    if (twin_to_name(variable + prefix, bytes - prefix, name))
        row = option_find(set->table, name, strlen(name), false);
    if (!row) {
        log_warning("E-USAGE", "environment variable %s is no option's twin and is ignored",
                    spelling);
        return STATUS_OK;
    }
    OptionOrigin origin = {.source = OPTION_SOURCE_ENVIRONMENT, .spelling = spelling};
    return options_assign(set, row, variable + bytes + 1, &origin);
}

Status options_read_environment(OptionSet *set, const char *const *environment) {
    for (; *environment; environment++) {
        if (strncmp(*environment, environment_prefix, sizeof environment_prefix - 1) != 0) continue;
        if (strncmp(*environment, environment_test_prefix, sizeof environment_test_prefix - 1) == 0)
            continue;
        TRY(read_variable(set, *environment));
    }
    return STATUS_OK;
}

/* ---- the table itself ---- */

typedef struct TableCheck {
    const OptionTable *table;
    const OptionRow *row;
    char *why;
    size_t why_bytes;
} TableCheck;

static bool spelling_is_unique(void *user, const char *word, size_t bytes) {
    TableCheck *check = user;
    for (size_t i = 0; i < check->table->row_count; i++) {
        const OptionRow *other = &check->table->rows[i];
        bool taken = other != check->row &&
                     (words_contain(other->shorts, word, bytes) ||
                      words_contain(other->aliases, word, bytes) ||
                      (strlen(other->name) == bytes && memcmp(other->name, word, bytes) == 0));
        if (!taken) continue;
        snprintf(check->why, check->why_bytes, "%s and %s share the spelling %.*s",
                 check->row->name, other->name, (int)bytes, word);
        return false;
    }
    return true;
}

static bool group_exists(const OptionTable *table, const char *name) {
    for (size_t i = 0; i < table->group_count; i++)
        if (strcmp(table->groups[i].name, name) == 0) return true;
    return false;
}

bool option_table_check(const OptionTable *table, char *out_why, size_t out_why_bytes) {
    for (size_t i = 0; i < table->row_count; i++) {
        const OptionRow *row = &table->rows[i];
        TableCheck check = {table, row, out_why, out_why_bytes};
        char why[OPTION_WHY_BYTES];
        OptionList value;
        if (!spelling_is_unique(&check, row->name, strlen(row->name)) ||
            !words_each(row->shorts, spelling_is_unique, &check) ||
            !words_each(row->aliases, spelling_is_unique, &check))
            return false;
        const char *wrong = NULL;
        if (!group_exists(table, row->group)) wrong = "its group is unknown";
        if (!row->help || !row->help[0]) wrong = "it has no help";
        if ((row->type == OPTION_FLAG) != (row->value_name == NULL))
            wrong = "all but flags have a value name";
        if ((row->type == OPTION_CHOICE) != (row->choices != NULL))
            wrong = "choices have a list of words";
        if (!wrong && row->default_text &&
            !option_types[row->type].parse(row, row->default_text, &value, why))
            wrong = "its default does not parse";
        if (wrong) {
            snprintf(out_why, out_why_bytes, "%s: %s", row->name, wrong);
            return false;
        }
    }
    return true;
}
