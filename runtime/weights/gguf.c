/* GGUF versions 2 and 3, little-endian (ggml docs/gguf.md): magic, version, counts, key-value pairs, tensor directory, padding,
 * data. Everything is read through Cursor, which never passes the end of the file. */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/bytes.h"
#include "runtime/weights/metadata.h"
#include "runtime/weights/weights_builder.h"

#pragma GCC diagnostic error "-Wconversion"
#pragma GCC diagnostic error "-Wsign-conversion"

enum {
    MAGIC_BYTES = 4,
    VERSION_MIN = 2,
    VERSION_MAX = 3,
    STRING_BYTES_MAX = 1 << 20,
    ARRAY_ELEMENTS_MAX = 16 << 20,
    ALIGNMENT_DEFAULT = 32,
    ALIGNMENT_MIN = 8,
    ALIGNMENT_MAX = 65536,
};

static const char magic[] = "GGUF";

/* Types that ggml has and quants[] has not: listed, so that a file that holds one can be inspected. */
typedef struct ForeignType {
    uint32_t gguf_type;
    const char *name;
    uint32_t block_elements, block_bytes;
} ForeignType;

static const ForeignType foreign_types[] = {
    {9, "q8_1", 32, 40},      {10, "q2_k", 256, 84},    {11, "q3_k", 256, 110},
    {15, "q8_k", 256, 292},   {16, "iq2_xxs", 256, 66}, {17, "iq2_xs", 256, 74},
    {18, "iq3_xxs", 256, 98}, {19, "iq1_s", 256, 50},   {20, "iq4_nl", 32, 18},
    {21, "iq3_s", 256, 110},  {22, "iq2_s", 256, 82},   {23, "iq4_xs", 256, 136},
    {24, "i8", 1, 1},         {25, "i16", 1, 2},        {26, "i32", 1, 4},
    {27, "i64", 1, 8},        {28, "f64", 1, 8},        {29, "iq1_m", 256, 56},
    {34, "tq1_0", 256, 54},   {35, "tq2_0", 256, 66},   {39, "mxfp4", 32, 17},
    {40, "nvfp4", 64, 36},    {41, "q1_0", 128, 18},
};

enum { FOREIGN_TYPE_COUNT = sizeof foreign_types / sizeof *foreign_types };

typedef struct Cursor {
    Weights *weights;
    const MappedFile *file;
    uint64_t at;        /* next byte to read */
    uint64_t end;       /* of what a header may take of this file */
    bool keep_metadata; /* of the first shard only */
    /* keys that the format itself needs */
    uint64_t alignment, split_count, split_index, split_tensor_count;
} Cursor;

