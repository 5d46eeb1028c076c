#ifndef TIERS_TIER_RECORDS_H
#define TIERS_TIER_RECORDS_H

/* What the tier manager knows, shared by its parts and nobody else:
 *     tier_manager.c  the door: take, seal, release, pin, unpin, counts
 *     tier_wants.c    what will be pinned, and in which order staging serves it
 *     tier_moves.c    transfers: what moves next, and what a completion changes
 *     tier_check.c    every rule, checked from the state */

#include "tiers/block_list.h"
#include "tiers/tier_manager.h"
#include "tiers/tier_slots.h"

SPILLWAY_EXTERN_C_BEGIN

enum { TRANSFER_NONE = UINT32_MAX };

typedef enum ReplicaState {
    REPLICA_NONE,
    REPLICA_WRITING, /* a transfer fills it */
    REPLICA_VALID,
    REPLICA_READING, /* valid, and a transfer reads it */
} ReplicaState;

typedef struct Replica {
    uint32_t slot;
    ReplicaState state;
} Replica;

/* How often a block stands in the want queue. Counts of an older epoch than the manager's are zero. */
typedef struct WantCounts {
    uint32_t epoch;
    uint32_t ahead;  /* entries in the queue */
    uint32_t served; /* entries that left it, for pins to come */
    uint32_t taken;  /* of those ahead: pinned already, so nothing to serve */
} WantCounts;

typedef struct Record {
    Block block;
    Replica replicas[TIER_COUNT]; /* device and one lower tier at most */
    uint32_t transfer;            /* in flight, or TRANSFER_NONE */
    uint32_t pins;
    uint32_t life; /* rises each time the record is taken */
    WantCounts wants;
    bool staged;   /* the device replica is a staged copy */
    bool demanded; /* a pin found it away; until it is pinned */
    bool touched;  /* the staged copy has been pinned */
    bool copied;   /* a write down was started at this generation */
    bool held;     /* filling, and its bytes may change: at home, no copy elsewhere, no transfer */
} Record;

/* The transfer owns both slots once its block is released: record->transfer then no longer names it. */
typedef struct TransferRecord {
    Transfer transfer;
    bool in_flight;
    bool staged;   /* the device slot is of staging */
    bool orphaned; /* the block was released, or gave the transfer up */
    bool late;     /* given up; the source of a write is the transfer's no more */
} TransferRecord;

/* A block stands here twice when it is wanted twice. */
typedef struct Want {
    BlockId block;
    uint32_t life; /* of the record, when it was wanted */
} Want;

enum {
    LIST_DEMANDED, /* to be read for a pin that waits, oldest first */
    LIST_AHEAD,    /* staged, unpinned, wanted: in the order of arrival, demanded ones first */
    LIST_STALE,    /* staged, unpinned, not wanted any more */
    LIST_PARKED,   /* at home, of a stream that pauses: first to leave */
    LIST_COUNT
};

struct TierManager {
    TierManagerOptions options;
    void *policy;
    TierSlots slots[TIER_COUNT];
    uint32_t staging_count; /* device slots for staging now */
    uint32_t home_count;    /* the others: for held and resident blocks */
    uint32_t home_used;     /* of them, those in orphaned transfers too */
    uint32_t staging_used;  /* home_used + staging_used = slots[TIER_DEVICE].used */
    Record *records;        /* [record_count] */
    BlockId *free_ids;      /* stack, [free_id_count] */
    uint32_t free_id_count;
    BlockLists lists;
    Want *wants; /* ring, [want_capacity] */
    uint32_t want_capacity, want_first, want_count;
    uint32_t want_epoch;
    uint32_t generation;       /* last given to a block */
    TransferRecord *transfers; /* [transfers_max] */
    uint32_t *free_transfers;  /* stack, [free_transfer_count] */
    uint32_t free_transfer_count;
    uint32_t writes_in_flight, leaving_count; /* leaving: writes whose block still lives */
    uint32_t late_count;                      /* transfers in flight that were given up */
    uint64_t now_ns;
    uint32_t free_target;
    bool take_waits, promotion_waits;
    bool moves_settled; /* nothing may move down until the state changes */
    TierManagerStats stats;
    uint8_t *slot_marks; /* [largest tier] scratch of tier_manager_check */
};

static inline BlockId record_id(const TierManager *manager, const Record *record) {
    return (BlockId)(record - manager->records);
}

/* The tier below the device that holds the block, valid or being read; TIER_COUNT when there is none. */
Tier record_lower_tier(const Record *record);
bool record_on_device(const Record *record); /* its bytes can be pinned now */

/* tier_manager.c */
bool record_may_leave(
    const Record *record); /* filling or sealed, at home, and nothing keeps it there */
void home_drop(TierManager *manager,
               Record *record); /* the resident copy goes; a lower one is valid */
void staged_drop(TierManager *manager, Record *record);
void staged_park(TierManager *manager,
                 Record *record); /* a staged copy that nobody pins: ahead or stale */
void record_lose(TierManager *manager, Record *record);

/* tier_wants.c */
WantCounts *record_wants(const TierManager *manager, Record *record); /* of this epoch */
void want_pinned(TierManager *manager, Record *record);
void want_return(TierManager *manager,
                 Record *record);            /* served, then taken away: first in the queue again */
Record *want_next(TierManager *manager);     /* the first that needs a read; NULL when none */
void want_serve_first(TierManager *manager); /* that read is on its way */

/* tier_moves.c */
bool home_make_room(
    TierManager *manager); /* without a write: a resident block with a valid lower copy goes */
bool home_can_leave(
    TierManager *manager); /* a home slot will become free, by itself or after unpins */
void transfer_orphan(TierManager *manager, Record *record);
/* Rule 10: a block that is only where reads do not get through is lost; nobody waits for it. */
bool lose_if_silent(TierManager *manager, Record *record);
void give_spilling_up(TierManager *manager); /* where no group of reads gets through */

SPILLWAY_EXTERN_C_END

#endif
