#ifndef KERNELS_DEVICE_H
#define KERNELS_DEVICE_H

/* Where a backend keeps bytes and how it moves them: buffers, streams, events, copies. Apart from Kernels so
 * that tiers can move bytes without knowing math. Work put on a stream runs in order; different streams only
 * meet at events. On the host device every call has finished when it returns.
 *
 * A Device is used by one rank. Any thread may call; a stream is used by one thread at a time. A call that finds the device broken, by this call's
 * work or earlier, is STATUS_DEVICE with the code of its kind (device_fault.h), and names the device and the first cause. */

#include <stdint.h>

#include "kernels/device_fault.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct DeviceStream DeviceStream; /* owned by the device */
typedef struct DeviceEvent DeviceEvent;   /* owned by the device */

typedef enum MemoryPlace {
    MEMORY_DEVICE, /* where kernels read and write */
    MEMORY_HOST,   /* host memory that asynchronous copies may use (pinned where that matters) */
} MemoryPlace;

typedef enum StreamPriority {
    STREAM_URGENT,  /* short kernels that run before those of a step */
    STREAM_COMPUTE, /* kernels that a step waits for */
    STREAM_COPY,    /* what may run beside them */
    STREAM_PRIORITY_COUNT,
} StreamPriority;

/* Bytes of which a device makes the checksum. */
enum { DEVICE_DIGESTS_MAX = 16, DEVICE_DIGEST_BYTES_MIN = 241 };

typedef struct DeviceDigest {
    const void *bytes; /* MEMORY_DEVICE, 16-byte aligned */
    uint64_t count;    /* DEVICE_DIGEST_BYTES_MIN or more: below that XXH3 is another function */
    uint64_t seed;
} DeviceDigest;

typedef struct Device {
    const char *name; /* "cpu", "cuda:0" */
    /* Of the hardware, the same in every process that sees it; NULL: the host. */
    const char *identity;
    /* The library by which devices of its kind talk to each other (runtime/comm/nccl_api.h); NULL: none. */
    const char *collectives;
    void *state;
    /* MEMORY_DEVICE is ordinary memory, and every call has finished when it returns. Where it is not, host code reaches device
     * memory through copy() alone. */
    bool host_addressable;

    /* Untouched MEMORY_HOST: pages are committed when first written, contents are zero. MEMORY_DEVICE holds anything, unless the
     * device is host_addressable: then it is as MEMORY_HOST. 64-byte aligned. `what` names it in errors: E-DEVICE-MEMORY where the
     * device has no room, E-MEMORY where the host has none or may pin none. */
    Status (*memory_take)(struct Device *device, MemoryPlace place, uint64_t bytes,
                          const char *what, void **out);
    void (*memory_give)(struct Device *device, MemoryPlace place, void *memory, uint64_t bytes);
    /* Bytes of MEMORY_DEVICE that could be taken now, by all who share the device. */
    Status (*memory_free)(struct Device *device, uint64_t *out_bytes);

    Status (*stream_create)(struct Device *device, StreamPriority priority, DeviceStream **out);
    void (*stream_destroy)(struct Device *device, DeviceStream *stream);
    Status (*stream_wait)(struct Device *device,
                          DeviceStream *stream); /* host waits for all work so far */

    /* Bytes may be read from `source` and written to `destination` until the stream passes this point. Each end is in
     * MEMORY_DEVICE or MEMORY_HOST of this device. */
    Status (*copy)(struct Device *device, DeviceStream *stream, void *destination,
                   const void *source, uint64_t bytes);

    /* hash_xxh3 of each of up to DEVICE_DIGESTS_MAX, to out[digest_count] in MEMORY_DEVICE. */
    Status (*digest)(struct Device *device, DeviceStream *stream, const DeviceDigest *digests,
                     uint32_t digest_count, uint64_t *out);

    Status (*event_create)(struct Device *device, DeviceEvent **out);
    void (*event_destroy)(struct Device *device, DeviceEvent *event);
    Status (*event_record)(struct Device *device, DeviceEvent *event, DeviceStream *stream);
    Status (*stream_wait_event)(struct Device *device, DeviceStream *stream, DeviceEvent *event);
    Status (*event_wait)(struct Device *device,
                         DeviceEvent *event); /* host waits for what was recorded */
    bool (*event_done)(struct Device *device,
                       DeviceEvent *event); /* true too when the device broke */

    void (*close)(struct Device *device);
} Device;

/* Failures on demand, for tests: the n-th event of a kind fails, counted from 1; 0: none. Only an emulated device obeys. */
typedef struct DeviceFailures {
    uint64_t take, launch, copy;
    DeviceFault fault; /* as which a launch or copy fails */
    bool hangs;        /* it does not fail, but never ends */
} DeviceFailures;

/* The CPU row: memory is mmap, streams and events are empty, copies are memcpy. */
Status device_host_open(Device **out);

SPILLWAY_EXTERN_C_END

#endif
