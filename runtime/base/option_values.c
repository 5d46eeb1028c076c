#include "runtime/base/options_set.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/bytes.h"

typedef struct Unit {
    const char *name;
    double scale;
} Unit;

static const Unit size_units[] = {
    {"B", 1},     {"kB", 1e3},     {"KB", 1e3},        {"MB", 1e6},           {"GB", 1e9},
    {"TB", 1e12}, {"KiB", 1024.0}, {"MiB", 1048576.0}, {"GiB", 1073741824.0}, {"TiB", 0x1p40},
    {NULL, 0},
};

static const Unit duration_units[] = {
    {"ms", 1e-3}, {"s", 1}, {"m", 60}, {"min", 60}, {"h", 3600}, {"d", 86400}, {NULL, 0},
};

static const Unit *unit_find(const Unit *units, const char *name) {
    for (; units->name; units++)
        if (strcmp(units->name, name) == 0) return units;
    return NULL;
}

#define WHY(...) (snprintf(out_why, OPTION_WHY_BYTES, __VA_ARGS__), false)

/* A finite number at the start of text; *out_end points behind it and any blanks. */
static bool read_number(const char *text, double *out, const char **out_end, char *out_why) {
    if (!isdigit((unsigned char)*text) && !strchr("+-.", *text)) return WHY("is not a number");
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    if (end == text || memchr(text, 'x', (size_t)(end - text)) ||
        memchr(text, 'X', (size_t)(end - text)))
        return WHY("is not a number");
    if (!isfinite(value)) return WHY("is too large");
    while (*end == ' ')
        end++;
    *out = value;
    *out_end = end;
    return true;
}

static bool in_range(const OptionRow *row, double value, char *out_why) {
    if (row->min == 0 && row->max == 0) return true;
    if (value >= row->min && value <= row->max) return true;
    return WHY("must be from %.15g to %.15g", row->min, row->max);
}

static bool is_zero_word(const OptionRow *row, const char *text) {
    return row->zero_word && strcmp(row->zero_word, text) == 0;
}

static bool parse_flag(const OptionRow *row, const char *text, void *out_value, char *out_why) {
    static const char *const words[2][4] = {{"false", "no", "off", "0"},
                                            {"true", "yes", "on", "1"}};
    (void)row;
    for (int value = 0; value < 2; value++)
        for (int i = 0; i < 4; i++)
            if (strcmp(text, words[value][i]) == 0) {
                *(bool *)out_value = value == 1;
                return true;
            }
    return WHY("must be true or false");
}

static void print_flag(const OptionRow *row, const void *value, FILE *out) {
    (void)row;
    fputs(*(const bool *)value ? "true" : "false", out);
}

static bool parse_integer(const OptionRow *row, const char *text, void *out_value, char *out_why) {
    int64_t value = 0;
    if (!is_zero_word(row, text)) {
        char *end;
        errno = 0;
        bool digits = isdigit((unsigned char)text[text[0] == '-' || text[0] == '+']);
        value = digits ? strtoll(text, &end, 10) : 0;
        if (!digits || *end) {
            if (row->zero_word) return WHY("must be a whole number or %s", row->zero_word);
            return WHY("must be a whole number");
        }
        if (errno == ERANGE) return WHY("is too large");
        if (!in_range(row, (double)value, out_why)) return false;
    }
    *(int64_t *)out_value = value;
    return true;
}

static void print_integer(const OptionRow *row, const void *value, FILE *out) {
    int64_t number = *(const int64_t *)value;
    if (number == 0 && row->zero_word)
        fputs(row->zero_word, out);
    else
        fprintf(out, "%" PRId64, number);
}

static bool parse_real(const OptionRow *row, const char *text, void *out_value, char *out_why) {
    double value;
    const char *end;
    if (!read_number(text, &value, &end, out_why)) return false;
    if (*end) return WHY("is not a number");
    if (!in_range(row, value, out_why)) return false;
    *(double *)out_value = value;
    return true;
}

