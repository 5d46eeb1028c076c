/* The GPU backend on a host, for tests: the same kernels and slots, on the emulated device. */

#include <pthread.h>
#include <stdio.h>

#include "kernels/backend.h"
#include "kernels/cuda/cuda_context.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/emulation/emulated_device.h"

extern const Backend backend_emulated;

#define CUDA_FILE(name) void name##_fill_emulated(CudaLaunchers *launchers);
#include "kernels/cuda/cuda_files.h"
#undef CUDA_FILE

static CudaLaunchers launchers;
static pthread_once_t launchers_once = PTHREAD_ONCE_INIT;

static void launchers_fill(void) {
#define CUDA_FILE(name) name##_fill_emulated(&launchers);
#include "kernels/cuda/cuda_files.h"
#undef CUDA_FILE
}

static Status emulated_probe(const char **out_reason) {
    (void)out_reason;
    return STATUS_OK;
}

static bool emulated_find(const BackendOptions *options, BackendDevice *out) {
    if (!options->emulated_pci) return false;
    *out = (BackendDevice){.name = "emulated:0", .model = "emulated", .count = 1};
    snprintf(out->pci, sizeof out->pci, "%s", options->emulated_pci);
    return true;
}

static Status context_open_emulated(const Kernels *kernels, Device *device,
                                    const KernelLimits *limits, KernelContext *context) {
    (void)kernels;
    return cuda_context_open(device, &launchers, limits, context);
}

static Status emulated_open(const BackendOptions *options, Device **out_device,
                            Kernels *out_kernels) {
    const EmulatedDeviceOptions device = {.seed = options->seed,
                                          .memory_bytes = options->emulated_bytes,
                                          .failures = options->failures};
    TRY(emulated_device_open(out_device, &device));
    pthread_once(&launchers_once, launchers_fill);
    *out_kernels = (Kernels){.name = "emulated", .context_open = context_open_emulated};
    cuda_kernels_fill(out_kernels);
    return STATUS_OK;
}

const Backend backend_emulated = {
    .name = "emulated",
    .summary = "a GPU that is played by this machine's processors, slowly, for tests",
    .probe = emulated_probe,
    .find = emulated_find,
    .open = emulated_open,
};
