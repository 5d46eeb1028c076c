#include "kernels/device_fault.h"

#include <stdarg.h>
#include <stdio.h>

static const struct {
    ErrorCode error;
    const char *advice;
} faults[DEVICE_FAULT_COUNT] = {
    [DEVICE_FAULT_OTHER] = {ERROR_DEVICE, "run again, with --backend cpu if it fails again"},
    [DEVICE_FAULT_MEMORY] = {ERROR_DEVICE_MEMORY,
                             "lower --kv-device-size, --max-num-batched-tokens or --max-num-seqs, "
                             "or see who else uses it (nvidia-smi)"},
    [DEVICE_FAULT_ECC] = {ERROR_DEVICE_ECC,
                          "run again, and elsewhere if it fails again: nvidia-smi -q -d "
                          "ECC,ROW_REMAPPER tells whether it must be reset or replaced"},
    [DEVICE_FAULT_LOST] = {ERROR_DEVICE_LOST,
                           "run elsewhere, or leave it out with CUDA_VISIBLE_DEVICES, until it has "
                           "been reset: the system's log tells why (dmesg | grep -i xid)"},
    [DEVICE_FAULT_KERNEL] = {ERROR_DEVICE_KERNEL,
                             "run again; where the same input fails again it is a bug of this "
                             "program, please report it; where any does, the device's (dmesg | "
                             "grep -i xid)"},
    [DEVICE_FAULT_LINK] = {ERROR_DEVICE_LINK,
                           "run again, with --comm host if it fails again: nvidia-smi nvlink -e "
                           "counts the errors of each link"},
};

Status device_fault_raise(DeviceFault fault, const char *device, const char *format, ...) {
    char cause[640];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(cause, sizeof cause, format, arguments);
    va_end(arguments);
    return error_raise(faults[fault].error, "%s: %s; %s", device, cause, faults[fault].advice);
}
