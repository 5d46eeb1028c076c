/* The tier manager by hand: each rule of its header in a case of its own, tier_manager_check after every call. What random
 * events and faults do to it is sim_tiers' business. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tiers/tier_manager.h"

enum { ID_COUNT = 64 };

typedef struct Fixture {
    TierManager *manager;
    BlockId ids[ID_COUNT];
} Fixture;

static Fixture open_fixture(const char *placement, uint32_t device, uint32_t staging, uint32_t host,
                            uint32_t nvme) {
    TierManagerOptions options = {.placement = placement_find(placement),
                                  .slot_count = {device, host, nvme},
                                  .staging_slots = staging,
                                  .stream_groups = 2,
                                  .transfers_max = 8,
                                  .writes_max = 4,
                                  .want_count_max = 16,
                                  .staging_min = 1,
                                  .failures_to_off = 2,
                                  .failure_window_ns = 60,
                                  .corrupt_to_off = 3,
                                  .grow_pause_ns = 30};
    Fixture fixture = {0};
    assert_non_null(options.placement);
    assert_int_equal(tier_manager_create(&fixture.manager, &options), STATUS_OK);
    return fixture;
}

static Status take(Fixture *fixture, uint32_t index, uint64_t stream) {
    BlockIdentity identity = {.words = {1, stream, index, 7}};
    Status status =
        tier_manager_take(fixture->manager, &identity, stream, index, &fixture->ids[index]);
    tier_manager_check(fixture->manager);
    return status;
}

static void take_sealed(Fixture *fixture, uint32_t index, uint64_t stream) {
    assert_int_equal(take(fixture, index, stream), STATUS_OK);
    tier_manager_seal(fixture->manager, fixture->ids[index]);
}

static Transfer next(Fixture *fixture) {
    Transfer transfer;
    assert_true(tier_manager_next_transfer(fixture->manager, &transfer));
    tier_manager_check(fixture->manager);
    return transfer;
}

static void no_next(Fixture *fixture) {
    Transfer transfer;
    assert_false(tier_manager_next_transfer(fixture->manager, &transfer));
    tier_manager_check(fixture->manager);
}

static void complete(Fixture *fixture, Transfer transfer, TransferResult result) {
    tier_manager_complete(fixture->manager, transfer.id, result);
    tier_manager_check(fixture->manager);
}

static Status pin(Fixture *fixture, uint32_t index) {
    uint32_t slot = SLOT_NONE;
    Status status = tier_manager_pin(fixture->manager, fixture->ids[index], &slot);
    assert_int_equal(status == STATUS_OK, slot != SLOT_NONE);
    tier_manager_check(fixture->manager);
    return status;
}

static void unpin(Fixture *fixture, uint32_t index) {
    tier_manager_unpin(fixture->manager, fixture->ids[index]);
    tier_manager_check(fixture->manager);
}

static void release(Fixture *fixture, uint32_t index) {
    tier_manager_release(fixture->manager, fixture->ids[index]);
    tier_manager_check(fixture->manager);
}

static void want(Fixture *fixture, uint32_t first, uint32_t count) {
    uint32_t taken;
    tier_manager_want(fixture->manager, fixture->ids + first, count, &taken);
    assert_int_equal(taken, count);
    tier_manager_check(fixture->manager);
}

/* Sealed blocks 0 … count - 1 of stream 0; what the device cannot keep is moved down at once. */
static void fill(Fixture *fixture, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        while (take(fixture, i, 0) == STATUS_AGAIN)
            complete(fixture, next(fixture), TRANSFER_OK);
        tier_manager_seal(fixture->manager, fixture->ids[i]);
    }
}

static void close_fixture(Fixture *fixture) {
    tier_manager_destroy(fixture->manager);
}

static void one_tier_is_full_when_it_is_full(void **state) {
    (void)state;
    Fixture fixture = open_fixture("scan", 3, 0, 0, 0);
    for (uint32_t i = 0; i < 3; i++)
        take_sealed(&fixture, i, i);
    assert_false(tier_manager_has_room(fixture.manager, 1));
    assert_int_equal(take(&fixture, 3, 3), STATUS_NO_SPACE);
    no_next(&fixture);
    release(&fixture, 1);
    assert_true(tier_manager_has_room(fixture.manager, 1));
    assert_int_equal(take(&fixture, 3, 3), STATUS_OK);
    assert_int_equal(tier_manager_block(fixture.manager, fixture.ids[3])->generation, 4);
    assert_int_equal(tier_manager_stats(fixture.manager).tiers[TIER_DEVICE].slots_peak, 3);
    close_fixture(&fixture);
}

