/* The mover with a device that the host cannot touch: blocks come back as they went, by way of the host's memory and of fewer buffers
 * than transfers; wrong bytes are told wherever they became wrong; buffers that stuck I/O holds make transfers fail, not wait. And the slots
 * below it: what crosses either way ends in order, each with its hash. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/emulation/emulated_device.h"
#include "runtime/base/hash.h"
#include "runtime/base/random.h"
#include "tiers/mover.h"
#include "tiers/spill_file.h"
#include "tiers/spill_header.h"

enum { SLOTS = 8, SLOT_BYTES = 8192, PAYLOAD = 5000, CODED = 600, TRANSFERS = 8, BUFFERS = 2 };
/* Of tests with transfers that are late on purpose; a busy disk is not late to the others. */
static const uint64_t short_timeout_ns = 200000000, long_timeout_ns = 30000000000;

typedef struct Fixture {
    Device *device;
    DeviceStream *stream;
    uint8_t *device_memory, *host_memory,
        *block;            /* [SLOTS][SLOT_BYTES], pinned ones but the first */
    uint8_t *code_buffers; /* pinned [BUFFERS][SLOT_BYTES] */
    uint32_t encoded;      /* blocks */
    DeviceSlots *slots;
    SpillFile file;
    RingFile ring_file;
    IoFaultPlan faults;
    Mover *mover;
} Fixture;

static void *take(Fixture *fixture, MemoryPlace place, uint64_t bytes) {
    void *memory;
    assert_int_equal(fixture->device->memory_take(fixture->device, place, bytes, "test", &memory),
                     STATUS_OK);
    return memory;
}

static void encode(void *user, const uint8_t *payload, uint8_t *out_payload) {
    ++*(uint32_t *)user;
    for (uint32_t i = 0; i < CODED; i++)
        out_payload[i] = (uint8_t)~payload[7 * i];
}

static void open_mover(Fixture *fixture) {
    const MoverForm form = {CODED, encode, &fixture->encoded};
    const MoverOptions options = {.slots = {NULL, fixture->host_memory},
                                  .device_slots = fixture->slots,
                                  .slot_bytes = SLOT_BYTES,
                                  .payload_bytes = PAYLOAD,
                                  .forms = {[TIER_HOST] = form, [TIER_NVME] = form},
                                  .code_buffers = fixture->code_buffers,
                                  .code_buffer_count = BUFFERS,
                                  .ring = {.engine = "threads",
                                           .files = &fixture->ring_file,
                                           .file_count = 1,
                                           .depth = 4,
                                           .queue_count = TRANSFERS,
                                           .local_ranks = 1,
                                           .faults = &fixture->faults},
                                  .io_timeout_ns = fixture->faults.row_count ? short_timeout_ns
                                                                             : long_timeout_ns,
                                  .transfers_max = TRANSFERS};
    assert_int_equal(mover_create(&fixture->mover, &options), STATUS_OK);
}

static void open_fixture(Fixture *fixture, const char *fault) {
    *fixture = (Fixture){0};
    const EmulatedDeviceOptions options = {.seed = 7, .memory_bytes = 1 << 20};
    assert_int_equal(emulated_device_open(&fixture->device, &options), STATUS_OK);
    assert_int_equal(
        fixture->device->stream_create(fixture->device, STREAM_COMPUTE, &fixture->stream),
        STATUS_OK);
    fixture->device_memory = take(fixture, MEMORY_DEVICE, SLOTS * SLOT_BYTES);
    fixture->host_memory = take(fixture, MEMORY_HOST, SLOTS * SLOT_BYTES);
    fixture->code_buffers = take(fixture, MEMORY_HOST, BUFFERS * SLOT_BYTES);
    fixture->block = take(fixture, MEMORY_HOST, PAYLOAD);
    const DeviceSlotsOptions slots = {.device = fixture->device,
                                      .slots = fixture->device_memory,
                                      .slot_bytes = SLOT_BYTES,
                                      .buffer_count = BUFFERS};
    assert_int_equal(device_slots_create(&fixture->slots, &slots), STATUS_OK);
    const SpillFileOptions file = {.directory = getenv("TMPDIR") ? getenv("TMPDIR") : "/var/tmp",
                                   .bytes = SLOTS * SLOT_BYTES};
    assert_int_equal(spill_file_open(&fixture->file, &file), STATUS_OK);
    fixture->ring_file = (RingFile){fixture->file.descriptor, fixture->file.alignment_bytes};
    if (fault) assert_int_equal(io_fault_add(&fixture->faults, fault), STATUS_OK);
    open_mover(fixture);
}

