#ifndef RUNTIME_ENGINE_KV_BUDGET_H
#define RUNTIME_ENGINE_KV_BUDGET_H

/* Bytes of budget to slots: how many blocks each tier holds, what of the device is staging, how many sequences may fill
 * blocks at once, and how much admission may promise. Pure functions. */

#include "runtime/engine/kv_layout.h"
#include "tiers/tier_manager.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct KvBudgetInput {
    uint64_t bytes[TIER_COUNT]; /* of this rank */
    KvLayout layout;
    uint32_t layer_count;
    uint32_t sequence_max; /* asked for */
    bool
        sequence_auto; /* fewer will do: as many as fill blocks on the device in all layers, but eight at least */
    bool
        bounces; /* the host cannot touch the device: files, and codecs of the host's tier, go through host memory */
    bool reads_ahead;       /* the device's bytes have room for kv_budget_staging_least besides */
    uint32_t token_max;     /* of a sequence */
    uint32_t row_count_max; /* of a step */
} KvBudgetInput;

typedef struct KvBudget {
    uint32_t slots[TIER_COUNT];
    uint32_t staging_slots;
    uint32_t
        bounce_slots; /* of host memory, beside the host's slots and counted in its budget where there is one */
    uint32_t sequence_max; /* for whose filling blocks of one layer the device has room */
    uint32_t layer_blocks; /* slots a layer that admission may promise, over all tiers */
} KvBudget;

/* E-CONTEXT-LENGTH with the least that would do when the device cannot hold the blocks of one step of one sequence. */
Status kv_budget_plan(const KvBudgetInput *input, KvBudget *out);

/* The least device budget for sequence_max sequences at once. kv_budget_plan takes less, for fewer. */
uint64_t kv_budget_device_min(const KvBudgetInput *input);

/* Slots with which reads go on while others are attended: what is being attended, the group behind it, and what is in the kernel, twice: while
 * one half arrives. */
uint32_t kv_budget_staging_least(uint32_t ring_depth);

/* Slots of a device of so many that staging may take: what a disk gives while one layer of a large model runs its matrix products. Where
 * reads_ahead: what those want at least, as far as that is a share of all that is needed. */
uint64_t kv_budget_staging_most(const KvBudgetInput *input, uint64_t device_slots);

/* Tokens a block for `auto`: a power of two from 32 to 256 such that a block holds at least 64 KiB where it can, 32 KiB with a
 * codec, whose packs begin only when several blocks are cold. A function of
 * the model and the number of ranks alone: partials fold block by block, so a size that followed the budget would change bits
 * with it. Larger blocks move better, but every sequence keeps a filling one in each layer. */
uint32_t kv_budget_block_tokens(uint32_t kv_head_count, uint32_t head_dim, bool encodes);

SPILLWAY_EXTERN_C_END

#endif
