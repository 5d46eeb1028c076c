#ifndef CUDA_PORT_CUH
#define CUDA_PORT_CUH

/* The words that device code is written in. A .cu file here is compiled twice: by nvcc for the GPU, and by the host's C++
 * compiler for the emulation, where each word also checks its use (emulation/port_emulated.cuh). A .cu file includes this
 * header, uses these words and nothing of CUDA's own. What it exports has C linkage and the build in its name, so that
 * one program can hold both: `extern "C" void PORT_NAME(norm_fill)(CudaLaunchers *launchers)` is norm_fill_cuda or
 * norm_fill_emulated (cuda_context.h).
 *
 *   KERNEL(threads) void name(arguments)   a __global__ function for blocks of at most `threads` threads
 *   KERNEL_BLOCKS(threads, blocks)         the same, with registers few enough that so many blocks run side by side on a multiprocessor
 *   DEVICE                                 a function that kernels call, inlined
 *   HOST_DEVICE                            the same, that launchers may call too
 *   LAUNCH(kernel, grid, block, shared_bytes, stream, arguments…)   grid and block are extent(x, y, z); cannot fail here,
 *                                          errors come out of the next Device call and name the kernel
 *   thread_index() block_index() block_extent() grid_extent()       each with .x .y .z
 *   warp_lane() warp_index()               of the flat thread index; blocks are whole warps
 *   block_sync()                           barrier of the block: every thread, at the same line
 *   warp_sync() warp_shuffle(v, lane) warp_shuffle_xor(v, mask) warp_shuffle_down(v, delta) warp_ballot(b)
 *                                          all 32 lanes, at the same line; only warp_sync orders shared memory
 *   SharedArray<T>, shared_array<T>(offset_bytes, count)            a typed view of the launch's shared memory. Name the
 *                                          type of what you read (`float x = tile[i]`): an element may be a checked proxy
 *   load4(p) store4(p, v)                  four floats of global memory, 16-byte aligned; Float4 has .x .y .z .w
 *   load_words4(p) load_words2(p)          16 or 8 bytes of global memory as words, aligned as many
 *   load_fixed(p)                          an element of global memory. These three: what nothing writes while the kernel runs
 *   load4_shared(a, i) store4_shared(a, i, v)                       the same from a SharedArray<float>, i a multiple of 4
 *   load_words4_shared(a, i) load_words2_shared(a, i)               and from one of words, i a multiple of 4 or 2
 *   prefetch_line(p)                       the PREFETCH_LINE bytes around p come nearer; p is in device memory, and nothing else follows
 *   copy_async16(a, i, p) copy_async_commit() copy_async_wait<n>()  16 bytes global to shared behind the thread's back; readable
 *                                          by the thread once at most n later groups are unfinished, by others after a barrier
 *   half_to_float(bits) float_to_half(value)                        IEEE f16 as uint16_t, to nearest even
 *   bits_to_float(bits) float_to_bits(value)                        the same 32 bits
 *   byte_under(word, index, upper)         byte 0 … 3 of a word under the upper three bytes of another
 *   fused_multiply_add(a, b, c)            one rounding. Plain a * b + c rounds twice on both sides: nothing contracts
 *   exponential(x)                         e^x within 2 ulp of the truth on both sides, not the same bits on both
 *   defect(text)                           device code met the impossible: ends the launch with that text
 */

#include <stddef.h>
#include <stdint.h>

#include "kernels/device.h"

enum { WARP_LANES = 32, PREFETCH_LINE = 128 };

#ifdef __CUDACC__
#include "kernels/cuda/port_nvcc.cuh"
#else
#include "kernels/cuda/emulation/port_emulated.cuh"
#endif

union FloatBits {
    uint32_t bits;
    float number;
};

DEVICE void words_put(Words4 four, uint32_t *out) {
    out[0] = four.x;
    out[1] = four.y;
    out[2] = four.z;
    out[3] = four.w;
}

DEVICE float bits_to_float(uint32_t bits) {
    FloatBits view;
    view.bits = bits;
    return view.number;
}
DEVICE uint32_t float_to_bits(float number) {
    FloatBits view;
    view.number = number;
    return view.bits;
}

#endif
