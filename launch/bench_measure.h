#ifndef LAUNCH_BENCH_MEASURE_H
#define LAUNCH_BENCH_MEASURE_H

/* Statistics of timings, and the limits of the machine that a speed is a share of. */

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct BenchStatistics {
    double mean, median, std, p99;
} BenchStatistics;

/* Sorts values in place; all zero for none. Percentiles lie between neighbours, as numpy's do; std is of the population. */
BenchStatistics bench_statistics(double *values, size_t count);
double bench_percentile(const double *sorted, size_t count, double percent);

double bench_cpu_seconds(void); /* of the process and its threads so far, user and system */

typedef struct BenchLimits {
    double read_bytes_per_second; /* best of several passes over memory larger than the caches */
    double copy_bytes_per_second; /* bytes read and written, each counted once */
} BenchLimits;

/* Takes about half a second and 512 MiB for a moment. */
Status bench_limits_measure(uint32_t thread_count, BenchLimits *out);

SPILLWAY_EXTERN_C_END

#endif
