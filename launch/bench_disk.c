#include "launch/bench_disk.h"

#include <stdlib.h>
#include <string.h>

#include "launch/bench_measure.h"
#include "runtime/base/arena.h"
#include "runtime/base/invariant.h"

enum { FILES_MAX = 8 };
static const uint64_t files_bytes = 512ull << 20;
static const double turn_seconds = 0.4;

struct BenchDisk {
    BenchIoLoad load;
    BenchIoArea area;
    SpillFile files[FILES_MAX];
    RingFile ring_files[FILES_MAX];
    uint32_t file_count;
    Ring *ring;
    BenchIoTimes times;
};

/* Where weights lie that stream, else KV. */
static const char *const *directories_of(const Session *session, uint32_t *out_count) {
    bool streams = engine_weight_stream(session->engine) != NULL;
    *out_count = streams ? session->weight_sizes.nvme_dir_count : session->kv_sizes.nvme_dir_count;
    return streams ? session->weight_sizes.nvme_dirs : session->kv_sizes.nvme_dirs;
}

static Status open_files(BenchDisk *disk, const char *const *directories) {
    for (uint32_t i = 0; i < disk->area.file_count; i++) {
        const SpillFileOptions options = {.directory = directories[i],
                                          .bytes = disk->area.file_bytes};
        TRY(spill_file_open(&disk->files[i], &options));
        disk->file_count++;
        disk->ring_files[i] = (RingFile){disk->files[i].descriptor, disk->files[i].alignment_bytes};
    }
    return STATUS_OK;
}

static Status open_all(BenchDisk *disk, const Session *session) {
    const Settings *settings = session->settings;
    const WeightStream *stream = engine_weight_stream(session->engine);
    uint32_t count;
    const char *const *directories = directories_of(session, &count);
    if (count > FILES_MAX) count = FILES_MAX;
    const RingFacts *ring = stream ? weight_stream_ring(stream) : engine_ring(session->engine);
    uint64_t transfer_bytes =
        stream ? weight_stream_chunk_bytes(stream) : engine_stats(session->engine)->kv_block_bytes;
    disk->load = (BenchIoLoad){.kind = RING_READ,
                               .transfer_bytes = (uint32_t)transfer_bytes,
                               .depth = ring->depth,
                               .seconds = turn_seconds};
    TRY(bench_io_open_area(&disk->area, &disk->load, count, files_bytes / count));
    TRY(open_files(disk, directories));
    const RingOptions options = {.engine = settings->io,
                                 .files = disk->ring_files,
                                 .file_count = count,
                                 .staging = disk->area.staging,
                                 .staging_bytes = disk->area.staging_bytes,
                                 .depth = disk->load.depth,
                                 .queue_count = disk->load.depth,
                                 .local_ranks = 1};
    TRY(ring_open(&disk->ring, &options));
    return bench_io_fill(disk->ring, &disk->load, &disk->area);
}

Status bench_disk_open(BenchDisk **out, const Session *session) {
    void *memory;
    TRY(memory_take(&memory, 1, sizeof(BenchDisk), "disk benchmark"));
    BenchDisk *disk = memory;
    Status status = open_all(disk, session);
    if (status == STATUS_OK)
        *out = disk;
    else
        bench_disk_close(disk);
    return status;
}

void bench_disk_close(BenchDisk *disk) {
    if (!disk) return;
    bool quiet = ring_close(disk->ring);
    for (uint32_t i = 0; i < disk->file_count; i++)
        spill_file_close(&disk->files[i]);
    bench_io_close_area(&disk->area, quiet);
    free(disk);
}

Status bench_disk_measure(BenchDisk *disk, uint32_t turn_count) {
    if (!disk) return STATUS_OK;
    CHECK(disk->times.turns + turn_count <= BENCH_IO_TURNS);
    for (uint32_t turn = 0; turn < turn_count; turn++)
        TRY(bench_io_turn(disk->ring, &disk->load, &disk->area, &disk->times));
    return STATUS_OK;
}

double bench_disk_bytes_per_second(const BenchDisk *disk) {
    double sorted[BENCH_IO_TURNS];
    if (!disk || disk->times.turns == 0) return 0;
    memcpy(sorted, disk->times.bytes_per_second, disk->times.turns * sizeof *sorted);
    return bench_statistics(sorted, disk->times.turns).median;
}
