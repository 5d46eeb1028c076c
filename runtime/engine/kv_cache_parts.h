#ifndef RUNTIME_ENGINE_KV_CACHE_PARTS_H
#define RUNTIME_ENGINE_KV_CACHE_PARTS_H

/* What the KV cache is made of, for its own files: kv_cache_open.c (memory, manager, mover), kv_cache.c (a step), kv_cursor.c
 * (attention's walk over blocks), kv_pins.c (what it reads), kv_pack.c (cold blocks into packs), kv_cool.c (cold blocks for codecs of
 * tiers). */

#include "runtime/base/invariant.h"
#include "runtime/engine/kv_cache.h"
#include "runtime/engine/kv_encoder.h"
#include "runtime/engine/kv_encoder_device.h"
#include "runtime/engine/kv_staging.h"
#include "tiers/spill_header.h"

enum {
    KV_TRANSFERS_MAX = 256, /* that manager and mover have under way */
    KV_PINNED_MAX = 4096,   /* blocks of one call of attention */
    KV_PIN_SETS = 2,
    KV_COOL_JOBS_MAX = 32,
};

#define KV_ALL_LAYERS UINT32_MAX

typedef struct KvSlot {
    bool open, lost, refused;
    uint64_t sequence_id;
    uint32_t prompt_count;
    uint32_t token_count;
    uint32_t block_capacity; /* a stream */
    uint32_t *block_counts;  /* [layer_count] blocks that there are, owned */
    uint32_t *
        packed_counts; /* [layer_count] of them, the first that are in packs; behind block_counts */
    uint32_t *
        begun_counts; /* [layer_count] the same with those that are being encoded; behind packed_counts */
    BlockId *ids; /* [layer_count][block_capacity], owned; the blocks of a pack have the same id */
} KvSlot;

/* Blocks that the encoder works on: until it is done they are pinned raw, and the pack that they join is held. */
typedef struct KvPending {
    uint32_t slot_index, layer, ordinal, block_count;
    BlockId pack;
    uint32_t job_index; /* of the encoder */
} KvPending;

/* Blocks of one call of attention: pinned until its kernels have read them. */
typedef struct KvPins {
    const void **pointers; /* [KV_PINNED_MAX] bytes of the blocks in runs */
    const Codec **codecs;  /* [KV_PINNED_MAX] how each is stored; NULL: raw */
    bool *in_host;         /* [KV_PINNED_MAX] pinned in host memory */
    BlockId *ids; /* [KV_PINNED_MAX] blocks in runs, then those of a group that is not whole yet */
    uint32_t count, partial_count;
    bool reading;      /* kernels may */
    uint32_t layer;    /* theirs */
    DeviceEvent *read; /* behind them */
} KvPins;

/* Cold blocks that a kernel looks at: pinned until its verdicts are in. */
typedef struct KvCoolJob {
    BlockId ids[KV_CHECK_BLOCKS_MAX];
    uint32_t count;
    Status begun;        /* of putting it on the stream */
    DeviceEvent *passed; /* behind the verdicts */
} KvCoolJob;

/* Jobs in the order of the stream. */
typedef struct KvCooler {
    KvCoolJob jobs[KV_COOL_JOBS_MAX];
    uint32_t first, count; /* of them that are out, round the array */
    uint32_t *refused;     /* pinned, [KV_COOL_JOBS_MAX][KV_CHECK_BLOCKS_MAX] */
} KvCooler;

struct KvCache {
    KvCacheOptions options;
    uint64_t run_id; /* random: another process's blocks are not ours */
    TierManager *manager;
    Mover *mover;              /* NULL without lower tiers */
    DeviceSlots *device_slots; /* NULL: the host reaches them, or needs not to */
    uint8_t *memory[TIER_COUNT];
    KvSlot *slots; /* [slot_count] */
    AttendRun *runs,
        *host_runs; /* one a sequence, or KV_PINNED_MAX with attends_host; host_runs NULL without */
    KvPins pin_sets[KV_PIN_SETS]; /* in turn */
    uint32_t pin_set;             /* the one being filled */
    uint32_t
        homeward_count; /* wanted in this step though they could be attended in host memory: to stay on the device */
    void **row_blocks; /* [row_count_max] */
    uint8_t *
        code_buffers; /* [KV_CODE_BUFFERS][slot_bytes] where blocks are encoded on their way to a file; NULL: none are */
    uint8_t *void_block; /* on the device: where rows of lost sequences go: written, never read */
    uint8_t
        *bounce; /* pinned, [slot_bytes]: a block that the host makes or reads; NULL: in place */
    uint32_t *row_slots; /* [row_count_max] token index inside the row's block */
    uint32_t
        *verified; /* [host slots] generation of the bytes that were found right there; 0: none */
    KvEncoder *encoder;              /* NULL without a codec, or where the device encodes */
    KvDeviceEncoder *device_encoder; /* NULL otherwise */
    KvPending pending[KV_ENCODER_JOBS_MAX];
    uint32_t pending_count;
    KvCooler cooler; /* of use where tiers have codecs of their own */
    KvStaging staging;
    uint64_t packs, raw_bytes, stored_bytes, host_blocks, host_bytes; /* as in KvCacheStats */
    double seconds_stalled[TIER_COUNT];
    bool corrupt_seen;
};

