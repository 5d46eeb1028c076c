#ifndef KERNELS_CPU_VECTOR_H
#define KERNELS_CPU_VECTOR_H

/* The vector of the instruction set that a file is compiled for, so that a kernel is written once. Empty without
 * one. VECTOR_LANES is its width in floats; a "tail" call touches the first `count` lanes' memory only and
 * reads the others as zero. Every operation rounds once; fused ones say so. */

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#include "kernels/cpu/vector_avx512.h"
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "kernels/cpu/vector_avx2.h"
#endif

#ifdef VECTOR_LANES

static inline Vector vector_load_tail_or_full(const float *x, uint32_t count) {
    return count >= VECTOR_LANES ? vector_load(x) : vector_load_tail(x, count);
}

static inline void vector_store_tail_or_full(float *x, Vector value, uint32_t count) {
    if (count >= VECTOR_LANES)
        vector_store(x, value);
    else
        vector_store_tail(x, value, count);
}

/* exp(x) to 1.02 ulp (every seventh float against double): -inf gives 0, NaN stays NaN, results below the normal range are
 * rounded, above it they are infinity. Range reduction by Cody and Waite, polynomial of Cephes' expf. */
static inline Vector vector_exp(Vector x) {
    x = vector_max(vector_set(-104.0f), x); /* the second operand is kept when it is NaN */
    x = vector_min(vector_set(89.0f), x);
    Vector n = vector_round(vector_multiply(x, vector_set(1.44269504088896341f)));
    Vector r = vector_fma(n, vector_set(-0.693359375f), x);
    r = vector_fma(n, vector_set(2.12194440e-4f), r);
    Vector p = vector_set(1.9875691500e-4f);
    p = vector_fma(p, r, vector_set(1.3981999507e-3f));
    p = vector_fma(p, r, vector_set(8.3334519073e-3f));
    p = vector_fma(p, r, vector_set(4.1665795894e-2f));
    p = vector_fma(p, r, vector_set(1.6666665459e-1f));
    p = vector_fma(p, r, vector_set(5.0000001201e-1f));
    p = vector_fma(vector_multiply(r, r), p, r);
    return vector_scale_power(vector_add(p, vector_set(1.0f)), n);
}

#endif

#endif
