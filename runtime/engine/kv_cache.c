#include "runtime/engine/kv_cache.h"

#include <stdlib.h>

#include "runtime/base/arena.h"
#include "runtime/base/bytes.h"
#include "runtime/base/invariant.h"

typedef struct Slot {
    bool open;
    uint64_t sequence_id;
    uint32_t token_count;
    uint32_t block_capacity; /* a stream */
    uint32_t block_count;    /* taken a stream */
    BlockId *ids;            /* [layer_count][block_capacity], owned */
    const void **blocks;     /* [layer_count][block_capacity] their bytes, owned */
} Slot;

struct KvCache {
    KvCacheOptions options;
    BlockTable *table;
    Slot *slots;         /* [slot_count] */
    AttendRun *runs;     /* [slot_count] */
    void **row_blocks;   /* [row_count_max] */
    uint32_t *row_slots; /* [row_count_max] token index inside the row's block */
};

uint32_t kv_block_tokens_auto(uint32_t kv_head_count, uint32_t head_dim) {
    enum { TOKENS_MIN = 32, TOKENS_MAX = 256, BYTES_WANTED = 128 << 10 };
    uint32_t tokens = TOKENS_MIN;
    KvShape shape = {kv_head_count, head_dim, tokens};
    while (tokens < TOKENS_MAX && kv_block_bytes(&shape) < BYTES_WANTED)
        shape.block_tokens = tokens *= 2;
    return tokens;
}

Status kv_cache_create(KvCache **out, const KvCacheOptions *options) {
    CHECK(is_power_of_two(options->shape.block_tokens));
    void *memory;
    TRY(memory_take(&memory, 1, sizeof(KvCache), "KV cache"));
    KvCache *cache = memory;
    cache->options = *options;
    BlockTableOptions table = {.device = options->device,
                               .block_bytes = align_up(kv_block_bytes(&options->shape), 64),
                               .block_count = options->block_count};
    Status status = block_table_create(&cache->table, &table);
    if (status == STATUS_OK)
        status = memory_take((void **)&cache->slots, options->slot_count, sizeof(Slot), "KV slots");
    if (status == STATUS_OK)
        status = memory_take((void **)&cache->runs, options->slot_count, sizeof(AttendRun),
                             "attention runs");
    if (status == STATUS_OK)
        status = memory_take((void **)&cache->row_blocks, options->row_count_max, sizeof(void *),
                             "row blocks");
    if (status == STATUS_OK)
        status = memory_take((void **)&cache->row_slots, options->row_count_max, sizeof(uint32_t),
                             "row slots");
    if (status != STATUS_OK) {
        kv_cache_destroy(cache);
        return status;
    }
    *out = cache;
    return STATUS_OK;
}

void kv_cache_destroy(KvCache *cache) {
    if (!cache) return;
    for (uint32_t i = 0; cache->slots && i < cache->options.slot_count; i++)
        if (cache->slots[i].open) kv_cache_close(cache, i);
    block_table_destroy(cache->table);
    free(cache->slots);
    free(cache->runs);
    free(cache->row_blocks);
    free(cache->row_slots);
    free(cache);
}

KvShape kv_cache_shape(const KvCache *cache) {
    return cache->options.shape;
}

Status kv_cache_open(KvCache *cache, uint32_t slot_index, uint64_t sequence_id,
                     uint32_t token_capacity) {
    CHECK(slot_index < cache->options.slot_count && !cache->slots[slot_index].open);
    uint32_t block_capacity =
        (uint32_t)divide_up(token_capacity, cache->options.shape.block_tokens);
    uint64_t count = (uint64_t)block_capacity * cache->options.layer_count;
    void *ids, *blocks;
    TRY(memory_take(&ids, count, sizeof(BlockId), "block ids of a sequence"));
    Status status = memory_take(&blocks, count, sizeof(void *), "block addresses of a sequence");
    if (status != STATUS_OK) {
        free(ids);
        return status;
    }
    cache->slots[slot_index] = (Slot){.open = true,
                                      .sequence_id = sequence_id,
                                      .block_capacity = block_capacity,
                                      .ids = ids,
                                      .blocks = blocks};
    return STATUS_OK;
}

void kv_cache_close(KvCache *cache, uint32_t slot_index) {
    Slot *slot = &cache->slots[slot_index];
    CHECK(slot_index < cache->options.slot_count && slot->open);
    for (uint32_t layer = 0; layer < cache->options.layer_count; layer++)
        for (uint32_t i = 0; i < slot->block_count; i++)
            block_table_release(cache->table,
                                slot->ids[(uint64_t)layer * slot->block_capacity + i]);
    free(slot->ids);
    free(slot->blocks);
    *slot = (Slot){0};
}

uint32_t kv_cache_token_count(const KvCache *cache, uint32_t slot_index) {
    CHECK(slot_index < cache->options.slot_count && cache->slots[slot_index].open);
    return cache->slots[slot_index].token_count;
}

