/* The mover on real files, with both rows of the ring: random transfers between device, host and disk slots beside a model in
 * memory; bytes changed behind its back, wrong identities, forms and stale generations are never taken for the block. */

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "runtime/base/random.h"
#include "tiers/mover.h"
#include "tiers/spill_file.h"
#include "tiers/spill_header.h"

enum { SLOTS = 12, SLOT_BYTES = 8192, PAYLOAD = 5000, TRANSFERS = 8, EVENTS = 3000 };
/* Of tests with transfers that are late on purpose; a busy disk is not late to the others. */
static const uint64_t short_timeout_ns = 200000000, long_timeout_ns = 30000000000;
enum { CODED = 700, CODE_BUFFERS = 2 };

typedef struct Fixture {
    SpillFile file;
    RingFile ring_file;
    uint8_t *memory[2]; /* device and host slots */
    Mover *mover;
    IoFaultPlan faults;
    uint32_t next_id;
    uint8_t *code_buffers;
    uint64_t encoded; /* blocks */
} Fixture;

/* A tier's codec: every seventh byte, turned round. */
static void encode(void *user, const uint8_t *payload, uint8_t *out_payload) {
    ++*(uint64_t *)user;
    for (uint32_t i = 0; i < CODED; i++)
        out_payload[i] = (uint8_t)~payload[7 * i];
}

static void open_fixture(Fixture *fixture, const char *engine) {
    IoFaultPlan faults = fixture->faults;
    *fixture = (Fixture){.faults = faults};
    SpillFileOptions file = {.directory = getenv("TMPDIR") ? getenv("TMPDIR") : "/var/tmp",
                             .bytes = SLOTS * SLOT_BYTES};
    assert_int_equal(spill_file_open(&fixture->file, &file), STATUS_OK);
    fixture->ring_file = (RingFile){fixture->file.descriptor, fixture->file.alignment_bytes};
    for (int i = 0; i < 2; i++) {
        fixture->memory[i] = aligned_alloc(4096, SLOTS * SLOT_BYTES);
        assert_non_null(fixture->memory[i]);
        memset(fixture->memory[i], 0, SLOTS * SLOT_BYTES);
    }
    fixture->code_buffers = aligned_alloc(4096, CODE_BUFFERS * SLOT_BYTES);
    assert_non_null(fixture->code_buffers);
    MoverForm form = {CODED, encode, &fixture->encoded};
    MoverOptions options = {.slots = {fixture->memory[0], fixture->memory[1]},
                            .slot_bytes = SLOT_BYTES,
                            .payload_bytes = PAYLOAD,
                            .forms = {[TIER_HOST] = form, [TIER_NVME] = form},
                            .code_buffers = fixture->code_buffers,
                            .code_buffer_count = CODE_BUFFERS,
                            .ring = {.engine = engine,
                                     .files = &fixture->ring_file,
                                     .file_count = 1,
                                     .depth = 4,
                                     .queue_count = TRANSFERS,
                                     .local_ranks = 1,
                                     .faults = &fixture->faults},
                            .io_timeout_ns = faults.row_count ? short_timeout_ns : long_timeout_ns,
                            .transfers_max = TRANSFERS};
    assert_int_equal(mover_create(&fixture->mover, &options), STATUS_OK);
}

static void close_fixture(Fixture *fixture) {
    assert_true(mover_destroy(fixture->mover));
    spill_file_close(&fixture->file);
    free(fixture->memory[0]);
    free(fixture->memory[1]);
    free(fixture->code_buffers);
}

static uint8_t *payload(const Fixture *fixture, int tier, uint32_t slot) {
    return fixture->memory[tier] + (size_t)slot * SLOT_BYTES + sizeof(SpillHeader);
}

/* One transfer, to its end. */
static TransferResult move(Fixture *fixture, MoverJob job) {
    MoverDone done;
    job.transfer.id = fixture->next_id++;
    assert_int_equal(mover_submit(fixture->mover, &job), STATUS_OK);
    while (mover_collect(fixture->mover, &done, 1, 1000000000) == 0)
        ;
    assert_int_equal(done.transfer_id, job.transfer.id);
    return done.result;
}

static MoverJob job_of(uint64_t block, uint32_t generation, Tier from, uint32_t from_slot, Tier to,
                       uint32_t to_slot) {
    return (MoverJob){.transfer = {.generation = generation,
                                   .from = from,
                                   .from_slot = from_slot,
                                   .to = to,
                                   .to_slot = to_slot},
                      .identity = {.words = {block, 2, 3, 4}},
                      .ordinal = (uint32_t)block};
}

typedef struct Copy {
    uint64_t block; /* 0: none */
    uint32_t generation;
} Copy;

