#include "kernels/codec/turboquant.h"

#include <math.h>
#include <pthread.h>
#include <stddef.h>
#include <string.h>

#include "kernels/codec/code_stream.h"
#include "kernels/codec/turboquant_codebooks.h"
#include "runtime/base/invariant.h"

enum { LANES = 16 }; /* sums of squares run in so many lanes on every instruction set */

static const uint64_t pi_bits[CODEC_HEAD_DIM_MAX / 64] = {0x243f6a8885a308d3u, 0x13198a2e03707344u,
                                                          0xa4093822299f31d0u, 0x082efa98ec4e6c89u};

/* ---- plans: a function of head_dim and the codec's bits */

static void plan_centroids(TurboVector *vector) {
    uint32_t half = 1u << (vector->bits - 1), row = 0;
    while (turbo_centroids[row].dim != vector->dim || turbo_centroids[row].bits != vector->bits) {
        row++;
        CHECK(row < sizeof turbo_centroids / sizeof *turbo_centroids);
    }
    for (uint32_t i = 0; i < half; i++) {
        vector->centroids[half + i] = turbo_centroids[row].positive[i];
        vector->centroids[half - 1 - i] = -turbo_centroids[row].positive[i];
    }
    for (uint32_t i = 0; i + 1 < 2 * half; i++)
        vector->thresholds[i] = 0.5f * (vector->centroids[i] + vector->centroids[i + 1]);
}

static void plan_add(TurboPlan *plan, uint32_t dim, uint32_t bits) {
    TurboVector *vector = &plan->vectors[plan->vector_count++];
    bool three = !is_power_of_two(dim);
    *vector = (TurboVector){.first = vector > plan->vectors ? vector[-1].dim : 0,
                            .dim = dim,
                            .part_dim = three ? dim / 3 : dim,
                            .bits = bits,
                            .row_offset = plan->row_bytes};
    vector->gain = sqrtf((float)dim / (float)vector->part_dim);
    vector->unit = 1.0f / sqrtf((float)vector->part_dim);
    plan->row_bytes += dim * bits / 8;
    plan_centroids(vector);
}

static TurboPlan plan_make(uint32_t head_dim, uint32_t bits, uint32_t outlier_bits) {
    TurboPlan plan = {.mask_bytes = outlier_bits ? head_dim / 8 : 0};
    uint32_t outliers = outlier_bits ? head_dim / 4 : 0;
    if (outliers) plan_add(&plan, outliers, outlier_bits);
    plan_add(&plan, head_dim - outliers, bits);
    for (uint32_t i = 0; i < CODEC_HEAD_DIM_MAX; i++)
        plan.signs[i] = pi_bits[i / 64] >> (63 - i % 64) & 1 ? -1.0f : 1.0f;
    return plan;
}

enum { DIM_POWERS = 5, BITS_MAX = 4 }; /* heads of 16 … 256 */

static TurboPlan plans[DIM_POWERS][2][BITS_MAX + 1];

static void make_plans(void) {
    for (uint32_t power = 0; power < DIM_POWERS; power++)
        for (uint32_t bits = 2; bits <= BITS_MAX; bits++) {
            plans[power][0][bits] = plan_make(16u << power, bits, 0);
            if (power >= 2 && bits < BITS_MAX)
                plans[power][1][bits] = plan_make(16u << power, bits, bits + 1);
        }
}

const TurboPlan *turbo_plan(const CodecHead *head) {
    static pthread_once_t made = PTHREAD_ONCE_INIT;
    pthread_once(&made, make_plans);
    uint32_t power = (uint32_t)__builtin_ctz(head->head_dim) - 4;
    return &plans[power][head->codec->outlier_bits != 0][head->codec->code_bits];
}

static const char *check_plain(const KvShape *shape) {
    bool fits = is_power_of_two(shape->head_dim) && shape->head_dim >= 16;
    return fits ? NULL : "the head size must be a power of two from 16 to 256";
}

static const char *check_outliers(const KvShape *shape) {
    bool fits = is_power_of_two(shape->head_dim) && shape->head_dim >= 64;
    return fits ? NULL : "the head size must be 64, 128 or 256";
}

/* ---- where things lie */

