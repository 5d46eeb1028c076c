#ifndef RUNTIME_ENGINE_KV_CACHE_H
#define RUNTIME_ENGINE_KV_CACHE_H

/* The KV of all sequences: (slot, layer) is a stream of blocks in the block table. The only caller of tiers/ in a step,
 * and the maker of block identities. A slot is opened for a sequence with the most tokens it may reach; blocks
 * for all layers are taken when the first of their tokens arrives.
 *
 *     kv_cache_extend                     once a sequence and step, before the layers
 *     for each layer: kv_cache_store, then kv_cache_next until it gives no runs, then kv_cache_seal
 *
 * One thread. Blocks handed out by kv_cache_next stay until the next call on the cache. */

#include "kernels/kernels.h"
#include "runtime/engine/batch.h"
#include "tiers/block_table.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct KvCache KvCache;

typedef struct KvCacheOptions {
    Device *device;
    KvShape shape; /* of this rank */
    uint32_t layer_count;
    uint32_t slot_count;
    uint32_t row_count_max;     /* of a batch */
    uint32_t block_count;       /* over all layers */
    uint64_t model_fingerprint; /* part of every identity */
} KvCacheOptions;

Status kv_cache_create(KvCache **out, const KvCacheOptions *options);
void kv_cache_destroy(KvCache *cache);
KvShape kv_cache_shape(const KvCache *cache);

/* Block tokens for `auto`: a power of two from 32 to 256 such that a block holds at least 128 KiB where it can. */
uint32_t kv_block_tokens_auto(uint32_t kv_head_count, uint32_t head_dim);

Status kv_cache_open(KvCache *cache, uint32_t slot, uint64_t sequence_id, uint32_t token_capacity);
void kv_cache_close(KvCache *cache, uint32_t slot); /* releases the slot's blocks */
uint32_t kv_cache_token_count(const KvCache *cache, uint32_t slot);

/* Takes the blocks that `token_count` more tokens need in every layer, and counts the tokens as cached. STATUS_NO_SPACE
 * without logging when blocks are short; nothing is taken then. */
Status kv_cache_extend(KvCache *cache, uint32_t slot, uint32_t token_count);

/* Rounds the step's K and V rows of one layer into their blocks. k, v: [rows][stride] */
typedef struct KvRows {
    const float *k, *v;
    uint64_t k_stride, v_stride;
} KvRows;

void kv_cache_store(KvCache *cache, const Kernels *kernels, const KernelContext *context,
                    const Batch *batch, uint32_t layer_index, const KvRows *rows);

/* Walks the blocks that a layer's rows attend to, in rising order, as far as they are at hand. */
typedef struct KvCursor {
    KvCache *cache;
    const Batch *batch;
    uint32_t layer_index;
    uint32_t window; /* tokens farther back than this are not asked for; 0: all */
    bool finished;
} KvCursor;

KvCursor kv_cache_begin(KvCache *cache, const Batch *batch, uint32_t layer_index, uint32_t window);
/* Waits until the next block groups are resident; *out_count 0 when the layer is done. */
Status kv_cache_next(KvCursor *cursor, const AttendRun **out_runs, uint32_t *out_count);

/* The layer's exact attention has run: blocks that are full now are sealed. */
void kv_cache_seal(KvCache *cache, const Batch *batch, uint32_t layer_index);

BlockTableStats kv_cache_stats(const KvCache *cache);

SPILLWAY_EXTERN_C_END

#endif
