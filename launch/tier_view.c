#include "launch/tier_view.h"

#include <inttypes.h>

static const double mebibyte = 1048576, gigabyte = 1e9;

static double share(double part, double whole) {
    return whole > 0 ? part / whole : 0;
}

static uint64_t pin_count(const EngineStats *stats) {
    uint64_t pins = 0;
    for (int tier = 0; tier < TIER_COUNT; tier++)
        pins += stats->tiers[tier].hits;
    return pins;
}

bool tier_view_spills(const EngineStats *stats) {
    return stats->tiers[TIER_HOST].capacity_bytes + stats->tiers[TIER_NVME].capacity_bytes > 0;
}

bool tier_view_streams(const EngineStats *stats) {
    return stats->weights.bytes[TIER_HOST] + stats->weights.bytes[TIER_NVME] > 0;
}

double tier_view_used_share(const EngineStats *stats, Tier tier) {
    const EngineTierStats *about = &stats->tiers[tier];
    if (about->capacity_bytes == 0) return -1;
    return share((double)about->used_bytes, (double)about->capacity_bytes);
}

double tier_view_hit_share(const EngineStats *stats) {
    return share((double)stats->tiers[TIER_DEVICE].hits, (double)pin_count(stats));
}

double tier_view_stall_share(const EngineStats *stats) {
    double stalled = stats->weights.seconds_stalled;
    for (int tier = 0; tier < TIER_COUNT; tier++)
        stalled += stats->seconds_stalled[tier];
    return share(stalled, stats->seconds_prefill + stats->seconds_decode);
}

/* ---- JSON ---- */

static json_t *whole(uint64_t number) {
    return json_integer((json_int_t)number);
}

static json_t *moves_to_json(const EngineMoves moves[REASON_COUNT]) {
    json_t *object = json_object();
    for (int reason = 0; reason < REASON_COUNT; reason++)
        json_object_set_new(object, transfer_reason_name((TransferReason)reason),
                            json_pack("{so so}", "blocks", whole(moves[reason].blocks), "bytes",
                                      whole(moves[reason].bytes)));
    return object;
}

static json_t *tier_to_json(const EngineStats *stats, Tier tier) {
    const EngineTierStats *about = &stats->tiers[tier];
    return json_pack("{so so so so so s{so so so} so sf s{so so} sf so}", "capacity_bytes",
                     whole(about->capacity_bytes), "used_bytes", whole(about->used_bytes),
                     "peak_bytes", whole(about->peak_bytes), "read_bytes", whole(about->read_bytes),
                     "written_bytes", whole(about->written_bytes), "blocks", "filling",
                     whole(about->filling_blocks), "sealed", whole(about->sealed_blocks), "lost",
                     whole(about->lost_blocks), "hits", whole(about->hits), "hit_share",
                     share((double)about->hits, (double)pin_count(stats)), "moves", "in",
                     moves_to_json(about->moves_in), "out", moves_to_json(about->moves_out),
                     "stall_seconds", about->seconds_stalled, "ranks_off", whole(about->off_count));
}

json_t *tier_view_tiers(const EngineStats *stats) {
    json_t *tiers = json_object();
    for (int tier = 0; tier < TIER_COUNT; tier++)
        if (json_object_set_new(tiers, tier_name((Tier)tier), tier_to_json(stats, (Tier)tier)) !=
            0) {
            json_decref(tiers);
            return NULL;
        }
    return tiers;
}

json_t *tier_view_kv(const EngineStats *stats) {
    uint64_t moved = 0;
    for (int tier = 0; tier < TIER_COUNT; tier++)
        moved += stats->tiers[tier].read_bytes;
    return json_pack(
        "{so so sf s{so so so} s{so so so} s{sf so sf} s{sf sf} s{so so so sf}}", "raw_bytes",
        whole(stats->kv_raw_bytes), "stored_bytes", whole(stats->kv_stored_bytes),
        "compression_ratio", share((double)stats->kv_raw_bytes, (double)stats->kv_stored_bytes),
        "blocks", "filling", whole(stats->blocks_filling), "sealed", whole(stats->blocks_sealed),
        "lost", whole(stats->blocks_lost), "prefetch", "useful", whole(stats->prefetch_useful),
        "late", whole(stats->prefetch_late), "wasted", whole(stats->prefetch_wasted), "tier_thread",
        "cpu_seconds", stats->seconds_tier_thread, "moved_bytes", whole(moved),
        "cpu_seconds_per_gb", share(stats->seconds_tier_thread, (double)moved / gigabyte), "encode",
        "seconds", stats->seconds_encode, "wait_seconds", stats->seconds_encode_waited,
        "host_attention", "blocks", whole(stats->host_attended_blocks), "stayed_bytes",
        whole(stats->host_attended_bytes), "partial_bytes", whole(stats->host_partial_bytes),
        "seconds", stats->seconds_host_attention);
}

json_t *tier_view_weights(const EngineStats *stats) {
    const EngineWeightStats *weights = &stats->weights;
    double read = (double)weights->read_bytes;
    return json_pack(
        "{so so so so so sf sf sf}", "device_bytes", whole(weights->bytes[TIER_DEVICE]),
        "host_bytes", whole(weights->bytes[TIER_HOST]), "nvme_bytes",
        whole(weights->bytes[TIER_NVME]), "read_bytes", whole(weights->read_bytes), "sent_bytes",
        whole(weights->sent_bytes), "read_bytes_a_pass", share(read, (double)weights->passes),
        "read_bytes_per_second", share(read, weights->seconds_reading), "stall_seconds",
        weights->seconds_stalled);
}

