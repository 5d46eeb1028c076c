/* The slots of a tier: which one is taken next. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tiers/tier_slots.h"

enum { SLOTS = 3 * SLOT_RUN };

static TierSlots slots_of(uint32_t slot_count, uint32_t group_count) {
    TierSlots slots;
    assert_int_equal(tier_slots_create(&slots, slot_count, group_count), STATUS_OK);
    return slots;
}

static void without_groups_what_was_given_back_last_is_taken_first(void **state) {
    (void)state;
    TierSlots slots = slots_of(4, 0);
    for (uint32_t slot = 0; slot < 3; slot++)
        assert_int_equal(tier_slots_take(&slots, 0), slot);
    tier_slots_give(&slots, 0);
    tier_slots_give(&slots, 1);
    assert_int_equal(tier_slots_take(&slots, 0), 1);
    assert_int_equal(tier_slots_take(&slots, 0), 0);
    assert_int_equal(tier_slots_take(&slots, 0), 3);
    assert_int_equal(tier_slots_take(&slots, 0), SLOT_NONE);
    tier_slots_destroy(&slots);
}

static void each_group_lies_together(void **state) {
    (void)state;
    TierSlots slots = slots_of(SLOTS, 2);
    uint32_t first[2] = {tier_slots_take(&slots, 0), tier_slots_take(&slots, 1)};
    for (uint32_t i = 1; i < SLOT_RUN; i++)
        for (uint32_t group = 0; group < 2; group++)
            assert_int_equal(tier_slots_take(&slots, group), first[group] + i);
    tier_slots_destroy(&slots);
}

static void a_group_goes_on_where_places_were_given_back(void **state) {
    (void)state;
    TierSlots slots = slots_of(SLOTS, 2);
    for (uint32_t slot = 0; slot < SLOTS; slot++)
        assert_int_equal(tier_slots_take(&slots, 0), slot);
    tier_slots_give(&slots, 70);
    for (uint32_t slot = 50; slot < 60; slot++)
        tier_slots_give(&slots, slot);
    for (uint32_t slot = 50; slot < 60; slot++)
        assert_int_equal(tier_slots_take(&slots, 1), slot);
    assert_int_equal(tier_slots_take(&slots, 1), 70);
    assert_int_equal(tier_slots_free_count(&slots), 0);
    tier_slots_destroy(&slots);
}

/* What is set aside for one group is there for all in the end, each slot once. */
static void every_slot_is_taken_in_the_end(void **state) {
    (void)state;
    TierSlots slots = slots_of(SLOTS, 5);
    uint8_t taken[SLOTS] = {0};
    for (uint32_t i = 0; i < SLOTS; i++) {
        uint32_t slot = tier_slots_take(&slots, i < 9 ? i % 3 : 4);
        assert_true(slot < SLOTS);
        assert_int_equal(taken[slot]++, 0);
        assert_int_equal(tier_slots_free_count(&slots), SLOTS - 1 - i);
    }
    assert_int_equal(tier_slots_take(&slots, 0), SLOT_NONE);
    tier_slots_destroy(&slots);
}

static void a_tier_that_stops_growing_takes_none_that_was_never_used(void **state) {
    (void)state;
    TierSlots slots = slots_of(SLOTS, 1);
    for (uint32_t slot = 0; slot < 4; slot++)
        assert_int_equal(tier_slots_take(&slots, 0), slot);
    tier_slots_give_roomless(&slots, 3);
    slots.stopped_growing = true;
    assert_int_equal(tier_slots_take(&slots, 0), SLOT_NONE);
    tier_slots_give(&slots, 1);
    assert_int_equal(tier_slots_free_count(&slots), 1);
    assert_int_equal(tier_slots_take(&slots, 0), 1);
    assert_int_equal(tier_slots_take(&slots, 0), SLOT_NONE);
    slots.stopped_growing = false;
    assert_int_equal(tier_slots_take(&slots, 0), 3);
    assert_int_equal(tier_slots_take(&slots, 0), 4);
    tier_slots_destroy(&slots);
}

static void a_slot_that_was_retired_never_comes_back(void **state) {
    (void)state;
    TierSlots slots = slots_of(2, 1);
    uint32_t bad = tier_slots_take(&slots, 0);
    tier_slots_retire(&slots, bad);
    assert_int_equal(tier_slots_free_count(&slots), 1);
    assert_int_not_equal(tier_slots_take(&slots, 0), bad);
    assert_int_equal(tier_slots_take(&slots, 0), SLOT_NONE);
    tier_slots_destroy(&slots);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_groups_what_was_given_back_last_is_taken_first),
        cmocka_unit_test(each_group_lies_together),
        cmocka_unit_test(a_group_goes_on_where_places_were_given_back),
        cmocka_unit_test(every_slot_is_taken_in_the_end),
        cmocka_unit_test(a_tier_that_stops_growing_takes_none_that_was_never_used),
        cmocka_unit_test(a_slot_that_was_retired_never_comes_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
