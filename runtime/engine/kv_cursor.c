/* The walk over the blocks that a layer's rows attend to: pinned as they are at hand, and made into runs of one memory each. */

#include "runtime/base/monotonic.h"
#include "runtime/engine/kv_cache_parts.h"

static const uint64_t reading_wait_ns = 50000; /* as kernels run, which say nothing when they end */

/* kv_stall as blocks are collected for attention: what arrives while kernels still read others is given to them at once. */
static void stall_or_read(KvCache *cache, Tier cause) {
    if (kv_let_go_read(cache))
        kv_pump(cache, 0);
    else if (kv_is_reading(cache) && tier_manager_in_flight(cache->manager) > 0)
        kv_pump(cache, reading_wait_ns);
    else
        kv_stall(cache, cause);
}

KvCursor kv_cache_begin(KvCache *cache, const Batch *batch, uint32_t layer_index, uint32_t window) {
    return (KvCursor){.cache = cache,
                      .batch = batch,
                      .layer_index = layer_index,
                      .window = window,
                      .host_rows = kv_host_rows(cache, batch)};
}

/* The tier that the block comes from which pin_group waits for. */
static Tier waited_tier(const KvCursor *cursor, const KvSlot *slot) {
    const BlockId *ids = slot->ids + (uint64_t)cursor->layer_index * slot->block_capacity;
    return tier_manager_tier(cursor->cache->manager,
                             ids[cursor->ordinal + kv_pins(cursor->cache)->partial_count]);
}

/* Bytes that nobody has read since they were written; the generation names them. */
static bool is_right_in_host(KvCache *cache, BlockId id, uint32_t host_slot) {
    const KvLayout *layout = &cache->options.layout;
    const Block *block = tier_manager_block(cache->manager, id);
    if (cache->verified[host_slot] == block->generation) return true;
    const Codec *codec = layout->tier_codecs[block->form];
    uint64_t bytes = codec ? codec_block_bytes(codec, &layout->shape) : layout->payload_bytes;
    SpillExpectation expected = {.identity = &block->identity,
                                 .form = block->form,
                                 .payload_bytes = (uint32_t)bytes,
                                 .slot = host_slot,
                                 .generation = block->generation,
                                 .ordinal = block->ordinal};
    if (!spill_header_matches(kv_slot_memory(cache, TIER_HOST, host_slot), &expected)) return false;
    cache->verified[host_slot] = block->generation;
    return true;
}

/* STATUS_NOT_FOUND: to be pinned on the device. */
static Status pin_in_host(KvCache *cache, BlockId id, const uint8_t **out_payload) {
    uint32_t host_slot;
    TRY(tier_manager_pin_host(cache->manager, id, &host_slot));
    if (!is_right_in_host(cache, id, host_slot)) {
        tier_manager_unpin(cache->manager, id);
        return STATUS_NOT_FOUND;
    }
    *out_payload = kv_slot_memory(cache, TIER_HOST, host_slot) + sizeof(SpillHeader);
    return STATUS_OK;
}

/* The block's payload, pinned for attention: in host memory, where it may stay there and does, else on the device. */
static Status pin_block(KvCache *cache, BlockId id, bool stay_in_host, const uint8_t **out_payload,
                        bool *out_in_host) {
    uint32_t device_slot;
    *out_in_host = stay_in_host && pin_in_host(cache, id, out_payload) == STATUS_OK;
    if (*out_in_host) return STATUS_OK;
    TRY(tier_manager_pin(cache->manager, id, &device_slot));
    *out_payload = kv_payload(cache, device_slot);
    return STATUS_OK;
}

/* What is attended in host memory: a block a time, but bytes once where those of a pack follow each other. */
static void note_in_host(KvCache *cache, const BlockId *ids, uint32_t ordinal) {
    uint32_t form = tier_manager_block(cache->manager, ids[ordinal])->form;
    cache->host_blocks++;
    if (ordinal == 0 || ids[ordinal] != ids[ordinal - 1])
        cache->host_bytes += mover_moved_bytes(cache->mover, form);
}

/* Pins the next group of the cursor's sequence as far as it is at hand; a group that is not whole stays pinned as the
 * partial one. STATUS_AGAIN: more is on its way. */
static Status pin_group(KvCursor *cursor, const KvSlot *slot, uint32_t end) {
    KvCache *cache = cursor->cache;
    KvPins *pins = kv_pins(cache);
    const KvLayout *layout = &cache->options.layout;
    const BlockId *ids = kv_layer_ids(slot, cursor->layer_index);
    uint32_t packed_count = slot->packed_counts[cursor->layer_index];
    while (cursor->ordinal + pins->partial_count < end) {
        uint32_t place = pins->count + pins->partial_count;
        uint32_t ordinal = cursor->ordinal + pins->partial_count;
        bool packed = ordinal < packed_count;
        bool pinned = pins->partial_count > 0 && ids[ordinal] == ids[ordinal - 1];
        if (pinned) {
            pins->pointers[place] =
                (const uint8_t *)pins->pointers[place - 1] + layout->encoded_bytes;
            pins->in_host[place] = pins->in_host[place - 1];
        } else {
            const uint8_t *payload;
            TRY(pin_block(cache, ids[ordinal], cursor->sequence < cursor->host_rows, &payload,
                          &pins->in_host[place]));
            pins->pointers[place] =
                payload + (packed ? ordinal % layout->pack_blocks * layout->encoded_bytes : 0);
        }
        pins->ids[place] = pinned ? BLOCK_NONE : ids[ordinal];
        pins->codecs[place] =
            packed ? layout->codec
                   : layout->tier_codecs[tier_manager_block(cache->manager, ids[ordinal])->form];
        if (pins->in_host[place]) note_in_host(cache, ids, ordinal);
        pins->partial_count++;
    }
    return STATUS_OK;
}

