#ifndef KERNELS_CUDA_CUDA_CHECK_H
#define KERNELS_CUDA_CUDA_CHECK_H

/* Errors of the CUDA runtime. Launchers and event queries cannot return one, so the first is kept with the name of
 * what failed, and the device's next call that can fail raises it with the code of its kind. Any thread. */

#include <cuda_runtime.h>

#include "kernels/device_fault.h"

SPILLWAY_EXTERN_C_BEGIN

/* Keeps the first error of all; `what` is a literal: a kernel or a call. */
void cuda_note(cudaError_t error, const char *what);

/* What kind an error is of. */
DeviceFault cuda_fault(cudaError_t error);

SPILLWAY_EXTERN_C_END

#endif
