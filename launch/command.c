#include "launch/command.h"

#include <stdio.h>
#include <string.h>

#include "runtime/base/invariant.h"

#define COMMAND(word) extern const Command command_##word[];
#include "command_rows.h"
#undef COMMAND

enum { COMMANDS_MAX = 64 };

static const Command *const files[] = {
#define COMMAND(word) command_##word,
#include "command_rows.h"
#undef COMMAND
};

const Command *const *command_rows(void) {
    static const Command *rows[COMMANDS_MAX + 1];
    if (rows[0]) return rows;
    size_t count = 0;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        for (const Command *row = files[i]; row->name; row++) {
            CHECK(count < COMMANDS_MAX);
            rows[count++] = row;
        }
    return rows;
}

const Command *command_find(int argument_count, const char *const *arguments, int *out_words) {
    const Command *found = NULL;
    *out_words = 0;
    for (const Command *const *row = command_rows(); *row && argument_count > 0; row++) {
        const char *name = (*row)->name;
        size_t first = strcspn(name, " ");
        if (strlen(arguments[0]) != first || memcmp(arguments[0], name, first) != 0) continue;
        int words = name[first] ? 2 : 1;
        if (words <= *out_words) continue;
        if (words == 2 && (argument_count < 2 || strcmp(arguments[1], name + first + 1) != 0))
            continue;
        found = *row;
        *out_words = words;
    }
    return found;
}

const char *command_takes(const Command *command) {
    static char takes[512];
    int bytes = snprintf(takes, sizeof takes, "@general @log %s", command->takes);
    CHECK(bytes > 0 && (size_t)bytes < sizeof takes);
    return takes;
}
