#ifndef LAUNCH_DURABLE_FILE_H
#define LAUNCH_DURABLE_FILE_H

/* Files that must survive a crash: whole lines appended and synced, small files replaced as a whole, and files that are
 * written under another name. All errors are final for the job: E-OUTPUT-WRITE, with what is safe. One thread. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

/* Writes path.new, syncs it, renames it to path and syncs the folder. */
Status durable_file_replace(const char *path, const void *bytes, size_t size);

/* path.partial, empty, for a file that takes its name when it is whole; *out_partial is that name, to be freed. E-OUTPUT-CREATE. */
Status durable_partial_open(const char *path, char **out_partial, int *out_descriptor);

/* All of it at an offset; path is for the error. */
Status durable_write_at(int descriptor, const char *path, const void *bytes, size_t size,
                        uint64_t offset);

Status durable_folder_sync(const char *path_in_folder);

typedef struct DurableLog {
    int descriptor;        /* -1: closed */
    const char *path;      /* borrowed */
    uint64_t bytes, lines; /* whole lines in the file */
    uint32_t unsynced_lines;
    bool folder_synced;
} DurableLog;

/* Opens for append, creates it 0600, and takes a lock on it that lasts as long as the descriptor.
 * STATUS_AGAIN, not logged, when another process holds the lock. */
Status durable_log_open(DurableLog *out, const char *path);
/* Cuts the file to its first `bytes`, which hold `lines` whole lines. */
Status durable_log_cut(DurableLog *log, uint64_t bytes, uint64_t lines);
/* One line, with its line feed: one write, and more only where the system wrote less. What a failed write left is cut off
 * again where that works. */
Status durable_log_add(DurableLog *log, const char *line, size_t line_bytes);
Status durable_log_sync(DurableLog *log);
void durable_log_close(DurableLog *log); /* does not sync; takes one that is closed */

SPILLWAY_EXTERN_C_END

#endif
