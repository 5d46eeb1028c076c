#ifndef CUDA_EMULATION_EMULATED_GRID_H
#define CUDA_EMULATION_EMULATED_GRID_H

/* Runs a kernel launch on the host: the blocks one after the other, the threads of a block as fibers with real barriers, in
 * an order that the seed draws. Warps have 32 lanes. What a GPU leaves undefined is reported as a defect and ends the launch:
 * a barrier or warp operation that not all threads reach at the same line, an access to shared memory that is out of bounds,
 * misaligned, of bytes that nobody wrote, or unordered with another thread's (nothing between them but luck), and
 * a global address that is misaligned or in no memory of the device (a plain access by way of a signal handler of the process,
 * which passes on what is not a kernel's).
 *
 * A runner belongs to one device; one launch at a time, on the caller's thread. The functions named emulated_… are for
 * port_emulated.cuh, inside a launch. */

#include <stdint.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct Extent3 {
    uint32_t x, y, z;
} Extent3;

enum {
    EMULATED_WARP_LANES = 32,
    EMULATED_THREADS_MAX = 1024, /* of a block */
    EMULATED_SHARED_BYTES_MAX =
        99 << 10, /* of a block: what every card from compute capability 8.6 on has */
    EMULATED_EXCHANGE_BYTES_MAX = 64, /* what a lane hands over in one warp operation */
    EMULATED_DEFECT_BYTES = 512,
};

typedef struct EmulatedLaunch {
    const char *kernel;
    Extent3 grid, block;
    uint64_t shared_bytes;
    void (*run)(const void *arguments); /* one thread of it */
    const void *arguments;
} EmulatedLaunch;

typedef struct GridRunner GridRunner;

/* True where device code may touch [address, address + bytes). */
typedef bool EmulatedHolds(void *user, const void *address, uint64_t bytes);

Status grid_runner_create(GridRunner **out, uint64_t seed, EmulatedHolds *holds, void *user);
void grid_runner_destroy(GridRunner *runner); /* NULL is fine */

/* False when the launch met a defect; the runner is then as new, and the text, which names kernel, block and thread, is in
 * out_defect [EMULATED_DEFECT_BYTES]. */
bool grid_run(GridRunner *runner, const EmulatedLaunch *launch, char *out_defect);

/* ---- inside a launch */

typedef struct EmulatedPlace {
    Extent3 thread_index, block_index, block, grid;
    uint32_t flat_thread_index;
} EmulatedPlace;

const EmulatedPlace *emulated_place(void);

void emulated_block_sync(int line);
void emulated_warp_sync(int line);

/* Hands `bytes` over and returns what every lane handed over: [32] at a stride of EMULATED_EXCHANGE_BYTES_MAX bytes, valid until
 * the lane's next warp operation. */
const uint8_t *emulated_warp_exchange(const char *what, int line, const void *mine, uint32_t bytes);

/* Checks a view [offset, offset + bytes) of the launch's shared memory and returns its base. */
uint8_t *emulated_shared_view(uint64_t offset_bytes, uint64_t bytes, uint32_t alignment);

/* Checks and records an access to shared memory at an address inside a view; `index` and `count` are the view's, for the report. */
typedef struct EmulatedAccess {
    const void *address;
    uint32_t bytes;
    bool write;
    uint64_t index, count;
} EmulatedAccess;

void emulated_shared_access(const EmulatedAccess *access);

/* Checks that the device has these bytes and that the address is a multiple of `alignment`. */
void emulated_global_access(const void *address, uint32_t bytes, uint32_t alignment);

/* cp.async: 16 bytes that reach shared memory when their group is waited for, and not earlier. */
void emulated_copy_async(const EmulatedAccess *target, const void *source);
void emulated_copy_async_commit(void);
void emulated_copy_async_wait(uint32_t later_groups);

/* Ends the launch. */
void emulated_defect(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

SPILLWAY_EXTERN_C_END

#endif
