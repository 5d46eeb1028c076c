#include "launch/bench_decode.h"

#include <stdlib.h>
#include <string.h>

#include "launch/bench_disk.h"
#include "launch/bench_measure.h"
#include "runtime/base/arena.h"
#include "runtime/base/bytes.h"
#include "runtime/base/monotonic.h"

enum { DISK_TURNS_BEFORE = 2 }; /* the others come after the steps */

typedef struct DecodeRun {
    Session *session;
    const BenchDecodeLoad *load;
    BenchDecodeTimes *times;
    BenchDisk *disk;            /* NULL: nothing spills to one */
    uint32_t started, finished; /* sequences that have generated; that are through */
} DecodeRun;

static void on_token(void *user, const TokenEvent *event) {
    ((DecodeRun *)user)->started += event->index == 0;
}

static void on_finish(void *user, const FinishEvent *event) {
    (void)event;
    ((DecodeRun *)user)->finished++;
}

static Status submit_all(DecodeRun *run) {
    const BenchDecodeLoad *load = run->load;
    Random random = {.key = load->seed};
    int32_t *prompt;
    Status status = STATUS_OK;
    TRY(memory_take((void **)&prompt, load->context_tokens, sizeof *prompt, "prompt"));
    for (uint32_t i = 0; i < load->batch_size && status == STATUS_OK; i++) {
        bench_random_prompt(run->session, &random, load->context_tokens, prompt);
        const Request request = {
            .id = i,
            .prompt = prompt,
            .prompt_count = load->context_tokens,
            .max_tokens = engine_max_model_len(run->session->engine) - load->context_tokens,
            .ignore_eos = true,
            .synthetic_context = load->synthetic,
            .sampling = run->session->sampling,
            .sink = {.user = run, .on_token = on_token, .on_finish = on_finish},
        };
        status = engine_submit(run->session->engine, &request);
    }
    free(prompt);
    return status;
}

/* A step in which every sequence is to take part. */
static Status step(DecodeRun *run) {
    bool idle;
    TRY(session_step(run->session, &idle));
    if (engine_stop_seen(run->session->engine) != STOP_NONE) FAIL(STOPPED, "stopped on request");
    if (run->finished > 0)
        FAIL(CONTEXT_LENGTH, "sequences end before the steps do: raise --max-model-len");
    return STATUS_OK;
}

static Status run_steps(DecodeRun *run) {
    const BenchDecodeLoad *load = run->load;
    BenchDecodeTimes *times = run->times;
    double before = monotonic_seconds();
    while (run->started < load->batch_size)
        TRY(step(run));
    times->seconds_before = monotonic_seconds() - before;
    TRY(bench_disk_measure(run->disk, DISK_TURNS_BEFORE));
    for (uint32_t i = 0; i < load->warm_step_count; i++)
        TRY(step(run));
    times->begin = *engine_stats(run->session->engine);
    BenchSplit split = bench_split_now(run->session);
    double cpu = bench_cpu_seconds(), start = monotonic_seconds(), last = start;
    for (uint32_t i = 0; i < load->step_count; i++) {
        TRY(step(run));
        double now = monotonic_seconds();
        times->step_seconds[i] = now - last;
        last = now;
    }
    times->seconds = last - start;
    times->cpu_seconds = bench_cpu_seconds() - cpu;
    times->split = bench_split_since(&split, run->session);
    times->end = *engine_stats(run->session->engine);
    times->tokens = times->end.generated_tokens - times->begin.generated_tokens;
    return bench_disk_measure(run->disk, BENCH_IO_TURNS - DISK_TURNS_BEFORE);
}

uint32_t bench_decode_tokens_max(const BenchDecodeLoad *load, uint32_t token_budget) {
    uint32_t steps = load->step_count + load->warm_step_count + 2;
    if (load->synthetic) return load->context_tokens + steps;
    uint64_t prompts = (uint64_t)load->batch_size * load->context_tokens,
             spare = token_budget > load->batch_size ? token_budget - load->batch_size : 1;
    return load->context_tokens + steps + load->batch_size + (uint32_t)divide_up(prompts, spare);
}

Status bench_decode_run(Session *session, const BenchDecodeLoad *load, BenchDecodeTimes *out) {
    DecodeRun run = {.session = session, .load = load, .times = out};
    *out = (BenchDecodeTimes){0};
    if (engine_max_num_seqs(session->engine) < load->batch_size)
        FAIL(CONTEXT_LENGTH, "the KV budget lets %u sequences run at once, not %u",
             engine_max_num_seqs(session->engine), load->batch_size);
    TRY(memory_take((void **)&out->step_seconds, load->step_count, sizeof(double), "step times"));
    Status status = STATUS_OK;
    if (engine_ring(session->engine) || engine_weight_stream(session->engine))
        status = bench_disk_open(&run.disk, session);
    if (status == STATUS_OK) status = submit_all(&run);
    if (status == STATUS_OK) status = run_steps(&run);
    for (uint32_t i = 0; i < load->batch_size; i++)
        (void)engine_cancel(session->engine, i); /* not there: through already */
    if (status == STATUS_OK) status = session_run_until_idle(session);
    out->disk_bytes_per_second = bench_disk_bytes_per_second(run.disk);
    bench_disk_close(run.disk);
    return status;
}

void bench_decode_free(BenchDecodeTimes *times) {
    free(times->step_seconds);
    *times = (BenchDecodeTimes){0};
}
