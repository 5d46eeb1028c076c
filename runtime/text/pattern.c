#include "runtime/text/pattern.h"

#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "runtime/base/arena.h"
#include "runtime/text/pattern_translate.h"
#include "runtime/text/utf8.h"

/* A pattern of a tokenizer takes a few steps a byte, at worst once the length of a run of spaces. An exploding one ends
 * within milliseconds on a short word and within a second on a long one. */
enum {
    LONG_WORD_BYTES = 64 * 1024,
    SHORT_MATCH_STEPS_MAX = 1000000,
    LONG_MATCH_STEPS_MAX = 50000000,
    MATCH_DEPTH_MAX = 1000000,
    MATCH_HEAP_KIB_MAX = 256 * 1024,
    EXPRESSION_BYTES_MAX = 64 * 1024,
    NESTING_MAX = 100,
};

struct Pattern {
    pcre2_code *code;
    pcre2_match_context *limits[2]; /* [is a long word] */
};

static pcre2_match_context *limits_create(uint32_t steps_max) {
    pcre2_match_context *limits = pcre2_match_context_create(NULL);
    if (!limits) return NULL;
    pcre2_set_match_limit(limits, steps_max);
    pcre2_set_depth_limit(limits, MATCH_DEPTH_MAX);
    pcre2_set_heap_limit(limits, MATCH_HEAP_KIB_MAX);
    return limits;
}

static Status pattern_compile(Pattern **out, const char *expression, size_t bytes,
                              uint32_t options) {
    int error;
    PCRE2_SIZE place;
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context) FAIL(MEMORY, "no memory for a pattern");
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pcre2_set_parens_nest_limit(context, NESTING_MAX);
    pcre2_code *code =
        pcre2_compile((PCRE2_SPTR)expression, bytes, options | PCRE2_UTF, &error, &place, context);
    pcre2_compile_context_free(context);
    if (!code) {
        PCRE2_UCHAR reason[128];
        pcre2_get_error_message(error, reason, sizeof reason);
        FAIL(TOKENIZER, "the pattern \"%.*s%s\" is malformed at offset %zu: %s",
             (int)(bytes < 200 ? bytes : 200), expression, bytes < 200 ? "" : "…", (size_t)place,
             (const char *)reason);
    }
    /* Without JIT (a hardened kernel may forbid it) the interpreter matches the same. */
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
    Pattern *pattern = calloc(1, sizeof *pattern);
    if (!pattern) {
        pcre2_code_free(code);
        FAIL(MEMORY, "no memory for a pattern");
    }
    pattern->code = code;
    pattern->limits[false] = limits_create(SHORT_MATCH_STEPS_MAX);
    pattern->limits[true] = limits_create(LONG_MATCH_STEPS_MAX);
    if (!pattern->limits[false] || !pattern->limits[true]) {
        pattern_destroy(pattern);
        FAIL(MEMORY, "no memory for a pattern");
    }
    *out = pattern;
    return STATUS_OK;
}

Status pattern_create(Pattern **out, const char *expression, size_t bytes) {
    if (bytes > EXPRESSION_BYTES_MAX)
        FAIL(TOKENIZER, "a pattern has %zu bytes; at most %d are taken", bytes,
             EXPRESSION_BYTES_MAX);
    TextBuffer translated = {0};
    Status status = pattern_translate(expression, bytes, &translated);
    if (status == STATUS_OK)
        status = pattern_compile(out, translated.text ? translated.text : "", translated.bytes,
                                 PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C);
    text_buffer_free(&translated);
    return status;
}

Status pattern_create_literal(Pattern **out, const char *text, size_t bytes) {
    return pattern_compile(out, text, bytes, PCRE2_LITERAL);
}

void pattern_destroy(Pattern *pattern) {
    if (!pattern) return;
    pcre2_match_context_free(pattern->limits[false]);
    pcre2_match_context_free(pattern->limits[true]);
    pcre2_code_free(pattern->code);
    free(pattern);
}

Status pattern_matcher_begin(PatternMatcher *out, const Pattern *pattern) {
    void *match_data = pcre2_match_data_create(1, NULL);
    if (!match_data) FAIL(MEMORY, "no memory to match a pattern");
    *out = (PatternMatcher){.pattern = pattern, .match_data = match_data};
    return STATUS_OK;
}

void pattern_matcher_end(PatternMatcher *matcher) {
    pcre2_match_data_free(matcher->match_data);
}

Status pattern_find(const PatternMatcher *matcher, const char *text, size_t bytes, size_t start,
                    size_t *out_from, size_t *out_end) {
    const Pattern *pattern = matcher->pattern;
    PCRE2_SPTR subject = (PCRE2_SPTR)(text ? text : "");
    pcre2_match_context *limits = pattern->limits[bytes > LONG_WORD_BYTES];
    int result = pcre2_match(pattern->code, subject, bytes, start, PCRE2_NO_UTF_CHECK,
                             matcher->match_data, limits);
    if (result == PCRE2_ERROR_JIT_STACKLIMIT)
        result = pcre2_match(pattern->code, subject, bytes, start,
                             PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, matcher->match_data, limits);
    if (result == PCRE2_ERROR_NOMATCH) return STATUS_NOT_FOUND;
    if (result < 0) {
        PCRE2_UCHAR reason[128];
        pcre2_get_error_message(result, reason, sizeof reason);
        FAIL(TEXT, "the tokenizer's pattern gives up on this text after byte %zu: %s", start,
             (const char *)reason);
    }
    const PCRE2_SIZE *place = pcre2_get_ovector_pointer(matcher->match_data);
    *out_from = place[0];
    *out_end = place[1];
    return STATUS_OK;
}

/* Behind the character at `at`; past the end of the text there is nothing to search. */
static size_t step_over(const char *text, size_t bytes, size_t at) {
    size_t length = 1;
    if (at < bytes) utf8_next(text + at, bytes - at, &length);
    return at + length;
}

Status pattern_walk_next(PatternWalk *walk, size_t *out_from, size_t *out_end) {
    while (walk->search <= walk->bytes) {
        size_t from = 0, end = 0;
        TRY(pattern_find(walk->matcher, walk->text, walk->bytes, walk->search, &from, &end));
        bool is_empty = from == end;
        bool counts = !is_empty || !walk->has_last || from != walk->last_end;
        walk->search = is_empty ? step_over(walk->text, walk->bytes, end) : end;
        walk->last_end = end;
        walk->has_last = true;
        if (!counts) continue;
        *out_from = from;
        *out_end = end;
        return STATUS_OK;
    }
    return STATUS_NOT_FOUND;
}

static Status replace_all(const PatternMatcher *matcher, const char *text, size_t bytes,
                          const char *content, size_t content_bytes, TextBuffer *out) {
    PatternWalk walk = {.matcher = matcher, .text = text, .bytes = bytes};
    size_t done = 0, from = 0, end = 0;
    Status status;
    while ((status = pattern_walk_next(&walk, &from, &end)) == STATUS_OK) {
        TRY(text_buffer_add(out, text + done, from - done));
        TRY(text_buffer_add(out, content, content_bytes));
        done = end;
    }
    if (status != STATUS_NOT_FOUND) return status;
    return text_buffer_add(out, text + done, bytes - done);
}

Status pattern_replace(const Pattern *pattern, const char *text, size_t bytes, const char *content,
                       size_t content_bytes, TextBuffer *out) {
    PatternMatcher matcher = {0};
    TRY(pattern_matcher_begin(&matcher, pattern));
    Status status = replace_all(&matcher, text, bytes, content, content_bytes, out);
    pattern_matcher_end(&matcher);
    return status;
}
