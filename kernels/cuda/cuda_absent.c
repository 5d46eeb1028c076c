/* The row of the GPU backend in a build without it. */

#include "kernels/backend.h"

extern const Backend backend_cuda;

static Status absent_probe(const char **out_reason) {
    *out_reason = "not in this build, which found no CUDA toolkit or no driver (see -Dcuda)";
    return STATUS_UNSUPPORTED;
}

static Status absent_open(const BackendOptions *options, Device **out_device,
                          Kernels *out_kernels) {
    (void)options;
    (void)out_device;
    (void)out_kernels;
    const char *reason = "";
    (void)absent_probe(&reason);
    FAIL(UNAVAILABLE, "backend cuda: %s", reason);
}

const Backend backend_cuda = {
    .name = "cuda",
    .summary = "an NVIDIA GPU a rank",
    .automatic = true,
    .probe = absent_probe,
    .open = absent_open,
};
