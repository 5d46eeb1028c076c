#include "launch/bench_measure.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/base/monotonic.h"

enum { AREA_BYTES = 256 << 20, PASSES = 5, LANES = 16 };

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
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

Status bench_limits_measure(uint32_t thread_count, BenchLimits *out) {
    char *areas;
    TRY(memory_take((void **)&areas, 2, AREA_BYTES, "memory to measure its speed"));
    const size_t piece = AREA_BYTES / thread_count / 4096 * 4096;
    uint64_t sum = 0;
    *out = (BenchLimits){0, 0};
    for (int pass = 0; pass <= PASSES; pass++) {
        double start = monotonic_seconds();
#pragma omp parallel for schedule(static, 1) num_threads((int)thread_count) reduction(+ : sum)
        for (uint32_t thread = 0; thread < thread_count; thread++)
            sum += add_up((const uint64_t *)(areas + thread * piece), piece / sizeof(uint64_t));
        double middle = monotonic_seconds();
#pragma omp parallel for schedule(static, 1) num_threads((int)thread_count)
        for (uint32_t thread = 0; thread < thread_count; thread++)
            memcpy(areas + AREA_BYTES + thread * piece, areas + thread * piece, piece);
        double end = monotonic_seconds();
        if (pass == 0)
            memset(areas, 1, 2 * (size_t)AREA_BYTES); /* the first one met no memory yet */
        if (pass == 0) continue;
        out->read_bytes_per_second = best(middle - start, out->read_bytes_per_second);
        out->copy_bytes_per_second = best(end - middle, out->copy_bytes_per_second);
    }
    /* The sum must be wanted by somebody, or the loads go away. */
    if (sum == 1) out->read_bytes_per_second = 0;
    free(areas);
    return STATUS_OK;
}
