#include "runtime/engine/kv_cache.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/base/bytes.h"
#include "runtime/base/hash.h"
#include "runtime/base/invariant.h"
#include "runtime/base/monotonic.h"
#include "runtime/base/random.h"
#include "runtime/engine/kv_cache_parts.h"

enum { RESULTS_AT_ONCE = 64, SETTLE_WAITS = 50 };
static const uint64_t stall_wait_ns =
    100000000; /* wake up now and then, whatever happens to the tier thread */

KvShape kv_cache_shape(const KvCache *cache) {
    return cache->options.layout.shape;
}

/* ---- sequences ---- */

Status kv_cache_open(KvCache *cache, uint32_t slot_index, const KvSequence *sequence) {
    KvSlot *slot = kv_slot_at(cache, slot_index);
    CHECK(!slot->open);
    uint32_t layer_count = cache->options.layer_count;
    uint32_t block_capacity =
        (uint32_t)divide_up(sequence->token_capacity, cache->options.layout.shape.block_tokens);
    void *ids, *counts;
    TRY(memory_take(&ids, (uint64_t)block_capacity * layer_count, sizeof(BlockId), "block ids"));
    Status status =
        memory_take(&counts, 3 * (uint64_t)layer_count, sizeof(uint32_t), "block counts");
    if (status != STATUS_OK) {
        free(ids);
        return status;
    }
    *slot =
        (KvSlot){.open = true,
                 .sequence_id = sequence->id,
                 .prompt_count = cache->options.codec_during_prefill ? 0 : sequence->prompt_count,
                 .block_capacity = block_capacity,
                 .block_counts = counts,
                 .packed_counts = (uint32_t *)counts + layer_count,
                 .begun_counts = (uint32_t *)counts + 2 * (uint64_t)layer_count,
                 .ids = ids};
    return STATUS_OK;
}

void kv_cache_close(KvCache *cache, uint32_t slot_index) {
    KvSlot *slot = kv_slot_at(cache, slot_index);
    CHECK(slot->open && kv_nothing_is_pinned(cache));
    kv_finish_encoding(cache, KV_ALL_LAYERS);
    for (uint32_t layer = 0; layer < cache->options.layer_count; layer++) {
        const BlockId *ids = kv_layer_ids(slot, layer);
        for (uint32_t i = 0; i < slot->block_counts[layer]; i++)
            if (i == 0 || ids[i] != ids[i - 1]) tier_manager_release(cache->manager, ids[i]);
    }
    free(slot->ids);
    free(slot->block_counts);
    *slot = (KvSlot){0};
}

uint32_t kv_cache_token_count(const KvCache *cache, uint32_t slot_index) {
    CHECK(kv_slot_at(cache, slot_index)->open);
    return cache->slots[slot_index].token_count;
}

bool kv_cache_is_lost(const KvCache *cache, uint32_t slot_index) {
    return kv_slot_at(cache, slot_index)->lost;
}

bool kv_cache_is_refused(const KvCache *cache, uint32_t slot_index) {
    return kv_slot_at(cache, slot_index)->refused;
}

void kv_cache_extend(KvCache *cache, uint32_t slot_index, uint32_t token_count) {
    KvSlot *slot = kv_slot_at(cache, slot_index);
    slot->token_count += token_count;
    CHECK(slot->open && divide_up(slot->token_count, cache->options.layout.shape.block_tokens) <=
                            slot->block_capacity);
}

/* ---- transfers ---- */

static void start_transfers(KvCache *cache) {
    Transfer transfer;
    while (tier_manager_next_transfer(cache->manager, &transfer)) {
        const Block *block = tier_manager_block(cache->manager, transfer.block);
        MoverJob job = {
            .transfer = transfer, .identity = block->identity, .ordinal = block->ordinal};
        CHECK(mover_submit(cache->mover, &job) == STATUS_OK); /* both sides hold KV_TRANSFERS_MAX */
    }
    mover_flush(cache->mover);
}

