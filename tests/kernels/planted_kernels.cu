/* See planted_kernels.h. Each kernel is as small as its point allows. */

#include "tests/kernels/planted_kernels.h"

#include "kernels/cuda/port.cuh"

enum { THREADS = PLANTED_THREADS, SHARED_BYTES = THREADS * sizeof(float) };

DEVICE uint32_t element_index() {
    return block_index().x * THREADS + thread_index().x;
}

/* ---- right ones */

KERNEL(THREADS) void increment(const float *in, float *out, uint32_t count) {
    uint32_t i = element_index();
    if (i < count) out[i] = in[i] + 1.0f;
}

KERNEL(THREADS) void block_sum(const float *in, float *out) {
    SharedArray<float> tile = shared_array<float>(0, THREADS);
    tile[thread_index().x] = in[element_index()];
    block_sync();
    for (uint32_t half = THREADS / 2; half > 0; half /= 2) {
        if (thread_index().x < half) tile[thread_index().x] += tile[thread_index().x + half];
        block_sync();
    }
    out[element_index()] = tile[0];
}

KERNEL(THREADS) void warp_sum(const float *in, float *out) {
    float sum = in[element_index()];
    for (uint32_t mask = 16; mask > 0; mask /= 2)
        sum += warp_shuffle_xor(sum, mask);
    out[element_index()] = sum;
}

KERNEL(THREADS) void warp_words(const float *in, float *out) {
    uint32_t positive = warp_ballot(in[element_index()] > 0.0f);
    float last = warp_shuffle(in[element_index()], 31);
    float next = warp_shuffle_down(in[element_index()], 1);
    out[element_index()] = (float)(positive >> 16) + last * 2.0f + next;
}

/* Lanes of one warp may meet at a warp_sync instead of a barrier. */
KERNEL(THREADS) void warp_neighbour(const float *in, float *out) {
    SharedArray<float> tile = shared_array<float>(0, THREADS);
    tile[thread_index().x] = in[element_index()];
    warp_sync();
    out[element_index()] = tile[thread_index().x ^ 1];
}

KERNEL(THREADS) void vector_copy(const float *in, float *out) {
    SharedArray<float> tile = shared_array<float>(0, THREADS);
    uint32_t first = 4 * thread_index().x, base = block_index().x * THREADS;
    if (first < THREADS) copy_async16(tile, first, in + base + first);
    copy_async_commit();
    copy_async_wait<0>();
    block_sync();
    if (first < THREADS) store4(out + base + first, load4_shared(tile, first));
}

/* ---- planted defects */

KERNEL(THREADS) void race_read(const float *in, float *out) {
    SharedArray<float> tile = shared_array<float>(0, THREADS);
    tile[thread_index().x] = in[element_index()];
    out[element_index()] = tile[(thread_index().x + 32) % THREADS];
}

KERNEL(THREADS) void race_write(const float *in, float *out) {
    SharedArray<float> tile = shared_array<float>(0, 1);
    tile[0] = in[element_index()];
    block_sync();
    out[element_index()] = tile[0];
}

/* The sum is read by all while thread 0 writes the next round's. */
KERNEL(THREADS) void race_reuse(const float *in, float *out) {
    SharedArray<float> tile = shared_array<float>(0, 1);
    for (uint32_t round = 0; round < 2; round++) {
        if (thread_index().x == 0) tile[0] = in[element_index()];
        block_sync();
        out[element_index()] = tile[0];
    }
}

KERNEL(THREADS) void race_in_warp(const float *in, float *out) {
    SharedArray<float> tile = shared_array<float>(0, THREADS);
    tile[thread_index().x] = in[element_index()];
    out[element_index()] = tile[thread_index().x ^ 1];
}

KERNEL(THREADS) void barrier_in_branch(const float *in, float *out) {
    if (thread_index().x < 32) block_sync();
    out[element_index()] = in[element_index()];
}

