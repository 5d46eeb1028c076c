#include "launch/batch_state.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "launch/durable_file.h"
#include "runtime/base/arena.h"
#include "runtime/base/bytes.h"
#include "runtime/base/hash.h"

enum { PIECE_BYTES = 1 << 20, SECTION_BYTES_MIN = 256 };

/* ---- the digest ---- */

/* Up to `wanted` bytes at offset; fewer only at the end of the file. */
static Status read_piece(int descriptor, const char *path, uint64_t offset, size_t wanted,
                         void *out, size_t *out_bytes) {
    size_t bytes = 0;
    while (bytes < wanted) {
        ssize_t got =
            pread(descriptor, (char *)out + bytes, wanted - bytes, (off_t)(offset + bytes));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) FAIL(FILE_MISSING, "\"%s\": %s", path, strerror(errno));
        if (got == 0) break;
        bytes += (size_t)got;
    }
    *out_bytes = bytes;
    return STATUS_OK;
}

static uint64_t count_feeds(const char *text, size_t bytes) {
    uint64_t count = 0;
    for (size_t i = 0; i < bytes; i++)
        count += text[i] == '\n';
    return count;
}

/* Pieces are whole sections, so that a section is hashed in one go. */
static Status digest_pieces(int descriptor, const char *path, char *piece, size_t piece_bytes,
                            Sha256 *sha, BatchDigest *digest) {
    size_t bytes;
    char last = '\n';
    do {
        TRY(read_piece(descriptor, path, digest->bytes, piece_bytes, piece, &bytes));
        sha256_add(sha, piece, bytes);
        digest->lines += count_feeds(piece, bytes);
        digest->bytes += bytes;
        if (bytes > 0) last = piece[bytes - 1];
        for (size_t at = 0; at < bytes && digest->section_count < BATCH_SECTIONS_MAX;
             at += digest->section_bytes) {
            size_t left = bytes - at;
            size_t size = left < digest->section_bytes ? left : digest->section_bytes;
            digest->sections[digest->section_count++] = hash_xxh3(piece + at, size, 0);
        }
    } while (bytes == piece_bytes);
    digest->lines += last != '\n';
    return STATUS_OK;
}

Status batch_digest_read(int descriptor, const char *path, BatchDigest *out) {
    struct stat about;
    memset(out, 0, sizeof *out);
    if (fstat(descriptor, &about) != 0) FAIL(FILE_MISSING, "\"%s\": %s", path, strerror(errno));
    out->section_bytes = divide_up((uint64_t)about.st_size, BATCH_SECTIONS_MAX);
    if (out->section_bytes < SECTION_BYTES_MIN) out->section_bytes = SECTION_BYTES_MIN;
    size_t piece_bytes = divide_up(PIECE_BYTES, out->section_bytes) * out->section_bytes;
    char *piece;
    Sha256 sha;
    TRY(memory_take((void **)&piece, 1, piece_bytes, "a piece of the input"));
    Status status = sha256_begin(&sha);
    if (status == STATUS_OK) {
        status = digest_pieces(descriptor, path, piece, piece_bytes, &sha, out);
        sha256_finish_hex(&sha, out->sha256_hex);
    }
    free(piece);
    return status;
}

Status batch_digest_locate(int descriptor, const char *path, const BatchDigest *before,
                           uint64_t *out_first_line, uint64_t *out_last_line) {
    char *section;
    uint64_t line = 1;
    TRY(memory_take((void **)&section, 1, before->section_bytes, "a piece of the input"));
    *out_first_line = *out_last_line = before->lines + 1;
    Status status = STATUS_OK;
    for (uint32_t i = 0; i < before->section_count && status == STATUS_OK; i++) {
        size_t bytes = 0;
        status = read_piece(descriptor, path, i * before->section_bytes, before->section_bytes,
                            section, &bytes);
        uint64_t feeds = count_feeds(section, bytes);
        bool equal = bytes > 0 && hash_xxh3(section, bytes, 0) == before->sections[i];
        if (!equal) {
            *out_first_line = line;
            *out_last_line = line + feeds;
            break;
        }
        line += feeds;
    }
    free(section);
    return status;
}

/* ---- the file ---- */

static json_t *hash_list(const BatchDigest *digest) {
    json_t *list = json_array();
    char hex[20];
    for (uint32_t i = 0; i < digest->section_count; i++) {
        snprintf(hex, sizeof hex, "%016" PRIx64, digest->sections[i]);
        json_array_append_new(list, json_string(hex));
    }
    return list;
}

