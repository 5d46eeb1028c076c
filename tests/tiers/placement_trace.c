#include "tests/tiers/placement_trace.h"

#include <math.h>
#include <stdlib.h>

#include "runtime/base/invariant.h"

static PlacementTrace open_trace(uint32_t block_count, uint32_t stream_groups, uint32_t rounds) {
    uint64_t count = (uint64_t)block_count * rounds;
    uint32_t *accesses = calloc(count, sizeof *accesses);
    CHECK(accesses);
    return (PlacementTrace){block_count, stream_groups, accesses, count};
}

PlacementTrace placement_trace_scan(uint32_t block_count, uint32_t stream_groups, uint32_t rounds) {
    PlacementTrace trace = open_trace(block_count, stream_groups, rounds);
    uint64_t place = 0;
    for (uint32_t round = 0; round < rounds; round++)
        for (uint32_t stream = 0; stream < stream_groups; stream++)
            for (uint32_t id = stream; id < block_count; id += stream_groups)
                trace.accesses[place++] = id;
    return trace;
}

static uint32_t draw_rank(Random *random, const double *sums, uint32_t count) {
    double draw = random_unit(random) * sums[count - 1];
    uint32_t begin = 0, end = count - 1;
    while (begin < end) {
        uint32_t middle = (begin + end) / 2;
        if (sums[middle] <= draw)
            begin = middle + 1;
        else
            end = middle;
    }
    return begin;
}

PlacementTrace placement_trace_zipf(Random *random, uint32_t block_count, double exponent,
                                    double drift, uint32_t rounds) {
    PlacementTrace trace = open_trace(block_count, 1, rounds);
    double *sums = calloc(block_count, sizeof *sums);
    uint32_t *ids = calloc(block_count, sizeof *ids);
    CHECK(sums && ids);
    for (uint32_t rank = 0; rank < block_count; rank++) {
        sums[rank] = (rank > 0 ? sums[rank - 1] : 0) + pow(rank + 1.0, -exponent);
        ids[rank] = rank;
    }
    for (uint64_t place = 0; place < trace.access_count; place++) {
        if (random_unit(random) < drift) {
            uint32_t a = (uint32_t)random_below(random, block_count);
            uint32_t b = (uint32_t)random_below(random, block_count);
            uint32_t id = ids[a];
            ids[a] = ids[b];
            ids[b] = id;
        }
        trace.accesses[place] = ids[draw_rank(random, sums, block_count)];
    }
    free(sums);
    free(ids);
    return trace;
}

void placement_trace_free(PlacementTrace *trace) {
    free(trace->accesses);
}

typedef struct Cache {
    const Placement *placement;
    void *state;
    Block *blocks;
    bool *resident;
    uint32_t resident_count, capacity;
} Cache;

static bool is_resident(void *context, BlockId id) {
    const Cache *cache = context;
    return cache->resident[id];
}

static void move_in(Cache *cache, BlockId id) {
    cache->resident[id] = true;
    cache->resident_count++;
    cache->placement->added(cache->state, id, &cache->blocks[id]);
}

static void move_out(Cache *cache) {
    BlockId id = cache->placement->choose_victim(cache->state, is_resident, cache);
    CHECK(id != BLOCK_NONE && cache->resident[id]);
    cache->resident[id] = false;
    cache->resident_count--;
    cache->placement->moved_down(cache->state, id);
}

/* What came by is judged before the victim goes, as the manager does it. */
static bool use(Cache *cache, BlockId id) {
    const Placement *placement = cache->placement;
    bool hit = cache->resident[id];
    placement->used(cache->state, id, &cache->blocks[id]);
    if (placement->scored) placement->scored(cache->state, id, 1);
    if (hit || !placement->wants_promotion || !placement->wants_promotion(cache->state, id))
        return hit;
    if (cache->resident_count == cache->capacity) move_out(cache);
    move_in(cache, id);
    return false;
}

static void open_cache(Cache *cache, const PlacementTrace *trace) {
    cache->blocks = calloc(trace->block_count, sizeof(Block));
    cache->resident = calloc(trace->block_count, sizeof(bool));
    uint64_t *keys = calloc(trace->access_count, sizeof *keys);
    CHECK(cache->blocks && cache->resident && keys);
    for (uint32_t id = 0; id < trace->block_count; id++)
        cache->blocks[id] = (Block){.state = BLOCK_SEALED,
                                    .stream = id % trace->stream_groups,
                                    .ordinal = id / trace->stream_groups};
    for (uint64_t i = 0; i < trace->access_count; i++) {
        const Block *block = &cache->blocks[trace->accesses[i]];
        keys[i] = block->stream << 32 | block->ordinal;
    }
    PlacementOptions options = {.block_count = trace->block_count,
                                .stream_groups = trace->stream_groups,
                                .resident_count = cache->capacity,
                                .trace = keys,
                                .trace_count = trace->access_count};
    CHECK(cache->placement->create(&cache->state, &options) == STATUS_OK);
    free(keys); /* a policy keeps what it needs */
    for (uint32_t id = 0; id < trace->block_count; id++) {
        if (cache->resident_count == cache->capacity) move_out(cache);
        move_in(cache, id);
    }
}

double placement_trace_hit_rate(const PlacementTrace *trace, const Placement *placement,
                                uint32_t resident_count, uint64_t count_from) {
    Cache cache = {.placement = placement, .capacity = resident_count};
    open_cache(&cache, trace);
    uint64_t hits = 0;
    for (uint64_t i = 0; i < trace->access_count; i++)
        hits += use(&cache, trace->accesses[i]) && i >= count_from;
    placement->destroy(cache.state);
    free(cache.blocks);
    free(cache.resident);
    return (double)hits / (double)(trace->access_count - count_from);
}
