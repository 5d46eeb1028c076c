/* The encoder against the specification: the same bytes, whoever does a job and in whatever order the owner comes for it. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/backend.h"
#include "runtime/base/random.h"
#include "runtime/engine/kv_encoder.h"

enum { BLOCKS = 160, ROUNDS = 20 };

static const KvShape shape = {.kv_head_count = 3, .head_dim = 32, .block_tokens = 32};

typedef struct Rig {
    Device *device;
    Kernels kernels;
    KvLayout layout;
    KvEncoder *encoder;
    uint16_t *raw;     /* [BLOCKS] blocks */
    uint8_t *packs;    /* [KV_ENCODER_JOBS_MAX] */
    uint8_t *expected; /* one encoded block */
} Rig;

static uint64_t pack_bytes(const Rig *rig) {
    return rig->layout.pack_blocks * rig->layout.encoded_bytes;
}

static const void *raw_block(const Rig *rig, uint32_t index) {
    return (const uint8_t *)rig->raw + index * kv_block_bytes(&shape);
}

static int open_rig(void **state) {
    static Rig rig;
    const BackendOptions options = {.cpu_isa = "auto"};
    assert_int_equal(backend_open("cpu", &options, &rig.device, &rig.kernels), STATUS_OK);
    rig.layout = kv_layout(&shape, codec_find("int4_group"), 0, false);
    assert_true(rig.layout.pack_blocks > 1);
    uint64_t halves = BLOCKS * kv_block_bytes(&shape) / 2;
    rig.raw = malloc(halves * 2);
    rig.packs = malloc(KV_ENCODER_JOBS_MAX * pack_bytes(&rig));
    rig.expected = malloc(codec_block_bytes(rig.layout.codec, &shape));
    Random random = {.key = 5};
    for (uint64_t i = 0; i < halves; i++) /* finite, of either sign */
        rig.raw[i] = (uint16_t)(random_u64(&random) & 0xbbff);
    assert_int_equal(kv_encoder_create(&rig.encoder, &rig.kernels, &rig.layout), STATUS_OK);
    *state = &rig;
    return 0;
}

static int close_rig(void **state) {
    Rig *rig = *state;
    kv_encoder_destroy(rig->encoder);
    rig->device->close(rig->device);
    free(rig->raw);
    free(rig->packs);
    free(rig->expected);
    return 0;
}

static uint32_t submit(const Rig *rig, uint32_t pack, const uint32_t *blocks) {
    KvEncoderJob job = {.block_count = rig->layout.pack_blocks,
                        .out_bytes = rig->packs + pack * pack_bytes(rig)};
    for (uint32_t i = 0; i < rig->layout.pack_blocks; i++)
        job.blocks[i] = raw_block(rig, blocks[i]);
    return kv_encoder_submit(rig->encoder, &job);
}

static void assert_pack(const Rig *rig, uint32_t pack, const uint32_t *blocks) {
    for (uint32_t i = 0; i < rig->layout.pack_blocks; i++) {
        assert_int_equal(
            codec_encode_block(rig->layout.codec, &shape, raw_block(rig, blocks[i]), rig->expected),
            STATUS_OK);
        assert_memory_equal(rig->packs + pack * pack_bytes(rig) + i * rig->layout.encoded_bytes,
                            rig->expected, codec_block_bytes(rig->layout.codec, &shape));
    }
}

static void jobs_end_in_any_order(void **state) {
    const Rig *rig = *state;
    Random random = {.key = 6};
    uint32_t jobs[KV_ENCODER_JOBS_MAX], blocks[KV_ENCODER_JOBS_MAX][KV_PACK_BLOCKS_MAX];
    for (int round = 0; round < ROUNDS; round++) {
        memset(rig->packs, 0xa5, KV_ENCODER_JOBS_MAX * pack_bytes(rig));
        for (uint32_t j = 0; j < KV_ENCODER_JOBS_MAX; j++) {
            for (uint32_t i = 0; i < rig->layout.pack_blocks; i++)
                blocks[j][i] = (uint32_t)(random_u64(&random) % BLOCKS);
            jobs[j] = submit(rig, j, blocks[j]);
        }
        uint32_t first = (uint32_t)(random_u64(&random) % KV_ENCODER_JOBS_MAX);
        for (uint32_t n = 0; n < KV_ENCODER_JOBS_MAX; n++) {
            uint32_t j = (first + 37 * n) % KV_ENCODER_JOBS_MAX; /* 37 and the count are coprime */
            assert_int_equal(kv_encoder_wait(rig->encoder, jobs[j]), STATUS_OK);
            assert_pack(rig, j, blocks[j]);
        }
    }
    assert_true(kv_encoder_seconds(rig->encoder) > 0);
}

static void a_block_that_is_not_finite_is_refused(void **state) {
    const Rig *rig = *state;
    uint32_t blocks[KV_PACK_BLOCKS_MAX] = {0, 1, 2, 3};
    uint16_t *number = (uint16_t *)(uintptr_t)raw_block(rig, 1) + 77, kept = *number;
    *number = 0x7c00;
    assert_int_equal(kv_encoder_wait(rig->encoder, submit(rig, 0, blocks)), STATUS_BAD_INPUT);
    *number = kept;
    assert_int_equal(kv_encoder_wait(rig->encoder, submit(rig, 0, blocks)), STATUS_OK);
    assert_pack(rig, 0, blocks);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(jobs_end_in_any_order),
        cmocka_unit_test(a_block_that_is_not_finite_is_refused),
    };
    return cmocka_run_group_tests(tests, open_rig, close_rig);
}
