#include "runtime/weights/json_walk.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#pragma GCC diagnostic error "-Wconversion"
#pragma GCC diagnostic error "-Wsign-conversion"

/* A character of a key may be written in six: \u0041. */
enum { ESCAPED_BYTES_MAX = 6, QUOTES_BYTES = 2 };

Status json_walk_fail(const JsonWalk *walk, const char *format, ...) {
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    uint64_t line = 1, line_start = 0;
    for (uint64_t i = 0; i < walk->at; i++)
        if (walk->text[i] == '\n') {
            line++;
            line_start = i + 1;
        }
    return error_raise(walk->error,
                       "\"%s\" line %" PRIu64 " column %" PRIu64 " (byte %" PRIu64
                       "): %s; fetch or convert the model again",
                       walk->path, line, walk->at - line_start + 1, walk->file_offset + walk->at,
                       text);
}

const char *json_walk_error_text(json_error_t *error) {
    for (char *at = error->text; *at; at++)
        if ((unsigned char)*at < ' ' || *at == 0x7f) *at = ' ';
    return error->text;
}

static void skip_blanks(JsonWalk *walk) {
    while (walk->at < walk->text_bytes && memchr(" \t\r\n", walk->text[walk->at], 4))
        walk->at++;
}

bool json_walk_is_at(JsonWalk *walk, char first) {
    skip_blanks(walk);
    return walk->at < walk->text_bytes && walk->text[walk->at] == first;
}

static bool take(JsonWalk *walk, char character) {
    if (!json_walk_is_at(walk, character)) return false;
    walk->at++;
    return true;
}

Status json_walk_enter(JsonWalk *walk) {
    if (!take(walk, '{')) return json_walk_fail(walk, "a JSON object is missing here");
    walk->after_member = false;
    return STATUS_OK;
}

Status json_walk_value(JsonWalk *walk, size_t text_bytes_max, json_t **out) {
    skip_blanks(walk);
    uint64_t left = walk->text_bytes - walk->at;
    size_t slice_bytes = left < text_bytes_max ? (size_t)left : text_bytes_max;
    json_error_t error;
    json_t *value =
        json_loadb(walk->text + walk->at, slice_bytes,
                   JSON_REJECT_DUPLICATES | JSON_DISABLE_EOF_CHECK | JSON_DECODE_ANY, &error);
    if (!value) {
        if (slice_bytes < left && error.position >= 0 && (size_t)error.position >= slice_bytes)
            return json_walk_fail(walk, "a value is longer than %zu bytes", text_bytes_max);
        walk->at +=
            error.position > 0 && (uint64_t)error.position < left ? (uint64_t)error.position : 0;
        return json_walk_fail(walk, "malformed JSON: %s", json_walk_error_text(&error));
    }
    walk->at += (uint64_t)error.position;
    walk->after_member = true;
    *out = value;
    return STATUS_OK;
}

Status json_walk_next(JsonWalk *walk, size_t key_bytes_max, json_t **out_key) {
    *out_key = NULL;
    if (take(walk, '}')) {
        walk->after_member = true; /* of the object around */
        return STATUS_OK;
    }
    if (walk->after_member && !take(walk, ','))
        return json_walk_fail(walk, "a comma or } is missing here");
    if (!json_walk_is_at(walk, '"')) return json_walk_fail(walk, "a key is missing here");
    json_t *key = NULL;
    TRY(json_walk_value(walk, ESCAPED_BYTES_MAX * key_bytes_max + QUOTES_BYTES, &key));
    if (!take(walk, ':')) {
        json_decref(key);
        return json_walk_fail(walk, "a colon is missing here");
    }
    *out_key = key;
    return STATUS_OK;
}

Status json_walk_finish(JsonWalk *walk) {
    skip_blanks(walk);
    if (walk->at < walk->text_bytes)
        return json_walk_fail(walk, "text follows the end of the object");
    return STATUS_OK;
}
