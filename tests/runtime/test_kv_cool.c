/* Cold blocks and codecs of tiers, where kernels run behind the host's back: no block with a number that is not finite is ever encoded,
 * every other one may be from the moment when it is cold, bytes are those that were stored or their codes, and no layer waits for the
 * stream to find out. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/backend.h"
#include "kernels/quant.h"
#include "runtime/base/random.h"
#include "runtime/engine/kv_cache_parts.h"

enum {
    ROUNDS = 12,
    SEQUENCES = 6,
    LAYERS = 2,
    TOKENS = 46,
    BLOCK_TOKENS = 4,
    HEADS = 2,
    HEAD_DIM = 16,
    ROW = HEADS * HEAD_DIM,
    BLOCK_NUMBERS = 2 * BLOCK_TOKENS * ROW,
    DEVICE_SLOTS = 40,
    STAGING = 16,
    HOST_SLOTS = 2 * SEQUENCES * LAYERS * (TOKENS / BLOCK_TOKENS + 1)
};

static const KvShape shape = {
    .kv_head_count = HEADS, .head_dim = HEAD_DIM, .block_tokens = BLOCK_TOKENS};

typedef struct Rig {
    uint64_t seed;
    Device *device;
    Kernels kernels;
    KernelContext context;
    KvCache *cache;
    float *rows;        /* pinned, [TOKENS][LAYERS][2][SEQUENCES][ROW] */
    float *device_rows; /* the same on the device */
    uint8_t *block;     /* pinned, [BLOCK_NUMBERS] halves */
    uint32_t encoded;   /* blocks that were met in codes */
} Rig;

enum { ROWS_BYTES = TOKENS * LAYERS * 2 * SEQUENCES * ROW * sizeof(float) };

static float *step_rows(float *rows, uint32_t token, uint32_t layer) {
    return rows + (token * LAYERS + layer) * 2 * SEQUENCES * ROW;
}

static uint64_t draw(const Rig *rig, uint32_t sequence, uint32_t layer, uint32_t ordinal) {
    Random random = {.key = rig->seed, .stream = (sequence * LAYERS + layer) * TOKENS + ordinal};
    return random_u64(&random);
}

/* A third of the blocks. */
static bool is_broken(const Rig *rig, uint32_t sequence, uint32_t layer, uint32_t ordinal) {
    return draw(rig, sequence, layer, ordinal) % 3 == 0;
}

/* Number d of K or V of a row; in a broken block one is too large for f16. */
static float number(const Rig *rig, uint32_t sequence, uint32_t layer, uint32_t token, bool v,
                    uint32_t d) {
    uint64_t drawn = draw(rig, sequence, layer, token / BLOCK_TOKENS);
    uint32_t index = ((v * BLOCK_TOKENS) + token % BLOCK_TOKENS) * ROW + d;
    if (drawn % 3 == 0 && index == (drawn >> 8) % BLOCK_NUMBERS) return 1e9f;
    return (float)((drawn >> 16) % 1000 + 37 * index % 1013) / 500.0f - 2.0f;
}

static void *take(const Rig *rig, MemoryPlace place, uint64_t bytes) {
    void *memory;
    assert_int_equal(rig->device->memory_take(rig->device, place, bytes, "test", &memory),
                     STATUS_OK);
    return memory;
}

/* Of this thread, not of the tier's. */
static _Thread_local uint32_t stream_waits;
static Status (*stream_wait)(Device *device, DeviceStream *stream);

static Status count_stream_wait(Device *device, DeviceStream *stream) {
    stream_waits++;
    return stream_wait(device, stream);
}

