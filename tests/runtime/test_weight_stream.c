/* The stream of weights by itself: what was stored comes back, in any order; a pass reads each layer once; what a disk may do ends in
 * E-WEIGHTS-IO with the tensor's name, or in nothing at all, and never in other bytes. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/base/random.h"
#include "runtime/weights/weight_stream.h"

enum { LAYERS = 6, LAYER_PIECES = 3, PIECES = LAYERS * LAYER_PIECES };

typedef struct Fixture {
    Device *device;
    WeightPiece pieces[PIECES];
    char names[PIECES][16];
    WeightStream *stream;
    uint32_t used; /* layer that is held; LAYERS: none */
    IoFaultPlan faults;
    double timeout_seconds;
} Fixture;

static const char *directories[2];

static uint8_t byte_at(uint32_t piece, uint64_t at) {
    return (uint8_t)(piece * 31 + at * 7 + (at >> 8) * 13 + (at >> 16));
}

/* Sizes that cross chunks and end anywhere; layer 3 does not stream. */
static void draw(Fixture *fixture, uint64_t seed) {
    Random random = {.key = seed};
    uint64_t bytes[TIER_COUNT];
    for (uint32_t i = 0; i < PIECES; i++) {
        snprintf(fixture->names[i], sizeof fixture->names[i], "tensor %u", i);
        fixture->pieces[i] = (WeightPiece){.name = fixture->names[i],
                                           .layer = i / LAYER_PIECES,
                                           .bytes = 1 + random_below(&random, 900000)};
    }
    weight_placement_plan(fixture->pieces, PIECES, (uint64_t[]){0, 0, 0}, bytes);
    for (uint32_t i = 0; i < PIECES; i++)
        if (fixture->pieces[i].layer == 3) fixture->pieces[i].tier = TIER_DEVICE;
}

static Status open_stream(Fixture *fixture, const char *io_engine, const char *fault) {
    memset(&fixture->faults, 0, sizeof fixture->faults);
    fixture->used = LAYERS;
    if (fault) assert_int_equal(io_fault_add(&fixture->faults, fault), STATUS_OK);
    const WeightStreamOptions options = {.device = fixture->device,
                                         .pieces = fixture->pieces,
                                         .piece_count = PIECES,
                                         .layer_count = LAYERS,
                                         .directories = directories,
                                         .directory_count = 2,
                                         .io_engine = io_engine,
                                         .local_rings = 1,
                                         .io_timeout_seconds = fixture->timeout_seconds,
                                         .faults = &fixture->faults};
    return weight_stream_create(&fixture->stream, &options);
}

static Status store_all(Fixture *fixture) {
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        uint8_t *memory = NULL;
        if (weight_stream_layer_bytes(fixture->stream, layer) == 0) continue;
        TRY(weight_stream_begin_store(fixture->stream, layer, &memory));
        for (uint32_t i = layer * LAYER_PIECES; i < (layer + 1) * LAYER_PIECES; i++)
            for (uint64_t at = 0; at < fixture->pieces[i].bytes; at++)
                memory[fixture->pieces[i].offset + at] = byte_at(i, at);
        weight_stream_end_store(fixture->stream);
    }
    return weight_stream_finish_store(fixture->stream);
}

static void assert_layer(const Fixture *fixture, uint32_t layer, const uint8_t *bytes) {
    for (uint32_t i = layer * LAYER_PIECES; i < (layer + 1) * LAYER_PIECES; i++) {
        const WeightPiece *piece = &fixture->pieces[i];
        for (uint64_t at = 0; piece->tier == TIER_NVME && at < piece->bytes; at++)
            if (bytes[piece->offset + at] != byte_at(i, at))
                fail_msg("layer %u, piece %u: byte %llu is wrong", layer, i,
                         (unsigned long long)at);
    }
}

static void let_go(Fixture *fixture) {
    if (fixture->used < LAYERS) weight_stream_release(fixture->stream, fixture->used);
    fixture->used = LAYERS;
}

/* The layer is held until another one is used. */
static Status use(Fixture *fixture, uint32_t layer) {
    const uint8_t *bytes;
    if (fixture->used != layer) let_go(fixture);
    TRY(weight_stream_acquire(fixture->stream, layer, &bytes));
    fixture->used = layer;
    if (layer == 3)
        assert_null(bytes);
    else
        assert_layer(fixture, layer, bytes);
    return STATUS_OK;
}

static Status pass_once(Fixture *fixture) {
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        TRY(use(fixture, layer));
    let_go(fixture);
    return STATUS_OK;
}

/* After a stream was opened: three passes. */
static Status run_passes(Fixture *fixture) {
    Status status = store_all(fixture);
    for (int pass = 0; pass < 3 && status == STATUS_OK; pass++)
        status = pass_once(fixture);
    return status;
}

