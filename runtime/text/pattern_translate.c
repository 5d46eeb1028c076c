#include "runtime/text/pattern_translate.h"

#include <string.h>

/* Characters that Unicode 15, 15.1 and 16 assigned, by property, for PCRE2 10.42, whose tables are Unicode 14.
 * With newer tables the ranges add nothing. Taken from Oniguruma 6.9.10, as `tokenizers` 0.23 has it. */
typedef struct PropertyRow {
    const char *name;       /* as in \p{name} */
    const char *expression; /* what it is, for use inside [ ] */
} PropertyRow;

#define LATE_LETTERS                                                                 \
    "\\x{1c89}-\\x{1c8a}\\x{a7cb}-\\x{a7cd}\\x{a7da}-\\x{a7dc}\\x{105c0}-\\x{105f3}" \
    "\\x{10d4a}-\\x{10d65}\\x{10d6f}-\\x{10d85}\\x{10ec2}-\\x{10ec4}"                \
    "\\x{1123f}-\\x{11240}\\x{11380}-\\x{11389}\\x{1138b}\\x{1138e}"                 \
    "\\x{11390}-\\x{113b5}\\x{113b7}\\x{113d1}\\x{113d3}\\x{11bc0}-\\x{11be0}"       \
    "\\x{11f02}\\x{11f04}-\\x{11f10}\\x{11f12}-\\x{11f33}\\x{1342f}"                 \
    "\\x{13441}-\\x{13446}\\x{13460}-\\x{143fa}\\x{16100}-\\x{1611d}"                \
    "\\x{16d40}-\\x{16d6c}\\x{18cff}\\x{1b132}\\x{1b155}\\x{1df25}-\\x{1df2a}"       \
    "\\x{1e030}-\\x{1e06d}\\x{1e4d0}-\\x{1e4eb}\\x{1e5d0}-\\x{1e5ed}\\x{1e5f0}"      \
    "\\x{2b739}\\x{2ebf0}-\\x{2ee5d}\\x{31350}-\\x{323af}"