static void a_take_moves_a_block_down_and_waits_for_the_write(void **state) {
    (void)state;
    Fixture fixture = open_fixture("scan", 3, 1, 1, 4);
    take_sealed(&fixture, 0, 0);
    take_sealed(&fixture, 1, 1);
    assert_int_equal(take(&fixture, 2, 0), STATUS_AGAIN);
    Transfer down = next(&fixture);
    assert_int_equal(down.block, fixture.ids[0]);
    assert_int_equal(down.from, TIER_DEVICE);
    assert_int_equal(down.to, TIER_HOST);
    assert_int_equal(down.reason, REASON_EVICT);
    assert_int_equal(take(&fixture, 2, 0),
                     STATUS_AGAIN);                /* rule 1: the source is kept until then */
    assert_int_equal(pin(&fixture, 0), STATUS_OK); /* and can be read */
    unpin(&fixture, 0);
    complete(&fixture, down, TRANSFER_OK);
    assert_int_equal(tier_manager_device_slot(fixture.manager, fixture.ids[0]), SLOT_NONE);
    take_sealed(&fixture, 2, 0);
    assert_int_equal(take(&fixture, 3, 0), STATUS_AGAIN);
    TierBlocks blocks[TIER_COUNT];
    tier_manager_count_blocks(fixture.manager, blocks);
    assert_int_equal(blocks[TIER_DEVICE].sealed, 2);
    assert_int_equal(blocks[TIER_HOST].sealed, 1);
    assert_int_equal(blocks[TIER_HOST].filling + blocks[TIER_NVME].sealed, 0);
    assert_int_equal(tier_manager_tier(fixture.manager, fixture.ids[0]), TIER_HOST);
    assert_int_equal(tier_manager_tier(fixture.manager, fixture.ids[1]), TIER_DEVICE);
    assert_int_equal(next(&fixture).to, TIER_NVME); /* the host is full */
    close_fixture(&fixture);
}

static void a_staged_copy_is_attended_once(void **state) {
    (void)state;
    Fixture fixture = open_fixture("scan", 3, 1, 0, 4);
    fill(&fixture, 4); /* 0 and 1 are below */
    assert_int_equal(pin(&fixture, 0), STATUS_AGAIN);
    Transfer up = next(&fixture);
    assert_int_equal(up.reason, REASON_DEMAND);
    assert_int_equal(up.to, TIER_DEVICE);
    complete(&fixture, up, TRANSFER_OK);
    assert_int_equal(pin(&fixture, 0), STATUS_OK);
    assert_int_equal(tier_manager_device_slot(fixture.manager, fixture.ids[0]), SLOT_NONE);
    assert_int_equal(pin(&fixture, 1), STATUS_AGAIN);
    no_next(&fixture); /* staging is pinned */
    unpin(&fixture, 0);
    assert_int_equal(next(&fixture).block, fixture.ids[1]);
    TierManagerStats stats = tier_manager_stats(fixture.manager);
    assert_int_equal(stats.tiers[TIER_NVME].hits, 1);
    assert_int_equal(stats.prefetch_late, 2);
    close_fixture(&fixture);
}

static void wants_are_read_in_order_and_pins_use_them_up(void **state) {
    (void)state;
    Fixture fixture = open_fixture("scan", 4, 2, 0, 8);
    fill(&fixture, 7); /* 0 … 4 are below */
    want(&fixture, 0, 7);
    Transfer first = next(&fixture), second = next(&fixture);
    assert_int_equal(first.block, fixture.ids[0]);
    assert_int_equal(second.block, fixture.ids[1]);
    assert_int_equal(first.reason, REASON_PREFETCH);
    no_next(&fixture);
    complete(&fixture, second, TRANSFER_OK);
    no_next(&fixture); /* 1 waits for its turn */
    complete(&fixture, first, TRANSFER_OK);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(pin(&fixture, i), STATUS_OK);
        unpin(&fixture, i);
        assert_int_equal(next(&fixture).block, fixture.ids[i + 2]);
    }
    assert_int_equal(tier_manager_stats(fixture.manager).prefetch_useful, 2);
    assert_int_equal(tier_manager_stats(fixture.manager).prefetch_wasted, 0);
    close_fixture(&fixture);
}

