/* Cold blocks into packs: several encoded blocks to a slot, see kv_layout.h. Encoding begins once blocks are cold; the codes take their
 * place when the layer runs again, or sooner where the raw blocks are in somebody's way: what attention reads in a layer is the same. */

#include "runtime/engine/kv_cache_parts.h"

/* Pins raw blocks, as many as *out_count says; where their bytes are. */
static Status pin_raw(KvCache *cache, const BlockId *ids, uint32_t count, uint32_t *out_count,
                      const void **out_blocks) {
    for (*out_count = 0; *out_count < count;) {
        uint32_t device_slot;
        Status status = tier_manager_pin(cache->manager, ids[*out_count], &device_slot);
        if (status == STATUS_AGAIN)
            kv_stall(cache, tier_manager_tier(cache->manager, ids[*out_count]));
        else if (status != STATUS_OK)
            return status;
        else
            out_blocks[(*out_count)++] = kv_payload(cache, device_slot);
    }
    return STATUS_OK;
}

static bool starts_pack(const KvCache *cache, uint32_t ordinal) {
    return ordinal % cache->options.layout.pack_blocks == 0;
}

/* The pack that the block `ordinal` joins, held: a new one, or the one that the block before it is in. */
static Status hold_pack(KvCache *cache, uint32_t slot_index, uint32_t layer, uint32_t ordinal,
                        BlockId *out) {
    if (starts_pack(cache, ordinal))
        return kv_take_block(cache, slot_index, layer, ordinal, cache->options.layout.codec, out);
    *out = kv_layer_ids(&cache->slots[slot_index], layer)[ordinal - 1];
    return kv_hold_block(cache, *out);
}

/* By a thread, or by the device where the host cannot reach blocks. */
static uint32_t submit(KvCache *cache, const KvEncoderJob *job) {
    return cache->encoder ? kv_encoder_submit(cache->encoder, job)
                          : kv_device_encoder_submit(cache->device_encoder, job);
}

static Status wait_for(KvCache *cache, uint32_t job_index) {
    return cache->encoder ? kv_encoder_wait(cache->encoder, job_index)
                          : kv_device_encoder_wait(cache->device_encoder, job_index);
}

/* `count` blocks from `ordinal` on, of one pack, go to the encoder. STATUS_IO, STATUS_NO_SPACE: the sequence has to be computed
 * again. */
static Status begin_encoding(KvCache *cache, uint32_t slot_index, uint32_t layer, uint32_t ordinal,
                             uint32_t count) {
    KvSlot *slot = &cache->slots[slot_index];
    const KvLayout *layout = &cache->options.layout;
    BlockId *ids = kv_layer_ids(slot, layer) + ordinal, pack = BLOCK_NONE;
    KvEncoderJob job = {.block_count = count};
    uint32_t pinned;
    if (cache->pending_count == KV_ENCODER_JOBS_MAX)
        kv_finish_encoding(cache, cache->pending[0].layer); /* the one that ran the longest ago */
    Status status = pin_raw(cache, ids, count, &pinned, job.blocks);
    if (status == STATUS_OK) status = hold_pack(cache, slot_index, layer, ordinal, &pack);
    if (status != STATUS_OK) {
        for (uint32_t i = 0; i < pinned; i++)
            tier_manager_unpin(cache->manager, ids[i]);
        return status;
    }
    job.out_bytes = kv_payload(cache, tier_manager_device_slot(cache->manager, pack)) +
                    ordinal % layout->pack_blocks * layout->encoded_bytes;
    KvPending pending = {.slot_index = slot_index,
                         .layer = layer,
                         .ordinal = ordinal,
                         .block_count = count,
                         .pack = pack,
                         .job_index = submit(cache, &job)};
    cache->pending[cache->pending_count++] = pending;
    slot->begun_counts[layer] = ordinal + count;
    return STATUS_OK;
}