static void take_block(KvCache *cache, uint32_t slot_index, uint32_t layer, uint32_t ordinal) {
    Slot *slot = &cache->slots[slot_index];
    uint64_t index = (uint64_t)layer * slot->block_capacity + ordinal;
    BlockIdentity identity = {
        .words = {cache->options.model_fingerprint, slot->sequence_id, layer, ordinal}};
    uint64_t stream = (uint64_t)slot_index * cache->options.layer_count + layer;
    CHECK(block_table_take(cache->table, &identity, stream, ordinal, &slot->ids[index]) ==
          STATUS_OK);
    slot->blocks[index] = block_table_block(cache->table, slot->ids[index])->bytes;
}

Status kv_cache_extend(KvCache *cache, uint32_t slot_index, uint32_t token_count) {
    Slot *slot = &cache->slots[slot_index];
    CHECK(slot_index < cache->options.slot_count && slot->open);
    uint32_t wanted = (uint32_t)divide_up((uint64_t)slot->token_count + token_count,
                                          cache->options.shape.block_tokens);
    CHECK(wanted <= slot->block_capacity);
    uint64_t lacking = (uint64_t)(wanted - slot->block_count) * cache->options.layer_count;
    if (lacking > block_table_free_count(cache->table)) return STATUS_NO_SPACE;
    for (uint32_t ordinal = slot->block_count; ordinal < wanted; ordinal++)
        for (uint32_t layer = 0; layer < cache->options.layer_count; layer++)
            take_block(cache, slot_index, layer, ordinal);
    slot->block_count = wanted;
    slot->token_count += token_count;
    return STATUS_OK;
}

void kv_cache_store(KvCache *cache, const Kernels *kernels, const KernelContext *context,
                    const Batch *batch, uint32_t layer_index, const KvRows *rows) {
    uint32_t block_tokens = cache->options.shape.block_tokens;
    CHECK(batch->row_count <= cache->options.row_count_max);
    for (uint32_t s = 0; s < batch->sequence_count; s++) {
        const BatchSequence *sequence = &batch->sequences[s];
        const Slot *slot = &cache->slots[sequence->slot];
        const void *const *blocks = slot->blocks + (uint64_t)layer_index * slot->block_capacity;
        for (uint32_t r = 0; r < sequence->row_count; r++) {
            uint32_t position = sequence->position_first + r;
            cache->row_blocks[sequence->row_first + r] = (void *)blocks[position / block_tokens];
            cache->row_slots[sequence->row_first + r] = position % block_tokens;
        }
    }
    KvStoreArgs args = {.shape = cache->options.shape,
                        .k = rows->k,
                        .v = rows->v,
                        .k_stride = rows->k_stride,
                        .v_stride = rows->v_stride,
                        .row_count = batch->row_count,
                        .blocks = cache->row_blocks,
                        .block_slots = cache->row_slots};
    kernels->kv_store(context, &args);
}

KvCursor kv_cache_begin(KvCache *cache, const Batch *batch, uint32_t layer_index, uint32_t window) {
    return (KvCursor){.cache = cache, .batch = batch, .layer_index = layer_index, .window = window};
}

/* The first block of the first group that the sequence's first row can see. */
static uint32_t first_block(const KvCursor *cursor, const BatchSequence *sequence) {
    if (cursor->window == 0 || sequence->position_first < cursor->window) return 0;
    uint32_t block =
        (sequence->position_first - cursor->window + 1) / cursor->cache->options.shape.block_tokens;
    return block - block % ATTEND_GROUP_BLOCKS;
}

Status kv_cache_next(KvCursor *cursor, const AttendRun **out_runs, uint32_t *out_count) {
    KvCache *cache = cursor->cache;
    *out_runs = cache->runs;
    *out_count = 0;
    if (cursor->finished) return STATUS_OK;
    for (uint32_t s = 0; s < cursor->batch->sequence_count; s++) {
        const BatchSequence *sequence = &cursor->batch->sequences[s];
        const Slot *slot = &cache->slots[sequence->slot];
        uint32_t first = first_block(cursor, sequence);
        cache->runs[s] = (AttendRun){
            .row_first = sequence->row_first,
            .row_count = sequence->row_count,
            .position_first = sequence->position_first,
            .block_ordinal_first = first,
            .block_count = slot->block_count - first,
            .blocks = slot->blocks + (uint64_t)cursor->layer_index * slot->block_capacity + first,
        };
    }
    cursor->finished = true;
    *out_count = cursor->batch->sequence_count;
    return STATUS_OK;
}

void kv_cache_seal(KvCache *cache, const Batch *batch, uint32_t layer_index) {
    uint32_t block_tokens = cache->options.shape.block_tokens;
    for (uint32_t s = 0; s < batch->sequence_count; s++) {
        const BatchSequence *sequence = &batch->sequences[s];
        const Slot *slot = &cache->slots[sequence->slot];
        uint32_t full_before = sequence->position_first / block_tokens;
        uint32_t full_now = (sequence->position_first + sequence->row_count) / block_tokens;
        for (uint32_t ordinal = full_before; ordinal < full_now; ordinal++)
            block_table_seal(cache->table,
                             slot->ids[(uint64_t)layer_index * slot->block_capacity + ordinal]);
    }
}

BlockTableStats kv_cache_stats(const KvCache *cache) {
    return block_table_stats(cache->table);
}
