/* The emulated device itself: right kernels are right under every seed, each planted defect is reported by name, and a missing
 * wait, event or copy shows. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernels/cuda/emulation/emulated_device.h"
#include "kernels/cuda/upload.h"
#include "tests/kernels/planted_kernels.h"

enum { COUNT = PLANTED_BLOCKS * PLANTED_THREADS, BYTES = COUNT * sizeof(float), SEEDS = 8 };

/* A device with a stream and a number array at each end. */
typedef struct Bench {
    Device *device;
    DeviceStream *stream;
    float *host_in, *host_out, *in, *out; /* [COUNT] */
} Bench;

static void *take(Device *device, MemoryPlace place, uint64_t bytes) {
    void *memory;
    assert_int_equal(device->memory_take(device, place, bytes, "test", &memory), STATUS_OK);
    return memory;
}

static Bench bench_open(const EmulatedDeviceOptions *options) {
    Bench bench;
    assert_int_equal(emulated_device_open(&bench.device, options), STATUS_OK);
    assert_int_equal(bench.device->stream_create(bench.device, STREAM_COMPUTE, &bench.stream),
                     STATUS_OK);
    bench.host_in = take(bench.device, MEMORY_HOST, BYTES);
    bench.host_out = take(bench.device, MEMORY_HOST, BYTES);
    bench.in = take(bench.device, MEMORY_DEVICE, BYTES);
    bench.out = take(bench.device, MEMORY_DEVICE, BYTES);
    for (int i = 0; i < COUNT; i++)
        bench.host_in[i] = (float)(i * 7 % 31 - 15);
    return bench;
}

static Bench bench_of_seed(uint64_t seed) {
    return bench_open(&(EmulatedDeviceOptions){.seed = seed});
}

static void bench_close(Bench *bench) {
    bench->device->close(bench->device);
}

static Status copy(const Bench *bench, DeviceStream *stream, void *destination,
                   const void *source) {
    return bench->device->copy(bench->device, stream, destination, source, BYTES);
}

/* Status and text of a whole turn: numbers up, kernel, numbers down. */
static Status run_planted(const Bench *bench, const PlantedKernel *kernel, const char **out_text) {
    error_capture_begin();
    Status status = copy(bench, bench->stream, bench->in, bench->host_in);
    kernel->launch(bench->stream, bench->in, bench->out);
    if (status == STATUS_OK) status = copy(bench, bench->stream, bench->host_out, bench->out);
    if (status == STATUS_OK) status = bench->device->stream_wait(bench->device, bench->stream);
    error_last(out_text);
    error_capture_end();
    return status;
}

static void test_right_kernels(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++)
        for (const PlantedKernel *kernel = planted_kernels; kernel->name; kernel++) {
            if (kernel->defect) continue;
            Bench bench = bench_of_seed(seed);
            const char *text;
            if (run_planted(&bench, kernel, &text) != STATUS_OK) fail_msg("%s", text);
            for (uint32_t i = 0; i < COUNT; i++)
                if (bench.host_out[i] != kernel->expected(bench.host_in, i))
                    fail_msg("%s: element %u is %g", kernel->name, i, (double)bench.host_out[i]);
            bench_close(&bench);
        }
}

/* Every defect is found under every order of threads, named, and stays with the device. */
static void test_planted_defects(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++)
        for (const PlantedKernel *kernel = planted_kernels; kernel->name; kernel++) {
            if (!kernel->defect) continue;
            Bench bench = bench_of_seed(seed);
            const char *text;
            Status status = run_planted(&bench, kernel, &text);
            if (status != STATUS_DEVICE || !strstr(text, kernel->defect))
                fail_msg("%s: %s, \"%s\"", kernel->name, status_name(status), text);
            assert_non_null(strstr(text, "emulated:0: kernel "));
            error_capture_begin();
            assert_int_equal(bench.device->stream_wait(bench.device, bench.stream), STATUS_DEVICE);
            assert_string_equal(error_row(error_last(&text))->code, "E-DEVICE-KERNEL");
            error_capture_end();
            bench_close(&bench);
        }
}

/* The next stage starts before the one that feeds it, unless something makes it wait: with nothing, some seed shows it. */
static bool pipeline_is_right(uint64_t seed, bool waits) {
    Bench bench = bench_of_seed(seed);
    Device *device = bench.device;
    DeviceStream *down;
    DeviceEvent *computed;
    assert_int_equal(device->stream_create(device, STREAM_COPY, &down), STATUS_OK);
    assert_int_equal(device->event_create(device, &computed), STATUS_OK);
    copy(&bench, bench.stream, bench.in, bench.host_in);
    planted_increment(bench.stream, bench.in, bench.out, COUNT);
    assert_int_equal(device->event_record(device, computed, bench.stream), STATUS_OK);
    if (waits) assert_int_equal(device->stream_wait_event(device, down, computed), STATUS_OK);
    copy(&bench, down, bench.host_out, bench.out);
    assert_int_equal(device->stream_wait(device, down), STATUS_OK);
    bool right = true;
    for (int i = 0; i < COUNT; i++)
        right &= bench.host_out[i] == bench.host_in[i] + 1.0f;
    device->event_destroy(device, computed);
    bench_close(&bench);
    return right;
}

static void test_missing_event(void **state) {
    (void)state;
    int right_without = 0;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        assert_true(pipeline_is_right(seed, true));
        right_without += pipeline_is_right(seed, false);
    }
    assert_true(right_without < SEEDS / 2);
}

