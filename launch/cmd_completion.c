/* Shell completions made from the command rows and the option table, so that they never lag behind. */

#include <stdio.h>
#include <string.h>

#include "launch/command.h"

typedef void (*OptionVisit)(const Command *command, const OptionRow *row);

static void each_option(const Command *command, OptionVisit visit) {
    const char *takes = command_takes(command);
    for (size_t i = 0; i < settings_table.row_count; i++) {
        const OptionRow *row = &settings_table.rows[i];
        if (option_applies(&settings_table, takes, row)) visit(command, row);
    }
}

/* First words of command names, each once. */
static void print_command_words(void) {
    for (const Command *const *row = command_rows(); *row; row++) {
        size_t bytes = strcspn((*row)->name, " ");
        bool repeated = false;
        for (const Command *const *before = command_rows(); before != row; before++)
            repeated |= strcspn((*before)->name, " ") == bytes &&
                        memcmp((*before)->name, (*row)->name, bytes) == 0;
        if (!repeated) printf("%.*s ", (int)bytes, (*row)->name);
    }
}

static void print_dashed_name(const Command *command, const OptionRow *row) {
    (void)command;
    printf("--%s ", row->name);
}

static void print_choices(const char *choices) {
    for (; *choices; choices++)
        putchar(*choices == '|' ? ' ' : *choices);
}

/* ---- bash ---- */

static void bash_choice(const Command *command, const OptionRow *row) {
    (void)command;
    if (!row->choices) return;
    printf("        --%s) COMPREPLY=($(compgen -W '", row->name);
    print_choices(row->choices);
    printf("' -- \"$word\")); return ;;\n");
}

static void completion_bash(void) {
    printf("_spillway() {\n"
           "    local word=\"${COMP_WORDS[COMP_CWORD]}\" before=\"${COMP_WORDS[COMP_CWORD-1]}\"\n"
           "    local command=\"${COMP_WORDS[1]}\" options=\n"
           "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
           "        COMPREPLY=($(compgen -W '");
    print_command_words();
    printf("' -- \"$word\")); return\n    fi\n    case \"$before\" in\n");
    const Command everything = {
        .name = "",
        .takes = "@command @model @ranks @engine @sampling @batch @bench",
    };
    each_option(&everything, bash_choice);
    printf("    esac\n    case \"$command ${COMP_WORDS[2]}\" in\n");
    for (int words = 2; words > 0; words--)
        for (const Command *const *row = command_rows(); *row; row++) {
            bool two_words = strchr((*row)->name, ' ') != NULL;
            if (two_words != (words == 2)) continue;
            printf("        \"%s%s) options='", (*row)->name, two_words ? "\"" : " \"*");
            each_option(*row, print_dashed_name);
            printf("' ;;\n");
        }
    printf("    esac\n"
           "    case \"$word\" in\n"
           "        -*) COMPREPLY=($(compgen -W \"$options\" -- \"$word\")) ;;\n"
           "        *) COMPREPLY=($(compgen -f -- \"$word\")) ;;\n"
           "    esac\n"
           "}\n"
           "complete -o filenames -F _spillway spillway\n");
}

/* ---- zsh ---- */

/* Inside single quotes and an _arguments specification. */
static void zsh_text(const char *text) {
    for (; *text; text++) {
        if (*text == '\'')
            fputs("'\\''", stdout);
        else if (strchr("[]:\\", *text))
            printf("\\%c", *text);
        else
            putchar(*text);
    }
}

static void zsh_option(const Command *command, const OptionRow *row) {
    (void)command;
    printf("            '--%s%s[", row->name, row->value_name ? "=" : "");
    zsh_text(row->help);
    putchar(']');
    if (row->choices) {
        printf(":%s:(", row->value_name);
        print_choices(row->choices);
        putchar(')');
    } else if (row->value_name) {
        printf(":%s:_files", row->value_name);
    }
    printf("' \\\n");
}

static void completion_zsh(void) {
    printf("#compdef spillway\n"
           "_spillway() {\n"
           "    if (( CURRENT == 2 )); then compadd ");
    print_command_words();
    printf("; return; fi\n    case \"$words[2] $words[3]\" in\n");
    for (int words = 2; words > 0; words--)
        for (const Command *const *row = command_rows(); *row; row++) {
            bool two_words = strchr((*row)->name, ' ') != NULL;
            if (two_words != (words == 2)) continue;
            printf("        \"%s%s) _arguments \\\n", (*row)->name, two_words ? "\"" : " \"*");
            each_option(*row, zsh_option);
            printf("            '*:file:_files' ;;\n");
        }
    printf("    esac\n}\n_spillway \"$@\"\n");
}

/* ---- fish ---- */

static void fish_text(const char *text) {
    for (; *text; text++) {
        if (*text == '\'' || *text == '\\') putchar('\\');
        putchar(*text);
    }
}

static void fish_shorts(const char *shorts) {
    for (const char *at = shorts ? shorts : ""; *at;) {
        size_t bytes = strcspn(at, " ");
        printf(" -%c %.*s", bytes == 1 ? 's' : 'o', (int)bytes, at);
        at += bytes + (at[bytes] == ' ');
    }
}

static void fish_option(const Command *command, const OptionRow *row) {
    printf("complete -c spillway -n '__fish_seen_subcommand_from %.*s' -l %s",
           (int)strcspn(command->name, " "), command->name, row->name);
    fish_shorts(row->shorts);
    if (row->choices) {
        printf(" -x -a '");
        print_choices(row->choices);
        putchar('\'');
    } else if (row->value_name) {
        printf(" -r");
    }
    printf(" -d '");
    fish_text(row->help);
    printf("'\n");
}

static void completion_fish(void) {
    for (const Command *const *row = command_rows(); *row; row++) {
        if (strchr((*row)->name, ' ')) continue;
        printf("complete -c spillway -n __fish_use_subcommand -f -a %s -d '", (*row)->name);
        fish_text((*row)->summary);
        printf("'\n");
        each_option(*row, fish_option);
    }
}

static const struct {
    const char *shell;
    void (*print)(void);
} printers[] = {{"bash", completion_bash}, {"zsh", completion_zsh}, {"fish", completion_fish}};

static int completion(const Settings *settings) {
    for (size_t i = 0; i < sizeof printers / sizeof *printers; i++)
        if (strcmp(settings->shell, printers[i].shell) == 0) printers[i].print();
    return 0;
}

const Command command_completion[] = {
    {.name = "completion",
     .summary = "print the completion script of bash, zsh or fish",
     .positionals = "shell",
     .needs = "shell",
     .takes = "shell",
     .run = completion},
    {.name = NULL},
};
