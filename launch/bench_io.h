#ifndef LAUNCH_BENCH_IO_H
#define LAUNCH_BENCH_IO_H

/* Times of the I/O ring on a spill file, and of fio on the very same file. Whatever is compared is measured in short turns
 * that follow each other, so that a machine whose speed wanders does so for all. One thread. */

#include "kernels/device.h"
#include "tiers/ring.h"
#include "tiers/spill_file.h"

SPILLWAY_EXTERN_C_BEGIN

enum { BENCH_IO_TURNS = 5 };

typedef struct BenchIoLoad {
    RingKind kind;
    uint32_t transfer_bytes, depth;
    double seconds;  /* of one turn */
    uint32_t rounds; /* of memory for `depth` transfers that they go round in; 0: one */
    bool checked;    /* what was read is, as the mover does */
} BenchIoLoad;

/* One way to do it, in one direction: its turns so far. */
typedef struct BenchIoTimes {
    uint32_t turns;
    double bytes_per_second[BENCH_IO_TURNS];
    double cpu_seconds_per_byte[BENCH_IO_TURNS]; /* of the process and its threads */
    double latency_p50[BENCH_IO_TURNS],
        latency_p99[BENCH_IO_TURNS]; /* seconds, of transfers in the turn */
} BenchIoTimes;

/* Where a turn works: memory for transfers, page aligned, and what is counted. */
typedef struct BenchIoArea {
    Device *device;
    uint8_t *staging; /* [rounds][depth][transfer_bytes], random bytes */
    uint64_t staging_bytes;
    uint64_t *started; /* [depth] ns */
    uint8_t **memory;  /* [depth] of the transfer that is under way */
    double *latencies; /* [latency_max] of one turn; later ones are not kept */
    uint32_t latency_max;
    uint32_t file_count; /* transfers go from file to file */
    uint64_t file_bytes; /* of each, a multiple of transfer_bytes: offsets go round in it */
    uint64_t next_transfer;
    uint64_t checksum; /* over what was checked: somebody wants it, or the work goes away */
} BenchIoArea;

/* Takes the memory. Close it after a failure, too; quiet: every ring_close was, else the kernel may still write to staging. */
Status bench_io_open_area(BenchIoArea *area, const BenchIoLoad *load, uint32_t file_count,
                          uint64_t file_bytes);
void bench_io_close_area(BenchIoArea *area, bool quiet);

/* Writes or reads round and round with `depth` transfers under way. E-SPILL-IO at the first one that fails. */
Status bench_io_turn(Ring *ring, const BenchIoLoad *load, BenchIoArea *area, BenchIoTimes *times);

/* Writes the files once: blocks that were set aside but never written read as zeros without a disk. */
Status bench_io_fill(Ring *ring, const BenchIoLoad *load, BenchIoArea *area);

/* The same load by the fio of this machine, over io_uring with registered files and buffers. Returns false, with the
 * reason, when it is not installed or fails. */
bool bench_io_fio_turn(const SpillFile *file, const BenchIoLoad *load, const BenchIoArea *area,
                       BenchIoTimes *times, char *out_why, uint32_t why_bytes);

SPILLWAY_EXTERN_C_END

#endif
