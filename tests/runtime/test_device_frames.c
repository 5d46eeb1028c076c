/* Layers that come to a device out of the host's reach by themselves: whatever the order, what was expected and how late the device is,
 * work on the compute stream finds the bytes of its layer, though nobody waits between layers. What a disk does wrong ends in
 * E-WEIGHTS-IO with the tensor's name. Here a layer's kernels are copies of its frame to where the host looks in the end. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/backend.h"
#include "runtime/base/random.h"
#include "runtime/weights/device_frames.h"

enum { LAYERS = 6, LAYER_PIECES = 3, PIECES = LAYERS * LAYER_PIECES, USES_MAX = 60, SEEDS = 60 };

typedef struct Fixture {
    Device *device;
    DeviceStream *compute;
    WeightPiece pieces[PIECES];
    char names[PIECES][16];
    WeightStream *stream;
    DeviceFrames *frames;
    IoFaultPlan faults;
    uint64_t frame_bytes;
    uint8_t *results; /* pinned [USES_MAX][frame_bytes] */
    uint32_t layers[USES_MAX], use_count;
} Fixture;

static const char *directory;

static uint8_t byte_at(uint32_t piece, uint64_t at) {
    return (uint8_t)(piece * 31 + at * 7 + (at >> 8) * 13);
}

/* Any piece in any tier; of the first layer one streams, and of the second one lies in host memory. */
static void draw_pieces(Fixture *fixture, Random *random) {
    uint64_t bytes[TIER_COUNT];
    for (uint32_t i = 0; i < PIECES; i++) {
        snprintf(fixture->names[i], sizeof fixture->names[i], "tensor %u", i);
        fixture->pieces[i] = (WeightPiece){.name = fixture->names[i],
                                           .layer = i / LAYER_PIECES,
                                           .bytes = 1 + random_below(random, 9000)};
    }
    weight_placement_plan(fixture->pieces, PIECES, (uint64_t[]){0, 0, 0}, bytes);
    for (uint32_t i = 0; i < PIECES; i++)
        fixture->pieces[i].tier = (Tier)random_below(random, TIER_COUNT);
    fixture->pieces[1].tier = TIER_NVME;
    fixture->pieces[LAYER_PIECES].tier = TIER_HOST;
    uint64_t ends[TIER_COUNT] = {0};
    for (uint32_t i = 0; i < PIECES; i++) {
        WeightPiece *piece = &fixture->pieces[i];
        if (i % LAYER_PIECES == 0) memset(ends, 0, sizeof ends);
        piece->offset = ends[piece->tier];
        ends[piece->tier] += (piece->bytes + PIECE_ALIGNMENT_BYTES - 1) / PIECE_ALIGNMENT_BYTES *
                             PIECE_ALIGNMENT_BYTES;
    }
}

static void open_parts(Fixture *fixture, uint64_t seed, const char *fault) {
    const BackendOptions backend = {.seed = seed};
    Kernels kernels;
    assert_int_equal(backend_open("emulated", &backend, &fixture->device, &kernels), STATUS_OK);
    Device *device = fixture->device;
    assert_int_equal(device->stream_create(device, STREAM_COMPUTE, &fixture->compute), STATUS_OK);
    memset(&fixture->faults, 0, sizeof fixture->faults);
    if (fault) assert_int_equal(io_fault_add(&fixture->faults, fault), STATUS_OK);
    const WeightStreamOptions stream = {.device = device,
                                        .pieces = fixture->pieces,
                                        .piece_count = PIECES,
                                        .layer_count = LAYERS,
                                        .directories = &directory,
                                        .directory_count = 1,
                                        .io_engine = "threads",
                                        .local_rings = 1,
                                        .io_timeout_seconds = 60,
                                        .silent = true,
                                        .faults = &fixture->faults};
    assert_int_equal(weight_stream_create(&fixture->stream, &stream), STATUS_OK);
    const DeviceFramesOptions frames = {.device = device,
                                        .compute = fixture->compute,
                                        .pieces = fixture->pieces,
                                        .piece_count = PIECES,
                                        .layer_count = LAYERS,
                                        .stream = fixture->stream};
    assert_int_equal(device_frames_create(&fixture->frames, &frames), STATUS_OK);
    fixture->frame_bytes = device_frames_bytes(fixture->pieces, PIECES) / DEVICE_FRAMES;
    fixture->use_count = 0;
    assert_int_equal(device->memory_take(device, MEMORY_HOST, USES_MAX * fixture->frame_bytes,
                                         "results", (void **)&fixture->results),
                     STATUS_OK);
}

