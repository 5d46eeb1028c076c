/* Cold blocks into packs: several encoded blocks to a slot, see kv_layout.h. A pack begins once its blocks are cold and takes their
 * place when the layer runs again, or sooner where its raw blocks are in somebody's way: what attention reads in a layer is the same. */

#include "runtime/engine/kv_cache_parts.h"

/* Pins raw blocks, as many as *out_count says. */
static Status pin_raw(KvCache *cache, const BlockId *ids, uint32_t count, uint32_t *out_count) {
    for (*out_count = 0; *out_count < count;) {
        uint32_t device_slot;
        Status status = tier_manager_pin(cache->manager, ids[*out_count], &device_slot);
        if (status == STATUS_AGAIN)
            kv_stall(cache, tier_manager_tier(cache->manager, ids[*out_count]));
        else if (status != STATUS_OK)
            return status;
        else
            cache->pointers[(*out_count)++] = kv_payload(cache, device_slot);
    }
    return STATUS_OK;
}

/* Blocks from `ordinal` on of the stream go to the encoder. STATUS_IO, STATUS_NO_SPACE: the sequence has to be computed again. */
static Status begin_pack(KvCache *cache, uint32_t slot_index, uint32_t layer, uint32_t ordinal) {
    KvSlot *slot = &cache->slots[slot_index];
    const KvLayout *layout = &cache->options.layout;
    BlockId *ids = kv_layer_ids(slot, layer) + ordinal, pack;
    uint32_t pinned;
    if (cache->pending_count == KV_ENCODER_JOBS_MAX) kv_packs_finish(cache, KV_ALL_LAYERS);
    Status status = pin_raw(cache, ids, layout->pack_blocks, &pinned);
    if (status == STATUS_OK)
        status = kv_take_block(cache, slot_index, layer, ordinal, layout->codec, &pack);
    if (status != STATUS_OK) {
        for (uint32_t i = 0; i < pinned; i++)
            tier_manager_unpin(cache->manager, ids[i]);
        return status;
    }
    KvEncoderJob job = {.pack = kv_payload(cache, tier_manager_device_slot(cache->manager, pack))};
    for (uint32_t i = 0; i < layout->pack_blocks; i++)
        job.blocks[i] = cache->pointers[i];
    cache->pending[cache->pending_count++] =
        (KvPendingPack){.slot_index = slot_index,
                        .layer = layer,
                        .ordinal = ordinal,
                        .pack = pack,
                        .job_index = kv_encoder_submit(cache->encoder, &job)};
    slot->begun_counts[layer] = ordinal + layout->pack_blocks;
    return STATUS_OK;
}

/* The pack takes the place of its raw blocks, which are released. */
static void finish_pack(KvCache *cache, const KvPendingPack *pending) {
    KvSlot *slot = &cache->slots[pending->slot_index];
    BlockId *ids = kv_layer_ids(slot, pending->layer) + pending->ordinal;
    uint32_t count = cache->options.layout.pack_blocks;
    bool right = kv_encoder_wait(cache->encoder, pending->job_index) == STATUS_OK;
    for (uint32_t i = 0; i < count; i++)
        tier_manager_unpin(cache->manager, ids[i]);
    if (!right) slot->refused = slot->lost = true;
    if (slot->lost) {
        tier_manager_release(cache->manager, pending->pack);
        return;
    }
    tier_manager_seal(cache->manager, pending->pack);
    for (uint32_t i = 0; i < count; i++) {
        tier_manager_release(cache->manager, ids[i]);
        ids[i] = pending->pack;
    }
    slot->packed_counts[pending->layer] += count;
    cache->packs++;
}

bool kv_packs_finish(KvCache *cache, uint32_t layer) {
    uint32_t kept = 0, count = cache->pending_count;
    for (uint32_t i = 0; i < count; i++)
        if (layer == KV_ALL_LAYERS || cache->pending[i].layer == layer)
            finish_pack(cache, &cache->pending[i]);
        else
            cache->pending[kept++] = cache->pending[i];
    cache->pending_count = kept;
    return kept < count;
}

Status kv_pack_cold(KvCache *cache, const BatchSequence *sequence, uint32_t layer) {
    KvSlot *slot = &cache->slots[sequence->slot];
    uint32_t token_count = sequence->position_first + sequence->row_count;
    if (token_count < slot->prompt_count) return STATUS_OK;
    uint32_t cold = kv_layout_packed_blocks(&cache->options.layout, token_count);
    while (!slot->lost && slot->begun_counts[layer] < cold) {
        Status status = begin_pack(cache, sequence->slot, layer, slot->begun_counts[layer]);
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
        TRY(pin_raw(cache, &id, 1, &pinned));
        Status status = visit(user, shape, cache->pointers[0]);
        tier_manager_unpin(cache->manager, id);
        TRY(status);
    }
    return STATUS_OK;
}

Status kv_cache_visit(KvCache *cache,
                      Status (*visit)(void *user, const KvShape *shape, const void *block),
                      void *user) {
    kv_packs_finish(cache, KV_ALL_LAYERS);
    for (uint32_t s = 0; s < cache->options.slot_count; s++)
        for (uint32_t layer = 0; layer < cache->options.layer_count && cache->slots[s].open;
             layer++)
            if (!cache->slots[s].lost)
                TRY(visit_layer(cache, &cache->slots[s], layer, visit, user));
    return STATUS_OK;
}