void kv_pump(KvCache *cache, uint64_t wait_ns) {
    if (!cache->mover) return;
    start_transfers(cache);
    MoverDone done[RESULTS_AT_ONCE];
    uint32_t count;
    do {
        count = mover_collect(cache->mover, done, RESULTS_AT_ONCE, wait_ns);
        tier_manager_tick(cache->manager, monotonic_now_ns(&monotonic_system));
        for (uint32_t i = 0; i < count; i++) {
            tier_manager_complete(cache->manager, done[i].transfer_id, done[i].result);
            cache->corrupt_seen |= done[i].result == TRANSFER_CORRUPT;
        }
        if (count > 0) start_transfers(cache);
        wait_ns = 0;
    } while (count == RESULTS_AT_ONCE);
}

void kv_stall(KvCache *cache, Tier cause) {
    bool read = kv_finish_reading(cache, KV_ALL_LAYERS);
    double start = monotonic_seconds();
    bool encoded = kv_finish_encoding(cache, KV_ALL_LAYERS);
    kv_pump(cache, read || encoded ? 0 : stall_wait_ns);
    cache->seconds_stalled[cause] += monotonic_seconds() - start;
}

/* ---- a step ---- */

uint32_t kv_first_block(const KvCache *cache, const BatchSequence *sequence, uint32_t window) {
    if (window == 0 || sequence->position_first < window) return 0;
    uint32_t block =
        (sequence->position_first - window + 1) / cache->options.layout.shape.block_tokens;
    return block - block % ATTEND_GROUP_BLOCKS;
}

/* What the cached tokens would take as f16, and what they take, when they are most. */
static void note_ratio(KvCache *cache) {
    const KvShape *shape = &cache->options.layout.shape;
    uint64_t tokens = 0;
    for (uint32_t i = 0; i < cache->options.slot_count; i++)
        if (cache->slots[i].open) tokens += cache->slots[i].token_count;
    uint64_t raw =
        tokens * cache->options.layer_count * kv_block_bytes(shape) / shape->block_tokens;
    if (raw <= cache->raw_bytes) return;
    TierManagerStats stats = tier_manager_stats(cache->manager);
    cache->raw_bytes = raw;
    cache->stored_bytes = ((uint64_t)stats.filling + stats.sealed - cache->pending_count) *
                          cache->options.layout.slot_bytes;
}

/* The batch's first token of the sequence goes into a block that is begun already. */
static bool fills_on(const KvCache *cache, const BatchSequence *sequence) {
    return sequence->position_first % cache->options.layout.shape.block_tokens > 0;
}

static bool is_away(const KvCache *cache, BlockId id) {
    return tier_manager_device_slot(cache->manager, id) == SLOT_NONE;
}

/* Blocks a layer, on average, that the batch goes on with and that have to come home first. */
static uint32_t away_count(const KvCache *cache, const Batch *batch) {
    uint32_t layer_count = cache->options.layer_count, count = 0;
    for (uint32_t s = 0; s < batch->sequence_count; s++) {
        const BatchSequence *sequence = &batch->sequences[s];
        const KvSlot *slot = &cache->slots[sequence->slot];
        uint32_t ordinal = sequence->position_first / cache->options.layout.shape.block_tokens;
        for (uint32_t layer = 0; layer < layer_count && fills_on(cache, sequence); layer++)
            count += ordinal < slot->block_counts[layer] &&
                     is_away(cache, kv_layer_ids(slot, layer)[ordinal]);
    }
    return (uint32_t)divide_up(count, layer_count);
}

