/* Cold blocks that tiers with a codec of their own encode on the way down. No codec takes a number that is not finite, and the tier
 * thread may not meet one: a kernel looks at cold blocks first, in turn with the step's others, and the host reads its verdicts when they
 * are in. Until then a block is pinned, so that what was looked at is what lies there; a block that goes down before it is cold, or that
 * is refused, stays as it is, which loses nothing. */

#include "runtime/engine/kv_cache_parts.h"

enum { REFUSED_BYTES = KV_COOL_JOBS_MAX * KV_CHECK_BLOCKS_MAX * sizeof(uint32_t) };

Status kv_cool_open(KvCache *cache) {
    Device *device = cache->options.device;
    if (!kv_layout_encodes_on_spill(&cache->options.layout)) return STATUS_OK;
    for (uint32_t i = 0; i < KV_COOL_JOBS_MAX; i++)
        TRY(device->event_create(device, &cache->cooler.jobs[i].passed));
    return device->memory_take(device, MEMORY_HOST, REFUSED_BYTES, "KV verdicts",
                               (void **)&cache->cooler.refused);
}

void kv_cool_close(KvCache *cache) {
    Device *device = cache->options.device;
    for (uint32_t i = 0; i < KV_COOL_JOBS_MAX; i++)
        if (cache->cooler.jobs[i].passed)
            device->event_destroy(device, cache->cooler.jobs[i].passed);
    device->memory_give(device, MEMORY_HOST, cache->cooler.refused, REFUSED_BYTES);
}

static uint32_t *verdicts(const KvCooler *cooler, const KvCoolJob *job) {
    return cooler->refused + (job - cooler->jobs) * KV_CHECK_BLOCKS_MAX;
}

/* The first job's verdicts. A device that broke gives none, and says so again when it is asked for the next thing. */
static void end_job(KvCache *cache) {
    KvCooler *cooler = &cache->cooler;
    KvCoolJob *job = &cooler->jobs[cooler->first];
    Device *device = cache->options.device;
    error_capture_begin();
    bool known = job->begun == STATUS_OK && device->event_wait(device, job->passed) == STATUS_OK;
    error_capture_end();
    const uint32_t *refused = verdicts(cooler, job);
    for (uint32_t i = 0; i < job->count; i++) {
        if (known && !refused[i]) tier_manager_cool(cache->manager, job->ids[i]);
        tier_manager_unpin(cache->manager, job->ids[i]);
    }
    cooler->first = (cooler->first + 1) % KV_COOL_JOBS_MAX;
    cooler->count--;
}

bool kv_finish_cooling(KvCache *cache) {
    bool any = cache->cooler.count > 0;
    while (cache->cooler.count > 0)
        end_job(cache);
    return any;
}

static void end_passed_jobs(KvCache *cache) {
    KvCooler *cooler = &cache->cooler;
    Device *device = cache->options.device;
    while (cooler->count > 0 && device->event_done(device, cooler->jobs[cooler->first].passed))
        end_job(cache);
}

static Status put_on_stream(KvCache *cache, const KvCoolJob *job, const void *const *blocks) {
    const KvCacheOptions *options = &cache->options;
    const KvCheckArgs args = {.shape = options->layout.shape,
                              .block_count = job->count,
                              .blocks = blocks,
                              .refused = verdicts(&cache->cooler, job)};
    TRY(options->kernels->kv_check_blocks(options->context, &args));
    return options->device->event_record(options->device, job->passed, options->context->stream);
}

/* A job that is filled with blocks, wherever in the batch they are. */
typedef struct Look {
    KvCoolJob *job; /* NULL: none is begun */
    const void *blocks[KV_CHECK_BLOCKS_MAX];
} Look;

static Status submit(KvCache *cache, Look *look) {
    KvCoolJob *job = look->job;
    if (!job) return STATUS_OK;
    look->job = NULL;
    cache->cooler.count++;
    job->begun = put_on_stream(cache, job, look->blocks);
    return job->begun;
}

static KvCoolJob *begin_job(KvCache *cache) {
    KvCooler *cooler = &cache->cooler;
    if (cooler->count == KV_COOL_JOBS_MAX) end_job(cache); /* the one that ran the longest ago */
    KvCoolJob *job = &cooler->jobs[(cooler->first + cooler->count) % KV_COOL_JOBS_MAX];
    job->count = 0;
    return job;
}

static Status add_block(KvCache *cache, Look *look, BlockId id) {
    uint32_t slot;
    if (tier_manager_device_slot(cache->manager, id) == SLOT_NONE ||
        tier_manager_pin(cache->manager, id, &slot) != STATUS_OK)
        return STATUS_OK;
    if (!look->job) look->job = begin_job(cache);
    look->blocks[look->job->count] = kv_payload(cache, slot);
    look->job->ids[look->job->count++] = id;
    return look->job->count == KV_CHECK_BLOCKS_MAX ? submit(cache, look) : STATUS_OK;
}

Status kv_cool(KvCache *cache, const Batch *batch, uint32_t layer) {
    const KvLayout *layout = &cache->options.layout;
    Look look = {.job = NULL};
    if (!kv_layout_encodes_on_spill(layout)) return STATUS_OK;
    for (uint32_t s = 0; s < batch->sequence_count; s++) {
        const BatchSequence *sequence = &batch->sequences[s];
        KvSlot *slot = kv_slot_at(cache, sequence->slot);
        uint32_t token_count = sequence->position_first + sequence->row_count;
        if (slot->lost || token_count < slot->prompt_count) continue;
        uint32_t cold = kv_layout_cold_blocks(layout, token_count);
        for (uint32_t *next = &slot->begun_counts[layer]; *next < cold; ++*next)
            TRY(add_block(cache, &look, kv_layer_ids(slot, layer)[*next]));
    }
    TRY(submit(cache, &look));
    end_passed_jobs(cache);
    return STATUS_OK;
}
