/* The engine on a tiny golden model: refusals with their numbers, cancel, agreed stops, prompt logits, limits of a
 * request, and memory that comes back. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/engine/engine.h"

static const char model_path[] = GOLDEN "/models/gguf_llama_f32/gguf_llama_f32.gguf";

enum { REQUESTS_MAX = 32, VOCAB = 131, PROMPT_MAX = 64 };

typedef struct Seen {
    uint32_t tokens, finishes, logits;
    FinishReason reason;
    ErrorCode error;
    uint32_t finished_tokens;
    int32_t last[PROMPT_MAX];
    struct Fixture *fixture;
} Seen;

typedef struct Fixture {
    Weights *weights;
    Comm *comm;
    Engine *engine;
    Seen seen[REQUESTS_MAX];
    StopRequest stop;         /* what the hook answers */
    uint64_t cancel_on_token; /* request id + 1; 0: none */
} Fixture;

static StopRequest stop_hook(void *user) {
    return ((Fixture *)user)->stop;
}

static void open_tiers(Fixture *fixture, uint64_t kv_bytes, uint64_t host_bytes) {
    memset(fixture, 0, sizeof *fixture);
    assert_int_equal(weights_open(&fixture->weights, model_path), STATUS_OK);
    assert_int_equal(comm_self_create(&fixture->comm), STATUS_OK);
    EngineOptions options = {.backend = "auto",
                             .cpu_isa = "auto",
                             .thread_count = 1,
                             .max_num_seqs = 4,
                             .max_num_batched_tokens = 24,
                             .block_tokens = 8,
                             .kv_bytes = {kv_bytes, host_bytes},
                             .hooks = {.user = fixture, .stop_requested = stop_hook}};
    assert_int_equal(engine_open(&fixture->engine, &options, fixture->weights, NULL, fixture->comm),
                     STATUS_OK);
}

static void open_fixture(Fixture *fixture, uint64_t kv_bytes) {
    open_tiers(fixture, kv_bytes, 0);
}

static void close_fixture(Fixture *fixture) {
    engine_close(fixture->engine);
    comm_destroy(fixture->comm);
    weights_close(fixture->weights);
}

static void on_token(void *user, const TokenEvent *event) {
    Seen *seen = user;
    assert_int_equal(event->index, seen->tokens);
    seen->last[seen->tokens++ % PROMPT_MAX] = event->token;
    if (seen->fixture->cancel_on_token == event->request_id + 1)
        assert_int_equal(engine_cancel(seen->fixture->engine, event->request_id), STATUS_OK);
}

static void on_finish(void *user, const FinishEvent *event) {
    Seen *seen = user;
    seen->finishes++;
    seen->reason = event->reason;
    seen->error = event->error;
    seen->finished_tokens = event->token_count;
}

static void on_logits(void *user, const LogitsEvent *event) {
    Seen *seen = user;
    assert_int_equal(event->position, seen->logits);
    assert_int_equal(event->vocab_count, VOCAB);
    seen->logits++;
}

static Request request_of(Fixture *fixture, uint64_t id, const int32_t *prompt,
                          uint32_t prompt_count, uint32_t max_tokens) {
    Request request = {
        .id = id,
        .prompt = prompt,
        .prompt_count = prompt_count,
        .max_tokens = max_tokens,
        .sampling = sampling_defaults,
        .sink = {.user = &fixture->seen[id], .on_token = on_token, .on_finish = on_finish}};
    request.sampling.temperature = 0;
    fixture->seen[id].fixture = fixture;
    return request;
}

static void run_until_idle(Fixture *fixture) {
    bool idle = false;
    for (int step = 0; !idle; step++) {
        assert_true(step < 1000);
        assert_int_equal(engine_step(fixture->engine, &idle), STATUS_OK);
    }
}

static const int32_t prompt[PROMPT_MAX] = {1,  5,  9,  13, 17, 21, 25, 29,
                                           33, 37, 41, 45, 49, 53, 57, 61};

static void assert_refused(Fixture *fixture, const Request *request, ErrorCode error,
                           const char *words) {
    const char *text;
    error_capture_begin();
    assert_int_equal(engine_submit(fixture->engine, request), STATUS_BAD_INPUT);
    error_capture_end();
    assert_int_equal(error_last(&text), error);
    if (!strstr(text, words)) fail_msg("\"%s\" lacks \"%s\"", text, words);
}

static void refuses_with_numbers(void **state) {
    (void)state;
    Fixture fixture;
    open_fixture(&fixture, 0);
    uint32_t longest = engine_max_model_len(fixture.engine);
    char words[64];
    Request request = request_of(&fixture, 0, prompt, 10, longest);
    snprintf(words, sizeof words, "maximum context length is %u tokens", longest);
    assert_refused(&fixture, &request, ERROR_CONTEXT_LENGTH, words);
    request = request_of(&fixture, 0, prompt, 0, 4);
    assert_refused(&fixture, &request, ERROR_REQUEST, "empty");
    const int32_t foreign[] = {3, VOCAB};
    request = request_of(&fixture, 0, foreign, 2, 4);
    assert_refused(&fixture, &request, ERROR_REQUEST, "token 131 at position 1");
    request = request_of(&fixture, 0, prompt, 4, 4);
    request.forced = foreign;
    request.forced_count = 2;
    assert_refused(&fixture, &request, ERROR_REQUEST, "token 131 at position 5");
    request = request_of(&fixture, 0, prompt, 4, 4);
    request.sampling.temperature = -1;
    assert_refused(&fixture, &request, ERROR_REQUEST, "temperature");
    assert_int_equal(fixture.seen[0].finishes, 0);
    close_fixture(&fixture);
}