static const PropertyRow property_rows[] = {
    {"L", "\\p{L}" LATE_LETTERS},
    {"Lu", "\\p{Lu}"
           "\\x{1c89}\\x{a7cb}-\\x{a7cc}\\x{a7da}\\x{a7dc}\\x{10d50}-\\x{10d65}"},
    {"Ll", "\\p{Ll}"
           "\\x{1c8a}\\x{a7cd}\\x{a7db}\\x{10d70}-\\x{10d85}\\x{1df25}-\\x{1df2a}"},
    {"Lm", "\\p{Lm}"
           "\\x{10d4e}\\x{10d6f}\\x{16d40}-\\x{16d42}\\x{16d6b}-\\x{16d6c}"
           "\\x{1e030}-\\x{1e06d}\\x{1e4eb}"},
    {"Lo", "\\p{Lo}"
           "\\x{105c0}-\\x{105f3}\\x{10d4a}-\\x{10d4d}\\x{10d4f}\\x{10ec2}-\\x{10ec4}"
           "\\x{1123f}-\\x{11240}\\x{11380}-\\x{11389}\\x{1138b}\\x{1138e}"
           "\\x{11390}-\\x{113b5}\\x{113b7}\\x{113d1}\\x{113d3}\\x{11bc0}-\\x{11be0}"
           "\\x{11f02}\\x{11f04}-\\x{11f10}\\x{11f12}-\\x{11f33}\\x{1342f}"
           "\\x{13441}-\\x{13446}\\x{13460}-\\x{143fa}\\x{16100}-\\x{1611d}"
           "\\x{16d43}-\\x{16d6a}\\x{18cff}\\x{1b132}\\x{1b155}\\x{1e4d0}-\\x{1e4ea}"
           "\\x{1e5d0}-\\x{1e5ed}\\x{1e5f0}\\x{2b739}\\x{2ebf0}-\\x{2ee5d}"
           "\\x{31350}-\\x{323af}"},
    {"M", "\\p{M}"
          "\\x{897}\\x{cf3}\\x{ece}\\x{10d69}-\\x{10d6d}\\x{10efc}-\\x{10eff}\\x{11241}"
          "\\x{113b8}-\\x{113c0}\\x{113c2}\\x{113c5}\\x{113c7}-\\x{113ca}"
          "\\x{113cc}-\\x{113d0}\\x{113d2}\\x{113e1}-\\x{113e2}\\x{11f00}-\\x{11f01}"
          "\\x{11f03}\\x{11f34}-\\x{11f3a}\\x{11f3e}-\\x{11f42}\\x{11f5a}\\x{13440}"
          "\\x{13447}-\\x{13455}\\x{1611e}-\\x{1612f}\\x{1e08f}\\x{1e4ec}-\\x{1e4ef}"
          "\\x{1e5ee}-\\x{1e5ef}"},
    {"N", "\\p{N}"
          "\\x{10d40}-\\x{10d49}\\x{116d0}-\\x{116e3}\\x{11bf0}-\\x{11bf9}"
          "\\x{11f50}-\\x{11f59}\\x{16130}-\\x{16139}\\x{16d70}-\\x{16d79}"
          "\\x{1ccf0}-\\x{1ccf9}\\x{1d2c0}-\\x{1d2d3}\\x{1e4f0}-\\x{1e4f9}"
          "\\x{1e5f1}-\\x{1e5fa}"},
    {"Nd", "\\p{Nd}"
           "\\x{10d40}-\\x{10d49}\\x{116d0}-\\x{116e3}\\x{11bf0}-\\x{11bf9}"
           "\\x{11f50}-\\x{11f59}\\x{16130}-\\x{16139}\\x{16d70}-\\x{16d79}"
           "\\x{1ccf0}-\\x{1ccf9}\\x{1e4f0}-\\x{1e4f9}\\x{1e5f1}-\\x{1e5fa}"},
    {"P", "\\p{P}"
          "\\x{1b4e}-\\x{1b4f}\\x{1b7f}\\x{10d6e}\\x{113d4}-\\x{113d5}"
          "\\x{113d7}-\\x{113d8}\\x{11b00}-\\x{11b09}\\x{11be1}\\x{11f43}-\\x{11f4f}"
          "\\x{16d6d}-\\x{16d6f}\\x{1e5ff}"},
    {"S", "\\p{S}"
          "\\x{2427}-\\x{2429}\\x{2ffc}-\\x{2fff}\\x{31e4}-\\x{31e5}\\x{31ef}"
          "\\x{10d8e}-\\x{10d8f}\\x{1cc00}-\\x{1ccef}\\x{1cd00}-\\x{1ceb3}\\x{1f6dc}"
          "\\x{1f774}-\\x{1f776}\\x{1f77b}-\\x{1f77f}\\x{1f7d9}\\x{1f8b2}-\\x{1f8bb}"
          "\\x{1f8c0}-\\x{1f8c1}\\x{1fa75}-\\x{1fa77}\\x{1fa87}-\\x{1fa89}\\x{1fa8f}"
          "\\x{1faad}-\\x{1faaf}\\x{1fabb}-\\x{1fabf}\\x{1fac6}\\x{1face}-\\x{1facf}"
          "\\x{1fada}-\\x{1fadc}\\x{1fadf}\\x{1fae8}-\\x{1fae9}\\x{1faf7}-\\x{1faf8}"
          "\\x{1fbcb}-\\x{1fbef}"},
    {"Han", "\\p{sc:Han}"
            "\\x{2b739}\\x{2ebf0}-\\x{2ee5d}\\x{31350}-\\x{323af}"},
    {"Alphabetic", "\\p{Alphabetic}" LATE_LETTERS},
    {"Lt", "\\p{Lt}"},
    {"Pc", "\\p{Pc}"},
    {"Z", "\\p{Z}"},
    {"Zs", "\\p{Zs}"},
    {"Cc", "\\p{Cc}"},
};

