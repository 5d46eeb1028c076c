#ifndef LAUNCH_NPY_H
#define LAUNCH_NPY_H

/* NumPy's array file (format 1.0): float32, little endian, C order, [row_count][column_count]; rows may come in any
 * order. The file appears under its name only when it is complete. One thread. */

#include <stdint.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct NpyFile {
    int descriptor;
    const char *path; /* borrowed */
    char *partial;    /* owned: name while it is written */
    uint64_t row_count, column_count;
} NpyFile;

Status npy_create(NpyFile *out, const char *path, uint64_t row_count, uint64_t column_count);
Status npy_write_row(NpyFile *file, uint64_t row, const float *values); /* [column_count] */
/* Gives the file its name; closes it also on error. */
Status npy_finish(NpyFile *file);
/* Gives up: removes what was written. After npy_finish it does nothing. */
void npy_discard(NpyFile *file);

SPILLWAY_EXTERN_C_END

#endif