static uint64_t norms_offset(const CodecHead *head, const TurboPlan *plan) {
    return plan->mask_bytes + (uint64_t)head->token_count * plan->row_bytes;
}

static uint64_t head_bytes_turboquant(const CodecHead *head) {
    const TurboPlan *plan = turbo_plan(head);
    return norms_offset(head, plan) + 2u * (uint64_t)head->token_count * plan->vector_count;
}

void turbo_channels(const TurboPlan *plan, const uint8_t *mask, uint32_t head_dim,
                    uint16_t *channels) {
    uint32_t place = 0;
    for (uint32_t chosen = 0; chosen < 2; chosen++) /* outliers, then the rest */
        for (uint32_t byte = 0; byte < head_dim / 8; byte += sizeof(uint16_t)) {
            uint16_t bits = 0;
            if (plan->mask_bytes) memcpy(&bits, mask + byte, sizeof bits);
            for (uint32_t left = chosen ? (uint16_t)~bits : bits; left; left &= left - 1)
                channels[place++] = (uint16_t)(8 * byte + (uint32_t)__builtin_ctz(left));
        }
}

/* ---- the rotation */

static void butterflies(float *x, uint32_t count) {
    for (uint32_t reach = count / 2; reach > 0; reach /= 2)
        for (uint32_t i = 0; i < count; i++)
            if (!(i & reach)) {
                float a = x[i], b = x[i + reach];
                x[i] = a + b;
                x[i + reach] = a - b;
            }
}

static void reflect(float *x, uint32_t part_dim) {
    for (uint32_t i = 0; i < part_dim; i++) {
        float sum = (x[i] + x[part_dim + i]) + x[2 * part_dim + i];
        float taken = sum * (2.0f / 3.0f);
        for (uint32_t part = 0; part < 3; part++)
            x[part * part_dim + i] -= taken;
    }
}

static void parts_transform(const TurboVector *vector, float *x) {
    for (uint32_t first = 0; first < vector->dim; first += vector->part_dim)
        butterflies(x + first, vector->part_dim);
}

/* without the factor unit */
static void rotate(const TurboPlan *plan, const TurboVector *vector, float *x) {
    for (uint32_t i = 0; i < vector->dim; i++)
        x[i] *= plan->signs[i];
    parts_transform(vector, x);
    if (vector->part_dim < vector->dim) reflect(x, vector->part_dim);
}

static void rotate_back(const TurboPlan *plan, const TurboVector *vector, float *x) {
    if (vector->part_dim < vector->dim) reflect(x, vector->part_dim);
    parts_transform(vector, x);
    for (uint32_t i = 0; i < vector->dim; i++)
        x[i] *= plan->signs[i];
}

/* ---- encode */

/* Squares of halves are exact in f32; the sums meet in the tree of a vector's lanes. */
static float sum_of_squares(const float *x, uint32_t count) {
    float lanes[LANES] = {0.0f};
    for (uint32_t i = 0; i < count; i++)
        lanes[i % LANES] += x[i] * x[i];
    for (uint32_t reach = LANES / 2; reach > 0; reach /= 2)
        for (uint32_t i = 0; i < reach; i++)
            lanes[i] += lanes[i + reach];
    return lanes[0];
}

/* The outliers: the channels of most energy, of equal ones the first. */
static void choose_outliers(const CodecHead *head, const uint16_t *halves, uint32_t outlier_count,
                            uint8_t *mask) {
    float energies[CODEC_HEAD_DIM_MAX] = {0.0f};
    for (uint32_t token = 0; token < head->token_count; token++)
        for (uint32_t d = 0; d < head->head_dim; d++) {
            float x = f16_to_f32(halves[(uint64_t)token * head->head_dim + d]);
            energies[d] += x * x;
        }
    for (uint32_t d = 0; d < head->head_dim; d++) {
        uint32_t before = 0;
        for (uint32_t e = 0; e < head->head_dim; e++)
            before += energies[e] > energies[d] || (energies[e] == energies[d] && e < d);
        if (before < outlier_count) code_put(mask, 1, d, 1);
    }
}