static void open_rig(Rig *rig, const char *backend, uint64_t seed) {
    const BackendOptions options = {.cpu_isa = "auto", .seed = seed};
    const KernelLimits limits = {.row_count = SEQUENCES,
                                 .column_count = 64,
                                 .head_count = HEADS,
                                 .head_dim = HEAD_DIM,
                                 .block_tokens = BLOCK_TOKENS};
    *rig = (Rig){.seed = seed};
    assert_int_equal(backend_open(backend, &options, &rig->device, &rig->kernels), STATUS_OK);
    assert_int_equal(rig->kernels.context_open(&rig->kernels, rig->device, &limits, &rig->context),
                     STATUS_OK);
    KvCacheOptions cache = {.device = rig->device,
                            .kernels = &rig->kernels,
                            .context = &rig->context,
                            .layout = kv_layout(&shape, NULL, 0, true),
                            .layer_count = LAYERS,
                            .slot_count = SEQUENCES,
                            .row_count_max = SEQUENCES,
                            .slots = {DEVICE_SLOTS, HOST_SLOTS},
                            .staging_slots = STAGING,
                            .bounce_slots = 8,
                            .placement = placement_find("scan")};
    cache.layout.tier_codecs[TIER_HOST] = codec_find("int8");
    assert_int_equal(kv_cache_create(&rig->cache, &cache), STATUS_OK);
    rig->rows = take(rig, MEMORY_HOST, ROWS_BYTES);
    rig->device_rows = take(rig, MEMORY_DEVICE, ROWS_BYTES);
    rig->block = take(rig, MEMORY_HOST, cache.layout.slot_bytes);
    stream_wait = rig->device->stream_wait;
    rig->device->stream_wait = count_stream_wait;
    for (uint32_t s = 0; s < SEQUENCES; s++) {
        const KvSequence sequence = {.id = s + 1, .prompt_count = 1, .token_capacity = TOKENS + 1};
        assert_int_equal(kv_cache_open(rig->cache, s, &sequence), STATUS_OK);
    }
}

static void close_rig(Rig *rig) {
    Device *device = rig->device;
    uint64_t slot_bytes = rig->cache->options.layout.slot_bytes;
    for (uint32_t s = 0; s < SEQUENCES; s++)
        kv_cache_close(rig->cache, s);
    kv_cache_destroy(rig->cache);
    device->memory_give(device, MEMORY_HOST, rig->rows, ROWS_BYTES);
    device->memory_give(device, MEMORY_DEVICE, rig->device_rows, ROWS_BYTES);
    device->memory_give(device, MEMORY_HOST, rig->block, slot_bytes);
    rig->kernels.context_close(device, &rig->context);
    device->close(device);
}

static void store(Rig *rig, const Batch *batch, uint32_t token, uint32_t layer) {
    float *rows = step_rows(rig->rows, token, layer);
    float *device_rows = step_rows(rig->device_rows, token, layer);
    for (uint32_t s = 0; s < SEQUENCES; s++)
        for (uint32_t d = 0; d < ROW; d++) {
            rows[s * ROW + d] = number(rig, s, layer, token, false, d);
            rows[(SEQUENCES + s) * ROW + d] = number(rig, s, layer, token, true, d);
        }
    assert_int_equal(rig->device->copy(rig->device, rig->context.stream, device_rows, rows,
                                       2 * SEQUENCES * ROW * sizeof *rows),
                     STATUS_OK);
    const KvRows k_v = {device_rows, device_rows + SEQUENCES * ROW, ROW, ROW};
    assert_int_equal(kv_cache_store(rig->cache, &rig->kernels, &rig->context, batch, layer, &k_v),
                     STATUS_OK);
}

/* The block's bytes, brought to the host, are what was stored, or int8 of that. */
static void check_block(Rig *rig, uint32_t sequence, uint32_t layer, uint32_t ordinal,
                        const AttendRun *run) {
    uint16_t halves[BLOCK_NUMBERS];
    uint8_t codes[sizeof halves];
    uint32_t block = ordinal - run->block_ordinal_first;
    const Codec *codec = run->codecs[block];
    for (uint32_t i = 0; i < BLOCK_NUMBERS; i++) {
        uint32_t d = i % HEAD_DIM, token = i / HEAD_DIM % BLOCK_TOKENS;
        uint32_t head = i / (HEAD_DIM * BLOCK_TOKENS) % HEADS;
        halves[i] = f32_to_f16(number(rig, sequence, layer, ordinal * BLOCK_TOKENS + token,
                                      i >= BLOCK_NUMBERS / 2, head * HEAD_DIM + d));
    }
    uint64_t bytes = codec ? codec_block_bytes(codec, &shape) : sizeof halves;
    const void *expected = codec ? (void *)codes : (void *)halves;
    assert_true(bytes <= sizeof halves);
    if (codec) assert_int_equal(codec_encode_block(codec, &shape, halves, codes), STATUS_OK);
    assert_int_equal(
        rig->device->copy(rig->device, rig->context.stream, rig->block, run->blocks[block], bytes),
        STATUS_OK);
    assert_int_equal(rig->device->stream_wait(rig->device, rig->context.stream), STATUS_OK);
    assert_memory_equal(rig->block, expected, bytes);
    rig->encoded += codec != NULL;
}

