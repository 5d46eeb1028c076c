/* The GPU backend: the device over the CUDA runtime, and nvcc's build of the kernels. */

#include <pthread.h>

#include "kernels/backend.h"
#include "kernels/cuda/cuda_context.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/device_cuda.h"

extern const Backend backend_cuda;

#define CUDA_FILE(name) void name##_fill_cuda(CudaLaunchers *launchers);
#include "kernels/cuda/cuda_files.h"
#undef CUDA_FILE

static CudaLaunchers launchers;
static pthread_once_t launchers_once = PTHREAD_ONCE_INIT;

static void launchers_fill(void) {
#define CUDA_FILE(name) name##_fill_cuda(&launchers);
#include "kernels/cuda/cuda_files.h"
#undef CUDA_FILE
}

static Status context_open_cuda(const Kernels *kernels, Device *device, const KernelLimits *limits,
                                KernelContext *context) {
    (void)kernels;
    return cuda_context_open(device, &launchers, limits, context);
}

static bool cuda_find(const BackendOptions *options, BackendDevice *out) {
    return device_cuda_find(options->device_index, out);
}

static Status cuda_open(const BackendOptions *options, Device **out_device, Kernels *out_kernels) {
    TRY(device_cuda_open(out_device, options->device_index));
    pthread_once(&launchers_once, launchers_fill);
    *out_kernels = (Kernels){.name = "cuda", .context_open = context_open_cuda};
    cuda_kernels_fill(out_kernels);
    return STATUS_OK;
}

const Backend backend_cuda = {
    .name = "cuda",
    .summary = "an NVIDIA GPU a rank",
    .automatic = true,
    .probe = device_cuda_probe,
    .find = cuda_find,
    .open = cuda_open,
};
