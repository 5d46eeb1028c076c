#include "kernels/cuda/emulation/emulated_device.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/cuda/digest.h"
#include "kernels/cuda/emulation/emulated_memory.h"
#include "runtime/base/arena.h"
#include "runtime/base/invariant.h"
#include "runtime/base/random.h"

enum {
    STREAM_WORK_MAX = 1024, /* more makes the host wait, as a driver does */
    EARLY_ODDS = 16,        /* one call in so many lets some work run early */
    EARLY_WORK_MAX = 32,
    LATER_US = 20, /* between two looks at what another device does */
};
static const uint64_t memory_bytes_default = 1ull << 30;

typedef struct EmulatedDevice EmulatedDevice;
typedef struct Work Work;

typedef enum WorkResult {
    WORK_DONE,
    WORK_LATER, /* it waits for another device: to be run again */
    WORK_BROKE, /* the cause is in device->defect */
} WorkResult;

typedef WorkResult WorkRun(EmulatedDevice *device, const Work *work);

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
        EmulatedTask task;
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
    char identity[48];
    pthread_mutex_t lock; /* held by every slot: the tiers have a thread of their own */
    EmulatedMemory *memory;
    GridRunner *grid;
    DeviceStream *streams;
    uint32_t stream_count;
    Random random;
    DeviceFailures failures, seen;
    bool broken;
    DeviceFault fault;                  /* as which */
    char defect[EMULATED_DEFECT_BYTES]; /* why it is broken */
};

static EmulatedDevice *lock(Device *device) {
    EmulatedDevice *mine = device->state;
    pthread_mutex_lock(&mine->lock);
    return mine;
}

static void unlock(EmulatedDevice *device) {
    pthread_mutex_unlock(&device->lock);
}

static bool fails_now(uint64_t *seen, uint64_t number) {
    return ++*seen == number;
}

static Status broken_status(const EmulatedDevice *device) {
    if (!device->broken) return STATUS_OK;
    return device_fault_raise(device->fault, device->device.name, "%s", device->defect);
}

/* What a slot ends with. */
static Status unlock_status(EmulatedDevice *device) {
    Status status = broken_status(device);
    unlock(device);
    return status;
}

__attribute__((format(printf, 3, 4))) static WorkResult
break_device(EmulatedDevice *device, DeviceFault fault, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    if (!device->broken) {
        vsnprintf(device->defect, sizeof device->defect, format, arguments);
        device->fault = fault;
    }
    va_end(arguments);
    device->broken = true;
    return WORK_BROKE;
}

/* The event that was to fail: breaks the device, or keeps its stream for ever. */
static WorkResult fail_on_demand(EmulatedDevice *device, uint64_t *seen, const char *what) {
    if (device->failures.hangs) {
        --*seen; /* it comes again */
        return WORK_LATER;
    }
    return break_device(device, device->failures.fault, "%s failed on demand", what);
}

/* ---- running what was put on streams */

static WorkResult run_task(EmulatedDevice *device, const Work *work);

static void leave_queue(DeviceStream *stream) {
    Work *work = stream->first;
    stream->first = work->next;
    if (!stream->first) stream->last = NULL;
    stream->finished++;
    if (work->run == run_task) work->task.end(work->task.user);
    free(work);
}

/* False when the impatient met work that waits for another device. */
static bool stream_run_until(DeviceStream *stream, uint64_t ticket, bool patient) {
    EmulatedDevice *device = stream->owner;
    while (stream->finished < ticket) {
        WorkResult result = device->broken ? WORK_DONE : stream->first->run(device, stream->first);
        if (result == WORK_LATER && !patient) return false;
        if (result == WORK_BROKE) device->broken = true;
        if (result == WORK_LATER)
            usleep(LATER_US);
        else
            leave_queue(stream);
    }
    return true;
}

static void run_some(DeviceStream *stream, uint64_t ticket, bool patient) {
    if (stream->finished >= ticket) return;
    emulated_memory_open(stream->owner->memory);
    (void)stream_run_until(stream, ticket, patient);
    emulated_memory_close(stream->owner->memory);
}