/* A budget of three blocks a layer: 24 tokens fit, 25 never will, and requests that fit take turns. */
static void kv_budget_is_kept(void **state) {
    (void)state;
    Fixture fixture;
    open_fixture(&fixture, 0);
    uint64_t block_bytes = engine_stats(fixture.engine)->kv_block_bytes;
    uint32_t layers = engine_model(fixture.engine)->layer_count;
    close_fixture(&fixture);
    open_fixture(&fixture, 3 * layers * block_bytes);
    Request request = request_of(&fixture, 0, prompt, 16, 9);
    char numbers[64];
    snprintf(numbers, sizeof numbers, "25 tokens need %llu bytes of KV on a rank; %llu are there",
             (unsigned long long)(4 * layers * block_bytes),
             (unsigned long long)(3 * layers * block_bytes));
    assert_refused(&fixture, &request, ERROR_CONTEXT_LENGTH, numbers);
    for (uint64_t id = 0; id < 6; id++) {
        request = request_of(&fixture, id, prompt, 10 + (uint32_t)id, 6);
        assert_int_equal(engine_submit(fixture.engine, &request), STATUS_OK);
    }
    run_until_idle(&fixture);
    for (uint64_t id = 0; id < 6; id++) {
        assert_int_equal(fixture.seen[id].finishes, 1);
        assert_int_equal(fixture.seen[id].reason, FINISH_LENGTH);
        assert_int_equal(fixture.seen[id].tokens, 6);
    }
    assert_int_equal(engine_stats(fixture.engine)->tiers[TIER_DEVICE].capacity_bytes,
                     3 * layers * block_bytes);
    assert_true(engine_stats(fixture.engine)->tiers[TIER_DEVICE].peak_bytes <=
                3 * layers * block_bytes);
    assert_int_equal(engine_stats(fixture.engine)->requests_ok, 6);
    close_fixture(&fixture);
}

static void cancel_ends_one_request(void **state) {
    (void)state;
    Fixture fixture;
    open_fixture(&fixture, 0);
    fixture.cancel_on_token = 1 + 1;
    for (uint64_t id = 0; id < 3; id++) {
        Request request = request_of(&fixture, id, prompt, 5, 8);
        assert_int_equal(engine_submit(fixture.engine, &request), STATUS_OK);
    }
    assert_int_equal(engine_cancel(fixture.engine, 77), STATUS_NOT_FOUND);
    run_until_idle(&fixture);
    assert_int_equal(fixture.seen[1].reason, FINISH_CANCELLED);
    assert_int_equal(fixture.seen[1].tokens, 1);
    assert_int_equal(fixture.seen[0].tokens, 8);
    assert_int_equal(fixture.seen[2].tokens, 8);
    assert_memory_equal(fixture.seen[0].last, fixture.seen[2].last, 8 * sizeof(int32_t));
    close_fixture(&fixture);
}

/* Four slots, six requests: drain ends the two that wait, hurry ends all. */
static void stops_as_asked(void **state) {
    (void)state;
    for (int hurry = 0; hurry < 2; hurry++) {
        Fixture fixture;
        bool idle;
        open_fixture(&fixture, 0);
        for (uint64_t id = 0; id < 6; id++) {
            Request request = request_of(&fixture, id, prompt, 5, 8);
            assert_int_equal(engine_submit(fixture.engine, &request), STATUS_OK);
        }
        assert_int_equal(engine_step(fixture.engine, &idle), STATUS_OK);
        fixture.stop = hurry ? STOP_HURRY : STOP_DRAIN;
        run_until_idle(&fixture);
        assert_int_equal(engine_stop_seen(fixture.engine), fixture.stop);
        for (uint64_t id = 0; id < 6; id++) {
            bool finishes = !hurry && id < 4;
            assert_int_equal(fixture.seen[id].finishes, 1);
            assert_int_equal(fixture.seen[id].reason, finishes ? FINISH_LENGTH : FINISH_CANCELLED);
            if (finishes) assert_int_equal(fixture.seen[id].tokens, 8);
        }
        close_fixture(&fixture);
    }
}

static void prompt_only_reports_every_position(void **state) {
    (void)state;
    Fixture fixture;
    open_fixture(&fixture, 0);
    int32_t long_prompt[60];
    for (int i = 0; i < 60; i++)
        long_prompt[i] = (7 * i + 3) % VOCAB;
    Request request = request_of(&fixture, 0, long_prompt, 60, 0);
    request.sink.on_logits = on_logits;
    assert_int_equal(engine_submit(fixture.engine, &request), STATUS_OK);
    run_until_idle(&fixture);
    assert_int_equal(fixture.seen[0].logits, 60);
    assert_int_equal(fixture.seen[0].tokens, 0);
    assert_int_equal(fixture.seen[0].finishes, 1);
    assert_int_equal(engine_stats(fixture.engine)->prompt_tokens, 60);
    close_fixture(&fixture);
}

