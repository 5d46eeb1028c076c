#ifndef CUDA_EMULATION_GRID_PARTS_H
#define CUDA_EMULATION_GRID_PARTS_H

/* What a running launch is made of, for its own files: emulated_grid.c (order, barriers, warps, defects) and emulated_access.c
 * (shared and global memory). */

#include "kernels/cuda/emulation/emulated_grid.h"
#include "kernels/cuda/emulation/fiber.h"
#include "kernels/cuda/emulation/shared_shadow.h"
#include "runtime/base/random.h"

enum {
    LANES = EMULATED_WARP_LANES,
    WARPS_MAX = EMULATED_THREADS_MAX / LANES,
    COPIES_MAX = 64, /* unfinished cp.async of a thread */
    COPY_BYTES = 16,
};

typedef enum WaitKind { WAIT_NONE, WAIT_BLOCK, WAIT_WARP, WAIT_OVER } WaitKind;

typedef struct AsyncCopy {
    EmulatedAccess target;
    const void *source;
    uint32_t group;
} AsyncCopy;

typedef struct GridThread {
    EmulatedPlace place;
    WaitKind wait;
    const char *wait_what; /* "block_sync" */
    int wait_line;
    uint32_t exchange_bytes;
    uint8_t exchange[EMULATED_EXCHANGE_BYTES_MAX];
    uint32_t group_open; /* number of the cp.async group being filled */
    uint32_t copy_count;
    AsyncCopy copies[COPIES_MAX];
} GridThread;

struct GridRunner {
    FiberPool *fibers;
    SharedShadow *shadow;
    Random random;
    EmulatedHolds *holds;
    void *holds_user;
    const EmulatedLaunch *launch;
    GridThread *current;
    uint32_t thread_count, warp_count;
    bool lanes_backwards; /* drawn for each block */
    bool failed;
    char *defect; /* [EMULATED_DEFECT_BYTES] of the caller */
    uint32_t warp_turns[WARPS_MAX];
    uint8_t published[WARPS_MAX][LANES][EMULATED_EXCHANGE_BYTES_MAX];
    GridThread threads[EMULATED_THREADS_MAX];
    uint8_t shared[EMULATED_SHARED_BYTES_MAX] __attribute__((aligned(256)));
};

/* The launch that this thread of the program runs. */
extern __thread GridRunner *runner_now;

#endif
