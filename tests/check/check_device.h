#ifndef TESTS_CHECK_CHECK_DEVICE_H
#define TESTS_CHECK_CHECK_DEVICE_H

/* Cases hand host memory to kernels. Where a backend's memory is its device's, this table stands between: each slot
 * copies what its arguments point to up, runs the backend's slot there, waits, and copies what may have been written down, so
 * that cases, fences and poison stay as they are. Pieces of device memory have the exact size of the host's.
 *
 * Main thread only; one device in use at a time. A device that reports an error ends the program: nothing after it counts. */

#include "kernels/device.h"
#include "kernels/kernels.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct CheckDevice CheckDevice;

/* The device and the table are the caller's and outlive it. */
Status check_device_open(CheckDevice **out, Device *device, const Kernels *kernels);
void check_device_close(CheckDevice *device); /* NULL is fine */

/* Calls of the table go to this device from now on. */
void check_device_use(CheckDevice *device);

/* Between two calls, copies stay on the device and are taken for current: for timing. Nothing is copied down. */
void check_device_keep(CheckDevice *device, bool keep);

void check_device_fill(Kernels *kernels);

SPILLWAY_EXTERN_C_END

#endif
