/* Speed of the I/O ring on this machine: both of its rows and fio in turns, on one spill file. */

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "launch/bench_io.h"
#include "launch/bench_measure.h"
#include "launch/command.h"

enum { ENGINES_MAX = 4 };

/* One way to do it: a row of the ring, or fio where ring is NULL. */
typedef struct Entrant {
    const char *name;
    Ring *ring;
    BenchIoTimes times[RING_KIND_COUNT];
} Entrant;

typedef struct Bench {
    const Settings *settings;
    BenchIoLoad load;
    BenchIoArea area;
    SpillFile file;
    IoFaultPlan faults;
    Entrant entrants[ENGINES_MAX + 1];
    uint32_t entrant_count;
} Bench;

/* ---- opening ---- */

static uint32_t depth_of(const Settings *settings) {
    uint32_t depth = (uint32_t)settings->io_depth;
    return depth ? depth : ring_depth_auto(settings->io_size.bytes);
}

static Status check_sizes(const Settings *settings) {
    uint64_t bytes = settings->io_size.bytes, file_bytes = settings->size.bytes;
    if (settings->io_size.per_cent > 0 || bytes == 0 || bytes % SPILL_ALIGNMENT_MIN != 0 ||
        bytes > 1 << 30)
        FAIL(USAGE, "--io-size is no multiple of 4KiB up to 1GiB");
    if (settings->size.per_cent > 0 || file_bytes < bytes * depth_of(settings))
        FAIL(USAGE, "--size is less than --io-depth transfers of --io-size");
    return STATUS_OK;
}

static Status open_ring(Bench *bench, const char *engine) {
    Entrant *entrant = &bench->entrants[bench->entrant_count];
    const RingFile file = {bench->file.descriptor, bench->file.alignment_bytes};
    const RingOptions options = {.engine = engine,
                                 .files = &file,
                                 .file_count = 1,
                                 .staging = bench->area.staging,
                                 .staging_bytes = bench->area.staging_bytes,
                                 .depth = bench->load.depth,
                                 .queue_count = bench->load.depth,
                                 .local_ranks = 1,
                                 .faults = &bench->faults};
    char text[512];
    TRY(ring_open(&entrant->ring, &options));
    bench->entrant_count++;
    entrant->name = ring_facts(entrant->ring)->engine;
    ring_describe(ring_facts(entrant->ring), text, sizeof text);
    printf("ring                        %s\n", text);
    return STATUS_OK;
}

/* "auto" compares every row that works here. */
static Status open_rings(Bench *bench) {
    const char *name;
    char why[160];
    if (strcmp(bench->settings->io, "auto") != 0) return open_ring(bench, bench->settings->io);
    for (uint32_t i = 0; i < ENGINES_MAX && ring_probe(i, &name, why, sizeof why); i++) {
        if (strcmp(why, "yes") == 0)
            TRY(open_ring(bench, name));
        else
            printf("ring                        no %s: %s\n", name, why);
    }
    return STATUS_OK;
}

static Status open_bench(Bench *bench) {
    const Settings *settings = bench->settings;
    char text[256];
    TRY(check_sizes(settings));
    for (size_t i = 0; i < settings->fault.count; i++)
        TRY(io_fault_add(&bench->faults, settings->fault.items[i]));
    bench->load = (BenchIoLoad){.transfer_bytes = (uint32_t)settings->io_size.bytes,
                                .depth = depth_of(settings),
                                .seconds = settings->seconds / BENCH_IO_TURNS};
    TRY(bench_io_open_area(&bench->area, &bench->load, 1, settings->size.bytes));
    const SpillFileOptions options = {
        .directory = settings->dir, .bytes = bench->area.file_bytes, .faults = &bench->faults};
    TRY(spill_file_open(&bench->file, &options));
    spill_file_describe(&bench->file, text, sizeof text);
    printf("spill file                  %s\n", text);
    return open_rings(bench);
}

static void close_bench(Bench *bench) {
    bool quiet = true; /* else the kernel may still write to staging */
    for (uint32_t i = 0; i < bench->entrant_count; i++)
        quiet &= ring_close(bench->entrants[i].ring);
    spill_file_close(&bench->file);
    bench_io_close_area(&bench->area, quiet);
}

/* ---- measuring ---- */

