#ifndef RUNTIME_ENGINE_KV_CACHE_H
#define RUNTIME_ENGINE_KV_CACHE_H

/* The KV of all sequences, over the tiers: (slot, layer) is a stream of blocks that the tier manager places. The only caller of
 * tiers/ in a step, and the maker of block identities. A slot is opened for a sequence with the most tokens it may reach;
 * a layer's blocks are taken when the first of their tokens arrives.
 *
 *     kv_cache_begin_step                 the plan of the step before is forgotten
 *     kv_cache_want                       what a pass over layers will read, so that it is on its way; in the order of use
 *     for each layer: kv_cache_store, then kv_cache_next until it gives no runs, then kv_cache_seal
 *     kv_cache_end_layers
 *     kv_cache_extend                     counts tokens as cached; they may be stored later in the step
 *
 * A sequence whose block was lost (I/O error, wrong bytes) is marked; its rows of the step are worth nothing, and it has to be
 * closed and computed again. One thread. */

#include "kernels/kernels.h"
#include "runtime/engine/batch.h"
#include "runtime/engine/kv_layout.h"
#include "tiers/mover.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct KvCache KvCache;

typedef struct KvCacheOptions {
    Device *device;
    const Kernels *kernels; /* for encoding */
    const KernelContext *context;
    KvLayout layout; /* of this rank */
    bool
        codec_during_prefill; /* packs are made before the prompt has been through the layer: lossy prefill */
    uint32_t layer_count;
    uint32_t slot_count;
    uint32_t row_count_max;     /* of a batch */
    uint32_t slots[TIER_COUNT]; /* blocks that each tier holds, over all layers, staging included */
    uint32_t staging_slots;     /* of the device's; 0 without lower tiers */
    uint32_t
        bounce_slots; /* that blocks between a file and a device out of the host's reach go through */
    const Placement *placement;
    const uint64_t *trace; /* for a placement that needs one, [trace_count] */
    uint64_t trace_count;
    void (*record)(void *user, uint64_t access); /* optional: makes such a trace */
    void *record_user;
    RingOptions ring; /* the spill files of the nvme tier; file_count 0 without */
    const char *const
        *directories;       /* [ring.file_count] where they are, for messages; NULL: not said */
    uint64_t io_timeout_ns; /* I/O that takes longer is given up; 0: never */
    uint32_t corrupt_max;   /* wrong blocks in all that turn a tier off; 0: 16 */
    bool corrupt_is_fatal;  /* a wrong block ends the step with STATUS_DEVICE */
    bool attends_host; /* rows of decodes attend blocks in host memory where they lie (KvRuns) */
    uint64_t model_fingerprint; /* part of every identity */
} KvCacheOptions;

Status kv_cache_create(KvCache **out, const KvCacheOptions *options);
void kv_cache_destroy(KvCache *cache);
KvShape kv_cache_shape(const KvCache *cache);

/* prompt_count: tokens whose K and V stay raw in a layer until all of them have been through it. */
typedef struct KvSequence {
    uint64_t id;
    uint32_t prompt_count, token_capacity;
} KvSequence;

Status kv_cache_open(KvCache *cache, uint32_t slot, const KvSequence *sequence);
void kv_cache_close(KvCache *cache, uint32_t slot); /* releases the slot's blocks */
uint32_t kv_cache_token_count(const KvCache *cache, uint32_t slot);
bool kv_cache_is_lost(const KvCache *cache, uint32_t slot);
bool kv_cache_is_refused(const KvCache *cache,
                         uint32_t slot); /* K or V that are not finite met a codec */
/* The sequence pauses: its blocks, the filling ones as they are, leave the device first. It goes on with its next batch. */
void kv_cache_park(KvCache *cache, uint32_t slot);

/* Caches `token_count` tokens that nobody computed: pseudo-random K and V, a function of sequence id, layer and place. For
 * benchmarks of long contexts; of a slot that holds none yet. */
Status kv_cache_fill(KvCache *cache, uint32_t slot, uint32_t token_count);

/* Counts `token_count` more tokens as cached. */
void kv_cache_extend(KvCache *cache, uint32_t slot, uint32_t token_count);

/* Forgets what was wanted. The step takes up to `take_count` new blocks a layer, and holds those that the batch
 * goes on with: room for two layers' is made ahead of need. */
