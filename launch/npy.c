#include "launch/npy.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "launch/durable_file.h"
#include "launch/whole_file.h"
#include "runtime/base/arena.h"
#include "runtime/base/bytes.h"

enum { NPY_HEADER_BYTES = 128, NPY_MAGIC_BYTES = 6 };

#define NPY_FILE_BYTES_MAX (8ull << 30)

/* Magic, version 1.0, length, and a Python literal padded with blanks up to a line end. */
static Status write_header(const NpyFile *file, const NpyShape *shape) {
    char header[NPY_HEADER_BYTES + 1];
    int used = snprintf(header, sizeof header,
                        "\x93NUMPY%c%c%c%c{'descr': '<f4', 'fortran_order': False, 'shape': (", 1,
                        0, NPY_HEADER_BYTES - 10, 0);
    for (uint32_t i = 0; i < shape->dim_count; i++)
        used += snprintf(header + used, sizeof header - (size_t)used, "%s%" PRIu64, i ? ", " : "",
                         shape->dims[i]);
    used += snprintf(header + used, sizeof header - (size_t)used, "%s), }",
                     shape->dim_count == 1 ? "," : "");
    memset(header + used, ' ', NPY_HEADER_BYTES - (size_t)used);
    header[NPY_HEADER_BYTES - 1] = '\n';
    return durable_write_at(file->descriptor, file->partial, header, NPY_HEADER_BYTES, 0);
}

Status npy_create(NpyFile *out, const char *path, const NpyShape *shape) {
    NpyFile file = {-1, path, NULL, shape->dims[0], 1};
    for (uint32_t i = 1; i < shape->dim_count; i++)
        file.column_count *= shape->dims[i];
    TRY(durable_partial_open(path, &file.partial, &file.descriptor));
    *out = file;
    Status status = write_header(out, shape);
    if (status != STATUS_OK) npy_discard(out);
    return status;
}

Status npy_write_row(NpyFile *file, uint64_t row, const float *values) {
    uint64_t bytes = file->column_count * sizeof *values;
    return durable_write_at(file->descriptor, file->partial, values, bytes,
                            NPY_HEADER_BYTES + row * bytes);
}

Status npy_finish(NpyFile *file) {
    Status status = STATUS_OK;
    if (close(file->descriptor) != 0 || rename(file->partial, file->path) != 0)
        status = error_raise(ERROR_OUTPUT_WRITE, "\"%s\": %s", file->path, strerror(errno));
    free(file->partial);
    *file = (NpyFile){.descriptor = -1};
    return status;
}

void npy_discard(NpyFile *file) {
    if (!file->partial) return;
    close(file->descriptor);
    unlink(file->partial);
    free(file->partial);
    *file = (NpyFile){.descriptor = -1};
}

/* ---- reading */

/* What stands behind `'key':` in the header; NULL when the key is not there. */
static const char *value_of(const char *header, const char *key) {
    const char *at = strstr(header, key);
    if (!at) return NULL;
    at += strlen(key);
    return at + strspn(at, ": ");
}

static bool read_dims(const char *text, NpyShape *out) {
    if (!text || *text++ != '(') return false;
    for (out->dim_count = 0; *text != ')'; out->dim_count++) {
        char *end;
        if (out->dim_count == NPY_DIMS_MAX || *text < '0' || *text > '9') return false;
        errno = 0;
        out->dims[out->dim_count] = strtoull(text, &end, 10);
        if (errno || out->dims[out->dim_count] == 0) return false;
        text = end + strspn(end, ", ");
    }
    return out->dim_count > 0;
}

/* NULL, or what is wrong. *out_begin: where the numbers are. */
static const char *read_header(char *bytes, size_t size, NpyShape *out, size_t *out_begin) {
    const char *magic = "\x93NUMPY";
    if (size < NPY_MAGIC_BYTES + 6 || memcmp(bytes, magic, NPY_MAGIC_BYTES) != 0)
        return "it does not begin as a NumPy array does";
    bool short_length = bytes[NPY_MAGIC_BYTES] == 1;
    size_t begin = NPY_MAGIC_BYTES + 2 + (short_length ? 2 : 4);
    size_t length = short_length ? load_u16(bytes + NPY_MAGIC_BYTES + 2)
                                 : load_u32(bytes + NPY_MAGIC_BYTES + 2);
    if (length == 0 || length > size - begin) return "its header is cut off";
    bytes[begin + length - 1] = 0; /* the line end */
    const char *header = bytes + begin;
    const char *type = value_of(header, "'descr'"), *order = value_of(header, "'fortran_order'");
    if (!type || strncmp(type, "'<f4'", 5) != 0) return "its numbers are not float32 ('<f4')";
    if (!order || strncmp(order, "False", 5) != 0) return "it is not in C order";
    if (!read_dims(value_of(header, "'shape'"), out))
        return "its shape is not one to four dimensions, none of them 0";
    *out_begin = begin + length;
    return NULL;
}

static bool size_fits(const NpyShape *shape, uint64_t bytes) {
    uint64_t needed = sizeof(float);
    for (uint32_t i = 0; i < shape->dim_count; i++)
        if (!bytes_multiply(needed, shape->dims[i], &needed)) return false;
    return needed == bytes;
}

Status npy_read(NpyArray *out, const char *path) {
    char *bytes;
    size_t size, begin = 0;
    NpyArray array = {.numbers = NULL};
    TRY(whole_file_read(path, NPY_FILE_BYTES_MAX, &bytes, &size));
    const char *wrong = read_header(bytes, size, &array.shape, &begin);
    if (!wrong && !size_fits(&array.shape, size - begin))
        wrong = "it has not as many bytes as its shape says";
    Status status = STATUS_OK;
    if (wrong) status = error_raise(ERROR_NPY, "\"%s\": %s", path, wrong);
    if (status == STATUS_OK)
        status = memory_take((void **)&array.numbers, size - begin, 1, "an array file");
    if (status == STATUS_OK) {
        memcpy(array.numbers, bytes + begin, size - begin);
        *out = array;
    }
    free(bytes);
    return status;
}

Status npy_write(const NpyArray *array, const char *path) {
    NpyFile file;
    TRY(npy_create(&file, path, &array->shape));
    Status status = STATUS_OK;
    for (uint64_t row = 0; row < file.row_count && status == STATUS_OK; row++)
        status = npy_write_row(&file, row, array->numbers + row * file.column_count);
    if (status == STATUS_OK) return npy_finish(&file);
    npy_discard(&file);
    return status;
}
