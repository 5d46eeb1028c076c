#ifndef RUNTIME_TEXT_PATTERN_TRANSLATE_H
#define RUNTIME_TEXT_PATTERN_TRANSLATE_H

/* From Oniguruma's notation to PCRE2's; see pattern.h. */

#include <stddef.h>

#include "runtime/base/status.h"
#include "runtime/text/tokenizer.h"

SPILLWAY_EXTERN_C_BEGIN

/* Appends the PCRE2 expression to *out. E-TOKENIZER for notation that PCRE2 reads differently. */
Status pattern_translate(const char *expression, size_t bytes, TextBuffer *out);

SPILLWAY_EXTERN_C_END

#endif
