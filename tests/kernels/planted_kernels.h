#ifndef KERNELS_PLANTED_KERNELS_H
#define KERNELS_PLANTED_KERNELS_H

/* Small kernels, right ones and ones with a planted defect, for the test of the emulation. */

#include <stdint.h>

#include "kernels/device.h"

SPILLWAY_EXTERN_C_BEGIN

enum { PLANTED_THREADS = 64, PLANTED_BLOCKS = 3 };

/* A kernel over PLANTED_BLOCKS blocks of PLANTED_THREADS threads, a number each: in and out [blocks * threads]. */
typedef struct PlantedKernel {
    const char *name;
    void (*launch)(DeviceStream *stream, const float *in, float *out);
    const char *defect; /* a part of the report; NULL: it is right and out[i] = expected(in, i) */
    float (*expected)(const float *in, uint32_t index);
} PlantedKernel;

extern const PlantedKernel planted_kernels[]; /* ended by a row without a name */

/* Right: out[i] = in[i] + 1, in its own time. */
void planted_increment(DeviceStream *stream, const float *in, float *out, uint32_t count);

SPILLWAY_EXTERN_C_END

#endif
