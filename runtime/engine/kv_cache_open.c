/* Opening and closing: all memory of the cache, its tier manager, its mover. */

#include <stdlib.h>
#include <sys/random.h>

#include "runtime/base/arena.h"
#include "runtime/base/bytes.h"
#include "runtime/base/monotonic.h"
#include "runtime/engine/kv_budget.h"
#include "runtime/engine/kv_cache_parts.h"

enum { FAILURES_TO_OFF = 3, CORRUPT_TO_OFF = 16 }; /* failures: a minute */

#define SECOND_NS 1000000000ull

static uint32_t record_count(const KvCacheOptions *options) {
    uint64_t count = 0;
    for (int tier = 0; tier < TIER_COUNT; tier++)
        count += options->slots[tier];
    CHECK(count < BLOCK_NONE);
    return (uint32_t)count;
}

static bool has_lower_tiers(const KvCacheOptions *options) {
    return options->slots[TIER_HOST] > 0 || options->slots[TIER_NVME] > 0;
}

/* Every block in this step and in the next: a pack once in each group that it reaches into, what fills or grows once more. A queue
 * that is too short leaves the last layers to be read on demand. */
static uint32_t want_count_max(const KvCacheOptions *options) {
    uint64_t streams = (uint64_t)options->layer_count * options->slot_count, groups = 1;
    if (options->layout.codec)
        groups += divide_up(options->layout.pack_blocks - 1, ATTEND_GROUP_BLOCKS);
    uint64_t count = 2 * (groups * record_count(options) + 2 * streams);
    CHECK(count < BLOCK_NONE);
    return (uint32_t)count;
}

static Status create_manager(KvCache *cache) {
    const KvCacheOptions *options = &cache->options;
    bool spills = has_lower_tiers(options);
    TierManagerOptions manager = {.placement = options->placement,
                                  .trace = options->trace,
                                  .trace_count = options->trace_count,
                                  .record = options->record,
                                  .record_user = options->record_user,
                                  .staging_slots = options->staging_slots,
                                  .stream_groups = options->layer_count,
                                  .transfers_max = spills ? KV_TRANSFERS_MAX : 1,
                                  .writes_max = spills ? KV_TRANSFERS_MAX / 2 : 1,
                                  .want_count_max = want_count_max(options),
                                  .staging_min = ATTEND_GROUP_BLOCKS,
                                  .failures_to_off = FAILURES_TO_OFF,
                                  .failure_window_ns = 60 * SECOND_NS,
                                  .corrupt_to_off =
                                      options->corrupt_max ? options->corrupt_max : CORRUPT_TO_OFF,
                                  .grow_pause_ns = 30 * SECOND_NS};
    if (kv_layout_encodes_on_spill(&options->layout)) manager.writes_max = KV_CODE_BUFFERS / 2;
    for (int tier = 0; tier < TIER_COUNT; tier++) {
        manager.slot_count[tier] = options->slots[tier];
        manager.encodes[tier] = options->layout.tier_codecs[tier] != NULL;
    }
    return tier_manager_create(&cache->manager, &manager);
}

static void encode_on_spill(const KvCache *cache, Tier tier, const uint8_t *payload,
                            uint8_t *out_payload) {
    const KvLayout *layout = &cache->options.layout;
    CHECK(cache->options.kernels->kv_encode(layout->tier_codecs[tier], &layout->shape, payload,
                                            out_payload) == STATUS_OK); /* kv_cool.c has looked */
}

static void encode_for_host(void *user, const uint8_t *payload, uint8_t *out_payload) {
    encode_on_spill(user, TIER_HOST, payload, out_payload);
}

static void encode_for_nvme(void *user, const uint8_t *payload, uint8_t *out_payload) {
    encode_on_spill(user, TIER_NVME, payload, out_payload);
}

static Status create_device_slots(KvCache *cache) {
    const KvCacheOptions *options = &cache->options;
    const DeviceSlotsOptions slots = {.device = options->device,
                                      .slots = cache->memory[TIER_DEVICE],
                                      .slot_bytes = options->layout.slot_bytes,
                                      .buffer_count = options->bounce_slots};
    return device_slots_create(&cache->device_slots, &slots);
}

