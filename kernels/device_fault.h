#ifndef KERNELS_DEVICE_FAULT_H
#define KERNELS_DEVICE_FAULT_H

/* What a device says when it fails, told apart by what a person can do: each kind has an error code and advice of its own. Where work
 * runs behind the calls that put it there, the call that is named is the one that found out. Any thread. */

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

typedef enum DeviceFault {
    DEVICE_FAULT_OTHER,  /* E-DEVICE */
    DEVICE_FAULT_MEMORY, /* E-DEVICE-MEMORY: none is left */
    DEVICE_FAULT_ECC,    /* E-DEVICE-ECC: its memory has an error that it could not correct */
    DEVICE_FAULT_LOST,   /* E-DEVICE-LOST: it is gone, or cannot be used */
    DEVICE_FAULT_KERNEL, /* E-DEVICE-KERNEL: a kernel crashed */
    DEVICE_FAULT_LINK, /* E-DEVICE-LINK: a link between devices has an error that it could not correct */
    DEVICE_FAULT_COUNT,
} DeviceFault;

/* Raises it: "device: cause; advice". */
Status device_fault_raise(DeviceFault fault, const char *device, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

SPILLWAY_EXTERN_C_END

#endif
