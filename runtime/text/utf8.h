#ifndef RUNTIME_TEXT_UTF8_H
#define RUNTIME_TEXT_UTF8_H

/* UTF-8 one step at a time, as the Unicode standard (chapter 3, table 3-7) cuts it: what is not well formed splits
 * into "maximal subparts", each of which becomes one U+FFFD. Pure functions; any thread. */

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

typedef enum Utf8Kind {
    UTF8_CHARACTER,  /* a whole character */
    UTF8_BROKEN,     /* bytes that no character starts with */
    UTF8_UNFINISHED, /* the text ends inside a character that may still become whole */
} Utf8Kind;

extern const char utf8_replacement[]; /* U+FFFD, NUL ended */

/* Looks at the start of `text` (bytes > 0). *out_bytes: how many bytes the character or the broken part has. */
Utf8Kind utf8_next(const char *text, size_t bytes, size_t *out_bytes);

/* Bytes from the start of `text` up to the first place that is no whole character; `bytes` when there is none. */
size_t utf8_valid_prefix(const char *text, size_t bytes);

/* In place: each byte that is no part of a whole character becomes '?', so that what was cut or quoted is text again. */
void utf8_repair(char *text, size_t bytes);

/* The code point of a whole character at `text`. */
uint32_t utf8_code_point(const char *text);

/* Writes 1-4 bytes for a code point that is no surrogate and at most U+10FFFF; returns how many. */
size_t utf8_write(uint32_t code_point, char out[4]);

SPILLWAY_EXTERN_C_END

#endif
