#ifndef KERNELS_CPU_CODEC_TURBO_H
#define KERNELS_CPU_CODEC_TURBO_H

/* The rotation of kernels/codec/turboquant.h in vectors; the same operations in the same order on every number. */

#include "kernels/codec/turboquant.h"
#include "kernels/cpu/codec_forms.h"
#include "runtime/base/invariant.h"

#ifdef VECTOR_LANES

/* Signs stand before the transform on the way there, behind it on the way back. */
typedef enum TurboWay { TURBO_THERE, TURBO_BACK } TurboWay;

/* count is a constant: the numbers stay in registers */
INLINE void turbo_butterflies_of(uint32_t count, TurboWay way, const float *signs, float *numbers) {
    Vector x[CODEC_HEAD_DIM_MAX / VECTOR_LANES];
    const uint32_t vectors = count / VECTOR_LANES;
    for (uint32_t v = 0; v < vectors; v++) {
        x[v] = vector_load(numbers + v * VECTOR_LANES);
        if (way == TURBO_THERE) x[v] = vector_multiply(x[v], vector_load(signs + v * VECTOR_LANES));
    }
    for (uint32_t reach = vectors / 2; reach > 0; reach /= 2)
        for (uint32_t v = 0; v < vectors; v++)
            if (!(v & reach)) {
                Vector a = x[v], b = x[v + reach];
                x[v] = vector_add(a, b);
                x[v + reach] = vector_subtract(a, b);
            }
    for (uint32_t v = 0; v < vectors; v++) {
        for (int reach = VECTOR_LANES / 2; reach > 0; reach /= 2)
            x[v] = vector_butterfly(x[v], reach);
        if (way == TURBO_BACK) x[v] = vector_multiply(x[v], vector_load(signs + v * VECTOR_LANES));
        vector_store(numbers + v * VECTOR_LANES, x[v]);
    }
}

INLINE void turbo_butterflies(uint32_t count, TurboWay way, const float *signs, float *x) {
    switch (count) {
    case 16: turbo_butterflies_of(16, way, signs, x); break;
    case 32: turbo_butterflies_of(32, way, signs, x); break;
    case 64: turbo_butterflies_of(64, way, signs, x); break;
    case 128: turbo_butterflies_of(128, way, signs, x); break;
    case 256: turbo_butterflies_of(256, way, signs, x); break;
    default: CHECK(!"a transform of that length");
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

/* without the factor unit */
static void turbo_rotate(const TurboPlan *plan, const TurboVector *vector, float *x) {
    for (uint32_t first = 0; first < vector->dim; first += vector->part_dim)
        turbo_butterflies(vector->part_dim, TURBO_THERE, plan->signs + first, x + first);
    if (vector->part_dim < vector->dim) turbo_reflect(x, vector->part_dim);
}

static void turbo_rotate_back(const TurboPlan *plan, const TurboVector *vector, float *x) {
    if (vector->part_dim < vector->dim) turbo_reflect(x, vector->part_dim);
    for (uint32_t first = 0; first < vector->dim; first += vector->part_dim)
        turbo_butterflies(vector->part_dim, TURBO_BACK, plan->signs + first, x + first);
}

static void turbo_scale(float *x, uint32_t count, float factor) {
    for (uint32_t i = 0; i < count; i += VECTOR_LANES)
        vector_store(x + i, vector_multiply(vector_load(x + i), vector_set(factor)));
}

INLINE CodeForm turbo_form(const TurboVector *vector) {
    return vector->bits == 2 ? FORM_TABLE2 : vector->bits == 3 ? FORM_TABLE3 : FORM_TABLE4;
}

#endif

#endif