void kv_cache_begin_step(KvCache *cache, const Batch *batch, uint32_t take_count);
/* The batch will pass through layers [layer_first, layer_end): asks for their blocks that exist already, those that fill first. */
typedef struct KvWant {
    const Batch *batch;
    uint32_t layer_first, layer_end;
    uint32_t window; /* as in KvCursor */
} KvWant;

void kv_cache_want(KvCache *cache, const KvWant *want);
/* The same for the step after this one, as far as staging reaches: the disk goes on while logits are made and sampled. */
void kv_cache_want_ahead(KvCache *cache, const KvWant *want);

/* Rounds the step's K and V rows of one layer into their blocks, which it takes; waits for room where there will be some. */
typedef struct KvRows {
    const float *k, *v; /* [rows][stride] */
    uint64_t k_stride, v_stride;
} KvRows;

Status kv_cache_store(KvCache *cache, const Kernels *kernels, const KernelContext *context,
                      const Batch *batch, uint32_t layer_index, const KvRows *rows);

/* Walks the blocks that a layer's rows attend to, group by group in rising order, as they are resident or staged. */
typedef struct KvCursor {
    KvCache *cache;
    const Batch *batch;
    uint32_t layer_index;
    uint32_t window;    /* tokens farther back than this are not asked for; 0: all */
    uint32_t host_rows; /* the batch's first rows, whose blocks may be attended in host memory */
    uint32_t sequence;  /* of the batch, where the walk is */
    uint32_t ordinal;   /* next block to pin */
    bool entered;       /* the sequence's first ordinal is set */
} KvCursor;

/* With attends_host, of the sequences of one row that a batch begins with (decodes), blocks that are in the host's tier and not on the
 * device are neither wanted nor moved: they stay pinned where they lie, for the host's own kernels. A group that lies in both places is
 * cut into runs, each in one of them. Which bits come out then depends on where blocks lie when they are attended.
 *
 * Such blocks were never read, so nothing but this has compared them with what was written: each is verified once after it came down.
 * One that is wrong is read as any other, which finds it lost. */
typedef struct KvRuns {
    const AttendRun *device, *host; /* blocks in device memory; in host memory */
    uint32_t device_count, host_count;
} KvRuns;

KvCursor kv_cache_begin(KvCache *cache, const Batch *batch, uint32_t layer_index, uint32_t window);
/* Waits until the next block groups are at hand; no runs when the layer is done. What it gave before, whose kernels are on the context's
 * stream by now, is let go once they have read it. */
Status kv_cache_next(KvCursor *cursor, KvRuns *out);

/* The layer's exact attention has run: blocks that are full now are sealed, the others may move until they are held again, and
 * what has become cold goes to be encoded: by the time the layer runs again it is. */
Status kv_cache_seal(KvCache *cache, const Batch *batch, uint32_t layer_index);

/* The step's layers have run: what they attended is let go, so that the next step's blocks come as logits are made and sampled. */
void kv_cache_end_layers(KvCache *cache);

/* Waits for the transfers that are under way, a few seconds at most. */
void kv_cache_settle(KvCache *cache);

/* Every full raw block, brought to the device one after the other; between steps. */
Status kv_cache_visit(KvCache *cache,
                      Status (*visit)(void *user, const KvShape *shape, const void *block),
                      void *user);

typedef struct KvCacheStats {
    TierManagerStats manager;
    MoverStats mover;
    uint64_t slot_bytes;
    uint64_t moved_bytes[TIER_COUNT]; /* of a slot, by form (Block.form) */
    uint64_t raw_bytes,
        stored_bytes; /* of the cached tokens as f16, and in slots, when they were most */
    uint64_t packs;   /* made */
    uint64_t host_blocks,
        host_bytes; /* attended in host memory, and what reading them would have moved */
    double seconds_encode,
        seconds_encode_waited; /* that took, on any thread; of it, with the step waiting */
    uint64_t places;           /* blocks that can exist at once now */
    double
        seconds_stalled[TIER_COUNT]; /* waiting for a block from that tier; TIER_DEVICE: for room */
} KvCacheStats;

KvCacheStats kv_cache_stats(const KvCache *cache);
void kv_cache_count_blocks(const KvCache *cache, TierBlocks out[TIER_COUNT]); /* O(blocks) */
const RingFacts *kv_cache_ring(const KvCache *cache); /* NULL without an nvme tier */

SPILLWAY_EXTERN_C_END

#endif
