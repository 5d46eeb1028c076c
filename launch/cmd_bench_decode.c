/* Speed of decode alone under a KV budget, beside what the disk and the resident run allow. */

#include <inttypes.h>
#include <stdio.h>

#include "launch/bench_decode.h"
#include "launch/bench_measure.h"
#include "launch/bench_report.h"
#include "launch/command.h"
#include "launch/tier_view.h"

/* What the steps came to. Bytes and seconds are of rank 0 and, where the name says so, of one step. */
typedef struct Figures {
    double tokens_per_second, median_tokens_per_second;
    double step_seconds, cpu_step_seconds;
    double read_bytes[TIER_COUNT], written_bytes[TIER_COUNT]; /* a step */
    double stall_seconds[TIER_COUNT];                         /* a step */
    double moved_bytes;     /* a step, both ways, without the device's */
    double compute_seconds; /* a step: matmul and attention without what it waited for KV */
    double weights_read_bytes, weights_stall_seconds; /* a step */
    double weights_bytes_per_second;                  /* while they were read */
    uint64_t useful, late, wasted, recomputed, prompt_tokens;
    double disk_bytes_per_second;                           /* 0: nothing lies on disk */
    double disk_tokens_per_second, limit_tokens_per_second; /* 0: unknown */
} Figures;

static BenchDecodeLoad load_of(const Settings *settings) {
    return (BenchDecodeLoad){.batch_size = (uint32_t)settings->batch_size,
                             .context_tokens = (uint32_t)settings->random_input_len,
                             .step_count = (uint32_t)settings->num_steps,
                             .warm_step_count = (uint32_t)settings->num_steps_warmup,
                             .synthetic = settings->synthetic_kv,
                             .seed = (uint64_t)settings->seed};
}

static double smaller_known(double a, double b) {
    if (a == 0 || b == 0) return a + b;
    return a < b ? a : b;
}

static Figures figures_of(const BenchDecodeLoad *load, BenchDecodeTimes *times) {
    const EngineStats *begin = &times->begin, *end = &times->end;
    double steps = load->step_count;
    Figures out = {.tokens_per_second = bench_rate((double)times->tokens, times->seconds),
                   .step_seconds = times->seconds / steps,
                   .cpu_step_seconds = times->cpu_seconds / steps,
                   .useful = end->prefetch_useful - begin->prefetch_useful,
                   .late = end->prefetch_late - begin->prefetch_late,
                   .wasted = end->prefetch_wasted - begin->prefetch_wasted,
                   .recomputed = end->recomputed_tokens - begin->recomputed_tokens,
                   .prompt_tokens = end->prompt_tokens - begin->prompt_tokens};
    out.median_tokens_per_second =
        bench_rate((double)times->tokens / steps,
                   bench_statistics(times->step_seconds, load->step_count).median);
    for (int tier = 0; tier < TIER_COUNT; tier++) {
        const EngineTierStats *from = &begin->tiers[tier], *to = &end->tiers[tier];
        out.read_bytes[tier] = (double)(to->read_bytes - from->read_bytes) / steps;
        out.written_bytes[tier] = (double)(to->written_bytes - from->written_bytes) / steps;
        out.stall_seconds[tier] =
            (end->seconds_stalled[tier] - begin->seconds_stalled[tier]) / steps;
        if (tier != TIER_DEVICE) out.moved_bytes += out.read_bytes[tier] + out.written_bytes[tier];
    }
    out.compute_seconds = (times->split.matmul + times->split.attention) / steps;
    for (int tier = 0; tier < TIER_COUNT; tier++)
        out.compute_seconds -= out.stall_seconds[tier];
    const EngineWeightStats *from = &begin->weights, *to = &end->weights;
    double read = (double)(to->read_bytes - from->read_bytes);
    out.weights_read_bytes = read / steps;
    out.weights_stall_seconds = (to->seconds_stalled - from->seconds_stalled) / steps;
    out.weights_bytes_per_second = bench_rate(read, to->seconds_reading - from->seconds_reading);
    out.moved_bytes += out.weights_read_bytes;
    return out;
}

static void add_limits(const Settings *settings, const BenchDecodeTimes *times, Figures *figures) {
    double moved = figures->read_bytes[TIER_NVME] + figures->written_bytes[TIER_NVME] +
                   figures->weights_read_bytes;
    double tokens_a_step = (double)times->tokens / (double)settings->num_steps;
    figures->disk_bytes_per_second = times->disk_bytes_per_second;
    if (moved > 0)
        figures->disk_tokens_per_second = tokens_a_step * times->disk_bytes_per_second / moved;
    figures->limit_tokens_per_second =
        smaller_known(figures->disk_tokens_per_second, settings->resident_speed);
}

