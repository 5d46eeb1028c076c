/* safetensors (github.com/huggingface/safetensors, README "Format"): 64-bit header length, JSON header, data. The offsets of the
 * tensors tile the data exactly: no hole, no overlap, nothing behind. */

#include "runtime/weights/safetensors.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/bytes.h"
#include "runtime/weights/json_walk.h"

#pragma GCC diagnostic error "-Wconversion"
#pragma GCC diagnostic error "-Wsign-conversion"

enum {
    LENGTH_BYTES = 8,
    TENSOR_TEXT_MAX = 4096,   /* of one tensor's JSON object */
    TEXT_VALUE_MAX = 1 << 20, /* of one string of __metadata__ */
};

/* Types that the format has and quants[] has not: listed, so that a file that holds one can be inspected. */
typedef struct ForeignType {
    const char *dtype, *name;
    uint32_t block_elements, block_bytes;
} ForeignType;

static const ForeignType foreign_types[] = {
    {"BOOL", "bool", 1, 1},       {"U8", "u8", 1, 1},           {"I8", "i8", 1, 1},
    {"F8_E5M2", "f8_e5m2", 1, 1}, {"F8_E4M3", "f8_e4m3", 1, 1}, {"F8_E8M0", "f8_e8m0", 1, 1},
    {"U16", "u16", 1, 2},         {"I16", "i16", 1, 2},         {"U32", "u32", 1, 4},
    {"I32", "i32", 1, 4},         {"U64", "u64", 1, 8},         {"I64", "i64", 1, 8},
    {"F64", "f64", 1, 8},         {"C64", "c64", 1, 8},         {"F4", "f4", 2, 1},
    {"F6_E2M3", "f6_e2m3", 4, 3}, {"F6_E3M2", "f6_e3m2", 4, 3},
};

enum { FOREIGN_TYPE_COUNT = sizeof foreign_types / sizeof *foreign_types };

/* A file whose header is being read. */
typedef struct Shard {
    Weights *weights;
    const MappedFile *file;
    JsonWalk walk;       /* of the header */
    uint64_t data_start; /* byte of the file */
    size_t first;        /* index of this file's first tensor */
    bool keep_metadata;
} Shard;

static bool read_length(const json_t *value, uint64_t *out) {
    if (!json_is_integer(value) || json_integer_value(value) < 0) return false;
    *out = (uint64_t)json_integer_value(value);
    return true;
}

static Status read_shape(const Shard *shard, const json_t *value, NamedTensor *named) {
    Tensor *tensor = &named->tensor;
    if (json_array_size(value) > TENSOR_DIMS_MAX)
        return json_walk_fail(&shard->walk, "tensor \"%s\" has %zu dimensions, the limit is %d",
                              named->name, json_array_size(value), TENSOR_DIMS_MAX);
    tensor->dim_count = (uint32_t)json_array_size(value);
    for (uint32_t i = 0; i < TENSOR_DIMS_MAX; i++) {
        tensor->shape[i] = 1;
        if (i < tensor->dim_count &&
            (!read_length(json_array_get(value, i), &tensor->shape[i]) || tensor->shape[i] == 0))
            return json_walk_fail(&shard->walk, "tensor \"%s\" has a dimension below one",
                                  named->name);
    }
    return STATUS_OK;
}

static Status read_dtype(const Shard *shard, const char *dtype, NamedTensor *named) {
    ForeignType type = {.name = NULL};
    const Quant *quant = quant_find_safetensors(dtype);
    if (quant) type = (ForeignType){dtype, quant->name, quant->block_elements, quant->block_bytes};
    for (size_t i = 0; !quant && i < FOREIGN_TYPE_COUNT; i++)
        if (strcmp(foreign_types[i].dtype, dtype) == 0) type = foreign_types[i];
    if (!type.name)
        return json_walk_fail(&shard->walk, "tensor \"%s\" is of the unknown dtype \"%.32s\"",
                              named->name, dtype);
    named->type_name = type.name;
    named->tensor.quant = quant;
    if (!weights_shape_bytes(&named->tensor, type.block_elements, type.block_bytes,
                             &named->tensor.bytes))
        return json_walk_fail(&shard->walk, "tensor \"%s\" is too large", named->name);
    return STATUS_OK;
}

