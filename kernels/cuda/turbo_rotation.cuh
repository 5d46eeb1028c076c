#ifndef CUDA_TURBO_ROTATION_CUH
#define CUDA_TURBO_ROTATION_CUH

/* TurboQuant's rotation and channel order (kernels/codec/turboquant.h) in shared memory: a warp a token, its lanes across the
 * pairs of a butterfly. The sums are those of the specification in its order. */

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

/* A code of 2, 3 or 4 bits; none reads past its row's last byte. */
DEVICE uint32_t turbo_code(const uint8_t *row, uint32_t bits, uint32_t index) {
    uint32_t first = index * bits, shift = first % 8, two = row[first / 8];
    if (shift + bits > 8) two |= (uint32_t)row[first / 8 + 1] << 8;
    return two >> shift & ((1u << bits) - 1);
}

/* The numbers of a token into x[head_dim], by one warp. bytes: of the head. */
DEVICE void turbo_expand_token(const TurboPlan *plan, const uint8_t *bytes, uint32_t token_count,
                               uint32_t token, uint32_t head_dim, SharedArray<uint32_t> channels,
                               SharedArray<float> x) {
    enum { SLOTS = CODEC_HEAD_DIM_MAX / WARP_LANES };
    const uint8_t *row = bytes + plan->mask_bytes + (uint64_t)token * plan->row_bytes;
    const uint8_t *norms = bytes + plan->mask_bytes + (uint64_t)token_count * plan->row_bytes;
    for (uint32_t place = warp_lane(); place < head_dim; place += WARP_LANES) {
        const TurboVector *vector = &plan->vectors[turbo_vector_of(plan, place)];
        x[place] = vector->centroids[turbo_code(row + vector->row_offset, vector->bits,
                                                place - vector->first)];
    }
    for (uint32_t v = 0; v < plan->vector_count; v++) {
        const TurboVector *vector = &plan->vectors[v];
        if (vector->part_dim < vector->dim) turbo_reflect(x + vector->first, vector->part_dim);
        turbo_butterflies(x + vector->first, vector->dim, vector->part_dim);
    }
    float numbers[SLOTS];
    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        uint32_t place = warp_lane() + slot * WARP_LANES;
        if (place >= head_dim) continue;
        uint32_t v = turbo_vector_of(plan, place);
        const TurboVector *vector = &plan->vectors[v];
        uint16_t half =
            reinterpret_cast<const uint16_t *>(norms)[(uint64_t)token * plan->vector_count + v];
        float norm = half_to_float(half) * vector->unit;
        numbers[slot] = (float)x[place] * plan->signs[place - vector->first] * norm;
    }
    warp_sync();
    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        uint32_t place = warp_lane() + slot * WARP_LANES;
        if (place < head_dim) x[(uint32_t)channels[place]] = numbers[slot];
    }
}

#endif