static void a_demand_goes_before_what_is_needed_later(void **state) {
    (void)state;
    Fixture fixture = open_fixture("scan", 4, 2, 0, 8);
    fill(&fixture, 7);
    want(&fixture, 0, 3);
    complete(&fixture, next(&fixture), TRANSFER_OK);
    complete(&fixture, next(&fixture), TRANSFER_OK);
    assert_int_equal(pin(&fixture, 4), STATUS_AGAIN); /* not wanted; staging holds 0 and 1 */
    Transfer up = next(&fixture);
    assert_int_equal(up.block, fixture.ids[4]);
    complete(&fixture, up, TRANSFER_OK);
    assert_int_equal(pin(&fixture, 0), STATUS_OK); /* 1 went, as the one that is needed last */
    assert_int_equal(pin(&fixture, 4), STATUS_OK);
    unpin(&fixture, 4);
    assert_int_equal(next(&fixture).block, fixture.ids[1]); /* and is first in the queue again */
    close_fixture(&fixture);
}

static void forgotten_wants_make_room(void **state) {
    (void)state;
    Fixture fixture = open_fixture("scan", 4, 2, 0, 8);
    fill(&fixture, 7);
    want(&fixture, 0, 2);
    Transfer first = next(&fixture), second = next(&fixture);
    complete(&fixture, first, TRANSFER_OK);
    tier_manager_forget_wants(fixture.manager);
    complete(&fixture, second, TRANSFER_OK);
    want(&fixture, 1, 2);
    assert_int_equal(next(&fixture).block, fixture.ids[2]); /* in the place of 0; 1 is there */
    assert_int_equal(pin(&fixture, 1), STATUS_OK);
    assert_int_equal(tier_manager_stats(fixture.manager).prefetch_wasted, 1);
    close_fixture(&fixture);
}

static void a_bad_read_loses_the_block(void **state) {
    (void)state;
    Fixture fixture = open_fixture("scan", 3, 1, 0, 4);
    fill(&fixture, 4);
    assert_int_equal(pin(&fixture, 0), STATUS_AGAIN);
    complete(&fixture, next(&fixture), TRANSFER_CORRUPT);
    assert_int_equal(pin(&fixture, 0), STATUS_IO);
    assert_int_equal(tier_manager_block(fixture.manager, fixture.ids[0])->state, BLOCK_LOST);
    TierManagerStats stats = tier_manager_stats(fixture.manager);
    assert_int_equal(stats.lost, 1);
    assert_int_equal(stats.tiers[TIER_NVME].lost, 1);
    assert_int_equal(stats.corrupt_blocks, 1);
    assert_int_equal(stats.tiers[TIER_NVME].slots_used, 1);
    release(&fixture, 0);
    assert_int_equal(tier_manager_stats(fixture.manager).lost, 0);
    close_fixture(&fixture);
}

static void released_blocks_keep_their_slots_until_the_transfer_ends(void **state) {
    (void)state;
    Fixture fixture = open_fixture("scan", 3, 1, 0, 2);
    take_sealed(&fixture, 0, 0);
    take_sealed(&fixture, 1, 1);
    assert_int_equal(take(&fixture, 2, 0), STATUS_AGAIN);
    Transfer down = next(&fixture);
    release(&fixture, 0);
    assert_int_equal(take(&fixture, 2, 0), STATUS_AGAIN);
    complete(&fixture, down, TRANSFER_OK);
    assert_int_equal(take(&fixture, 2, 0), STATUS_OK);
    assert_int_equal(tier_manager_stats(fixture.manager).tiers[TIER_NVME].slots_used, 0);
    close_fixture(&fixture);
}

static void a_tier_that_fails_is_left_alone(void **state) {
    (void)state;
    Fixture fixture = open_fixture("scan", 3, 1, 4, 4);
    take_sealed(&fixture, 0, 0);
    take_sealed(&fixture, 1, 1);
    assert_int_equal(take(&fixture, 2, 0), STATUS_AGAIN);
    uint32_t failed_slot = SLOT_NONE;
    for (uint32_t failures = 0; failures < 2; failures++) {
        Transfer down = next(&fixture);
        assert_int_equal(down.to, TIER_HOST);
        assert_int_not_equal(down.to_slot, failed_slot);
        failed_slot = down.to_slot;
        complete(&fixture, down, TRANSFER_FAILED);
    }
    assert_true(tier_manager_stats(fixture.manager).tiers[TIER_HOST].off);
    Transfer down = next(&fixture);
    assert_int_equal(down.to, TIER_NVME);
    complete(&fixture, down, TRANSFER_OK);
    assert_int_equal(take(&fixture, 2, 0), STATUS_OK);
    close_fixture(&fixture);
}

