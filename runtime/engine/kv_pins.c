/* Blocks that attention reads, and when they may move again. On a device kernels run behind the host's back: a block that they read
 * stays where it is until an event behind them has passed; so does one that K and V were stored to, for it is attended next. The host
 * waits for nothing else while a layer is attended: as kernels read the blocks of one set the other is filled. */

#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/base/monotonic.h"
#include "runtime/engine/kv_cache_parts.h"

static Status open_set(Device *device, KvPins *pins) {
    TRY(memory_take((void **)&pins->pointers, KV_PINNED_MAX, sizeof(void *), "pinned blocks"));
    TRY(memory_take((void **)&pins->codecs, KV_PINNED_MAX, sizeof(Codec *), "pinned blocks"));
    TRY(memory_take((void **)&pins->in_host, KV_PINNED_MAX, sizeof(bool), "pinned blocks"));
    TRY(memory_take((void **)&pins->ids, KV_PINNED_MAX, sizeof(BlockId), "pinned blocks"));
    return device->event_create(device, &pins->read);
}

Status kv_pins_open(KvCache *cache) {
    Device *device = cache->options.device;
    for (int i = 0; i < KV_PIN_SETS; i++)
        TRY(open_set(device, &cache->pin_sets[i]));
    return STATUS_OK;
}

void kv_pins_close(KvCache *cache) {
    Device *device = cache->options.device;
    for (int i = 0; i < KV_PIN_SETS; i++) {
        KvPins *pins = &cache->pin_sets[i];
        free(pins->pointers);
        free(pins->codecs);
        free(pins->in_host);
        free(pins->ids);
        if (pins->read) device->event_destroy(device, pins->read);
    }
}

/* A pack is pinned once for all its blocks of a group. */
static void unpin(KvCache *cache, BlockId id) {
    if (id != BLOCK_NONE) tier_manager_unpin(cache->manager, id);
}

static void let_go(KvCache *cache, KvPins *pins) {
    for (uint32_t i = 0; i < pins->count; i++)
        unpin(cache, pins->ids[i]);
    if (pins->reading) {
        double now = monotonic_seconds();
        kv_staging_let_go(&cache->staging, now);
        kv_staging_work(&cache->staging, now); /* what comes after on the stream */
    }
    pins->count = 0;
    pins->reading = false;
}

static Status wait_and_let_go(KvCache *cache, KvPins *pins) {
    Device *device = cache->options.device;
    Status status = pins->reading ? device->event_wait(device, pins->read) : STATUS_OK;
    let_go(cache, pins);
    return status;
}

bool kv_is_reading(const KvCache *cache) {
    for (int i = 0; i < KV_PIN_SETS; i++)
        if (cache->pin_sets[i].reading) return true;
    return false;
}

bool kv_nothing_is_pinned(const KvCache *cache) {
    uint32_t count = 0;
    for (int i = 0; i < KV_PIN_SETS; i++)
        count += cache->pin_sets[i].count + cache->pin_sets[i].partial_count;
    return count == 0;
}

bool kv_let_go_read(KvCache *cache) {
    Device *device = cache->options.device;
    bool any = false;
    for (int i = 0; i < KV_PIN_SETS; i++) {
        KvPins *pins = &cache->pin_sets[i];
        if (!pins->reading || !device->event_done(device, pins->read)) continue;
        let_go(cache, pins);
        any = true;
    }
    return any;
}

/* Without lower tiers nothing moves: what is given up there is only used by later work on the same stream. */
static Status note_reading(KvCache *cache, KvPins *pins, uint32_t layer) {
    Device *device = cache->options.device;
    if (!cache->mover || pins->count == 0) return STATUS_OK;
    pins->reading = true;
    pins->layer = layer;
    return device->event_record(device, pins->read, cache->options.context->stream);
}

/* The group that is not whole goes on in the next set, with its pins. */
static void hand_over(KvPins *from, KvPins *to) {
    uint32_t count = from->partial_count;
    memcpy(to->pointers, from->pointers + from->count, count * sizeof *to->pointers);
    memcpy(to->codecs, from->codecs + from->count, count * sizeof *to->codecs);
    memcpy(to->in_host, from->in_host + from->count, count * sizeof *to->in_host);
    memcpy(to->ids, from->ids + from->count, count * sizeof *to->ids);
    to->partial_count = count;
    from->partial_count = 0;
}

Status kv_pins_turn(KvCache *cache, uint32_t layer) {
    KvPins *used = kv_pins(cache);
    TRY(note_reading(cache, used, layer));
    cache->pin_set = (cache->pin_set + 1) % KV_PIN_SETS;
    KvPins *next = kv_pins(cache);
    TRY(wait_and_let_go(cache, next));
    hand_over(used, next);
    if (!used->reading) let_go(cache, used);
    kv_let_go_read(cache);
    return STATUS_OK;
}

void kv_pins_drop_partial(KvCache *cache) {
    KvPins *pins = kv_pins(cache);
    for (uint32_t i = 0; i < pins->partial_count; i++)
        unpin(cache, pins->ids[pins->count + i]);
    pins->partial_count = 0;
}

/* A device that broke says so again when it is asked for the next thing. */
bool kv_finish_reading(KvCache *cache, uint32_t layer) {
    bool any = false;
    error_capture_begin();
    for (int i = 0; i < KV_PIN_SETS; i++) {
        KvPins *pins = &cache->pin_sets[i];
        if (!pins->reading || (layer != KV_ALL_LAYERS && layer != pins->layer)) continue;
        (void)wait_and_let_go(cache, pins);
        any = true;
    }
    error_capture_end();
    return any;
}
