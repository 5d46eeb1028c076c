#ifndef RUNTIME_TEXT_TOKENIZER_JSON_H
#define RUNTIME_TEXT_TOKENIZER_JSON_H

/* tokenizer.json, as the `tokenizers` library writes it: the whole pipeline but for what the folder's other files say
 * (begin and end of text). Its "truncation" and "padding" are for training and do not apply. */

#include <stddef.h>

#include "runtime/text/tokenizer_parts.h"

SPILLWAY_EXTERN_C_BEGIN

/* Fills a zeroed Tokenizer. file: its name in errors, which are E-JSON or E-TOKENIZER with the place in the file. */
Status tokenizer_load_json(Tokenizer *tokenizer, const char *file, const char *text, size_t bytes);

SPILLWAY_EXTERN_C_END

#endif