#define CURSOR_FAIL(cursor, error, format, ...)                                            \
    FAIL(error, "\"%s\" at byte %" PRIu64 ": " format "; fetch or convert the file again", \
         (cursor)->file->path, (cursor)->at, ##__VA_ARGS__)

static const uint8_t *cursor_bytes(const Cursor *cursor) {
    return cursor->file->bytes + cursor->at;
}

/* Whether size_bytes more lie before the end. */
static Status cursor_need(const Cursor *cursor, uint64_t size_bytes, const char *what) {
    if (size_bytes <= cursor->end - cursor->at) return STATUS_OK;
    if (cursor->end < cursor->file->size_bytes)
        CURSOR_FAIL(cursor, GGUF_RANGE, "%s passes the limit of %d MiB for a header", what,
                    HEADER_BYTES_MAX >> 20);
    CURSOR_FAIL(cursor, GGUF_RANGE, "%s takes %" PRIu64 " bytes but the file ends at byte %" PRIu64,
                what, size_bytes, cursor->end);
}

static Status read_u32(Cursor *cursor, const char *what, uint32_t *out) {
    TRY(cursor_need(cursor, sizeof *out, what));
    *out = load_u32(cursor_bytes(cursor));
    cursor->at += sizeof *out;
    return STATUS_OK;
}

static Status read_u64(Cursor *cursor, const char *what, uint64_t *out) {
    TRY(cursor_need(cursor, sizeof *out, what));
    *out = load_u64(cursor_bytes(cursor));
    cursor->at += sizeof *out;
    return STATUS_OK;
}

/* Points into the file. */
static Status read_string(Cursor *cursor, const char *what, const char **out, uint64_t *out_bytes) {
    uint64_t size_bytes;
    TRY(cursor_need(cursor, sizeof size_bytes, what));
    size_bytes = load_u64(cursor_bytes(cursor));
    if (size_bytes > STRING_BYTES_MAX)
        CURSOR_FAIL(cursor, GGUF_RANGE, "%s claims %" PRIu64 " bytes, the limit is %d", what,
                    size_bytes, STRING_BYTES_MAX);
    cursor->at += sizeof size_bytes;
    TRY(cursor_need(cursor, size_bytes, what));
    *out = (const char *)cursor_bytes(cursor);
    *out_bytes = size_bytes;
    cursor->at += size_bytes;
    return STATUS_OK;
}

/* A key or tensor name, copied. */
static Status read_name(Cursor *cursor, const char *what, const char **out) {
    const char *name = NULL;
    uint64_t name_bytes = 0, start = cursor->at;
    TRY(read_string(cursor, what, &name, &name_bytes));
    if (!weights_name_is_clean(name, name_bytes)) {
        cursor->at = start;
        CURSOR_FAIL(cursor, GGUF, "%s is not 1 to %d bytes of printable UTF-8", what,
                    NAME_BYTES_MAX);
    }
    return weights_copy_text(cursor->weights, name, name_bytes, out);
}

static Status read_encoding(Cursor *cursor, const char *key, ValueEncoding *out) {
    uint32_t encoding = 0;
    TRY(read_u32(cursor, "a value type", &encoding));
    if (encoding >= VALUE_ENCODING_COUNT) {
        cursor->at -= sizeof encoding;
        CURSOR_FAIL(cursor, GGUF_RANGE, "key \"%s\" has the unknown value type %" PRIu32, key,
                    encoding);
    }
    *out = encoding;
    return STATUS_OK;
}

static Status skip_strings(Cursor *cursor, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) {
        const char *text = NULL;
        uint64_t text_bytes = 0;
        TRY(read_string(cursor, "a string of an array", &text, &text_bytes));
    }
    return STATUS_OK;
}

static Status check_bools(Cursor *cursor, const char *key, uint64_t count) {
    for (uint64_t i = 0; i < count; i++)
        if (cursor_bytes(cursor)[i] > 1)
            CURSOR_FAIL(cursor, GGUF, "array \"%s\" holds a bool other than 0 and 1", key);
    return STATUS_OK;
}

static Status read_array(Cursor *cursor, Metadata *metadata) {
    ValueEncoding encoding = VALUE_U8;
    TRY(read_encoding(cursor, metadata->key, &encoding));
    if (encoding == VALUE_ARRAY)
        CURSOR_FAIL(cursor, GGUF_RANGE, "key \"%s\" is an array of arrays, which is not supported",
                    metadata->key);
    const ValueType *type = value_type(encoding);
    uint64_t count = 0;
    TRY(read_u64(cursor, "an array length", &count));
    if (count > ARRAY_ELEMENTS_MAX)
        CURSOR_FAIL(cursor, GGUF_RANGE, "array \"%s\" claims %" PRIu64 " elements, the limit is %d",
                    metadata->key, count, ARRAY_ELEMENTS_MAX);
    TRY(cursor_need(cursor, count * type->bytes, "an array"));
    const uint8_t *elements = cursor_bytes(cursor);
    if (encoding == VALUE_BOOL) TRY(check_bools(cursor, metadata->key, count));
    if (encoding == VALUE_STRING)
        TRY(skip_strings(cursor, count));
    else
        cursor->at += count * type->bytes;
    return metadata_set_array(cursor->weights, metadata, encoding, elements, count);
}

static Status read_text_value(Cursor *cursor, Metadata *metadata) {
    const char *text = NULL;
    uint64_t text_bytes = 0;
    TRY(read_string(cursor, "a string value", &text, &text_bytes));
    metadata->type = METADATA_STRING;
    metadata->string_bytes = text_bytes;
    return weights_copy_text(cursor->weights, text, text_bytes, &metadata->string);
}

static Status read_scalar(Cursor *cursor, Metadata *metadata, ValueEncoding encoding) {
    const ValueType *type = value_type(encoding);
    TRY(cursor_need(cursor, type->bytes, type->name));
    if (!metadata_load_scalar(metadata, encoding, cursor_bytes(cursor)))
        CURSOR_FAIL(cursor, GGUF, "key \"%s\" is a bool other than 0 and 1", metadata->key);
    cursor->at += type->bytes;
    return STATUS_OK;
}

