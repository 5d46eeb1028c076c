#include "launch/probe_disk.h"

#include "launch/bench_io.h"
#include "launch/bench_measure.h"
#include "runtime/base/bytes.h"

enum { SMALL_BYTES = 64 << 10, LARGE_BYTES = 256 << 10, TURNS = BENCH_IO_TURNS };
static const uint64_t file_bytes = 256 << 20;
static const double turn_seconds = 0.2;
static const uint64_t memory_bytes = 16 << 20; /* as staging: twice what is in the kernel */

/* The medians of some turns of one kind. */
typedef struct DiskSpeed {
    double rate, core_seconds;
} DiskSpeed;

typedef struct DiskTurns {
    const ProbeDiskOptions *options;
    SpillFile file;
    BenchIoLoad load;
    BenchIoArea area;
    Ring *ring;
} DiskTurns;

static Status open_ring(DiskTurns *turns, uint32_t transfer_bytes) {
    const ProbeDiskOptions *asked = turns->options;
    turns->load = (BenchIoLoad){.transfer_bytes = transfer_bytes, .seconds = turn_seconds};
    turns->load.depth = asked->io_depth ? asked->io_depth : ring_depth_auto(transfer_bytes);
    turns->load.rounds =
        (uint32_t)divide_up(memory_bytes, (uint64_t)turns->load.depth * transfer_bytes);
    TRY(bench_io_open_area(&turns->area, &turns->load, 1, file_bytes));
    const RingFile file = {turns->file.descriptor, turns->file.alignment_bytes};
    const RingOptions options = {.engine = asked->io_engine,
                                 .files = &file,
                                 .file_count = 1,
                                 .staging = turns->area.staging,
                                 .staging_bytes = turns->area.staging_bytes,
                                 .depth = turns->load.depth,
                                 .queue_count = turns->load.depth,
                                 .local_ranks = 1};
    return ring_open(&turns->ring, &options);
}

static Status take_turns(DiskTurns *turns, RingKind kind, DiskSpeed *out) {
    BenchIoTimes times = {0};
    turns->load.kind = kind;
    turns->load.checked = kind == RING_READ;
    for (uint32_t turn = 0; turn < TURNS; turn++)
        TRY(bench_io_turn(turns->ring, &turns->load, &turns->area, &times));
    *out = (DiskSpeed){bench_statistics(times.bytes_per_second, TURNS).median,
                       bench_statistics(times.cpu_seconds_per_byte, TURNS).median};
    return STATUS_OK;
}

/* Reads of `transfer_bytes`, and writes where wanted, with a ring of their own. */
static Status measure_size(DiskTurns *turns, uint32_t transfer_bytes, DiskSpeed *out_read,
                           DiskSpeed *out_write) {
    Status status = open_ring(turns, transfer_bytes);
    if (status == STATUS_OK) status = bench_io_fill(turns->ring, &turns->load, &turns->area);
    if (status == STATUS_OK && out_write) status = take_turns(turns, RING_WRITE, out_write);
    if (status == STATUS_OK) status = take_turns(turns, RING_READ, out_read);
    bool quiet = ring_close(turns->ring);
    turns->ring = NULL;
    bench_io_close_area(&turns->area, quiet);
    return status;
}

Status probe_disk(const ProbeDiskOptions *options, PlanMachine *machine) {
    DiskTurns turns = {.options = options};
    DiskSpeed small, large, write;
    const SpillFileOptions file = {
        .directory = options->directory, .bytes = file_bytes, .silent = true};
    TRY(spill_file_open(&turns.file, &file));
    Status status = measure_size(&turns, LARGE_BYTES, &large, &write);
    if (status == STATUS_OK) status = measure_size(&turns, SMALL_BYTES, &small, NULL);
    spill_file_close(&turns.file);
    TRY(status);
    double more = SMALL_BYTES / small.rate - SMALL_BYTES / large.rate;
    machine->disk_read_rate = large.rate;
    machine->disk_write_rate = write.rate;
    machine->disk_core_seconds = large.core_seconds;
    machine->disk_transfer_seconds = more > 0 ? more : 0;
    return STATUS_OK;
}
