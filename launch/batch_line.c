#include "launch/batch_line.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

enum { ID_CHARACTERS_MAX = 64 };

static size_t count_characters(const char *text) {
    size_t count = 0;
    for (; *text; text++)
        count += ((unsigned char)*text & 0xc0) != 0x80;
    return count;
}

static Status take_custom_id(BatchLine *line, const json_t *value, ApiError *error) {
    const char *id = json_string_value(value);
    if (!id) return api_refuse(error, "invalid_value", "custom_id", "custom_id must be a string");
    size_t count = count_characters(id);
    if (count == 0 || count > ID_CHARACTERS_MAX)
        return api_refuse(error, "invalid_value", "custom_id",
                          "custom_id has %zu characters; it may have 1 to %d", count,
                          ID_CHARACTERS_MAX);
    snprintf(line->custom_id, sizeof line->custom_id, "%s", id);
    return STATUS_OK;
}

static void name_after_line(BatchLine *line) {
    snprintf(line->custom_id, sizeof line->custom_id, "line-%" PRIu64, line->number);
}

static Status check_envelope(const json_t *root, ApiError *error) {
    static const char *const names[] = {"custom_id", "method", "url", "body"};
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)root, key, value) {
        bool known = false;
        for (size_t i = 0; i < sizeof names / sizeof *names; i++)
            known |= strcmp(key, names[i]) == 0;
        if (!known)
            return api_refuse(error, "unsupported_parameter", key,
                              "\"%.60s\" is no field of a batch line", key);
    }
    const char *method = json_string_value(json_object_get(root, "method"));
    if (!method || strcmp(method, "POST") != 0)
        return api_refuse(error, "invalid_value", "method", "method must be \"POST\"");
    return STATUS_OK;
}

static Status find_endpoint(const json_t *root, ApiEndpoint *out, ApiError *error) {
    const char *url = json_string_value(json_object_get(root, "url"));
    for (int endpoint = 0; url && endpoint < API_ENDPOINT_COUNT; endpoint++)
        if (strcmp(url, api_endpoint_url((ApiEndpoint)endpoint)) == 0) {
            *out = (ApiEndpoint)endpoint;
            return STATUS_OK;
        }
    return api_refuse(error, "invalid_url", "url", "url must be \"%s\" or \"%s\"",
                      api_endpoint_url(API_CHAT), api_endpoint_url(API_COMPLETIONS));
}

static Status read_hosted(BatchLine *out, json_t *root, const ApiDefaults *defaults,
                          ApiError *error) {
    ApiEndpoint endpoint = API_CHAT;
    TRY(take_custom_id(out, json_object_get(root, "custom_id"), error));
    TRY(check_envelope(root, error));
    TRY(find_endpoint(root, &endpoint, error));
    json_t *body = json_object_get(root, "body");
    if (!json_is_object(body))
        return api_refuse(error, "invalid_value", "body", "body must be a JSON object");
    return api_request_read(&out->request, endpoint, body, defaults, error);
}

static Status read_plain(BatchLine *out, json_t *root, const ApiDefaults *defaults,
                         ApiError *error) {
    json_t *id = json_object_get(root, "custom_id");
    if (id) {
        TRY(take_custom_id(out, id, error));
        json_object_del(root, "custom_id");
    } else {
        name_after_line(out);
    }
    ApiEndpoint endpoint = json_object_get(root, "messages") ? API_CHAT : API_COMPLETIONS;
    return api_request_read(&out->request, endpoint, root, defaults, error);
}

static Status read_json(BatchLine *out, const Line *line, const ApiDefaults *defaults,
                        ApiError *error) {
    json_t *root;
    TRY(api_parse_json(line->text, line->bytes, &root, error));
    Status status;
    if (!json_is_object(root))
        status = api_refuse(error, "invalid_json", "", "the line is no JSON object");
    else if (json_object_get(root, "url") || json_object_get(root, "method") ||
             json_object_get(root, "body"))
        status = read_hosted(out, root, defaults, error);
    else
        status = read_plain(out, root, defaults, error);
    json_decref(root);
    return status;
}

static Status read_prompt_line(BatchLine *out, const Line *line, const ApiDefaults *defaults,
                               ApiError *error) {
    size_t bytes = line->bytes;
    if (bytes > 0 && line->text[bytes - 1] == '\r') bytes--;
    name_after_line(out);
    json_t *prompt = json_stringn(line->text, bytes);
    if (!prompt) return api_refuse(error, "invalid_value", "prompt", "the line is not UTF-8");
    json_t *body = json_pack("{so}", "prompt", prompt);
    Status status = api_request_read(&out->request, API_COMPLETIONS, body, defaults, error);
    json_decref(body);
    return status;
}

static Status check_bytes(const Line *line, ApiError *error) {
    static const char mark[] = "\xef\xbb\xbf";
    if (line->too_long)
        return api_refuse(error, "invalid_json", "", "the line is longer than 8 MiB");
    if (line->bytes == 0) return api_refuse(error, "invalid_json", "", "the line is empty");
    if (line->number == 1 && line->bytes >= 3 && memcmp(line->text, mark, 3) == 0)
        return api_refuse(error, "invalid_json", "",
                          "a byte order mark in front: save the file without it");
    if (memchr(line->text, 0, line->bytes))
        return api_refuse(error, "invalid_json", "", "the line holds a NUL byte");
    return STATUS_OK;
}

Status batch_line_read(BatchLine *out, const Line *line, BatchFormat format,
                       const ApiDefaults *defaults, ApiError *error) {
    memset(out, 0, sizeof *out);
    memset(error, 0, sizeof *error);
    out->number = line->number;
    TRY(check_bytes(line, error));
    if (format == BATCH_LINES) return read_prompt_line(out, line, defaults, error);
    return read_json(out, line, defaults, error);
}

IdKey batch_line_key(const BatchLine *line) {
    return line->custom_id[0] ? id_key_of_text(line->custom_id, strlen(line->custom_id))
                              : id_key_of_number(line->number);
}

void batch_line_free(BatchLine *line) {
    api_request_free(&line->request);
}