static void a_full_disk_stops_growing(void **state) {
    (void)state;
    Fixture fixture = open_fixture("scan", 3, 1, 0, 4);
    fill(&fixture, 4); /* 0 and 1 are below */
    assert_int_equal(take(&fixture, 4, 0), STATUS_AGAIN);
    complete(&fixture, next(&fixture), TRANSFER_NO_SPACE);
    no_next(&fixture);
    assert_int_equal(take(&fixture, 4, 0), STATUS_NO_SPACE);
    release(&fixture, 0); /* slots that were written already: one to take, one to change places */
    release(&fixture, 1);
    assert_int_equal(take(&fixture, 4, 0), STATUS_AGAIN);
    complete(&fixture, next(&fixture), TRANSFER_OK);
    assert_int_equal(take(&fixture, 4, 0), STATUS_OK);
    close_fixture(&fixture);
}

static Status hold(Fixture *fixture, uint32_t index) {
    uint32_t slot;
    Status status = tier_manager_hold(fixture->manager, fixture->ids[index], &slot);
    if (status == STATUS_OK)
        assert_int_equal(slot, tier_manager_device_slot(fixture->manager, fixture->ids[index]));
    tier_manager_check(fixture->manager);
    return status;
}

static void a_filling_block_moves_while_nobody_holds_it(void **state) {
    (void)state;
    Fixture fixture = open_fixture("scan", 3, 1, 0, 4);
    assert_int_equal(take(&fixture, 0, 0), STATUS_OK);
    take_sealed(&fixture, 1, 1);
    assert_int_equal(take(&fixture, 2, 0), STATUS_AGAIN);
    Transfer down = next(&fixture);
    assert_int_equal(down.block, fixture.ids[1]); /* 0 is held */
    complete(&fixture, down, TRANSFER_OK);
    assert_int_equal(take(&fixture, 2, 0), STATUS_OK);
    tier_manager_let_go(fixture.manager, fixture.ids[0]);
    assert_int_equal(take(&fixture, 3, 0), STATUS_AGAIN);
    down = next(&fixture);
    assert_int_equal(down.block, fixture.ids[0]);
    uint32_t generation = down.generation;
    assert_int_equal(hold(&fixture, 0), STATUS_AGAIN); /* its bytes are being read */
    complete(&fixture, down, TRANSFER_OK);             /* and stay, since they are asked for */
    assert_int_equal(hold(&fixture, 0), STATUS_OK);
    assert_int_equal(tier_manager_stats(fixture.manager).tiers[TIER_NVME].slots_used, 1);
    assert_true(tier_manager_block(fixture.manager, fixture.ids[0])->generation > generation);
    close_fixture(&fixture);
}

/* Kernels still read what was there before it is written to again. */
static void a_hold_and_pins_go_on_beside_each_other(void **state) {
    (void)state;
    Fixture fixture = open_fixture("scan", 3, 1, 2, 0);
    assert_int_equal(take(&fixture, 0, 0), STATUS_OK);
    assert_int_equal(pin(&fixture, 0), STATUS_OK);
    tier_manager_let_go(fixture.manager, fixture.ids[0]);
    assert_int_equal(hold(&fixture, 0), STATUS_OK);
    tier_manager_let_go(fixture.manager, fixture.ids[0]);
    take_sealed(&fixture, 1, 0);
    assert_int_equal(take(&fixture, 2, 0), STATUS_AGAIN);
    assert_int_equal(next(&fixture).block, fixture.ids[1]); /* 0 is pinned */
    unpin(&fixture, 0);
    close_fixture(&fixture);
}

