/* KV blocks as engine_visit_blocks shows them: those of a device that the host cannot touch are, but for rounding, those of the CPU. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "kernels/quant.h"
#include "runtime/engine/engine.h"

static const char model_path[] = GOLDEN "/models/gguf_llama_f32/gguf_llama_f32.gguf";

enum { PROMPT_COUNT = 40, NUMBERS_MAX = 1 << 16 };

typedef struct Blocks {
    Engine *engine;
    float numbers[NUMBERS_MAX];
    uint32_t count, block_count;
} Blocks;

static Status note_block(void *user, const KvShape *shape, const void *block) {
    Blocks *blocks = user;
    const uint16_t *halves = block;
    uint64_t count = kv_block_bytes(shape) / sizeof *halves;
    assert_true(blocks->count + count <= NUMBERS_MAX);
    for (uint64_t i = 0; i < count; i++)
        blocks->numbers[blocks->count++] = f16_to_f32(halves[i]);
    blocks->block_count++;
    return STATUS_OK;
}

static void on_token(void *user, const TokenEvent *event) {
    Blocks *blocks = user;
    if (event->index == 0)
        assert_int_equal(engine_visit_blocks(blocks->engine, note_block, blocks), STATUS_OK);
}

static void on_finish(void *user, const FinishEvent *event) {
    (void)user;
    assert_int_equal(event->error, ERROR_COUNT);
}

static void collect(const char *backend, uint64_t host_bytes, Blocks *out) {
    Weights *weights;
    Comm *comm;
    int32_t prompt[PROMPT_COUNT];
    *out = (Blocks){0};
    for (int i = 0; i < PROMPT_COUNT; i++)
        prompt[i] = 1 + i * 37 % 130;
    assert_int_equal(weights_open(&weights, model_path), STATUS_OK);
    assert_int_equal(comm_self_create(&comm), STATUS_OK);
    const EngineOptions options = {.backend = backend,
                                   .cpu_isa = "reference",
                                   .thread_count = 1,
                                   .max_num_seqs = 1,
                                   .max_num_batched_tokens = PROMPT_COUNT,
                                   .block_tokens = 4,
                                   .kv_bytes = {host_bytes ? UINT64_MAX : 0, host_bytes}};
    assert_int_equal(engine_open(&out->engine, &options, weights, NULL, comm), STATUS_OK);
    const Request request = {.prompt = prompt,
                             .prompt_count = PROMPT_COUNT,
                             .max_tokens = 1,
                             .sampling = sampling_defaults,
                             .sink = {.user = out, .on_token = on_token, .on_finish = on_finish}};
    assert_int_equal(engine_submit(out->engine, &request), STATUS_OK);
    for (bool idle = false; !idle;)
        assert_int_equal(engine_step(out->engine, &idle), STATUS_OK);
    engine_close(out->engine);
    comm_destroy(comm);
    weights_close(weights);
}

static void compare(const Blocks *expected, const Blocks *found) {
    assert_true(expected->block_count >= 2 * PROMPT_COUNT / 4);
    assert_int_equal(expected->count, found->count);
    for (uint32_t i = 0; i < expected->count; i++) {
        float allowed = 2e-3f * (1.0f + fabsf(expected->numbers[i]));
        assert_true(fabsf(expected->numbers[i] - found->numbers[i]) <= allowed);
    }
}

static void test_blocks_are_seen(void **state) {
    (void)state;
    static Blocks expected, found;
    collect("cpu", 0, &expected);
    collect("emulated", 0, &found);
    compare(&expected, &found);
    collect("emulated", 1 << 20, &found); /* most of them lie in the host's memory */
    compare(&expected, &found);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_blocks_are_seen)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
