#ifndef LAUNCH_LOGIT_FILE_H
#define LAUNCH_LOGIT_FILE_H

/* Logits of one run, kept for the next run of the same process to compare with: rows of float32 in a file without a name, its
 * space taken at once, written and read in any order. It ends with the process. One thread. */

#include <stdint.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct LogitFile {
    int descriptor;
    const char *directory; /* borrowed, for messages */
    uint64_t row_bytes;
} LogitFile;

/* E-OUTPUT-CREATE, E-OUTPUT-WRITE when the disk has no room. */
Status logit_file_open(LogitFile *out, const char *directory, uint64_t row_count,
                       uint64_t column_count);
Status logit_file_write(const LogitFile *file, uint64_t row, const float *logits);
Status logit_file_read(const LogitFile *file, uint64_t row, float *out_logits);
void logit_file_close(LogitFile *file); /* twice is allowed */

SPILLWAY_EXTERN_C_END

#endif
