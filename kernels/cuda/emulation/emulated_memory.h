#ifndef CUDA_EMULATION_EMULATED_MEMORY_H
#define CUDA_EMULATION_EMULATED_MEMORY_H

/* The memories of an emulated device. Device memory has no access rights except between emulated_memory_open and
 * emulated_memory_close, which stand around device work: host code that touches it faults at once. Addresses without access
 * lie behind each piece, which starts poisoned (0xFF: NaN as a float). Pinned host memory is ordinary memory that
 * is remembered, so that a copy to or from any other host memory can be refused. One thread at a time. */

#include <stdint.h>

#include "kernels/device.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct EmulatedMemory EmulatedMemory;

Status emulated_memory_create(EmulatedMemory **out, uint64_t device_bytes_max);
void emulated_memory_destroy(EmulatedMemory *memory); /* NULL is fine; gives all back */

Status emulated_memory_take(EmulatedMemory *memory, MemoryPlace place, uint64_t bytes,
                            const char *what, void **out);
void emulated_memory_give(EmulatedMemory *memory, void *address);

uint64_t emulated_memory_free_bytes(const EmulatedMemory *memory); /* of the device */

/* Pairs may nest. */
void emulated_memory_open(EmulatedMemory *memory);
void emulated_memory_close(EmulatedMemory *memory);

/* True when all of it lies in one piece of that place. */
bool emulated_memory_holds(const EmulatedMemory *memory, MemoryPlace place, const void *address,
                           uint64_t bytes);

SPILLWAY_EXTERN_C_END

#endif