void kv_cache_begin_step(KvCache *cache, const Batch *batch, uint32_t take_count) {
    CHECK(kv_nothing_is_pinned(cache));
    note_ratio(cache);
    cache->homeward_count = 0;
    if (!cache->mover) return;
    uint32_t home = cache->options.slots[TIER_DEVICE] - cache->options.staging_slots;
    MoverStats moved = mover_stats(cache->mover);
    uint64_t read_bytes = moved.read_bytes[TIER_HOST] + moved.read_bytes[TIER_NVME];
    tier_manager_forget_wants(cache->manager);
    tier_manager_set_staging(
        cache->manager, kv_staging_begin_step(&cache->staging, monotonic_seconds(), read_bytes));
    uint32_t free_target = 2 * (take_count + away_count(cache, batch));
    tier_manager_set_free_target(cache->manager, free_target < home / 4 ? free_target : home / 4);
}

uint32_t kv_host_rows(const KvCache *cache, const Batch *batch) {
    uint32_t rows = 0;
    while (cache->options.attends_host && rows < batch->sequence_count &&
           batch->sequences[rows].row_count == 1)
        rows++;
    return rows;
}

/* In host memory, to be attended there: unless there is a place on the device where it would stay. */
static bool stays_in_host(KvCache *cache, BlockId id) {
    if (tier_manager_tier(cache->manager, id) != TIER_HOST) return false;
    bool comes_home = tier_manager_has_home(cache->manager, id, cache->homeward_count);
    cache->homeward_count += comes_home;
    return !comes_home;
}

/* Blocks [first, end) as attention will pin them: of a pack, one a group. Returns how many are away and come. */
static uint32_t want_blocks(KvCache *cache, const BlockId *ids, uint32_t first, uint32_t end,
                            bool may_stay) {
    uint32_t away = 0, taken;
    for (uint32_t i = first; i < end; i++) {
        if (i > first && ids[i] == ids[i - 1] && i % ATTEND_GROUP_BLOCKS > 0) continue;
        if (may_stay && stays_in_host(cache, ids[i])) continue;
        tier_manager_want(cache->manager, &ids[i], 1, &taken);
        away += is_away(cache, ids[i]);
    }
    return away;
}

/* How many blocks have to be read for it. Those that fill come first; a pack that will grow is read for attention, and once more to be
 * held. */
static uint32_t want_layer(KvCache *cache, const KvWant *want, uint32_t layer) {
    const Batch *batch = want->batch;
    uint32_t block_tokens = cache->options.layout.shape.block_tokens, taken, away = 0;
    uint32_t stay = kv_host_rows(cache, batch);
    for (uint32_t s = 0; s < batch->sequence_count; s++) {
        const BatchSequence *sequence = &batch->sequences[s];
        const KvSlot *slot = kv_slot_at(cache, sequence->slot);
        uint32_t ordinal = sequence->position_first / block_tokens;
        if (!slot->lost && fills_on(cache, sequence) && ordinal < slot->block_counts[layer])
            tier_manager_want(cache->manager, kv_layer_ids(slot, layer) + ordinal, 1, &taken);
    }
    for (uint32_t s = 0; s < batch->sequence_count; s++) {
        const KvSlot *slot = kv_slot_at(cache, batch->sequences[s].slot);
        uint32_t first = kv_first_block(cache, &batch->sequences[s], want->window);
        if (!slot->lost)
            away += want_blocks(cache, kv_layer_ids(slot, layer), first, slot->block_counts[layer],
                                s < stay);
    }
    for (uint32_t s = 0; s < batch->sequence_count; s++) {
        const BatchSequence *sequence = &batch->sequences[s];
        const KvSlot *slot = kv_slot_at(cache, sequence->slot);
        BlockId pack =
            kv_pack_growing(cache, slot, layer, sequence->position_first + sequence->row_count);
        if (!slot->lost && pack != BLOCK_NONE) tier_manager_want(cache->manager, &pack, 1, &taken);
    }
    return away;
}

void kv_cache_want(KvCache *cache, const KvWant *want) {
    if (!cache->mover) return;
    for (uint32_t layer = want->layer_first; layer < want->layer_end; layer++)
        want_layer(cache, want, layer);
    kv_pump(cache, 0);
}

