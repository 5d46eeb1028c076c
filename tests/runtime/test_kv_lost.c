/* A block that is lost as a layer is attended, on a device whose work is late: K and V that were stored for its sequence have arrived
 * before the place they go to is another block's. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/backend.h"
#include "runtime/engine/kv_cache_parts.h"

enum {
    ROUNDS = 16,
    KEPT = 0, /* slot of the sequence that goes on */
    LOST = 1, /* of the one that loses a block */
    KEPT_TOKENS = 120,
    LOST_TOKENS = 41,
    BLOCK_TOKENS = 4,
    KEPT_BLOCKS = KEPT_TOKENS / BLOCK_TOKENS,
    DEVICE_SLOTS = 30,
    STAGING = 16,
    ROW = 16, /* numbers of K, and of V */
    BLOCK_BYTES = 2 * BLOCK_TOKENS * ROW * sizeof(uint16_t)
};

static const KvShape shape = {.kv_head_count = 2, .head_dim = 8, .block_tokens = BLOCK_TOKENS};

typedef struct Rig {
    Device *device;
    Kernels kernels;
    KernelContext context;
    KvCache *cache;
    float *row;        /* pinned, [2][ROW] */
    float *device_row; /* the same on the device */
    uint8_t *blocks;   /* pinned, [KEPT_BLOCKS][BLOCK_BYTES] */
} Rig;

static void *take(const Rig *rig, MemoryPlace place, uint64_t bytes) {
    void *memory;
    assert_int_equal(rig->device->memory_take(rig->device, place, bytes, "test", &memory),
                     STATUS_OK);
    return memory;
}

static void add_sequence(const Rig *rig, uint32_t slot, uint32_t token_count) {
    const KvSequence sequence = {
        .id = slot + 1, .prompt_count = token_count, .token_capacity = token_count + 1};
    assert_int_equal(kv_cache_open(rig->cache, slot, &sequence), STATUS_OK);
    assert_int_equal(kv_cache_fill(rig->cache, slot, token_count), STATUS_OK);
}

/* One layer; most blocks of either sequence have come down. */
static void open_rig(Rig *rig, uint64_t seed) {
    const BackendOptions backend = {.cpu_isa = "auto", .seed = seed};
    const KernelLimits limits = {.row_count = 1,
                                 .column_count = 64,
                                 .head_count = 2,
                                 .head_dim = 8,
                                 .block_tokens = BLOCK_TOKENS};
    *rig = (Rig){0};
    assert_int_equal(backend_open("emulated", &backend, &rig->device, &rig->kernels), STATUS_OK);
    assert_int_equal(rig->kernels.context_open(&rig->kernels, rig->device, &limits, &rig->context),
                     STATUS_OK);
    const KvCacheOptions options = {.device = rig->device,
                                    .kernels = &rig->kernels,
                                    .context = &rig->context,
                                    .layout = kv_layout(&shape, NULL, 0, true),
                                    .layer_count = 1,
                                    .slot_count = 2,
                                    .row_count_max = 1,
                                    .slots = {DEVICE_SLOTS, 4 * KEPT_BLOCKS},
                                    .staging_slots = STAGING,
                                    .bounce_slots = 8,
                                    .placement = placement_find("scan")};
    assert_int_equal(kv_cache_create(&rig->cache, &options), STATUS_OK);
    rig->row = take(rig, MEMORY_HOST, 2 * ROW * sizeof *rig->row);
    rig->device_row = take(rig, MEMORY_DEVICE, 2 * ROW * sizeof *rig->row);
    rig->blocks = take(rig, MEMORY_HOST, KEPT_BLOCKS * BLOCK_BYTES);
    for (uint32_t i = 0; i < 2 * ROW; i++)
        rig->row[i] = 3.0f;
    add_sequence(rig, LOST, LOST_TOKENS);
    add_sequence(rig, KEPT, KEPT_TOKENS);
    kv_cache_settle(rig->cache);
}

static void close_rig(Rig *rig) {
    Device *device = rig->device;
    kv_cache_close(rig->cache, KEPT);
    kv_cache_destroy(rig->cache);
    device->memory_give(device, MEMORY_HOST, rig->row, 2 * ROW * sizeof *rig->row);
    device->memory_give(device, MEMORY_DEVICE, rig->device_row, 2 * ROW * sizeof *rig->row);
    device->memory_give(device, MEMORY_HOST, rig->blocks, KEPT_BLOCKS * BLOCK_BYTES);
    rig->kernels.context_close(device, &rig->context);
    device->close(device);
}