/* ---- lines ---- */

static double number(const json_t *object, const char *name) {
    return json_number_value(json_object_get(object, name));
}

static void print_tier(const char *name, const json_t *tier, FILE *out) {
    double used = number(tier, "used_bytes"), capacity = number(tier, "capacity_bytes");
    const json_t *blocks = json_object_get(tier, "blocks");
    fprintf(out, "%-10s %9.1f %9.1f %6.1f %9.1f %8.0f %8.0f %6.0f %6.1f %8.2f%s\n", name,
            used / mebibyte, capacity / mebibyte, share(used, capacity) * 100,
            number(tier, "peak_bytes") / mebibyte, number(blocks, "filling"),
            number(blocks, "sealed"), number(blocks, "lost"), number(tier, "hit_share") * 100,
            number(tier, "stall_seconds"), number(tier, "ranks_off") > 0 ? "  off" : "");
}

static void print_moves(const char *name, const json_t *tier, FILE *out) {
    const json_t *moves = json_object_get(json_object_get(tier, "moves"), "in");
    const char *separator = "";
    fprintf(out, "%-10s ", name);
    for (int i = 0; i < REASON_COUNT; i++) {
        const char *reason = transfer_reason_name((TransferReason)i);
        const json_t *move = json_object_get(moves, reason);
        if (number(move, "blocks") == 0) continue;
        fprintf(out, "%s%s %.0f blocks, %.1f MiB", separator, reason, number(move, "blocks"),
                number(move, "bytes") / mebibyte);
        separator = "; ";
    }
    fprintf(out, "%s\n", *separator ? "" : "nothing");
}

static void print_weights(const json_t *weights, FILE *out) {
    double host = number(weights, "host_bytes"), nvme = number(weights, "nvme_bytes");
    if (host + nvme == 0) return;
    fprintf(
        out,
        "layers     device %.1f, host %.1f, streamed %.1f MiB; read %.1f MiB a pass at %.2f GB/s, "
        "waited for %.2f s",
        number(weights, "device_bytes") / mebibyte, host / mebibyte, nvme / mebibyte,
        number(weights, "read_bytes_a_pass") / mebibyte,
        number(weights, "read_bytes_per_second") / gigabyte, number(weights, "stall_seconds"));
    if (number(weights, "sent_bytes") > 0)
        fprintf(out, "; %.1f MiB sent to the device", number(weights, "sent_bytes") / mebibyte);
    fprintf(out, "\n");
}

static void print_host_attention(const json_t *kv, FILE *out) {
    const json_t *host = json_object_get(kv, "host_attention");
    if (number(host, "blocks") == 0) return;
    fprintf(
        out,
        "on host    %.0f blocks attended where they lay in %.2f s: %.1f MiB stayed, %.1f MiB of "
        "queries and partials moved\n",
        number(host, "blocks"), number(host, "seconds"), number(host, "stayed_bytes") / mebibyte,
        number(host, "partial_bytes") / mebibyte);
}

static void print_kv(const json_t *view, FILE *out) {
    const json_t *tiers = json_object_get(view, "tiers"), *kv = json_object_get(view, "kv");
    const json_t *prefetch = json_object_get(kv, "prefetch"),
                 *thread = json_object_get(kv, "tier_thread");
    fprintf(out, "%-10s %9s %9s %6s %9s %8s %8s %6s %6s %8s\n", "tier", "used MiB", "of MiB", "%",
            "peak MiB", "filling", "sealed", "lost", "hit %", "stall s");
    for (int i = 0; i < TIER_COUNT; i++) {
        const json_t *tier = json_object_get(tiers, tier_name((Tier)i));
        if (number(tier, "capacity_bytes") > 0) print_tier(tier_name((Tier)i), tier, out);
    }
    for (int i = 0; i < TIER_COUNT; i++) {
        char name[32];
        const json_t *tier = json_object_get(tiers, tier_name((Tier)i));
        snprintf(name, sizeof name, "to %s", tier_name((Tier)i));
        if (number(tier, "capacity_bytes") > 0) print_moves(name, tier, out);
    }
    fprintf(out, "stored     %.1f MiB for %.1f MiB of f16, %.2f to one, when most was cached\n",
            number(kv, "stored_bytes") / mebibyte, number(kv, "raw_bytes") / mebibyte,
            number(kv, "compression_ratio"));
    fprintf(out, "prefetch   %.0f useful, %.0f late, %.0f wasted\n", number(prefetch, "useful"),
            number(prefetch, "late"), number(prefetch, "wasted"));
    print_host_attention(kv, out);
    fprintf(out, "tier CPU   %.2f s for %.2f GB moved, %.3f s a GB\n",
            number(thread, "cpu_seconds"), number(thread, "moved_bytes") / gigabyte,
            number(thread, "cpu_seconds_per_gb"));
}

/* The table of KV only where it spills. */
void tier_view_print(const json_t *view, FILE *out) {
    const json_t *tiers = json_object_get(view, "tiers");
    double below = number(json_object_get(tiers, tier_name(TIER_HOST)), "capacity_bytes") +
                   number(json_object_get(tiers, tier_name(TIER_NVME)), "capacity_bytes");
    print_weights(json_object_get(view, "weights"), out);
    if (below > 0) print_kv(view, out);
}
