/* The block table against a plain list: random takes, seals and releases; no two blocks share bytes, the budget is
 * never exceeded, and counts agree after every call. */

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/base/random.h"
#include "tiers/block_table.h"

enum { BLOCK_COUNT = 37, BLOCK_BYTES = 192, EVENTS = 20000 };

typedef struct Twin {
    BlockState state;
    uint64_t stream;
    uint32_t ordinal;
    uint32_t generation;
} Twin;

static Device *open_device(void) {
    Device *device;
    assert_int_equal(device_host_open(&device), STATUS_OK);
    return device;
}

static BlockTable *open_table(Device *device) {
    BlockTable *table;
    BlockTableOptions options = {
        .device = device, .block_bytes = BLOCK_BYTES, .block_count = BLOCK_COUNT};
    assert_int_equal(block_table_create(&table, &options), STATUS_OK);
    return table;
}

static void compare(const BlockTable *table, const Twin *twins) {
    uint32_t filling = 0, sealed = 0;
    for (BlockId id = 0; id < BLOCK_COUNT; id++) {
        const Block *block = block_table_block(table, id);
        assert_int_equal(block->state, twins[id].state);
        filling += twins[id].state == BLOCK_FILLING;
        sealed += twins[id].state == BLOCK_SEALED;
        if (twins[id].state == BLOCK_FREE) continue;
        assert_int_equal(block->stream, twins[id].stream);
        assert_int_equal(block->ordinal, twins[id].ordinal);
        assert_int_equal(block->identity.words[3], twins[id].ordinal);
        assert_int_equal(block->generation, twins[id].generation);
        unsigned char expected[BLOCK_BYTES];
        memset(expected, (int)id, BLOCK_BYTES);
        assert_memory_equal(block->bytes, expected, BLOCK_BYTES);
    }
    BlockTableStats stats = block_table_stats(table);
    assert_int_equal(stats.filling, filling);
    assert_int_equal(stats.sealed, sealed);
    assert_int_equal(block_table_free_count(table), BLOCK_COUNT - filling - sealed);
    assert_true(stats.used_peak >= filling + sealed && stats.used_peak <= BLOCK_COUNT);
}

static void take(BlockTable *table, Twin *twins, Random *random) {
    BlockId id;
    uint64_t stream = random_below(random, 100);
    uint32_t ordinal = (uint32_t)random_below(random, 1000),
             free_before = block_table_free_count(table);
    BlockIdentity identity = {.words = {1, 2, 3, ordinal}};
    Status status = block_table_take(table, &identity, stream, ordinal, &id);
    assert_int_equal(status, free_before == 0 ? STATUS_NO_SPACE : STATUS_OK);
    if (status != STATUS_OK) return;
    assert_int_equal(twins[id].state, BLOCK_FREE);
    twins[id] = (Twin){BLOCK_FILLING, stream, ordinal, twins[id].generation + 1};
    memset(block_table_block(table, id)->bytes, (int)id, BLOCK_BYTES);
}

static void follows_a_plain_list(void **state) {
    (void)state;
    Device *device = open_device();
    BlockTable *table = open_table(device);
    Twin twins[BLOCK_COUNT] = {0};
    Random random = {.key = 7};
    for (int event = 0; event < EVENTS; event++) {
        BlockId id = (BlockId)random_below(&random, BLOCK_COUNT);
        uint64_t kind = random_below(&random, 4);
        if (kind <= 1) {
            take(table, twins, &random);
        } else if (kind == 2 && twins[id].state == BLOCK_FILLING) {
            block_table_seal(table, id);
            twins[id].state = BLOCK_SEALED;
        } else if (kind == 3 && twins[id].state != BLOCK_FREE) {
            block_table_release(table, id);
            twins[id].state = BLOCK_FREE;
        }
        compare(table, twins);
    }
    assert_int_equal(block_table_stats(table).used_peak, BLOCK_COUNT);
    block_table_destroy(table);
    device->close(device);
}

static void refuses_memory_that_is_not_there(void **state) {
    (void)state;
    Device *device = open_device();
    BlockTable *table = NULL;
    BlockTableOptions options = {.device = device, .block_bytes = 1ull << 62, .block_count = 2};
    error_capture_begin();
    assert_int_equal(block_table_create(&table, &options), STATUS_NO_SPACE);
    error_capture_end();
    assert_int_equal(error_last(NULL), ERROR_MEMORY);
    assert_null(table);
    device->close(device);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(follows_a_plain_list),
        cmocka_unit_test(refuses_memory_that_is_not_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
