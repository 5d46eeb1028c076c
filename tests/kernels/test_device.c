/* The contract of device.h, for every row that can be opened here: the CPU, the emulated device under several seeds, a GPU. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "kernels/device.h"
#include "runtime/base/hash.h"
#include "runtime/base/random.h"
#ifdef HAVE_EMULATION
#include "kernels/cuda/emulation/emulated_device.h"
#include "kernels/cuda/upload.h"
#endif
#ifdef HAVE_CUDA_TOOLKIT
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/device_cuda.h"
#include "kernels/cuda/digest.h"
#endif

#if defined(HAVE_CUDA_TOOLKIT) && !defined(HAVE_CUDA_KERNELS)
/* Of the row that is looked at here without nvcc's kernels: no device opens. */
void digest_launch_cuda(DeviceStream *stream, const DeviceDigest *digests, uint32_t digest_count,
                        uint64_t *out) {
    (void)stream, (void)digests, (void)digest_count, (void)out;
    fail();
}
bool digest_runs_cuda(void) {
    return false;
}
#endif

enum { BYTES = 100000, SEEDS = 10 };

typedef void DeviceTest(Device *device);

static void *take(Device *device, MemoryPlace place, uint64_t bytes) {
    void *memory;
    assert_int_equal(device->memory_take(device, place, bytes, "test", &memory), STATUS_OK);
    assert_int_equal((uintptr_t)memory % 64, 0);
    return memory;
}

static void close_after(Device *device, DeviceTest *test) {
    test(device);
    device->close(device);
}

static void run_everywhere(DeviceTest *test) {
    Device *device;
    assert_int_equal(device_host_open(&device), STATUS_OK);
    assert_true(device->host_addressable);
    close_after(device, test);
#ifdef HAVE_EMULATION
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        const EmulatedDeviceOptions options = {.seed = seed, .memory_bytes = 1 << 20};
        assert_int_equal(emulated_device_open(&device, &options), STATUS_OK);
        assert_false(device->host_addressable);
        close_after(device, test);
    }
#endif
#ifdef HAVE_CUDA_TOOLKIT
    const char *reason;
    if (device_cuda_probe(&reason) != STATUS_OK) return;
    assert_int_equal(device_cuda_open(&device, 0), STATUS_OK);
    close_after(device, test);
#endif
}

static DeviceStream *open_stream(Device *device, StreamPriority priority) {
    DeviceStream *stream;
    assert_int_equal(device->stream_create(device, priority, &stream), STATUS_OK);
    return stream;
}

static void copy(Device *device, DeviceStream *stream, void *destination, const void *source) {
    assert_int_equal(device->copy(device, stream, destination, source, BYTES), STATUS_OK);
}

static void fill(uint8_t *bytes, uint8_t first) {
    for (int i = 0; i < BYTES; i++)
        bytes[i] = (uint8_t)(first + i * 31);
}

/* Host to device to device to host, in the order of one stream. */
static void round_trip(Device *device) {
    DeviceStream *stream = open_stream(device, STREAM_COMPUTE);
    uint8_t *source = take(device, MEMORY_HOST, BYTES), *back = take(device, MEMORY_HOST, BYTES);
    uint8_t *first = take(device, MEMORY_DEVICE, BYTES),
            *second = take(device, MEMORY_DEVICE, BYTES);
    assert_int_equal(source[0] | source[BYTES - 1], 0);
    fill(source, 3);
    copy(device, stream, first, source);
    copy(device, stream, second, first);
    copy(device, stream, back, second);
    assert_int_equal(device->stream_wait(device, stream), STATUS_OK);
    assert_memory_equal(source, back, BYTES);
    device->stream_destroy(device, stream);
    device->memory_give(device, MEMORY_HOST, source, BYTES);
    device->memory_give(device, MEMORY_HOST, back, BYTES);
    device->memory_give(device, MEMORY_DEVICE, first, BYTES);
    device->memory_give(device, MEMORY_DEVICE, second, BYTES);
}

