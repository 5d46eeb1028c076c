#include "kernels/cuda/emulation/emulated_device.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/emulation/emulated_memory.h"
#include "runtime/base/arena.h"
#include "runtime/base/invariant.h"
#include "runtime/base/random.h"

enum {
    STREAM_WORK_MAX = 1024, /* more makes the host wait, as a driver does */
    EARLY_ODDS = 4,         /* one call in so many lets some work run early */
    EARLY_WORK_MAX = 8,
};
static const uint64_t memory_bytes_default = 1ull << 30;

typedef struct EmulatedDevice EmulatedDevice;
typedef struct Work Work;

/* Runs the work; false leaves the cause in device->defect. */
typedef bool WorkRun(EmulatedDevice *device, const Work *work);

struct Work {
    Work *next;
    WorkRun *run;
    union {
        EmulatedLaunch launch; /* arguments: the bytes behind this struct */
        struct {
            void *destination;
            const void *source;
            uint64_t bytes;
        } copy;
        struct {
            DeviceStream *stream;
            uint64_t ticket;
        } wait;
    };
    _Alignas(16) uint8_t arguments[];
};

struct DeviceStream {
    DeviceStream
        *next; /* of the device, for ever: events may still name a stream that was destroyed */
    EmulatedDevice *owner;
    Work *first, *last;
    uint64_t queued, finished; /* tickets: work is numbered from 1 */
};

struct DeviceEvent {
    DeviceStream *stream; /* NULL: never recorded */
    uint64_t ticket;
};

struct EmulatedDevice {
    Device device;
    EmulatedMemory *memory;
    GridRunner *grid;
    DeviceStream *streams;
    uint32_t stream_count;
    Random random;
    EmulatedFailures failures, seen;
    bool broken;
    char defect[EMULATED_DEFECT_BYTES]; /* why it is broken */
};

static EmulatedDevice *emulated(Device *device) {
    return device->state;
}

static bool fails_now(uint64_t *seen, uint64_t number) {
    return ++*seen == number;
}

static Status broken_status(const EmulatedDevice *emulated_device) {
    if (!emulated_device->broken) return STATUS_OK;
    FAIL(DEVICE, "%s: %s", emulated_device->device.name, emulated_device->defect);
}

__attribute__((format(printf, 2, 3))) static bool break_device(EmulatedDevice *device,
                                                               const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    if (!device->broken) vsnprintf(device->defect, sizeof device->defect, format, arguments);
    va_end(arguments);
    device->broken = true;
    return false;
}

/* ---- running what was put on streams */

static void stream_run_until(DeviceStream *stream, uint64_t ticket) {
    EmulatedDevice *device = stream->owner;
    while (stream->finished < ticket) {
        Work *work = stream->first;
        if (!device->broken && !work->run(device, work)) device->broken = true;
        stream->first = work->next;
        if (!stream->first) stream->last = NULL;
        stream->finished++;
        free(work);
    }
}

static void run_until(DeviceStream *stream, uint64_t ticket) {
    if (stream->finished >= ticket) return;
    emulated_memory_open(stream->owner->memory);
    stream_run_until(stream, ticket);
    emulated_memory_close(stream->owner->memory);
}

static uint64_t ticket_ahead(const DeviceStream *stream, uint64_t count) {
    uint64_t pending = stream->queued - stream->finished;
    return stream->finished + (count < pending ? count : pending);
}

/* Now and then some work of some stream runs before anybody waits for it. */
static void maybe_run_early(EmulatedDevice *device) {
    if (random_below(&device->random, EARLY_ODDS) != 0) return;
    uint64_t skip = random_below(&device->random, device->stream_count);
    DeviceStream *stream = device->streams;
    while (skip-- > 0)
        stream = stream->next;
    run_until(stream, ticket_ahead(stream, 1 + random_below(&device->random, EARLY_WORK_MAX)));
}

static Work *work_create(WorkRun *run, size_t arguments_bytes) {
    Work *work = malloc(sizeof *work + arguments_bytes);
    CHECK(work);
    work->next = NULL;
    work->run = run;
    return work;
}

