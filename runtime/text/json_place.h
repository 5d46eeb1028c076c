#ifndef RUNTIME_TEXT_JSON_PLACE_H
#define RUNTIME_TEXT_JSON_PLACE_H

/* A value of a parsed JSON file together with how one comes to it, so that whoever finds it wrong can say where it stands:
 * "tokenizer.json: pre_tokenizer.pretokenizers[1].behavior: …". Places live on the stack, each points to the one it
 * was reached from; texts are borrowed from the document. */

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct JsonPlace {
    const char *file;
    const struct JsonPlace *parent;
    const char *key;     /* of an object's member; NULL: a list's element, or the root */
    size_t index;        /* of a list's element */
    const json_t *value; /* NULL when it is absent or null */
} JsonPlace;

enum { JSON_FILE_BYTES_MAX = 64 << 20 };

/* Parses a whole file of at most JSON_FILE_BYTES_MAX bytes; E-JSON with line and column. *out is freed with json_decref. */
Status json_place_parse(const char *file, const char *text, size_t bytes, json_t **out);

JsonPlace json_place_root(const char *file, const json_t *value);
JsonPlace json_place_member(const JsonPlace *place, const char *key);
JsonPlace json_place_element(const JsonPlace *place, size_t index);

/* Raises E-TOKENIZER with the place in front. */
Status json_place_fail(const JsonPlace *place, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Typed reads; E-TOKENIZER when it is absent or of another type. */
Status json_place_object(const JsonPlace *place);
Status json_place_list(const JsonPlace *place, size_t *out_count);
Status json_place_string(const JsonPlace *place, const char **out, size_t *out_bytes);
Status json_place_text(const JsonPlace *place, const char **out); /* a string without NUL */
/* A special token in the files around tokenizer.json: "text" or {"content": "text", …}. NULL when it is absent. */
Status json_place_token_text(const JsonPlace *place, const char **out);
Status json_place_integer(const JsonPlace *place, int64_t min, int64_t max, int64_t *out);
/* Absent: `absent`. */
Status json_place_bool(const JsonPlace *place, bool absent, bool *out);

SPILLWAY_EXTERN_C_END

#endif