static void close_fixture(Fixture *fixture) {
    assert_true(mover_destroy(fixture->mover));
    device_slots_destroy(fixture->slots);
    spill_file_close(&fixture->file);
    fixture->device->close(fixture->device);
}

/* ---- blocks on the device */

static void copy(Fixture *fixture, void *destination, const void *source) {
    Device *device = fixture->device;
    assert_int_equal(device->copy(device, fixture->stream, destination, source, PAYLOAD),
                     STATUS_OK);
    assert_int_equal(device->stream_wait(device, fixture->stream), STATUS_OK);
}

static uint8_t *device_payload(const Fixture *fixture, uint32_t slot) {
    return fixture->device_memory + slot * SLOT_BYTES + sizeof(SpillHeader);
}

static void fill(Fixture *fixture, uint32_t slot, uint64_t block) {
    Random random = {.key = block};
    for (uint32_t i = 0; i < PAYLOAD; i++)
        fixture->block[i] = (uint8_t)random_u64(&random);
    copy(fixture, device_payload(fixture, slot), fixture->block);
}

static bool holds(Fixture *fixture, uint32_t slot, uint64_t block) {
    Random random = {.key = block};
    bool same = true;
    copy(fixture, fixture->block, device_payload(fixture, slot));
    for (uint32_t i = 0; i < PAYLOAD; i++)
        same &= fixture->block[i] == (uint8_t)random_u64(&random);
    return same;
}

/* ---- transfers */

static MoverJob job_of(uint64_t block, Tier from, uint32_t from_slot, Tier to, uint32_t to_slot) {
    return (MoverJob){.transfer = {.id = (uint32_t)block,
                                   .generation = 1,
                                   .from = from,
                                   .from_slot = from_slot,
                                   .to = to,
                                   .to_slot = to_slot},
                      .identity = {.words = {block}}};
}

static void submit(Fixture *fixture, uint64_t block, Tier from, uint32_t from_slot, Tier to,
                   uint32_t to_slot) {
    const MoverJob job = job_of(block, from, from_slot, to, to_slot);
    assert_int_equal(mover_submit(fixture->mover, &job), STATUS_OK);
}

static MoverDone next_done(Fixture *fixture) {
    MoverDone done;
    while (mover_collect(fixture->mover, &done, 1, 1000000000) == 0)
        ;
    return done;
}

static TransferResult move(Fixture *fixture, uint64_t block, Tier from, uint32_t from_slot, Tier to,
                           uint32_t to_slot) {
    submit(fixture, block, from, from_slot, to, to_slot);
    return next_done(fixture).result;
}

static void expect_all(Fixture *fixture, uint32_t count, TransferResult result) {
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(next_done(fixture).result, result);
}

static void blocks_come_back(void **state) {
    (void)state;
    static const Tier lower[] = {TIER_HOST, TIER_NVME};
    Fixture fixture;
    open_fixture(&fixture, NULL);
    for (int t = 0; t < 2; t++) {
        for (uint32_t i = 0; i < SLOTS; i++)
            fill(&fixture, i, 10 + i);
        for (uint32_t i = 0; i < SLOTS; i++)
            submit(&fixture, 10 + i, TIER_DEVICE, i, lower[t], SLOTS - 1 - i);
        expect_all(&fixture, SLOTS, TRANSFER_OK);
        for (uint32_t i = 0; i < SLOTS; i++)
            fill(&fixture, i, 99);
        for (uint32_t i = 0; i < SLOTS; i++)
            submit(&fixture, 10 + i, lower[t], SLOTS - 1 - i, TIER_DEVICE, i);
        expect_all(&fixture, SLOTS, TRANSFER_OK);
        for (uint32_t i = 0; i < SLOTS; i++)
            assert_true(holds(&fixture, i, 10 + i));
    }
    close_fixture(&fixture);
}

