#ifndef TIERS_MOVER_H
#define TIERS_MOVER_H

/* Carries out the tier manager's transfers on a thread of its own: copies between device and host slots, reads and writes of spill
 * files through the ring, header and checksum on the way down, verified on the way up. What comes back is only the
 * result; the manager decides what it means.
 *
 * A slot is header and payload side by side: [SpillHeader][payload][zeros up to slot_bytes]. The mover owns no slot; it may read a
 * transfer's source and write its destination from mover_submit until the result is collected.
 *
 * A read or write of a file that has not ended in time is cancelled and reported as TRANSFER_LATE; its second result comes when it has
 * really ended. A write that finds no code buffer, or none of device_slots, because late ones hold them all ends with
 * TRANSFER_NO_SPACE, and a read that finds none with TRANSFER_FAILED. The first trouble of each kind is told in a line of its own, the others are counted.
 *
 * One thread submits and collects; the mover's own thread owns the ring. Nothing is allocated after create. */

#include "tiers/device_slots.h"
#include "tiers/ring.h"
#include "tiers/tier_manager.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct Mover Mover;

/* How blocks that were encoded for a tier are kept (tier_manager.h, rule 9). payload_bytes 0: the tier keeps them as they come. */
typedef struct MoverForm {
    uint32_t payload_bytes; /* at most those of MoverOptions */
    /* Of bytes that were made cool. Called by the mover's thread. */
    void (*encode)(void *user, const uint8_t *payload, uint8_t *out_payload);
    void *user;
} MoverForm;

typedef struct MoverOptions {
    uint8_t *slots
        [TIER_COUNT]; /* base of the device's and the host's slots; NULL for absent tiers and nvme */
    DeviceSlots
        *device_slots;   /* borrowed; not NULL: the device's slots are reached through it alone */
    uint64_t slot_bytes; /* a multiple of every file's alignment */
    uint32_t payload_bytes;
    MoverForm forms[TIER_COUNT];
    uint8_t *
        code_buffers; /* [code_buffer_count][slot_bytes] where blocks are encoded on their way to a file; aligned as the files ask */
    uint32_t code_buffer_count;
    RingOptions
        ring; /* files: nvme slot s lies in file s % file_count at (s / file_count) * slot_bytes */
    const char *const
        *directories;       /* [ring.file_count] of the files, for messages; NULL: unnamed */
    uint64_t io_timeout_ns; /* 0: none is ever late */
    bool corrupt_is_fatal;  /* wrong bytes are an error, not a warning: the caller ends */
    uint32_t transfers_max; /* submitted and not collected */
} MoverOptions;

typedef struct MoverJob {
    Transfer transfer;
    BlockIdentity identity;
    uint32_t ordinal;
} MoverJob;

typedef struct MoverDone {
    uint32_t transfer_id;
    TransferResult result;
} MoverDone;

typedef struct MoverStats {
    uint64_t read_bytes[TIER_COUNT], written_bytes[TIER_COUNT]; /* out of and into each tier */
    uint64_t io_errors, corrupt, late;
    double seconds_checksum, seconds_copy, seconds_encode; /* of the mover's thread */
    double seconds_cpu; /* of the mover's thread, noted now and then as it rests */
} MoverStats;

/* Starts the thread and opens the ring (none without files). */
Status mover_create(Mover **out, const MoverOptions *options);
/* What has not started never does; what the kernel has is waited for, but not for ever: false when transfers are stuck (ring_close).
 * Takes NULL. */
bool mover_destroy(Mover *mover);

/* STATUS_AGAIN when transfers_max are out. Jobs begin together, at the next mover_flush or mover_collect: transfers of neighbours that reach
 * the kernel at once become one. */
Status mover_submit(Mover *mover, const MoverJob *job);
void mover_flush(Mover *mover);
/* Results so far; waits up to wait_ns for a first one. A late transfer has two, and is out until the second. */
uint32_t mover_collect(Mover *mover, MoverDone *out, uint32_t count_max, uint64_t wait_ns);

uint64_t mover_moved_bytes(const Mover *mover,
                           uint32_t form);             /* of a slot that holds such a block */
MoverStats mover_stats(const Mover *mover);            /* as of the results so far; any thread */
const RingFacts *mover_ring_facts(const Mover *mover); /* NULL without files */

SPILLWAY_EXTERN_C_END

#endif