static void a_hold_brings_a_block_home_for_another_that_leaves(void **state) {
    (void)state;
    Fixture fixture = open_fixture("scan", 3, 1, 0, 2);
    assert_int_equal(take(&fixture, 0, 0), STATUS_OK);
    tier_manager_let_go(fixture.manager, fixture.ids[0]);
    take_sealed(&fixture, 1, 1);
    tier_manager_park(fixture.manager, fixture.ids[0]);
    Transfer down = next(&fixture); /* at once: nothing else is to be done */
    assert_int_equal(down.block, fixture.ids[0]);
    assert_int_equal(down.reason, REASON_PARK);
    complete(&fixture, down, TRANSFER_OK);
    take_sealed(&fixture, 2, 1);
    assert_false(tier_manager_has_room(fixture.manager, 1)); /* the last place is for this: */
    assert_int_equal(hold(&fixture, 0), STATUS_AGAIN);
    Transfer up = next(&fixture);
    assert_int_equal(up.block, fixture.ids[0]);
    complete(&fixture, up, TRANSFER_OK);
    assert_int_equal(hold(&fixture, 0), STATUS_AGAIN);
    down = next(&fixture);
    assert_int_equal(down.block, fixture.ids[1]);
    complete(&fixture, down, TRANSFER_OK);
    assert_int_equal(hold(&fixture, 0), STATUS_OK);
    TierManagerStats stats = tier_manager_stats(fixture.manager);
    assert_int_equal(stats.filling, 1);
    assert_int_equal(stats.tiers[TIER_NVME].slots_used, 1);
    close_fixture(&fixture);
}

/* Reads block `index` and lets it go; whether it stayed at home. */
static bool stays(Fixture *fixture, uint32_t index) {
    assert_int_equal(pin(fixture, index), STATUS_AGAIN);
    complete(fixture, next(fixture), TRANSFER_OK);
    assert_int_equal(pin(fixture, index), STATUS_OK);
    unpin(fixture, index);
    return tier_manager_device_slot(fixture->manager, fixture->ids[index]) != SLOT_NONE;
}

static void a_place_that_is_free_is_taken_about_evenly(void **state) {
    (void)state;
    Fixture fixture = open_fixture("scan", 22, 2, 0, 40);
    fill(&fixture, 32); /* all of stream 0, 12 … 31 at home; stream 1 has none */
    for (uint32_t i = 31; i > 26; i--)
        release(&fixture, i);
    assert_false(stays(&fixture, 0)); /* 15 of 15: eight beyond its share of seven */
    release(&fixture, 26);
    assert_true(stays(&fixture, 0));
    assert_false(stays(&fixture, 1));
    close_fixture(&fixture);
}

static void a_full_disk_is_tried_again_later(void **state) {
    (void)state;
    Fixture fixture = open_fixture("scan", 3, 1, 0, 2);
    tier_manager_tick(fixture.manager, 1000);
    fill(&fixture, 2);
    for (int i = 0; i < 3; i++) { /* more tries than slots: none is used up */
        assert_int_equal(take(&fixture, 2, 0), STATUS_AGAIN);
        complete(&fixture, next(&fixture), TRANSFER_NO_SPACE);
        assert_int_equal(take(&fixture, 2, 0), STATUS_NO_SPACE);
        assert_int_equal(tier_manager_places(fixture.manager), 2);
        tier_manager_tick(fixture.manager, 1000 + 30 * (uint64_t)i + 29);
        assert_int_equal(take(&fixture, 2, 0), STATUS_NO_SPACE);
        tier_manager_tick(fixture.manager, 1000 + 30 * (uint64_t)i + 30);
    }
    assert_int_equal(tier_manager_places(fixture.manager), 3);
    assert_int_equal(take(&fixture, 2, 0), STATUS_AGAIN);
    complete(&fixture, next(&fixture), TRANSFER_OK);
    assert_int_equal(take(&fixture, 2, 0), STATUS_OK);
    close_fixture(&fixture);
}

/* Two failures within 60 turn the tier off: here they are 61 apart, then 60. */
static void failures_are_forgotten_in_time(void **state) {
    (void)state;
    static const uint64_t times[] = {5, 66, 126};
    Fixture fixture = open_fixture("scan", 3, 1, 4, 0);
    fill(&fixture, 2);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(take(&fixture, 2, 0), STATUS_AGAIN);
        tier_manager_tick(fixture.manager, times[i]);
        complete(&fixture, next(&fixture), TRANSFER_FAILED);
        assert_int_equal(tier_manager_stats(fixture.manager).tiers[TIER_HOST].off, i == 2);
    }
    close_fixture(&fixture);
}

