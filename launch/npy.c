#include "launch/npy.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/arena.h"

enum { NPY_HEADER_BYTES = 128 };

static Status write_at(const NpyFile *file, const void *bytes, size_t size, uint64_t offset) {
    const char *from = bytes;
    while (size > 0) {
        ssize_t written = pwrite(file->descriptor, from, size, (off_t)offset);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0)
            FAIL(OUTPUT_WRITE, "\"%s\": %s at offset %" PRIu64, file->partial,
                 written < 0 ? strerror(errno) : "nothing written", offset);
        from += written;
        offset += (uint64_t)written;
        size -= (size_t)written;
    }
    return STATUS_OK;
}

/* Magic, version 1.0, length, and a Python literal padded with blanks up to a line end. */
static Status write_header(const NpyFile *file) {
    char header[NPY_HEADER_BYTES + 1];
    int used = snprintf(header, sizeof header,
                        "\x93NUMPY%c%c%c%c{'descr': '<f4', 'fortran_order': False, 'shape': "
                        "(%" PRIu64 ", %" PRIu64 "), }",
                        1, 0, NPY_HEADER_BYTES - 10, 0, file->row_count, file->column_count);
    memset(header + used, ' ', NPY_HEADER_BYTES - (size_t)used);
    header[NPY_HEADER_BYTES - 1] = '\n';
    return write_at(file, header, NPY_HEADER_BYTES, 0);
}

Status npy_create(NpyFile *out, const char *path, uint64_t row_count, uint64_t column_count) {
    NpyFile file = {-1, path, NULL, row_count, column_count};
    size_t bytes = strlen(path) + sizeof ".partial";
    TRY(memory_take((void **)&file.partial, 1, bytes, "a file name"));
    snprintf(file.partial, bytes, "%s.partial", path);
    file.descriptor = open(file.partial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (file.descriptor < 0) {
        Status status =
            error_raise(ERROR_OUTPUT_CREATE, "\"%s\": %s; see --output", path, strerror(errno));
        free(file.partial);
        return status;
    }
    *out = file;
    Status status = write_header(out);
    if (status != STATUS_OK) npy_discard(out);
    return status;
}

Status npy_write_row(NpyFile *file, uint64_t row, const float *values) {
    uint64_t bytes = file->column_count * sizeof *values;
    return write_at(file, values, bytes, NPY_HEADER_BYTES + row * bytes);
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
