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
            assert_string_equal(error_row(error_last(&text))->code, "E-DEVICE");
            error_capture_end();
            bench_close(&bench);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_right_kernels),
        cmocka_unit_test(test_planted_defects),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
