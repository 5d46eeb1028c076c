#ifndef LAUNCH_LINE_READER_H
#define LAUNCH_LINE_READER_H

/* Lines of a file, one after the other, in bounded memory: a line longer than the limit is skipped and says so.
 * One thread. */

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct Line {
    const char *text; /* without the line feed; valid until the next call; not NUL ended */
    size_t bytes;
    uint64_t number; /* from 1 */
    uint64_t offset; /* of its first byte in the file */
    bool ended;      /* with a line feed; false only for the last line of a file */
    bool too_long;   /* longer than the limit: text is empty */
} Line;

typedef struct LineReader {
    int descriptor;   /* borrowed; its offset is not used */
    const char *path; /* borrowed, for messages */
    size_t line_bytes_max;
    char *buffer; /* owned; [capacity], grows up to the limit */
    size_t capacity, begin, end;
    uint64_t offset; /* of buffer[begin] in the file */
    uint64_t number; /* of the line given last */
} LineReader;

Status line_reader_open(LineReader *out, int descriptor, const char *path, size_t line_bytes_max);
void line_reader_close(LineReader *reader); /* takes a zeroed reader; leaves the descriptor open */

/* *out_end: there was no line any more, and *out is not set. E-FILE-MISSING when reading fails. */
Status line_reader_next(LineReader *reader, Line *out, bool *out_end);

SPILLWAY_EXTERN_C_END

#endif
