#include "launch/bench_load.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/base/monotonic.h"

typedef struct LoadRun LoadRun;

typedef struct LoadRequest {
    LoadRun *run;
    double submitted, first, last;
    uint32_t token_count;
} LoadRequest;

struct LoadRun {
    Session *session;
    const BenchLoad *load;
    BenchTimes *times;
    LoadRequest *requests; /* owned; [load->request_count] */
    int32_t *prompt;       /* owned; the engine copies it */
    Random random;
    uint32_t submitted, finished;
};

static void on_token(void *user, const TokenEvent *event) {
    LoadRequest *request = user;
    BenchTimes *times = request->run->times;
    double now = monotonic_seconds();
    if (event->index == 0)
        request->first = now;
    else
        times->gaps[times->gap_count++] = now - request->last;
    request->last = now;
    request->token_count++;
}

static void on_finish(void *user, const FinishEvent *event) {
    LoadRequest *request = user;
    LoadRun *run = request->run;
    BenchTimes *times = run->times;
    run->finished++;
    if (event->reason != FINISH_LENGTH && event->reason != FINISH_STOP) {
        times->failed++;
        return;
    }
    uint32_t gaps = request->token_count - 1;
    times->first_token[times->completed] = request->first - request->submitted;
    times->end_to_end[times->completed] = request->last - request->submitted;
    times->per_token[times->completed] = gaps > 0 ? (request->last - request->first) / gaps : 0;
    times->completed++;
    times->input_tokens += event->prompt_count;
    times->output_tokens += event->token_count;
}

void bench_random_prompt(const Session *session, Random *random, uint32_t count, int32_t *out) {
    const Tokenizer *tokenizer = session->tokenizer;
    uint32_t vocab_count = engine_model(session->engine)->vocab_count;
    for (uint32_t i = 0; i < count; i++)
        do
            out[i] = (int32_t)random_below(random, vocab_count);
        while (tokenizer && (uint32_t)out[i] < tokenizer_vocab_count(tokenizer) &&
               tokenizer_is_special(tokenizer, out[i]));
}

static Status submit_next(LoadRun *run) {
    LoadRequest *own = &run->requests[run->submitted];
    bench_random_prompt(run->session, &run->random, run->load->input_tokens, run->prompt);
    *own = (LoadRequest){.run = run, .submitted = monotonic_seconds()};
    const Request request = {
        .id = run->submitted,
        .prompt = run->prompt,
        .prompt_count = run->load->input_tokens,
        .max_tokens = run->load->output_tokens,
        .ignore_eos = true,
        .sampling = run->session->sampling,
        .sink = {.user = own, .on_token = on_token, .on_finish = on_finish},
    };
    TRY(engine_submit(run->session->engine, &request));
    run->submitted++;
    return STATUS_OK;
}

BenchSplit bench_split_now(const Session *session) {
    const EngineStats *stats = engine_stats(session->engine);
    return (BenchSplit){stats->seconds_prefill,    stats->seconds_decode,
                        stats->seconds_matmul,     stats->seconds_attention,
                        stats->seconds_collective, stats->seconds_sampling,
                        stats->seconds_other};
}

BenchSplit bench_split_since(const BenchSplit *before, const Session *session) {
    BenchSplit now = bench_split_now(session);
    return (BenchSplit){now.prefill - before->prefill,
                        now.decode - before->decode,
                        now.matmul - before->matmul,
                        now.attention - before->attention,
                        now.collective - before->collective,
                        now.sampling - before->sampling,
                        now.other - before->other};
}

static Status run_requests(LoadRun *run) {
    const BenchLoad *load = run->load;
    Session *session = run->session;
    BenchSplit before = bench_split_now(session);
    uint64_t steps_before = session->decode_steps, tokens_before = session->decode_tokens;
    double start = monotonic_seconds();
    while (run->finished < load->request_count) {
        bool idle;
        while (run->submitted < load->request_count &&
               run->submitted - run->finished < load->concurrency)
            TRY(submit_next(run));
        TRY(session_step(session, &idle));
        if (idle && engine_stop_seen(session->engine) != STOP_NONE)
            FAIL(STOPPED, "stopped on request with %u of %u requests done", run->finished,
                 load->request_count);
    }
    run->times->seconds = monotonic_seconds() - start;
    run->times->split = bench_split_since(&before, session);
    run->times->decode_steps = session->decode_steps - steps_before;
    run->times->decode_tokens = session->decode_tokens - tokens_before;
    return STATUS_OK;
}

static Status take_memory(LoadRun *run) {
    const BenchLoad *load = run->load;
    BenchTimes *times = run->times;
    uint64_t count = load->request_count;
    const struct {
        void **place;
        uint64_t count, bytes;
    } pieces[] = {
        {(void **)&times->first_token, count, sizeof(double)},
        {(void **)&times->per_token, count, sizeof(double)},
        {(void **)&times->end_to_end, count, sizeof(double)},
        {(void **)&times->gaps, count * load->output_tokens, sizeof(double)},
        {(void **)&run->requests, count, sizeof(LoadRequest)},
        {(void **)&run->prompt, load->input_tokens, sizeof(int32_t)},
    };
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
        TRY(memory_take(pieces[i].place, pieces[i].count, pieces[i].bytes, "benchmark times"));
    return STATUS_OK;
}

Status bench_load_run(Session *session, const BenchLoad *load, BenchTimes *out) {
    memset(out, 0, sizeof *out);
    LoadRun run = {.session = session, .load = load, .times = out, .random = {.key = load->seed}};
    Status status = take_memory(&run);
    if (status == STATUS_OK) status = run_requests(&run);
    free(run.requests);
    free(run.prompt);
    return status;
}

void bench_times_free(BenchTimes *times) {
    free(times->first_token);
    free(times->per_token);
    free(times->end_to_end);
    free(times->gaps);
    memset(times, 0, sizeof *times);
}