void kv_cache_want_ahead(KvCache *cache, const KvWant *want) {
    if (!cache->mover) return;
    uint32_t away = 0;
    for (uint32_t layer = want->layer_first;
         layer < want->layer_end && away < cache->options.staging_slots; layer++)
        away += want_layer(cache, want, layer);
    kv_pump(cache, 0);
}

/* Of blocks that the device reads and that are being encoded, which take up room; false when there were none. */
static bool end_pins(KvCache *cache) {
    bool read = kv_finish_reading(cache, KV_ALL_LAYERS);
    return kv_finish_encoding(cache, KV_ALL_LAYERS) || read;
}

/* A block, or a pack that begins with it. */
Status kv_take_block(KvCache *cache, uint32_t slot_index, uint32_t layer, uint32_t ordinal,
                     const Codec *codec, BlockId *out) {
    KvSlot *slot = &cache->slots[slot_index];
    BlockIdentity identity = {
        .words = {cache->options.model_fingerprint ^ cache->run_id, slot->sequence_id, layer,
                  ordinal ^ (codec ? hash_xxh3(codec->name, strlen(codec->name), 0) : 0)}};
    uint64_t stream = (uint64_t)slot_index * cache->options.layer_count + layer;
    for (;;) {
        Status status = tier_manager_take(cache->manager, &identity, stream, ordinal, out);
        if (status == STATUS_NO_SPACE && end_pins(cache)) continue;
        if (status != STATUS_AGAIN) return status;
        kv_stall(cache, TIER_DEVICE);
    }
}

Status kv_hold_block(KvCache *cache, BlockId id) {
    for (;;) {
        uint32_t device_slot;
        Status status = tier_manager_hold(cache->manager, id, &device_slot);
        if (status == STATUS_NO_SPACE && end_pins(cache)) continue;
        if (status != STATUS_AGAIN) return status;
        kv_stall(cache, tier_manager_tier(cache->manager, id)); /* on the device: for room */
    }
}

/* Holds the block that the sequence's new tokens go on with in this layer, and takes those that they need beyond it. A block that is
 * lost, or no room because a tier went away under running sequences, costs this sequence its blocks: it is computed
 * again when there is room. */
static Status grow(KvCache *cache, const BatchSequence *sequence, uint32_t layer) {
    KvSlot *slot = &cache->slots[sequence->slot];
    uint32_t block_tokens = cache->options.layout.shape.block_tokens;
    uint32_t first = sequence->position_first / block_tokens;
    uint32_t wanted =
        (uint32_t)divide_up(sequence->position_first + sequence->row_count, block_tokens);
    Status status = STATUS_OK;
    if (!slot->lost && fills_on(cache, sequence))
        status = kv_hold_block(cache, kv_layer_ids(slot, layer)[first]);
    while (!slot->lost && status == STATUS_OK && slot->block_counts[layer] < wanted) {
        uint32_t ordinal = slot->block_counts[layer];
        status = kv_take_block(cache, sequence->slot, layer, ordinal, NULL,
                               kv_layer_ids(slot, layer) + ordinal);
        slot->block_counts[layer] += status == STATUS_OK;
    }
    if (status != STATUS_NO_SPACE && status != STATUS_IO) return status;
    slot->lost = true;
    return STATUS_OK;
}

static uint8_t *row_block(const KvCache *cache, const KvSlot *slot, uint32_t layer,
                          uint32_t ordinal) {
    BlockId id = kv_layer_ids(slot, layer)[ordinal];
    return kv_payload(cache, tier_manager_device_slot(cache->manager, id));
}

static void place_rows(KvCache *cache, const BatchSequence *sequence, uint32_t layer) {
    const KvSlot *slot = &cache->slots[sequence->slot];
    uint32_t block_tokens = cache->options.layout.shape.block_tokens;
    for (uint32_t r = 0; r < sequence->row_count; r++) {
        uint32_t position = sequence->position_first + r;
        cache->row_blocks[sequence->row_first + r] =
            slot->lost ? cache->void_block : row_block(cache, slot, layer, position / block_tokens);
        cache->row_slots[sequence->row_first + r] = position % block_tokens;
    }
}

