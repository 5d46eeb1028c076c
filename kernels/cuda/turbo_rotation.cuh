#ifndef CUDA_TURBO_ROTATION_CUH
#define CUDA_TURBO_ROTATION_CUH

/* TurboQuant's rotation and channel order (kernels/codec/turboquant.h), a warp a token: for encoding in shared memory, lanes across
 * the pairs of a butterfly; for attention in registers, lanes across the places. The sums are those of the specification in its
 * order. */

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/port.cuh"

/* x[dim]: every part of part_dim through its Hadamard transform. All lanes; ordered before and after. */
DEVICE void turbo_butterflies(SharedArray<float> x, uint32_t dim, uint32_t part_dim) {
    for (uint32_t reach = part_dim / 2; reach > 0; reach /= 2) {
        warp_sync();
        for (uint32_t pair = warp_lane(); pair < dim / 2; pair += WARP_LANES) {
            uint32_t first = pair / reach * 2 * reach + pair % reach;
            float a = x[first], b = x[first + reach];
            x[first] = a + b;
            x[first + reach] = a - b;
        }
    }
    warp_sync();
}

/* I - 2/3 J across the three parts. */
DEVICE void turbo_reflect(SharedArray<float> x, uint32_t part_dim) {
    warp_sync();
    for (uint32_t i = warp_lane(); i < part_dim; i += WARP_LANES) {
        float a = x[i], b = x[part_dim + i], c = x[2 * part_dim + i];
        float taken = ((a + b) + c) * (2.0f / 3.0f);
        x[i] = a - taken;
        x[part_dim + i] = b - taken;
        x[2 * part_dim + i] = c - taken;
    }
    warp_sync();
}

DEVICE uint32_t count_bits(uint32_t word) {
    uint32_t count = 0;
    for (; word; word &= word - 1)
        count++;
    return count;
}

/* channels[place], the outliers first, by all threads of the block; ordered after the next barrier. */
DEVICE void turbo_channel_order(const TurboPlan *plan, const uint8_t *mask, uint32_t head_dim,
                                SharedArray<uint32_t> channels) {
    for (uint32_t d = thread_index().x; d < head_dim; d += block_extent().x) {
        uint32_t before = 0, total = 0; /* outliers below d, and all */
        for (uint32_t byte = 0; byte < plan->mask_bytes; byte++) {
            uint32_t bits = mask[byte];
            total += count_bits(bits);
            if (8 * byte + 8 <= d)
                before += count_bits(bits);
            else if (8 * byte <= d)
                before += count_bits(bits & ((1u << d % 8) - 1));
        }
        bool outlier = plan->mask_bytes && (mask[d / 8] >> d % 8 & 1);
        channels[outlier ? before : plan->mask_bytes ? total + d - before : d] = d;
    }
}

/* The vector that holds a place. */
DEVICE uint32_t turbo_vector_of(const TurboPlan *plan, uint32_t place) {
    return plan->vector_count > 1 && place >= plan->vectors[1].first;
}

/* What a lane knows of its places lane, lane + 32, … of every token: where their codes lie and what becomes of them. */
template <uint32_t SLOTS> struct TurboLane {
    uint32_t code_at[SLOTS]; /* bits from the row's begin */
    uint32_t channels[SLOTS];
    float signs[SLOTS];
    bool second[SLOTS];                 /* of the second vector */
    float centroids[TURBO_VECTORS_MAX]; /* of the code that is the lane, round */
    uint32_t bits[TURBO_VECTORS_MAX];
    float units[TURBO_VECTORS_MAX];
    uint32_t part_dim; /* the same for both */
    bool reflects;
};

template <uint32_t SLOTS>
DEVICE TurboLane<SLOTS> turbo_lane(const TurboPlan *plan, uint32_t head_dim,
                                   SharedArray<uint32_t> channels) {
    TurboLane<SLOTS> own = {};
    const TurboVector *last = &plan->vectors[plan->vector_count - 1];
    for (uint32_t v = 0; v < TURBO_VECTORS_MAX; v++) {
        const TurboVector *vector = &plan->vectors[v < plan->vector_count ? v : 0];
        own.centroids[v] = vector->centroids[warp_lane() % TURBO_CODES_MAX];
        own.bits[v] = vector->bits;
        own.units[v] = vector->unit;
    }
    own.part_dim = last->part_dim;
    own.reflects = last->part_dim < last->dim;
    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        uint32_t place = warp_lane() + slot * WARP_LANES;
        if (place >= head_dim) continue;
        const TurboVector *vector = &plan->vectors[turbo_vector_of(plan, place)];
        uint32_t index = place - vector->first;
        own.second[slot] = turbo_vector_of(plan, place) == 1;
        own.code_at[slot] = 8 * vector->row_offset + index * vector->bits;
        own.signs[slot] = plan->signs[index];
        own.channels[slot] = channels[place];
    }
    return own;
}

