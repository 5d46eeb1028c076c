/* Places in a spill file against a plain map of 4 KiB units: random takes and releases of several sizes; no two extents
 * overlap, all lie inside and aligned, and what is released can be taken again by any class. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/base/random.h"
#include "tiers/extent.h"

enum { UNIT = EXTENT_UNIT_BYTES, UNITS_MAX = 4096, ROUNDS = 60, EVENTS = 4000 };

typedef struct Held {
    Extent extents[UNITS_MAX];
    uint32_t count;
    bool units[UNITS_MAX]; /* taken */
} Held;

static void mark(Held *held, const Extent *extent, const ExtentOptions *options, bool taken) {
    assert_int_equal(extent->offset % UNIT, 0);
    assert_true(extent->bytes > 0 && extent->offset + extent->bytes <= options->bytes);
    for (uint64_t unit = extent->offset / UNIT; unit < (extent->offset + extent->bytes) / UNIT;
         unit++) {
        assert_int_equal(held->units[unit], !taken);
        held->units[unit] = taken;
    }
}

static ExtentOptions random_options(Random *random) {
    ExtentOptions options = {.class_count = (uint32_t)(1 + random_below(random, 4))};
    uint64_t units = 0;
    for (uint32_t i = 0; i < options.class_count; i++) {
        units += 1 + random_below(random, 24);
        options.class_bytes[i] = units * UNIT;
    }
    uint64_t spare = UNITS_MAX - units;
    options.bytes = (units + random_below(random, spare + 1)) * UNIT;
    if (random_below(random, 2)) options.slab_bytes = (units + random_below(random, 64)) * UNIT;
    return options;
}

static uint64_t smallest_that_holds(const ExtentOptions *options, uint64_t bytes) {
    uint32_t i = 0;
    while (options->class_bytes[i] < bytes)
        i++;
    return options->class_bytes[i];
}

static void take_one(ExtentSpace *space, Held *held, const ExtentOptions *options, Random *random) {
    uint64_t most = options->class_bytes[options->class_count - 1];
    uint64_t bytes = 1 + random_below(random, most), near = EXTENT_ANYWHERE;
    if (held->count > 0 && random_below(random, 2)) {
        const Extent *neighbour = &held->extents[random_below(random, held->count)];
        near = neighbour->offset + neighbour->bytes;
    }
    Extent extent;
    Status status = extent_take(space, bytes, near, &extent);
    if (held->count == 0) assert_int_equal(status, STATUS_OK); /* an empty space has room */
    if (status != STATUS_OK) {
        assert_int_equal(status, STATUS_NO_SPACE);
        return;
    }
    assert_int_equal(extent.bytes, smallest_that_holds(options, bytes));
    mark(held, &extent, options, true);
    held->extents[held->count++] = extent;
}

static void release_one(ExtentSpace *space, Held *held, const ExtentOptions *options,
                        Random *random) {
    if (held->count == 0) return;
    uint32_t index = (uint32_t)random_below(random, held->count);
    mark(held, &held->extents[index], options, false);
    extent_release(space, &held->extents[index]);
    held->extents[index] = held->extents[--held->count];
}

static void never_overlaps(void **state) {
    (void)state;
    Held *held = test_calloc(1, sizeof *held);
    for (uint64_t round = 0; round < ROUNDS; round++) {
        Random random = {.key = round};
        ExtentOptions options = random_options(&random);
        ExtentSpace *space;
        assert_int_equal(extent_create(&space, &options), STATUS_OK);
        memset(held, 0, sizeof *held);
        for (int event = 0; event < EVENTS; event++) {
            bool filling = (event / 500) % 2 == 0;
            if (random_below(&random, 4) < (filling ? 3 : 1))
                take_one(space, held, &options, &random);
            else
                release_one(space, held, &options, &random);
            uint64_t bytes = 0;
            for (uint32_t i = 0; i < held->count; i++)
                bytes += held->extents[i].bytes;
            assert_int_equal(extent_stats(space).taken_count, held->count);
            assert_int_equal(extent_stats(space).taken_bytes, bytes);
        }
        while (held->count > 0)
            release_one(space, held, &options, &random);
        assert_int_equal(extent_stats(space).slabs_in_use, 0);
        extent_destroy(space);
    }
    test_free(held);
}

static uint64_t fill(ExtentSpace *space, uint64_t bytes, uint64_t near_first) {
    Extent extent = {.offset = 0, .bytes = near_first};
    uint64_t count = 0;
    while (extent_take(space, bytes, extent.offset + extent.bytes, &extent) == STATUS_OK)
        count++;
    return count;
}

/* One class wastes less than a slot, when the slab is a multiple of it. */
static void one_class_uses_the_whole_space(void **state) {
    (void)state;
    for (uint64_t units = 1; units <= 70; units += 23) {
        ExtentOptions options = {
            .bytes = 3001ull * UNIT, .class_bytes = {units * UNIT}, .class_count = 1};
        ExtentSpace *space;
        assert_int_equal(extent_create(&space, &options), STATUS_OK);
        assert_int_equal(fill(space, units * UNIT, 0), 3001 / units);
        extent_destroy(space);
    }
}

/* Asked near its predecessor, each slot lies right behind it, over slab borders too. */
static void neighbours_lie_together(void **state) {
    (void)state;
    ExtentOptions options = {
        .bytes = 96ull * 512 * UNIT, .class_bytes = {6 * UNIT, 24 * UNIT}, .class_count = 2};
    ExtentSpace *space;
    assert_int_equal(extent_create(&space, &options), STATUS_OK);
    uint64_t end = 0;
    for (int i = 0; i < 1000; i++) {
        Extent extent;
        assert_int_equal(extent_take(space, 24 * UNIT, end, &extent), STATUS_OK);
        assert_int_equal(extent.offset, end);
        end = extent.offset + extent.bytes;
    }
    assert_int_equal(extent_stats(space).adjacent_count, 1000);
    extent_destroy(space);
}

/* A slab belongs to no class once nothing in it is taken. */
static void classes_exchange_space(void **state) {
    (void)state;
    ExtentOptions options = {
        .bytes = 1024ull * UNIT, .class_bytes = {UNIT, 8 * UNIT}, .class_count = 2};
    ExtentSpace *space;
    assert_int_equal(extent_create(&space, &options), STATUS_OK);
    Extent *small = test_calloc(1024, sizeof *small), large;
    for (int i = 0; i < 1024; i++)
        assert_int_equal(extent_take(space, UNIT, EXTENT_ANYWHERE, &small[i]), STATUS_OK);
    assert_int_equal(extent_take(space, 8 * UNIT, EXTENT_ANYWHERE, &large), STATUS_NO_SPACE);
    for (int i = 0; i < 1024; i++)
        extent_release(space, &small[i]);
    assert_int_equal(fill(space, 8 * UNIT, 0), 1024 / 8);
    test_free(small);
    extent_destroy(space);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(never_overlaps),
        cmocka_unit_test(one_class_uses_the_whole_space),
        cmocka_unit_test(neighbours_lie_together),
        cmocka_unit_test(classes_exchange_space),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