/* Each layer is read once a pass and used once, beside what has been read ahead of a next one. */
static void test_passes(void **state) {
    Fixture *fixture = *state;
    static const char *const engines[] = {"auto", "threads"};
    for (int i = 0; i < 2; i++) {
        draw(fixture, 5 + (uint64_t)i);
        assert_int_equal(open_stream(fixture, engines[i], NULL), STATUS_OK);
        assert_int_equal(run_passes(fixture), STATUS_OK);
        WeightStreamStats stats = weight_stream_stats(fixture->stream);
        assert_int_equal(stats.layers_acquired, 3 * (LAYERS - 1));
        assert_in_range(stats.layers_read, 3 * (LAYERS - 1), 3 * (LAYERS - 1) + WEIGHT_FRAMES);
        assert_true(stats.read_bytes > 0 && stats.seconds_reading > 0);
        assert_non_null(weight_stream_file(fixture->stream, 1));
        assert_null(weight_stream_file(fixture->stream, 2));
        weight_stream_destroy(fixture->stream);
    }
}

/* Any layer at any time, expected or not. */
static void test_any_order(void **state) {
    Fixture *fixture = *state;
    Random random = {.key = 9};
    draw(fixture, 7);
    assert_int_equal(open_stream(fixture, "auto", NULL), STATUS_OK);
    assert_int_equal(store_all(fixture), STATUS_OK);
    for (int round = 0; round < 40; round++) {
        uint32_t layers[2 * LAYERS], count = 1 + (uint32_t)random_below(&random, 2 * LAYERS);
        for (uint32_t i = 0; i < count; i++)
            layers[i] = (uint32_t)random_below(&random, LAYERS);
        if (random_below(&random, 3) > 0)
            weight_stream_expect(fixture->stream, layers, count,
                                 (uint32_t)random_below(&random, LAYERS));
        weight_stream_limit(fixture->stream, random_below(&random, 3) ? UINT64_MAX : 1);
        for (uint32_t i = 0; i < count; i++) {
            uint32_t layer =
                random_below(&random, 5) ? layers[i] : (uint32_t)random_below(&random, LAYERS);
            assert_int_equal(use(fixture, layer), STATUS_OK);
            assert_int_equal(use(fixture, layer), STATUS_OK);
        }
        if (random_below(&random, 2)) let_go(fixture);
    }
    weight_stream_destroy(fixture->stream);
}

/* Several are held at once, and nothing is read into their frames. */
static void test_held(void **state) {
    Fixture *fixture = *state;
    const uint8_t *first, *second, *again;
    draw(fixture, 10);
    assert_int_equal(open_stream(fixture, "auto", NULL), STATUS_OK);
    assert_int_equal(store_all(fixture), STATUS_OK);
    assert_int_equal(weight_stream_acquire(fixture->stream, 0, &first), STATUS_OK);
    assert_int_equal(weight_stream_acquire(fixture->stream, 1, &second), STATUS_OK);
    for (uint32_t layer = 2; layer < LAYERS; layer++)
        assert_int_equal(use(fixture, layer), STATUS_OK);
    assert_layer(fixture, 0, first);
    assert_layer(fixture, 1, second);
    assert_int_equal(weight_stream_acquire(fixture->stream, 0, &again), STATUS_OK);
    assert_ptr_equal(again, first);
    let_go(fixture);
    assert_true(weight_stream_is_ready(fixture->stream, 0));
    assert_true(weight_stream_is_ready(fixture->stream, 3)); /* which has nothing to wait for */
    weight_stream_release(fixture->stream, 0);
    weight_stream_release(fixture->stream, 1);
    assert_int_equal(pass_once(fixture), STATUS_OK);
    weight_stream_destroy(fixture->stream);
}

/* A step that goes over some layers again is read as it says, and nothing twice. */
static void test_expected(void **state) {
    Fixture *fixture = *state;
    static const uint32_t layers[] = {0, 1, 2, 3, 4, 5, 2, 2, 3, 4};
    static const uint32_t used[] = {0, 1, 2, 4, 5, 2, 4};
    draw(fixture, 8);
    assert_int_equal(open_stream(fixture, "auto", NULL), STATUS_OK);
    assert_int_equal(store_all(fixture), STATUS_OK);
    weight_stream_expect(fixture->stream, layers, 10, 0);
    for (uint32_t i = 0; i < 10; i++)
        assert_int_equal(use(fixture, layers[i]), STATUS_OK);
    WeightStreamStats stats = weight_stream_stats(fixture->stream);
    assert_int_equal(stats.layers_acquired, sizeof used / sizeof *used);
    assert_in_range(stats.layers_read, LAYERS - 1, /* frames may have kept the repeated ones */
                    sizeof used / sizeof *used + WEIGHT_FRAMES);
    weight_stream_destroy(fixture->stream);
}

