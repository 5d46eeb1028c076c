#ifndef TIERS_TIER_MANAGER_H
#define TIERS_TIER_MANAGER_H

/* The tier manager: where every block's replicas are, and what moves next. A pure state machine: calls come in, transfers
 * come out. It owns no clock, thread, file or byte of KV; it hands out slot numbers, and the mover (or a simulator) does what the
 * transfers say. It takes all its memory at create. One thread.
 *
 * Tiers, highest first: device, host, nvme; a tier with no slots is absent. The device's slots are shared out at create:
 *     staging    read-only copies on their way through: attended once, then dropped
 *     the rest   home: filling blocks that are held, and blocks that stay (resident)
 *
 * A block's replica in a tier is none, writing (a transfer fills it), valid, or reading (a transfer reads it). Rules:
 *   1. Only an unpinned block moves down, a filling one only while it is not held. Its destination slot is taken before the
 *      source is given up, and the source stays valid until the write has completed.
 *   2. Bytes change only while a block is held, and then it has no copy elsewhere and its generation has risen: replicas agree,
 *      and a device replica with a valid lower one is dropped without a write.
 *   3. A transfer names block, generation and slots; a completion for a block released meanwhile only frees the slots.
 *   4. A slot is reused only after every transfer that touches it has completed.
 *   5. Staging is taken in the order of the want queue, and pinned in that order: whatever its size, the oldest wanted group
 *      of blocks gets through, so nothing waits for ever. It must hold one attention group at least.
 *   6. A read that fails, or whose bytes are not the block's, makes the block lost: pins answer STATUS_IO until it is released.
 *   7. A tier that fails too often is off: no new slots there; what is valid there may still be read. A slot whose write failed
 *      is never taken again; one that the disk had no room for is, when the tier tries to grow again.
 *   8. A block has one transfer in flight at most, beside those that were given up.
 *   9. A cold block that goes to a tier with a codec of its own (`encodes`) is encoded on its way, once: from then on those are its
 *      bytes. If it is pinned when that is done, the copy below is dropped and it stays as it was.
 *  10. A transfer that is late is given up: the block of a read is lost, that of a write stays where it was. The slots that the transfer
 *      writes to stay taken until it has really ended, those of a read both. A tier that is off and has such transfers
 *      is not asked again until they have ended: what is only there is lost when a pin needs it. When they hold so much
 *      of staging that no attention group gets through, that holds for every lower tier.
 *  11. A block that is pinned in the host's tier has no copy on the device and gets none: no transfer touches it, and nobody holds it,
 *      pins it on the device or releases it, until it is unpinned. Wants of it are passed over. */

#include "tiers/placement.h"
#include "tiers/tier_slots.h"

SPILLWAY_EXTERN_C_BEGIN

typedef enum Tier { TIER_DEVICE, TIER_HOST, TIER_NVME, TIER_COUNT } Tier;

const char *tier_name(Tier tier); /* "device", "host", "nvme" */

typedef enum TransferResult {
    TRANSFER_OK,
    TRANSFER_NO_SPACE, /* a write found no room: the tier stops growing for a while */
    TRANSFER_FAILED,   /* I/O error */
    TRANSFER_CORRUPT,  /* a read gave bytes that are not this block's */
    TRANSFER_LATE,     /* given up; that it has ended is told later, with another result */
} TransferResult;

typedef enum TransferReason {
    REASON_EVICT,
    REASON_PREFETCH,
    REASON_DEMAND,
    REASON_PARK,
    REASON_COUNT
} TransferReason;

const char *transfer_reason_name(TransferReason reason); /* "evict", "prefetch", "demand", "park" */

typedef struct Transfer {
    uint32_t id; /* unique while in flight */
    BlockId block;
    uint32_t generation; /* of the block, when it was issued */
    Tier from, to;
    uint32_t from_slot, to_slot;
    uint32_t from_form, to_form; /* Block.form of the bytes at either end */
    TransferReason reason;
} Transfer;

typedef struct TierManagerOptions {
    const Placement *placement;
    uint32_t slot_count[TIER_COUNT];
    bool encodes[TIER_COUNT]; /* rule 9 */
    uint32_t staging_slots;   /* of the device's, at first */
    uint32_t record_count;    /* blocks that may exist at once; 0: the sum of all slots */
    uint32_t stream_groups;   /* layers */
    uint32_t transfers_max;   /* in flight */
    uint32_t writes_max;      /* of them, downward: the rest is kept for reads */
    uint32_t want_count_max;  /* longest want queue */
    uint32_t staging_min;     /* blocks of one attention group */
    uint32_t failures_to_off; /* failed or late transfers within failure_window_ns before a tier
                                   is off, up to TIER_FAILURES_MAX */
    uint64_t failure_window_ns;
    uint32_t corrupt_to_off; /* wrong blocks in all before a tier is off */
    uint64_t grow_pause_ns;  /* from a full disk to the next try */
    const uint64_t *trace;   /* for a placement that needs one (placement.h), else NULL */
    uint64_t trace_count;
    void (*record)(void *user, uint64_t access); /* optional: makes such a trace */
    void *record_user;
} TierManagerOptions;

typedef struct TierStats {
    uint64_t slot_count, slots_used, slots_peak;
    uint64_t moves
        [TIER_COUNT][REASON_COUNT]
        [TIER_COUNT]; /* completed transfers out of this tier, by destination, reason and form */
    uint64_t hits;    /* pins served from this tier (staged ones count where they came from) */
    uint64_t lost;    /* blocks whose only copy lay here */
    bool off;
} TierStats;