static void wrong_blocks_are_never_forgotten(void **state) {
    (void)state;
    Fixture fixture = open_fixture("scan", 3, 1, 0, 4);
    fill(&fixture, 5);
    for (uint32_t i = 0; i < 3; i++) {
        assert_false(tier_manager_stats(fixture.manager).tiers[TIER_NVME].off);
        tier_manager_tick(fixture.manager, i * 1000000u);
        assert_int_equal(pin(&fixture, i), STATUS_AGAIN);
        complete(&fixture, next(&fixture), TRANSFER_CORRUPT);
        assert_int_equal(pin(&fixture, i), STATUS_IO);
    }
    assert_true(tier_manager_stats(fixture.manager).tiers[TIER_NVME].off);
    close_fixture(&fixture);
}

static void a_late_read_loses_the_block_and_keeps_its_slots(void **state) {
    (void)state;
    Fixture fixture = open_fixture("scan", 4, 2, 0, 4);
    fill(&fixture, 3); /* 0 is below */
    assert_int_equal(pin(&fixture, 0), STATUS_AGAIN);
    Transfer late = next(&fixture);
    complete(&fixture, late, TRANSFER_LATE);
    assert_int_equal(pin(&fixture, 0), STATUS_IO);
    release(&fixture, 0);
    TierManagerStats stats = tier_manager_stats(fixture.manager);
    assert_int_equal(stats.late_reads, 1);
    assert_int_equal(stats.tiers[TIER_NVME].slots_used, 1);
    assert_int_equal(tier_manager_places(fixture.manager), 4); /* two at home, two of three below */
    assert_int_equal(take(&fixture, 3, 0), STATUS_AGAIN);
    Transfer down = next(&fixture);
    assert_int_not_equal(down.to_slot, late.from_slot);
    complete(&fixture, down, TRANSFER_OK);
    assert_int_equal(pin(&fixture, 1), STATUS_AGAIN);
    Transfer up = next(&fixture);
    assert_int_not_equal(up.to_slot, late.to_slot);
    complete(&fixture, up, TRANSFER_OK);
    complete(&fixture, late, TRANSFER_FAILED); /* no second strike */
    assert_int_equal(tier_manager_stats(fixture.manager).tiers[TIER_NVME].slots_used, 1);
    assert_false(tier_manager_stats(fixture.manager).tiers[TIER_NVME].off);
    assert_int_equal(pin(&fixture, 1), STATUS_OK);
    unpin(&fixture, 1);
    close_fixture(&fixture);
}

static void a_late_write_leaves_the_block_where_it_was(void **state) {
    (void)state;
    Fixture fixture = open_fixture("scan", 3, 1, 0, 3);
    fill(&fixture, 2);
    assert_int_equal(take(&fixture, 2, 0), STATUS_AGAIN);
    Transfer late = next(&fixture);
    complete(&fixture, late, TRANSFER_LATE);
    assert_int_equal(pin(&fixture, late.block == fixture.ids[0] ? 0 : 1), STATUS_OK);
    unpin(&fixture, late.block == fixture.ids[0] ? 0 : 1);
    Transfer down = next(&fixture); /* the take still waits */
    assert_int_not_equal(down.to_slot, late.to_slot);
    complete(&fixture, down, TRANSFER_OK);
    assert_int_equal(take(&fixture, 2, 0), STATUS_OK);
    tier_manager_seal(fixture.manager, fixture.ids[2]);
    assert_int_equal(take(&fixture, 3, 0), STATUS_NO_SPACE); /* nobody waits for what is late */
    assert_int_equal(tier_manager_stats(fixture.manager).tiers[TIER_NVME].slots_used, 2);
    complete(&fixture, late, TRANSFER_OK);
    assert_int_equal(tier_manager_stats(fixture.manager).tiers[TIER_NVME].slots_used, 1);
    assert_int_equal(take(&fixture, 3, 0), STATUS_AGAIN);
    Transfer again = next(&fixture);
    assert_int_not_equal(again.to_slot, down.to_slot);
    complete(&fixture, again, TRANSFER_OK);
    assert_int_equal(take(&fixture, 3, 0), STATUS_OK);
    close_fixture(&fixture);
}

