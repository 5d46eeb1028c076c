#ifndef LAUNCH_LOGIT_COMPARE_H
#define LAUNCH_LOGIT_COMPARE_H

/* How far one distribution over the vocabulary is from another. Pure functions; any thread. */

#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct LogitDistance {
    double divergence; /* KL(reference ‖ found) in nats; exactly 0 for equal logits */
    bool same_top;     /* the likeliest token (the lowest of equal ones) is the same */
} LogitDistance;

/* [count] logits each, of which some are finite and none is NaN or +inf. weights: scratch [count]. */
LogitDistance logit_distance(const float *reference, const float *found, uint32_t count,
                             double *weights);

typedef struct DistanceSummary {
    double mean, p99, max;
    double same_top_share; /* of 1 */
} DistanceSummary;

/* Sorts divergences. count > 0. */
DistanceSummary distance_summary(double *divergences, uint64_t count, uint64_t same_top_count);

SPILLWAY_EXTERN_C_END

#endif