static void close_parts(Fixture *fixture) {
    Device *device = fixture->device;
    device_frames_destroy(fixture->frames);
    weight_stream_destroy(fixture->stream);
    device->memory_give(device, MEMORY_HOST, fixture->results, USES_MAX * fixture->frame_bytes);
    device->stream_destroy(device, fixture->compute);
    device->close(device);
}

static void put(uint8_t *memory, uint32_t piece, uint64_t bytes) {
    for (uint64_t at = 0; at < bytes; at++)
        memory[at] = byte_at(piece, at);
}

static void fill(Fixture *fixture) {
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        uint8_t *file = NULL, *host = device_frames_host(fixture->frames, layer);
        if (weight_stream_layer_bytes(fixture->stream, layer) > 0)
            assert_int_equal(weight_stream_begin_store(fixture->stream, layer, &file), STATUS_OK);
        for (uint32_t i = layer * LAYER_PIECES; i < (layer + 1) * LAYER_PIECES; i++) {
            const WeightPiece *piece = &fixture->pieces[i];
            if (piece->tier == TIER_HOST) put(host + piece->offset, i, piece->bytes);
            if (piece->tier == TIER_NVME) put(file + piece->offset, i, piece->bytes);
        }
        if (file) weight_stream_end_store(fixture->stream);
    }
    assert_int_equal(weight_stream_finish_store(fixture->stream), STATUS_OK);
}

/* Puts work on the compute stream, and waits for nothing. */
static Status use(Fixture *fixture, uint32_t layer) {
    Device *device = fixture->device;
    const uint8_t *memory;
    TRY(device_frames_acquire(fixture->frames, layer, &memory));
    uint8_t *result = fixture->results + fixture->use_count * fixture->frame_bytes;
    fixture->layers[fixture->use_count++] = layer;
    if (!memory) return STATUS_OK;
    for (uint32_t i = layer * LAYER_PIECES; i < (layer + 1) * LAYER_PIECES; i++) {
        const WeightPiece *piece = &fixture->pieces[i];
        if (piece->tier == TIER_DEVICE) continue;
        uint64_t offset = device_frames_offset(fixture->frames, piece);
        TRY(device->copy(device, fixture->compute, result + offset, memory + offset, piece->bytes));
    }
    return STATUS_OK;
}

/* In passes, some of them as they were announced, or anyhow. */
static void use_randomly(Fixture *fixture, Random *random) {
    while (fixture->use_count + 2 * LAYERS <= USES_MAX) {
        uint32_t layers[2 * LAYERS], count = LAYERS;
        for (uint32_t i = 0; i < LAYERS; i++)
            layers[i] = i;
        if (random_below(random, 3) == 0)
            for (count = 1; count < 2 * LAYERS && random_below(random, 8); count++)
                layers[count] = (uint32_t)random_below(random, LAYERS);
        if (random_below(random, 4))
            device_frames_expect(fixture->frames, layers, count,
                                 (uint32_t)random_below(random, LAYERS));
        for (uint32_t i = 0; i < count; i++) {
            bool other = random_below(random, 20) == 0;
            uint32_t layer = other ? (uint32_t)random_below(random, LAYERS) : layers[i];
            assert_int_equal(use(fixture, layer), STATUS_OK);
        }
        if (random_below(random, 2))
            assert_int_equal(device_frames_release(fixture->frames), STATUS_OK);
    }
}

