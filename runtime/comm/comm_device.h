#ifndef RUNTIME_COMM_COMM_DEVICE_H
#define RUNTIME_COMM_COMM_DEVICE_H

/* Sums over ranks of arrays in device memory. Where the host cannot address the device, an array goes through pinned memory in
 * pieces of one size on every rank; the sums have the bits that comm_all_reduce gives. The CommDevice borrows all that it
 * names; its calls are collective and made by the thread that created the Comm. */

#include "kernels/device.h"
#include "runtime/comm/comm.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct CommDevice {
    Comm *comm;
    Device *device;
    DeviceStream *stream; /* work before and after the sum */
    float *bounce;        /* pinned; NULL: not needed */
} CommDevice;

/* stream: NULL on devices that the host can address. */
Status comm_device_create(CommDevice *out, Comm *comm, Device *device, DeviceStream *stream);
void comm_device_destroy(CommDevice *reduce); /* takes a zeroed one */

/* data[count] = sum over ranks, in rank order. On return it is there (CPU) or on its way on the stream. */
Status comm_device_all_reduce(const CommDevice *reduce, float *data, uint64_t count);

SPILLWAY_EXTERN_C_END

#endif
