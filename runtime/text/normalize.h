#ifndef RUNTIME_TEXT_NORMALIZE_H
#define RUNTIME_TEXT_NORMALIZE_H

/* What a tokenizer does to text before cutting it: a list of steps, each from text to text. Steps take and give
 * well-formed UTF-8. Immutable once built. */

#include <stddef.h>

#include "runtime/text/pattern.h"
#include "runtime/text/tokenizer.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct NormalizerStep NormalizerStep;

struct NormalizerStep {
    /* Appends the changed text to *out. */
    Status (*apply)(const NormalizerStep *step, const char *text, size_t bytes, TextBuffer *out);
    bool at_start_only; /* puts something in front: not done to text that continues broken bytes */
    int unicode_options;
    Pattern *pattern; /* owned; NULL where the step has none */
    char *content;    /* owned; put in front, or for each match */
    size_t content_bytes;
    bool strip_left, strip_right;
};

typedef struct Normalizer {
    NormalizerStep *steps;
    size_t step_count;
} Normalizer;

typedef enum UnicodeForm { UNICODE_NFC, UNICODE_NFD, UNICODE_NFKC, UNICODE_NFKD } UnicodeForm;

Status normalizer_add_unicode(Normalizer *normalizer, UnicodeForm form);
Status normalizer_add_lowercase(Normalizer *normalizer); /* character by character */
Status normalizer_add_strip(Normalizer *normalizer, bool left, bool right);
Status normalizer_add_prepend(Normalizer *normalizer, const char *content, size_t bytes);
/* Takes the pattern, also on failure. */
Status normalizer_add_replace(Normalizer *normalizer, Pattern *pattern, const char *content,
                              size_t bytes);
void normalizer_destroy(Normalizer *normalizer);

/* Runs all steps on *text in place; `scratch` is spent. */
Status normalizer_apply(const Normalizer *normalizer, bool continues, TextBuffer *text,
                        TextBuffer *scratch);

SPILLWAY_EXTERN_C_END

#endif