static Status create_mover(KvCache *cache) {
    static void (*const encode_for[TIER_COUNT])(void *user, const uint8_t *payload,
                                                uint8_t *out_payload) = {
        [TIER_HOST] = encode_for_host, [TIER_NVME] = encode_for_nvme};
    const KvCacheOptions *options = &cache->options;
    if (!has_lower_tiers(options)) return STATUS_OK;
    MoverOptions mover = {.slot_bytes = options->layout.slot_bytes,
                          .payload_bytes = (uint32_t)options->layout.payload_bytes,
                          .ring = options->ring,
                          .directories = options->directories,
                          .io_timeout_ns = options->io_timeout_ns,
                          .corrupt_is_fatal = options->corrupt_is_fatal,
                          .transfers_max = KV_TRANSFERS_MAX};
    if (!options->device->host_addressable) TRY(create_device_slots(cache));
    mover.device_slots = cache->device_slots;
    mover.ring.staging = cache->memory[TIER_DEVICE];
    mover.ring.staging_bytes = options->slots[TIER_DEVICE] * cache->options.layout.slot_bytes;
    if (cache->device_slots)
        mover.ring.staging = device_slots_buffers(cache->device_slots, &mover.ring.staging_bytes);
    mover.ring.queue_count = KV_TRANSFERS_MAX;
    if (cache->code_buffers) {
        mover.code_buffers = cache->code_buffers;
        mover.code_buffer_count = KV_CODE_BUFFERS;
    }
    for (int tier = 0; tier < TIER_COUNT; tier++) {
        mover.slots[tier] = cache->memory[tier];
        if (options->layout.tier_codecs[tier])
            mover.forms[tier] =
                (MoverForm){(uint32_t)codec_block_bytes(options->layout.tier_codecs[tier],
                                                        &options->layout.shape),
                            encode_for[tier], cache};
    }
    return mover_create(&cache->mover, &mover);
}

/* One a sequence, unless groups are cut where they change from one memory to the other. */
static Status take_runs(KvCache *cache) {
    const KvCacheOptions *options = &cache->options;
    uint32_t count = options->attends_host ? KV_PINNED_MAX : options->slot_count;
    TRY(memory_take((void **)&cache->runs, count, sizeof(AttendRun), "attention runs"));
    if (!options->attends_host) return STATUS_OK;
    TRY(memory_take((void **)&cache->host_runs, count, sizeof(AttendRun), "attention runs"));
    return memory_take((void **)&cache->verified, options->slots[TIER_HOST], sizeof(uint32_t),
                       "host blocks");
}

static Status take_memory(KvCache *cache) {
    const KvCacheOptions *options = &cache->options;
    static const MemoryPlace places[] = {[TIER_DEVICE] = MEMORY_DEVICE, [TIER_HOST] = MEMORY_HOST};
    for (int tier = TIER_DEVICE; tier <= TIER_HOST; tier++)
        if (options->slots[tier] > 0)
            TRY(options->device->memory_take(options->device, places[tier],
                                             options->slots[tier] *
                                                 cache->options.layout.slot_bytes,
                                             "KV blocks", (void **)&cache->memory[tier]));
    if (options->layout.tier_codecs[TIER_NVME])
        TRY(options->device->memory_take(options->device, MEMORY_HOST,
                                         KV_CODE_BUFFERS * options->layout.slot_bytes,
                                         "blocks on their way", (void **)&cache->code_buffers));
    TRY(memory_take((void **)&cache->slots, options->slot_count, sizeof(KvSlot), "KV slots"));
    TRY(take_runs(cache));
    TRY(kv_pins_open(cache));
    TRY(kv_cool_open(cache));
    Device *device = options->device;
    uint64_t slot_bytes = options->layout.slot_bytes;
    TRY(device->memory_take(device, MEMORY_DEVICE, slot_bytes, "void block",
                            (void **)&cache->void_block));
    if (!device->host_addressable)
        TRY(device->memory_take(device, MEMORY_HOST, slot_bytes, "a block on its way",
                                (void **)&cache->bounce));
    TRY(memory_take((void **)&cache->row_blocks, options->row_count_max, sizeof(void *),
                    "row blocks"));
    return memory_take((void **)&cache->row_slots, options->row_count_max, sizeof(uint32_t),
                       "row slots");
}

