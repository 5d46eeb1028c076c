#ifndef LAUNCH_NPY_H
#define LAUNCH_NPY_H

/* NumPy's array file (format 1.0): float32, little endian, C order. Written row by row, a row being one index of the first
 * dimension, in any order; the file appears under its name only when it is complete. Read whole, in formats 1 to 3. One
 * thread. */

#include <stdint.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

enum { NPY_DIMS_MAX = 4 };

typedef struct NpyShape {
    uint32_t dim_count;
    uint64_t dims[NPY_DIMS_MAX];
} NpyShape;

typedef struct NpyFile {
    int descriptor;
    const char *path; /* borrowed */
    char *partial;    /* owned: name while it is written */
    uint64_t row_count, column_count;
} NpyFile;

Status npy_create(NpyFile *out, const char *path, const NpyShape *shape);
Status npy_write_row(NpyFile *file, uint64_t row, const float *values); /* [column_count] */
/* Gives the file its name; closes it also on error. */
Status npy_finish(NpyFile *file);
/* Gives up: removes what was written. After npy_finish it does nothing. */
void npy_discard(NpyFile *file);

typedef struct NpyArray {
    NpyShape shape;
    float *numbers; /* owned: free() */
} NpyArray;

/* float32, little endian, C order, 1 to NPY_DIMS_MAX dimensions, none of them 0; anything else is E-NPY. */
Status npy_read(NpyArray *out, const char *path);
Status npy_write(const NpyArray *array, const char *path);

SPILLWAY_EXTERN_C_END

#endif
