/* Speed of the engine on synthetic requests, beside the memory speed measured in the same run. Names of fields are those
 * of vLLM's benchmarks. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "launch/bench_load.h"
#include "launch/bench_measure.h"
#include "launch/bench_report.h"
#include "launch/command.h"
#include "runtime/base/arena.h"
#include "runtime/base/monotonic.h"

enum { WARM_TOKENS = 8 };

/* ---- both ---- */

/* The first steps touch memory for the first time. */
static Status warm_up(Session *session) {
    BenchTimes times;
    const BenchLoad load = {.request_count = 1,
                            .concurrency = 1,
                            .input_tokens = WARM_TOKENS,
                            .output_tokens = WARM_TOKENS,
                            .seed = (uint64_t)session->settings->seed};
    Status status = bench_load_run(session, &load, &times);
    bench_times_free(&times);
    return status;
}

/* Bytes of this rank's weights that pure decode steps read a second. */
static double weight_rate(const Session *session, const BenchTimes *times) {
    return bench_rate((double)engine_stats(session->engine)->weight_bytes *
                          (double)times->decode_steps,
                      times->split.decode);
}

static void print_limits(const Session *session, const BenchTimes *times,
                         const BenchLimits *limits) {
    double weights = weight_rate(session, times);
    printf("memory read, copy           %.2f, %.2f GB/s (rank 0, %u threads, measured now)\n",
           limits->read_bytes_per_second / 1e9, limits->copy_bytes_per_second / 1e9,
           session->ranks.threads);
    printf("weights read in decode      %.2f GB/s, %.0f %% of the memory read\n", weights / 1e9,
           bench_share(weights, limits->read_bytes_per_second));
}

static json_t *common_result(const Session *session, const BenchTimes *times,
                             const BenchLimits *limits) {
    const BenchSplit *split = &times->split;
    return json_pack("{ss ss si si sI s{sf sf sf sf sf sf sf} s{sf sf sf}}", "model",
                     session_model_name(session), "kernels", engine_kernels_name(session->engine),
                     "ranks", session->ranks.comm->size, "threads", (int)session->ranks.threads,
                     "seed", (json_int_t)session->settings->seed, "split_seconds", "prefill",
                     split->prefill, "decode", split->decode, "matmul", split->matmul, "attention",
                     split->attention, "collective", split->collective, "sampling", split->sampling,
                     "other", split->other, "limits_bytes_per_second", "memory_read",
                     limits->read_bytes_per_second, "memory_copy", limits->copy_bytes_per_second,
                     "weights_read", weight_rate(session, times));
}

/* ---- bench throughput ---- */

typedef struct Row {
    const char *name; /* of vLLM's fields: {mean,median,std,p99}_NAME_ms */
    BenchStatistics statistics;
} Row;

enum { ROW_COUNT = 4 };

static void collect_rows(BenchTimes *times, Row out[ROW_COUNT]) {
    out[0] = (Row){"ttft", bench_statistics(times->first_token, times->completed)};
    out[1] = (Row){"tpot", bench_statistics(times->per_token, times->completed)};
    out[2] = (Row){"itl", bench_statistics(times->gaps, times->gap_count)};
    out[3] = (Row){"e2el", bench_statistics(times->end_to_end, times->completed)};
}

static void print_throughput(const Session *session, const BenchTimes *times,
                             const BenchLimits *limits, const Row rows[ROW_COUNT]) {
    double all = (double)(times->input_tokens + times->output_tokens);
    printf("completed                   %u\nfailed                      %u\n", times->completed,
           times->failed);
    printf("duration                    %.3f s\n", times->seconds);
    printf("total_input                 %llu\ntotal_output                %llu\n",
           (unsigned long long)times->input_tokens, (unsigned long long)times->output_tokens);
    printf("request_throughput          %.3f requests/s\n",
           bench_rate(times->completed, times->seconds));
    printf("output_throughput           %.2f tok/s\n",
           bench_rate((double)times->output_tokens, times->seconds));
    printf("total_token_throughput      %.2f tok/s\n", bench_rate(all, times->seconds));
    printf("prefill, decode             %.2f, %.2f tok/s of their own steps\n",
           bench_rate((double)times->input_tokens, times->split.prefill),
           bench_rate((double)times->decode_tokens, times->split.decode));
    for (int i = 0; i < ROW_COUNT; i++)
        printf("%-4s mean median std p99    %.3f %.3f %.3f %.3f ms\n", rows[i].name,
               rows[i].statistics.mean * 1e3, rows[i].statistics.median * 1e3,
               rows[i].statistics.std * 1e3, rows[i].statistics.p99 * 1e3);
    bench_print_weights(session);
    bench_print_split(&times->split);
    bench_print_stored(session);
    print_limits(session, times, limits);
}