/* The reflection of the second vector, whose three parts begin at place part_dim, in registers; parts of 16 are halves of a slot. */
template <uint32_t SLOTS> DEVICE void turbo_reflect_lanes(uint32_t part_dim, float *x) {
    if (part_dim < WARP_LANES) {
        uint32_t half = warp_lane() % part_dim;
        float a = warp_shuffle(x[0], part_dim + half), b = warp_shuffle(x[1], half);
        float c = warp_shuffle(x[1], part_dim + half), taken = ((a + b) + c) * (2.0f / 3.0f);
        if (warp_lane() >= part_dim) x[0] -= taken;
        x[1] -= taken;
        return;
    }
#pragma unroll
    for (uint32_t step = 1; step <= SLOTS / 4; step++) /* slots of a part */
        if (part_dim == step * WARP_LANES)
            for (uint32_t i = step; i < 2 * step; i++) {
                float taken = ((x[i] + x[i + step]) + x[i + 2 * step]) * (2.0f / 3.0f);
                x[i] -= taken;
                x[i + step] -= taken;
                x[i + 2 * step] -= taken;
            }
}

/* Butterflies that reach a lane, then a slot, less and less far. */
template <uint32_t SLOTS> DEVICE void turbo_butterfly_lanes(uint32_t part_dim, float *x) {
#pragma unroll
    for (uint32_t step = SLOTS / 2; step > 0; step /= 2)
        if (step * WARP_LANES < part_dim)
            for (uint32_t i = 0; i < SLOTS; i++)
                if (!(i & step)) {
                    float a = x[i], b = x[i + step];
                    x[i] = a + b;
                    x[i + step] = a - b;
                }
    for (uint32_t reach = WARP_LANES / 2; reach > 0; reach /= 2)
        if (reach < part_dim)
            for (uint32_t i = 0; i < SLOTS; i++) {
                float other = warp_shuffle_xor(x[i], reach);
                x[i] = warp_lane() & reach ? other - x[i] : x[i] + other;
            }
}

/* A code of 2, 3 or 4 bits; none reads past its row's last byte. */
DEVICE uint32_t turbo_code(const uint8_t *row, uint32_t bits, uint32_t first_bit) {
    uint32_t shift = first_bit % 8, two = row[first_bit / 8];
    if (shift + bits > 8) two |= (uint32_t)row[first_bit / 8 + 1] << 8;
    return two >> shift & ((1u << bits) - 1);
}

/* The numbers of a token into out[head_dim], by one warp. bytes: of the head. */
template <uint32_t SLOTS>
DEVICE void turbo_expand_token(const TurboPlan *plan, const TurboLane<SLOTS> &own,
                               const uint8_t *bytes, uint32_t token_count, uint32_t token,
                               uint32_t head_dim, SharedArray<float> out) {
    const uint8_t *row = bytes + plan->mask_bytes + token * plan->row_bytes;
    const uint16_t *norms = reinterpret_cast<const uint16_t *>(bytes + plan->mask_bytes +
                                                               token_count * plan->row_bytes);
    float x[SLOTS], numbers[TURBO_VECTORS_MAX];
    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        uint32_t code = 0;
        if (warp_lane() + slot * WARP_LANES < head_dim)
            code = turbo_code(row, own.second[slot] ? own.bits[1] : own.bits[0], own.code_at[slot]);
        for (uint32_t v = 0; v < TURBO_VECTORS_MAX; v++)
            numbers[v] = warp_shuffle(own.centroids[v], code);
        x[slot] = own.second[slot] ? numbers[1] : numbers[0];
    }
    if (own.reflects) turbo_reflect_lanes<SLOTS>(own.part_dim, x);
    turbo_butterfly_lanes<SLOTS>(own.part_dim, x);
    for (uint32_t v = 0; v < TURBO_VECTORS_MAX; v++) {
        uint32_t index = v < plan->vector_count ? v : 0;
        numbers[v] = half_to_float(norms[token * plan->vector_count + index]) * own.units[v];
    }
    for (uint32_t slot = 0; slot < SLOTS; slot++)
        if (warp_lane() + slot * WARP_LANES < head_dim)
            out[own.channels[slot]] =
                x[slot] * own.signs[slot] * (own.second[slot] ? numbers[1] : numbers[0]);
}

#endif