/* A stop token ends a request, but not before min_tokens. */
static void stop_tokens_and_min_tokens(void **state) {
    (void)state;
    Fixture fixture;
    open_fixture(&fixture, 0);
    Request request = request_of(&fixture, 0, prompt, 5, 8);
    assert_int_equal(engine_submit(fixture.engine, &request), STATUS_OK);
    run_until_idle(&fixture);
    int32_t stop = fixture.seen[0].last[0];
    for (uint64_t id = 1; id <= 2; id++) {
        request = request_of(&fixture, id, prompt, 5, 8);
        request.stop_tokens = &stop;
        request.stop_token_count = 1;
        request.min_tokens = id == 1 ? 0 : 8;
        assert_int_equal(engine_submit(fixture.engine, &request), STATUS_OK);
        run_until_idle(&fixture);
    }
    assert_int_equal(fixture.seen[1].tokens, 1);
    assert_int_equal(fixture.seen[1].reason, FINISH_STOP);
    assert_int_equal(fixture.seen[2].tokens, 8);
    close_fixture(&fixture);
}

/* Two requests side by side; the second pauses after a few steps, until the first has ended. */
static void run_two(Fixture *fixture, bool parks) {
    Request first = request_of(fixture, 0, prompt, 30, 20),
            second = request_of(fixture, 1, prompt + 3, 13, 20);
    first.ignore_eos = second.ignore_eos = true;
    assert_int_equal(engine_submit(fixture->engine, &first), STATUS_OK);
    assert_int_equal(engine_submit(fixture->engine, &second), STATUS_OK);
    bool idle = false;
    for (int step = 0; step < 8 && parks; step++)
        assert_int_equal(engine_step(fixture->engine, &idle), STATUS_OK);
    uint32_t before = fixture->seen[1].tokens;
    if (parks) assert_int_equal(engine_park(fixture->engine, 1), STATUS_OK);
    run_until_idle(fixture);
    assert_int_equal(fixture->seen[0].finishes, 1);
    if (!parks) return;
    assert_true(before > 0);
    assert_int_equal(fixture->seen[1].tokens, before);
    assert_int_equal(engine_stats(fixture->engine)->parked, 1);
    assert_int_equal(engine_resume(fixture->engine, 1), STATUS_OK);
    run_until_idle(fixture);
    assert_int_equal(engine_park(fixture->engine, 1), STATUS_NOT_FOUND);
}

static void a_parked_request_goes_on_where_it_was(void **state) {
    (void)state;
    Fixture calm, parked;
    open_fixture(&calm, 1 << 20);
    run_two(&calm, false);
    open_tiers(&parked, UINT64_MAX, 1 << 20);
    run_two(&parked, true);
    const EngineStats *stats = engine_stats(parked.engine);
    assert_int_equal(stats->parks, 1);
    assert_int_equal(stats->recomputed_tokens, 0);
    assert_true(stats->tiers[TIER_HOST].written_bytes > 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(parked.seen[i].finishes, 1);
        assert_int_equal(parked.seen[i].tokens, 20);
        assert_memory_equal(parked.seen[i].last, calm.seen[i].last, sizeof calm.seen[i].last);
    }
    close_fixture(&calm);
    close_fixture(&parked);
}

/* Fewer forced tokens than the answer has: the rest is sampled, from the text so far. */
static void forced_tokens_come_first(void **state) {
    (void)state;
    Fixture fixture;
    open_fixture(&fixture, 0);
    static const int32_t forced[] = {77, 3, 77};
    int32_t longer[8];
    Request request = request_of(&fixture, 0, prompt, 5, 8);
    request.forced = forced;
    request.forced_count = 3;
    assert_int_equal(engine_submit(fixture.engine, &request), STATUS_OK);
    memcpy(longer, prompt, 5 * sizeof *longer);
    memcpy(longer + 5, forced, sizeof forced);
    request = request_of(&fixture, 1, longer, 8, 5);
    assert_int_equal(engine_submit(fixture.engine, &request), STATUS_OK);
    run_until_idle(&fixture);
    assert_int_equal(fixture.seen[0].tokens, 8);
    assert_memory_equal(fixture.seen[0].last, forced, sizeof forced);
    assert_memory_equal(fixture.seen[0].last + 3, fixture.seen[1].last, 5 * sizeof(int32_t));
    close_fixture(&fixture);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_parked_request_goes_on_where_it_was),
        cmocka_unit_test(refuses_with_numbers),
        cmocka_unit_test(kv_budget_is_kept),
        cmocka_unit_test(cancel_ends_one_request),
        cmocka_unit_test(stops_as_asked),
        cmocka_unit_test(prompt_only_reports_every_position),
        cmocka_unit_test(stop_tokens_and_min_tokens),
        cmocka_unit_test(forced_tokens_come_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