static uint32_t staging_least(const KvCacheOptions *options) {
    uint32_t least = kv_budget_staging_least(options->ring.depth);
    return least < options->staging_slots ? least : options->staging_slots;
}

static Status create_encoder(KvCache *cache) {
    const KvCacheOptions *options = &cache->options;
    if (options->device->host_addressable)
        return kv_encoder_create(&cache->encoder, options->kernels, &options->layout);
    return kv_device_encoder_create(&cache->device_encoder, options->device, options->kernels,
                                    options->context, &options->layout);
}

Status kv_cache_create(KvCache **out, const KvCacheOptions *options) {
    CHECK(is_power_of_two(options->layout.shape.block_tokens) &&
          options->layout.pack_blocks <= KV_PACK_BLOCKS_MAX);
    CHECK(!options->attends_host || options->slots[TIER_HOST] > 0);
    void *memory;
    TRY(memory_take(&memory, 1, sizeof(KvCache), "KV cache"));
    KvCache *cache = memory;
    cache->options = *options;
    cache->staging = (KvStaging){.slot_bytes = cache->options.layout.slot_bytes,
                                 .slots_least = staging_least(options),
                                 .slots_most = options->staging_slots};
    Status status = take_memory(cache);
    if (status == STATUS_OK &&
        getrandom(&cache->run_id, sizeof cache->run_id, 0) != sizeof cache->run_id)
        cache->run_id = monotonic_now_ns(&monotonic_system);
    if (status == STATUS_OK) status = create_manager(cache);
    if (status == STATUS_OK) status = create_mover(cache);
    if (status == STATUS_OK && options->layout.codec) status = create_encoder(cache);
    if (status != STATUS_OK) {
        kv_cache_destroy(cache);
        return status;
    }
    *out = cache;
    return STATUS_OK;
}

void kv_cache_destroy(KvCache *cache) {
    if (!cache) return;
    kv_finish_reading(cache, KV_ALL_LAYERS);
    kv_finish_encoding(cache, KV_ALL_LAYERS);
    kv_encoder_destroy(cache->encoder);
    kv_device_encoder_destroy(cache->device_encoder);
    /* first: it may still write to slots, and where I/O is stuck for longer: those slots are left to the system */
    bool quiet = mover_destroy(cache->mover);
    if (quiet) device_slots_destroy(cache->device_slots);
    for (uint32_t i = 0; cache->slots && i < cache->options.slot_count; i++) {
        free(cache->slots[i].ids);
        free(cache->slots[i].block_counts);
    }
    tier_manager_destroy(cache->manager);
    for (int tier = TIER_DEVICE; tier <= TIER_HOST; tier++)
        if (cache->memory[tier] && quiet)
            cache->options.device->memory_give(
                cache->options.device, tier == TIER_DEVICE ? MEMORY_DEVICE : MEMORY_HOST,
                cache->memory[tier], cache->options.slots[tier] * cache->options.layout.slot_bytes);
    if (cache->code_buffers && quiet)
        cache->options.device->memory_give(cache->options.device, MEMORY_HOST, cache->code_buffers,
                                           KV_CODE_BUFFERS * cache->options.layout.slot_bytes);
    free(cache->slots);
    free(cache->runs);
    free(cache->host_runs);
    free(cache->verified);
    kv_pins_close(cache);
    kv_cool_close(cache);
    Device *device = cache->options.device;
    device->memory_give(device, MEMORY_DEVICE, cache->void_block, cache->options.layout.slot_bytes);
    device->memory_give(device, MEMORY_HOST, cache->bounce, cache->options.layout.slot_bytes);
    free(cache->row_blocks);
    free(cache->row_slots);
    free(cache);
}
