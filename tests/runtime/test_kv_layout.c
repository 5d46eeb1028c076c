/* How streams lie in slots: a stream that grows token by token, and is encoded as soon as it may be, never needs more slots than
 * admission was told; sizes of slots and packs for every codec. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "runtime/base/bytes.h"
#include "runtime/base/random.h"
#include "runtime/engine/kv_layout.h"

static const KvShape shape = {3, 64, 32};

static void growing_streams_stay_inside_their_slots(void **state) {
    (void)state;
    Random random = {.key = 11};
    for (uint32_t i = 0; codec_at(i); i++)
        for (uint32_t round = 0; round < 20; round++) {
            uint32_t residual = (uint32_t)random_below(&random, 300), encoded = 0;
            uint32_t prompt = (uint32_t)random_below(&random, 500);
            KvLayout layout = kv_layout(&shape, codec_at(i), residual, true);
            uint32_t promised = kv_layout_slots(&layout, 1000);
            for (uint32_t tokens = prompt + 1; tokens <= 1000; tokens++) {
                uint32_t blocks = (tokens + shape.block_tokens - 1) / shape.block_tokens;
                uint32_t cold = kv_layout_cold_blocks(&layout, tokens);
                assert_true(cold >= encoded && cold * shape.block_tokens + residual <=
                                                   tokens + (cold == 0) * residual);
                uint32_t packs = layout.codec ? (uint32_t)divide_up(cold, layout.pack_blocks) : 0;
                /* raw until its codes are there; a prompt is raw in one layer at a time: reserved apart */
                if (tokens > prompt + 1) assert_true(packs + (blocks - encoded) <= promised);
                encoded = cold;
                assert_true(packs + (blocks - encoded) <= promised);
            }
        }
}

static void packs_fill_slots(void **state) {
    (void)state;
    for (uint32_t i = 0; codec_at(i); i++)
        for (int spills = 0; spills < 2; spills++) {
            KvLayout layout = kv_layout(&shape, codec_at(i), 0, spills);
            uint64_t raw = kv_block_bytes(&shape);
            assert_true(layout.payload_bytes >= raw && layout.payload_bytes <= raw + raw / 8);
            assert_true(layout.slot_bytes > layout.payload_bytes && layout.slot_bytes % 64 == 0);
            if (spills) assert_int_equal(layout.slot_bytes % 4096, 0);
            if (!layout.codec) continue;
            uint64_t used = layout.pack_blocks * layout.encoded_bytes;
            assert_true(used <= layout.payload_bytes);
            assert_true(used + layout.encoded_bytes > raw);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(growing_streams_stay_inside_their_slots),
        cmocka_unit_test(packs_fill_slots),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
