#include "runtime/text/json_place.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

Status json_place_parse(const char *file, const char *text, size_t bytes, json_t **out) {
    json_error_t error;
    if (bytes > JSON_FILE_BYTES_MAX)
        FAIL(JSON, "%s: %zu bytes; at most %d are taken", file, bytes, JSON_FILE_BYTES_MAX);
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (!root) FAIL(JSON, "%s: line %d, column %d: %s", file, error.line, error.column, error.text);
    *out = root;
    return STATUS_OK;
}

JsonPlace json_place_root(const char *file, const json_t *value) {
    return (JsonPlace){.file = file, .value = value};
}

static const json_t *present(const json_t *value) {
    return json_is_null(value) ? NULL : value;
}

JsonPlace json_place_member(const JsonPlace *place, const char *key) {
    return (JsonPlace){.file = place->file,
                       .parent = place,
                       .key = key,
                       .value = present(json_object_get(place->value, key))};
}

JsonPlace json_place_element(const JsonPlace *place, size_t index) {
    return (JsonPlace){.file = place->file,
                       .parent = place,
                       .index = index,
                       .value = present(json_array_get(place->value, index))};
}

/* Writes the way to a place into `out`, cut off at its end; returns how much is used. */
static size_t write_way(const JsonPlace *place, char *out, size_t size) {
    if (!place->parent) return 0;
    size_t used = write_way(place->parent, out, size);
    if (used >= size) return used;
    int added = place->key
                    ? snprintf(out + used, size - used, "%s%.64s", used ? "." : "", place->key)
                    : snprintf(out + used, size - used, "[%zu]", place->index);
    return used + (added > 0 ? (size_t)added : 0);
}

Status json_place_fail(const JsonPlace *place, const char *format, ...) {
    char way[256] = "", text[512];
    write_way(place, way, sizeof way);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    FAIL(TOKENIZER, "%s: %s%s%s", place->file, way, way[0] ? ": " : "", text);
}

Status json_place_object(const JsonPlace *place) {
    if (!json_is_object(place->value)) return json_place_fail(place, "an object is expected");
    return STATUS_OK;
}

Status json_place_list(const JsonPlace *place, size_t *out_count) {
    if (!json_is_array(place->value)) return json_place_fail(place, "a list is expected");
    *out_count = json_array_size(place->value);
    return STATUS_OK;
}

Status json_place_string(const JsonPlace *place, const char **out, size_t *out_bytes) {
    if (!json_is_string(place->value)) return json_place_fail(place, "a string is expected");
    *out = json_string_value(place->value);
    *out_bytes = json_string_length(place->value);
    return STATUS_OK;
}

Status json_place_text(const JsonPlace *place, const char **out) {
    const char *text = NULL;
    size_t bytes = 0;
    TRY(json_place_string(place, &text, &bytes));
    if (memchr(text, 0, bytes)) return json_place_fail(place, "a NUL is not supported here");
    *out = text;
    return STATUS_OK;
}

Status json_place_token_text(const JsonPlace *place, const char **out) {
    JsonPlace content = json_place_member(place, "content");
    *out = NULL;
    if (!place->value) return STATUS_OK;
    return json_place_text(json_is_object(place->value) ? &content : place, out);
}

Status json_place_integer(const JsonPlace *place, int64_t min, int64_t max, int64_t *out) {
    json_int_t value = json_integer_value(place->value);
    if (!json_is_integer(place->value) || value < min || value > max)
        return json_place_fail(place, "an integer from %lld to %lld is expected", (long long)min,
                               (long long)max);
    *out = value;
    return STATUS_OK;
}

Status json_place_bool(const JsonPlace *place, bool absent, bool *out) {
    if (place->value && !json_is_boolean(place->value))
        return json_place_fail(place, "true or false is expected");
    *out = place->value ? json_is_true(place->value) : absent;
    return STATUS_OK;
}
