#include "tiers/device_slots.h"

#include <stdlib.h>

#include "runtime/base/arena.h"
#include "runtime/base/hash.h"
#include "runtime/base/invariant.h"
#include "tiers/spill_header.h"

/* Closed groups are on their way; the one behind them is filled. */
typedef struct CrossingGroup {
    DeviceEvent *copied[2], *hashed; /* copied: down, up */
    Status status;                   /* of putting its hashing on a stream */
    uint32_t count, digest_count;
    DeviceCrossing crossings[DEVICE_DIGESTS_MAX];
    DeviceDigest digests[DEVICE_DIGESTS_MAX];
} CrossingGroup;

struct DeviceSlots {
    DeviceSlotsOptions options;
    DeviceStream *ways[2], *hashing; /* down, up */
    CrossingGroup groups[DEVICE_GROUPS];
    uint32_t oldest, closed_count; /* in turn */
    uint64_t *device_hashes;       /* device memory [DEVICE_GROUPS][DEVICE_DIGESTS_MAX] */
    uint64_t *host_hashes;         /* the same, pinned */
    uint8_t *buffers;
    uint32_t free_count;
    uint8_t *free_buffers[]; /* [buffer_count] stack */
};

static const uint64_t hashes_bytes = DEVICE_CROSSINGS_MAX * sizeof(uint64_t);

static uint64_t buffers_bytes(const DeviceSlotsOptions *options) {
    return options->buffer_count * options->slot_bytes;
}

static Status slots_fill(DeviceSlots *slots) {
    static const char what[] = "blocks on their way";
    const DeviceSlotsOptions *options = &slots->options;
    Device *device = options->device;
    TRY(device->stream_create(device, STREAM_URGENT, &slots->hashing));
    for (int up = 0; up < 2; up++) {
        TRY(device->stream_create(device, STREAM_COPY, &slots->ways[up]));
        for (uint32_t i = 0; i < DEVICE_GROUPS; i++)
            TRY(device->event_create(device, &slots->groups[i].copied[up]));
    }
    for (uint32_t i = 0; i < DEVICE_GROUPS; i++)
        TRY(device->event_create(device, &slots->groups[i].hashed));
    TRY(device->memory_take(device, MEMORY_DEVICE, hashes_bytes, what,
                            (void **)&slots->device_hashes));
    TRY(device->memory_take(device, MEMORY_HOST, hashes_bytes, what, (void **)&slots->host_hashes));
    TRY(device->memory_take(device, MEMORY_HOST, buffers_bytes(options), what,
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
    DeviceStream *const streams[] = {slots->ways[0], slots->ways[1], slots->hashing};
    for (uint32_t i = 0; i < sizeof streams / sizeof *streams; i++)
        if (streams[i]) device->stream_destroy(device, streams[i]);
    for (uint32_t i = 0; i < DEVICE_GROUPS; i++) {
        CrossingGroup *group = &slots->groups[i];
        DeviceEvent *const events[] = {group->copied[0], group->copied[1], group->hashed};
        for (uint32_t k = 0; k < sizeof events / sizeof *events; k++)
            if (events[k]) device->event_destroy(device, events[k]);
    }
    device->memory_give(device, MEMORY_DEVICE, slots->device_hashes, hashes_bytes);
    device->memory_give(device, MEMORY_HOST, slots->host_hashes, hashes_bytes);
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

/* ---- crossings */

static uint32_t group_index(const DeviceSlots *slots, uint32_t behind_oldest) {
    return (slots->oldest + behind_oldest) % DEVICE_GROUPS;
}

/* Behind the copies, on a stream of their own: the next copies do not wait for hashes. */
static Status hash_group(DeviceSlots *slots, uint32_t index) {
    Device *device = slots->options.device;
    CrossingGroup *group = &slots->groups[index];
    uint64_t *made = slots->device_hashes + index * DEVICE_DIGESTS_MAX;
    for (int up = 0; up < 2; up++) {
        TRY(device->event_record(device, group->copied[up], slots->ways[up]));
        TRY(device->stream_wait_event(device, slots->hashing, group->copied[up]));
    }
    if (group->digest_count > 0) {
        TRY(device->digest(device, slots->hashing, group->digests, group->digest_count, made));
        TRY(device->copy(device, slots->hashing, slots->host_hashes + index * DEVICE_DIGESTS_MAX,
                         made, group->digest_count * sizeof *made));
    }
    return device->event_record(device, group->hashed, slots->hashing);
}

static void close_group(DeviceSlots *slots) {
    uint32_t index = group_index(slots, slots->closed_count);
    error_capture_begin();
    slots->groups[index].status = hash_group(slots, index);
    error_capture_end();
    slots->closed_count++;
}

Status device_slots_cross(DeviceSlots *slots, const DeviceCrossing *crossing) {
    if (slots->closed_count == DEVICE_GROUPS) return STATUS_AGAIN;
    Device *device = slots->options.device;
    CrossingGroup *group = &slots->groups[group_index(slots, slots->closed_count)];
    uint8_t *below = crossing->block + sizeof(SpillHeader);
    uint8_t *above = payload_of(slots, crossing->slot);
    error_capture_begin();
    Status status = device->copy(device, slots->ways[crossing->up], crossing->up ? above : below,
                                 crossing->up ? below : above, crossing->bytes);
    error_capture_end();
    TRY(status);
    group->crossings[group->count++] = *crossing;
    if (crossing->bytes >= DEVICE_DIGEST_BYTES_MIN)
        group->digests[group->digest_count++] =
            (DeviceDigest){above, crossing->bytes, crossing->hash_seed};
    if (group->count == DEVICE_DIGESTS_MAX) close_group(slots);
    return STATUS_OK;
}

/* Its hashes, whatever came of them; of blocks too short for the device the host makes them. */
static Status end_group(DeviceSlots *slots, const CrossingGroup *group, uint64_t *out_hashes) {
    Device *device = slots->options.device;
    error_capture_begin();
    Status status = group->status;
    if (status == STATUS_OK) status = device->event_wait(device, group->hashed);
    error_capture_end();
    const uint64_t *made = slots->host_hashes + slots->oldest * DEVICE_DIGESTS_MAX;
    for (uint32_t i = 0; i < group->count; i++) {
        const DeviceCrossing *crossing = &group->crossings[i];
        out_hashes[i] = crossing->bytes >= DEVICE_DIGEST_BYTES_MIN
                            ? *made++
                            : hash_xxh3(crossing->block + sizeof(SpillHeader), crossing->bytes,
                                        crossing->hash_seed);
    }
    return status;
}

Status device_slots_crossed(DeviceSlots *slots, bool wait, uint64_t out_hashes[DEVICE_DIGESTS_MAX],
                            uint32_t *out_count) {
    Device *device = slots->options.device;
    CrossingGroup *group = &slots->groups[slots->oldest];
    *out_count = 0;
    if (slots->closed_count < DEVICE_GROUPS - 1 &&
        slots->groups[group_index(slots, slots->closed_count)].count > 0)
        close_group(slots);
    if (slots->closed_count == 0 || (!wait && !device->event_done(device, group->hashed)))
        return STATUS_OK;
    Status status = end_group(slots, group, out_hashes);
    *out_count = group->count;
    group->count = group->digest_count = 0;
    slots->oldest = group_index(slots, 1);
    slots->closed_count--;
    return status;
}