/* Classes of one letter in Oniguruma's own terms; properties among them are translated in turn. */
typedef struct ClassRow {
    char letter;
    const char *members;
    const char *
        alone; /* more of them outside [ ]: there \w takes the superscripts and fractions of Latin-1 */
} ClassRow;

static const ClassRow class_rows[] = {
    {'s', "\\p{Z}\\t-\\r\\x85", ""},
    {'w', "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}", "\\xb2\\xb3\\xb9\\xbc-\\xbe"},
    {'d', "\\p{Nd}", ""},
    {'h', "0-9a-fA-F", ""},
};

/* Escapes that both read alike. */
static const char plain_escapes[] = "nrtfaeAzZG\\/|.*+?()[]{}^$-#&~!\"'%,:;<=>@_` ";

typedef struct Translator {
    const char *text;
    size_t bytes;
    size_t at;
    bool in_class;
    TextBuffer *out;
} Translator;

static Status copy(Translator *translator, size_t bytes) {
    TRY(text_buffer_add(translator->out, translator->text + translator->at, bytes));
    translator->at += bytes;
    return STATUS_OK;
}

static Status put(Translator *translator, const char *text) {
    return text_buffer_add(translator->out, text, strlen(text));
}

static Status refuse(const Translator *translator, const char *why) {
    FAIL(TOKENIZER, "the pattern \"%.*s%s\" is not supported at offset %zu: %s",
         (int)(translator->bytes < 200 ? translator->bytes : 200), translator->text,
         translator->bytes < 200 ? "" : "…", translator->at, why);
}

static Status put_properties(Translator *translator, const char *expression);

/* A class: its members inside [ ], the class itself elsewhere. */
static Status put_class(Translator *translator, const char *members, const char *alone,
                        bool negated) {
    if (translator->in_class) {
        if (negated) return refuse(translator, "a negated class inside a class");
        return put_properties(translator, members);
    }
    TRY(put(translator, negated ? "[^" : "["));
    TRY(put_properties(translator, members));
    TRY(put(translator, alone));
    return put(translator, "]");
}

static const PropertyRow *property_find(const char *name, size_t bytes) {
    for (size_t i = 0; i < sizeof property_rows / sizeof property_rows[0]; i++)
        if (strlen(property_rows[i].name) == bytes && !memcmp(property_rows[i].name, name, bytes))
            return &property_rows[i];
    return NULL;
}

/* Members of a class row with each \p{…} in it as its own row says. */
static Status put_properties(Translator *translator, const char *expression) {
    for (const char *start; (start = strstr(expression, "\\p{"));) {
        const char *end = strchr(start, '}');
        const PropertyRow *row = property_find(start + 3, (size_t)(end - start - 3));
        TRY(text_buffer_add(translator->out, expression, (size_t)(start - expression)));
        if (row)
            TRY(put(translator, row->expression));
        else
            TRY(text_buffer_add(translator->out, start, (size_t)(end + 1 - start)));
        expression = end + 1;
    }
    return put(translator, expression);
}

/* \p{Name}, \P{Name} or \p{^Name}; `at` is on the backslash. */
static Status translate_property(Translator *translator) {
    const char *escape = translator->text + translator->at;
    size_t left = translator->bytes - translator->at;
    const char *end = left > 3 && escape[2] == '{' ? memchr(escape, '}', left) : NULL;
    if (!end) return refuse(translator, "a property without braces");
    bool caret = escape[3] == '^';
    const char *name = escape + 3 + caret;
    const PropertyRow *row = property_find(name, (size_t)(end - name));
    if (!row) return refuse(translator, "an unknown Unicode property");
    TRY(put_class(translator, row->expression, "", caret != (escape[1] == 'P')));
    translator->at += (size_t)(end + 1 - escape);
    return STATUS_OK;
}

