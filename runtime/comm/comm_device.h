#ifndef RUNTIME_COMM_COMM_DEVICE_H
#define RUNTIME_COMM_COMM_DEVICE_H

/* Sums over ranks of arrays in device memory, in one of three ways, which all ranks agree on at the start:
 *   - in place, by the Comm, where the host can address the device;
 *   - by the devices themselves (comm_nccl.h), where each rank has one of its own and the library of its kind is there;
 *   - through pinned memory and the Comm, in pieces of one size on every rank.
 * The sums have the bits that comm_all_reduce gives, each way. The CommDevice borrows all that its options name; its calls are
 * collective and made by the thread that created the Comm.
 *
 * Where the device is out of the host's reach it also sees how far that gets in a step (device_marks.h), for the watchdog: at the sums of several
 * ranks, and for a rank alone where it would have some, too. */

#include "kernels/kernels.h"
#include "runtime/comm/comm.h"
#include "runtime/comm/comm_nccl.h"

SPILLWAY_EXTERN_C_BEGIN

enum { COMM_DEVICE_TEXT_BYTES = 320 };

typedef struct CommDevice {
    Comm *comm;
    Device *device;
    DeviceStream *stream;              /* work before and after the sum */
    CommNccl *nccl;                    /* NULL: not by the devices */
    float *bounce;                     /* pinned; NULL: not needed */
    struct CommPace *pace;             /* of a rank alone; NULL: not needed */
    char text[COMM_DEVICE_TEXT_BYTES]; /* which way, and why not another; "": nothing to tell */
} CommDevice;

typedef struct CommDeviceOptions {
    Comm *comm;
    Device *device;
    const Kernels *kernels;
    const KernelContext *context; /* its stream is NULL on devices that the host can address */
    const char *choice;           /* --comm: "auto", "host", "nccl"; NULL: auto */
    double timeout_seconds;       /* as in CommNcclOptions */
} CommDeviceOptions;

/* The most that it takes of one of the device's memories, whichever way it will be. */
uint64_t comm_device_bytes(const Comm *comm, const Device *device, const char *choice,
                           MemoryPlace place);

/* E-UNAVAILABLE on every rank where "nccl" cannot be. */
Status comm_device_create(CommDevice *out, const CommDeviceOptions *options);
void comm_device_destroy(CommDevice *reduce); /* takes a zeroed one */

/* Right before a sum of so many numbers, or where one would be on several ranks: waits, if need be, for the oldest of the step's work, so that
 * not too much of it is on its way. On one rank this is all that there is to do. */
Status comm_device_keep_pace(const CommDevice *reduce, uint64_t count);

/* data[count] = sum over ranks, in rank order. On return it is there (CPU) or on its way on the stream. */
Status comm_device_all_reduce(const CommDevice *reduce, float *data, uint64_t count);

/* Before the ranks talk in another way: every sum so far has come through. */
Status comm_device_settle(const CommDevice *reduce);

/* The host waits for all work of the step so far, also what is no sum. */
Status comm_device_wait(const CommDevice *reduce);

SPILLWAY_EXTERN_C_END

#endif
