#ifndef CUDA_REDUCE_CUH
#define CUDA_REDUCE_CUH

/* Sums and maxima over a warp or a block, in one order each: what a row's bits stand on. Every lane and thread gets the result.
 *
 * A warp sums in a butterfly: each level adds the same pairs in every lane, and a + b is b + a, so that all lanes hold the same
 * bits. A block adds the sums of its warps from the first to the last. */

#include "kernels/cuda/port.cuh"

enum { WARPS_MAX = 32 };

DEVICE float warp_sum(float value) {
    for (uint32_t mask = WARP_LANES / 2; mask > 0; mask /= 2)
        value += warp_shuffle_xor(value, mask);
    return value;
}

/* A NaN loses to a number. */
DEVICE float warp_max(float value) {
    for (uint32_t mask = WARP_LANES / 2; mask > 0; mask /= 2)
        value = fmaxf(value, warp_shuffle_xor(value, mask));
    return value;
}

DEVICE float warp_min(float value) {
    for (uint32_t mask = WARP_LANES / 2; mask > 0; mask /= 2)
        value = fminf(value, warp_shuffle_xor(value, mask));
    return value;
}

DEVICE uint32_t warp_or(uint32_t value) {
    for (uint32_t mask = WARP_LANES / 2; mask > 0; mask /= 2)
        value |= warp_shuffle_xor(value, mask);
    return value;
}

/* Of a softmax: exp(x - max), where a maximum of -inf stands for "nothing yet". */
DEVICE float weight_of(float x, float max) {
    return exponential(x - (max == -INFINITY ? 0.0f : max));
}

/* warp_sums[warps of the block]: free for the next use after the next barrier of the block. */
DEVICE float block_sum(float value, SharedArray<float> warp_sums) {
    value = warp_sum(value);
    if (warp_lane() == 0) warp_sums[warp_index()] = value;
    block_sync();
    float sum = 0.0f;
    for (uint32_t warp = 0; warp < block_extent().x / WARP_LANES; warp++)
        sum += (float)warp_sums[warp];
    return sum;
}

#endif
