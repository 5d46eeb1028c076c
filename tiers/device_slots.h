#ifndef TIERS_DEVICE_SLOTS_H
#define TIERS_DEVICE_SLOTS_H

/* The device's slots where the host cannot touch them (Device.host_addressable is false). Headers are made and verified in
 * host memory: a block goes to and from the host's tier by a copy of its payload, and to and from a file, or where it is encoded
 * on its way down, through a buffer of pinned memory, of which there is a stated number. On the device the room before a payload
 * stays unused.
 *
 * What crosses is told with the hash of what lies on the device, made there, so that the host need not read it. Blocks go in groups: while
 * one is hashed the next is copied, and a third is filled; the two ways and the hashing have a stream each.
 *
 * For the mover's thread. */

#include "kernels/device.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct DeviceSlots DeviceSlots;

enum { DEVICE_GROUPS = 3, DEVICE_CROSSINGS_MAX = DEVICE_GROUPS * DEVICE_DIGESTS_MAX };

typedef struct DeviceSlotsOptions {
    Device *device;
    uint8_t *slots; /* device memory: the first slot */
    uint64_t slot_bytes;
    uint32_t buffer_count;
} DeviceSlotsOptions;

Status device_slots_create(DeviceSlots **out, const DeviceSlotsOptions *options);
void device_slots_destroy(DeviceSlots *slots); /* NULL is fine; no buffer may be in use */

/* All buffers, side by side, of slot_bytes each, at the alignment of a page where slot_bytes is a multiple of it. */
uint8_t *device_slots_buffers(const DeviceSlots *slots, uint64_t *out_bytes);

uint8_t *device_slots_take(DeviceSlots *slots); /* NULL when all are in use */
void device_slots_give(DeviceSlots *slots, uint8_t *buffer);

/* A payload between a slot and the host's memory. */
typedef struct DeviceCrossing {
    bool up;        /* to the device */
    uint32_t slot;  /* of the device */
    uint8_t *block; /* MEMORY_HOST: behind the header's room lies the payload */
    uint32_t bytes; /* of the payload */
    uint64_t hash_seed;
} DeviceCrossing;

/* Begins one; until its result its source stays as it is and nobody else touches its destination. STATUS_AGAIN when all groups are full or
 * on their way. This and the next: E-DEVICE, recorded and not logged, when the device is broken; its next user says so. */
Status device_slots_cross(DeviceSlots *slots, const DeviceCrossing *crossing);
/* How many of the oldest have ended, with the hashes of their payloads: those of one group at most. A group that is not full goes on its way
 * here, unless two others are. `wait`: for the oldest. */
Status device_slots_crossed(DeviceSlots *slots, bool wait, uint64_t out_hashes[DEVICE_DIGESTS_MAX],
                            uint32_t *out_count);

SPILLWAY_EXTERN_C_END

#endif
