#include "launch/line_reader.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/arena.h"

enum { FIRST_CAPACITY = 1 << 16 };

Status line_reader_open(LineReader *out, int descriptor, const char *path, size_t line_bytes_max) {
    *out = (LineReader){.descriptor = descriptor, .path = path, .line_bytes_max = line_bytes_max};
    TRY(memory_take((void **)&out->buffer, 1, FIRST_CAPACITY, "lines of a file"));
    out->capacity = FIRST_CAPACITY;
    return STATUS_OK;
}

void line_reader_close(LineReader *reader) {
    free(reader->buffer);
    *reader = (LineReader){.descriptor = -1};
}

/* Room behind `end`: moves what is unread to the front, else doubles the buffer. */
static Status make_room(LineReader *reader) {
    size_t unread = reader->end - reader->begin;
    if (reader->begin > 0) {
        memmove(reader->buffer, reader->buffer + reader->begin, unread);
        reader->begin = 0;
        reader->end = unread;
    }
    if (unread < reader->capacity) return STATUS_OK;
    char *larger = realloc(reader->buffer, reader->capacity * 2);
    if (!larger) FAIL(MEMORY, "\"%s\": no memory for a line of %zu bytes", reader->path, unread);
    reader->buffer = larger;
    reader->capacity *= 2;
    return STATUS_OK;
}

/* *out_bytes 0 at the end of the file. */
static Status read_more(LineReader *reader, size_t *out_bytes) {
    TRY(make_room(reader));
    ssize_t got;
    do {
        got =
            pread(reader->descriptor, reader->buffer + reader->end, reader->capacity - reader->end,
                  (off_t)(reader->offset + (reader->end - reader->begin)));
    } while (got < 0 && errno == EINTR);
    if (got < 0) FAIL(FILE_MISSING, "\"%s\": %s", reader->path, strerror(errno));
    reader->end += (size_t)got;
    *out_bytes = (size_t)got;
    return STATUS_OK;
}

static void drop(LineReader *reader, size_t bytes) {
    reader->begin += bytes;
    reader->offset += bytes;
}

/* Bytes up to the line feed, or up to the end of the file; *out_ended tells which. Lines over the limit are dropped piece
 * by piece, and then *out_bytes is what is left of them. */
static Status find_end(LineReader *reader, size_t *out_bytes, bool *out_ended, bool *out_long) {
    size_t searched = 0, got = 1;
    *out_long = *out_ended = false;
    for (;;) {
        const char *start = reader->buffer + reader->begin;
        size_t unread = reader->end - reader->begin;
        const char *feed = memchr(start + searched, '\n', unread - searched);
        *out_bytes = feed ? (size_t)(feed - start) : unread;
        *out_ended = feed != NULL;
        *out_long |= *out_bytes > reader->line_bytes_max;
        if (feed || got == 0) return STATUS_OK;
        searched = unread;
        if (*out_long) {
            drop(reader, unread);
            searched = 0;
        }
        TRY(read_more(reader, &got));
    }
}

Status line_reader_next(LineReader *reader, Line *out, bool *out_end) {
    uint64_t offset = reader->offset;
    size_t bytes;
    bool ended, too_long;
    TRY(find_end(reader, &bytes, &ended, &too_long));
    *out_end = bytes == 0 && !ended && reader->offset == offset;
    if (*out_end) return STATUS_OK;
    *out = (Line){
        .text = reader->buffer + reader->begin,
        .bytes = too_long ? 0 : bytes,
        .number = ++reader->number,
        .offset = offset,
        .ended = ended,
        .too_long = too_long,
    };
    drop(reader, bytes + ended);
    return STATUS_OK;
}