/* Keeps the value of a key that the format itself needs. */
static Status note_format_key(Cursor *cursor, const Metadata *metadata) {
    const struct {
        const char *key;
        uint64_t *value;
    } format_keys[] = {
        {"general.alignment", &cursor->alignment},
        {"split.count", &cursor->split_count},
        {"split.no", &cursor->split_index},
        {"split.tensors.count", &cursor->split_tensor_count},
    };
    for (size_t i = 0; i < sizeof format_keys / sizeof *format_keys; i++) {
        if (strcmp(metadata->key, format_keys[i].key) != 0) continue;
        if (metadata->type != METADATA_INTEGER || metadata->integer < 0)
            CURSOR_FAIL(cursor, GGUF, "key \"%s\" is no count", metadata->key);
        *format_keys[i].value = (uint64_t)metadata->integer;
    }
    return STATUS_OK;
}

static Status read_pair(Cursor *cursor) {
    Metadata metadata = {.key = NULL};
    ValueEncoding encoding = VALUE_U8;
    TRY(read_name(cursor, "a key", &metadata.key));
    TRY(read_encoding(cursor, metadata.key, &encoding));
    if (encoding == VALUE_ARRAY)
        TRY(read_array(cursor, &metadata));
    else if (encoding == VALUE_STRING)
        TRY(read_text_value(cursor, &metadata));
    else
        TRY(read_scalar(cursor, &metadata, encoding));
    TRY(note_format_key(cursor, &metadata));
    return cursor->keep_metadata ? weights_add_metadata(cursor->weights, &metadata) : STATUS_OK;
}

/* [slowest] … [fastest], where the file has the fastest first. */
static Status read_shape(Cursor *cursor, const char *name, Tensor *tensor) {
    TRY(read_u32(cursor, "a dimension count", &tensor->dim_count));
    if (tensor->dim_count == 0 || tensor->dim_count > TENSOR_DIMS_MAX)
        CURSOR_FAIL(cursor, GGUF_RANGE, "tensor \"%s\" has %" PRIu32 " dimensions, not 1 to %d",
                    name, tensor->dim_count, TENSOR_DIMS_MAX);
    for (uint32_t i = 0; i < TENSOR_DIMS_MAX; i++)
        tensor->shape[i] = 1;
    for (uint32_t i = tensor->dim_count; i-- > 0;) {
        TRY(read_u64(cursor, "a dimension", &tensor->shape[i]));
        if (tensor->shape[i] == 0)
            CURSOR_FAIL(cursor, GGUF_RANGE, "tensor \"%s\" has a dimension of zero", name);
    }
    return STATUS_OK;
}

static Status read_type(Cursor *cursor, NamedTensor *named) {
    uint32_t gguf_type = 0;
    TRY(read_u32(cursor, "a tensor type", &gguf_type));
    ForeignType type = {.name = NULL};
    const Quant *quant = quant_find_gguf(gguf_type);
    if (quant)
        type = (ForeignType){gguf_type, quant->name, quant->block_elements, quant->block_bytes};
    for (size_t i = 0; !quant && i < FOREIGN_TYPE_COUNT; i++)
        if (foreign_types[i].gguf_type == gguf_type) type = foreign_types[i];
    if (!type.name)
        CURSOR_FAIL(cursor, GGUF_RANGE, "tensor \"%s\" is of the unknown type %" PRIu32,
                    named->name, gguf_type);
    named->type_name = type.name;
    named->tensor.quant = quant;
    if (!weights_shape_bytes(&named->tensor, type.block_elements, type.block_bytes,
                             &named->tensor.bytes))
        CURSOR_FAIL(cursor, GGUF_RANGE,
                    "tensor \"%s\" is too large, or its rows of %" PRIu64
                    " elements are no whole blocks of %" PRIu32 " (%s)",
                    named->name, named->tensor.shape[named->tensor.dim_count - 1],
                    type.block_elements, type.name);
    return STATUS_OK;
}

/* file_offset is relative to the data until place_tensors. */
static Status read_tensor_row(Cursor *cursor) {
    NamedTensor named = {.file = cursor->file->path};
    TRY(read_name(cursor, "a tensor name", &named.name));
    TRY(read_shape(cursor, named.name, &named.tensor));
    TRY(read_type(cursor, &named));
    TRY(read_u64(cursor, "a tensor offset", &named.file_offset));
    return weights_add_tensor(cursor->weights, &named);
}

