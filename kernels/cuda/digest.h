#ifndef KERNELS_CUDA_DIGEST_H
#define KERNELS_CUDA_DIGEST_H

/* The kernel behind Device.digest, in both builds: as the slot, and what fails comes out of the device's next call. */

#include "kernels/device.h"

SPILLWAY_EXTERN_C_BEGIN

void digest_launch_cuda(DeviceStream *stream, const DeviceDigest *digests, uint32_t digest_count,
                        uint64_t *out);
void digest_launch_emulated(DeviceStream *stream, const DeviceDigest *digests,
                            uint32_t digest_count, uint64_t *out);

/* Does the program hold code that the current GPU runs? */
bool digest_runs_cuda(void);

SPILLWAY_EXTERN_C_END

#endif