static Status read_span(const Shard *shard, const json_t *value, NamedTensor *named) {
    uint64_t begin, end, data_bytes = shard->file->size_bytes - shard->data_start;
    if (json_array_size(value) != 2 || !read_length(json_array_get(value, 0), &begin) ||
        !read_length(json_array_get(value, 1), &end) || begin > end)
        return json_walk_fail(&shard->walk, "data_offsets of tensor \"%s\" are not [begin, end]",
                              named->name);
    if (end - begin != named->tensor.bytes)
        return json_walk_fail(&shard->walk,
                              "data_offsets of tensor \"%s\" span %" PRIu64
                              " bytes where dtype and shape take %" PRIu64,
                              named->name, end - begin, named->tensor.bytes);
    if (end > data_bytes)
        return json_walk_fail(&shard->walk,
                              "tensor \"%s\" ends at byte %" PRIu64 " + %" PRIu64
                              " but the file is %" PRIu64 " bytes long: a truncated download?",
                              named->name, shard->data_start, end, shard->file->size_bytes);
    named->file_offset = shard->data_start + begin;
    named->tensor.data = shard->file->bytes + named->file_offset;
    return STATUS_OK;
}

static Status fill_tensor(const Shard *shard, const json_t *row, NamedTensor *named) {
    const char *dtype = json_string_value(json_object_get(row, "dtype"));
    const json_t *shape = json_object_get(row, "shape"),
                 *span = json_object_get(row, "data_offsets");
    if (!dtype || !json_is_array(shape) || !json_is_array(span) || json_object_size(row) != 3)
        return json_walk_fail(&shard->walk, "tensor \"%s\" is not {dtype, shape, data_offsets}",
                              named->name);
    TRY(read_shape(shard, shape, named));
    TRY(read_dtype(shard, dtype, named));
    return read_span(shard, span, named);
}

static Status copy_key(Shard *shard, const json_t *key, const char **out) {
    const char *text = json_string_value(key);
    size_t text_bytes = json_string_length(key);
    if (!weights_name_is_clean(text, text_bytes))
        return json_walk_fail(&shard->walk, "a name is not 1 to %d bytes of printable UTF-8",
                              NAME_BYTES_MAX);
    return weights_copy_text(shard->weights, text, text_bytes, out);
}

static Status read_tensor(Shard *shard, const json_t *key) {
    NamedTensor named = {.file = shard->file->path};
    json_t *row = NULL;
    if (shard->weights->tensor_count - shard->first == FILE_TENSORS_MAX)
        return json_walk_fail(&shard->walk, "more than %d tensors", FILE_TENSORS_MAX);
    TRY(copy_key(shard, key, &named.name));
    TRY(json_walk_value(&shard->walk, TENSOR_TEXT_MAX, &row));
    Status status = fill_tensor(shard, row, &named);
    json_decref(row);
    TRY(status);
    return weights_add_tensor(shard->weights, &named);
}

static Status read_text(Shard *shard, const json_t *key) {
    Metadata metadata = {.type = METADATA_STRING};
    json_t *value = NULL;
    TRY(copy_key(shard, key, &metadata.key));
    if (!json_walk_is_at(&shard->walk, '"'))
        return json_walk_fail(&shard->walk, "\"%s\" of __metadata__ is no string", metadata.key);
    TRY(json_walk_value(&shard->walk, TEXT_VALUE_MAX, &value));
    metadata.string_bytes = json_string_length(value);
    Status status = weights_copy_text(shard->weights, json_string_value(value),
                                      metadata.string_bytes, &metadata.string);
    json_decref(value);
    TRY(status);
    return shard->keep_metadata ? weights_add_metadata(shard->weights, &metadata) : STATUS_OK;
}

/* Calls read_member for each member of the object that starts here. */
static Status read_members(Shard *shard, Status (*read_member)(Shard *, const json_t *key)) {
    json_t *key = NULL;
    TRY(json_walk_enter(&shard->walk));
    TRY(json_walk_next(&shard->walk, NAME_BYTES_MAX, &key));
    while (key) {
        Status status = read_member(shard, key);
        json_decref(key);
        TRY(status);
        TRY(json_walk_next(&shard->walk, NAME_BYTES_MAX, &key));
    }
    return STATUS_OK;
}

