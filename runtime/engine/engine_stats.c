/* What the tiers of this rank hold and did, and its sum over ranks: the figures travel with the reports that close a step. */

#include <sys/resource.h>

#include "runtime/base/monotonic.h"
#include "runtime/engine/engine_parts.h"

static const double blocks_interval_s = 0.05;

static void add_moves(EngineMoves *sum, const uint64_t blocks[TIER_COUNT],
                      const uint64_t moved_bytes[TIER_COUNT]) {
    for (int form = 0; form < TIER_COUNT; form++) {
        sum->blocks += blocks[form];
        sum->bytes += blocks[form] * moved_bytes[form];
    }
}

static EngineTierStats tier_stats(const KvCacheStats *cache, Tier tier) {
    const TierStats *slots = &cache->manager.tiers[tier];
    EngineTierStats stats = {.capacity_bytes = slots->slot_count * cache->slot_bytes,
                             .used_bytes = slots->slots_used * cache->slot_bytes,
                             .peak_bytes = slots->slots_peak * cache->slot_bytes,
                             .read_bytes = cache->mover.read_bytes[tier],
                             .written_bytes = cache->mover.written_bytes[tier],
                             .lost_blocks = slots->lost,
                             .hits = slots->hits,
                             .seconds_stalled = cache->seconds_stalled[tier],
                             .off_count = slots->off};
    for (int other = 0; other < TIER_COUNT; other++)
        for (int reason = 0; reason < REASON_COUNT; reason++) {
            const TierStats *from = &cache->manager.tiers[other];
            add_moves(&stats.moves_out[reason], slots->moves[other][reason], cache->moved_bytes);
            add_moves(&stats.moves_in[reason], from->moves[tier][reason], cache->moved_bytes);
        }
    return stats;
}

/* Counting looks at every block, so it is done now and then: it takes a hundredth of the time at most. */
static void count_blocks(Engine *engine) {
    double start = monotonic_seconds();
    if (start < engine->blocks_due_seconds) return;
    kv_cache_count_blocks(engine->cache, engine->blocks);
    double took = monotonic_seconds() - start;
    engine->blocks_due_seconds = start + blocks_interval_s + 100 * took;
}

void engine_note_kv(Engine *engine) {
    EngineStats *stats = &engine->stats;
    KvCacheStats cache = kv_cache_stats(engine->cache);
    count_blocks(engine);
    for (int tier = 0; tier < TIER_COUNT; tier++) {
        stats->tiers[tier] = tier_stats(&cache, (Tier)tier);
        stats->tiers[tier].filling_blocks = engine->blocks[tier].filling;
        stats->tiers[tier].sealed_blocks = engine->blocks[tier].sealed;
        stats->seconds_stalled[tier] = cache.seconds_stalled[tier];
    }
    stats->blocks_filling = cache.manager.filling;
    stats->blocks_sealed = cache.manager.sealed;
    stats->blocks_lost = cache.manager.lost;
    stats->seconds_tier_thread = cache.mover.seconds_cpu;
    stats->kv_packs = cache.packs;
    stats->seconds_encode = cache.seconds_encode;
    stats->seconds_encode_waited = cache.seconds_encode_waited;
    stats->kv_raw_bytes = cache.raw_bytes;
    stats->kv_stored_bytes = cache.stored_bytes;
    stats->host_attended_blocks = cache.host_blocks;
    stats->host_attended_bytes = cache.host_bytes;
    if (engine->host_attend) {
        HostAttendStats host = host_attend_stats(engine->host_attend);
        stats->host_partial_bytes = host.moved_bytes;
        stats->seconds_host_attention = host.seconds;
    }
    engine_note_weights(engine);
    stats->corrupt_blocks = cache.manager.corrupt_blocks;
    stats->io_errors = cache.mover.io_errors;
    stats->late_transfers = cache.mover.late;
    stats->prefetch_useful = cache.manager.prefetch_useful;
    stats->prefetch_late = cache.manager.prefetch_late;
    stats->prefetch_wasted = cache.manager.prefetch_wasted;
    stats->wants_left_out = cache.manager.wants_left_out;
}

static void add_tier(EngineTierStats *sum, const EngineTierStats *tier) {
    sum->capacity_bytes += tier->capacity_bytes;
    sum->used_bytes += tier->used_bytes;
    sum->peak_bytes += tier->peak_bytes;
    sum->read_bytes += tier->read_bytes;
    sum->written_bytes += tier->written_bytes;
    sum->filling_blocks += tier->filling_blocks;
    sum->sealed_blocks += tier->sealed_blocks;
    sum->lost_blocks += tier->lost_blocks;
    sum->hits += tier->hits;
    for (int reason = 0; reason < REASON_COUNT; reason++) {
        sum->moves_in[reason].blocks += tier->moves_in[reason].blocks;
        sum->moves_in[reason].bytes += tier->moves_in[reason].bytes;
        sum->moves_out[reason].blocks += tier->moves_out[reason].blocks;
        sum->moves_out[reason].bytes += tier->moves_out[reason].bytes;
    }
    sum->seconds_stalled += tier->seconds_stalled;
    sum->off_count += tier->off_count;
}

/* What concerns KV and memory; the rest of the figures is rank 0's. */
static void add_stats(EngineStats *sum, const EngineStats *stats) {
    for (int tier = 0; tier < TIER_COUNT; tier++)
        add_tier(&sum->tiers[tier], &stats->tiers[tier]);
    for (int tier = 0; tier < TIER_COUNT; tier++)
        sum->weights.bytes[tier] += stats->weights.bytes[tier];
    sum->weights.read_bytes += stats->weights.read_bytes;
    sum->weights.sent_bytes += stats->weights.sent_bytes;
    sum->blocks_filling += stats->blocks_filling;
    sum->blocks_sealed += stats->blocks_sealed;
    sum->blocks_lost += stats->blocks_lost;
    sum->corrupt_blocks += stats->corrupt_blocks;
    sum->io_errors += stats->io_errors;
    sum->late_transfers += stats->late_transfers;
    sum->prefetch_useful += stats->prefetch_useful;
    sum->prefetch_late += stats->prefetch_late;
    sum->prefetch_wasted += stats->prefetch_wasted;
    sum->wants_left_out += stats->wants_left_out;
    sum->host_attended_blocks += stats->host_attended_blocks;
    sum->host_attended_bytes += stats->host_attended_bytes;
    sum->host_partial_bytes += stats->host_partial_bytes;
    sum->seconds_host_attention += stats->seconds_host_attention;
    sum->seconds_tier_thread += stats->seconds_tier_thread;
    sum->memory_peak_bytes += stats->memory_peak_bytes;
}

EngineStats engine_stats_of_ranks(const Engine *engine) {
    EngineStats sum = engine->stats;
    for (int rank = 1; rank < engine->comm->size; rank++)
        add_stats(&sum, &engine->reports[rank].stats);
    return sum;
}

Status engine_gather_memory(Engine *engine) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    engine->blocks_due_seconds = 0;
    engine_note_kv(engine);
    EngineStats *stats = &engine->stats;
    stats->memory_peak_bytes = (uint64_t)usage.ru_maxrss << 10;
    RankReport report = {.stats = *stats};
    for (int rank = 0; rank < engine->comm->size; rank++)
        engine->report_bytes[rank] = sizeof report;
    TRY(comm_gather(engine->comm, 0, &report, engine->comm->rank == 0 ? engine->reports : NULL,
                    engine->report_bytes));
    if (engine->comm->rank == 0) *stats = engine_stats_of_ranks(engine);
    return STATUS_OK;
}
