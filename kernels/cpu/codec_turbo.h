#ifndef KERNELS_CPU_CODEC_TURBO_H
#define KERNELS_CPU_CODEC_TURBO_H

/* What TurboQuant's encoder, decoder and attention share: a piece of the rotation of kernels/codec/turboquant.h in vectors,
 * the same operations in the same order on every number. */

#include "kernels/codec/turboquant.h"
#include "kernels/cpu/codec_forms.h"

#ifdef VECTOR_LANES

/* Numbers `reach` apart meet. count and reach are constants: x stays in registers. */
INLINE void turbo_stage(uint32_t count, uint32_t reach, Vector *x) {
#pragma GCC unroll 16
    for (uint32_t first = 0; first + reach < count; first += 2 * reach)
#pragma GCC unroll 16
        for (uint32_t i = first; i < first + reach; i++) {
            Vector a = x[i], b = x[i + reach];
            x[i] = vector_add(a, b);
            x[i + reach] = vector_subtract(a, b);
        }
}

/* All stages of a transform of vectors; at most 32 of them. */
INLINE void turbo_stages(uint32_t count, Vector *x) {
    turbo_stage(count, 16, x);
    turbo_stage(count, 8, x);
    turbo_stage(count, 4, x);
    turbo_stage(count, 2, x);
    turbo_stage(count, 1, x);
}

/* The reflection across three parts. */
INLINE void turbo_reflect(float *x, uint32_t part_dim) {
    for (uint32_t i = 0; i < part_dim; i += VECTOR_LANES) {
        Vector a = vector_load(x + i), b = vector_load(x + part_dim + i),
               c = vector_load(x + 2 * part_dim + i);
        Vector taken = vector_multiply(vector_add(vector_add(a, b), c), vector_set(2.0f / 3.0f));
        vector_store(x + i, vector_subtract(a, taken));
        vector_store(x + part_dim + i, vector_subtract(b, taken));
        vector_store(x + 2 * part_dim + i, vector_subtract(c, taken));
    }
}

INLINE CodeForm turbo_form(const TurboVector *vector) {
    return vector->bits == 2 ? FORM_TABLE2 : vector->bits == 3 ? FORM_TABLE3 : FORM_TABLE4;
}

#endif

#endif