/* ---- telling ---- */

static void print_tiers(const EngineStats *stats, const Figures *figures) {
    for (int tier = 0; tier < TIER_COUNT; tier++) {
        const EngineTierStats *own = &stats->tiers[tier];
        if (own->capacity_bytes == 0) continue;
        printf("%-27s %.1f of %.1f MiB, read %.2f, written %.2f MB a step\n", tier_name((Tier)tier),
               (double)own->used_bytes / 1048576, (double)own->capacity_bytes / 1048576,
               figures->read_bytes[tier] / 1e6, figures->written_bytes[tier] / 1e6);
    }
}

static void print_weights(const EngineStats *stats, const Figures *figures) {
    const uint64_t *bytes = stats->weights.bytes;
    if (!tier_view_streams(stats)) return;
    printf("layers                      device %.1f, host %.1f, streamed %.1f MiB, read %.2f MB a "
           "step "
           "at %.2f GB/s, waited for %.2f ms\n",
           (double)bytes[TIER_DEVICE] / 1048576, (double)bytes[TIER_HOST] / 1048576,
           (double)bytes[TIER_NVME] / 1048576, figures->weights_read_bytes / 1e6,
           figures->weights_bytes_per_second / 1e9, figures->weights_stall_seconds * 1e3);
}

static void print_limit_shares(const Figures *figures, const Settings *settings) {
    if (figures->disk_tokens_per_second > 0)
        printf("disk bound                  %.2f tok/s at %.2f GB/s for weights and KV, measured "
               "around it: %.1f %% "
               "reached\n",
               figures->disk_tokens_per_second, figures->disk_bytes_per_second / 1e9,
               bench_share(figures->tokens_per_second, figures->disk_tokens_per_second));
    if (settings->resident_speed > 0)
        printf("resident speed              %.2f tok/s, as given: %.1f %% reached\n",
               settings->resident_speed,
               bench_share(figures->tokens_per_second, settings->resident_speed));
    if (figures->limit_tokens_per_second > 0)
        printf("of the lower bound          %.1f %%%s\n",
               bench_share(figures->tokens_per_second, figures->limit_tokens_per_second),
               settings->resident_speed > 0 ? "" : " (resident speed unknown)");
}

static void print_figures(const Session *session, const BenchDecodeTimes *times,
                          const Figures *figures) {
    const Settings *settings = session->settings;
    const double *stalls = figures->stall_seconds;
    printf("load                        batch %lld, context %lld tokens%s, %lld steps\n",
           (long long)settings->batch_size, (long long)settings->random_input_len,
           settings->synthetic_kv ? " of synthetic KV" : "", (long long)settings->num_steps);
    printf("contexts ready after        %.2f s\n", times->seconds_before);
    printf("decode                      %.2f tok/s, %.2f by the median step\n",
           figures->tokens_per_second, figures->median_tokens_per_second);
    if (session->plan_predicts)
        printf("predicted                   %.2f tok/s, %+.0f %% off, bound by %s\n",
               session->plan.cost.decode_rate,
               100 * (session->plan.cost.decode_rate / figures->tokens_per_second - 1),
               plan_bottleneck_name(&session->plan.cost));
    printf("step                        %.2f ms, CPU %.2f ms of %u threads and the tier thread\n",
           figures->step_seconds * 1e3, figures->cpu_step_seconds * 1e3, session->ranks.threads);
    bench_print_weights(session);
    bench_print_split(&times->split);
    bench_print_stored(session);
    printf("stalled a step              nvme %.2f, host %.2f, room %.2f ms: %.1f %%\n",
           stalls[TIER_NVME] * 1e3, stalls[TIER_HOST] * 1e3, stalls[TIER_DEVICE] * 1e3,
           bench_share(stalls[TIER_NVME] + stalls[TIER_HOST] + stalls[TIER_DEVICE],
                       figures->step_seconds));
    printf("computed a step             %.2f ms of matmul and attention, all at hand\n",
           figures->compute_seconds * 1e3);
    print_tiers(&times->end, figures);
    print_weights(&times->end, figures);
    printf("prefetch                    %" PRIu64 " useful, %" PRIu64 " late, %" PRIu64 " wasted\n",
           figures->useful, figures->late, figures->wasted);
    if (figures->prompt_tokens + figures->recomputed > 0)
        printf("not decode alone            %" PRIu64 " prompt tokens, %" PRIu64 " recomputed\n",
               figures->prompt_tokens, figures->recomputed);
    print_limit_shares(figures, settings);
}

