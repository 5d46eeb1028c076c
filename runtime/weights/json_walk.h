#ifndef RUNTIME_WEIGHTS_JSON_WALK_H
#define RUNTIME_WEIGHTS_JSON_WALK_H

/* Walks the members of a JSON object that may be large and hostile (a safetensors header, an index of shards) without ever
 * holding it: punctuation between members is read here, each key and value is parsed by jansson out of a slice of bounded
 * length. jansson alone would take up to forty times the text ("[[],[],…"), so 100 MiB of header could take gigabytes.
 *
 * Strict: valid UTF-8, no NULs, no duplicate keys inside a value, nothing but blanks after the end. Keys of the walked object
 * itself may repeat: the caller knows them all and checks. Private to runtime/weights. */

#include <jansson.h>
#include <stdint.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct JsonWalk {
    const char *path;     /* of the file, for errors */
    uint64_t file_offset; /* of text[0] */
    ErrorCode error;      /* raised for what is malformed */
    const char *text;
    uint64_t text_bytes;
    uint64_t at;
    bool after_member; /* a comma or the end comes next */
} JsonWalk;

/* Steps into the object that starts here: the whole text, or the value of the current member. */
Status json_walk_enter(JsonWalk *walk);

/* The next member's key, at most key_bytes_max long and owned by the caller (json_decref), with walk->at on its value; NULL after
 * the last one, with walk->at behind the object. */
Status json_walk_next(JsonWalk *walk, size_t key_bytes_max, json_t **out_key);

/* Parses the value that starts here; its text may be at most text_bytes_max long. Free with json_decref. */
Status json_walk_value(JsonWalk *walk, size_t text_bytes_max, json_t **out);

/* Whether a value that starts with this character comes next. */
bool json_walk_is_at(JsonWalk *walk, char first);

/* Only blanks may follow. */
Status json_walk_finish(JsonWalk *walk);

/* Raises walk->error, naming file, line, column and byte of walk->at. */
Status json_walk_fail(const JsonWalk *walk, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* What jansson says, with the control characters that it quotes from the file made blanks. */
const char *json_walk_error_text(json_error_t *error);

SPILLWAY_EXTERN_C_END

#endif
