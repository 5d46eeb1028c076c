#ifndef KERNELS_CPU_ATTENTION_TURBO_H
#define KERNELS_CPU_ATTENTION_TURBO_H

/* How attention turns queries as TurboQuant turned the keys, and sums of values back, a row at a time: outlier channels to the
 * front, the rotation, and the order that the codes of a chunk have in lanes. */

#include <pthread.h>

#include "kernels/cpu/codec_turbo.h"
#include "runtime/base/invariant.h"

#ifdef VECTOR_LANES

/* ---- the rotation */

/* Signs stand before the transform on the way there, behind it on the way back. */
typedef enum TurboWay { TURBO_THERE, TURBO_BACK } TurboWay;

/* count is a constant: the numbers stay in registers */
INLINE void turbo_butterflies_of(uint32_t count, TurboWay way, const float *signs, float unit,
                                 const float *from, float *to) {
    Vector x[CODEC_HEAD_DIM_MAX / VECTOR_LANES];
    const uint32_t vectors = count / VECTOR_LANES;
    for (uint32_t v = 0; v < vectors; v++) {
        Vector sign = vector_load(signs + v * VECTOR_LANES);
        x[v] = vector_load(from + v * VECTOR_LANES);
        x[v] = way == TURBO_THERE ? vector_multiply(x[v], vector_multiply(sign, vector_set(unit)))
                                  : vector_from_code_order(x[v]);
    }
    turbo_stages(vectors, x);
    for (int reach = VECTOR_LANES / 2; reach > 0; reach /= 2)
        for (uint32_t v = 0; v < vectors; v++)
            x[v] = vector_butterfly(x[v], reach);
    for (uint32_t v = 0; v < vectors; v++) {
        Vector sign = vector_load(signs + v * VECTOR_LANES);
        x[v] = way == TURBO_THERE ? vector_to_code_order(x[v])
                                  : vector_multiply(x[v], vector_multiply(sign, vector_set(unit)));
        vector_store(to + v * VECTOR_LANES, x[v]);
    }
}

INLINE void turbo_butterflies(uint32_t count, TurboWay way, const float *signs, float unit,
                              const float *from, float *to) {
    switch (count) {
    case 16: turbo_butterflies_of(16, way, signs, unit, from, to); break;
    case 32: turbo_butterflies_of(32, way, signs, unit, from, to); break;
    case 64: turbo_butterflies_of(64, way, signs, unit, from, to); break;
    case 128: turbo_butterflies_of(128, way, signs, unit, from, to); break;
    case 256: turbo_butterflies_of(256, way, signs, unit, from, to); break;
    default: CHECK(!"a transform of that length");
    }
}

static void turbo_rotate(const TurboPlan *plan, const float *from, float *to) {
    for (uint32_t v = 0; v < plan->vector_count; v++) {
        const TurboVector *vector = &plan->vectors[v];
        for (uint32_t i = 0; i < vector->dim; i += vector->part_dim)
            turbo_butterflies(vector->part_dim, TURBO_THERE, plan->signs + i, vector->unit,
                              from + vector->first + i, to + vector->first + i);
        if (vector->part_dim < vector->dim) turbo_reflect(to + vector->first, vector->part_dim);
    }
}

/* `from` is used up. */
static void turbo_rotate_back(const TurboPlan *plan, float *from, float *to) {
    for (uint32_t v = 0; v < plan->vector_count; v++) {
        const TurboVector *vector = &plan->vectors[v];
        if (vector->part_dim < vector->dim) turbo_reflect(from + vector->first, vector->part_dim);
        for (uint32_t i = 0; i < vector->dim; i += vector->part_dim)
            turbo_butterflies(vector->part_dim, TURBO_BACK, plan->signs + i, vector->unit,
                              from + vector->first + i, to + vector->first + i);
    }
}

/* ---- the order of channels: outliers first, the others behind them, each in rising order */

enum { LANES_ALL = (1 << VECTOR_LANES) - 1 };

