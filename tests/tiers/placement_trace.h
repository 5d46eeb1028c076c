#ifndef TESTS_TIERS_PLACEMENT_TRACE_H
#define TESTS_TIERS_PLACEMENT_TRACE_H

/* A placement policy alone over a recorded trace: a cache without delays, whose hit rate is the policy's own. For
 * test_placement and bench_placement. */

#include "runtime/base/random.h"
#include "tiers/placement.h"

typedef struct PlacementTrace {
    uint32_t block_count;   /* all of them sealed before the first access, in order */
    uint32_t stream_groups; /* block b is of stream b % stream_groups */
    uint32_t *accesses;     /* [access_count] block ids, owned */
    uint64_t access_count;
} PlacementTrace;

/* Every block, stream by stream, round after round: dense attention. */
PlacementTrace placement_trace_scan(uint32_t block_count, uint32_t stream_groups, uint32_t rounds);
/* Independent draws, the block of rank r with odds ~ r^-exponent; a share of the ranks changes hands every `block_count` draws:
 * selective attention. */
PlacementTrace placement_trace_zipf(Random *random, uint32_t block_count, double exponent,
                                    double drift, uint32_t rounds);
void placement_trace_free(PlacementTrace *trace);

/* Share of accesses from `count_from` on that find their block resident. */
double placement_trace_hit_rate(const PlacementTrace *trace, const Placement *placement,
                                uint32_t resident_count, uint64_t count_from);

#endif
