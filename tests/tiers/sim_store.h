#ifndef TESTS_TIERS_SIM_STORE_H
#define TESTS_TIERS_SIM_STORE_H

/* The simulator's clock, slots and disk. A slot holds what a spilled block holds (identity, ordinal, generation, slot number,
 * checksum), with a 64-bit hash of the block's tokens for a payload. Transfers end late, in any order, and go wrong as real
 * ones do; a read is judged as the mover judges it, by the header and the checksum alone. A bug of the tier manager
 * that these rules can see ends the process with the seed. */

#include "runtime/base/random.h"
#include "tiers/tier_manager.h"

typedef enum SimFault {
    SIM_FAULT_SLOW,
    SIM_FAULT_STUCK, /* ends long after it was given up, or never */
    SIM_FAULT_FAILED,
    SIM_FAULT_SHORT, /* a write that fails half way */
    SIM_FAULT_FULL,  /* a write to a slot never written finds no room */
    SIM_FAULT_CORRUPT,
    SIM_FAULT_TORN,              /* the second half keeps its old bytes; reported as done */
    SIM_FAULT_LOST_WRITE,        /* nothing was written; reported as done: later reads are stale */
    SIM_FAULT_MISDIRECTED_WRITE, /* went to another slot */
    SIM_FAULT_MISDIRECTED_READ,
    SIM_FAULT_COUNT
} SimFault;

extern const char *const sim_fault_names[SIM_FAULT_COUNT];

typedef struct SimCell {
    BlockIdentity identity;
    uint32_t ordinal, generation, slot, form;
    uint64_t halves[2]; /* the payload: hash of the tokens, and the same mixed once more */
    uint64_t checksum;
} SimCell;

typedef struct SimSlot {
    SimCell cell;
    uint32_t readers, writers; /* transfers in flight */
    uint32_t pins;
    bool written;
} SimSlot;

typedef struct SimOperation {
    Transfer transfer;
    SimCell source;  /* as read, if it was read at the start */
    bool read_early; /* else the source is read when the operation ends */
    BlockIdentity identity;
    uint32_t ordinal;
    uint64_t time, tie; /* time: SIM_NEVER when it does not end */
    uint64_t late_time; /* when it is given up */
    bool late;
    int fault; /* SimFault, or -1 */
} SimOperation;

#define SIM_NEVER UINT64_MAX

typedef struct SimStore {
    Random *random;
    uint64_t now;
    SimSlot *slots[TIER_COUNT];
    uint32_t slot_count[TIER_COUNT];
    SimOperation *operations; /* [operation_max] in flight */
    uint32_t operation_count, operation_max;
    double odds[SIM_FAULT_COUNT];    /* a transfer */
    bool dead[TIER_COUNT];           /* every operation fails */
    uint64_t full_until[TIER_COUNT]; /* no room for slots never written */
    uint64_t hung_until[TIER_COUNT]; /* what is started gets stuck */
    uint64_t io_timeout;             /* after which a transfer is late */
    uint64_t injected[SIM_FAULT_COUNT], completed, late;
} SimStore;

void sim_store_create(SimStore *out, Random *random, const uint32_t slot_count[TIER_COUNT],
                      uint32_t operation_max);
void sim_store_destroy(SimStore *store);

uint64_t sim_mix(uint64_t hash, uint64_t value);

/* The engine's hand on a slot: it may touch it unless a transfer writes to it. */
SimSlot *sim_store_slot(SimStore *store, Tier tier, uint32_t slot);
/* Whether what lies there is the block's, judged as a read is. */
bool sim_store_is_right(const SimStore *store, Tier tier, uint32_t slot, const Block *block);

void sim_store_start(SimStore *store, const Transfer *transfer, const Block *block);
/* Ends the operation that is next, or gives it up for now (TRANSFER_LATE), if it is due by `until`; moves the clock there. */
bool sim_store_end_next(SimStore *store, uint64_t until, uint32_t *out_transfer_id,
                        TransferResult *out_result);
/* Slots of a tier that transfers which never end hold. */
uint32_t sim_store_held(const SimStore *store, Tier tier);

#endif
