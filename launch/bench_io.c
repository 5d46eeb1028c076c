#include "launch/bench_io.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "launch/bench_measure.h"
#include "runtime/base/arena.h"
#include "runtime/base/hash.h"
#include "runtime/base/monotonic.h"
#include "runtime/base/random.h"

enum { RESULTS_MAX = 64, LATENCY_MAX = 1 << 20 };

#define WAIT_NS 10000000000ull

static uint32_t rounds_of(const BenchIoLoad *load) {
    return load->rounds > 0 ? load->rounds : 1;
}

Status bench_io_open_area(BenchIoArea *area, const BenchIoLoad *load, uint32_t file_count,
                          uint64_t file_bytes) {
    Random random = {.key = 1};
    *area = (BenchIoArea){.staging_bytes =
                              (uint64_t)rounds_of(load) * load->depth * load->transfer_bytes,
                          .latency_max = LATENCY_MAX,
                          .file_count = file_count,
                          .file_bytes = file_bytes / load->transfer_bytes * load->transfer_bytes};
    TRY(device_host_open(&area->device));
    TRY(area->device->memory_take(area->device, MEMORY_HOST, area->staging_bytes, "staging",
                                  (void **)&area->staging));
    TRY(memory_take((void **)&area->started, load->depth, sizeof *area->started, "start times"));
    TRY(memory_take((void **)&area->memory, load->depth, sizeof *area->memory, "transfers"));
    TRY(memory_take((void **)&area->latencies, LATENCY_MAX, sizeof *area->latencies,
                    "benchmark times"));
    for (uint64_t at = 0; at < area->staging_bytes; at += sizeof(uint64_t)) {
        uint64_t word = random_u64(&random);
        memcpy(area->staging + at, &word, sizeof word);
    }
    return STATUS_OK;
}

void bench_io_close_area(BenchIoArea *area, bool quiet) {
    free(area->latencies);
    free(area->started);
    free(area->memory);
    if (area->staging && quiet)
        area->device->memory_give(area->device, MEMORY_HOST, area->staging, area->staging_bytes);
    if (area->device) area->device->close(area->device);
    *area = (BenchIoArea){0};
}

static void start(Ring *ring, const BenchIoLoad *load, BenchIoArea *area, uint64_t place) {
    uint64_t transfer = area->next_transfer++;
    uint64_t round = transfer / load->depth % rounds_of(load);
    area->memory[place] = area->staging + (round * load->depth + place) * load->transfer_bytes;
    const RingOperation operation = {.kind = load->kind,
                                     .file = (uint32_t)(transfer % area->file_count),
                                     .memory = area->memory[place],
                                     .offset = transfer / area->file_count * load->transfer_bytes %
                                               area->file_bytes,
                                     .bytes = load->transfer_bytes,
                                     .user = place};
    area->started[place] = monotonic_now_ns(&monotonic_system);
    ring_submit(ring, &operation, 1);
}

static Status check_result(const BenchIoLoad *load, const RingResult *result) {
    if (result->error == RING_ERROR_NONE) return STATUS_OK;
    FAIL(SPILL_IO, "%s of %u bytes in the spill file: %s after %u bytes: %s",
         load->kind == RING_READ ? "read" : "write", load->transfer_bytes,
         ring_error_name(result->error), result->bytes, strerror(result->os_error));
}

/* Results of one reap; each place works again while `goes_on`. */
static Status settle(Ring *ring, const BenchIoLoad *load, BenchIoArea *area, bool goes_on,
                     uint64_t *moved_count) {
    RingResult results[RESULTS_MAX];
    const uint8_t *moved[RESULTS_MAX];
    uint32_t count = ring_reap(ring, results, RESULTS_MAX, WAIT_NS);
    if (count == 0) FAIL(SPILL_IO, "no transfer of the spill file ended within 10 s");
    uint64_t now = monotonic_now_ns(&monotonic_system);
    for (uint32_t i = 0; i < count; i++) {
        TRY(check_result(load, &results[i]));
        if (*moved_count < area->latency_max)
            area->latencies[*moved_count] = (double)(now - area->started[results[i].user]) * 1e-9;
        ++*moved_count;
        moved[i] = area->memory[results[i].user];
        if (goes_on) start(ring, load, area, results[i].user);
    }
    if (!load->checked) return STATUS_OK;
    ring_flush(ring); /* the disk works on meanwhile */
    for (uint32_t i = 0; i < count; i++)
        area->checksum ^= hash_xxh3(moved[i], load->transfer_bytes, 0);
    return STATUS_OK;
}

Status bench_io_turn(Ring *ring, const BenchIoLoad *load, BenchIoArea *area, BenchIoTimes *times) {
    uint64_t moved_count = 0;
    double cpu_before = bench_cpu_seconds(), before = monotonic_seconds();
    for (uint32_t place = 0; place < load->depth; place++)
        start(ring, load, area, place);
    while (ring_stats(ring).held > 0)
        TRY(settle(ring, load, area, monotonic_seconds() - before < load->seconds, &moved_count));
    double seconds = monotonic_seconds() - before, cpu = bench_cpu_seconds() - cpu_before;
    double bytes = (double)moved_count * load->transfer_bytes;
    size_t kept = moved_count < area->latency_max ? moved_count : area->latency_max;
    BenchStatistics latency = bench_statistics(area->latencies, kept);
    uint32_t turn = times->turns++;
    times->bytes_per_second[turn] = bytes / seconds;
    times->cpu_seconds_per_byte[turn] = cpu / bytes;
    times->latency_p50[turn] = latency.median;
    times->latency_p99[turn] = latency.p99;
    return STATUS_OK;
}

Status bench_io_fill(Ring *ring, const BenchIoLoad *load, BenchIoArea *area) {
    uint64_t left = area->file_count * (area->file_bytes / load->transfer_bytes), moved_count = 0;
    const BenchIoLoad writes = {
        .kind = RING_WRITE, .transfer_bytes = load->transfer_bytes, .depth = load->depth};
    area->next_transfer = 0;
    while (left > 0) {
        uint32_t places = left < load->depth ? (uint32_t)left : load->depth;
        for (uint32_t place = 0; place < places; place++)
            start(ring, &writes, area, place);
        while (ring_stats(ring).held > 0)
            TRY(settle(ring, &writes, area, false, &moved_count));
        left -= places;
    }
    return STATUS_OK;
}