/* The blocks that the batch attends come to the host behind what is on the stream; of LOST none is looked at. */
static void attend(Rig *rig, const Batch *batch) {
    Device *device = rig->device;
    KvCursor cursor = kv_cache_begin(rig->cache, batch, 0, 0);
    for (;;) {
        KvRuns runs;
        assert_int_equal(kv_cache_next(&cursor, &runs), STATUS_OK);
        if (runs.device_count == 0) return;
        for (uint32_t i = 0; i < runs.device_count; i++)
            for (uint32_t b = 0; b < runs.device[i].block_count; b++) {
                uint32_t ordinal = runs.device[i].block_ordinal_first + b;
                assert_int_equal(device->copy(device, rig->context.stream,
                                              rig->blocks + ordinal * BLOCK_BYTES,
                                              runs.device[i].blocks[b], BLOCK_BYTES),
                                 STATUS_OK);
            }
    }
}

static Batch batch_of(BatchSequence *sequence, uint32_t slot, uint32_t position) {
    *sequence = (BatchSequence){.slot = slot, .row_count = 1, .position_first = position};
    return (Batch){.sequences = sequence, .sequence_count = 1, .row_count = 1};
}

/* All blocks of KEPT; most are read from the host's memory. */
static void read_kept(Rig *rig) {
    BatchSequence sequence;
    const Batch batch = batch_of(&sequence, KEPT, KEPT_TOKENS - 1);
    const KvWant want = {.batch = &batch, .layer_end = 1};
    kv_cache_begin_step(rig->cache, &batch, 0);
    kv_cache_want(rig->cache, &want);
    attend(rig, &batch);
    kv_cache_end_layers(rig->cache);
    assert_int_equal(rig->device->stream_wait(rig->device, rig->context.stream), STATUS_OK);
}

/* A bit of all blocks of LOST that lie in the host's memory alone. */
static void spoil(const Rig *rig) {
    KvCache *cache = rig->cache;
    for (uint32_t i = 0; i < LOST_TOKENS / BLOCK_TOKENS; i++) {
        BlockId id = kv_layer_ids(&cache->slots[LOST], 0)[i];
        uint32_t host_slot;
        if (tier_manager_pin_host(cache->manager, id, &host_slot) != STATUS_OK) continue;
        kv_slot_memory(cache, TIER_HOST, host_slot)[sizeof(SpillHeader)] ^= 1;
        tier_manager_unpin(cache->manager, id);
    }
}

/* A step of LOST: its row is stored, then a block turns out to be wrong. */
static void lose(Rig *rig) {
    BatchSequence sequence;
    const Batch batch = batch_of(&sequence, LOST, LOST_TOKENS);
    const KvRows rows = {rig->device_row, rig->device_row + ROW, ROW, ROW};
    assert_int_equal(rig->device->copy(rig->device, rig->context.stream, rig->device_row, rig->row,
                                       2 * ROW * sizeof *rig->row),
                     STATUS_OK);
    kv_cache_extend(rig->cache, LOST, 1);
    kv_cache_begin_step(rig->cache, &batch, 0);
    assert_int_equal(kv_cache_store(rig->cache, &rig->kernels, &rig->context, &batch, 0, &rows),
                     STATUS_OK);
    attend(rig, &batch);
    assert_true(kv_cache_is_lost(rig->cache, LOST));
    assert_int_equal(kv_cache_seal(rig->cache, &batch, 0), STATUS_OK);
    kv_cache_end_layers(rig->cache);
}

/* `park`: its filling block moves down; else it is given back. */
static void check_neighbour(bool park) {
    static uint8_t expected[KEPT_BLOCKS * BLOCK_BYTES];
    for (uint64_t seed = 1; seed <= ROUNDS; seed++) {
        Rig rig;
        open_rig(&rig, seed);
        read_kept(&rig);
        memcpy(expected, rig.blocks, sizeof expected);
        spoil(&rig);
        lose(&rig);
        if (park)
            kv_cache_park(rig.cache, LOST);
        else
            kv_cache_close(rig.cache, LOST);
        read_kept(&rig);
        assert_memory_equal(expected, rig.blocks, sizeof expected);
        if (park) kv_cache_close(rig.cache, LOST);
        close_rig(&rig);
    }
}

static void its_place_is_given_to_others(void **state) {
    (void)state;
    check_neighbour(false);
}

static void its_block_moves(void **state) {
    (void)state;
    check_neighbour(true);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(its_place_is_given_to_others),
        cmocka_unit_test(its_block_moves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
