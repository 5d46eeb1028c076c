#ifndef RUNTIME_MODELS_MODEL_MEMORY_H
#define RUNTIME_MODELS_MODEL_MEMORY_H

/* Weight memory: large chunks of device memory, handed out in 64-byte aligned pieces and given back together. Large,
 * so that huge pages hold the many small matrices of a small model too. What only the host reads (layer records) comes from host
 * memory, which is the same where the host can address the device. */

#include "kernels/device.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct ModelMemory ModelMemory;

/* stream: for copies to a device that the host cannot address; NULL where it can. */
Status model_memory_create(ModelMemory **out, Device *device, DeviceStream *stream);
void model_memory_destroy(ModelMemory *memory);

/* One chunk for that much of a device out of the host's reach: what it takes is then known before. */
Status model_memory_reserve(ModelMemory *memory, uint64_t bytes);
/* What pieces of that size in all take of such a chunk, with what their borders cost. */
uint64_t model_memory_reserve_bytes(uint64_t bytes);

/* MEMORY_HOST pieces are zeroed. */
Status model_memory_take(ModelMemory *memory, MemoryPlace place, uint64_t bytes, const char *what,
                         void **out);

/* A piece of device memory that the host fills: at *out_host until model_memory_send, which brings the bytes to *out_place. The
 * two are the same where the host can address the device. One at a time. */
Status model_memory_stage(ModelMemory *memory, uint64_t bytes, const char *what, void **out_host,
                          void **out_place);
Status model_memory_send(ModelMemory *memory);

SPILLWAY_EXTERN_C_END

#endif