static void check_results(const Fixture *fixture, uint64_t seed) {
    for (uint32_t used = 0; used < fixture->use_count; used++) {
        const uint8_t *result = fixture->results + used * fixture->frame_bytes;
        uint32_t first = fixture->layers[used] * LAYER_PIECES;
        for (uint32_t i = first; i < first + LAYER_PIECES; i++) {
            const WeightPiece *piece = &fixture->pieces[i];
            if (piece->tier == TIER_DEVICE) continue;
            uint64_t offset = device_frames_offset(fixture->frames, piece);
            for (uint64_t at = 0; at < piece->bytes; at++)
                if (result[offset + at] != byte_at(i, at))
                    fail_msg("seed %u, use %u of layer %u, piece %u: byte %u is wrong",
                             (unsigned)seed, used, fixture->layers[used], i, (unsigned)at);
        }
    }
}

static void test_any_order(void **state) {
    (void)state;
    static Fixture fixture;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        Random random = {.key = seed};
        draw_pieces(&fixture, &random);
        open_parts(&fixture, seed, NULL);
        fill(&fixture);
        use_randomly(&fixture, &random);
        Device *device = fixture.device;
        assert_int_equal(device->stream_wait(device, fixture.compute), STATUS_OK);
        check_results(&fixture, seed);
        assert_true(device_frames_sent_bytes(fixture.frames) > 0);
        close_parts(&fixture);
    }
}

/* In order, each layer is read once a pass at most and goes up once, beside what is ahead. */
static void test_each_once(void **state) {
    (void)state;
    static Fixture fixture;
    enum { PASSES = 5 };
    Random random = {.key = 3};
    uint64_t pass_bytes = 0, streamed = 0;
    draw_pieces(&fixture, &random);
    open_parts(&fixture, 3, NULL);
    fill(&fixture);
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        streamed += weight_stream_layer_bytes(fixture.stream, layer) > 0;
        pass_bytes += weight_layer_bytes(fixture.pieces, PIECES, TIER_NVME, layer) +
                      weight_layer_bytes(fixture.pieces, PIECES, TIER_HOST, layer);
    }
    for (int pass = 0; pass < PASSES; pass++) {
        static const uint32_t layers[LAYERS] = {0, 1, 2, 3, 4, 5};
        device_frames_expect(fixture.frames, layers, LAYERS, 0);
        for (uint32_t layer = 0; layer < LAYERS; layer++)
            assert_int_equal(use(&fixture, layer), STATUS_OK);
        assert_int_equal(device_frames_release(fixture.frames), STATUS_OK);
    }
    Device *device = fixture.device;
    assert_int_equal(device->stream_wait(device, fixture.compute), STATUS_OK);
    check_results(&fixture, 3);
    WeightStreamStats stats = weight_stream_stats(fixture.stream);
    assert_true(stats.layers_acquired <= PASSES * streamed + DEVICE_FRAMES);
    assert_true(stats.layers_read <= PASSES * streamed + DEVICE_FRAMES + WEIGHT_FRAMES);
    assert_true(device_frames_sent_bytes(fixture.frames) <= (PASSES + 1) * pass_bytes);
    close_parts(&fixture);
}

static void test_faults(void **state) {
    (void)state;
    static Fixture fixture;
    static const char *const faults[][2] = {
        {"io.read:eio:after=5,count=1", "Input/output error"},
        {"io.read:flip:after=5,count=1", "not the bytes that were written"},
        {"io.write:stale:after=2,count=1", "not the bytes that were written"}};
    Random random = {.key = 5};
    draw_pieces(&fixture, &random);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        const char *text;
        Status status = STATUS_OK;
        open_parts(&fixture, i, faults[i][0]);
        fill(&fixture);
        error_capture_begin();
        for (uint32_t at = 0; at < USES_MAX && status == STATUS_OK; at++)
            status = use(&fixture, at % LAYERS);
        error_capture_end();
        assert_int_equal(status, STATUS_DEVICE);
        assert_int_equal(error_last(&text), ERROR_WEIGHTS_IO);
        assert_non_null(strstr(text, faults[i][1]));
        assert_non_null(strstr(text, "tensor "));
        close_parts(&fixture);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_order),
        cmocka_unit_test(test_each_once),
        cmocka_unit_test(test_faults),
    };
    directory = getenv("TMPDIR") ? getenv("TMPDIR") : "/var/tmp";
    return cmocka_run_group_tests(tests, NULL, NULL);
}
