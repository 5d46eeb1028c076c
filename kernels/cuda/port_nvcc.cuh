#ifndef CUDA_PORT_NVCC_CUH
#define CUDA_PORT_NVCC_CUH

/* port.cuh's words for nvcc. Compiled with -fmad=false, so that a * b + c is two roundings as on the host. */

#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdio.h>

#include "kernels/cuda/cuda_check.h"

#define PORT_NAME(name) name##_cuda

#define KERNEL(threads)                static __global__ __launch_bounds__(threads)
#define KERNEL_BLOCKS(threads, blocks) static __global__ __launch_bounds__(threads, blocks)
#define DEVICE          static __device__ __forceinline__
#define HOST_DEVICE     static __host__ __device__ __forceinline__

typedef dim3 Extent3;

static inline Extent3 extent(uint32_t x, uint32_t y = 1, uint32_t z = 1) {
    return dim3(x, y, z);
}

/* More than 48 KiB of shared memory must be asked for by name. */
template <class Kernel>
static inline void launch_shared_bytes(Kernel *kernel, const char *name, size_t shared_bytes) {
    if (shared_bytes <= 48 * 1024) return;
    cuda_note(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   (int)shared_bytes),
              name);
}

#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                            \
    do {                                                                                  \
        launch_shared_bytes(kernel, #kernel, shared_bytes);                               \
        kernel<<<(grid), (block), (shared_bytes), (cudaStream_t)(stream)>>>(__VA_ARGS__); \
        cuda_note(cudaGetLastError(), #kernel);                                           \
    } while (0)

DEVICE uint3 thread_index() {
    return threadIdx;
}
DEVICE uint3 block_index() {
    return blockIdx;
}
DEVICE dim3 block_extent() {
    return blockDim;
}
DEVICE dim3 grid_extent() {
    return gridDim;
}
DEVICE uint32_t flat_thread_index() {
    return (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
}
DEVICE uint32_t warp_lane() {
    return flat_thread_index() % WARP_LANES;
}
DEVICE uint32_t warp_index() {
    return flat_thread_index() / WARP_LANES;
}

DEVICE void block_sync() {
    __syncthreads();
}
DEVICE void warp_sync() {
    __syncwarp();
}
template <class T> DEVICE T warp_shuffle(T value, uint32_t lane) {
    return __shfl_sync(0xFFFFFFFFu, value, (int)lane);
}
template <class T> DEVICE T warp_shuffle_xor(T value, uint32_t mask) {
    return __shfl_xor_sync(0xFFFFFFFFu, value, (int)mask);
}
template <class T> DEVICE T warp_shuffle_down(T value, uint32_t delta) {
    return __shfl_down_sync(0xFFFFFFFFu, value, delta);
}
DEVICE uint32_t warp_ballot(bool vote) {
    return __ballot_sync(0xFFFFFFFFu, vote);
}

extern __shared__ __align__(16) uint8_t launch_shared[];

template <class T> using SharedArray = T *;

template <class T> DEVICE SharedArray<T> shared_array(uint32_t offset_bytes, uint32_t count) {
    (void)count;
    return reinterpret_cast<T *>(launch_shared + offset_bytes);
}

typedef float4 Float4;
typedef uint2 Words2;
typedef uint4 Words4;

DEVICE Float4 load4(const float *p) {
    return *reinterpret_cast<const float4 *>(p);
}
DEVICE void store4(float *p, Float4 value) {
    *reinterpret_cast<float4 *>(p) = value;
}
/* Through the read-only cache, and known to be global even where the pointer comes out of a table. */
template <class T> DEVICE T load_fixed(const T *p) {
    return __ldg(p);
}
DEVICE Words2 load_words2(const void *p) {
    return __ldg(reinterpret_cast<const uint2 *>(p));
}
DEVICE Words4 load_words4(const void *p) {
    return __ldg(reinterpret_cast<const uint4 *>(p));
}
DEVICE Float4 load4_shared(SharedArray<float> array, uint32_t index) {
    return *reinterpret_cast<const float4 *>(array + index);
}
DEVICE void store4_shared(SharedArray<float> array, uint32_t index, Float4 value) {
    *reinterpret_cast<float4 *>(array + index) = value;
}
DEVICE Words4 load_words4_shared(SharedArray<uint32_t> array, uint32_t index) {
    return *reinterpret_cast<const uint4 *>(array + index);
}
DEVICE Words2 load_words2_shared(SharedArray<uint32_t> array, uint32_t index) {
    return *reinterpret_cast<const uint2 *>(array + index);
}

DEVICE void prefetch_line(const void *p) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
}

/* cp.async from compute capability 8.0 on; before that a plain copy, which has arrived at once. */
template <class T> DEVICE void copy_async16(SharedArray<T> array, uint32_t index, const void *p) {
#if __CUDA_ARCH__ >= 800
    uint32_t target = (uint32_t)__cvta_generic_to_shared(array + index);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(target), "l"(p) : "memory");
#else
    *reinterpret_cast<uint4 *>(array + index) = load_words4(p);
#endif
}
DEVICE void copy_async_commit() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int LATER_GROUPS> DEVICE void copy_async_wait() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(LATER_GROUPS) : "memory");
#endif
}

DEVICE float half_to_float(uint16_t bits) {
    return __half2float(__ushort_as_half(bits));
}
DEVICE uint16_t float_to_half(float value) {
    return __half_as_ushort(__float2half_rn(value));
}
DEVICE float fused_multiply_add(float a, float b, float c) {
    return __fmaf_rn(a, b, c);
}
DEVICE uint32_t byte_under(uint32_t word, uint32_t index, uint32_t upper) {
    return __byte_perm(word, upper, 0x7650 | index);
}
DEVICE float exponential(float x) {
    return expf(x);
}
DEVICE void defect(const char *text) {
    printf("device defect: %s\n", text);
    __trap();
}

#endif