Status kv_cache_store(KvCache *cache, const Kernels *kernels, const KernelContext *context,
                      const Batch *batch, uint32_t layer_index, const KvRows *rows) {
    CHECK(batch->row_count <= cache->options.row_count_max);
    kv_finish_encoding(cache, layer_index);
    for (uint32_t s = 0; s < batch->sequence_count; s++)
        TRY(grow(cache, &batch->sequences[s], layer_index));
    for (uint32_t s = 0; s < batch->sequence_count; s++)
        place_rows(cache, &batch->sequences[s], layer_index);
    KvStoreArgs args = {.shape = cache->options.layout.shape,
                        .k = rows->k,
                        .v = rows->v,
                        .k_stride = rows->k_stride,
                        .v_stride = rows->v_stride,
                        .row_count = batch->row_count,
                        .blocks = cache->row_blocks,
                        .block_slots = cache->row_slots};
    kernels->kv_store(context, &args);
    kv_pump(cache, 0);
    return STATUS_OK;
}

static void seal_sequence(KvCache *cache, const BatchSequence *sequence, uint32_t layer) {
    uint32_t block_tokens = cache->options.layout.shape.block_tokens;
    const KvSlot *slot = &cache->slots[sequence->slot];
    const BlockId *ids = kv_layer_ids(slot, layer);
    uint32_t full_now = (sequence->position_first + sequence->row_count) / block_tokens;
    for (uint32_t ordinal = sequence->position_first / block_tokens;
         ordinal < slot->block_counts[layer]; ordinal++)
        if (ordinal < full_now && !slot->lost)
            tier_manager_seal(cache->manager, ids[ordinal]);
        else
            tier_manager_let_go(cache->manager, ids[ordinal]);
}

Status kv_cache_seal(KvCache *cache, const Batch *batch, uint32_t layer_index) {
    for (uint32_t s = 0; s < batch->sequence_count; s++)
        seal_sequence(cache, &batch->sequences[s], layer_index);
    for (uint32_t s = 0; s < batch->sequence_count && cache->options.layout.codec; s++)
        TRY(kv_pack_cold(cache, &batch->sequences[s], layer_index));
    TRY(kv_cool(cache, batch, layer_index));
    kv_pump(cache, 0);
    return STATUS_OK;
}

void kv_cache_end_layers(KvCache *cache) {
    if (kv_finish_reading(cache, KV_ALL_LAYERS)) kv_pump(cache, 0);
}

Status kv_payload_view(KvCache *cache, const void *payload, const void **out) {
    Device *device = cache->options.device;
    *out = cache->bounce ? cache->bounce : payload;
    if (!cache->bounce) return STATUS_OK;
    TRY(device->copy(device, cache->options.context->stream, cache->bounce, payload,
                     cache->options.layout.payload_bytes));
    return device->stream_wait(device, cache->options.context->stream);
}

/* The i-th of a sequence of words (SplitMix64): a block takes a fraction of the time that its copy to a GPU does. */
static uint64_t synthetic_word(uint64_t key, uint64_t i) {
    uint64_t word = key + (i + 1) * 0x9e3779b97f4a7c15;
    word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9;
    word = (word ^ word >> 27) * 0x94d049bb133111eb;
    return word ^ word >> 31;
}

/* Values of magnitude 1/4 to 1/2 and either sign. */
static Status fill_block(const KvCache *cache, const KvSlot *slot, uint32_t layer,
                         uint32_t ordinal) {
    Device *device = cache->options.device;
    uint64_t block_bytes = kv_block_bytes(&cache->options.layout.shape);
    Random random = {.key = slot->sequence_id, .stream = (uint64_t)layer << 32 | ordinal};
    uint64_t key = random_u64(&random);
    uint8_t *block = row_block(cache, slot, layer, ordinal);
    uint8_t *bytes = cache->bounce ? cache->bounce : block;
    for (uint64_t i = 0; i < block_bytes / sizeof(uint64_t); i++) {
        uint64_t word = (synthetic_word(key, i) & 0x83ff83ff83ff83ff) | 0x3400340034003400;
        memcpy(bytes + i * sizeof word, &word, sizeof word);
    }
    if (bytes == block) return STATUS_OK;
    TRY(device->copy(device, cache->options.context->stream, block, bytes, block_bytes));
    return device->stream_wait(device, cache->options.context->stream);
}