static void run_until(DeviceStream *stream, uint64_t ticket) {
    run_some(stream, ticket, true);
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
    run_some(stream, ticket_ahead(stream, 1 + random_below(&device->random, EARLY_WORK_MAX)),
             false);
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

/* ---- the kinds of work */

static WorkResult run_launch(EmulatedDevice *device, const Work *work) {
    char what[160];
    if (fails_now(&device->seen.launch, device->failures.launch)) {
        snprintf(what, sizeof what, "kernel %s: the launch", work->launch.kernel);
        return fail_on_demand(device, &device->seen.launch, what);
    }
    EmulatedLaunch launch = work->launch;
    launch.arguments = work->arguments;
    if (grid_run(device->grid, &launch, device->defect)) return WORK_DONE;
    device->fault = DEVICE_FAULT_KERNEL;
    return WORK_BROKE;
}

static WorkResult run_copy(EmulatedDevice *device, const Work *work) {
    char what[64];
    if (fails_now(&device->seen.copy, device->failures.copy)) {
        snprintf(what, sizeof what, "a copy of %llu bytes", (unsigned long long)work->copy.bytes);
        return fail_on_demand(device, &device->seen.copy, what);
    }
    memmove(work->copy.destination, work->copy.source, work->copy.bytes);
    return WORK_DONE;
}

static WorkResult run_wait(EmulatedDevice *device, const Work *work) {
    (void)device;
    bool reached = stream_run_until(work->wait.stream, work->wait.ticket, false);
    return reached ? WORK_DONE : WORK_LATER;
}

static WorkResult run_task(EmulatedDevice *device, const Work *work) {
    (void)device;
    return work->task.run(work->task.user) ? WORK_DONE : WORK_LATER;
}

void emulated_device_launch(DeviceStream *stream, const EmulatedLaunch *launch,
                            size_t arguments_bytes) {
    Work *work = work_create(run_launch, arguments_bytes);
    work->launch = *launch;
    memcpy(work->arguments, launch->arguments, arguments_bytes);
    EmulatedDevice *device = lock(&stream->owner->device);
    stream_put(stream, work);
    unlock(device);
}

void emulated_device_task(DeviceStream *stream, const EmulatedTask *task) {
    Work *work = work_create(run_task, 0);
    work->task = *task;
    EmulatedDevice *device = lock(&stream->owner->device);
    stream_put(stream, work);
    unlock(device);
}

void emulated_arguments_pointer(const EmulatedArguments *arguments, const void *pointer) {
    EmulatedDevice *device = lock(&arguments->stream->owner->device);
    if (pointer && !emulated_memory_holds(device->memory, MEMORY_DEVICE, pointer, 0))
        break_device(device, DEVICE_FAULT_KERNEL,
                     "kernel %s: argument %u is a pointer that is not into device memory",
                     arguments->kernel, arguments->index + 1);
    unlock(device);
}

/* ---- the Device row */

static Status take_locked(EmulatedDevice *device, MemoryPlace place, uint64_t bytes,
                          const char *what, void **out) {
    TRY(broken_status(device));
    if (fails_now(&device->seen.take, device->failures.take))
        return device_fault_raise(DEVICE_FAULT_MEMORY, device->device.name,
                                  "%s: taking %llu bytes failed on demand", what,
                                  (unsigned long long)bytes);
    return emulated_memory_take(device->memory, place, bytes, what, out);
}

static Status take_slot(Device *device, MemoryPlace place, uint64_t bytes, const char *what,
                        void **out) {
    EmulatedDevice *mine = lock(device);
    Status status = take_locked(mine, place, bytes, what, out);
    unlock(mine);
    return status;
}

/* As cudaFree does, waits for all work first. */
static void give_slot(Device *device, MemoryPlace place, void *memory, uint64_t bytes) {
    (void)place;
    (void)bytes;
    EmulatedDevice *mine = lock(device);
    for (DeviceStream *stream = mine->streams; stream; stream = stream->next)
        run_until(stream, stream->queued);
    emulated_memory_give(mine->memory, memory);
    unlock(mine);
}

static Status memory_free_slot(Device *device, uint64_t *out_bytes) {
    EmulatedDevice *mine = lock(device);
    *out_bytes = emulated_memory_free_bytes(mine->memory);
    return unlock_status(mine);
}

static Status stream_create_slot(Device *device, StreamPriority priority, DeviceStream **out) {
    (void)priority; /* order is not ruled by it */
    void *memory;
    TRY(memory_take(&memory, 1, sizeof(DeviceStream), "stream"));
    DeviceStream *stream = memory;
    EmulatedDevice *mine = lock(device);
    *stream = (DeviceStream){.next = mine->streams, .owner = mine};
    mine->streams = stream;
    mine->stream_count++;
    *out = stream;
    return unlock_status(mine);
}

static void stream_destroy_slot(Device *device, DeviceStream *stream) {
    EmulatedDevice *mine = lock(device);
    run_until(stream, stream->queued);
    unlock(mine);
}

static Status stream_wait_slot(Device *device, DeviceStream *stream) {
    EmulatedDevice *mine = lock(device);
    run_until(stream, stream->queued);
    return unlock_status(mine);
}

static void check_copy_end(EmulatedDevice *device, const char *which, const void *address,
                           uint64_t bytes) {
    if (emulated_memory_holds(device->memory, MEMORY_DEVICE, address, bytes) ||
        emulated_memory_holds(device->memory, MEMORY_HOST, address, bytes))
        return;
    break_device(device, DEVICE_FAULT_OTHER,
                 "the %s of a copy of %llu bytes is neither device nor pinned memory", which,
                 (unsigned long long)bytes);
}

static Status copy_slot(Device *device, DeviceStream *stream, void *destination, const void *source,
                        uint64_t bytes) {
    Work *work = work_create(run_copy, 0);
    work->copy.destination = destination;
    work->copy.source = source;
    work->copy.bytes = bytes;
    EmulatedDevice *mine = lock(device);
    check_copy_end(mine, "destination", destination, bytes);
    check_copy_end(mine, "source", source, bytes);
    stream_put(stream, work);
    return unlock_status(mine);
}

static Status digest_slot(Device *device, DeviceStream *stream, const DeviceDigest *digests,
                          uint32_t digest_count, uint64_t *out) {
    digest_launch_emulated(stream, digests, digest_count, out);
    return unlock_status(lock(device));
}

static Status event_create_slot(Device *device, DeviceEvent **out) {
    (void)device;
    void *event;
    TRY(memory_take(&event, 1, sizeof(DeviceEvent), "event"));
    *out = event;
    return STATUS_OK;
}

static void event_destroy_slot(Device *device, DeviceEvent *event) {
    (void)device;
    free(event);
}

static Status event_record_slot(Device *device, DeviceEvent *event, DeviceStream *stream) {
    EmulatedDevice *mine = lock(device);
    event->stream = stream;
    event->ticket = stream->queued;
    return unlock_status(mine);
}

static Status stream_wait_event_slot(Device *device, DeviceStream *stream, DeviceEvent *event) {
    EmulatedDevice *mine = lock(device);
    if (event->stream && event->stream != stream) {
        Work *work = work_create(run_wait, 0);
        work->wait.stream = event->stream;
        work->wait.ticket = event->ticket;
        stream_put(stream, work);
    }
    return unlock_status(mine);
}

static Status event_wait_slot(Device *device, DeviceEvent *event) {
    EmulatedDevice *mine = lock(device);
    if (event->stream) run_until(event->stream, event->ticket);
    return unlock_status(mine);
}

/* Asking lets a little time pass. */
static bool event_done_slot(Device *device, DeviceEvent *event) {
    EmulatedDevice *mine = lock(device);
    DeviceStream *stream = event->stream;
    bool done = !stream || stream->finished >= event->ticket;
    if (!done) {
        run_some(stream, ticket_ahead(stream, random_below(&mine->random, 3)), false);
        done = stream->finished >= event->ticket;
    }
    unlock(mine);
    return done;
}

static void close_slot(Device *device) {
    EmulatedDevice *mine = device->state;
    while (mine->streams) {
        DeviceStream *stream = mine->streams;
        run_until(stream, stream->queued);
        mine->streams = stream->next;
        free(stream);
    }
    grid_runner_destroy(mine->grid);
    emulated_memory_destroy(mine->memory);
    pthread_mutex_destroy(&mine->lock);
    free(mine);
}

static bool kernel_may_touch(void *user, const void *address, uint64_t bytes) {
    const EmulatedDevice *device = user;
    return emulated_memory_holds(device->memory, MEMORY_DEVICE, address, bytes);
}

static const Device emulated_row = {
    .name = "emulated:0",
    .collectives = "emulated",
    .memory_take = take_slot,
    .memory_give = give_slot,
    .memory_free = memory_free_slot,
    .stream_create = stream_create_slot,
    .stream_destroy = stream_destroy_slot,
    .stream_wait = stream_wait_slot,
    .copy = copy_slot,
    .digest = digest_slot,
    .event_create = event_create_slot,
    .event_destroy = event_destroy_slot,
    .event_record = event_record_slot,
    .event_wait = event_wait_slot,
    .event_done = event_done_slot,
    .stream_wait_event = stream_wait_event_slot,
    .close = close_slot,
};

Status emulated_device_open(Device **out, const EmulatedDeviceOptions *options) {
    void *memory;
    TRY(memory_take(&memory, 1, sizeof(EmulatedDevice), "the emulated device"));
    EmulatedDevice *mine = memory;
    mine->device = emulated_row;
    mine->device.state = mine;
    mine->device.identity = mine->identity;
    snprintf(mine->identity, sizeof mine->identity, "process %d, %p", (int)getpid(), memory);
    pthread_mutex_init(&mine->lock, NULL);
    mine->random = (Random){.key = options->seed, .stream = 1};
    mine->failures = options->failures;
    uint64_t bytes = options->memory_bytes ? options->memory_bytes : memory_bytes_default;
    Status status = emulated_memory_create(&mine->memory, bytes);
    if (status == STATUS_OK)
        status = grid_runner_create(&mine->grid, options->seed, kernel_may_touch, mine);
    if (status != STATUS_OK) {
        close_slot(&mine->device);
        return status;
    }
    *out = &mine->device;
    return STATUS_OK;
}
