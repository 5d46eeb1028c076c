#ifndef TIERS_DEVICE_SLOTS_H
#define TIERS_DEVICE_SLOTS_H

/* The device's slots where the host cannot touch them (Device.host_addressable is false). Headers are made and verified in
 * host memory: a block goes to and from the host's tier by a copy of its payload, and to and from a file, or where it is encoded
 * on its way down, through a buffer of pinned memory, of which there is a stated number. On the device the room before a payload
 * stays unused.
 *
 * What is put there is told with the hash of what has arrived, made by the device, so that the host need not read it. Puts go in groups:
 * while one is hashed the next is copied, each on a stream of its own, as are fetches, and a third is filled.
 *
 * For the mover's thread. */

#include "kernels/device.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct DeviceSlots DeviceSlots;

enum { DEVICE_PUT_GROUPS = 3, DEVICE_PUTS_MAX = DEVICE_PUT_GROUPS * DEVICE_DIGESTS_MAX };

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

/* So many bytes of a slot's payload to behind the header's room of `block` (MEMORY_HOST memory). This and what follows: E-DEVICE, recorded
 * and not logged, when the device is broken; its next user says so. */
Status device_slots_fetch(DeviceSlots *slots, uint32_t slot, uint8_t *block, uint32_t bytes);

/* Begins the way back. The block stays as it is until the result; STATUS_AGAIN when all groups are full or on their way. */
Status device_slots_put(DeviceSlots *slots, uint32_t slot, const uint8_t *block, uint32_t bytes,
                        uint64_t hash_seed);
/* How many of the oldest puts have ended, with the hashes of their payloads on the device: those of one group at most. A group that is not full
 * goes on its way here, unless two others are. `wait`: for the oldest. */
Status device_slots_landed(DeviceSlots *slots, bool wait, uint64_t out_hashes[DEVICE_DIGESTS_MAX],
                           uint32_t *out_count);

SPILLWAY_EXTERN_C_END

#endif