/* Whether blocks from `ordinal` on, whose pointers are `blocks`, go on with the run. One that is a part of a group takes no more, so
 * that which blocks fold together does not depend on what was at hand when. */
static bool run_goes_on(const AttendRun *run, const BatchSequence *sequence, uint32_t ordinal,
                        const void *const *blocks) {
    return run->row_first == sequence->row_first && run->blocks + run->block_count == blocks &&
           run->block_ordinal_first % ATTEND_GROUP_BLOCKS == 0 &&
           ordinal % ATTEND_GROUP_BLOCKS == 0;
}

/* `count` pinned blocks from `place` on, all in one memory. */
static void add_run(KvCursor *cursor, const BatchSequence *sequence, uint32_t place, uint32_t count,
                    KvRuns *io_runs) {
    KvCache *cache = cursor->cache;
    const KvPins *pins = kv_pins(cache);
    bool host = pins->in_host[place];
    AttendRun *runs = host ? cache->host_runs : cache->runs;
    uint32_t *run_count = host ? &io_runs->host_count : &io_runs->device_count;
    const void *const *blocks = pins->pointers + place;
    AttendRun *last = *run_count > 0 ? &runs[*run_count - 1] : NULL;
    if (!last || !run_goes_on(last, sequence, cursor->ordinal, blocks)) {
        last = &runs[(*run_count)++];
        *last = (AttendRun){.row_first = sequence->row_first,
                            .row_count = sequence->row_count,
                            .position_first = sequence->position_first,
                            .block_ordinal_first = cursor->ordinal,
                            .blocks = blocks,
                            .codecs = pins->codecs + place};
    }
    last->block_count += count;
    cursor->ordinal += count;
}

/* The group that is pinned, cut where it changes from one memory to the other. */
static void add_group(KvCursor *cursor, const BatchSequence *sequence, KvRuns *io_runs) {
    KvPins *pins = kv_pins(cursor->cache);
    uint32_t end = pins->count + pins->partial_count;
    for (uint32_t first = pins->count, next; first < end; first = next) {
        for (next = first + 1; next < end && pins->in_host[next] == pins->in_host[first];)
            next++;
        add_run(cursor, sequence, first, next - first, io_runs);
    }
    pins->count = end;
    pins->partial_count = 0;
}

static void next_sequence(KvCursor *cursor) {
    cursor->sequence++;
    cursor->entered = false;
}

/* A lost block: the sequence gives no more runs. What it holds pinned of a group that is not whole is let go. What was stored for it in
 * this layer may be on its way still, and no run will pin those blocks until it has come: so it is waited for, or it would arrive in
 * whatever has their places by then. */
static Status lose_sequence(KvCursor *cursor, KvSlot *slot) {
    Device *device = cursor->cache->options.device;
    kv_pins_drop_partial(cursor->cache);
    slot->lost = true;
    next_sequence(cursor);
    return device->stream_wait(device, cursor->cache->options.context->stream);
}

Status kv_cache_next(KvCursor *cursor, KvRuns *out) {
    KvCache *cache = cursor->cache;
    KvRuns runs = {.device = cache->runs, .host = cache->host_runs};
    TRY(kv_pins_turn(cache, cursor->layer_index));
    const KvPins *pins = kv_pins(cache);
    if (!kv_is_reading(cache)) kv_staging_let_go(&cache->staging, monotonic_seconds());
    kv_pump(cache, 0);
    while (cursor->sequence < cursor->batch->sequence_count) {
        const BatchSequence *sequence = &cursor->batch->sequences[cursor->sequence];
        KvSlot *slot = &cache->slots[sequence->slot];
        uint32_t block_count = slot->block_counts[cursor->layer_index];
        if (!cursor->entered) cursor->ordinal = kv_first_block(cache, sequence, cursor->window);
        cursor->entered = true;
        if (slot->lost || cursor->ordinal >= block_count) {
            next_sequence(cursor);
            continue;
        }
        if (pins->count + ATTEND_GROUP_BLOCKS > KV_PINNED_MAX) break;
        uint32_t end = cursor->ordinal + ATTEND_GROUP_BLOCKS < block_count
                           ? cursor->ordinal + ATTEND_GROUP_BLOCKS
                           : block_count;
        Status status = pin_group(cursor, slot, end);
        if (status == STATUS_OK)
            add_group(cursor, sequence, &runs);
        else if (status == STATUS_IO)
            TRY(lose_sequence(cursor, slot));
        else if (pins->count > 0)
            break;
        else
            stall_or_read(cache, waited_tier(cursor, slot));
    }
    if (!kv_is_reading(cache)) kv_staging_work(&cache->staging, monotonic_seconds());
    *out = runs;
    return cache->corrupt_seen && cache->options.corrupt_is_fatal ? STATUS_DEVICE : STATUS_OK;
}