/* \xHH, \x{H…}, \uHHHH */
static Status translate_hex(Translator *translator) {
    const char *escape = translator->text + translator->at;
    size_t left = translator->bytes - translator->at;
    bool braces = escape[1] == 'x' && left > 2 && escape[2] == '{';
    size_t first = braces ? 3 : 2, width = braces ? 6 : escape[1] == 'x' ? 2 : 4;
    size_t digits = 0;
    while (digits < width && first + digits < left &&
           strchr("0123456789abcdefABCDEF", escape[first + digits]) && escape[first + digits])
        digits++;
    size_t end = first + digits + braces;
    if (!digits || (!braces && digits != width) ||
        (braces && (end > left || escape[end - 1] != '}')))
        return refuse(translator, "a malformed \\x or \\u");
    TRY(put(translator, "\\x{"));
    TRY(text_buffer_add(translator->out, escape + first, digits));
    TRY(put(translator, "}"));
    translator->at += end;
    return STATUS_OK;
}

static Status translate_escape(Translator *translator) {
    if (translator->bytes - translator->at < 2) return refuse(translator, "a backslash at the end");
    char letter = translator->text[translator->at + 1];
    if (letter == 'p' || letter == 'P') return translate_property(translator);
    if (letter == 'x' || letter == 'u') return translate_hex(translator);
    for (size_t i = 0; i < sizeof class_rows / sizeof class_rows[0]; i++) {
        bool negated = letter == class_rows[i].letter - 'a' + 'A';
        if (letter != class_rows[i].letter && !negated) continue;
        TRY(put_class(translator, class_rows[i].members, class_rows[i].alone, negated));
        translator->at += 2;
        return STATUS_OK;
    }
    if (!letter || !strchr(plain_escapes, letter))
        return refuse(translator, "an escape that is not known");
    return copy(translator, 2);
}

static Status translate_class_opening(Translator *translator) {
    if (translator->in_class) return refuse(translator, "a class inside a class");
    translator->in_class = true;
    TRY(copy(translator, 1));
    if (translator->at < translator->bytes && translator->text[translator->at] == '^')
        TRY(copy(translator, 1));
    return STATUS_OK;
}

/* "{2}+" repeats a repetition in Ruby and is possessive in PCRE2. */
static bool is_repeated_range(const Translator *translator) {
    size_t at = translator->at;
    return !translator->in_class && at + 1 < translator->bytes && translator->text[at] == '}' &&
           translator->text[at + 1] == '+';
}

/* "(?": of the options, only i means the same in both, and only where it holds to the end of a group or expression. */
static Status check_options(const Translator *translator) {
    const char *text = translator->text + translator->at + 2;
    const char *end = translator->text + translator->bytes;
    const char *letter = text;
    while (letter < end && (*letter == '-' || (*letter >= 'a' && *letter <= 'z')))
        letter++;
    if (letter == text || letter == end || (*letter != ':' && *letter != ')')) return STATUS_OK;
    bool only_case = (letter - text == 1 && *text == 'i') ||
                     (letter - text == 2 && text[0] == '-' && text[1] == 'i');
    if (!only_case) return refuse(translator, "an option other than i");
    if (*letter == ')' && translator->at > 0) return refuse(translator, "an option in the middle");
    return STATUS_OK;
}

Status pattern_translate(const char *expression, size_t bytes, TextBuffer *out) {
    Translator translator = {.text = expression, .bytes = bytes, .out = out};
    while (translator.at < bytes) {
        char here = expression[translator.at];
        bool doubled = translator.at + 1 < bytes && expression[translator.at + 1] == here;
        if (here == '\\') {
            TRY(translate_escape(&translator));
        } else if (here == '[') {
            TRY(translate_class_opening(&translator));
        } else if (translator.in_class && here == '&' && doubled) {
            return refuse(&translator, "an intersection of classes");
        } else if (is_repeated_range(&translator)) {
            return refuse(&translator, "a repeated {n,m}");
        } else {
            bool opens_group = here == '(' && !translator.in_class && bytes - translator.at > 2 &&
                               expression[translator.at + 1] == '?';
            if (opens_group) TRY(check_options(&translator));
            if (here == ']') translator.in_class = false;
            TRY(copy(&translator, 1));
        }
    }
    return STATUS_OK;
}
