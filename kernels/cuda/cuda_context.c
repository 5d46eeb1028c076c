#include "kernels/cuda/cuda_context.h"

#include <stdlib.h>

#include "kernels/cuda/cuda_attention.h"
#include "kernels/cuda/cuda_kernels.h"
#include "runtime/base/arena.h"
#include "runtime/base/invariant.h"

enum {
    UPLOAD_SEGMENT_BYTES = 1 << 20,
    ROWS_MAX = 65504, /* a grid has 65535 rows, and products fill up to a multiple of 32 */
};

static Status context_fill(CudaContext *cuda, const KernelLimits *limits) {
    Device *device = cuda->device;
    TRY(device->stream_create(device, STREAM_COMPUTE, &cuda->stream));
    TRY(upload_arena_create(&cuda->upload, device, cuda->stream, UPLOAD_SEGMENT_BYTES));
    cuda->scratch_bytes = cuda_scratch_bytes(limits);
    return device->memory_take(device, MEMORY_DEVICE, cuda->scratch_bytes, "kernel scratch",
                               &cuda->scratch);
}

static void context_free(CudaContext *cuda) {
    Device *device = cuda->device;
    upload_arena_destroy(cuda->upload);
    if (cuda->scratch)
        device->memory_give(device, MEMORY_DEVICE, cuda->scratch, cuda->scratch_bytes);
    if (cuda->stream) device->stream_destroy(device, cuda->stream);
    free(cuda);
}

Status cuda_context_open(Device *device, const CudaLaunchers *launchers, const KernelLimits *limits,
                         KernelContext *context) {
    void *memory;
    CHECK(limits->row_count <= ROWS_MAX);
    TRY(attend_limits_check(limits));
    TRY(memory_take(&memory, 1, sizeof(CudaContext), "kernel context"));
    CudaContext *cuda = memory;
    *cuda = (CudaContext){.device = device, .launchers = launchers};
    Status status = context_fill(cuda, limits);
    if (status != STATUS_OK) {
        context_free(cuda);
        return status;
    }
    context->stream = cuda->stream;
    context->scratch = cuda;
    context->scratch_bytes = sizeof *cuda;
    return STATUS_OK;
}

void cuda_context_close(Device *device, KernelContext *context) {
    (void)device;
    if (context->scratch) context_free(context->scratch);
    context->scratch = NULL;
    context->stream = NULL;
}