/* The codes take the place of the raw blocks, which are released. Of a lost sequence a pack that nobody knows goes with them. */
static void end_encoding(KvCache *cache, const KvPending *pending) {
    KvSlot *slot = &cache->slots[pending->slot_index];
    BlockId *ids = kv_layer_ids(slot, pending->layer) + pending->ordinal;
    uint32_t end = pending->ordinal + pending->block_count;
    Status status = wait_for(cache, pending->job_index);
    for (uint32_t i = 0; i < pending->block_count; i++)
        tier_manager_unpin(cache->manager, ids[i]);
    if (status != STATUS_OK) slot->refused = slot->lost = true;
    if (starts_pack(cache, end))
        tier_manager_seal(cache->manager, pending->pack);
    else
        tier_manager_let_go(cache->manager, pending->pack);
    if (slot->lost) {
        if (starts_pack(cache, pending->ordinal))
            tier_manager_release(cache->manager, pending->pack);
        return;
    }
    for (uint32_t i = 0; i < pending->block_count; i++) {
        tier_manager_release(cache->manager, ids[i]);
        ids[i] = pending->pack;
    }
    slot->packed_counts[pending->layer] = end;
    cache->packs += starts_pack(cache, pending->ordinal);
}

bool kv_finish_encoding(KvCache *cache, uint32_t layer) {
    uint32_t kept = 0, count = cache->pending_count;
    if (count > 0) kv_finish_reading(cache, layer); /* raw blocks are released */
    for (uint32_t i = 0; i < count; i++)
        if (layer == KV_ALL_LAYERS || cache->pending[i].layer == layer)
            end_encoding(cache, &cache->pending[i]);
        else
            cache->pending[kept++] = cache->pending[i];
    cache->pending_count = kept;
    bool cooled = layer == KV_ALL_LAYERS && kv_finish_cooling(cache);
    return kept < count || cooled;
}

BlockId kv_pack_growing(const KvCache *cache, const KvSlot *slot, uint32_t layer,
                        uint32_t token_count) {
    uint32_t begun = slot->begun_counts[layer];
    if (!cache->options.layout.codec || starts_pack(cache, begun) ||
        token_count < slot->prompt_count ||
        kv_layout_cold_blocks(&cache->options.layout, token_count) <= begun)
        return BLOCK_NONE;
    return kv_layer_ids(slot, layer)[begun - 1];
}

Status kv_pack_cold(KvCache *cache, const BatchSequence *sequence, uint32_t layer) {
    KvSlot *slot = &cache->slots[sequence->slot];
    uint32_t token_count = sequence->position_first + sequence->row_count;
    if (token_count < slot->prompt_count) return STATUS_OK;
    uint32_t cold = kv_layout_cold_blocks(&cache->options.layout, token_count),
             pack_blocks = cache->options.layout.pack_blocks;
    while (!slot->lost && slot->begun_counts[layer] < cold) {
        uint32_t ordinal = slot->begun_counts[layer], room = pack_blocks - ordinal % pack_blocks,
                 count = cold - ordinal < room ? cold - ordinal : room;
        Status status = begin_encoding(cache, sequence->slot, layer, ordinal, count);
        if (status == STATUS_OK) continue;
        slot->lost = true;
        if (status != STATUS_IO && status != STATUS_NO_SPACE) return status;
    }
    return STATUS_OK;
}

static Status visit_layer(KvCache *cache, const KvSlot *slot, uint32_t layer,
                          Status (*visit)(void *user, const KvShape *shape, const void *block),
                          void *user) {
    const KvShape *shape = &cache->options.layout.shape;
    uint32_t full = slot->token_count / shape->block_tokens, pinned;
    for (uint32_t i = slot->packed_counts[layer]; i < full; i++) {
        BlockId id = kv_layer_ids(slot, layer)[i];
        if (tier_manager_block(cache->manager, id)->form != 0) continue;
        const void *payload, *block;
        TRY(pin_raw(cache, &id, 1, &pinned, &payload));
        Status status = kv_payload_view(cache, payload, &block);
        if (status == STATUS_OK) status = visit(user, shape, block);
        tier_manager_unpin(cache->manager, id);
        TRY(status);
    }
    return STATUS_OK;
}

Status kv_cache_visit(KvCache *cache,
                      Status (*visit)(void *user, const KvShape *shape, const void *block),
                      void *user) {
    kv_finish_encoding(cache, KV_ALL_LAYERS);
    for (uint32_t s = 0; s < cache->options.slot_count; s++)
        for (uint32_t layer = 0; layer < cache->options.layer_count && cache->slots[s].open;
             layer++)
            if (!cache->slots[s].lost)
                TRY(visit_layer(cache, &cache->slots[s], layer, visit, user));
    return STATUS_OK;
}
