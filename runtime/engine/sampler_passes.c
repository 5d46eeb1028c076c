#include "runtime/engine/sampler_passes.h"

#include <math.h>

#include "kernels/cpu_features.h"

/* Written so that compilers vectorise them, and inlined into a copy for each instruction set, which the CPU's flags choose. The lanes are
 * written out: that fixes the order of additions whatever the width. */
#define BODY static inline __attribute__((always_inline))

enum { LANES = 8 }; /* partial results inside a run */

BODY float run_maximum(const float *values, uint32_t count) {
    float lanes[LANES];
    uint32_t i = 0;
    for (int lane = 0; lane < LANES; lane++)
        lanes[lane] = -INFINITY;
    for (; i + LANES <= count; i += LANES)
        for (int lane = 0; lane < LANES; lane++)
            lanes[lane] = values[i + lane] > lanes[lane] ? values[i + lane] : lanes[lane];
    float maximum = -INFINITY;
    for (int lane = 0; lane < LANES; lane++)
        maximum = lanes[lane] > maximum ? lanes[lane] : maximum;
    for (; i < count; i++)
        maximum = values[i] > maximum ? values[i] : maximum;
    return maximum;
}

BODY uint32_t run_end(uint32_t begin, uint32_t count) {
    return begin + SAMPLER_RUN_TOKENS < count ? begin + SAMPLER_RUN_TOKENS : count;
}

BODY float find_maxima(const float *values, uint32_t count, float *run_maxima) {
    float maximum = -INFINITY;
    for (uint32_t run = 0; run < sampler_runs_of(count); run++) {
        uint32_t begin = run * SAMPLER_RUN_TOKENS;
        run_maxima[run] = run_maximum(values + begin, run_end(begin, count) - begin);
        if (run_maxima[run] > maximum) maximum = run_maxima[run];
    }
    return maximum;
}

BODY bool all_below_infinity(const float *values, uint32_t count) {
    int bad = 0;
    for (uint32_t i = 0; i < count; i++)
        bad |= !(values[i] < INFINITY);
    return bad == 0;
}

/* e^x for x <= 0 within 2 ulp; 0 below -87, where the result would be subnormal. The bits are the same on
 * every machine, which libm does not promise. Reduction and polynomial: Cephes expf (Moshier). */
BODY float exp_weight(float x) {
    const float magic =
        12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer in the low bits */
    union {
        float real;
        uint32_t bits;
    } shifted = {.real = x * 1.44269504f + magic}, scale;
    float n = shifted.real - magic;
    float r = x - n * 0.693359375f - n * -2.12194440e-4f;
    float y = 1.9875691500e-4f;
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * (r * r) + r + 1.0f;
    scale.bits = (shifted.bits + 127u) << 23;
    return x < -87.0f ? 0.0f : y * scale.real;
}

BODY void fill_weights(float *weights, const float *logits, uint32_t count, float maximum,
                       float temperature) {
    for (uint32_t i = 0; i < count; i++)
        weights[i] = exp_weight((logits[i] - maximum) / temperature);
}

BODY double run_sum(const float *weights, uint32_t count) {
    double lanes[LANES] = {0};
    uint32_t i = 0;
    for (; i + LANES <= count; i += LANES)
        for (int lane = 0; lane < LANES; lane++)
            lanes[lane] += (double)weights[i + lane];
    double sum = 0;
    for (int lane = 0; lane < LANES; lane++)
        sum += lanes[lane];
    for (; i < count; i++)
        sum += (double)weights[i];
    return sum;
}

BODY double find_sums(const float *weights, uint32_t count, double *run_sums) {
    double sum = 0;
    for (uint32_t run = 0; run < sampler_runs_of(count); run++) {
        uint32_t begin = run * SAMPLER_RUN_TOKENS;
        run_sums[run] = run_sum(weights + begin, run_end(begin, count) - begin);
        sum += run_sums[run];
    }
    return sum;
}

BODY double sum_from(const float *weights, uint32_t count, float bound) {
    double lanes[LANES] = {0};
    uint32_t i = 0;
    for (; i + LANES <= count; i += LANES)
        for (int lane = 0; lane < LANES; lane++)
            lanes[lane] += weights[i + lane] >= bound ? (double)weights[i + lane] : 0.0;
    double sum = 0;
    for (int lane = 0; lane < LANES; lane++)
        sum += lanes[lane];
    for (; i < count; i++)
        sum += weights[i] >= bound ? (double)weights[i] : 0.0;
    return sum;
}

/* ---- a copy of each for an instruction set */

#define PASSES(isa, target)                                                                        \
    target static bool all_below_infinity_##isa(const float *values, uint32_t count) {             \
        return all_below_infinity(values, count);                                                  \
    }                                                                                              \
    target static float find_maxima_##isa(const float *values, uint32_t count,                     \
                                          float *run_maxima) {                                     \
        return find_maxima(values, count, run_maxima);                                             \
    }                                                                                              \
    target static void fill_weights_##isa(float *weights, const float *logits, uint32_t count,     \
                                          float maximum, float temperature) {                      \
        fill_weights(weights, logits, count, maximum, temperature);                                \
    }                                                                                              \
    target static double find_sums_##isa(const float *weights, uint32_t count, double *run_sums) { \
        return find_sums(weights, count, run_sums);                                                \
    }                                                                                              \
    target static double sum_from_##isa(const float *weights, uint32_t count, float bound) {       \
        return sum_from(weights, count, bound);                                                    \
    }

#define PASSES_ROW(isa, flags)                                                        \
    {                                                                                 \
#isa, flags, all_below_infinity_##isa, find_maxima_##isa, fill_weights_##isa, \
            find_sums_##isa, sum_from_##isa                                           \
    }

#if defined(__x86_64__)
PASSES(avx512, __attribute__((target("avx512f"))))
PASSES(avx2, __attribute__((target("avx2"))))
#endif
PASSES(plain, )

const SamplerPasses sampler_passes_rows[] = {
#if defined(__x86_64__)
    PASSES_ROW(avx512, CPU_AVX512),
    PASSES_ROW(avx2, CPU_AVX2),
#endif
    PASSES_ROW(plain, 0),
    {.name = NULL},
};

bool sampler_passes_run(const SamplerPasses *passes) {
    return (cpu_features() & passes->needs) == passes->needs;
}

const SamplerPasses *sampler_passes_best(void) {
    const SamplerPasses *passes = sampler_passes_rows;
    while (!sampler_passes_run(passes))
        passes++;
    return passes;
}