typedef float TurboRow[CODEC_HEAD_DIM_MAX + VECTOR_LANES]; /* room for a vector at any place */

#if VECTOR_LANES == 16

INLINE void lane_tables_open(void) {}

/* the lanes with a bit, one after the other; behind them anything */
INLINE Vector vector_compress(Vector x, uint32_t lanes) {
    return _mm512_maskz_compress_ps((__mmask16)lanes, x);
}

/* lanes with a bit take what is next in `some`, the rest what is next in `others` */
INLINE Vector vector_merge(uint32_t lanes, Vector some, Vector others) {
    Vector taken = _mm512_maskz_expand_ps((__mmask16)lanes, some);
    return _mm512_mask_expand_ps(taken, (__mmask16)~lanes, others);
}

#else

/* For each set of lanes: which they are, in order; and for each lane which of the set it is, or which of the others, 8 more. */
static uint8_t lanes_listed[LANES_ALL + 1][VECTOR_LANES], lanes_ranked[LANES_ALL + 1][VECTOR_LANES];

static void make_lane_tables(void) {
    for (uint32_t lanes = 0; lanes <= LANES_ALL; lanes++) {
        uint32_t counts[2] = {0, 0};
        for (uint32_t lane = 0; lane < VECTOR_LANES; lane++) {
            bool in = lanes >> lane & 1;
            if (in) lanes_listed[lanes][counts[1]] = (uint8_t)lane;
            lanes_ranked[lanes][lane] = (uint8_t)(counts[in]++ + (in ? 0 : 8));
        }
    }
}

INLINE void lane_tables_open(void) {
    static pthread_once_t made = PTHREAD_ONCE_INIT;
    pthread_once(&made, make_lane_tables);
}

INLINE Lanes lanes_from_bytes(const uint8_t *bytes) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)bytes));
}

/* the lanes with a bit, one after the other; behind them anything */
INLINE Vector vector_compress(Vector x, uint32_t lanes) {
    return _mm256_permutevar8x32_ps(x, lanes_from_bytes(lanes_listed[lanes]));
}

/* lanes with a bit take what is next in `some`, the rest what is next in `others` */
INLINE Vector vector_merge(uint32_t lanes, Vector some, Vector others) {
    Lanes ranks = lanes_from_bytes(lanes_ranked[lanes]);
    Vector other = _mm256_castsi256_ps(lanes_shift_left(ranks, 28));
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(some, ranks),
                            _mm256_permutevar8x32_ps(others, ranks), other);
}

#endif

INLINE uint32_t mask_lanes(const uint8_t *mask, uint32_t d) {
    uint32_t lanes = 0;
    memcpy(&lanes, mask + d / 8, VECTOR_LANES / 8);
    return lanes;
}

/* Whole vectors are stored: what lies beyond their last channel is overwritten by the next one. */
static void turbo_order(const uint8_t *mask, uint32_t head_dim, const float *x, TurboRow out) {
    float *place = out;
    for (uint32_t others = 0; others < 2; others++)
        for (uint32_t d = 0; d < head_dim; d += VECTOR_LANES) {
            uint32_t lanes = mask_lanes(mask, d) ^ (others ? LANES_ALL : 0);
            vector_store(place, vector_compress(vector_load(x + d), lanes));
            place += __builtin_popcount(lanes);
        }
}

static void turbo_order_back(const uint8_t *mask, uint32_t head_dim, const TurboRow x, float *out) {
    const float *outlier = x, *other = x;
    for (uint32_t d = 0; d < head_dim; d += VECTOR_LANES)
        other += __builtin_popcount(mask_lanes(mask, d));
    for (uint32_t d = 0; d < head_dim; d += VECTOR_LANES) {
        uint32_t lanes = mask_lanes(mask, d), count = (uint32_t)__builtin_popcount(lanes);
        vector_store(out + d, vector_merge(lanes, vector_load(outlier), vector_load(other)));
        outlier += count;
        other += VECTOR_LANES - count;
    }
}

#endif

#endif
