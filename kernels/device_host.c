#include "kernels/device.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "runtime/base/arena.h"
#include "runtime/base/hash.h"
#include "runtime/base/machine.h"

/* Streams and events carry nothing here: every call has finished when it returns. */
struct DeviceStream {
    int unused;
};
struct DeviceEvent {
    int unused;
};

static Status host_memory_take(Device *device, MemoryPlace place, uint64_t bytes, const char *what,
                               void **out) {
    (void)device;
    (void)place;
    void *memory = mmap(NULL, bytes ? bytes : 1, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        FAIL(MEMORY, "%s: cannot map %llu bytes", what, (unsigned long long)bytes);
    madvise(memory, bytes,
            MADV_HUGEPAGE); /* advice only: a kernel without huge pages is as right */
    *out = memory;
    return STATUS_OK;
}

static void host_memory_give(Device *device, MemoryPlace place, void *memory, uint64_t bytes) {
    (void)device;
    (void)place;
    if (memory) munmap(memory, bytes ? bytes : 1);
}

static Status host_memory_free(Device *device, uint64_t *out_bytes) {
    (void)device;
    *out_bytes = machine_available_bytes();
    return STATUS_OK;
}

static Status host_stream_create(Device *device, StreamPriority priority, DeviceStream **out) {
    (void)device;
    (void)priority;
    void *stream;
    TRY(memory_take(&stream, 1, sizeof(DeviceStream), "stream"));
    *out = stream;
    return STATUS_OK;
}

static void host_stream_destroy(Device *device, DeviceStream *stream) {
    (void)device;
    free(stream);
}

static Status host_stream_wait(Device *device, DeviceStream *stream) {
    (void)device;
    (void)stream;
    return STATUS_OK;
}

static Status host_copy(Device *device, DeviceStream *stream, void *destination, const void *source,
                        uint64_t bytes) {
    (void)device;
    (void)stream;
    memcpy(destination, source, bytes);
    return STATUS_OK;
}

static Status host_digest(Device *device, DeviceStream *stream, const DeviceDigest *digests,
                          uint32_t digest_count, uint64_t *out) {
    (void)device;
    (void)stream;
    for (uint32_t i = 0; i < digest_count; i++)
        out[i] = hash_xxh3(digests[i].bytes, digests[i].count, digests[i].seed);
    return STATUS_OK;
}

static Status host_event_create(Device *device, DeviceEvent **out) {
    (void)device;
    void *event;
    TRY(memory_take(&event, 1, sizeof(DeviceEvent), "event"));
    *out = event;
    return STATUS_OK;
}

static void host_event_destroy(Device *device, DeviceEvent *event) {
    (void)device;
    free(event);
}

static Status host_event_record(Device *device, DeviceEvent *event, DeviceStream *stream) {
    (void)device;
    (void)event;
    (void)stream;
    return STATUS_OK;
}

static Status host_stream_wait_event(Device *device, DeviceStream *stream, DeviceEvent *event) {
    (void)device;
    (void)stream;
    (void)event;
    return STATUS_OK;
}

static Status host_event_wait(Device *device, DeviceEvent *event) {
    (void)device;
    (void)event;
    return STATUS_OK;
}

static bool host_event_done(Device *device, DeviceEvent *event) {
    (void)device;
    (void)event;
    return true;
}

static void host_close(Device *device) {
    free(device);
}

Status device_host_open(Device **out) {
    void *memory;
    TRY(memory_take(&memory, 1, sizeof(Device), "device"));
    Device *device = memory;
    *device = (Device){
        .name = "cpu",
        .host_addressable = true,
        .memory_take = host_memory_take,
        .memory_give = host_memory_give,
        .memory_free = host_memory_free,
        .stream_create = host_stream_create,
        .stream_destroy = host_stream_destroy,
        .stream_wait = host_stream_wait,
        .copy = host_copy,
        .digest = host_digest,
        .event_create = host_event_create,
        .event_destroy = host_event_destroy,
        .event_record = host_event_record,
        .stream_wait_event = host_stream_wait_event,
        .event_wait = host_event_wait,
        .event_done = host_event_done,
        .close = host_close,
    };
    *out = device;
    return STATUS_OK;
}