static void print_real(const OptionRow *row, const void *value, FILE *out) {
    (void)row;
    fprintf(out, "%.17g", *(const double *)value);
}

/* Whole numbers keep all their digits; "1.5GiB" goes through a double. */
static bool size_scale(const char *text, double number, double unit, uint64_t *out) {
    char *end;
    errno = 0;
    uint64_t whole = strtoull(text, &end, 10);
    if (*end != '.' && *end != 'e' && *end != 'E' && errno == 0)
        return bytes_multiply(whole, (uint64_t)unit, out) && *out <= INT64_MAX;
    if (number * unit >= 0x1p63) return false;
    *out = (uint64_t)(number * unit);
    return true;
}

static bool parse_size(const OptionRow *row, const char *text, void *out_value, char *out_why) {
    OptionSize size = {0, 0};
    if (row->least_word && strcmp(row->least_word, text) == 0) {
        size.bytes = OPTION_SIZE_LEAST;
    } else if (!is_zero_word(row, text)) {
        double number;
        const char *end;
        if (!read_number(text, &number, &end, out_why)) return false;
        if (number < 0) return WHY("must not be negative");
        const Unit *unit = unit_find(size_units, end);
        if (strcmp(end, "%") == 0) {
            if (number > 100) return WHY("must be at most 100%%");
            size.per_cent = number;
        } else if (unit) {
            if (!size_scale(text, number, unit->scale, &size.bytes)) return WHY("is too large");
        } else if (*end) {
            return WHY("has no known unit: write B, KiB, MiB, GiB, TiB, kB, MB, GB, TB or %%");
        } else if (number != 0) {
            return WHY("has no unit: write %sGiB, %sMB or %s%%", text, text, text);
        }
    }
    *(OptionSize *)out_value = size;
    return true;
}

static void print_size(const OptionRow *row, const void *value, FILE *out) {
    const OptionSize *size = value;
    if (size->per_cent > 0) {
        fprintf(out, "%.17g%%", size->per_cent);
    } else if (size->bytes == OPTION_SIZE_LEAST) {
        fputs(row->least_word, out);
    } else if (size->bytes == 0) {
        fputs(row->zero_word ? row->zero_word : "0", out);
    } else {
        int unit = 0;
        uint64_t bytes = size->bytes;
        for (; unit < 4 && bytes % 1024 == 0; unit++)
            bytes /= 1024;
        fprintf(out, "%" PRIu64 "%s", bytes,
                (const char *const[]){"B", "KiB", "MiB", "GiB", "TiB"}[unit]);
    }
}

static bool parse_duration(const OptionRow *row, const char *text, void *out_value, char *out_why) {
    double number;
    const char *end;
    if (!read_number(text, &number, &end, out_why)) return false;
    const Unit *unit = unit_find(duration_units, *end ? end : "s");
    if (!unit) return WHY("has no known unit: write ms, s, m, h or d");
    number *= unit->scale;
    if (number < 0) return WHY("must not be negative");
    if (!in_range(row, number, out_why)) return false;
    *(double *)out_value = number;
    return true;
}

static void print_duration(const OptionRow *row, const void *value, FILE *out) {
    print_real(row, value, out);
    fputs("s", out);
}

static bool parse_string(const OptionRow *row, const char *text, void *out_value, char *out_why) {
    (void)row;
    (void)out_why;
    *(const char **)out_value = text;
    return true;
}

/* The code point at text, which ends with NUL, and its length; length 0 when it is no UTF-8. */
static size_t read_code_point(const unsigned char *text, uint32_t *out) {
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t bytes = *text < 0x80 ? 1 : *text < 0xe0 ? 2 : *text < 0xf0 ? 3 : 4;
    *out = bytes == 1 ? *text : *text & (0x7fu >> bytes);
    if (bytes > 1 && (*text < 0xc2 || *text > 0xf4)) return 0;
    for (size_t i = 1; i < bytes; i++) {
        if ((text[i] & 0xc0) != 0x80) return 0;
        *out = *out << 6 | (text[i] & 0x3fu);
    }
    bool surrogate = *out >= 0xd800 && *out < 0xe000;
    return *out < least[bytes] || *out > 0x10ffff || surrogate ? 0 : bytes;
}

