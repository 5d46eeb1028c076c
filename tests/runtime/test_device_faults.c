/* A device that fails, at any point of a run: the n-th allocation, launch or copy of the emulated device, for rising n until a run
 * comes through; with and without attention on the host. Each failure ends the engine with the status and cause of the device, no request with another's,
 * and closing gives everything back. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/engine/engine.h"

static const char model_path[] = GOLDEN "/models/gguf_llama_q4_0/gguf_llama_q4_0.gguf";

enum { PROMPT_COUNT = 40, MAX_TOKENS = 4, STEPS_MAX = 200 };

static int32_t prompt[PROMPT_COUNT];
static bool attend_host;
static bool prompt_only; /* no logits, whose way to the host would meet what broke */

static void on_token(void *user, const TokenEvent *event) {
    (void)event;
    ++*(uint32_t *)user;
}

static void on_finish(void *user, const FinishEvent *event) {
    (void)user;
    if (event->error != ERROR_COUNT) fail_msg("a request ends with \"%s\"", event->error_text);
}

/* Budgets so small that blocks go to the host's memory and to a file, and layers come from there. */
static EngineOptions options_of(const DeviceFailures *failures) {
    static const char *const directories[] = {"/var/tmp"};
    return (EngineOptions){.backend = "emulated",
                           .cpu_isa = "auto",
                           .device_failures = *failures,
                           .thread_count = 1,
                           .max_num_seqs = 2,
                           .max_num_batched_tokens = 32,
                           .block_tokens = 2,
                           .kv_bytes = {UINT64_MAX, 64 << 10, 1 << 20},
                           .kv_nvme_dirs = directories,
                           .kv_nvme_dir_count = 1,
                           .attend_host = attend_host,
                           .weight_per_cent = {20, 40, 0},
                           .weight_bytes = {0, 0, UINT64_MAX},
                           .weight_nvme_dirs = directories,
                           .weight_nvme_dir_count = 1};
}

/* Layers stay, and nothing but blocks comes and goes. */
static EngineOptions prompt_options_of(const DeviceFailures *failures) {
    return (EngineOptions){.backend = "emulated",
                           .emulation_seed = failures->copy,
                           .cpu_isa = "auto",
                           .device_failures = *failures,
                           .thread_count = 1,
                           .max_num_seqs = 1,
                           .max_num_batched_tokens = 5,
                           .block_tokens = 2,
                           .kv_bytes = {UINT64_MAX, 512 << 10}};
}

static Status generate(Engine *engine, uint32_t *out_tokens) {
    Request request = {.prompt = prompt,
                       .prompt_count = PROMPT_COUNT,
                       .max_tokens = prompt_only ? 0 : MAX_TOKENS,
                       .sampling = sampling_defaults,
                       .sink = {.user = out_tokens, .on_token = on_token, .on_finish = on_finish}};
    bool idle = false;
    TRY(engine_submit(engine, &request));
    for (int step = 0; step < STEPS_MAX && !idle; step++)
        TRY(engine_step(engine, &idle));
    assert_true(idle);
    return STATUS_OK;
}

/* Status of a whole life; the last error says why. */
static Status run_with(const DeviceFailures *failures, ErrorCode *out_error,
                       const char **out_text) {
    Weights *weights;
    Comm *comm;
    Engine *engine = NULL;
    uint32_t tokens = 0;
    assert_int_equal(weights_open(&weights, model_path), STATUS_OK);
    assert_int_equal(comm_self_create(&comm), STATUS_OK);
    const EngineOptions options = prompt_only ? prompt_options_of(failures) : options_of(failures);
    error_capture_begin();
    Status status = engine_open(&engine, &options, weights, NULL, comm);
    if (status == STATUS_OK) status = generate(engine, &tokens);
    *out_error = error_last(out_text);
    error_capture_end();
    if (status == STATUS_OK) assert_int_equal(tokens, prompt_only ? 0 : MAX_TOKENS);
    if (engine) engine_close(engine);
    comm_destroy(comm);
    weights_close(weights);
    return status;
}

static int on_device(void **state) {
    (void)state;
    attend_host = prompt_only = false;
    return 0;
}

static int in_host(void **state) {
    (void)state;
    attend_host = true;
    prompt_only = false;
    return 0;
}

