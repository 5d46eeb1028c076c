#ifndef RUNTIME_TEXT_PATTERN_H
#define RUNTIME_TEXT_PATTERN_H

/* Regular expressions as tokenizer files write them. Those are for Oniguruma (Ruby syntax) and Unicode 16; a Pattern
 * is the same expression for PCRE2: \s, \w, \d and \p{…} are written out as the classes that Oniguruma has, with
 * the characters that PCRE2's older tables lack. What would mean something else in PCRE2 is refused by name.
 *
 * A Pattern is immutable: any thread may match. Matching runs under limits on steps, depth and memory. */

#include <stddef.h>

#include "runtime/base/status.h"
#include "runtime/text/tokenizer.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct Pattern Pattern;

/* E-TOKENIZER shows the expression and the place. Capped at 64 KiB. */
Status pattern_create(Pattern **out, const char *expression, size_t bytes);
Status pattern_create_literal(Pattern **out, const char *text, size_t bytes);
void pattern_destroy(Pattern *pattern);

/* One thread's matching with one pattern: begin, any number of finds, end. */
typedef struct PatternMatcher {
    const Pattern *pattern;
    void *match_data;
} PatternMatcher;

Status pattern_matcher_begin(PatternMatcher *out, const Pattern *pattern);
void pattern_matcher_end(PatternMatcher *matcher);

/* The first match at or after `start` in `text`, which is well-formed UTF-8 of its own: what stands around it does not
 * count. STATUS_NOT_FOUND (silent) when there is none; E-TEXT when a limit is reached. A match may be empty. */
Status pattern_find(const PatternMatcher *matcher, const char *text, size_t bytes, size_t start,
                    size_t *out_from, size_t *out_end);

/* Appends `text` to *out with every match replaced. */
Status pattern_replace(const Pattern *pattern, const char *text, size_t bytes, const char *content,
                       size_t content_bytes, TextBuffer *out);

/* All matches of a text in order: begin with zeros behind the first three fields, then next until STATUS_NOT_FOUND. An empty
 * match right behind the match before it does not count, as in Oniguruma's own walk. */
typedef struct PatternWalk {
    const PatternMatcher *matcher;
    const char *text;
    size_t bytes;
    size_t search;   /* where the next search starts */
    size_t last_end; /* of the last match */
    bool has_last;
} PatternWalk;

Status pattern_walk_next(PatternWalk *walk, size_t *out_from, size_t *out_end);

SPILLWAY_EXTERN_C_END

#endif