static Status read_header_member(Shard *shard, const json_t *key) {
    if (strcmp(json_string_value(key), "__metadata__") == 0) return read_members(shard, read_text);
    return read_tensor(shard, key);
}

static Status check_tiling(const Shard *shard) {
    const NamedTensor **order = NULL;
    TRY(weights_sort_by_offset(shard->weights, shard->first, &order));
    uint64_t expected = shard->data_start;
    Status status = STATUS_OK;
    for (size_t i = 0; i < shard->weights->tensor_count - shard->first && status == STATUS_OK;
         i++) {
        if (order[i]->file_offset != expected)
            status = error_raise(ERROR_SAFETENSORS,
                                 "\"%s\" at byte %" PRIu64 ": tensor \"%s\" should begin at byte "
                                 "%" PRIu64 ": tensors overlap or leave a hole; fetch or convert "
                                 "the file again",
                                 order[i]->file, order[i]->file_offset, order[i]->name, expected);
        expected = order[i]->file_offset + order[i]->tensor.bytes;
    }
    free(order);
    TRY(status);
    if (expected != shard->file->size_bytes)
        FAIL(SAFETENSORS,
             "\"%s\" at byte %" PRIu64 ": the last tensor ends here but the file is %" PRIu64
             " bytes long; fetch or convert the file again",
             shard->file->path, expected, shard->file->size_bytes);
    return STATUS_OK;
}

static Status find_header(Shard *shard) {
    const MappedFile *file = shard->file;
    uint64_t header_bytes = file->size_bytes < LENGTH_BYTES ? 0 : load_u64(file->bytes);
    if (file->size_bytes < LENGTH_BYTES || header_bytes > file->size_bytes - LENGTH_BYTES ||
        header_bytes > HEADER_BYTES_MAX)
        FAIL(SAFETENSORS,
             "\"%s\" at byte 0: the header claims %" PRIu64 " bytes; the file is %" PRIu64
             " bytes long and the limit %d MiB; fetch or convert the file again",
             file->path, header_bytes, file->size_bytes, HEADER_BYTES_MAX >> 20);
    shard->data_start = LENGTH_BYTES + header_bytes;
    shard->walk = (JsonWalk){.path = file->path,
                             .file_offset = LENGTH_BYTES,
                             .error = ERROR_SAFETENSORS,
                             .text = (const char *)file->bytes + LENGTH_BYTES,
                             .text_bytes = header_bytes};
    return STATUS_OK;
}

Status safetensors_read(Weights *weights, const char *path, bool keep_metadata) {
    Shard shard = {
        .weights = weights, .first = weights->tensor_count, .keep_metadata = keep_metadata};
    TRY(weights_map_file(weights, path, &shard.file));
    TRY(find_header(&shard));
    TRY(read_members(&shard, read_header_member));
    TRY(json_walk_finish(&shard.walk));
    weights_digest(weights, shard.file->bytes, shard.data_start);
    return check_tiling(&shard);
}

static Status open_safetensors(Weights *weights, const char *path) {
    return safetensors_read(weights, path, true);
}

/* By its name, or by a header that begins like one. */
static bool recognises_safetensors(const char *path) {
    static const char suffix[] = ".safetensors";
    char start[LENGTH_BYTES + 1];
    size_t path_bytes = strlen(path), suffix_bytes = sizeof suffix - 1;
    size_t start_bytes = weights_file_start(path, start, sizeof start);
    if (start_bytes == sizeof start && start[LENGTH_BYTES] == '{') return true;
    return start_bytes > 0 && path_bytes >= suffix_bytes &&
           strcmp(path + path_bytes - suffix_bytes, suffix) == 0;
}

const WeightsFormat weights_format_safetensors = {
    .name = "safetensors",
    .naming = WEIGHTS_NAMING_HF,
    .malformed = ERROR_SAFETENSORS,
    .malformed_metadata = ERROR_SAFETENSORS,
    .recognises = recognises_safetensors,
    .open = open_safetensors,
};