typedef struct TierManagerStats {
    TierStats tiers[TIER_COUNT];
    uint64_t prefetch_useful, prefetch_late,
        prefetch_wasted;     /* staged before the pin; asked for first; dropped unused */
    uint64_t wants_left_out; /* beyond the queue's room: they will be late */
    uint64_t lost_blocks, corrupt_blocks, failed_transfers, late_reads, late_writes;
    uint32_t filling, sealed, lost;
} TierManagerStats;

typedef struct TierManager TierManager;

Status tier_manager_create(TierManager **out, const TierManagerOptions *options);
void tier_manager_destroy(TierManager *manager);

/* What time it is, from any start, never backwards: failures are dated by it, and a full tier tries to grow again. */
void tier_manager_tick(TierManager *manager, uint64_t now_ns);

/* A filling block with a device slot, held. STATUS_AGAIN: none is free until transfers that are in flight (or can be issued)
 * complete or pins end. STATUS_NO_SPACE: every tier is full, or the device is full of filling blocks. */
Status tier_manager_take(TierManager *manager, const BlockIdentity *identity, uint64_t stream,
                         uint32_t ordinal, BlockId *out);
/* Makes a filling block's bytes writable, at *out_slot, until it is let go. STATUS_AGAIN as for a take or a pin, STATUS_NO_SPACE:
 * the device is full of blocks that cannot leave, STATUS_IO: lost. Pins do not end it, and go on: of what was there before it.
 * Those held at the same time must fit beside staging. */
Status tier_manager_hold(TierManager *manager, BlockId id, uint32_t *out_slot);
void tier_manager_let_go(TierManager *manager,
                         BlockId id);                     /* one that is not held stays as it is */
void tier_manager_seal(TierManager *manager, BlockId id); /* held: full now */
/* Sealed and on the device: rule 9 may encode it from now on. */
void tier_manager_cool(TierManager *manager, BlockId id);
/* The block's stream pauses: it is the first to leave the device, ahead of need, until it is used again. */
void tier_manager_park(TierManager *manager, BlockId id);
void tier_manager_release(TierManager *manager,
                          BlockId id); /* unpinned; slots in transfer are freed at completion */

const Block *tier_manager_block(const TierManager *manager, BlockId id);
uint32_t tier_manager_device_slot(const TierManager *manager,
                                  BlockId id); /* resident or filling; else SLOT_NONE */

/* Blocks that will be pinned, in the order of use, after those wanted before. Resident ones cost nothing. Appends up to the
 * queue's room; *out_taken says how many. A pin takes the block's first want with it. */
void tier_manager_want(TierManager *manager, const BlockId *ids, uint32_t count,
                       uint32_t *out_taken);
void tier_manager_forget_wants(
    TierManager *manager); /* the plan changed; what was staged goes unless it is wanted again */

/* Pins a block for reading: *out_slot is the device slot, resident or staged. STATUS_AGAIN: on its way (asked for if it was
 * not wanted); STATUS_IO: lost. */
Status tier_manager_pin(TierManager *manager, BlockId id, uint32_t *out_slot);
/* Pins a block where it lies in the host's tier, for a reader that is there: *out_slot is its slot there. STATUS_NOT_FOUND: it does
 * not lie there, or also on the device or on its way to it: to be pinned as any other. Nothing verifies its bytes. */
Status tier_manager_pin_host(TierManager *manager, BlockId id, uint32_t *out_slot);
/* Whether a block below would stay on the device if it were read now and used: in a place that is free even when `others` have taken one. */
bool tier_manager_has_home(const TierManager *manager, BlockId id, uint32_t others);
/* Where the block's bytes are now: what a pin that answers STATUS_AGAIN waits for. TIER_COUNT: lost. */
Tier tier_manager_tier(const TierManager *manager, BlockId id);
void tier_manager_unpin(TierManager *manager,
                        BlockId id); /* a staged copy is dropped, unless the policy promotes it */
void tier_manager_score(TierManager *manager, BlockId id,
                        double mass); /* for policies that need it */

/* Staging's share of the device from now on: what it gives up is home, and back as far as home has room. At most what it was at
 * create, so that tier_manager_places never falls below what it was then. */
void tier_manager_set_staging(TierManager *manager, uint32_t staging_slots);

/* Moves down what is above `free_target` free device slots, ahead of need (write-behind). */
void tier_manager_set_free_target(TierManager *manager, uint32_t free_target);

/* The next transfer to start; false when there is none now. What a pin waits for comes first, then a write that a take waits
 * for, then reads ahead, then writes ahead. */
bool tier_manager_next_transfer(TierManager *manager, Transfer *out);
/* The transfer has ended, or (TRANSFER_LATE, once) is given up and will end some time. */
void tier_manager_complete(TierManager *manager, uint32_t transfer_id, TransferResult result);
uint32_t tier_manager_in_flight(const TierManager *manager);

/* How many blocks can exist at once, all tiers together (admission). Less after tiers went off, stopped growing or lost slots. */
uint64_t tier_manager_places(const TierManager *manager);
bool tier_manager_has_room(const TierManager *manager, uint32_t count); /* for so many more */

TierManagerStats tier_manager_stats(const TierManager *manager);

/* Valid copies that lie in a tier, by the state of their block. */
typedef struct TierBlocks {
    uint32_t filling, sealed;
} TierBlocks;

void tier_manager_count_blocks(const TierManager *manager,
                               TierBlocks out[TIER_COUNT]); /* O(records): for views */

/* CHECKs every rule above that can be checked from the state: for tests and simulators; O(records). */
void tier_manager_check(const TierManager *manager);

SPILLWAY_EXTERN_C_END

#endif