static void fill(Fixture *fixture, uint32_t slot, uint64_t block) {
    Random random = {.key = block};
    for (uint32_t i = 0; i < PAYLOAD; i++)
        payload(fixture, TIER_DEVICE, slot)[i] = (uint8_t)random_u64(&random);
}

static bool holds(const Fixture *fixture, uint32_t slot, uint64_t block) {
    Random random = {.key = block};
    for (uint32_t i = 0; i < PAYLOAD; i++)
        if (payload(fixture, TIER_DEVICE, slot)[i] != (uint8_t)random_u64(&random)) return false;
    return true;
}

static void moves_blocks_down_and_up(void **state) {
    const char *engine = *state;
    Fixture fixture = {0};
    open_fixture(&fixture, engine);
    Random random = {.key = 9};
    Copy copies[TIER_COUNT][SLOTS] = {0};
    uint64_t blocks = 0, ups = 0;
    for (int event = 0; event < EVENTS; event++) {
        Tier lower = random_below(&random, 2) ? TIER_NVME : TIER_HOST;
        uint32_t low_slot = (uint32_t)random_below(&random, SLOTS),
                 slot = (uint32_t)random_below(&random, SLOTS);
        Copy *copy = &copies[lower][low_slot];
        if (random_below(&random, 2)) {
            *copy = (Copy){++blocks, (uint32_t)random_below(&random, 100)};
            fill(&fixture, slot, copy->block);
            assert_int_equal(move(&fixture, job_of(copy->block, copy->generation, TIER_DEVICE, slot,
                                                   lower, low_slot)),
                             TRANSFER_OK);
        } else if (lower == TIER_HOST && copy->block && random_below(&random, 3) == 0) {
            copies[TIER_NVME][slot] = *copy;
            assert_int_equal(move(&fixture, job_of(copy->block, copy->generation, TIER_HOST,
                                                   low_slot, TIER_NVME, slot)),
                             TRANSFER_OK);
        } else {
            uint64_t asked = copy->block ? copy->block : 77777;
            TransferResult result =
                move(&fixture, job_of(asked, copy->generation, lower, low_slot, TIER_DEVICE, slot));
            assert_int_equal(result, copy->block ? TRANSFER_OK : TRANSFER_CORRUPT);
            if (copy->block) assert_true(holds(&fixture, slot, copy->block));
            ups += copy->block != 0;
        }
    }
    assert_true(ups > EVENTS / 6);
    MoverStats stats = mover_stats(fixture.mover);
    assert_int_equal(stats.read_bytes[TIER_HOST] % SLOT_BYTES, 0);
    assert_true(stats.written_bytes[TIER_NVME] > 0 && stats.read_bytes[TIER_NVME] > 0);
    close_fixture(&fixture);
}

/* Spoils one thing of a block on disk or of what is asked for; each must be a miss. */
static void doubt_is_a_miss(void **state) {
    const char *engine = *state;
    Fixture fixture = {0};
    open_fixture(&fixture, engine);
    fill(&fixture, 0, 5);
    assert_int_equal(move(&fixture, job_of(5, 1, TIER_DEVICE, 0, TIER_NVME, 3)), TRANSFER_OK);
    assert_int_equal(move(&fixture, job_of(5, 1, TIER_NVME, 3, TIER_DEVICE, 1)), TRANSFER_OK);
    assert_int_equal(move(&fixture, job_of(6, 1, TIER_NVME, 3, TIER_DEVICE, 1)),
                     TRANSFER_CORRUPT); /* another block */
    assert_int_equal(move(&fixture, job_of(5, 2, TIER_NVME, 3, TIER_DEVICE, 1)),
                     TRANSFER_CORRUPT); /* another life */
    uint8_t *page = aligned_alloc(4096, SLOT_BYTES);
    assert_non_null(page);
    assert_int_equal(pread(fixture.file.descriptor, page, SLOT_BYTES, 3 * SLOT_BYTES), SLOT_BYTES);
    for (uint32_t at = 0; at < sizeof(SpillHeader) + PAYLOAD; at += 97) {
        page[at] ^= 4;
        assert_int_equal(pwrite(fixture.file.descriptor, page, SLOT_BYTES, 3 * SLOT_BYTES),
                         SLOT_BYTES);
        assert_int_equal(move(&fixture, job_of(5, 1, TIER_NVME, 3, TIER_DEVICE, 1)),
                         TRANSFER_CORRUPT);
        page[at] ^= 4;
    }
    /* the same bytes in another place: misdirected */
    assert_int_equal(pwrite(fixture.file.descriptor, page, SLOT_BYTES, 4 * SLOT_BYTES), SLOT_BYTES);
    assert_int_equal(move(&fixture, job_of(5, 1, TIER_NVME, 4, TIER_DEVICE, 1)), TRANSFER_CORRUPT);
    payload(&fixture, TIER_HOST, 2)[100] ^= 1; /* host memory is not trusted either */
    assert_int_equal(move(&fixture, job_of(5, 1, TIER_HOST, 2, TIER_NVME, 5)), TRANSFER_CORRUPT);
    free(page);
    close_fixture(&fixture);
}

