#include "launch/durable_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/arena.h"

/* Writes all of it; *out_written says how far it came. */
static int write_all(int descriptor, const char *bytes, size_t size, size_t *out_written) {
    *out_written = 0;
    while (*out_written < size) {
        ssize_t written = write(descriptor, bytes + *out_written, size - *out_written);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return written < 0 ? errno : ENOSPC;
        *out_written += (size_t)written;
    }
    return 0;
}

Status durable_folder_sync(const char *path_in_folder) {
    char *folder;
    size_t bytes = strlen(path_in_folder) + 2;
    TRY(memory_take((void **)&folder, 1, bytes, "a file name"));
    memcpy(folder, path_in_folder, bytes - 1);
    char *slash = strrchr(folder, '/');
    if (!slash)
        memcpy(folder, ".", 2);
    else
        slash[slash == folder] = 0;
    int descriptor = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int cause = descriptor < 0 ? errno : 0;
    /* Some file systems cannot sync a folder and say EINVAL: then there is nothing to wait for. */
    if (descriptor >= 0 && fsync(descriptor) != 0 && errno != EINVAL) cause = errno;
    if (descriptor >= 0) close(descriptor);
    Status status = STATUS_OK;
    if (cause != 0)
        status =
            error_raise(ERROR_OUTPUT_WRITE, "sync of folder \"%s\": %s", folder, strerror(cause));
    free(folder);
    return status;
}

Status durable_partial_open(const char *path, char **out_partial, int *out_descriptor) {
    char *partial;
    size_t bytes = strlen(path) + sizeof ".partial";
    TRY(memory_take((void **)&partial, 1, bytes, "a file name"));
    snprintf(partial, bytes, "%s.partial", path);
    int descriptor = open(partial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (descriptor < 0) {
        Status status =
            error_raise(ERROR_OUTPUT_CREATE, "\"%s\": %s; see --output", path, strerror(errno));
        free(partial);
        return status;
    }
    *out_partial = partial;
    *out_descriptor = descriptor;
    return STATUS_OK;
}

Status durable_write_at(int descriptor, const char *path, const void *bytes, size_t size,
                        uint64_t offset) {
    const char *from = bytes;
    while (size > 0) {
        ssize_t written = pwrite(descriptor, from, size, (off_t)offset);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0)
            FAIL(OUTPUT_WRITE, "\"%s\": %s at offset %" PRIu64, path,
                 written < 0 ? strerror(errno) : "nothing written", offset);
        from += written;
        offset += (uint64_t)written;
        size -= (size_t)written;
    }
    return STATUS_OK;
}

static int write_new(const char *path, const void *bytes, size_t size) {
    int descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (descriptor < 0) return errno;
    size_t written;
    int cause = write_all(descriptor, bytes, size, &written);
    if (cause == 0 && fsync(descriptor) != 0) cause = errno;
    if (close(descriptor) != 0 && cause == 0) cause = errno;
    return cause;
}

Status durable_file_replace(const char *path, const void *bytes, size_t size) {
    char *fresh;
    size_t name_bytes = strlen(path) + sizeof ".new";
    TRY(memory_take((void **)&fresh, 1, name_bytes, "a file name"));
    snprintf(fresh, name_bytes, "%s.new", path);
    int cause = write_new(fresh, bytes, size);
    if (cause == 0 && rename(fresh, path) != 0) cause = errno;
    if (cause != 0) unlink(fresh);
    free(fresh);
    if (cause != 0) FAIL(OUTPUT_WRITE, "\"%s\": %s", path, strerror(cause));
    return durable_folder_sync(path);
}

Status durable_log_open(DurableLog *out, const char *path) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int descriptor = open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (descriptor < 0) FAIL(OUTPUT_CREATE, "\"%s\": %s", path, strerror(errno));
    if (fcntl(descriptor, F_OFD_SETLK, &lock) != 0) {
        int cause = errno;
        close(descriptor);
        if (cause == EAGAIN || cause == EACCES) return STATUS_AGAIN;
        FAIL(OUTPUT_CREATE, "lock of \"%s\": %s", path, strerror(cause));
    }
    *out = (DurableLog){.descriptor = descriptor, .path = path};
    return STATUS_OK;
}

Status durable_log_cut(DurableLog *log, uint64_t bytes, uint64_t lines) {
    if (ftruncate(log->descriptor, (off_t)bytes) != 0)
        FAIL(OUTPUT_WRITE, "cut of \"%s\" to %" PRIu64 " bytes: %s", log->path, bytes,
             strerror(errno));
    log->bytes = bytes;
    log->lines = lines;
    return STATUS_OK;
}

Status durable_log_add(DurableLog *log, const char *line, size_t line_bytes) {
    size_t written;
    int cause = write_all(log->descriptor, line, line_bytes, &written);
    if (cause == 0) {
        log->bytes += line_bytes;
        log->lines++;
        log->unsynced_lines++;
        return STATUS_OK;
    }
    bool cut = written == 0 || ftruncate(log->descriptor, (off_t)log->bytes) == 0;
    FAIL(OUTPUT_WRITE,
         "\"%s\": wrote %zu of %zu bytes: %s; its first %" PRIu64 " lines are safe%s; free some "
         "space and run the same command again",
         log->path, written, line_bytes, strerror(cause), log->lines,
         cut ? "" : ", the torn one behind them is redone");
}

Status durable_log_sync(DurableLog *log) {
    if (log->unsynced_lines == 0) return STATUS_OK;
    if (fdatasync(log->descriptor) != 0)
        FAIL(OUTPUT_WRITE, "sync of \"%s\": %s; its last %u lines may be lost: run again",
             log->path, strerror(errno), log->unsynced_lines);
    log->unsynced_lines = 0;
    if (!log->folder_synced) TRY(durable_folder_sync(log->path));
    log->folder_synced = true;
    return STATUS_OK;
}

void durable_log_close(DurableLog *log) {
    if (log->descriptor >= 0) close(log->descriptor);
    log->descriptor = -1;
}
