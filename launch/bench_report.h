#ifndef LAUNCH_BENCH_REPORT_H
#define LAUNCH_BENCH_REPORT_H

/* How benchmarks of the engine tell what they measured. Rank 0. */

#include <jansson.h>

#include "launch/bench_load.h"

SPILLWAY_EXTERN_C_BEGIN

double bench_share(double part, double whole); /* per cent; 0 of nothing */
double bench_rate(double count, double seconds);

void bench_print_split(const BenchSplit *split);
/* That they are random, if they are. */
void bench_print_weights(const Session *session);
void bench_print_stored(
    const Session *session); /* what KV takes beside what it would take as f16 */

/* Writes it to --result-filename; takes the reference, NULL when there was no memory for it. */
Status bench_save_result(const Session *session, json_t *result);

SPILLWAY_EXTERN_C_END

#endif
