/* Rotary position embedding: a thread a pair, those of k behind those of q. */

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/port.cuh"

enum { ROPE_THREADS = 128 };

KERNEL(ROPE_THREADS) void rotate_pairs(RopeArgs args) {
    uint32_t pair_count = args.rotary_dim / 2;
    uint32_t item = block_index().x * ROPE_THREADS + thread_index().x;
    uint32_t pair = item % pair_count, head_index = item / pair_count;
    bool is_k = head_index >= args.matrices[0].head_count;
    if (is_k) head_index -= args.matrices[0].head_count;
    if (is_k && head_index >= args.matrices[1].head_count) return;
    float *x = is_k ? args.matrices[1].x : args.matrices[0].x;
    uint64_t stride = is_k ? args.matrices[1].x_stride : args.matrices[0].x_stride;
    uint64_t row = block_index().y, angle = (uint64_t)args.positions[row] * pair_count + pair;
    float *head = x + row * stride + (uint64_t)head_index * args.head_dim;
    float *first = head + (args.interleaved ? 2 * pair : pair);
    float *second = first + (args.interleaved ? 1 : pair_count);
    float a = *first, b = *second, cosine = args.cosines[angle], sine = args.sines[angle];
    *first = fused_multiply_add(a, cosine, -(b * sine));
    *second = fused_multiply_add(a, sine, b * cosine);
}

static void rope_launch(DeviceStream *stream, const RopeArgs *args) {
    uint32_t heads = args->matrices[0].head_count + args->matrices[1].head_count;
    uint32_t items = heads * (args->rotary_dim / 2);
    LAUNCH(rotate_pairs, extent((items + ROPE_THREADS - 1) / ROPE_THREADS, args->row_count),
           extent(ROPE_THREADS), 0, stream, *args);
}

extern "C" void PORT_NAME(rope_fill)(CudaLaunchers *launchers) {
    launchers->rope = rope_launch;
}