static int without_logits(void **state) {
    (void)state;
    attend_host = false;
    prompt_only = true;
    return 0;
}

/* Every allocation of the device's two kinds of memory. */
static void test_takes(void **state) {
    (void)state;
    uint64_t n = 1;
    for (Status status = STATUS_NO_SPACE; status != STATUS_OK; n++) {
        const char *text;
        ErrorCode error;
        status = run_with(&(DeviceFailures){.take = n}, &error, &text);
        if (status == STATUS_OK) break;
        assert_int_equal(status, STATUS_NO_SPACE);
        assert_int_equal(error, ERROR_DEVICE_MEMORY);
        assert_non_null(strstr(text, "failed on demand"));
        assert_true(n < 100);
    }
    assert_true(n > 10);
}

typedef DeviceFailures FailuresAt(uint64_t n);

static DeviceFailures launch_at(uint64_t n) {
    return (DeviceFailures){.launch = n};
}

static DeviceFailures copy_at(uint64_t n) {
    return (DeviceFailures){.copy = n};
}

/* Whether a run meets the failure, and then says so. */
static bool fails_at(FailuresAt *failures_at, uint64_t n, const char *says) {
    const DeviceFailures failures = failures_at(n);
    const char *text;
    ErrorCode error;
    Status status = run_with(&failures, &error, &text);
    if (status == STATUS_OK) return false;
    if (status != STATUS_DEVICE)
        fail_msg("at %u: %s, \"%s\"", (unsigned)n, status_name(status), text);
    if (!strstr(text, says)) fail_msg("at %u: \"%s\"", (unsigned)n, text);
    assert_true(n < 100000);
    return true;
}

/* At ever wider steps, until a run has fewer of them. */
static void fail_in_turn(FailuresAt *failures_at, const char *says) {
    uint64_t n = 1;
    while (fails_at(failures_at, n, says))
        n += 1 + n / 2;
    assert_true(n > 30);
}

static void test_launches(void **state) {
    (void)state;
    fail_in_turn(launch_at, "emulated:0: kernel ");
}

static void test_copies(void **state) {
    (void)state;
    fail_in_turn(copy_at, "emulated:0: a copy of ");
}

/* Transfers that a broken device fails look like a tier that went away, in which the request no longer fits. */
static void test_copies_of_blocks(void **state) {
    (void)state;
    uint64_t n = 1;
    while (fails_at(copy_at, n, "emulated:0: a copy of "))
        n += 9;
    assert_true(n > 100);
}

/* Each kind has a code, a status and advice of its own. */
static void test_kinds(void **state) {
    (void)state;
    static const struct {
        DeviceFault fault;
        ErrorCode error;
        const char *says;
    } kinds[] = {
        {DEVICE_FAULT_OTHER, ERROR_DEVICE, "--backend cpu"},
        {DEVICE_FAULT_ECC, ERROR_DEVICE_ECC, "ROW_REMAPPER"},
        {DEVICE_FAULT_LOST, ERROR_DEVICE_LOST, "CUDA_VISIBLE_DEVICES"},
        {DEVICE_FAULT_KERNEL, ERROR_DEVICE_KERNEL, "report it"},
        {DEVICE_FAULT_LINK, ERROR_DEVICE_LINK, "nvlink"},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        const DeviceFailures failures = {.launch = 50, .fault = kinds[i].fault};
        const char *text;
        ErrorCode error;
        assert_int_equal(run_with(&failures, &error, &text), STATUS_DEVICE);
        assert_int_equal(error, kinds[i].error);
        assert_int_equal(error_row(error)->exit_code, 76);
        if (!strstr(text, kinds[i].says) || !strstr(text, "emulated:0: kernel "))
            fail_msg("\"%s\"", text);
    }
    assert_int_equal(error_row(ERROR_DEVICE_MEMORY)->exit_code, 71);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_takes, on_device),
        cmocka_unit_test_setup(test_launches, on_device),
        cmocka_unit_test_setup(test_copies, on_device),
        cmocka_unit_test_setup(test_takes, in_host),
        cmocka_unit_test_setup(test_launches, in_host),
        cmocka_unit_test_setup(test_copies, in_host),
        cmocka_unit_test_setup(test_copies_of_blocks, without_logits),
        cmocka_unit_test_setup(test_kinds, on_device),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