static Status check_overlap(const Weights *weights, size_t first) {
    const NamedTensor **order = NULL;
    TRY(weights_sort_by_offset(weights, first, &order));
    Status status = STATUS_OK;
    for (size_t i = 1; i < weights->tensor_count - first && status == STATUS_OK; i++) {
        const NamedTensor *before = order[i - 1], *after = order[i];
        if (after->file_offset - before->file_offset < before->tensor.bytes)
            status = error_raise(
                ERROR_GGUF_RANGE,
                "\"%s\" at byte %" PRIu64
                ": tensor \"%s\" begins inside tensor \"%s\"; fetch or convert the file again",
                after->file, after->file_offset, after->name, before->name);
    }
    free(order);
    return status;
}

static Status place_tensors(Cursor *cursor, size_t first) {
    Weights *weights = cursor->weights;
    if (!is_power_of_two(cursor->alignment) || cursor->alignment < ALIGNMENT_MIN ||
        cursor->alignment > ALIGNMENT_MAX)
        CURSOR_FAIL(cursor, GGUF_RANGE,
                    "general.alignment is %" PRIu64 ", not a power of two from %d to %d",
                    cursor->alignment, ALIGNMENT_MIN, ALIGNMENT_MAX);
    uint64_t data_start = align_up(cursor->at, cursor->alignment);
    uint64_t file_bytes = cursor->file->size_bytes;
    uint64_t data_bytes = file_bytes > data_start ? file_bytes - data_start : 0;
    for (size_t i = first; i < weights->tensor_count; i++) {
        NamedTensor *named = &weights->tensors[i];
        uint64_t offset = named->file_offset;
        if (offset % cursor->alignment != 0)
            CURSOR_FAIL(cursor, GGUF_RANGE,
                        "tensor \"%s\" has the offset %" PRIu64 ", no multiple of %" PRIu64,
                        named->name, offset, cursor->alignment);
        if (offset > data_bytes || named->tensor.bytes > data_bytes - offset)
            CURSOR_FAIL(cursor, GGUF_RANGE,
                        "tensor \"%s\" takes %" PRIu64 " bytes from %" PRIu64 " + %" PRIu64
                        " on, but the file ends at byte %" PRIu64,
                        named->name, named->tensor.bytes, data_start, offset, file_bytes);
        named->file_offset = data_start + offset;
        named->tensor.data = cursor->file->bytes + named->file_offset;
    }
    return check_overlap(weights, first);
}

static Status read_version(Cursor *cursor) {
    TRY(cursor_need(cursor, MAGIC_BYTES, "the magic"));
    if (memcmp(cursor_bytes(cursor), magic, MAGIC_BYTES) != 0)
        CURSOR_FAIL(cursor, GGUF, "not a GGUF file");
    cursor->at += MAGIC_BYTES;
    uint32_t version = 0;
    TRY(read_u32(cursor, "the version", &version));
    if (version >= VERSION_MIN && version <= VERSION_MAX) return STATUS_OK;
    cursor->at -= sizeof version;
    if (version != 0 && (version & 0xffff) == 0)
        CURSOR_FAIL(cursor, GGUF, "a big-endian GGUF file, which is not supported");
    CURSOR_FAIL(cursor, GGUF, "GGUF version %" PRIu32 ", supported are %d and %d", version,
                VERSION_MIN, VERSION_MAX);
}

static Status read_count(Cursor *cursor, const char *what, uint64_t limit, uint64_t *out) {
    TRY(read_u64(cursor, what, out));
    if (*out <= limit) return STATUS_OK;
    cursor->at -= sizeof *out;
    CURSOR_FAIL(cursor, GGUF_RANGE, "%s is %" PRIu64 ", the limit is %" PRIu64, what, *out, limit);
}