static json_t *throughput_result(const Session *session, const BenchTimes *times,
                                 const BenchLimits *limits, const Row rows[ROW_COUNT]) {
    json_t *result = common_result(session, times, limits);
    if (!result) return NULL;
    double all = (double)(times->input_tokens + times->output_tokens);
    json_t *fields = json_pack(
        "{si si sf sI sI sf sf sf sf sf}", "completed", (int)times->completed, "failed",
        (int)times->failed, "duration", times->seconds, "total_input",
        (json_int_t)times->input_tokens, "total_output", (json_int_t)times->output_tokens,
        "request_throughput", bench_rate(times->completed, times->seconds), "output_throughput",
        bench_rate((double)times->output_tokens, times->seconds), "total_token_throughput",
        bench_rate(all, times->seconds), "prefill_throughput",
        bench_rate((double)times->input_tokens, times->split.prefill), "decode_throughput",
        bench_rate((double)times->decode_tokens, times->split.decode));
    json_object_update_new(result, fields);
    for (int i = 0; i < ROW_COUNT; i++) {
        const BenchStatistics *statistics = &rows[i].statistics;
        const struct {
            const char *prefix;
            double seconds;
        } parts[] = {{"mean", statistics->mean},
                     {"median", statistics->median},
                     {"std", statistics->std},
                     {"p99", statistics->p99}};
        for (size_t p = 0; p < sizeof parts / sizeof *parts; p++) {
            char name[32];
            snprintf(name, sizeof name, "%s_%s_ms", parts[p].prefix, rows[i].name);
            json_object_set_new(result, name, json_real(parts[p].seconds * 1e3));
        }
    }
    return result;
}

static Status measure_throughput(Session *session, void *user) {
    const Settings *settings = session->settings;
    BenchTimes *times = user;
    BenchLimits limits;
    Row rows[ROW_COUNT];
    const BenchLoad load = {
        .request_count = (uint32_t)settings->num_prompts,
        .concurrency = (uint32_t)(settings->max_concurrency ? settings->max_concurrency
                                                            : settings->max_num_seqs),
        .input_tokens = (uint32_t)settings->random_input_len,
        .output_tokens = (uint32_t)settings->random_output_len,
        .seed = (uint64_t)settings->seed,
    };
    TRY(bench_limits_measure(session->ranks.threads, &limits));
    TRY(warm_up(session));
    TRY(bench_load_run(session, &load, times));
    collect_rows(times, rows);
    print_throughput(session, times, &limits, rows);
    session->lines_ok = times->completed;
    session->lines_failed = times->failed;
    return settings->save_result
               ? bench_save_result(session, throughput_result(session, times, &limits, rows))
               : STATUS_OK;
}

static int throughput(const Settings *settings) {
    BenchTimes times = {0};
    const SessionPlan plan = {.work = measure_throughput,
                              .user = &times,
                              .prompt_tokens = (uint32_t)settings->random_input_len};
    int exit_code = session_run(settings, &plan);
    bench_times_free(&times);
    return exit_code;
}

/* ---- bench latency ---- */

static const double percents[] = {10, 25, 50, 75, 90, 99};

enum { PERCENT_COUNT = sizeof percents / sizeof *percents };