/* Collects until a result comes. */
static MoverDone next_done(Fixture *fixture) {
    MoverDone done;
    while (mover_collect(fixture->mover, &done, 1, 1000000000) == 0)
        ;
    return done;
}

/* A block goes down and is encoded on its way, comes back as codes, and is a miss for whoever takes it for something else. */
static void encodes_on_the_way_down(void **state) {
    const char *engine = *state;
    Fixture fixture = {0};
    open_fixture(&fixture, engine);
    for (Tier lower = TIER_HOST; lower < TIER_COUNT; lower++) {
        uint8_t expected[CODED];
        MoverStats before = mover_stats(fixture.mover);
        fill(&fixture, 0, 5);
        for (uint32_t i = 0; i < CODED; i++)
            expected[i] = (uint8_t)~payload(&fixture, TIER_DEVICE, 0)[7 * i];
        MoverJob down = job_of(5, 1, TIER_DEVICE, 0, lower, 3),
                 up = job_of(5, 1, lower, 3, TIER_DEVICE, 1);
        down.transfer.to_form = lower;
        assert_int_equal(move(&fixture, down), TRANSFER_OK);
        assert_true(holds(&fixture, 0, 5));                     /* the source is as it was */
        assert_int_equal(move(&fixture, up), TRANSFER_CORRUPT); /* not raw any more */
        up.transfer.from_form = up.transfer.to_form = lower == TIER_HOST ? TIER_NVME : TIER_HOST;
        assert_int_equal(move(&fixture, up), TRANSFER_CORRUPT); /* nor of another codec */
        up.transfer.from_form = up.transfer.to_form = lower;
        assert_int_equal(move(&fixture, up), TRANSFER_OK);
        assert_memory_equal(payload(&fixture, TIER_DEVICE, 1), expected, CODED);
        assert_int_equal(
            mover_stats(fixture.mover).written_bytes[lower] - before.written_bytes[lower], 4096);
    }
    assert_int_equal(fixture.encoded, 2);
    close_fixture(&fixture);
}

/* Late writes hold their code buffers until they have ended. */
static void without_a_code_buffer_there_is_no_room(void **state) {
    const char *engine = *state;
    Fixture fixture = {0};
    assert_int_equal(io_fault_add(&fixture.faults, "io.write:stuck:count=2,ms=600"), STATUS_OK);
    open_fixture(&fixture, engine);
    fill(&fixture, 0, 5);
    MoverJob down = job_of(5, 1, TIER_DEVICE, 0, TIER_NVME, 3);
    down.transfer.to_form = TIER_NVME;
    for (uint32_t i = 0; i < CODE_BUFFERS; i++) {
        down.transfer.to_slot = i;
        assert_int_equal(move(&fixture, down), TRANSFER_LATE);
    }
    down.transfer.to_slot = 3;
    assert_int_equal(move(&fixture, down), TRANSFER_NO_SPACE);
    for (uint32_t i = 0; i < CODE_BUFFERS; i++)
        assert_int_equal(next_done(&fixture).result, TRANSFER_OK);
    assert_int_equal(move(&fixture, down), TRANSFER_OK);
    close_fixture(&fixture);
}

/* A stuck read is reported late, and once more when it has ended; until then its memory may change. */
static void late_transfers_have_two_results(void **state) {
    const char *engine = *state;
    Fixture fixture = {0};
    assert_int_equal(io_fault_add(&fixture.faults, "io.read:stuck:count=1,ms=500"), STATUS_OK);
    open_fixture(&fixture, engine);
    fill(&fixture, 0, 5);
    assert_int_equal(move(&fixture, job_of(5, 1, TIER_DEVICE, 0, TIER_NVME, 3)), TRANSFER_OK);
    MoverJob stuck = job_of(5, 1, TIER_NVME, 3, TIER_DEVICE, 1);
    stuck.transfer.id = 70;
    assert_int_equal(mover_submit(fixture.mover, &stuck), STATUS_OK);
    MoverDone done = next_done(&fixture);
    assert_int_equal(done.transfer_id, 70);
    assert_int_equal(done.result, TRANSFER_LATE);
    assert_false(holds(&fixture, 1, 5));
    assert_int_equal(move(&fixture, job_of(5, 1, TIER_NVME, 3, TIER_DEVICE, 2)), TRANSFER_OK);
    done = next_done(&fixture);
    assert_int_equal(done.transfer_id, 70);
    assert_int_equal(done.result, TRANSFER_OK);
    assert_true(holds(&fixture, 1, 5));
    assert_int_equal(mover_stats(fixture.mover).late, 1);
    for (int i = 0; i < TRANSFERS; i++) /* none is out any more */
        assert_int_equal(mover_submit(fixture.mover, &stuck), STATUS_OK);
    assert_int_equal(mover_submit(fixture.mover, &stuck), STATUS_AGAIN);
    close_fixture(&fixture);
}

