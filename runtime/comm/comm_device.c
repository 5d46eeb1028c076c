#include "runtime/comm/comm_device.h"

/* Large enough that a message hides its latency, small beside what is pinned otherwise. */
enum { BOUNCE_FLOATS = 1 << 20 };

Status comm_device_create(CommDevice *out, Comm *comm, Device *device, DeviceStream *stream) {
    CommDevice reduce = {.comm = comm, .device = device, .stream = stream};
    if (comm->size > 1 && !device->host_addressable)
        TRY(device->memory_take(device, MEMORY_HOST, BOUNCE_FLOATS * sizeof(float),
                                "sums over ranks", (void **)&reduce.bounce));
    *out = reduce;
    return STATUS_OK;
}

void comm_device_destroy(CommDevice *reduce) {
    if (reduce->bounce)
        reduce->device->memory_give(reduce->device, MEMORY_HOST, reduce->bounce,
                                    BOUNCE_FLOATS * sizeof(float));
    *reduce = (CommDevice){0};
}

/* The copy back ends before the next piece overwrites what it reads. */
static Status reduce_piece(const CommDevice *reduce, float *data, uint64_t count) {
    Device *device = reduce->device;
    uint64_t bytes = count * sizeof(float);
    TRY(device->copy(device, reduce->stream, reduce->bounce, data, bytes));
    TRY(device->stream_wait(device, reduce->stream));
    TRY(comm_all_reduce(reduce->comm, reduce->bounce, count));
    return device->copy(device, reduce->stream, data, reduce->bounce, bytes);
}

Status comm_device_all_reduce(const CommDevice *reduce, float *data, uint64_t count) {
    if (reduce->comm->size == 1) return STATUS_OK;
    if (!reduce->bounce) return comm_all_reduce(reduce->comm, data, count);
    for (uint64_t first = 0; first < count; first += BOUNCE_FLOATS) {
        uint64_t left = count - first;
        TRY(reduce_piece(reduce, data + first, left < BOUNCE_FLOATS ? left : BOUNCE_FLOATS));
    }
    return STATUS_OK;
}
