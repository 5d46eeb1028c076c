/* What stands around attention: new keys and values into their blocks, the first and last touch of the running state, and what
 * others have attended into it. */

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/port.cuh"
#include "kernels/cuda/reduce.cuh"

enum { EDGE_THREADS = 256 };

/* As kernels/quant rounds: a NaN keeps its sign and the upper bits of its payload, which the GPU's conversion drops. */
DEVICE uint16_t half_of(float value) {
    if (value == value) return float_to_half(value);
    uint32_t bits = float_to_bits(value);
    return (uint16_t)((bits >> 16 & 0x8000) | 0x7e00 | (bits >> 13 & 0x3ff));
}

/* Grid: columns of a row (KV heads side by side), rows. */
KERNEL(EDGE_THREADS) void store_rows(KvStoreArgs args) {
    KvShape shape = args.shape;
    uint32_t column = block_index().x * EDGE_THREADS + thread_index().x;
    uint64_t row = block_index().y, head_elements = (uint64_t)shape.block_tokens * shape.head_dim;
    if (column >= shape.kv_head_count * shape.head_dim) return;
    uint64_t at = column / shape.head_dim * head_elements +
                  (uint64_t)args.block_slots[row] * shape.head_dim + column % shape.head_dim;
    uint16_t *keys = (uint16_t *)args.blocks[row];
    uint16_t *values = keys + shape.kv_head_count * head_elements;
    keys[at] = half_of(args.k[row * args.k_stride + column]);
    values[at] = half_of(args.v[row * args.v_stride + column]);
}

/* A block a state. */
KERNEL(EDGE_THREADS) void states_clear(AttendEdgeArgs args) {
    uint64_t state = block_index().x;
    if (thread_index().x == 0) {
        args.maxima[state] = -INFINITY;
        args.sums[state] = 0.0f;
    }
    for (uint32_t d = thread_index().x; d < args.head_dim; d += block_extent().x)
        args.out[state * args.head_dim + d] = 0.0f;
}

KERNEL(EDGE_THREADS) void states_merge(AttendMergeArgs args) {
    AttendEdgeArgs into = args.state;
    uint64_t state = block_index().x;
    float from_max = args.maxima[state], from_sum = args.sums[state];
    float old_max = into.maxima[state], old_sum = into.sums[state];
    float max = fmaxf(old_max, from_max);
    float kept = weight_of(old_max, max), added = weight_of(from_max, max);
    if (from_max == -INFINITY && from_sum == 0.0f) return; /* the same in all threads */
    block_sync(); /* every thread has read before one writes */
    if (thread_index().x == 0) {
        into.maxima[state] = max;
        into.sums[state] = fused_multiply_add(old_sum, kept, from_sum * added);
    }
    for (uint32_t d = thread_index().x; d < into.head_dim; d += block_extent().x) {
        uint64_t at = state * into.head_dim + d;
        into.out[at] = fused_multiply_add(into.out[at], kept, args.out[at] * added);
    }
}

KERNEL(EDGE_THREADS) void states_finish(AttendEdgeArgs args) {
    uint64_t state = block_index().x;
    float sum = args.sums[state];
    for (uint32_t d = thread_index().x; d < args.head_dim; d += block_extent().x) {
        float *out = &args.out[state * args.head_dim + d];
        *out = sum == 0.0f ? 0.0f : *out / sum;
    }
}

/* No more threads than a head has numbers, in whole warps. */
static uint32_t edge_threads(uint32_t count) {
    uint32_t threads = (count + WARP_LANES - 1) / WARP_LANES * WARP_LANES;
    return threads < EDGE_THREADS ? threads : (uint32_t)EDGE_THREADS;
}

static void kv_store_launch(DeviceStream *stream, const KvStoreArgs *args) {
    uint32_t columns = args->shape.kv_head_count * args->shape.head_dim;
    LAUNCH(store_rows, extent((columns + EDGE_THREADS - 1) / EDGE_THREADS, args->row_count),
           extent(EDGE_THREADS), 0, stream, *args);
}

static void attend_begin_launch(DeviceStream *stream, const AttendEdgeArgs *args) {
    LAUNCH(states_clear, extent(args->row_count * args->head_count),
           extent(edge_threads(args->head_dim)), 0, stream, *args);
}

static void attend_merge_launch(DeviceStream *stream, const AttendMergeArgs *args) {
    LAUNCH(states_merge, extent(args->state.row_count * args->state.head_count),
           extent(edge_threads(args->state.head_dim)), 0, stream, *args);
}

static void attend_end_launch(DeviceStream *stream, const AttendEdgeArgs *args) {
    LAUNCH(states_finish, extent(args->row_count * args->head_count),
           extent(edge_threads(args->head_dim)), 0, stream, *args);
}

extern "C" void PORT_NAME(attention_edges_fill)(CudaLaunchers *launchers) {
    launchers->kv_store = kv_store_launch;
    launchers->attend_begin = attend_begin_launch;
    launchers->attend_merge = attend_merge_launch;
    launchers->attend_end = attend_end_launch;
}