/* The host reads what a copy will bring, and writes what a copy still has to read. */
static void test_missing_wait(void **state) {
    (void)state;
    int early_reads_right = 0, early_writes_right = 0;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        Bench bench = bench_of_seed(seed);
        copy(&bench, bench.stream, bench.in, bench.host_in);
        copy(&bench, bench.stream, bench.host_out, bench.in);
        early_reads_right += bench.host_out[1] == bench.host_in[1];
        copy(&bench, bench.stream, bench.in, bench.host_in);
        float before = bench.host_in[1];
        bench.host_in[1] = 99.0f;
        copy(&bench, bench.stream, bench.host_out, bench.in);
        assert_int_equal(bench.device->stream_wait(bench.device, bench.stream), STATUS_OK);
        early_writes_right += bench.host_out[1] == before;
        bench_close(&bench);
    }
    assert_true(early_reads_right < SEEDS / 2);
    assert_true(early_writes_right < SEEDS / 2);
}

/* In a child, which the touch kills. */
static int signal_of(const Bench *bench, void (*touch)(const Bench *bench)) {
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        signal(SIGBUS, SIG_DFL);
        touch(bench);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void read_device(const Bench *bench) {
    volatile float number = bench->in[0];
    (void)number;
}

static void write_device(const Bench *bench) {
    *(volatile float *)bench->out = 1.0f;
}

static void read_pinned(const Bench *bench) {
    volatile float number = bench->host_in[0];
    (void)number;
}

static void test_host_cannot_touch(void **state) {
    (void)state;
    Bench bench = bench_of_seed(1);
    copy(&bench, bench.stream, bench.in, bench.host_in);
    assert_int_equal(bench.device->stream_wait(bench.device, bench.stream), STATUS_OK);
    assert_int_equal(signal_of(&bench, read_device), SIGSEGV);
    assert_int_equal(signal_of(&bench, write_device), SIGSEGV);
    assert_int_equal(signal_of(&bench, read_pinned), 0);
    bench_close(&bench);
}

static void test_fresh_memory_is_poison(void **state) {
    (void)state;
    Bench bench = bench_of_seed(1);
    copy(&bench, bench.stream, bench.host_out, bench.out);
    assert_int_equal(bench.device->stream_wait(bench.device, bench.stream), STATUS_OK);
    for (int i = 0; i < COUNT; i++)
        assert_true(bench.host_out[i] != bench.host_out[i]);
    bench_close(&bench);
}

/* Status of a copy to or from memory that was never pinned; the device is broken by it. */
static void test_unpinned_copy(void **state) {
    (void)state;
    static float unpinned[COUNT];
    for (int up = 0; up < 2; up++) {
        Bench bench = bench_of_seed(1);
        error_capture_begin();
        Status status = up ? copy(&bench, bench.stream, bench.in, unpinned)
                           : copy(&bench, bench.stream, unpinned, bench.in);
        const char *text;
        error_last(&text);
        error_capture_end();
        assert_int_equal(status, STATUS_DEVICE);
        assert_non_null(strstr(text, up ? "the source of a copy" : "the destination of a copy"));
        bench_close(&bench);
    }
}

static void test_failures_on_demand(void **state) {
    (void)state;
    const struct {
        DeviceFailures failures;
        const char *says;
    } rows[] = {{{.launch = 1}, "kernel warp_sum: the launch failed on demand"},
                {{.copy = 2}, "a copy of 768 bytes failed on demand"}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        Bench bench = bench_open(&(EmulatedDeviceOptions){.failures = rows[i].failures});
        const PlantedKernel *kernel = &planted_kernels[1];
        const char *text;
        assert_int_equal(run_planted(&bench, kernel, &text), STATUS_DEVICE);
        assert_non_null(strstr(text, rows[i].says));
        bench_close(&bench);
    }
    Device *device;
    void *memory;
    const EmulatedDeviceOptions options = {.failures = {.take = 2}};
    assert_int_equal(emulated_device_open(&device, &options), STATUS_OK);
    memory = take(device, MEMORY_DEVICE, 1);
    error_capture_begin();
    assert_int_equal(device->memory_take(device, MEMORY_HOST, 1, "test", &memory), STATUS_NO_SPACE);
    error_capture_end();
    take(device, MEMORY_DEVICE, 1);
    device->close(device);
}

/* Uploads to a broken device give NULL, and the device says why. */
static void test_upload_to_a_broken_device(void **state) {
    (void)state;
    Bench bench = bench_open(&(EmulatedDeviceOptions){.failures = {.copy = 1}});
    UploadArena *arena;
    assert_int_equal(upload_arena_create(&arena, bench.device, bench.stream, 256), STATUS_OK);
    error_capture_begin();
    bool gone = false;
    for (int i = 0; i < 2 * UPLOAD_SEGMENTS; i++)
        gone |= upload(arena, bench.host_in, 256) == NULL;
    assert_true(gone);
    assert_null(upload_stage(arena, 1));
    assert_int_equal(bench.device->stream_wait(bench.device, bench.stream), STATUS_DEVICE);
    error_capture_end();
    upload_arena_destroy(arena);
    bench_close(&bench);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_right_kernels),
        cmocka_unit_test(test_planted_defects),
        cmocka_unit_test(test_missing_event),
        cmocka_unit_test(test_missing_wait),
        cmocka_unit_test(test_host_cannot_touch),
        cmocka_unit_test(test_fresh_memory_is_poison),
        cmocka_unit_test(test_unpinned_copy),
        cmocka_unit_test(test_failures_on_demand),
        cmocka_unit_test(test_upload_to_a_broken_device),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