bool option_text_is_utf8(const char *text) {
    const unsigned char *at = (const unsigned char *)text;
    uint32_t code_point;
    for (size_t bytes; *at; at += bytes)
        if ((bytes = read_code_point(at, &code_point)) == 0) return false;
    return true;
}

/* May stand in a double quoted YAML scalar as it is, and is no line break there. */
static bool is_plain(uint32_t code_point) {
    bool control = code_point < 0x20 || (code_point >= 0x7f && code_point < 0xa0);
    bool line_break = code_point == 0x2028 || code_point == 0x2029;
    return !control && !line_break && code_point != 0xfeff && code_point != 0xfffe &&
           code_point != 0xffff;
}

void yaml_print_escaped(const char *text, FILE *out) {
    const unsigned char *at = (const unsigned char *)text;
    uint32_t code_point;
    for (size_t bytes; *at && (bytes = read_code_point(at, &code_point)) > 0; at += bytes) {
        if (code_point == '"' || code_point == '\\')
            fprintf(out, "\\%c", (char)code_point);
        else if (is_plain(code_point))
            fwrite(at, 1, bytes, out);
        else
            fprintf(out, "\\u%04x", code_point);
    }
}

static void yaml_print_text(const char *text, FILE *out) {
    fputc('"', out);
    yaml_print_escaped(text, out);
    fputc('"', out);
}

static void print_string(const OptionRow *row, const void *value, FILE *out) {
    (void)row;
    const char *text = *(const char *const *)value;
    if (text) yaml_print_text(text, out);
}

/* The choice that text names, as a place inside row->choices; NULL when none. */
static bool choice_matches(const char *choices, const char *text) {
    size_t bytes = strlen(text);
    for (const char *at = choices; bytes > 0; at++) {
        size_t length = strcspn(at, "|");
        if (length == bytes && memcmp(at, text, bytes) == 0) return true;
        at += length;
        if (!*at) break;
    }
    return false;
}

static bool parse_choice(const OptionRow *row, const char *text, void *out_value, char *out_why) {
    if (!choice_matches(row->choices, text)) return WHY("must be one of %s", row->choices);
    *(const char **)out_value = text;
    return true;
}

/* Lists grow in options_assign; one item is a string. */
static bool parse_item(const OptionRow *row, const char *text, void *out_value, char *out_why) {
    (void)row;
    (void)text;
    (void)out_value;
    (void)out_why;
    return true;
}

static void print_list(const OptionRow *row, const void *value, FILE *out) {
    (void)row;
    const OptionList *list = value;
    fputc('[', out);
    for (size_t i = 0; i < list->count; i++) {
        if (i > 0) fputs(", ", out);
        yaml_print_text(list->items[i], out);
    }
    fputc(']', out);
}

const OptionTypeRow option_types[OPTION_TYPE_COUNT] = {
    [OPTION_FLAG] = {"true or false", sizeof(bool), parse_flag, print_flag},
    [OPTION_INTEGER] = {"a whole number", sizeof(int64_t), parse_integer, print_integer},
    [OPTION_REAL] = {"a number", sizeof(double), parse_real, print_real},
    [OPTION_SIZE] = {"a size", sizeof(OptionSize), parse_size, print_size},
    [OPTION_DURATION] = {"a duration", sizeof(double), parse_duration, print_duration},
    [OPTION_STRING] = {"a text", sizeof(const char *), parse_string, print_string},
    [OPTION_CHOICE] = {"a word", sizeof(const char *), parse_choice, print_string},
    [OPTION_LIST] = {"a list", sizeof(OptionList), parse_item, print_list},
};