/* Layers that all fit in frames are read once and stay. */
static void test_few_layers(void **state) {
    Fixture *fixture = *state;
    draw(fixture, 11);
    for (uint32_t i = 0; i < PIECES; i++)
        if (fixture->pieces[i].layer > 1) fixture->pieces[i].tier = TIER_DEVICE;
    assert_int_equal(open_stream(fixture, "auto", NULL), STATUS_OK);
    assert_int_equal(run_passes(fixture), STATUS_OK);
    assert_int_equal(weight_stream_stats(fixture->stream).layers_read, 2);
    weight_stream_destroy(fixture->stream);
}

typedef struct FaultCase {
    const char *fault;
    const char *words; /* of E-WEIGHTS-IO; NULL: it is mended */
} FaultCase;

static void test_faults(void **state) {
    Fixture *fixture = *state;
    static const FaultCase cases[] = {
        {"io.read:eio:after=12,count=1", "Input/output error"},
        {"io.write:eio:after=3,count=1", "Input/output error"},
        {"io.write:enospc:after=3", "No space left"},
        {"io.read:flip:after=9,count=1", "not the bytes that were written"},
        {"io.write:torn:after=3,count=1", "not the bytes that were written"},
        {"io.write:misdirected:after=3,count=1", "not the bytes that were written"},
        {"io.write:stale:after=3,count=1", "not the bytes that were written"},
        {"io.read:stuck:after=4,count=1,ms=1200", "has not ended after 0.5 s"},
        {"io.read:short:odds=0.3,seed=4", NULL},
        {"io.write:short:odds=0.3,seed=4", NULL},
        {"io.read:delay:odds=0.3,seed=5,ms=3", NULL},
    };
    draw(fixture, 13);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *text;
        fixture->timeout_seconds = strstr(cases[i].fault, "stuck") ? 0.5 : 60;
        assert_int_equal(open_stream(fixture, "threads", cases[i].fault), STATUS_OK);
        error_capture_begin();
        Status status = run_passes(fixture);
        error_capture_end();
        ErrorCode error = error_last(&text);
        if (!cases[i].words) {
            assert_int_equal(status, STATUS_OK);
        } else {
            assert_int_equal(status, STATUS_DEVICE);
            assert_int_equal(error, ERROR_WEIGHTS_IO);
            assert_non_null(strstr(text, cases[i].words));
            if (!strstr(cases[i].fault, "stuck")) assert_non_null(strstr(text, "tensor "));
        }
        weight_stream_destroy(fixture->stream);
    }
    fixture->timeout_seconds = 60;
}

/* A wrong bit in any chunk, the last of a frame too, is met by whoever wants the layer. */
static void test_every_chunk(void **state) {
    Fixture *fixture = *state;
    char fault[64];
    draw(fixture, 19);
    for (uint32_t i = 0; i < 20; i++) {
        snprintf(fault, sizeof fault, "io.read:flip:after=%u,count=1", i);
        assert_int_equal(open_stream(fixture, "auto", fault), STATUS_OK);
        error_capture_begin();
        assert_int_equal(run_passes(fixture), STATUS_DEVICE);
        error_capture_end();
        weight_stream_destroy(fixture->stream);
    }
}

/* Told at the start: no room, no folder, no such way to read. */
static void test_refused(void **state) {
    Fixture *fixture = *state;
    const char *text, *good = directories[1];
    draw(fixture, 17);
    error_capture_begin();
    assert_int_equal(open_stream(fixture, "auto", "spill.tmpfile:eio"), STATUS_BAD_INPUT);
    error_capture_end();
    assert_int_equal(error_last(&text), ERROR_SPILL_CREATE);
    assert_non_null(strstr(text, "--weights-nvme-dir"));
    error_capture_begin();
    assert_int_equal(open_stream(fixture, "auto", "spill.allocate:enospc"), STATUS_NO_SPACE);
    error_capture_end();
    assert_int_equal(error_last(&text), ERROR_SPILL_SPACE);
    assert_non_null(strstr(text, "--weights-device-size"));
    directories[1] = "/nowhere/at/all";
    error_capture_begin();
    assert_int_equal(open_stream(fixture, "auto", NULL), STATUS_BAD_INPUT);
    error_capture_end();
    directories[1] = good;
    error_capture_begin();
    assert_int_equal(open_stream(fixture, "uring", "io.setup:eperm"), STATUS_UNSUPPORTED);
    error_capture_end();
    assert_int_equal(error_last(&text), ERROR_IO_ENGINE);
}

static int set_up(void **state) {
    static Fixture fixture = {.timeout_seconds = 60};
    directories[0] = directories[1] = getenv("TMPDIR") ? getenv("TMPDIR") : "/var/tmp";
    *state = &fixture;
    return device_host_open(&fixture.device) == STATUS_OK ? 0 : -1;
}

static int tear_down(void **state) {
    Fixture *fixture = *state;
    fixture->device->close(fixture->device);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_passes),      cmocka_unit_test(test_any_order),
        cmocka_unit_test(test_held),        cmocka_unit_test(test_expected),
        cmocka_unit_test(test_few_layers),  cmocka_unit_test(test_faults),
        cmocka_unit_test(test_every_chunk), cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
