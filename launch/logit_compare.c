#include "launch/logit_compare.h"

#include <math.h>

#include "launch/bench_measure.h"

static uint32_t find_top(const float *logits, uint32_t count) {
    uint32_t top = 0;
    for (uint32_t i = 1; i < count; i++)
        if (logits[i] > logits[top]) top = i;
    return top;
}

LogitDistance logit_distance(const float *reference, const float *found, uint32_t count,
                             double *weights) {
    uint32_t reference_top = find_top(reference, count), found_top = find_top(found, count);
    double reference_sum = 0, found_sum = 0, divergence = 0;
    for (uint32_t i = 0; i < count; i++) {
        weights[i] = exp((double)reference[i] - (double)reference[reference_top]);
        reference_sum += weights[i];
        found_sum += exp((double)found[i] - (double)found[found_top]);
    }
    double reference_shift = (double)reference[reference_top] + log(reference_sum);
    double found_shift = (double)found[found_top] + log(found_sum);
    for (uint32_t i = 0; i < count; i++)
        if (weights[i] > 0)
            divergence += weights[i] * (((double)reference[i] - reference_shift) -
                                        ((double)found[i] - found_shift));
    /* it is never negative but for rounding */
    return (LogitDistance){.divergence = divergence > 0 ? divergence / reference_sum : 0,
                           .same_top = reference_top == found_top};
}

DistanceSummary distance_summary(double *divergences, uint64_t count, uint64_t same_top_count) {
    BenchStatistics statistics = bench_statistics(divergences, count);
    return (DistanceSummary){.mean = statistics.mean,
                             .p99 = statistics.p99,
                             .max = divergences[count - 1],
                             .same_top_share = (double)same_top_count / (double)count};
}
