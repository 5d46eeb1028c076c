#include "runtime/base/options_set.h"

#include <ctype.h>
#include <stdarg.h>
#include <string.h>

enum { HELP_COLUMN = 34, HELP_WIDTH = 100, HELP_TEXT_BYTES = 1024 };

typedef struct Text {
    char bytes[HELP_TEXT_BYTES];
    size_t used;
} Text;

static void __attribute__((format(printf, 2, 3))) add(Text *text, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int wanted =
        vsnprintf(text->bytes + text->used, sizeof text->bytes - text->used, format, arguments);
    va_end(arguments);
    if (wanted > 0) text->used += (size_t)wanted;
    if (text->used >= sizeof text->bytes) text->used = sizeof text->bytes - 1;
}

static bool add_short(void *user, const char *word, size_t bytes) {
    add(user, "-%.*s, ", (int)bytes, word);
    return true;
}

static bool add_alias(void *user, const char *word, size_t bytes) {
    add(user, "; also --%.*s", (int)bytes, word);
    return true;
}

static void add_spellings(Text *text, const OptionRow *row) {
    add(text, "  ");
    words_each(row->shorts, add_short, text);
    add(text, "--%s", row->name);
    if (row->value_name) add(text, " %s", row->value_name);
}

static void add_twin(Text *text, const char *name) {
    add(text, "; env SPILLWAY_");
    for (; *name; name++)
        add(text, "%c", *name == '-' ? '_' : toupper((unsigned char)*name));
}

static void add_description(Text *text, const OptionRow *row, bool all) {
    add(text, "%s", row->help);
    if (row->choices) add(text, ": %s", row->choices);
    const char *shown = row->default_text;
    if (shown && row->zero_word && strcmp(shown, "0") == 0) shown = row->zero_word;
    if (shown && row->type != OPTION_FLAG) add(text, " (default %s)", shown);
    if (!all) return;
    if (row->min != 0 || row->max != 0) add(text, "; from %.15g to %.15g", row->min, row->max);
    words_each(row->aliases, add_alias, text);
    add_twin(text, row->name);
}

/* Words of `text` from `column` on, wrapped at the width. */
static void print_wrapped(const char *text, size_t at, FILE *out) {
    if (at + 1 > HELP_COLUMN) {
        fputc('\n', out);
        at = 0;
    }
    fprintf(out, "%*s", (int)(HELP_COLUMN - at), "");
    at = HELP_COLUMN;
    while (*text) {
        size_t bytes = strcspn(text, " ");
        if (at > HELP_COLUMN && at + 1 + bytes > HELP_WIDTH) {
            fprintf(out, "\n%*s", HELP_COLUMN, "");
            at = HELP_COLUMN;
        } else if (at > HELP_COLUMN) {
            fputc(' ', out);
            at++;
        }
        fprintf(out, "%.*s", (int)bytes, text);
        at += bytes;
        text += bytes + (text[bytes] == ' ');
    }
    fputc('\n', out);
}

static void print_row(const OptionRow *row, bool all, FILE *out) {
    Text spelling = {.used = 0}, description = {.used = 0};
    add_spellings(&spelling, row);
    add_description(&description, row, all);
    fputs(spelling.bytes, out);
    print_wrapped(description.bytes, spelling.used, out);
}

void options_print_help(const OptionTable *table, const char *takes, bool all, FILE *out) {
    for (size_t g = 0; g < table->group_count; g++) {
        bool titled = false;
        for (size_t i = 0; i < table->row_count; i++) {
            const OptionRow *row = &table->rows[i];
            if (strcmp(row->group, table->groups[g].name) != 0) continue;
            if (!option_applies(table, takes, row) || (row->expert && !all)) continue;
            if (!titled) fprintf(out, "\n%s:\n", table->groups[g].title);
            titled = true;
            print_row(row, all, out);
        }
    }
}
