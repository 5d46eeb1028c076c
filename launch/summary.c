#include "launch/summary.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include <jansson.h>

#include "launch/plan_report.h"
#include "launch/tier_view.h"

static double rate(uint64_t count, double seconds) {
    return count > 0 && seconds > 0 ? (double)count / seconds : 0;
}

double summary_prefill_rate(const Summary *summary) {
    return rate(summary->stats->prompt_tokens, summary->stats->seconds_prefill);
}

double summary_decode_rate(const Summary *summary) {
    return rate(summary->decode_tokens, summary->stats->seconds_decode);
}

static json_t *to_json(const Summary *summary) {
    const EngineStats *stats = summary->stats;
    char digest[32];
    snprintf(digest, sizeof digest, "%016" PRIx64, stats->determinism_digest);
    return json_pack(
        "{s{sI sI sI} s{sI sI sI} s{sf sf sf sf s{sf sf sf sf sf}} s{sf sf} so so so sI sI sI sI "
        "sI sb ss}",
        "lines", "ok", (json_int_t)summary->lines_ok, "failed", (json_int_t)summary->lines_failed,
        "skipped", (json_int_t)summary->lines_skipped, "tokens", "prompt",
        (json_int_t)stats->prompt_tokens, "generated", (json_int_t)stats->generated_tokens,
        "recomputed", (json_int_t)stats->recomputed_tokens, "seconds", "total",
        summary->seconds_total, "load", summary->seconds_load, "prefill", stats->seconds_prefill,
        "decode", stats->seconds_decode, "stall", "nvme", stats->seconds_stalled[TIER_NVME], "host",
        stats->seconds_stalled[TIER_HOST], "copy", stats->seconds_stalled[TIER_DEVICE], "weights",
        stats->weights.seconds_stalled, "peer", stats->seconds_collective, "tokens_per_second",
        "prefill", summary_prefill_rate(summary), "decode", summary_decode_rate(summary), "tiers",
        tier_view_tiers(stats), "kv", tier_view_kv(stats), "weights", tier_view_weights(stats),
        "corrupt_blocks", (json_int_t)stats->corrupt_blocks, "io_errors",
        (json_int_t)stats->io_errors, "late_transfers", (json_int_t)stats->late_transfers,
        "memory_peak_bytes", (json_int_t)stats->memory_peak_bytes, "memory_planned_bytes",
        (json_int_t)stats->memory_planned_bytes, "random_weights", stats->random_weights,
        "determinism_digest", digest);
}

/* Of rank 0, where the device has memory of its own. */
static void add_device_memory(const EngineStats *stats, json_t *root) {
    if (stats->device_free_bytes == 0) return;
    json_object_set_new(root, "device_memory",
                        json_pack("{sI sI sI}", "free_bytes", (json_int_t)stats->device_free_bytes,
                                  "planned_bytes", (json_int_t)stats->device_planned_bytes,
                                  "taken_bytes", (json_int_t)stats->device_taken_bytes));
}

Status summary_write_json(const Summary *summary, const char *path) {
    json_t *root = to_json(summary);
    if (root) add_device_memory(summary->stats, root);
    if (root && summary->plan) {
        json_t *plan = plan_choice_json(summary->plan);
        json_object_set_new(plan, "for_these_requests", plan_choice_json(summary->hindsight));
        json_object_set_new(root, "plan", plan);
    }
    if (!root) FAIL(MEMORY, "no memory for the summary");
    FILE *file = fopen(path, "we");
    if (!file) {
        json_decref(root);
        FAIL(OUTPUT_CREATE, "\"%s\": %s; see --summary-json", path, strerror(errno));
    }
    bool failed = json_dumpf(root, file, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) != 0;
    json_decref(root);
    failed |= fputc('\n', file) == EOF;
    failed |= fclose(file) != 0;
    if (failed) FAIL(OUTPUT_WRITE, "\"%s\": %s", path, strerror(errno));
    return STATUS_OK;
}

