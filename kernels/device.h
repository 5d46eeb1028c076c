#ifndef KERNELS_DEVICE_H
#define KERNELS_DEVICE_H

/* Where a backend keeps bytes and how it moves them: buffers, streams, events, copies. Apart from Kernels so
 * that tiers can move bytes without knowing math. Work put on a stream runs in order; different streams only
 * meet at events. On the host device every call has finished when it returns.
 *
 * A Device is used by one rank; calls on one stream come from one thread at a time. */

#include <stdint.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct DeviceStream DeviceStream; /* owned by the device */
typedef struct DeviceEvent DeviceEvent;   /* owned by the device */

typedef enum MemoryPlace {
    MEMORY_DEVICE, /* where kernels read and write */
    MEMORY_HOST,   /* host memory that asynchronous copies may use (pinned where that matters) */
} MemoryPlace;

typedef struct Device {
    const char *name; /* "cpu", "cuda:0" */
    void *state;
    /* Untouched memory: pages are committed when first written, contents are zero. `what` names it in errors. */
    Status (*memory_take)(struct Device *device, MemoryPlace place, uint64_t bytes,
                          const char *what, void **out);
    void (*memory_give)(struct Device *device, MemoryPlace place, void *memory, uint64_t bytes);

    Status (*stream_create)(struct Device *device, DeviceStream **out);
    void (*stream_destroy)(struct Device *device, DeviceStream *stream);
    Status (*stream_wait)(struct Device *device,
                          DeviceStream *stream); /* host waits for all work so far */

    /* Bytes may be read from `source` and written to `destination` until the stream passes this point. */
    Status (*copy)(struct Device *device, DeviceStream *stream, void *destination,
                   const void *source, uint64_t bytes);

    Status (*event_create)(struct Device *device, DeviceEvent **out);
    void (*event_destroy)(struct Device *device, DeviceEvent *event);
    Status (*event_record)(struct Device *device, DeviceEvent *event, DeviceStream *stream);
    Status (*stream_wait_event)(struct Device *device, DeviceStream *stream, DeviceEvent *event);
    bool (*event_done)(struct Device *device, DeviceEvent *event);

    void (*close)(struct Device *device);
} Device;

/* The CPU row: memory is mmap, streams and events are empty, copies are memcpy. */
Status device_host_open(Device **out);

SPILLWAY_EXTERN_C_END

#endif