static inline KvSlot *kv_slot_at(const KvCache *cache, uint32_t slot_index) {
    CHECK(slot_index < cache->options.slot_count);
    return &cache->slots[slot_index];
}

static inline BlockId *kv_layer_ids(const KvSlot *slot, uint32_t layer) {
    return slot->ids + (uint64_t)layer * slot->block_capacity;
}

static inline uint8_t *kv_slot_memory(const KvCache *cache, Tier tier, uint32_t slot) {
    return cache->memory[tier] + slot * cache->options.layout.slot_bytes;
}

/* Of the slot on the device: what lies behind the header. */
static inline uint8_t *kv_payload(const KvCache *cache, uint32_t device_slot) {
    return kv_slot_memory(cache, TIER_DEVICE, device_slot) + sizeof(SpillHeader);
}

static inline KvPins *kv_pins(KvCache *cache) {
    return &cache->pin_sets[cache->pin_set];
}

/* kv_pins.c: memory and events of the sets; close takes what open left. */
Status kv_pins_open(KvCache *cache);
void kv_pins_close(KvCache *cache);
/* kv_pins.c: what is on the stream now reads the set that was filled, for the layer. Its blocks are let go when that has passed, those of
 * the set before it now; a set without blocks, but for a group that is not whole, is there to be filled. */
Status kv_pins_turn(KvCache *cache, uint32_t layer);
void kv_pins_drop_partial(KvCache *cache);
/* kv_pins.c: waits until kernels of the layer (or KV_ALL_LAYERS) have read their blocks, which are let go; false when there were
 * none. */
bool kv_finish_reading(KvCache *cache, uint32_t layer);
/* kv_pins.c: lets go what has been read without waiting; false when there was nothing. */
bool kv_let_go_read(KvCache *cache);
bool kv_is_reading(const KvCache *cache);
bool kv_nothing_is_pinned(const KvCache *cache); /* for attention */

/* kv_cache.c: the host's view of a pinned block's payload: in place, or a copy that was waited for. */
Status kv_payload_view(KvCache *cache, const void *payload, const void **out);
/* kv_cache.c: tells the manager what has completed and starts what may start now; waits up to `wait_ns` for a completion. */
void kv_pump(KvCache *cache, uint64_t wait_ns);
/* kv_cache.c: waits for a transfer, as booked under `cause`; instead for what kernels read and what is being encoded, as those pin
 * blocks. */
void kv_stall(KvCache *cache, Tier cause);
/* kv_cache.c: the first block that the sequence's rows attend to, by KvCursor.window; of whole groups. */
uint32_t kv_first_block(const KvCache *cache, const BatchSequence *sequence, uint32_t window);
/* kv_cache.c: the sequences of one row that the batch begins with: with attends_host, the rows whose blocks may stay in host memory. */
uint32_t kv_host_rows(const KvCache *cache, const Batch *batch);
/* kv_cache.c: a held block, or a pack that begins with it; waits for room where there will be some. */
Status kv_take_block(KvCache *cache, uint32_t slot_index, uint32_t layer, uint32_t ordinal,
                     const Codec *codec, BlockId *out);
/* kv_cache.c: makes a filling block's bytes writable; waits likewise. */
Status kv_hold_block(KvCache *cache, BlockId id);

/* kv_pack.c: what the sequence's tokens have made cold in the layer goes to the encoder. */
Status kv_pack_cold(KvCache *cache, const BatchSequence *sequence, uint32_t layer);
/* kv_pack.c: the open pack that blocks of the layer will join once the stream has token_count tokens; BLOCK_NONE: none. */
BlockId kv_pack_growing(const KvCache *cache, const KvSlot *slot, uint32_t layer,
                        uint32_t token_count);
/* kv_pack.c: what is being encoded of the layer (or KV_ALL_LAYERS) takes the place of the raw blocks; false when there was nothing.
 * Of all layers, kv_finish_cooling too. */
bool kv_finish_encoding(KvCache *cache, uint32_t layer);
/* kv_cool.c: events and verdicts, where tiers have codecs; close takes what open left. */
Status kv_cool_open(KvCache *cache);
void kv_cool_close(KvCache *cache);
/* kv_cool.c: what the batch's tokens have made cold in the layer goes to be looked at; what was found fit for codecs by now may be
 * encoded by the tier that it goes down to. */
Status kv_cool(KvCache *cache, const Batch *batch, uint32_t layer);
/* kv_cool.c: waits for the verdicts that are out, which lets their blocks go; false when there were none. */
bool kv_finish_cooling(KvCache *cache);

#endif