/* Stays away after its first failure. */
static void fio_turn(Bench *bench, const BenchIoLoad *load, Entrant *fio) {
    char why[128];
    if (!fio->name) return;
    if (bench_io_fio_turn(&bench->file, load, &bench->area, &fio->times[load->kind], why,
                          sizeof why))
        return;
    printf("fio                         %s\n", why);
    fio->name = NULL;
}

/* Each turn begins with another entrant: disks that give more after a pause favour none. */
static Status take_turn(Bench *bench, const BenchIoLoad *load, uint32_t turn, Entrant *fio) {
    for (uint32_t i = 0; i <= bench->entrant_count; i++) {
        uint32_t index = (turn + i) % (bench->entrant_count + 1);
        Entrant *entrant = &bench->entrants[index];
        if (index == bench->entrant_count)
            fio_turn(bench, load, fio);
        else
            TRY(bench_io_turn(entrant->ring, load, &bench->area, &entrant->times[load->kind]));
    }
    return STATUS_OK;
}

static Status take_turns(Bench *bench, Entrant *fio) {
    for (uint32_t turn = 0; turn < BENCH_IO_TURNS; turn++)
        for (uint32_t kind = 0; kind < RING_KIND_COUNT; kind++) {
            BenchIoLoad load = bench->load;
            load.kind = (RingKind)kind;
            TRY(take_turn(bench, &load, turn, fio));
        }
    return STATUS_OK;
}

static double median(const double *values, uint32_t count) {
    double sorted[BENCH_IO_TURNS];
    memcpy(sorted, values, count * sizeof *values);
    return bench_statistics(sorted, count).median;
}

/* Median of the ratios turn by turn; fio may be absent. */
static void print_share(const BenchIoTimes *times, const BenchIoTimes *fio) {
    double ratios[BENCH_IO_TURNS];
    for (uint32_t i = 0; i < times->turns && i < fio->turns; i++)
        ratios[i] = 100 * times->bytes_per_second[i] / fio->bytes_per_second[i];
    if (fio->turns < times->turns)
        printf("%9s", "-");
    else
        printf("%8.0f%%", median(ratios, times->turns));
}

static void print_entrant(const Bench *bench, const Entrant *entrant, const Entrant *fio) {
    static const char *const directions[RING_KIND_COUNT] = {"read", "write"};
    for (uint32_t kind = 0; kind < RING_KIND_COUNT; kind++) {
        const BenchIoTimes *times = &entrant->times[kind];
        double rate = median(times->bytes_per_second, times->turns);
        printf("%-10s %-6s %8.2f", entrant->name, directions[kind], rate / 1e9);
        print_share(times, &fio->times[kind]);
        printf(" %9.0f %9.3f %9.3f %13.4f\n", rate / bench->load.transfer_bytes,
               median(times->latency_p50, times->turns) * 1e3,
               median(times->latency_p99, times->turns) * 1e3,
               median(times->cpu_seconds_per_byte, times->turns) * 1e9);
    }
}

static Status measure(Bench *bench) {
    Entrant fio = {.name = "fio"};
    TRY(bench_io_fill(bench->entrants[0].ring, &bench->load, &bench->area));
    TRY(take_turns(bench, &fio));
    printf("load                        %" PRIu32 " bytes, depth %" PRIu32
           ", in order; medians of %d turns\n\n",
           bench->load.transfer_bytes, bench->load.depth, BENCH_IO_TURNS);
    printf("%-10s %-6s %8s %8s %9s %9s %9s %13s\n", "", "", "GB/s", "of fio", "IOPS", "p50 ms",
           "p99 ms", "CPU s per GB");
    for (uint32_t i = 0; i < bench->entrant_count; i++)
        print_entrant(bench, &bench->entrants[i], &fio);
    if (fio.name) print_entrant(bench, &fio, &fio);
    return STATUS_OK;
}

static int bench_io(const Settings *settings) {
    Bench bench = {.settings = settings, .file = {.descriptor = -1}};
    signal(SIGXFSZ, SIG_IGN); /* a file size limit is an error like others */
    Status status = open_bench(&bench);
    if (status == STATUS_OK) status = measure(&bench);
    close_bench(&bench);
    return error_exit_code(status);
}

const Command command_bench_io[] = {
    {.name = "bench io",
     .summary = "reads and writes of spill files: both ways to the kernel beside fio, in turns",
     .positionals = "",
     .needs = "",
     .takes = "dir io io-size io-depth size seconds fault",
     .run = bench_io},
    {.name = NULL},
};