/* Through a buffer, for the host cannot look at the device; codes go back as they are. */
static void encodes_on_the_way_down(void **state) {
    (void)state;
    Fixture fixture;
    open_fixture(&fixture, NULL);
    for (Tier lower = TIER_HOST; lower < TIER_COUNT; lower++) {
        uint8_t expected[CODED];
        fill(&fixture, 0, 5);
        for (uint32_t i = 0; i < CODED; i++)
            expected[i] = (uint8_t)~fixture.block[7 * i];
        MoverJob down = job_of(5, TIER_DEVICE, 0, lower, 3),
                 up = job_of(5, lower, 3, TIER_DEVICE, 1);
        down.transfer.to_form = up.transfer.from_form = up.transfer.to_form = lower;
        for (int turn = 0; turn <= BUFFERS; turn++) { /* each gives its buffers back */
            assert_int_equal(mover_submit(fixture.mover, &down), STATUS_OK);
            assert_int_equal(next_done(&fixture).result, TRANSFER_OK);
        }
        assert_true(holds(&fixture, 0, 5)); /* the source is as it was */
        assert_int_equal(mover_submit(fixture.mover, &up), STATUS_OK);
        assert_int_equal(next_done(&fixture).result, TRANSFER_OK);
        copy(&fixture, fixture.block, device_payload(&fixture, 1));
        assert_memory_equal(fixture.block, expected, CODED);
    }
    assert_int_equal(fixture.encoded, 2 * (BUFFERS + 1));
    close_fixture(&fixture);
}

static void wrong_bytes_are_told(void **state) {
    (void)state;
    static const Tier lower[] = {TIER_HOST, TIER_NVME};
    Fixture fixture;
    open_fixture(&fixture, "io.write:torn");
    for (int t = 0; t < 2; t++) {
        fill(&fixture, 0, 5);
        assert_int_equal(move(&fixture, 5, TIER_DEVICE, 0, lower[t], 3), TRANSFER_OK);
        fixture.host_memory[3 * SLOT_BYTES + 100] ^= 1;
        assert_int_equal(move(&fixture, 5, lower[t], 3, TIER_DEVICE, 1), TRANSFER_CORRUPT);
    }
    close_fixture(&fixture);
}

/* A block that is another's does not even begin its way. */
static void wrong_headers_stay_below(void **state) {
    (void)state;
    Fixture fixture;
    open_fixture(&fixture, NULL);
    fill(&fixture, 0, 5);
    fill(&fixture, 1, 6);
    assert_int_equal(move(&fixture, 5, TIER_DEVICE, 0, TIER_HOST, 3), TRANSFER_OK);
    assert_int_equal(move(&fixture, 7, TIER_HOST, 3, TIER_DEVICE, 1), TRANSFER_CORRUPT);
    assert_true(holds(&fixture, 1, 6));
    close_fixture(&fixture);
}

/* Of blocks whose bytes come and go at once: wrong ones among right ones, each told as what it is. */
static void each_of_many_is_told(void **state) {
    (void)state;
    Fixture fixture;
    open_fixture(&fixture, NULL);
    for (uint32_t i = 0; i < SLOTS; i++) {
        fill(&fixture, i, 20 + i);
        assert_int_equal(move(&fixture, 20 + i, TIER_DEVICE, i, TIER_HOST, i), TRANSFER_OK);
    }
    for (uint32_t round = 0; round < 20; round++) {
        uint32_t wrong = 0;
        for (uint32_t i = 0; i < SLOTS; i++) {
            bool flip = (round + 1) * (i + 3) % 5 == 0;
            fixture.host_memory[i * SLOT_BYTES + sizeof(SpillHeader) + 31 * i] ^= flip;
            wrong |= (uint32_t)flip << i;
            submit(&fixture, 20 + i, TIER_HOST, i, TIER_DEVICE, i);
        }
        for (uint32_t i = 0; i < SLOTS; i++) {
            MoverDone done = next_done(&fixture);
            bool flipped = wrong >> (done.transfer_id - 20) & 1;
            assert_int_equal(done.result, flipped ? TRANSFER_CORRUPT : TRANSFER_OK);
        }
        for (uint32_t i = 0; i < SLOTS; i++)
            fixture.host_memory[i * SLOT_BYTES + sizeof(SpillHeader) + 31 * i] ^= wrong >> i & 1;
    }
    close_fixture(&fixture);
}