/* A layer at a time, as a prompt that is new: its packs are made in a row, and lie so. */
Status kv_cache_fill(KvCache *cache, uint32_t slot_index, uint32_t token_count) {
    const KvSlot *slot = kv_slot_at(cache, slot_index);
    uint32_t block_tokens = cache->options.layout.shape.block_tokens;
    CHECK(slot->token_count == 0);
    kv_cache_extend(cache, slot_index, token_count);
    for (uint32_t layer = 0; layer < cache->options.layer_count; layer++)
        for (uint32_t first = 0; first < token_count; first += block_tokens) {
            uint32_t left = token_count - first;
            const BatchSequence sequence = {.slot = slot_index,
                                            .row_count = left < block_tokens ? left : block_tokens,
                                            .position_first = first};
            const Batch batch = {.sequences = &sequence, .sequence_count = 1};
            kv_finish_encoding(cache, layer);
            TRY(grow(cache, &sequence, layer));
            if (!slot->lost) TRY(fill_block(cache, slot, layer, first / block_tokens));
            TRY(kv_cache_seal(cache, &batch, layer));
        }
    return STATUS_OK;
}

void kv_cache_park(KvCache *cache, uint32_t slot_index) {
    const KvSlot *slot = kv_slot_at(cache, slot_index);
    CHECK(slot->open);
    kv_finish_encoding(cache, KV_ALL_LAYERS);
    for (uint32_t layer = 0; layer < cache->options.layer_count; layer++)
        for (uint32_t i = 0; i < slot->block_counts[layer]; i++)
            tier_manager_park(cache->manager, kv_layer_ids(slot, layer)[i]);
    kv_pump(cache, 0);
}

void kv_cache_settle(KvCache *cache) {
    kv_finish_encoding(cache, KV_ALL_LAYERS);
    for (int i = 0; i < SETTLE_WAITS && tier_manager_in_flight(cache->manager) > 0; i++)
        kv_pump(cache, stall_wait_ns);
}

KvCacheStats kv_cache_stats(const KvCache *cache) {
    KvCacheStats stats = {.manager = tier_manager_stats(cache->manager),
                          .slot_bytes = cache->options.layout.slot_bytes,
                          .raw_bytes = cache->raw_bytes,
                          .stored_bytes = cache->stored_bytes,
                          .packs = cache->packs,
                          .host_blocks = cache->host_blocks,
                          .host_bytes = cache->host_bytes,
                          .seconds_encode = cache->encoder ? kv_encoder_seconds(cache->encoder) : 0,
                          .seconds_encode_waited =
                              cache->encoder ? kv_encoder_seconds_waited(cache->encoder) : 0,
                          .places = tier_manager_places(cache->manager)};
    if (cache->mover) stats.mover = mover_stats(cache->mover);
    for (uint32_t form = 0; form < TIER_COUNT && cache->mover; form++)
        stats.moved_bytes[form] = mover_moved_bytes(cache->mover, form);
    for (int tier = 0; tier < TIER_COUNT; tier++)
        stats.seconds_stalled[tier] = cache->seconds_stalled[tier];
    return stats;
}

void kv_cache_count_blocks(const KvCache *cache, TierBlocks out[TIER_COUNT]) {
    tier_manager_count_blocks(cache->manager, out);
}

const RingFacts *kv_cache_ring(const KvCache *cache) {
    return cache->mover ? mover_ring_facts(cache->mover) : NULL;
}