/* Maps one file and adds its tensors, and its metadata where *cursor says so. */
static Status read_shard(Cursor *cursor, const char *path) {
    TRY(weights_map_file(cursor->weights, path, &cursor->file));
    uint64_t file_bytes = cursor->file->size_bytes;
    cursor->end = file_bytes < HEADER_BYTES_MAX ? file_bytes : HEADER_BYTES_MAX;
    cursor->alignment = ALIGNMENT_DEFAULT;
    uint64_t tensor_count = 0, pair_count = 0;
    size_t first = cursor->weights->tensor_count;
    TRY(read_version(cursor));
    TRY(read_count(cursor, "the tensor count", FILE_TENSORS_MAX, &tensor_count));
    TRY(read_count(cursor, "the key count", METADATA_MAX, &pair_count));
    for (uint64_t i = 0; i < pair_count; i++)
        TRY(read_pair(cursor));
    for (uint64_t i = 0; i < tensor_count; i++)
        TRY(read_tensor_row(cursor));
    weights_digest(cursor->weights, cursor->file->bytes, cursor->at);
    return place_tensors(cursor, first);
}

/* ---- split files: name-00001-of-00003.gguf, metadata in the first, split.no counted from zero ---- */

enum { SUFFIX_BYTES_MAX = 64 };

static size_t format_suffix(char out[SUFFIX_BYTES_MAX], uint64_t number, uint64_t count) {
    return (size_t)snprintf(out, SUFFIX_BYTES_MAX, "-%05" PRIu64 "-of-%05" PRIu64 ".gguf", number,
                            count);
}

/* path: that of the first shard, rewritten in place */
static Status read_other_shard(const Cursor *first, char *path, uint64_t index) {
    char suffix[SUFFIX_BYTES_MAX];
    size_t suffix_bytes = format_suffix(suffix, index + 1, first->split_count);
    memcpy(path + strlen(path) - suffix_bytes, suffix, suffix_bytes);
    Cursor cursor = {.weights = first->weights};
    TRY(read_shard(&cursor, path));
    if (cursor.split_index != index || cursor.split_count != first->split_count)
        CURSOR_FAIL(&cursor, GGUF,
                    "the file says shard %" PRIu64 " of %" PRIu64 ", its name says %" PRIu64
                    " of %" PRIu64,
                    cursor.split_index + 1, cursor.split_count, index + 1, first->split_count);
    return STATUS_OK;
}

static Status read_other_shards(const Cursor *first) {
    const char *first_path = first->file->path;
    size_t path_bytes = strlen(first_path);
    char suffix[SUFFIX_BYTES_MAX];
    if (first->split_count > SHARDS_MAX)
        CURSOR_FAIL(first, GGUF_RANGE, "split.count is %" PRIu64 ", the limit is %d",
                    first->split_count, SHARDS_MAX);
    size_t suffix_bytes = format_suffix(suffix, 1, first->split_count);
    if (first->split_index != 0 || path_bytes < suffix_bytes ||
        strcmp(first_path + path_bytes - suffix_bytes, suffix) != 0)
        FAIL(GGUF,
             "\"%s\" is shard %" PRIu64 " of %" PRIu64
             " of a split model; give the first one, named …%s, with the others beside it",
             first_path, first->split_index + 1, first->split_count, suffix);
    void *path = NULL;
    TRY(weights_take(first->weights, path_bytes + 1, &path));
    memcpy(path, first_path, path_bytes);
    for (uint64_t i = 1; i < first->split_count; i++)
        TRY(read_other_shard(first, path, i));
    if (first->split_tensor_count && first->split_tensor_count != first->weights->tensor_count)
        FAIL(GGUF,
             "\"%s\": split.tensors.count is %" PRIu64 " but the %" PRIu64
             " shards hold %zu tensors; fetch or convert them again",
             first_path, first->split_tensor_count, first->split_count,
             first->weights->tensor_count);
    return STATUS_OK;
}

static Status open_gguf(Weights *weights, const char *path) {
    Cursor cursor = {.weights = weights, .keep_metadata = true};
    TRY(read_shard(&cursor, path));
    return cursor.split_count > 1 ? read_other_shards(&cursor) : STATUS_OK;
}

static bool recognises_gguf(const char *path) {
    char start[MAGIC_BYTES];
    return weights_file_start(path, start, MAGIC_BYTES) == MAGIC_BYTES &&
           memcmp(start, magic, MAGIC_BYTES) == 0;
}

const WeightsFormat weights_format_gguf = {
    .name = "gguf",
    .naming = WEIGHTS_NAMING_GGUF,
    .malformed = ERROR_GGUF,
    .malformed_metadata = ERROR_GGUF,
    .recognises = recognises_gguf,
    .open = open_gguf,
};