static uint16_t encode_vector(const TurboPlan *plan, const TurboVector *vector, float *x,
                              uint8_t *row) {
    float squares = sum_of_squares(x, vector->dim);
    float inverse = squares > 0.0f ? vector->gain / sqrtf(squares) : 0.0f;
    rotate(plan, vector, x);
    for (uint32_t i = 0; i < vector->dim; i++) {
        float coordinate = x[i] * inverse;
        uint32_t code = 0;
        for (uint32_t t = 0; t + 1 < 1u << vector->bits; t++)
            code += coordinate > vector->thresholds[t];
        code_put(row + vector->row_offset, vector->bits, i, code);
    }
    return f32_to_f16(sqrtf(squares / (float)vector->dim));
}

static void encode_turboquant(const CodecHead *head, const uint16_t *halves, uint8_t *out_bytes) {
    const TurboPlan *plan = turbo_plan(head);
    uint16_t channels[CODEC_HEAD_DIM_MAX];
    uint8_t *norms = out_bytes + norms_offset(head, plan);
    memset(out_bytes, 0, norms_offset(head, plan));
    if (plan->mask_bytes) choose_outliers(head, halves, plan->vectors[0].dim, out_bytes);
    turbo_channels(plan, out_bytes, head->head_dim, channels);
    for (uint32_t token = 0; token < head->token_count; token++) {
        uint8_t *row = out_bytes + plan->mask_bytes + (uint64_t)token * plan->row_bytes;
        for (uint32_t v = 0; v < plan->vector_count; v++) {
            const TurboVector *vector = &plan->vectors[v];
            float x[CODEC_HEAD_DIM_MAX];
            for (uint32_t i = 0; i < vector->dim; i++)
                x[i] = f16_to_f32(
                    halves[(uint64_t)token * head->head_dim + channels[vector->first + i]]);
            half_put(norms, (uint64_t)token * plan->vector_count + v,
                     encode_vector(plan, vector, x, row));
        }
    }
}

/* ---- decode */

static void expand_turboquant(const CodecHead *head, const uint8_t *bytes, uint32_t token,
                              float *out) {
    const TurboPlan *plan = turbo_plan(head);
    uint16_t channels[CODEC_HEAD_DIM_MAX];
    const uint8_t *row = bytes + plan->mask_bytes + (uint64_t)token * plan->row_bytes;
    const uint8_t *norms = bytes + norms_offset(head, plan);
    turbo_channels(plan, bytes, head->head_dim, channels);
    for (uint32_t v = 0; v < plan->vector_count; v++) {
        const TurboVector *vector = &plan->vectors[v];
        float x[CODEC_HEAD_DIM_MAX];
        float norm = half_get(norms, (uint64_t)token * plan->vector_count + v) * vector->unit;
        for (uint32_t i = 0; i < vector->dim; i++)
            x[i] = vector->centroids[code_get(row + vector->row_offset, vector->bits, i)];
        rotate_back(plan, vector, x);
        for (uint32_t i = 0; i < vector->dim; i++)
            out[channels[vector->first + i]] = x[i] * norm;
    }
}

/* A unit vector's coordinates lie in a cell of their centroid or beyond the last one: the first kind is off by half the
 * widest cell, 1.5 / sqrt(dim), the second by less than itself. */
static double error_max_turboquant(const Codec *codec, double min, double max, double norm) {
    (void)codec, (void)min, (void)max;
    return norm * (sqrt(1.0 + 1.5 * 1.5) + 0x1p-9) + 16 * 0x1p-24;
}

#define TURBOQUANT_ROW(label, low, outlier, fits)                                                 \
    {                                                                                             \
        .name = "turboquant" label, .paper = "TurboQuant, arXiv 2504.19874", .code_bits = (low),  \
        .outlier_bits = (outlier), .group_tokens = 1, .check = (fits),                            \
        .head_bytes = head_bytes_turboquant, .encode = encode_turboquant,                         \
        .decode = decode_expanded, .expand = expand_turboquant, .error_max = error_max_turboquant \
    }

const Codec codec_turboquant[] = {
    TURBOQUANT_ROW("2", 2, 0, check_plain), TURBOQUANT_ROW("2_5", 2, 3, check_outliers),
    TURBOQUANT_ROW("3", 3, 0, check_plain), TURBOQUANT_ROW("3_5", 3, 4, check_outliers),
    TURBOQUANT_ROW("4", 4, 0, check_plain), {.name = NULL},
};