/* Off and silent: what is only there is lost at once, until it answers again. */
static void a_silent_tier_is_not_waited_for(void **state) {
    (void)state;
    Fixture fixture = open_fixture("scan", 6, 4, 0, 8);
    fill(&fixture, 6); /* 0 … 3 are below */
    assert_int_equal(pin(&fixture, 0), STATUS_AGAIN);
    assert_int_equal(pin(&fixture, 1), STATUS_AGAIN);
    Transfer first = next(&fixture), second = next(&fixture);
    complete(&fixture, first, TRANSFER_LATE);
    complete(&fixture, second, TRANSFER_LATE);
    assert_true(tier_manager_stats(fixture.manager).tiers[TIER_NVME].off);
    assert_int_equal(pin(&fixture, 2), STATUS_IO);
    complete(&fixture, first, TRANSFER_OK);
    complete(&fixture, second, TRANSFER_OK);
    assert_int_equal(pin(&fixture, 3), STATUS_AGAIN);
    complete(&fixture, next(&fixture), TRANSFER_OK);
    assert_int_equal(pin(&fixture, 3), STATUS_OK);
    unpin(&fixture, 3);
    close_fixture(&fixture);
}

/* One late read holds all of staging: no tier can be read, not even a sound one. */
static void late_reads_that_hold_staging_end_spilling(void **state) {
    (void)state;
    Fixture fixture = open_fixture("scan", 3, 1, 1, 4);
    fill(&fixture, 4); /* one in the host, one on the disk */
    assert_int_equal(pin(&fixture, 0), STATUS_AGAIN);
    complete(&fixture, next(&fixture), TRANSFER_LATE);
    assert_true(tier_manager_stats(fixture.manager).tiers[TIER_HOST].off);
    assert_true(tier_manager_stats(fixture.manager).tiers[TIER_NVME].off);
    assert_int_equal(pin(&fixture, 1), STATUS_IO);
    assert_int_equal(take(&fixture, 4, 0), STATUS_NO_SPACE);
    close_fixture(&fixture);
}

static void a_block_stays_in_the_host_while_it_is_pinned_there(void **state) {
    (void)state;
    Fixture fixture = open_fixture("lru", 4, 2, 1, 4);
    uint32_t slot = SLOT_NONE;
    fill(&fixture, 4); /* 0 is in the host's tier, 1 on disk */
    assert_int_equal(tier_manager_tier(fixture.manager, fixture.ids[0]), TIER_HOST);
    for (uint32_t i = 1; i < 4; i++)
        assert_int_equal(tier_manager_pin_host(fixture.manager, fixture.ids[i], &slot),
                         STATUS_NOT_FOUND);
    assert_int_equal(slot, SLOT_NONE);
    want(&fixture, 0, 2);
    for (int i = 0; i < 2; i++) { /* pins add up */
        assert_int_equal(tier_manager_pin_host(fixture.manager, fixture.ids[0], &slot), STATUS_OK);
        tier_manager_check(fixture.manager);
    }
    assert_int_equal(slot, 0);
    assert_int_equal(next(&fixture).block, fixture.ids[1]); /* and a pin takes the want with it */
    unpin(&fixture, 0);
    tier_manager_forget_wants(fixture.manager);
    want(&fixture, 0, 1);
    no_next(&fixture); /* still pinned: passed over */
    unpin(&fixture, 0);
    assert_int_equal(tier_manager_stats(fixture.manager).tiers[TIER_HOST].hits, 2);
    assert_int_equal(pin(&fixture, 0), STATUS_AGAIN); /* as any other again */
    close_fixture(&fixture);
}

static void a_block_on_its_way_up_is_not_pinned_in_the_host(void **state) {
    (void)state;
    Fixture fixture = open_fixture("scan", 3, 1, 4, 0);
    uint32_t slot;
    fill(&fixture, 3); /* 0 is below */
    assert_int_equal(pin(&fixture, 0), STATUS_AGAIN);
    assert_int_equal(tier_manager_pin_host(fixture.manager, fixture.ids[0], &slot), STATUS_OK);
    tier_manager_check(fixture.manager);
    no_next(&fixture); /* what was demanded is not any more */
    unpin(&fixture, 0);
    assert_int_equal(pin(&fixture, 0), STATUS_AGAIN);
    Transfer up = next(&fixture);
    assert_int_equal(up.block, fixture.ids[0]);
    assert_int_equal(tier_manager_pin_host(fixture.manager, fixture.ids[0], &slot),
                     STATUS_NOT_FOUND);
    complete(&fixture, up, TRANSFER_OK);
    assert_int_equal(tier_manager_pin_host(fixture.manager, fixture.ids[0], &slot),
                     STATUS_NOT_FOUND); /* staged */
    assert_int_equal(pin(&fixture, 0), STATUS_OK);
    unpin(&fixture, 0);
    close_fixture(&fixture);
}

