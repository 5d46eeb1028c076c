#ifndef LAUNCH_PACKED_WRITER_H
#define LAUNCH_PACKED_WRITER_H

/* Makes a file of packed weights (runtime/weights/packed_file.h): matrix by matrix under a name of its own, path.partial, which becomes
 * path when all of it is on the disk. So nothing half-written is ever found under path, whatever ends the process. Memory is what
 * the directory takes: 32 bytes a matrix, 8 bytes a chunk of 1 MiB. One thread. */

#include "runtime/weights/packed_file.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct PackedWriter {
    int descriptor;
    const char *path; /* borrowed */
    char *partial;    /* NULL: closed */
    PackedHeader header;
    PackedEntry *entries; /* [entry_capacity] */
    uint64_t *checksums;  /* [chunk_capacity] */
    uint64_t entry_capacity, chunk_capacity;
    uint64_t offset; /* of the next matrix */
} PackedWriter;

/* Of the header only layout, rank_count and fingerprint are asked for. E-OUTPUT-CREATE. */
Status packed_writer_create(PackedWriter *out, const char *path, const PackedHeader *facts);
/* A PackedSink's add: user is the PackedWriter. E-OUTPUT-WRITE, E-STOPPED when a stop was asked for. */
Status packed_writer_add(void *user, const PackedEntry *entry, const void *bytes);
/* Syncs, and gives the file its name. */
Status packed_writer_finish(PackedWriter *writer);
void packed_writer_discard(PackedWriter *writer); /* nothing is left; takes one that is finished */

SPILLWAY_EXTERN_C_END

#endif