Status batch_state_write(const char *path, const BatchState *state) {
    const BatchDigest *digest = &state->digest;
    json_t *root = json_pack(
        "{ss s{ss ss sI sI sI so} ss ss ss ss ss sI sI s{sI sI sI}}", "status", state->status,
        "input", "path", state->input, "sha256", digest->sha256_hex, "bytes",
        (json_int_t)digest->bytes, "lines", (json_int_t)digest->lines, "section_bytes",
        (json_int_t)digest->section_bytes, "sections", hash_list(digest), "errors", state->errors,
        "model", state->model, "shard", state->shard, "settings", state->settings, "writer",
        state->writer, "started_at", (json_int_t)state->started_at, "finished_at",
        (json_int_t)state->finished_at, "request_counts", "total", (json_int_t)state->lines,
        "completed", (json_int_t)state->completed, "failed", (json_int_t)state->failed);
    char *text = root ? json_dumps(root, JSON_INDENT(1)) : NULL;
    json_decref(root);
    if (!text) FAIL(MEMORY, "no memory for \"%s\"", path);
    Status status = durable_file_replace(path, text, strlen(text));
    free(text);
    return status;
}

static bool take_text(const json_t *value, char *out, size_t out_bytes) {
    const char *text = json_string_value(value);
    return text && (size_t)snprintf(out, out_bytes, "%s", text) < out_bytes;
}

static bool take_count(const json_t *object, const char *key, uint64_t *out) {
    const json_t *value = json_object_get(object, key);
    json_int_t count = json_integer_value(value);
    *out = (uint64_t)count;
    return json_is_integer(value) && count >= 0;
}

static bool take_sections(const json_t *list, BatchDigest *out) {
    if (!json_is_array(list) || json_array_size(list) > BATCH_SECTIONS_MAX) return false;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *hex = json_string_value(json_array_get(list, i));
        if (!hex || strlen(hex) != 16 || sscanf(hex, "%16" SCNx64, &out->sections[i]) != 1)
            return false;
    }
    out->section_count = (uint32_t)json_array_size(list);
    return true;
}

static bool take_digest(const json_t *input, BatchDigest *out) {
    return take_text(json_object_get(input, "sha256"), out->sha256_hex, sizeof out->sha256_hex) &&
           take_count(input, "bytes", &out->bytes) && take_count(input, "lines", &out->lines) &&
           take_count(input, "section_bytes", &out->section_bytes) &&
           out->section_bytes >= SECTION_BYTES_MIN && out->section_bytes <= (1ull << 40) &&
           take_sections(json_object_get(input, "sections"), out);
}

static bool take_state(const json_t *root, BatchState *out) {
    const json_t *input = json_object_get(root, "input");
    const json_t *counts = json_object_get(root, "request_counts");
    uint64_t started, finished;
    const struct {
        const json_t *value;
        char *place;
        size_t bytes;
    } texts[] = {
        {json_object_get(root, "status"), out->status, sizeof out->status},
        {json_object_get(input, "path"), out->input, sizeof out->input},
        {json_object_get(root, "errors"), out->errors, sizeof out->errors},
        {json_object_get(root, "model"), out->model, sizeof out->model},
        {json_object_get(root, "settings"), out->settings, sizeof out->settings},
        {json_object_get(root, "writer"), out->writer, sizeof out->writer},
    };
    /* Files of versions without shards have none. */
    snprintf(out->shard, sizeof out->shard, "1/1");
    const json_t *shard = json_object_get(root, "shard");
    if (shard && !take_text(shard, out->shard, sizeof out->shard)) return false;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (!take_text(texts[i].value, texts[i].place, texts[i].bytes)) return false;
    if (!take_count(root, "started_at", &started) || !take_count(root, "finished_at", &finished))
        return false;
    out->started_at = (int64_t)started;
    out->finished_at = (int64_t)finished;
    return take_digest(input, &out->digest) && take_count(counts, "completed", &out->completed) &&
           take_count(counts, "failed", &out->failed) && take_count(counts, "total", &out->lines);
}

Status batch_state_read(const char *path, BatchState *out) {
    FILE *file = fopen(path, "re");
    if (!file && errno == ENOENT) return STATUS_NOT_FOUND;
    if (!file) FAIL(FILE_MISSING, "\"%s\": %s", path, strerror(errno));
    memset(out, 0, sizeof *out);
    json_error_t where;
    json_t *root = json_loadf(file, JSON_REJECT_DUPLICATES, &where);
    fclose(file);
    bool good = root && take_state(root, out);
    json_decref(root);
    if (good) return STATUS_OK;
    FAIL(BATCH_OUTPUT,
         "\"%s\" is damaged: remove it and go on with --resume ids, which goes by the custom_id of "
         "the results",
         path);
}