static void stuck_writes_hold_their_buffers(void **state) {
    (void)state;
    Fixture fixture;
    open_fixture(&fixture, "io.write:stuck:after=1,count=2,ms=2500");
    fill(&fixture, 0, 5);
    assert_int_equal(move(&fixture, 5, TIER_DEVICE, 0, TIER_NVME, 4), TRANSFER_OK);
    for (uint32_t i = 0; i < BUFFERS; i++)
        submit(&fixture, 6 + i, TIER_DEVICE, 0, TIER_NVME, i);
    expect_all(&fixture, BUFFERS, TRANSFER_LATE);
    assert_int_equal(move(&fixture, 5, TIER_DEVICE, 0, TIER_NVME, 5), TRANSFER_NO_SPACE);
    assert_int_equal(move(&fixture, 5, TIER_NVME, 4, TIER_DEVICE, 1), TRANSFER_FAILED);
    assert_int_equal(move(&fixture, 5, TIER_DEVICE, 0, TIER_HOST, 1), TRANSFER_OK);
    expect_all(&fixture, BUFFERS, TRANSFER_OK);
    assert_int_equal(move(&fixture, 5, TIER_NVME, 4, TIER_DEVICE, 1), TRANSFER_OK);
    assert_true(holds(&fixture, 1, 5));
    close_fixture(&fixture);
}

/* ---- the slots alone */

enum { CROSSINGS = 300 };

/* Crossing i, up or down, of one of the sizes. A host slot holds one of every SLOTS, and the same bytes lie in the device's. */
static DeviceCrossing crossing_of(const Fixture *fixture, uint32_t i) {
    static const uint32_t sizes[] = {1, 240, 241, 1500, PAYLOAD};
    return (DeviceCrossing){.up = i * 5 % 3 > 0,
                            .slot = i % SLOTS,
                            .block = fixture->host_memory + i % SLOTS * SLOT_BYTES,
                            .bytes = sizes[i * 7 % (sizeof sizes / sizeof *sizes)],
                            .hash_seed = i};
}

static void expect_crossed(Fixture *fixture, bool wait, uint32_t begun, uint32_t *ended) {
    uint64_t hashes[DEVICE_DIGESTS_MAX];
    uint32_t count;
    assert_int_equal(device_slots_crossed(fixture->slots, wait, hashes, &count), STATUS_OK);
    assert_true(count <= begun - *ended && (!wait || begun == *ended || count > 0));
    for (uint32_t i = 0; i < count; i++) {
        DeviceCrossing crossing = crossing_of(fixture, (*ended)++);
        assert_int_equal(hashes[i], hash_xxh3(crossing.block + sizeof(SpillHeader), crossing.bytes,
                                              crossing.hash_seed));
    }
}

static void crossings_end_in_order(void **state) {
    (void)state;
    Fixture fixture;
    open_fixture(&fixture, NULL);
    Random random = {.key = 11};
    uint32_t begun = 0, ended = 0, refused = 0;
    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        fill(&fixture, slot, slot);
        memcpy(fixture.host_memory + slot * SLOT_BYTES + sizeof(SpillHeader), fixture.block,
               PAYLOAD);
    }
    while (begun < CROSSINGS) {
        DeviceCrossing crossing = crossing_of(&fixture, begun);
        Status status = device_slots_cross(fixture.slots, &crossing);
        bool full = status == STATUS_AGAIN;
        assert_true(full || status == STATUS_OK);
        begun += !full;
        refused += full;
        if (full || random_below(&random, 12) == 0)
            expect_crossed(&fixture, full || random_below(&random, 4) == 0, begun, &ended);
    }
    while (ended < CROSSINGS)
        expect_crossed(&fixture, true, CROSSINGS, &ended);
    assert_true(refused > 0);
    expect_crossed(&fixture, true, CROSSINGS, &ended);
    close_fixture(&fixture);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_come_back),       cmocka_unit_test(encodes_on_the_way_down),
        cmocka_unit_test(wrong_bytes_are_told),   cmocka_unit_test(wrong_headers_stay_below),
        cmocka_unit_test(each_of_many_is_told),   cmocka_unit_test(stuck_writes_hold_their_buffers),
        cmocka_unit_test(crossings_end_in_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
