#include "launch/bench_measure.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "kernels/team.h"
#include "runtime/base/arena.h"
#include "runtime/base/monotonic.h"

enum { AREA_BYTES = 256 << 20, PASSES = 5, LANES = 16, PIECES_A_THREAD = 16 };

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_cpu_seconds(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

double bench_percentile(const double *sorted, size_t count, double percent) {
    if (count == 0) return 0;
    double place = percent / 100 * (double)(count - 1);
    size_t below = (size_t)place;
    if (below + 1 >= count) return sorted[count - 1];
    return sorted[below] + (place - (double)below) * (sorted[below + 1] - sorted[below]);
}

BenchStatistics bench_statistics(double *values, size_t count) {
    BenchStatistics statistics = {0, 0, 0, 0};
    if (count == 0) return statistics;
    qsort(values, count, sizeof *values, compare);
    double sum = 0, squares = 0;
    for (size_t i = 0; i < count; i++)
        sum += values[i];
    statistics.mean = sum / (double)count;
    for (size_t i = 0; i < count; i++)
        squares += (values[i] - statistics.mean) * (values[i] - statistics.mean);
    statistics.std = sqrt(squares / (double)count);
    statistics.median = bench_percentile(values, count, 50);
    statistics.p99 = bench_percentile(values, count, 99);
    return statistics;
}

/* Lanes that do not depend on each other, so that the loads do not wait for the additions. */
static uint64_t add_up(const uint64_t *words, size_t count) {
    uint64_t lanes[LANES] = {0}, sum = 0;
    for (size_t i = 0; i + LANES <= count; i += LANES)
        for (size_t lane = 0; lane < LANES; lane++)
            lanes[lane] += words[i + lane];
    for (size_t lane = 0; lane < LANES; lane++)
        sum += lanes[lane];
    return sum;
}

static double best(double seconds, double before) {
    double rate = AREA_BYTES / seconds;
    return rate > before ? rate : before;
}

typedef struct Areas {
    char *from, *to;
    size_t piece_bytes;
    _Atomic uint64_t sum; /* must be wanted by somebody, or the loads go away */
} Areas;

static void read_piece(void *user, uint32_t piece, uint32_t thread_index) {
    (void)thread_index;
    Areas *areas = user;
    const char *from = areas->from + piece * areas->piece_bytes;
    areas->sum += add_up((const uint64_t *)from, areas->piece_bytes / sizeof(uint64_t));
}

static void copy_piece(void *user, uint32_t piece, uint32_t thread_index) {
    (void)thread_index;
    const Areas *areas = user;
    size_t offset = piece * areas->piece_bytes;
    memcpy(areas->to + offset, areas->from + offset, areas->piece_bytes);
}

static BenchLimits measure_passes(Team *team, char *memory) {
    uint32_t piece_count = team_thread_count(team) * PIECES_A_THREAD;
    Areas areas = {.from = memory,
                   .to = memory + AREA_BYTES,
                   .piece_bytes = AREA_BYTES / piece_count / 4096 * 4096};
    BenchLimits limits = {0, 0};
    memset(memory, 1, 2 * (size_t)AREA_BYTES); /* the first pass meets memory */
    for (int pass = 0; pass < PASSES; pass++) {
        double start = monotonic_seconds();
        team_run(team, piece_count, read_piece, &areas);
        double middle = monotonic_seconds();
        team_run(team, piece_count, copy_piece, &areas);
        double end = monotonic_seconds();
        limits.read_bytes_per_second = best(middle - start, limits.read_bytes_per_second);
        limits.copy_bytes_per_second = best(end - middle, limits.copy_bytes_per_second);
    }
    return limits;
}

Status bench_limits_measure(uint32_t thread_count, BenchLimits *out) {
    Team *team;
    void *memory;
    TRY(team_create(&team, thread_count));
    Status status = memory_take(&memory, 2, AREA_BYTES, "memory to measure its speed");
    if (status == STATUS_OK) {
        *out = measure_passes(team, memory);
        free(memory);
    }
    team_destroy(team);
    return status;
}
