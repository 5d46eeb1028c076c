#include "launch/logit_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/bytes.h"

/* Descriptor of a new file without a name, or -1 with errno. */
static int create_nameless(const char *directory) {
    int descriptor = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (descriptor >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL))
        return descriptor;
    char path[4096];
    int used = snprintf(path, sizeof path, "%s/.logits.XXXXXX", directory);
    if (used < 0 || (size_t)used >= sizeof path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    descriptor = mkostemp(path, O_CLOEXEC);
    if (descriptor >= 0) unlink(path);
    return descriptor;
}

Status logit_file_open(LogitFile *out, const char *directory, uint64_t row_count,
                       uint64_t column_count) {
    uint64_t row_bytes = column_count * sizeof(float), bytes;
    if (!bytes_multiply(row_count, row_bytes, &bytes) || bytes > INT64_MAX)
        FAIL(OUTPUT_WRITE, "%" PRIu64 " rows of logits are too many; see --windows", row_count);
    int descriptor = create_nameless(directory);
    if (descriptor < 0)
        FAIL(OUTPUT_CREATE, "a file for the logits in \"%s\": %s; see --dir", directory,
             strerror(errno));
    int failed = posix_fallocate(descriptor, 0, (off_t)bytes);
    if (failed != 0) {
        close(descriptor);
        FAIL(OUTPUT_WRITE,
             "the logits of %" PRIu64 " tokens need %" PRIu64
             " bytes in \"%s\": %s; see --dir and --windows",
             row_count, bytes, directory, strerror(failed));
    }
    *out = (LogitFile){descriptor, directory, row_bytes};
    return STATUS_OK;
}

/* One transfer may do less than it was asked for: `done` of the row's bytes are through. */
static Status settle(const LogitFile *file, ssize_t moved, uint64_t *done) {
    if (moved < 0 && errno == EINTR) return STATUS_OK;
    if (moved <= 0)
        FAIL(OUTPUT_WRITE, "the file of logits in \"%s\": %s", file->directory,
             moved < 0 ? strerror(errno) : "it is shorter than it was made");
    *done += (uint64_t)moved;
    return STATUS_OK;
}

Status logit_file_write(const LogitFile *file, uint64_t row, const float *logits) {
    for (uint64_t done = 0; done < file->row_bytes;)
        TRY(settle(file,
                   pwrite(file->descriptor, (const char *)logits + done, file->row_bytes - done,
                          (off_t)(row * file->row_bytes + done)),
                   &done));
    return STATUS_OK;
}

Status logit_file_read(const LogitFile *file, uint64_t row, float *out_logits) {
    for (uint64_t done = 0; done < file->row_bytes;)
        TRY(settle(file,
                   pread(file->descriptor, (char *)out_logits + done, file->row_bytes - done,
                         (off_t)(row * file->row_bytes + done)),
                   &done));
    return STATUS_OK;
}

void logit_file_close(LogitFile *file) {
    if (file->descriptor >= 0) close(file->descriptor);
    file->descriptor = -1;
}
