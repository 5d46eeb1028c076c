#ifndef LAUNCH_BENCH_DISK_H
#define LAUNCH_BENCH_DISK_H

/* What the disk below the engine's KV gives by itself: a ring of the same kind and depth reads files of its own in the same folders, in
 * transfers of one block. In turns, so that they can lie around what they are compared with. Rank 0. */

#include "launch/bench_io.h"
#include "launch/session.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct BenchDisk BenchDisk;

/* Writes the files: 512 MiB over all --kv-nvme-dir. */
Status bench_disk_open(BenchDisk **out, const Session *session);
void bench_disk_close(BenchDisk *disk); /* takes NULL */

/* So many turns more, BENCH_IO_TURNS in all at most. NULL: nothing to do. */
Status bench_disk_measure(BenchDisk *disk, uint32_t turn_count);
/* The median of all turns; 0 for NULL and without turns. */
double bench_disk_bytes_per_second(const BenchDisk *disk);

SPILLWAY_EXTERN_C_END

#endif