static void blocks_move_down_ahead_of_need(void **state) {
    (void)state;
    Fixture fixture = open_fixture("scan", 5, 1, 4, 0);
    for (uint32_t i = 0; i < 4; i++)
        take_sealed(&fixture, i, i);
    no_next(&fixture);
    tier_manager_set_free_target(fixture.manager, 2);
    Transfer first = next(&fixture), second = next(&fixture);
    no_next(&fixture);
    complete(&fixture, first, TRANSFER_OK);
    complete(&fixture, second, TRANSFER_OK);
    take_sealed(&fixture, 4, 0);
    take_sealed(&fixture, 5, 0);
    close_fixture(&fixture);
}

static void lru_promotes_and_drops_clean_copies_without_a_write(void **state) {
    (void)state;
    Fixture fixture = open_fixture("lru", 3, 1, 4, 0);
    fill(&fixture, 3); /* 0 is below, 1 and 2 are resident */
    tier_manager_set_free_target(fixture.manager, 1);
    complete(&fixture, next(&fixture), TRANSFER_OK); /* 1 */
    assert_int_equal(pin(&fixture, 0), STATUS_AGAIN);
    complete(&fixture, next(&fixture), TRANSFER_OK);
    assert_int_equal(pin(&fixture, 0), STATUS_OK);
    unpin(&fixture, 0); /* takes the free place, and keeps its copy below */
    assert_int_not_equal(tier_manager_device_slot(fixture.manager, fixture.ids[0]), SLOT_NONE);
    complete(&fixture, next(&fixture), TRANSFER_OK); /* 2, the least recently used */
    assert_false(tier_manager_has_home(fixture.manager, fixture.ids[1], 0)); /* one is kept free */
    tier_manager_set_free_target(fixture.manager, 0);
    assert_true(tier_manager_has_home(fixture.manager, fixture.ids[1], 0));
    assert_false(tier_manager_has_home(fixture.manager, fixture.ids[1], 1));
    tier_manager_set_free_target(fixture.manager, 1);
    take_sealed(&fixture, 3, 0);
    assert_int_equal(pin(&fixture, 3), STATUS_OK);
    unpin(&fixture, 3);
    no_next(&fixture); /* 0 has gone without a write */
    assert_int_equal(tier_manager_device_slot(fixture.manager, fixture.ids[0]), SLOT_NONE);
    close_fixture(&fixture);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_tier_is_full_when_it_is_full),
        cmocka_unit_test(a_take_moves_a_block_down_and_waits_for_the_write),
        cmocka_unit_test(a_staged_copy_is_attended_once),
        cmocka_unit_test(wants_are_read_in_order_and_pins_use_them_up),
        cmocka_unit_test(a_demand_goes_before_what_is_needed_later),
        cmocka_unit_test(forgotten_wants_make_room),
        cmocka_unit_test(a_bad_read_loses_the_block),
        cmocka_unit_test(released_blocks_keep_their_slots_until_the_transfer_ends),
        cmocka_unit_test(a_tier_that_fails_is_left_alone),
        cmocka_unit_test(a_full_disk_stops_growing),
        cmocka_unit_test(a_filling_block_moves_while_nobody_holds_it),
        cmocka_unit_test(a_hold_and_pins_go_on_beside_each_other),
        cmocka_unit_test(a_hold_brings_a_block_home_for_another_that_leaves),
        cmocka_unit_test(a_place_that_is_free_is_taken_about_evenly),
        cmocka_unit_test(a_full_disk_is_tried_again_later),
        cmocka_unit_test(failures_are_forgotten_in_time),
        cmocka_unit_test(wrong_blocks_are_never_forgotten),
        cmocka_unit_test(a_late_read_loses_the_block_and_keeps_its_slots),
        cmocka_unit_test(a_late_write_leaves_the_block_where_it_was),
        cmocka_unit_test(a_silent_tier_is_not_waited_for),
        cmocka_unit_test(late_reads_that_hold_staging_end_spilling),
        cmocka_unit_test(a_block_stays_in_the_host_while_it_is_pinned_there),
        cmocka_unit_test(a_block_on_its_way_up_is_not_pinned_in_the_host),
        cmocka_unit_test(blocks_move_down_ahead_of_need),
        cmocka_unit_test(lru_promotes_and_drops_clean_copies_without_a_write),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
