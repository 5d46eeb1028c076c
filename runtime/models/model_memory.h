#ifndef RUNTIME_MODELS_MODEL_MEMORY_H
#define RUNTIME_MODELS_MODEL_MEMORY_H

/* Weight memory: large chunks from the device, handed out in 64-byte aligned pieces and given back together. Large,
 * so that huge pages hold the many small matrices of a small model too. */

#include "kernels/device.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct ModelMemory ModelMemory;

Status model_memory_create(ModelMemory **out, Device *device, MemoryPlace place);
void model_memory_destroy(ModelMemory *memory);
Status model_memory_take(ModelMemory *memory, uint64_t bytes, const char *what, void **out);

SPILLWAY_EXTERN_C_END

#endif