static void stream_put(DeviceStream *stream, Work *work) {
    *(stream->last ? &stream->last->next : &stream->first) = work;
    stream->last = work;
    stream->queued++;
    if (stream->queued - stream->finished > STREAM_WORK_MAX)
        run_until(stream, stream->queued - STREAM_WORK_MAX);
    maybe_run_early(stream->owner);
}

/* ---- the three kinds of work */

static bool run_launch(EmulatedDevice *device, const Work *work) {
    if (fails_now(&device->seen.launch, device->failures.launch))
        return break_device(device, "kernel %s: the launch failed on demand", work->launch.kernel);
    EmulatedLaunch launch = work->launch;
    launch.arguments = work->arguments;
    return grid_run(device->grid, &launch, device->defect);
}

static bool run_copy(EmulatedDevice *device, const Work *work) {
    if (fails_now(&device->seen.copy, device->failures.copy))
        return break_device(device, "a copy of %llu bytes failed on demand",
                            (unsigned long long)work->copy.bytes);
    memmove(work->copy.destination, work->copy.source, work->copy.bytes);
    return true;
}

static bool run_wait(EmulatedDevice *device, const Work *work) {
    (void)device;
    stream_run_until(work->wait.stream, work->wait.ticket);
    return true;
}

void emulated_device_launch(DeviceStream *stream, const EmulatedLaunch *launch,
                            size_t arguments_bytes) {
    Work *work = work_create(run_launch, arguments_bytes);
    work->launch = *launch;
    memcpy(work->arguments, launch->arguments, arguments_bytes);
    stream_put(stream, work);
}

void emulated_arguments_pointer(const EmulatedArguments *arguments, const void *pointer) {
    EmulatedDevice *device = arguments->stream->owner;
    if (!pointer || emulated_memory_holds(device->memory, MEMORY_DEVICE, pointer, 0)) return;
    break_device(device, "kernel %s: argument %u is a pointer that is not into device memory",
                 arguments->kernel, arguments->index + 1);
}

/* ---- the Device row */

static Status emulated_memory_take_slot(Device *device, MemoryPlace place, uint64_t bytes,
                                        const char *what, void **out) {
    EmulatedDevice *mine = emulated(device);
    TRY(broken_status(mine));
    if (fails_now(&mine->seen.take, mine->failures.take))
        FAIL(MEMORY, "%s: taking %llu bytes of %s failed on demand", what,
             (unsigned long long)bytes, device->name);
    return emulated_memory_take(mine->memory, place, bytes, what, out);
}

/* As cudaFree does, waits for all work first. */
static void emulated_memory_give_slot(Device *device, MemoryPlace place, void *memory,
                                      uint64_t bytes) {
    (void)place;
    (void)bytes;
    for (DeviceStream *stream = emulated(device)->streams; stream; stream = stream->next)
        run_until(stream, stream->queued);
    emulated_memory_give(emulated(device)->memory, memory);
}

static Status emulated_memory_free(Device *device, uint64_t *out_bytes) {
    *out_bytes = emulated_memory_free_bytes(emulated(device)->memory);
    return STATUS_OK;
}

static Status emulated_stream_create(Device *device, StreamPriority priority, DeviceStream **out) {
    (void)priority; /* order is not ruled by it */
    EmulatedDevice *mine = emulated(device);
    TRY(broken_status(mine));
    void *memory;
    TRY(memory_take(&memory, 1, sizeof(DeviceStream), "stream"));
    DeviceStream *stream = memory;
    *stream = (DeviceStream){.next = mine->streams, .owner = mine};
    mine->streams = stream;
    mine->stream_count++;
    *out = stream;
    return STATUS_OK;
}

static void emulated_stream_destroy(Device *device, DeviceStream *stream) {
    (void)device;
    if (stream) run_until(stream, stream->queued);
}

static Status emulated_stream_wait(Device *device, DeviceStream *stream) {
    run_until(stream, stream->queued);
    return broken_status(emulated(device));
}

static bool copy_end_is_good(const EmulatedDevice *device, const void *address, uint64_t bytes) {
    return emulated_memory_holds(device->memory, MEMORY_DEVICE, address, bytes) ||
           emulated_memory_holds(device->memory, MEMORY_HOST, address, bytes);
}

