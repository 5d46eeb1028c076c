/* Cold blocks into packs: several encoded blocks to a slot, see kv_layout.h. */

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

/* Encodes raw blocks that are pinned into a new pack. */
static Status fill_pack(KvCache *cache, const Kernels *kernels, const KernelContext *context,
                        BlockId pack) {
    const KvLayout *layout = &cache->options.layout;
    uint8_t *bytes = kv_payload(cache, tier_manager_device_slot(cache->manager, pack));
    void *targets[KV_PACK_BLOCKS_MAX];
    for (uint32_t i = 0; i < layout->pack_blocks; i++)
        targets[i] = bytes + i * layout->encoded_bytes;
    KvEncodeArgs args = {.codec = layout->codec,
                         .shape = layout->shape,
                         .block_count = layout->pack_blocks,
                         .blocks = cache->pointers,
                         .out_bytes = targets};
    return kernels->kv_encode_blocks(kernels, context, &args);
}

/* Blocks ordinal … of the stream become a pack, and are released. STATUS_BAD_INPUT: not finite; STATUS_IO, STATUS_NO_SPACE: the
 * sequence has to be computed again. */
static Status make_pack(KvCache *cache, const Kernels *kernels, const KernelContext *context,
                        uint32_t slot_index, uint32_t layer) {
    KvSlot *slot = &cache->slots[slot_index];
    uint32_t ordinal = slot->packed_counts[layer], count = cache->options.layout.pack_blocks,
             pinned;
    BlockId *ids = kv_layer_ids(slot, layer) + ordinal, pack;
    Status status = pin_raw(cache, ids, count, &pinned);
    if (status == STATUS_OK)
        status =
            kv_take_block(cache, slot_index, layer, ordinal, cache->options.layout.codec, &pack);
    bool taken = status == STATUS_OK;
    if (taken) status = fill_pack(cache, kernels, context, pack);
    for (uint32_t i = 0; i < pinned; i++)
        tier_manager_unpin(cache->manager, ids[i]);
    if (status != STATUS_OK) {
        if (taken) tier_manager_release(cache->manager, pack);
        return status;
    }
    tier_manager_seal(cache->manager, pack);
    for (uint32_t i = 0; i < count; i++) {
        tier_manager_release(cache->manager, ids[i]);
        ids[i] = pack;
    }
    slot->packed_counts[layer] += count;
    cache->packs++;
    return STATUS_OK;
}

Status kv_pack_cold(KvCache *cache, const Kernels *kernels, const KernelContext *context,
                    const BatchSequence *sequence, uint32_t layer) {
    KvSlot *slot = &cache->slots[sequence->slot];
    uint32_t token_count = sequence->position_first + sequence->row_count;
    if (token_count < slot->prompt_count) return STATUS_OK;
    uint32_t cold = kv_layout_packed_blocks(&cache->options.layout, token_count);
    while (!slot->lost && slot->packed_counts[layer] < cold) {
        Status status = make_pack(cache, kernels, context, sequence->slot, layer);
        if (status == STATUS_OK) continue;
        slot->refused = status == STATUS_BAD_INPUT;
        slot->lost = true;
        if (status != STATUS_BAD_INPUT && status != STATUS_IO && status != STATUS_NO_SPACE)
            return status;
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
        const void *block;
        Status status =
            kv_payload_view(cache, tier_manager_device_slot(cache->manager, id), &block);
        if (status == STATUS_OK) status = visit(user, shape, block);
        tier_manager_unpin(cache->manager, id);
        TRY(status);
    }
    return STATUS_OK;
}

Status kv_cache_visit(KvCache *cache,
                      Status (*visit)(void *user, const KvShape *shape, const void *block),
                      void *user) {
    for (uint32_t s = 0; s < cache->options.slot_count; s++)
        for (uint32_t layer = 0; layer < cache->options.layer_count && cache->slots[s].open;
             layer++)
            if (!cache->slots[s].lost)
                TRY(visit_layer(cache, &cache->slots[s], layer, visit, user));
    return STATUS_OK;
}