/* What attention would read of the layer; `check`: its full blocks are looked at. */
static void walk(Rig *rig, const Batch *batch, uint32_t layer, bool check) {
    KvCursor cursor = kv_cache_begin(rig->cache, batch, layer, 0);
    for (;;) {
        KvRuns runs;
        assert_int_equal(kv_cache_next(&cursor, &runs), STATUS_OK);
        tier_manager_check(rig->cache->manager);
        if (runs.device_count == 0) return;
        for (uint32_t i = 0; check && i < runs.device_count; i++)
            for (uint32_t b = 0; b < runs.device[i].block_count; b++) {
                uint32_t ordinal = runs.device[i].block_ordinal_first + b;
                if (ordinal < TOKENS / BLOCK_TOKENS)
                    check_block(rig, runs.device[i].row_first, layer, ordinal, &runs.device[i]);
            }
    }
}

static void run_step(Rig *rig, uint32_t token, bool check) {
    BatchSequence sequences[SEQUENCES];
    for (uint32_t s = 0; s < SEQUENCES; s++)
        sequences[s] =
            (BatchSequence){.slot = s, .row_first = s, .row_count = 1, .position_first = token};
    const Batch batch = {
        .sequences = sequences, .sequence_count = SEQUENCES, .row_count = SEQUENCES};
    const KvWant want = {.batch = &batch, .layer_end = LAYERS};
    for (uint32_t s = 0; s < SEQUENCES && !check; s++)
        kv_cache_extend(rig->cache, s, 1);
    kv_cache_begin_step(rig->cache, &batch, SEQUENCES);
    kv_cache_want(rig->cache, &want);
    kv_cache_want_ahead(rig->cache, &want);
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        if (!check) store(rig, &batch, token, layer);
        walk(rig, &batch, layer, check);
        if (!check) assert_int_equal(kv_cache_seal(rig->cache, &batch, layer), STATUS_OK);
    }
    kv_cache_end_layers(rig->cache);
}

static void check_verdicts(const Rig *rig) {
    for (uint32_t s = 0; s < SEQUENCES; s++)
        for (uint32_t layer = 0; layer < LAYERS; layer++)
            for (uint32_t i = 0; i < TOKENS / BLOCK_TOKENS; i++) {
                BlockId id = kv_layer_ids(&rig->cache->slots[s], layer)[i];
                const Block *block = tier_manager_block(rig->cache->manager, id);
                assert_int_equal(block->cold, !is_broken(rig, s, layer, i));
            }
}

static void check_backend(const char *backend) {
    for (uint64_t seed = 1; seed <= ROUNDS; seed++) {
        Rig rig;
        open_rig(&rig, backend, seed);
        stream_waits = 0;
        for (uint32_t token = 0; token < TOKENS; token++)
            run_step(&rig, token, false);
        assert_int_equal(stream_waits, 0);
        kv_cache_settle(rig.cache);
        check_verdicts(&rig);
        run_step(&rig, TOKENS - 1, true);
        assert_true(rig.encoded > 0);
        close_rig(&rig);
    }
}

static void only_finite_blocks_are_encoded(void **state) {
    (void)state;
    check_backend("cpu");
}

static void nor_are_others_behind_the_hosts_back(void **state) {
    (void)state;
    check_backend("emulated");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_finite_blocks_are_encoded),
        cmocka_unit_test(nor_are_others_behind_the_hosts_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