/* Of pieces around the edges of stripes, chunks and what warps do at a time, under several seeds, and again when a bit is another. */
static void digests_are_those_of_the_host(Device *device) {
    static const uint32_t counts[] = {241,  255,  256,   257,   1024,  1025,
                                      1087, 2049, 31999, 32769, 65537, 66560};
    enum { COUNTS = sizeof counts / sizeof *counts };
    DeviceStream *stream = open_stream(device, STREAM_URGENT);
    uint8_t *source = take(device, MEMORY_HOST, BYTES), *there = take(device, MEMORY_DEVICE, BYTES);
    uint64_t *made = take(device, MEMORY_DEVICE, COUNTS * sizeof *made),
             *found = take(device, MEMORY_HOST, COUNTS * sizeof *made);
    Random random = {.key = 5};
    for (int i = 0; i < BYTES; i++)
        source[i] = (uint8_t)random_u64(&random);
    for (int round = 0; round < 2; round++) {
        DeviceDigest digests[COUNTS];
        for (uint32_t i = 0; i < COUNTS; i++)
            digests[i] = (DeviceDigest){there + 16 * i, counts[i], i % 3 ? random_u64(&random) : 0};
        copy(device, stream, there, source);
        assert_int_equal(device->digest(device, stream, digests, COUNTS, made), STATUS_OK);
        assert_int_equal(device->copy(device, stream, found, made, COUNTS * sizeof *made),
                         STATUS_OK);
        assert_int_equal(device->stream_wait(device, stream), STATUS_OK);
        for (uint32_t i = 0; i < COUNTS; i++)
            assert_int_equal(found[i], hash_xxh3(source + 16 * i, counts[i], digests[i].seed));
        source[BYTES / 3] ^= 8;
    }
    device->stream_destroy(device, stream);
    device->memory_give(device, MEMORY_HOST, source, BYTES);
    device->memory_give(device, MEMORY_DEVICE, there, BYTES);
    device->memory_give(device, MEMORY_HOST, found, COUNTS * sizeof *made);
    device->memory_give(device, MEMORY_DEVICE, made, COUNTS * sizeof *made);
}

/* Streams meet at an event, the host waits for one. */
static void events_order(Device *device) {
    DeviceStream *up = open_stream(device, STREAM_COPY),
                 *down = open_stream(device, STREAM_COMPUTE);
    DeviceEvent *arrived, *left;
    assert_int_equal(device->event_create(device, &arrived), STATUS_OK);
    assert_int_equal(device->event_create(device, &left), STATUS_OK);
    assert_true(device->event_done(device, left));
    uint8_t *source = take(device, MEMORY_HOST, BYTES), *back = take(device, MEMORY_HOST, BYTES);
    uint8_t *there = take(device, MEMORY_DEVICE, BYTES);
    for (int round = 0; round < 8; round++) {
        fill(source, (uint8_t)round);
        copy(device, up, there, source);
        assert_int_equal(device->event_record(device, arrived, up), STATUS_OK);
        assert_int_equal(device->stream_wait_event(device, down, arrived), STATUS_OK);
        copy(device, down, back, there);
        assert_int_equal(device->event_record(device, left, down), STATUS_OK);
        if (round % 2 == 0)
            assert_int_equal(device->event_wait(device, left), STATUS_OK);
        else
            while (!device->event_done(device, left)) {
            }
        assert_memory_equal(source, back, BYTES);
    }
    device->event_destroy(device, arrived);
    device->event_destroy(device, left);
    device->stream_destroy(device, up);
    device->stream_destroy(device, down);
}

static void memory_is_counted(Device *device) {
    uint64_t before, after;
    assert_int_equal(device->memory_free(device, &before), STATUS_OK);
    assert_true(before > 0);
    if (device->host_addressable) return; /* shared with the whole machine */
    void *memory = take(device, MEMORY_DEVICE, BYTES);
    assert_int_equal(device->memory_free(device, &after), STATUS_OK);
    assert_true(after < before);
    error_capture_begin();
    void *none;
    assert_int_equal(device->memory_take(device, MEMORY_DEVICE, before + 1, "too much", &none),
                     STATUS_NO_SPACE);
    error_capture_end();
    device->memory_give(device, MEMORY_DEVICE, memory, BYTES);
    assert_int_equal(device->memory_free(device, &after), STATUS_OK);
    assert_int_equal(before, after);
}

static void test_digests(void **state) {
    (void)state;
    run_everywhere(digests_are_those_of_the_host);
}

static void test_round_trip(void **state) {
    (void)state;
    run_everywhere(round_trip);
}

static void test_events_order(void **state) {
    (void)state;
    run_everywhere(events_order);
}

static void test_memory_is_counted(void **state) {
    (void)state;
    run_everywhere(memory_is_counted);
}

#ifdef HAVE_EMULATION
/* Arrays of many sizes stay what they were although the ring is used round and round, and larger things go up in parts. */
static void upload_keeps(Device *device) {
    enum { SEGMENT = 1024, UPLOADS = 100 };
    DeviceStream *stream = open_stream(device, STREAM_COMPUTE);
    UploadArena *arena;
    assert_int_equal(upload_arena_create(&arena, device, stream, SEGMENT), STATUS_OK);
    uint8_t *back = take(device, MEMORY_HOST, (uint64_t)UPLOADS * SEGMENT), host[SEGMENT];
    for (uint32_t i = 0; i < UPLOADS; i++) {
        size_t bytes = i * 37 % upload_bytes_max(arena) + 1;
        memset(host, (int)i, sizeof host);
        const void *there = upload(arena, host, bytes);
        assert_non_null(there);
        assert_int_equal(device->copy(device, stream, back + i * SEGMENT, there, bytes), STATUS_OK);
    }
    uint8_t *large = take(device, MEMORY_DEVICE, 3 * SEGMENT);
    for (uint32_t part = 0; part < 3; part++) {
        memset(upload_stage(arena, SEGMENT), (int)(200 + part), SEGMENT);
        assert_ptr_equal(upload_send(arena, large + part * SEGMENT), large + part * SEGMENT);
    }
    uint8_t *large_back = take(device, MEMORY_HOST, 3 * SEGMENT);
    assert_int_equal(device->copy(device, stream, large_back, large, 3 * SEGMENT), STATUS_OK);
    assert_int_equal(device->stream_wait(device, stream), STATUS_OK);
    for (uint32_t i = 0; i < UPLOADS; i++)
        for (size_t b = 0; b < i * 37 % SEGMENT + 1; b++)
            assert_int_equal(back[i * SEGMENT + b], (uint8_t)i);
    for (uint32_t b = 0; b < 3 * SEGMENT; b++)
        assert_int_equal(large_back[b], 200 + b / SEGMENT);
    upload_arena_destroy(arena);
    device->stream_destroy(device, stream);
}

