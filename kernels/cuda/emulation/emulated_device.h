#ifndef CUDA_EMULATION_EMULATED_DEVICE_H
#define CUDA_EMULATION_EMULATED_DEVICE_H

/* A Device row that behaves as a GPU may, and as badly as one may: what is put on a stream runs as late as the contract
 * allows, when a wait demands it, or early where a seeded draw says so; host code cannot touch device memory
 * (emulated_memory.h); a copy whose host end is not MEMORY_HOST memory is refused; kernels are checked
 * (emulated_grid.h). So a missing wait, event or copy gives a wrong answer or a fault here, in every run with the same seed.
 *
 * Work runs on the thread that waits for it: a run is a pure function of the calls, their order and the seed. After a defect or a
 * failed copy the device is broken as a GPU is: every later call that can fail answers E-DEVICE with the first cause. */

#include <stdint.h>

#include "kernels/cuda/emulation/emulated_grid.h"
#include "kernels/device.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct EmulatedDeviceOptions {
    uint64_t seed;
    uint64_t memory_bytes; /* of the device; 0: 1 GiB */
    DeviceFailures failures;
} EmulatedDeviceOptions;

Status emulated_device_open(Device **out, const EmulatedDeviceOptions *options);

/* ---- for port_emulated.cuh */

/* Puts a launch on the stream; launch->arguments [arguments_bytes] are copied. */
void emulated_device_launch(DeviceStream *stream, const EmulatedLaunch *launch,
                            size_t arguments_bytes);

typedef struct EmulatedArguments {
    DeviceStream *stream;
    const char *kernel;
    uint32_t index;
} EmulatedArguments;

/* A pointer that a kernel gets must be NULL or in device memory. */
void emulated_arguments_pointer(const EmulatedArguments *arguments, const void *pointer);

/* ---- for twins of libraries that put work of their own on a stream */

typedef struct EmulatedTask {
    bool (*run)(void *user); /* false: it waits for another device, and is to be run again */
    void (*end)(void *user); /* once it has left the stream, run or not: the device may be broken */
    void *user;
} EmulatedTask;

/* run has access to device memory; it may not call the device. */
void emulated_device_task(DeviceStream *stream, const EmulatedTask *task);

SPILLWAY_EXTERN_C_END

#endif
