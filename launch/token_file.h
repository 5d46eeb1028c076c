#ifndef LAUNCH_TOKEN_FILE_H
#define LAUNCH_TOKEN_FILE_H

/* A file of token ids: a JSON list of whole numbers, or whole numbers separated by white space. */

#include "runtime/text/tokenizer.h"

SPILLWAY_EXTERN_C_BEGIN

enum { TOKEN_FILE_BYTES_MAX = 256 << 20 };

/* Appends to *out. "-" is standard input. E-TEXT names the byte that is wrong, and an empty file. */
Status token_file_read(const char *path, TokenList *out);

/* The same from memory; name is used in messages. */
Status token_text_read(const char *text, size_t text_bytes, const char *name, TokenList *out);

SPILLWAY_EXTERN_C_END

#endif
