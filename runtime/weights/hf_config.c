/* config.json as metadata: members of nested objects get dotted keys, lists become arrays in GGUF's encoding. */

#include <stdio.h>
#include <string.h>

#include "runtime/weights/json_walk.h"
#include "runtime/weights/metadata.h"
#include "runtime/weights/safetensors.h"

#pragma GCC diagnostic error "-Wconversion"
#pragma GCC diagnostic error "-Wsign-conversion"

/* jansson takes up to a hundred times the text; real ones have a few KiB. */
enum { CONFIG_BYTES_MAX = 512 << 10 };

static MetadataType type_of(const json_t *value) {
    switch (json_typeof(value)) {
    case JSON_TRUE:
    case JSON_FALSE: return METADATA_BOOL;
    case JSON_INTEGER: return METADATA_INTEGER;
    case JSON_REAL: return METADATA_REAL;
    case JSON_STRING: return METADATA_STRING;
    case JSON_ARRAY: return METADATA_ARRAY;
    default: return METADATA_NULL;
    }
}

/* What all elements are; METADATA_NULL when they differ. Integers among reals are reals. */
static MetadataType common_type(const json_t *list) {
    MetadataType common = METADATA_NULL;
    for (size_t i = 0; i < json_array_size(list); i++) {
        MetadataType type = type_of(json_array_get(list, i));
        if (i == 0)
            common = type;
        else if (type + common == METADATA_INTEGER + METADATA_REAL)
            common = METADATA_REAL;
        else if (type != common)
            return METADATA_NULL;
    }
    return common == METADATA_ARRAY ? METADATA_NULL : common;
}

static size_t element_bytes(const json_t *element, MetadataType type) {
    if (type == METADATA_BOOL) return 1;
    if (type == METADATA_STRING) return sizeof(uint64_t) + json_string_length(element);
    return 8;
}

static void encode_element(const json_t *element, MetadataType type, uint8_t *out) {
    int64_t integer = json_integer_value(element);
    double real = json_number_value(element);
    uint64_t text_bytes = json_string_length(element);
    switch (type) {
    case METADATA_BOOL: *out = json_is_true(element); break;
    case METADATA_INTEGER: memcpy(out, &integer, sizeof integer); break;
    case METADATA_REAL: memcpy(out, &real, sizeof real); break;
    default:
        memcpy(out, &text_bytes, sizeof text_bytes);
        memcpy(out + sizeof text_bytes, json_string_value(element), text_bytes);
    }
}

static Status add_list(Weights *weights, Metadata *metadata, const json_t *list) {
    static const ValueEncoding encodings[] = {
        [METADATA_BOOL] = VALUE_BOOL,
        [METADATA_INTEGER] = VALUE_I64,
        [METADATA_REAL] = VALUE_F64,
        [METADATA_STRING] = VALUE_STRING,
    };
    MetadataType type = common_type(list);
    metadata->type = METADATA_ARRAY;
    metadata->element_count = json_array_size(list);
    if (type == METADATA_NULL) return weights_add_metadata(weights, metadata);
    size_t total_bytes = 0;
    for (size_t i = 0; i < json_array_size(list); i++)
        total_bytes += element_bytes(json_array_get(list, i), type);
    void *encoded = NULL;
    TRY(weights_take(weights, total_bytes, &encoded));
    uint8_t *at = encoded;
    for (size_t i = 0; i < json_array_size(list); i++) {
        encode_element(json_array_get(list, i), type, at);
        at += element_bytes(json_array_get(list, i), type);
    }
    TRY(metadata_set_array(weights, metadata, encodings[type], encoded, json_array_size(list)));
    return weights_add_metadata(weights, metadata);
}

static Status add_value(Weights *weights, const char *key, const json_t *value) {
    Metadata metadata = {
        .type = type_of(value),
        .boolean = json_is_true(value),
        .integer = json_integer_value(value),
        .real = json_number_value(value),
        .string_bytes = json_string_length(value),
    };
    if (!weights_name_is_clean(key, strlen(key)))
        FAIL(HF_CONFIG,
             "\"%s\": a key is not 1 to %d bytes of printable UTF-8; fetch the model again",
             weights->metadata_path, NAME_BYTES_MAX);
    TRY(weights_copy_text(weights, key, strlen(key), &metadata.key));
    if (json_is_array(value)) return add_list(weights, &metadata, value);
    if (json_is_string(value))
        TRY(weights_copy_text(weights, json_string_value(value), metadata.string_bytes,
                              &metadata.string));
    return weights_add_metadata(weights, &metadata);
}

/* key: a buffer of NAME_BYTES_MAX + 2 that holds the prefix, "" or "rope_scaling." */
static Status add_members(Weights *weights, char *key, const json_t *object) {
    const char *member;
    json_t *value;
    size_t prefix_bytes = strlen(key), room_bytes = NAME_BYTES_MAX + 2 - prefix_bytes;
    json_object_foreach((json_t *)object, member, value) {
        bool nested = json_object_size(value) > 0;
        int written = snprintf(key + prefix_bytes, room_bytes, "%s%s", member, nested ? "." : "");
        if (written < 0 || (size_t)written >= room_bytes)
            FAIL(HF_CONFIG, "\"%s\": a key is longer than %d bytes; fetch the model again",
                 weights->metadata_path, NAME_BYTES_MAX);
        TRY(nested ? add_members(weights, key, value) : add_value(weights, key, value));
    }
    return STATUS_OK;
}

Status hf_config_parse(Weights *weights, const char *name, const char *text, uint64_t text_bytes) {
    char key[NAME_BYTES_MAX + 2] = "";
    json_error_t error;
    weights->metadata_path = name;
    if (text_bytes > CONFIG_BYTES_MAX)
        FAIL(HF_CONFIG, "\"%s\": %llu bytes long, the limit is %d; is it a model's config.json?",
             name, (unsigned long long)text_bytes, CONFIG_BYTES_MAX);
    json_t *config = json_loadb(text, text_bytes, JSON_REJECT_DUPLICATES, &error);
    if (!config)
        FAIL(HF_CONFIG, "\"%s\" line %d column %d: malformed JSON: %s; fetch the model again", name,
             error.line, error.column, json_walk_error_text(&error));
    Status status =
        json_is_object(config)
            ? add_members(weights, key, config)
            : error_raise(ERROR_HF_CONFIG,
                          "\"%s\" line 1: not a JSON object; fetch the model again", name);
    json_decref(config);
    weights_digest(weights, text, text_bytes);
    return status;
}

Status hf_config_read(Weights *weights, const char *path) {
    const MappedFile *file = NULL;
    TRY(weights_map_file(weights, path, &file));
    return hf_config_parse(weights, file->path, file->bytes ? (const char *)file->bytes : "",
                           file->size_bytes);
}
