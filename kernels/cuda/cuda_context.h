#ifndef KERNELS_CUDA_CUDA_CONTEXT_H
#define KERNELS_CUDA_CUDA_CONTEXT_H

/* What the slots in C find behind KernelContext.scratch on a GPU, real or emulated. The same C slots serve both: every kernel is
 * reached through a table of launchers that each build of the .cu files fills with its own. */

#include "kernels/cuda/upload.h"
#include "kernels/kernels.h"

SPILLWAY_EXTERN_C_BEGIN

/* The launchers of one build: a struct of functions in cuda_kernels.h. Each name.cu exports
 *     extern "C" void PORT_NAME(name_fill)(CudaLaunchers *launchers)
 * which sets those that it has; kernels/cuda/meson.build lists the names. */
typedef struct CudaLaunchers CudaLaunchers;

typedef struct CudaContext {
    Device *device;
    DeviceStream *stream; /* KernelContext.stream */
    UploadArena *upload;  /* on that stream */
    const CudaLaunchers *launchers;
    void *scratch; /* device memory [scratch_bytes], free between calls */
    uint64_t scratch_bytes;
} CudaContext;

static inline const CudaContext *cuda_context(const KernelContext *context) {
    return (const CudaContext *)context->scratch;
}

/* Device memory that the slots work in, for calls of these shapes (cuda_slots.c). */
uint64_t cuda_scratch_bytes(const KernelLimits *limits);

/* Fills context->stream, scratch and scratch_bytes: what context_open and context_close of Kernels do for both builds. */
Status cuda_context_open(Device *device, const CudaLaunchers *launchers, const KernelLimits *limits,
                         KernelContext *context);
void cuda_context_close(Device *device, KernelContext *context); /* takes a zeroed one */

SPILLWAY_EXTERN_C_END

#endif