KERNEL(THREADS) void barrier_elsewhere(const float *in, float *out) {
    if (thread_index().x < 32)
        block_sync();
    else
        block_sync();
    out[element_index()] = in[element_index()];
}

KERNEL(THREADS) void shuffle_in_branch(const float *in, float *out) {
    float value = in[element_index()];
    if (thread_index().x % 2) value = warp_shuffle(value, 1);
    out[element_index()] = value;
}

KERNEL(THREADS) void shared_beyond(const float *in, float *out) {
    SharedArray<float> tile = shared_array<float>(0, THREADS / 2);
    tile[thread_index().x] = in[element_index()];
    out[element_index()] = tile[thread_index().x];
}

KERNEL(THREADS) void shared_too_large(const float *in, float *out) {
    SharedArray<float> tile = shared_array<float>(0, THREADS + 1);
    tile[thread_index().x] = in[element_index()];
    out[element_index()] = tile[thread_index().x];
}

KERNEL(THREADS) void shared_misaligned(const float *in, float *out) {
    SharedArray<float> tile = shared_array<float>(0, THREADS);
    tile[thread_index().x] = in[element_index()];
    block_sync();
    out[element_index()] = thread_index().x == 1 ? load4_shared(tile, 2).x : 0.0f;
}

KERNEL(THREADS) void shared_unwritten(const float *in, float *out) {
    SharedArray<float> tile = shared_array<float>(0, THREADS);
    if (thread_index().x != 7) tile[thread_index().x] = in[element_index()];
    block_sync();
    out[element_index()] = tile[thread_index().x];
}

KERNEL(THREADS) void async_unwaited(const float *in, float *out) {
    SharedArray<float> tile = shared_array<float>(0, THREADS);
    uint32_t first = 4 * thread_index().x;
    if (first < THREADS) copy_async16(tile, first, in + first);
    copy_async_commit();
    block_sync();
    out[element_index()] = tile[thread_index().x];
}

KERNEL(THREADS) void global_misaligned(const float *in, float *out) {
    out[element_index()] = load4(in + 1).x;
}

KERNEL(THREADS) void global_beyond(const float *in, float *out) {
    out[element_index()] = load4(in + PLANTED_BLOCKS * THREADS).x;
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* which end the program */
#define PLAIN_BEYOND
/* The device's piece ends there, and the next page has no access. */
KERNEL(THREADS) void plain_beyond(const float *in, float *out) {
    out[element_index()] = in[(block_index().x == 1 ? 4096u : 0u) + element_index()];
}
#endif

KERNEL(THREADS) void says_defect(const float *in, float *out) {
    if (in[element_index()] != in[element_index() ^ 1]) defect("neighbours differ");
    out[element_index()] = 0.0f;
}

/* ---- the table */

#define LAUNCHER(kernel)                                                                        \
    static void launch_##kernel(DeviceStream *stream, const float *in, float *out) {            \
        LAUNCH(kernel, extent(PLANTED_BLOCKS), extent(THREADS), SHARED_BYTES, stream, in, out); \
    }

LAUNCHER(block_sum)
LAUNCHER(warp_sum)
LAUNCHER(warp_words)
LAUNCHER(warp_neighbour)
LAUNCHER(vector_copy)
LAUNCHER(race_read)
LAUNCHER(race_write)
LAUNCHER(race_reuse)
LAUNCHER(race_in_warp)
LAUNCHER(barrier_in_branch)
LAUNCHER(barrier_elsewhere)
LAUNCHER(shuffle_in_branch)
LAUNCHER(shared_beyond)
LAUNCHER(shared_too_large)
LAUNCHER(shared_misaligned)
LAUNCHER(shared_unwritten)
LAUNCHER(async_unwaited)
LAUNCHER(global_misaligned)
LAUNCHER(global_beyond)
#ifdef PLAIN_BEYOND
LAUNCHER(plain_beyond)
#endif
LAUNCHER(says_defect)

