#ifndef KERNELS_CUDA_DEVICE_CUDA_H
#define KERNELS_CUDA_DEVICE_CUDA_H

/* The Device row of a GPU, over the CUDA runtime. Device memory is cudaMalloc's; host memory is mapped and registered, so that it can
 * be bound to a node and stays out of dumps; a DeviceStream is a cudaStream_t and a DeviceEvent a cudaEvent_t. Streams and
 * events may be used from any thread, one thread at a time each. */

#include "kernels/backend.h"

SPILLWAY_EXTERN_C_BEGIN

/* STATUS_OK when there is a GPU; else *out_reason, which lives as long as the program, says what is missing. */
Status device_cuda_probe(const char **out_reason);

/* Where the GPU lies that device_cuda_open would open. It starts nothing. */
bool device_cuda_find(uint32_t index, BackendDevice *out);

/* index: taken round the GPUs that there are. */
Status device_cuda_open(Device **out, uint32_t index);

SPILLWAY_EXTERN_C_END

#endif