/* latencies of the timed iterations; times is that of the last one. */
static Status run_iterations(Session *session, double *latencies, BenchTimes *times) {
    const Settings *settings = session->settings;
    for (int64_t i = -settings->num_iters_warmup; i < settings->num_iters; i++) {
        const BenchLoad load = {.request_count = (uint32_t)settings->batch_size,
                                .concurrency = (uint32_t)settings->batch_size,
                                .input_tokens = (uint32_t)settings->random_input_len,
                                .output_tokens = (uint32_t)settings->random_output_len,
                                .seed = (uint64_t)settings->seed};
        bench_times_free(times);
        TRY(bench_load_run(session, &load, times));
        if (times->failed > 0)
            FAIL(NAN_LOGITS, "%u of %u requests failed", times->failed, load.request_count);
        if (i >= 0) latencies[i] = times->seconds;
    }
    return STATUS_OK;
}

static json_t *latency_result(const Session *session, const BenchTimes *times,
                              const BenchLimits *limits, const double *latencies, size_t count,
                              double mean) {
    json_t *result = common_result(session, times, limits);
    json_t *list = json_array(), *marks = json_object();
    if (!result) return NULL;
    for (size_t i = 0; i < count; i++)
        json_array_append_new(list, json_real(latencies[i]));
    for (size_t i = 0; i < PERCENT_COUNT; i++) {
        char name[8];
        snprintf(name, sizeof name, "%.0f", percents[i]);
        json_object_set_new(marks, name,
                            json_real(bench_percentile(latencies, count, percents[i])));
    }
    json_object_set_new(result, "avg_latency", json_real(mean));
    json_object_set_new(result, "latencies", list);
    json_object_set_new(result, "percentiles", marks);
    return result;
}

static Status report_latency(const Session *session, const BenchTimes *times,
                             const BenchLimits *limits, double *latencies, size_t count) {
    BenchStatistics statistics = bench_statistics(latencies, count);
    printf("avg_latency                 %.4f s\n", statistics.mean);
    for (size_t i = 0; i < PERCENT_COUNT; i++)
        printf("%2.0f %% latency                %.4f s\n", percents[i],
               bench_percentile(latencies, count, percents[i]));
    printf("prefill, decode             %.2f, %.2f tok/s of their own steps\n",
           bench_rate((double)times->input_tokens, times->split.prefill),
           bench_rate((double)times->decode_tokens, times->split.decode));
    bench_print_weights(session);
    bench_print_split(&times->split);
    bench_print_stored(session);
    print_limits(session, times, limits);
    if (!session->settings->save_result) return STATUS_OK;
    return bench_save_result(
        session, latency_result(session, times, limits, latencies, count, statistics.mean));
}

static Status measure_latency(Session *session, void *user) {
    size_t count = (size_t)session->settings->num_iters;
    BenchTimes *times = user;
    BenchLimits limits;
    double *latencies;
    TRY(bench_limits_measure(session->ranks.threads, &limits));
    TRY(memory_take((void **)&latencies, count, sizeof *latencies, "benchmark times"));
    Status status = run_iterations(session, latencies, times);
    if (status == STATUS_OK) status = report_latency(session, times, &limits, latencies, count);
    free(latencies);
    return status;
}

static int latency(const Settings *settings) {
    BenchTimes times = {0};
    const SessionPlan plan = {.work = measure_latency,
                              .user = &times,
                              .prompt_tokens = (uint32_t)settings->random_input_len};
    int exit_code = session_run(settings, &plan);
    bench_times_free(&times);
    return exit_code;
}

const Command command_bench[] = {
    {.name = "bench throughput",
     .summary = "many random requests: tokens a second, time to first token, between tokens",
     .positionals = "model",
     .needs = "model",
     .takes = "@model @ranks @engine placement machine seed temperature dataset-name num-prompts "
              "random-input-len "
              "random-output-len max-concurrency save-result result-filename summary-json dry-run",
     .run = throughput},
    {.name = "bench latency",
     .summary = "one batch of random requests, again and again: how long it takes",
     .positionals = "model",
     .needs = "model",
     .takes =
         "@model @ranks @engine placement machine seed temperature batch-size random-input-len "
         "random-output-len num-iters num-iters-warmup save-result result-filename "
         "summary-json dry-run",
     .run = latency},
    {.name = NULL},
};
