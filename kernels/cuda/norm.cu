/* RMS norm and layer norm: a block a row. A thread takes every 256th element in rising order, so a row's sums are the same chain
 * whatever its alignment; the row is read again from the cache, not kept. */

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/port.cuh"
#include "kernels/cuda/reduce.cuh"

enum { NORM_THREADS = 256, NORM_WARPS = NORM_THREADS / WARP_LANES };

/* The mean of (x - centre)^power over the row; power 1 or 2. */
template <int POWER>
DEVICE float row_moment(const float *x, uint32_t count, float centre, SharedArray<float> sums) {
    float sum = 0.0f;
    for (uint32_t i = thread_index().x; i < count; i += NORM_THREADS) {
        float distance = x[i] - centre;
        sum = POWER == 2 ? fused_multiply_add(distance, distance, sum) : sum + distance;
    }
    return block_sum(sum, sums) / (float)count;
}

template <bool CENTRED> KERNEL(NORM_THREADS) void norm_rows(NormArgs args) {
    uint32_t row = block_index().x;
    const float *x = args.x + row * args.x_stride;
    float *out = args.out + row * args.out_stride;
    float centre = 0.0f;
    if (CENTRED)
        centre = row_moment<1>(x, args.element_count, 0.0f, shared_array<float>(0, NORM_WARPS));
    float spread = row_moment<2>(x, args.element_count, centre,
                                 shared_array<float>(NORM_WARPS * sizeof(float), NORM_WARPS));
    float inverse = 1.0f / sqrtf(spread + args.epsilon);
    for (uint32_t i = thread_index().x; i < args.element_count; i += NORM_THREADS) {
        float scaled = (x[i] - centre) * inverse;
        if (args.weight) scaled *= args.weight[i];
        if (CENTRED && args.bias) scaled += args.bias[i];
        out[i] = scaled;
    }
}

static const size_t shared_bytes = 2 * NORM_WARPS * sizeof(float);

static void rms_norm_launch(DeviceStream *stream, const NormArgs *args) {
    LAUNCH(norm_rows<false>, extent(args->row_count), extent(NORM_THREADS), shared_bytes, stream,
           *args);
}

static void layer_norm_launch(DeviceStream *stream, const NormArgs *args) {
    LAUNCH(norm_rows<true>, extent(args->row_count), extent(NORM_THREADS), shared_bytes, stream,
           *args);
}

extern "C" void PORT_NAME(norm_fill)(CudaLaunchers *launchers) {
    launchers->rms_norm = rms_norm_launch;
    launchers->layer_norm = layer_norm_launch;
}
