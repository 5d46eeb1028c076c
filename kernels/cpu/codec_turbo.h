#ifndef KERNELS_CPU_CODEC_TURBO_H
#define KERNELS_CPU_CODEC_TURBO_H

/* The rotation of kernels/codec/turboquant.h in vectors; the same operations in the same order on every number. */

#include "kernels/codec/turboquant.h"
#include "kernels/cpu/codec_forms.h"

#ifdef VECTOR_LANES

static void turbo_butterflies(float *x, uint32_t count) {
    for (uint32_t reach = count / 2; reach >= VECTOR_LANES; reach /= 2)
        for (uint32_t first = 0; first < count; first += 2 * reach)
            for (uint32_t i = first; i < first + reach; i += VECTOR_LANES) {
                Vector a = vector_load(x + i), b = vector_load(x + i + reach);
                vector_store(x + i, vector_add(a, b));
                vector_store(x + i + reach, vector_subtract(a, b));
            }
    for (uint32_t i = 0; i < count; i += VECTOR_LANES) {
        Vector lanes = vector_load(x + i);
        for (int reach = VECTOR_LANES / 2; reach > 0; reach /= 2)
            lanes = vector_butterfly(lanes, reach);
        vector_store(x + i, lanes);
    }
}

static void turbo_reflect(float *x, uint32_t part_dim) {
    for (uint32_t i = 0; i < part_dim; i += VECTOR_LANES) {
        Vector a = vector_load(x + i), b = vector_load(x + part_dim + i),
               c = vector_load(x + 2 * part_dim + i);
        Vector taken = vector_multiply(vector_add(vector_add(a, b), c), vector_set(2.0f / 3.0f));
        vector_store(x + i, vector_subtract(a, taken));
        vector_store(x + part_dim + i, vector_subtract(b, taken));
        vector_store(x + 2 * part_dim + i, vector_subtract(c, taken));
    }
}

static void turbo_signs(const TurboPlan *plan, uint32_t dim, float *x) {
    for (uint32_t i = 0; i < dim; i += VECTOR_LANES)
        vector_store(x + i, vector_multiply(vector_load(x + i), vector_load(plan->signs + i)));
}

static void turbo_transform(const TurboVector *vector, float *x) {
    for (uint32_t first = 0; first < vector->dim; first += vector->part_dim)
        turbo_butterflies(x + first, vector->part_dim);
}

/* without the factor unit */
static void turbo_rotate(const TurboPlan *plan, const TurboVector *vector, float *x) {
    turbo_signs(plan, vector->dim, x);
    turbo_transform(vector, x);
    if (vector->part_dim < vector->dim) turbo_reflect(x, vector->part_dim);
}

static void turbo_rotate_back(const TurboPlan *plan, const TurboVector *vector, float *x) {
    if (vector->part_dim < vector->dim) turbo_reflect(x, vector->part_dim);
    turbo_transform(vector, x);
    turbo_signs(plan, vector->dim, x);
}

INLINE CodeForm turbo_form(const TurboVector *vector) {
    return vector->bits == 2 ? FORM_TABLE2 : vector->bits == 3 ? FORM_TABLE3 : FORM_TABLE4;
}

#endif

#endif