static Status emulated_copy(Device *device, DeviceStream *stream, void *destination,
                            const void *source, uint64_t bytes) {
    EmulatedDevice *mine = emulated(device);
    TRY(broken_status(mine));
    const void *ends[] = {destination, source};
    for (int i = 0; i < 2; i++)
        if (!copy_end_is_good(mine, ends[i], bytes))
            break_device(mine, "the %s of a copy of %llu bytes is neither device nor pinned memory",
                         i ? "source" : "destination", (unsigned long long)bytes);
    TRY(broken_status(mine));
    Work *work = work_create(run_copy, 0);
    work->copy.destination = destination;
    work->copy.source = source;
    work->copy.bytes = bytes;
    stream_put(stream, work);
    return STATUS_OK;
}

static Status emulated_event_create(Device *device, DeviceEvent **out) {
    TRY(broken_status(emulated(device)));
    void *event;
    TRY(memory_take(&event, 1, sizeof(DeviceEvent), "event"));
    *out = event;
    return STATUS_OK;
}

static void emulated_event_destroy(Device *device, DeviceEvent *event) {
    (void)device;
    free(event);
}

static Status emulated_event_record(Device *device, DeviceEvent *event, DeviceStream *stream) {
    event->stream = stream;
    event->ticket = stream->queued;
    return broken_status(emulated(device));
}

static Status emulated_stream_wait_event(Device *device, DeviceStream *stream, DeviceEvent *event) {
    TRY(broken_status(emulated(device)));
    if (!event->stream || event->stream == stream) return STATUS_OK;
    Work *work = work_create(run_wait, 0);
    work->wait.stream = event->stream;
    work->wait.ticket = event->ticket;
    stream_put(stream, work);
    return STATUS_OK;
}

/* Asking lets a little time pass. */
static bool emulated_event_done(Device *device, DeviceEvent *event) {
    DeviceStream *stream = event->stream;
    if (!stream || stream->finished >= event->ticket) return true;
    run_until(stream, ticket_ahead(stream, random_below(&emulated(device)->random, 3)));
    return stream->finished >= event->ticket;
}

static Status emulated_event_wait(Device *device, DeviceEvent *event) {
    if (event->stream) run_until(event->stream, event->ticket);
    return broken_status(emulated(device));
}

static void emulated_close(Device *device) {
    EmulatedDevice *mine = emulated(device);
    while (mine->streams) {
        DeviceStream *stream = mine->streams;
        run_until(stream, stream->queued);
        mine->streams = stream->next;
        free(stream);
    }
    grid_runner_destroy(mine->grid);
    emulated_memory_destroy(mine->memory);
    free(mine);
}

static bool kernel_may_touch(void *user, const void *address, uint64_t bytes) {
    const EmulatedDevice *device = user;
    return emulated_memory_holds(device->memory, MEMORY_DEVICE, address, bytes);
}

static const Device emulated_row = {
    .name = "emulated:0",
    .memory_take = emulated_memory_take_slot,
    .memory_give = emulated_memory_give_slot,
    .memory_free = emulated_memory_free,
    .stream_create = emulated_stream_create,
    .stream_destroy = emulated_stream_destroy,
    .stream_wait = emulated_stream_wait,
    .copy = emulated_copy,
    .event_create = emulated_event_create,
    .event_destroy = emulated_event_destroy,
    .event_record = emulated_event_record,
    .event_wait = emulated_event_wait,
    .event_done = emulated_event_done,
    .stream_wait_event = emulated_stream_wait_event,
    .close = emulated_close,
};

Status emulated_device_open(Device **out, const EmulatedDeviceOptions *options) {
    void *memory;
    TRY(memory_take(&memory, 1, sizeof(EmulatedDevice), "the emulated device"));
    EmulatedDevice *mine = memory;
    mine->device = emulated_row;
    mine->device.state = mine;
    mine->random = (Random){.key = options->seed, .stream = 1};
    mine->failures = options->failures;
    uint64_t bytes = options->memory_bytes ? options->memory_bytes : memory_bytes_default;
    Status status = emulated_memory_create(&mine->memory, bytes);
    if (status == STATUS_OK)
        status = grid_runner_create(&mine->grid, options->seed, kernel_may_touch, mine);
    if (status != STATUS_OK) {
        emulated_close(&mine->device);
        return status;
    }
    *out = &mine->device;
    return STATUS_OK;
}