/* What only waits in the ring is cancelled, and the host's copy is whole again. */
static void late_transfers_that_have_not_begun_are_cancelled(void **state) {
    const char *engine = *state;
    Fixture fixture = {0};
    assert_int_equal(io_fault_add(&fixture.faults, "io.write:swallow:count=1"), STATUS_OK);
    open_fixture(&fixture, engine);
    fill(&fixture, 0, 5);
    assert_int_equal(move(&fixture, job_of(5, 1, TIER_DEVICE, 0, TIER_HOST, 2)), TRANSFER_OK);
    MoverJob swallowed = job_of(5, 1, TIER_HOST, 2, TIER_NVME, 4);
    swallowed.transfer.id = 70;
    assert_int_equal(mover_submit(fixture.mover, &swallowed), STATUS_OK);
    assert_int_equal(next_done(&fixture).result, TRANSFER_LATE);
    assert_int_equal(next_done(&fixture).result, TRANSFER_FAILED);
    assert_int_equal(mover_stats(fixture.mover).io_errors, 0);
    assert_int_equal(move(&fixture, job_of(5, 1, TIER_HOST, 2, TIER_DEVICE, 3)), TRANSFER_OK);
    assert_true(holds(&fixture, 3, 5));
    close_fixture(&fixture);
}

typedef struct StatsReader {
    const Mover *mover;
    _Atomic bool stop;
    uint64_t reads, torn;
} StatsReader;

static void *read_stats(void *argument) {
    StatsReader *reader = argument;
    uint64_t before = 0;
    while (!atomic_load(&reader->stop)) {
        MoverStats stats = mover_stats(reader->mover);
        uint64_t read = 0, written = 0;
        for (Tier tier = 0; tier < TIER_COUNT; tier++) {
            read += stats.read_bytes[tier];
            written += stats.written_bytes[tier];
        }
        reader->torn += read != written || read < before;
        reader->reads += read != before;
        before = read;
    }
    return NULL;
}

/* What came out of the tiers is what went into them whenever another thread asks, and a result has been counted once it is here. */
static void statistics_are_of_one_moment(void **state) {
    const char *engine = *state;
    Fixture fixture = {0};
    open_fixture(&fixture, engine);
    StatsReader reader = {.mover = fixture.mover};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, read_stats, &reader), 0);
    fill(&fixture, 0, 5);
    for (uint64_t i = 1; i <= EVENTS; i++) {
        assert_int_equal(move(&fixture, job_of(5, 1, TIER_DEVICE, 0, TIER_HOST, 3)), TRANSFER_OK);
        assert_int_equal(mover_stats(fixture.mover).written_bytes[TIER_HOST], i * SLOT_BYTES);
    }
    atomic_store(&reader.stop, true);
    pthread_join(thread, NULL);
    assert_true(reader.reads > 0);
    assert_int_equal(reader.torn, 0);
    close_fixture(&fixture);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(moves_blocks_down_and_up, "threads"),
        cmocka_unit_test_prestate(moves_blocks_down_and_up, "auto"),
        cmocka_unit_test_prestate(doubt_is_a_miss, "threads"),
        cmocka_unit_test_prestate(doubt_is_a_miss, "auto"),
        cmocka_unit_test_prestate(encodes_on_the_way_down, "threads"),
        cmocka_unit_test_prestate(encodes_on_the_way_down, "auto"),
        cmocka_unit_test_prestate(without_a_code_buffer_there_is_no_room, "threads"),
        cmocka_unit_test_prestate(without_a_code_buffer_there_is_no_room, "auto"),
        cmocka_unit_test_prestate(late_transfers_have_two_results, "threads"),
        cmocka_unit_test_prestate(late_transfers_have_two_results, "auto"),
        cmocka_unit_test_prestate(late_transfers_that_have_not_begun_are_cancelled, "threads"),
        cmocka_unit_test_prestate(late_transfers_that_have_not_begun_are_cancelled, "auto"),
        cmocka_unit_test_prestate(statistics_are_of_one_moment, "auto"),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