static json_t *tiers_result(const EngineStats *stats, const Figures *figures) {
    json_t *tiers = json_object();
    for (int tier = 0; tier < TIER_COUNT; tier++)
        json_object_set_new(tiers, tier_name((Tier)tier),
                            json_pack("{sI sI sf sf sf}", "capacity_bytes",
                                      (json_int_t)stats->tiers[tier].capacity_bytes, "used_bytes",
                                      (json_int_t)stats->tiers[tier].used_bytes,
                                      "read_bytes_a_step", figures->read_bytes[tier],
                                      "written_bytes_a_step", figures->written_bytes[tier],
                                      "stall_seconds_a_step", figures->stall_seconds[tier]));
    return tiers;
}

static json_t *weights_result(const EngineStats *stats, const Figures *figures) {
    json_t *weights = tier_view_weights(stats);
    json_object_set_new(weights, "read_bytes_a_step", json_real(figures->weights_read_bytes));
    json_object_set_new(weights, "read_bytes_per_second",
                        json_real(figures->weights_bytes_per_second));
    json_object_set_new(weights, "stall_seconds_a_step", json_real(figures->weights_stall_seconds));
    return weights;
}

static json_t *result_of(const Session *session, const BenchDecodeTimes *times,
                         const Figures *figures) {
    const Settings *settings = session->settings;
    return json_pack(
        "{ss ss si si sI sI sI sI sb sf sf sf sf sf sf s{sI sI sI} sI sI so so sf sf sf sf}",
        "model", session_model_name(session), "kernels", engine_kernels_name(session->engine),
        "ranks", session->ranks.comm->size, "threads", (int)session->ranks.threads, "seed",
        (json_int_t)settings->seed, "batch_size", (json_int_t)settings->batch_size,
        "context_tokens", (json_int_t)settings->random_input_len, "steps",
        (json_int_t)settings->num_steps, "synthetic_kv", settings->synthetic_kv,
        "tokens_per_second", figures->tokens_per_second, "median_tokens_per_second",
        figures->median_tokens_per_second, "step_seconds", figures->step_seconds,
        "cpu_step_seconds", figures->cpu_step_seconds, "compute_seconds_a_step",
        figures->compute_seconds, "moved_bytes_a_step", figures->moved_bytes, "prefetch", "useful",
        (json_int_t)figures->useful, "late", (json_int_t)figures->late, "wasted",
        (json_int_t)figures->wasted, "recomputed_tokens", (json_int_t)figures->recomputed,
        "prompt_tokens", (json_int_t)figures->prompt_tokens, "tiers",
        tiers_result(&times->end, figures), "weights", weights_result(&times->end, figures),
        "disk_bytes_per_second", figures->disk_bytes_per_second, "disk_tokens_per_second",
        figures->disk_tokens_per_second, "resident_tokens_per_second", settings->resident_speed,
        "limit_tokens_per_second", figures->limit_tokens_per_second);
}

static Status measure(Session *session, void *user) {
    BenchDecodeTimes *times = user;
    const BenchDecodeLoad load = load_of(session->settings);
    TRY(bench_decode_run(session, &load, times));
    Figures figures = figures_of(&load, times);
    add_limits(session->settings, times, &figures);
    print_figures(session, times, &figures);
    session->lines_ok = load.batch_size;
    return session->settings->save_result
               ? bench_save_result(session, result_of(session, times, &figures))
               : STATUS_OK;
}

/* Nothing but the batch runs: slots and lengths follow from it unless they are given. */
static int bench_decode(const Settings *settings) {
    Settings own = *settings;
    const BenchDecodeLoad load = load_of(settings);
    BenchDecodeTimes times = {0};
    const SessionPlan plan = {.runs_together = true,
                              .work = measure,
                              .user = &times,
                              .prompt_tokens = (uint32_t)settings->random_input_len};
    own.max_num_seqs = own.batch_size;
    if (own.max_num_batched_tokens < 2 * own.batch_size)
        own.max_num_batched_tokens = 2 * own.batch_size;
    if (own.max_model_len == 0)
        own.max_model_len = bench_decode_tokens_max(&load, (uint32_t)own.max_num_batched_tokens);
    int exit_code = session_run(&own, &plan);
    bench_decode_free(&times);
    return exit_code;
}

const Command command_bench_decode[] = {
    {.name = "bench decode",
     .summary = "decode steps of one batch under a KV budget, beside the disk's speed",
     .positionals = "model",
     .needs = "model",
     .takes = "@model @ranks @engine placement machine seed temperature batch-size "
              "random-input-len num-steps num-steps-warmup synthetic-kv resident-speed "
              "save-result result-filename "
              "summary-json dry-run",
     .run = bench_decode},
    {.name = NULL},
};
