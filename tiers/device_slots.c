#include "tiers/device_slots.h"

#include <stdlib.h>

#include "runtime/base/arena.h"
#include "runtime/base/invariant.h"
#include "tiers/spill_header.h"

struct DeviceSlots {
    DeviceSlotsOptions options;
    DeviceStream *stream;
    uint8_t *buffers;
    uint32_t free_count;
    uint8_t *free_buffers[]; /* [buffer_count] stack */
};

static uint64_t buffers_bytes(const DeviceSlotsOptions *options) {
    return options->buffer_count * options->slot_bytes;
}

static Status slots_fill(DeviceSlots *slots) {
    const DeviceSlotsOptions *options = &slots->options;
    Device *device = options->device;
    TRY(device->stream_create(device, STREAM_COPY, &slots->stream));
    TRY(device->memory_take(device, MEMORY_HOST, buffers_bytes(options), "blocks on their way",
                            (void **)&slots->buffers));
    for (uint32_t i = 0; i < options->buffer_count; i++)
        slots->free_buffers[slots->free_count++] = slots->buffers + i * options->slot_bytes;
    return STATUS_OK;
}

Status device_slots_create(DeviceSlots **out, const DeviceSlotsOptions *options) {
    void *memory;
    TRY(memory_take(&memory, 1, sizeof(DeviceSlots) + options->buffer_count * sizeof(uint8_t *),
                    "blocks on their way"));
    DeviceSlots *slots = memory;
    slots->options = *options;
    Status status = slots_fill(slots);
    if (status != STATUS_OK) {
        device_slots_destroy(slots);
        return status;
    }
    *out = slots;
    return STATUS_OK;
}

void device_slots_destroy(DeviceSlots *slots) {
    if (!slots) return;
    Device *device = slots->options.device;
    if (slots->stream) device->stream_destroy(device, slots->stream);
    device->memory_give(device, MEMORY_HOST, slots->buffers, buffers_bytes(&slots->options));
    free(slots);
}

uint8_t *device_slots_buffers(const DeviceSlots *slots, uint64_t *out_bytes) {
    *out_bytes = buffers_bytes(&slots->options);
    return slots->buffers;
}

uint8_t *device_slots_take(DeviceSlots *slots) {
    return slots->free_count > 0 ? slots->free_buffers[--slots->free_count] : NULL;
}

void device_slots_give(DeviceSlots *slots, uint8_t *buffer) {
    CHECK(slots->free_count < slots->options.buffer_count);
    slots->free_buffers[slots->free_count++] = buffer;
}

static uint8_t *payload_of(const DeviceSlots *slots, uint32_t slot) {
    return slots->options.slots + slot * slots->options.slot_bytes + sizeof(SpillHeader);
}

Status device_slots_fetch(DeviceSlots *slots, uint32_t slot, uint8_t *block, uint32_t bytes) {
    Device *device = slots->options.device;
    error_capture_begin();
    Status status = device->copy(device, slots->stream, block + sizeof(SpillHeader),
                                 payload_of(slots, slot), bytes);
    if (status == STATUS_OK) status = device->stream_wait(device, slots->stream);
    error_capture_end();
    return status;
}

Status device_slots_put(DeviceSlots *slots, uint32_t slot, const uint8_t *block, uint32_t bytes) {
    Device *device = slots->options.device;
    error_capture_begin();
    Status status = device->copy(device, slots->stream, payload_of(slots, slot),
                                 block + sizeof(SpillHeader), bytes);
    error_capture_end();
    return status;
}

Status device_slots_wait(DeviceSlots *slots) {
    Device *device = slots->options.device;
    error_capture_begin();
    Status status = device->stream_wait(device, slots->stream);
    error_capture_end();
    return status;
}