static void launch_odd_block(DeviceStream *stream, const float *in, float *out) {
    LAUNCH(warp_sum, extent(1), extent(33), 0, stream, in, out);
}

static void launch_host_pointer(DeviceStream *stream, const float *in, float *out) {
    static const float host[PLANTED_BLOCKS * THREADS] = {1.0f};
    (void)in;
    LAUNCH(warp_sum, extent(PLANTED_BLOCKS), extent(THREADS), 0, stream, host, out);
}

void planted_increment(DeviceStream *stream, const float *in, float *out, uint32_t count) {
    LAUNCH(increment, extent((count + THREADS - 1) / THREADS), extent(THREADS), 0, stream, in, out,
           count);
}

static float sum_of(const float *in, uint32_t count) {
    float sum = 0.0f;
    for (uint32_t i = 0; i < count; i++)
        sum += in[i];
    return sum;
}

static float expect_block_sum(const float *in, uint32_t index) {
    return sum_of(in + index / THREADS * THREADS, THREADS);
}

static float expect_warp_sum(const float *in, uint32_t index) {
    return sum_of(in + index / 32 * 32, 32);
}

static float expect_warp_words(const float *in, uint32_t index) {
    const float *warp = in + index / 32 * 32;
    uint32_t lane = index % 32, positive = 0;
    for (uint32_t i = 16; i < 32; i++)
        positive |= (uint32_t)(warp[i] > 0.0f) << (i - 16);
    return (float)positive + warp[31] * 2.0f + warp[lane < 31 ? lane + 1 : 31];
}

static float expect_neighbour(const float *in, uint32_t index) {
    return in[index ^ 1];
}

static float expect_copy(const float *in, uint32_t index) {
    return in[index];
}

const PlantedKernel planted_kernels[] = {
    {"block_sum", launch_block_sum, NULL, expect_block_sum},
    {"warp_sum", launch_warp_sum, NULL, expect_warp_sum},
    {"warp_words", launch_warp_words, NULL, expect_warp_words},
    {"warp_neighbour", launch_warp_neighbour, NULL, expect_neighbour},
    {"vector_copy", launch_vector_copy, NULL, expect_copy},
    {"race_read", launch_race_read, "reads shared byte", NULL},
    {"race_write", launch_race_write, "with no barrier between them", NULL},
    {"race_reuse", launch_race_reuse, "with no barrier between them", NULL},
    {"race_in_warp", launch_race_in_warp, "reads shared byte", NULL},
    {"barrier_in_branch", launch_barrier_in_branch, "waits in block_sync", NULL},
    {"barrier_elsewhere", launch_barrier_elsewhere, "waits in block_sync", NULL},
    {"shuffle_in_branch", launch_shuffle_in_branch, "waits in warp_shuffle", NULL},
    {"shared_beyond", launch_shared_beyond, "of a shared array of 32", NULL},
    {"shared_too_large", launch_shared_too_large, "of which the launch has 256", NULL},
    {"shared_misaligned", launch_shared_misaligned, "misaligned", NULL},
    {"shared_unwritten", launch_shared_unwritten, "byte 28, which nobody wrote", NULL},
    {"async_unwaited", launch_async_unwaited, "which nobody wrote", NULL},
    {"global_misaligned", launch_global_misaligned, "misaligned", NULL},
    {"global_beyond", launch_global_beyond, "not memory of this device", NULL},
#ifdef PLAIN_BEYOND
    {"plain_beyond", launch_plain_beyond, "where the device has no memory", NULL},
#endif
    {"says_defect", launch_says_defect, "neighbours differ", NULL},
    {"odd_block", launch_odd_block, "not whole warps", NULL},
    {"host_pointer", launch_host_pointer, "argument 1 is a pointer that is not into device memory",
     NULL},
    {NULL, NULL, NULL, NULL},
};