static void print_tiers(const EngineStats *stats, FILE *out) {
    json_t *view = json_pack("{so so so}", "tiers", tier_view_tiers(stats), "kv",
                             tier_view_kv(stats), "weights", tier_view_weights(stats));
    tier_view_print(view, out);
    json_decref(view);
}

static double off_percent(double predicted, double measured) {
    return measured > 0 ? 100 * (predicted / measured - 1) : 0;
}

static void print_plan(const Summary *summary, FILE *out) {
    const PlanCost *cost = &summary->hindsight->cost;
    double prefill = summary_prefill_rate(summary), decode = summary_decode_rate(summary);
    fprintf(out,
            "plan       decode %.1f tok/s predicted for these requests, %.1f measured (%+.0f %%)",
            cost->decode_rate, decode, off_percent(cost->decode_rate, decode));
    if (prefill > 0)
        fprintf(out, "; prefill %.1f, %.1f (%+.0f %%)", cost->prompt_rate, prefill,
                off_percent(cost->prompt_rate, prefill));
    fprintf(out, "; bound by %s\n", plan_bottleneck_name(cost));
}

void summary_print(const Summary *summary, FILE *out) {
    const EngineStats *stats = summary->stats;
    const double mebibyte = 1048576;
    fprintf(out, "lines      %" PRIu64 " ok, %" PRIu64 " failed, %" PRIu64 " done before\n",
            summary->lines_ok, summary->lines_failed, summary->lines_skipped);
    fprintf(out,
            "tokens     %" PRIu64 " in (%.1f tok/s), %" PRIu64 " out (%.1f tok/s), %" PRIu64
            " recomputed\n",
            stats->prompt_tokens, summary_prefill_rate(summary), stats->generated_tokens,
            summary_decode_rate(summary), stats->recomputed_tokens);
    if (summary->plan) print_plan(summary, out);
    fprintf(out, "seconds    %.2f in all: load %.2f, prefill %.2f, decode %.2f; with peers %.2f",
            summary->seconds_total, summary->seconds_load, stats->seconds_prefill,
            stats->seconds_decode, stats->seconds_collective);
    if (tier_view_spills(stats))
        fprintf(out, ", waiting for nvme %.2f, host %.2f, room %.2f",
                stats->seconds_stalled[TIER_NVME], stats->seconds_stalled[TIER_HOST],
                stats->seconds_stalled[TIER_DEVICE]);
    if (tier_view_streams(stats)) fprintf(out, ", weights %.2f", stats->weights.seconds_stalled);
    fputc('\n', out);
    const EngineTierStats *device = &stats->tiers[TIER_DEVICE];
    fprintf(out,
            "memory     KV %.1f of %.1f MiB at the peak, resident %.1f MiB at the peak; reckoned "
            "before "
            "it began %.1f MiB a rank\n",
            (double)device->peak_bytes / mebibyte, (double)device->capacity_bytes / mebibyte,
            (double)stats->memory_peak_bytes / mebibyte,
            (double)stats->memory_planned_bytes / mebibyte);
    if (stats->device_free_bytes > 0)
        fprintf(out,
                "device     %.1f MiB of its memory reckoned a rank, %.1f taken, %.1f were free\n",
                (double)stats->device_planned_bytes / mebibyte,
                (double)stats->device_taken_bytes / mebibyte,
                (double)stats->device_free_bytes / mebibyte);
    if (tier_view_spills(stats) || tier_view_streams(stats)) print_tiers(stats, out);
    if (stats->random_weights)
        fprintf(out, "weights    random numbers: no answer means anything\n");
    if (stats->corrupt_blocks + stats->io_errors + stats->late_transfers > 0)
        fprintf(out,
                "faults     %" PRIu64 " corrupt blocks, %" PRIu64 " I/O errors, %" PRIu64
                " late transfers; what was lost was computed again\n",
                stats->corrupt_blocks, stats->io_errors, stats->late_transfers);
}
