/* Hit rates of every placement policy on the same traces, and their share of Belady's: how much each leaves on the table.
 *
 *     bench_placement [--seed N]
 *
 * A policy alone, without delays (placement_trace.h): the figures do not depend on the machine. */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/tiers/placement_trace.h"

enum { BLOCK_COUNT = 1200, LAYER_COUNT = 30, SCAN_ROUNDS = 20, ZIPF_ROUNDS = 40 };

static void print_trace(const char *name, const PlacementTrace *trace) {
    static const uint32_t percents[] = {10, 25, 50};
    uint64_t from = trace->access_count / 4; /* the rest finds a settled set */
    for (size_t i = 0; i < sizeof percents / sizeof *percents; i++) {
        uint32_t resident = trace->block_count * percents[i] / 100;
        double best = placement_trace_hit_rate(trace, placement_find("belady"), resident, from);
        printf("%-22s %3u%%", name, percents[i]);
        for (size_t p = 0; placements[p]; p++) {
            double rate = placement_trace_hit_rate(trace, placements[p], resident, from);
            printf("  %s %.3f (%.0f%%)", placements[p]->name, rate, 100 * rate / best);
        }
        printf("\n");
    }
}

int main(int argc, char **argv) {
    Random random = {.key = 1};
    if (argc == 3 && strcmp(argv[1], "--seed") == 0) random.key = strtoull(argv[2], NULL, 10);
    printf("seed %" PRIu64
           "; %d blocks in %d layers; trace, resident share: hit rate (share of belady's)\n",
           random.key, BLOCK_COUNT, LAYER_COUNT);
    PlacementTrace scan = placement_trace_scan(BLOCK_COUNT, LAYER_COUNT, SCAN_ROUNDS);
    PlacementTrace still = placement_trace_zipf(&random, BLOCK_COUNT, 1.0, 0, ZIPF_ROUNDS);
    PlacementTrace moving = placement_trace_zipf(&random, BLOCK_COUNT, 1.0, 0.01, ZIPF_ROUNDS);
    print_trace("scan", &scan);
    print_trace("zipf 1.0", &still);
    print_trace("zipf 1.0, drift 0.01", &moving);
    placement_trace_free(&scan);
    placement_trace_free(&still);
    placement_trace_free(&moving);
    return 0;
}
