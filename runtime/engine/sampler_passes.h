#ifndef RUNTIME_ENGINE_SAMPLER_PASSES_H
#define RUNTIME_ENGINE_SAMPLER_PASSES_H

/* The sampler's passes over all tokens, compiled for the vectors of several instruction sets. Every width gives the same bits, for a draw
 * must not depend on the machine. Pure functions; any thread. */

#include <stdint.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

enum { SAMPLER_RUN_TOKENS = 64 }; /* passes work in runs of so many tokens */

static inline uint32_t sampler_runs_of(uint32_t count) {
    return (count + SAMPLER_RUN_TOKENS - 1) / SAMPLER_RUN_TOKENS;
}

typedef struct SamplerPasses {
    const char *name; /* "avx512" */
    uint32_t needs;   /* flags of kernels/cpu_features.h */
    bool (*all_below_infinity)(const float *values, uint32_t count);
    /* run_maxima [runs] = the greatest of each run; the greatest of all. */
    float (*find_maxima)(const float *values, uint32_t count, float *run_maxima);
    /* weights[i] = e^((logits[i] - maximum) / temperature), within 2 ulp; 0 where that is below e^-87. */
    void (*fill_weights)(float *weights, const float *logits, uint32_t count, float maximum,
                         float temperature);
    /* run_sums [runs] = the sum of each run; their sum, in one order of additions. */
    double (*find_sums)(const float *weights, uint32_t count, double *run_sums);
    /* The sum of those that are at least `bound`. */
    double (*sum_from)(const float *weights, uint32_t count, float bound);
} SamplerPasses;

/* In order of preference, ended by a row without a name. The last can run anywhere. */
extern const SamplerPasses sampler_passes_rows[];

/* Can this CPU run it? */
bool sampler_passes_run(const SamplerPasses *passes);
const SamplerPasses *sampler_passes_best(void);

SPILLWAY_EXTERN_C_END

#endif
