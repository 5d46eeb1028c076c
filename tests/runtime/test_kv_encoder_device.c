/* Encoding on a device, the emulated one, whose work is late: verdicts and bytes belong to their jobs, in whatever order the owner
 * comes for them. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/backend.h"
#include "runtime/base/random.h"
#include "runtime/engine/kv_encoder_device.h"

enum { JOBS = 24, ROUNDS = 4 };

static const KvShape shape = {.kv_head_count = 2, .head_dim = 32, .block_tokens = 32};

typedef struct Rig {
    Device *device;
    Kernels kernels;
    KernelContext context;
    KvLayout layout;
    KvDeviceEncoder *encoder;
    uint64_t block_bytes, pack_bytes;
    uint16_t *raw;       /* pinned, [JOBS] packs of blocks */
    uint8_t *packs;      /* pinned, [JOBS] */
    uint8_t *device_raw; /* the same on the device */
    uint8_t *device_packs;
} Rig;

static void *take(Device *device, MemoryPlace place, uint64_t bytes) {
    void *memory;
    assert_int_equal(device->memory_take(device, place, bytes, "test", &memory), STATUS_OK);
    return memory;
}

static void open_rig(Rig *rig, uint64_t seed) {
    const BackendOptions options = {.cpu_isa = "auto", .seed = seed};
    const KernelLimits limits = {
        .row_count = 1, .column_count = 1, .head_count = 2, .head_dim = 32, .block_tokens = 32};
    *rig = (Rig){0};
    assert_int_equal(backend_open("emulated", &options, &rig->device, &rig->kernels), STATUS_OK);
    assert_int_equal(rig->kernels.context_open(&rig->kernels, rig->device, &limits, &rig->context),
                     STATUS_OK);
    rig->layout = kv_layout(&shape, codec_find("int4_group"), 0, false);
    assert_true(rig->layout.pack_blocks > 1);
    rig->block_bytes = kv_block_bytes(&shape);
    rig->pack_bytes = rig->layout.pack_blocks * rig->layout.encoded_bytes;
    uint64_t raw_bytes = JOBS * rig->layout.pack_blocks * rig->block_bytes;
    rig->raw = take(rig->device, MEMORY_HOST, raw_bytes);
    rig->packs = take(rig->device, MEMORY_HOST, JOBS * rig->pack_bytes);
    rig->device_raw = take(rig->device, MEMORY_DEVICE, raw_bytes);
    rig->device_packs = take(rig->device, MEMORY_DEVICE, JOBS * rig->pack_bytes);
    assert_int_equal(kv_device_encoder_create(&rig->encoder, rig->device, &rig->kernels,
                                              &rig->context, &rig->layout),
                     STATUS_OK);
}

static void close_rig(Rig *rig) {
    uint64_t raw_bytes = JOBS * rig->layout.pack_blocks * rig->block_bytes;
    kv_device_encoder_destroy(rig->encoder);
    rig->device->memory_give(rig->device, MEMORY_HOST, rig->raw, raw_bytes);
    rig->device->memory_give(rig->device, MEMORY_HOST, rig->packs, JOBS * rig->pack_bytes);
    rig->device->memory_give(rig->device, MEMORY_DEVICE, rig->device_raw, raw_bytes);
    rig->device->memory_give(rig->device, MEMORY_DEVICE, rig->device_packs, JOBS * rig->pack_bytes);
    rig->kernels.context_close(rig->device, &rig->context);
    rig->device->close(rig->device);
}

static uint64_t raw_offset(const Rig *rig, uint32_t job, uint32_t block) {
    return (job * rig->layout.pack_blocks + block) * rig->block_bytes;
}

static bool is_bad(uint32_t job) {
    return job % 5 == 3;
}

/* Finite numbers of either sign; one of every bad job is not. */
static void draw_blocks(Rig *rig, Random *random) {
    uint64_t halves = JOBS * rig->layout.pack_blocks * rig->block_bytes / sizeof *rig->raw;
    for (uint64_t i = 0; i < halves; i++)
        rig->raw[i] = (uint16_t)(random_u64(random) & 0xbbff);
    for (uint32_t job = 0; job < JOBS; job++) {
        uint32_t block = (uint32_t)random_below(random, rig->layout.pack_blocks);
        uint64_t number = random_below(random, rig->block_bytes / sizeof *rig->raw);
        if (is_bad(job)) rig->raw[raw_offset(rig, job, block) / sizeof *rig->raw + number] = 0xfc00;
    }
    assert_int_equal(rig->device->copy(rig->device, rig->context.stream, rig->device_raw, rig->raw,
                                       halves * sizeof *rig->raw),
                     STATUS_OK);
}

static uint32_t submit(const Rig *rig, uint32_t job) {
    KvEncoderJob work = {.block_count = rig->layout.pack_blocks,
                         .out_bytes = rig->device_packs + job * rig->pack_bytes};
    for (uint32_t i = 0; i < work.block_count; i++)
        work.blocks[i] = rig->device_raw + raw_offset(rig, job, i);
    return kv_device_encoder_submit(rig->encoder, &work);
}

static void assert_pack(const Rig *rig, uint32_t job) {
    uint64_t bytes = codec_block_bytes(rig->layout.codec, &shape);
    uint8_t *expected = malloc(bytes);
    assert_non_null(expected);
    for (uint32_t i = 0; i < rig->layout.pack_blocks; i++) {
        const uint8_t *block = (const uint8_t *)rig->raw + raw_offset(rig, job, i);
        assert_int_equal(codec_encode_block(rig->layout.codec, &shape, block, expected), STATUS_OK);
        assert_memory_equal(rig->packs + job * rig->pack_bytes + i * rig->layout.encoded_bytes,
                            expected, bytes);
    }
    free(expected);
}

static void verdicts_and_bytes_are_the_jobs_own(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= ROUNDS; seed++) {
        Rig rig;
        Random random = {.key = seed};
        uint32_t jobs[JOBS];
        open_rig(&rig, seed);
        draw_blocks(&rig, &random);
        for (uint32_t job = 0; job < JOBS; job++)
            jobs[job] = submit(&rig, job);
        for (uint32_t n = 0; n < JOBS; n++) {
            uint32_t job = (7 * n + (uint32_t)seed) % JOBS; /* 7 and JOBS are coprime */
            assert_int_equal(kv_device_encoder_wait(rig.encoder, jobs[job]),
                             is_bad(job) ? STATUS_BAD_INPUT : STATUS_OK);
        }
        assert_int_equal(rig.device->copy(rig.device, rig.context.stream, rig.packs,
                                          rig.device_packs, JOBS * rig.pack_bytes),
                         STATUS_OK);
        assert_int_equal(rig.device->stream_wait(rig.device, rig.context.stream), STATUS_OK);
        for (uint32_t job = 0; job < JOBS; job++)
            if (!is_bad(job)) assert_pack(&rig, job);
        close_rig(&rig);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(verdicts_and_bytes_are_the_jobs_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
