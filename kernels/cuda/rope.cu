/* Rotary position embedding: a thread a pair. */

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/port.cuh"

enum { ROPE_THREADS = 128 };

KERNEL(ROPE_THREADS) void rotate_pairs(RopeArgs args) {
    uint32_t pair_count = args.rotary_dim / 2;
    uint32_t item = block_index().x * ROPE_THREADS + thread_index().x;
    if (item >= args.head_count * pair_count) return;
    uint32_t pair = item % pair_count;
    uint64_t row = block_index().y, angle = (uint64_t)args.positions[row] * pair_count + pair;
    float *head = args.x + row * args.x_stride + (uint64_t)(item / pair_count) * args.head_dim;
    float *first = head + (args.interleaved ? 2 * pair : pair);
    float *second = first + (args.interleaved ? 1 : pair_count);
    float a = *first, b = *second, cosine = args.cosines[angle], sine = args.sines[angle];
    *first = fused_multiply_add(a, cosine, -(b * sine));
    *second = fused_multiply_add(a, sine, b * cosine);
}

static void rope_launch(DeviceStream *stream, const RopeArgs *args) {
    uint32_t items = args->head_count * (args->rotary_dim / 2);
    LAUNCH(rotate_pairs, extent((items + ROPE_THREADS - 1) / ROPE_THREADS, args->row_count),
           extent(ROPE_THREADS), 0, stream, *args);
}

extern "C" void PORT_NAME(rope_fill)(CudaLaunchers *launchers) {
    launchers->rope = rope_launch;
}