/* Arrays that go up together are where each one is said to be; an empty one too. */
static void upload_parts_keep(Device *device) {
    enum { SEGMENT = 2048, ROUNDS = 40, PARTS = 3 };
    DeviceStream *stream = open_stream(device, STREAM_COMPUTE);
    UploadArena *arena;
    assert_int_equal(upload_arena_create(&arena, device, stream, SEGMENT), STATUS_OK);
    uint8_t *back = take(device, MEMORY_HOST, (uint64_t)ROUNDS * PARTS * SEGMENT), host[PARTS][512];
    for (uint32_t round = 0; round < ROUNDS; round++) {
        UploadPart parts[PARTS];
        for (uint32_t i = 0; i < PARTS; i++) {
            memset(host[i], (int)(round * PARTS + i), sizeof host[i]);
            parts[i] = (UploadPart){host[i], (round * 31 + i * 173) % sizeof host[i], NULL};
        }
        assert_true(upload_parts(arena, parts, PARTS));
        for (uint32_t i = 0; i < PARTS; i++)
            assert_int_equal(device->copy(device, stream, back + (round * PARTS + i) * SEGMENT,
                                          parts[i].device, parts[i].bytes),
                             STATUS_OK);
    }
    assert_int_equal(device->stream_wait(device, stream), STATUS_OK);
    for (uint32_t i = 0; i < ROUNDS * PARTS; i++)
        for (size_t b = 0; b < (i / PARTS * 31 + i % PARTS * 173) % sizeof host[0]; b++)
            assert_int_equal(back[i * SEGMENT + b], (uint8_t)i);
    upload_arena_destroy(arena);
    device->stream_destroy(device, stream);
}

static void test_upload(void **state) {
    (void)state;
    run_everywhere(upload_keeps);
    run_everywhere(upload_parts_keep);
}
#endif

#ifdef HAVE_CUDA_TOOLKIT
/* What the runtime calls its errors, and what they are told as. */
static void test_kinds_of_errors(void **state) {
    (void)state;
    assert_int_equal(cuda_fault(cudaErrorMemoryAllocation), DEVICE_FAULT_MEMORY);
    assert_int_equal(cuda_fault(cudaErrorECCUncorrectable), DEVICE_FAULT_ECC);
    assert_int_equal(cuda_fault(cudaErrorNvlinkUncorrectable), DEVICE_FAULT_LINK);
    assert_int_equal(cuda_fault(cudaErrorDevicesUnavailable), DEVICE_FAULT_LOST);
    assert_int_equal(cuda_fault(cudaErrorNoDevice), DEVICE_FAULT_LOST);
    assert_int_equal(cuda_fault(cudaErrorLaunchFailure), DEVICE_FAULT_KERNEL);
    assert_int_equal(cuda_fault(cudaErrorIllegalAddress), DEVICE_FAULT_KERNEL);
    assert_int_equal(cuda_fault(cudaErrorHardwareStackError), DEVICE_FAULT_KERNEL);
    assert_int_equal(cuda_fault(cudaErrorInvalidValue), DEVICE_FAULT_OTHER);
}

/* On a machine without a GPU the row says why, and starts nothing. */
static void test_no_gpu_is_said(void **state) {
    (void)state;
    const char *reason = NULL, *text;
    Device *device;
    if (device_cuda_probe(&reason) == STATUS_OK) skip();
    assert_true(strlen(reason) > 0);
    error_capture_begin();
    assert_int_equal(device_cuda_open(&device, 0), STATUS_UNSUPPORTED);
    assert_string_equal(error_row(error_last(&text))->code, "E-UNAVAILABLE");
    assert_non_null(strstr(text, reason));
    error_capture_end();
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),      cmocka_unit_test(test_digests),
        cmocka_unit_test(test_events_order),    cmocka_unit_test(test_memory_is_counted),
#ifdef HAVE_EMULATION
        cmocka_unit_test(test_upload),
#endif
#ifdef HAVE_CUDA_TOOLKIT
        cmocka_unit_test(test_kinds_of_errors), cmocka_unit_test(test_no_gpu_is_said),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
