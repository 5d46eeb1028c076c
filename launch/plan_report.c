#include "launch/plan_report.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

static const double gib = 1 << 30;

void plan_placement_text(const PlanPlacement *placement, char *out, size_t out_bytes) {
    size_t used = 0;
    for (int part = 0; part < PLAN_PART_COUNT && used < out_bytes; part++)
        used += (size_t)snprintf(out + used, out_bytes - used, "%s%.4g", part ? "," : "",
                                 placement->percent[part]);
}

static const char *codec_name(const PlanPlacement *placement) {
    return codec_is_raw(placement->codec) ? "f16" : placement->codec->name;
}

/* ---- JSON ---- */

/* What is not there takes for ever, which JSON cannot say. */
static json_t *number(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *placement_json(const PlanPlacement *placement) {
    json_t *list = json_array();
    for (int part = 0; part < PLAN_PART_COUNT; part++)
        json_array_append_new(list, json_real(placement->percent[part]));
    return list;
}

static json_t *step_json(const PlanStep *step) {
    json_t *activities = json_object();
    for (int i = 0; i < PLAN_ACTIVITY_COUNT; i++)
        json_object_set_new(activities, plan_activity_name((PlanActivity)i),
                            number(step->activity[i]));
    return json_pack("{so so so so so so so so so}", "seconds", number(step->seconds), "activities",
                     activities, "matmul", number(step->matmul), "attention",
                     number(step->attention), "rows", number(step->rows), "collective",
                     number(step->collective), "head", number(step->head), "sampling",
                     number(step->sampling), "kv_in_host_bytes", number(step->kv_in_host));
}

static json_t *tiers_json(const PlanCost *cost) {
    json_t *tiers = json_object();
    for (int tier = 0; tier < TIER_COUNT; tier++) {
        const PlanNeed *need = &cost->needs[tier];
        const PlanStep *step = &cost->decode;
        json_object_set_new(tiers, tier_name((Tier)tier),
                            json_pack("{so so so so so so so so so so}", "capacity_bytes",
                                      number(need->capacity), "needed_bytes", number(need->total),
                                      "weight_bytes", number(need->weights), "kv_bytes",
                                      number(need->cache), "staging_bytes", number(need->staging),
                                      "activation_bytes", number(need->activations), "other_bytes",
                                      number(need->other), "weights_read_bytes_a_step",
                                      number(step->weights_read[tier]), "kv_read_bytes_a_step",
                                      number(step->kv_read[tier]), "kv_written_bytes_a_step",
                                      number(step->kv_written[tier])));
    }
    return tiers;
}

json_t *plan_choice_json(const PlanChoice *choice) {
    const PlanPlacement *placement = &choice->placement;
    const PlanCost *cost = &choice->cost;
    return json_pack("{so ss si si si so so so so ss so}", "placement", placement_json(placement),
                     "codec", codec_name(placement), "block_tokens", (int)cost->block_tokens,
                     "sequences", (int)placement->sequences, "rows", (int)placement->rows,
                     "decode_tokens_per_second", number(cost->decode_rate),
                     "prefill_tokens_per_second", number(cost->prompt_rate),
                     "total_tokens_per_second", number(cost->total_rate), "seconds",
                     number(cost->seconds), "bottleneck", plan_bottleneck_name(cost),
                     "kv_bytes_per_token", number(cost->kv_token_bytes));
}

static json_t *gains_json(const PlanReport *report) {
    json_t *all = json_object();
    for (int tier = 0; tier < TIER_COUNT; tier++)
        if (report->gains[tier].there)
            json_object_set_new(all, tier_name((Tier)tier),
                                json_pack("{so so}", "decode_tokens_per_second",
                                          number(report->gains[tier].decode_rate),
                                          "total_tokens_per_second",
                                          number(report->gains[tier].total_rate)));
    return all;
}

json_t *plan_report_json(const PlanReport *report) {
    const PlanCost *cost = &report->choice->cost;
    const PlanWork *work = report->work;
    json_t *root = plan_choice_json(report->choice);
    if (!root) return NULL;
    json_object_update_new(root,
                           json_pack("{ss ss s{si si si} sb so so so}", "model", report->model,
                                     "machine", report->machine->name, "work", "batch",
                                     (int)work->batch, "prompt", (int)work->prompt_tokens, "output",
                                     (int)work->output_tokens, "fits", (int)cost->fits, "refusal",
                                     cost->fits ? json_null() : json_string(cost->refusal), "tiers",
                                     tiers_json(cost), "decode_step", step_json(&cost->decode)));
    json_object_update_new(root,
                           json_pack("{so so so so}", "prefill_pass", step_json(&cost->prompt),
                                     "prefill_passes", number(cost->passes), "pass_rows",
                                     number(cost->pass_rows), "turns", number(cost->turns)));
    if (report->gains) json_object_set_new(root, "one_more_gib", gains_json(report));
    if (report->nearest && report->nearest->cost.fits)
        json_object_set_new(root, "nearest", plan_choice_json(report->nearest));
    if (report->in_host) {
        json_t *in_host = plan_choice_json(report->in_host);
        json_object_set_new(in_host, "decode_step", step_json(&report->in_host->cost.decode));
        json_object_set_new(root, "attend_host", in_host);
    }
    json_t *others = json_array();
    for (uint32_t i = 0; i < report->other_count; i++)
        json_array_append_new(others, plan_choice_json(&report->others[i]));
    json_object_set_new(root, "codecs", others);
    return root;
}

/* ---- lines ---- */

static void print_head(const PlanReport *report, FILE *out) {
    const PlanShape *shape = report->shape;
    const PlanWork *work = report->work;
    double layers = shape->layer_count * (shape->attention.bytes + shape->mlp.bytes);
    fprintf(out, "model       %s: %u layers, weights %.2f GiB, and %.2f of head and embeddings\n",
            report->model, shape->layer_count, layers / gib,
            (shape->head.bytes + shape->other_bytes) / gib);
    fprintf(out, "machine     %s: %u rank%s on %u node%s\n", report->machine->name,
            report->machine->rank_count, report->machine->rank_count == 1 ? "" : "s",
            report->machine->node_count, report->machine->node_count == 1 ? "" : "s");
    fprintf(out, "work        %u requests of %u tokens and answers of %u\n", work->batch,
            work->prompt_tokens, work->output_tokens);
}

static void print_placement(const PlanChoice *choice, FILE *out) {
    const PlanPlacement *placement = &choice->placement;
    char text[96];
    plan_placement_text(placement, text, sizeof text);
    fprintf(out,
            "placement   %s (weights on device, host; keys and values on device, host; "
            "activations; the rest on disk)\n"
            "            codec %s, blocks of %u tokens, %u sequences at once, steps of up to %u "
            "rows\n",
            text, codec_name(placement), choice->cost.block_tokens, placement->sequences,
            placement->rows);
}

static void print_speed(const PlanCost *cost, FILE *out) {
    const PlanStep *step = &cost->decode;
    fprintf(out, "prefill     %.4g tok/s\n", cost->prompt_rate);
    fprintf(out, "decode      %.4g tok/s, %.4g s a step\n", cost->decode_rate, step->seconds);
    fprintf(out, "all         %.4g s, %.4g tok/s of answers over prefill and decode\n",
            cost->seconds, cost->total_rate);
    fprintf(out, "bottleneck  %s\n", plan_bottleneck_name(cost));
    fprintf(out, "step        the longest of");
    const char *between = " ";
    for (int i = 0; i < PLAN_ACTIVITY_COUNT; i++) {
        if (step->activity[i] <= 0) continue;
        fprintf(out, "%s%s %.4g s", between, plan_activity_name((PlanActivity)i),
                step->activity[i]);
        between = ", ";
    }
    fprintf(out, "; then head %.4g s, sampling %.4g s\n", step->head, step->sampling);
    fprintf(out, "compute     matmul %.4g s, attention %.4g s, rows %.4g s, collectives %.4g s\n",
            step->matmul, step->attention, step->rows, step->collective);
}

static void print_tiers(const PlanReport *report, FILE *out) {
    const PlanCost *cost = &report->choice->cost;
    double all = 0;
    for (int tier = 0; tier < TIER_COUNT; tier++)
        all += cost->needs[tier].total;
    double unit = all < gib ? gib / 1024 : gib;
    fprintf(out, "\n%-8s %11s %9s %9s %9s %9s %9s %14s %12s %12s\n", "a rank",
            all < gib ? "MiB there" : "GiB there", "needed", "weights", "KV", "staging", "other",
            "weights MB", "KV read MB", "KV write MB");
    fprintf(out, "%-8s %11s %9s %9s %9s %9s %9s %14s %12s %12s\n", "", "", "", "", "", "", "",
            "a step", "a step", "a step");
    for (int tier = 0; tier < TIER_COUNT; tier++) {
        const PlanNeed *need = &cost->needs[tier];
        bool same = report->machine->unified && tier == TIER_HOST; /* memory as the device's */
        if (need->total <= 0 && (same || need->capacity <= 0)) continue;
        fprintf(out, "%-8s %11.2f %9.2f %9.2f %9.2f %9.2f %9.2f %14.1f %12.1f %12.1f\n",
                tier_name((Tier)tier), need->capacity / unit, need->total / unit,
                need->weights / unit, need->cache / unit, need->staging / unit,
                (need->activations + need->other) / unit, cost->decode.weights_read[tier] / 1e6,
                cost->decode.kv_read[tier] / 1e6, cost->decode.kv_written[tier] / 1e6);
    }
    fprintf(out, "\n%.4g KB of keys and values a token, %.4g KB as f16\n",
            cost->kv_token_bytes / 1e3, plan_shape_kv_bytes(report->shape) / 1e3);
}

static void print_gains(const PlanReport *report, FILE *out) {
    const PlanCost *cost = &report->choice->cost;
    for (int tier = 0; tier < TIER_COUNT; tier++) {
        const PlanGain *gain = &report->gains[tier];
        if (!gain->there) continue;
        fprintf(out, "one more GiB of %-7s decode %+.2f %%, all %+.2f %%\n", tier_name((Tier)tier),
                100 * (gain->decode_rate / cost->decode_rate - 1),
                100 * (gain->total_rate / cost->total_rate - 1));
    }
}

static void print_in_host(const PlanReport *report, FILE *out) {
    const PlanCost *cost = &report->in_host->cost;
    fprintf(out,
            "--attend host        decode %+.2f %%, all %+.2f %%: %.1f MB of keys and values a step "
            "stay in host memory; logits then are equal within rounding only\n",
            100 * (cost->decode_rate / report->choice->cost.decode_rate - 1),
            100 * (cost->total_rate / report->choice->cost.total_rate - 1),
            cost->decode.kv_in_host / 1e6);
}

static void print_others(const PlanReport *report, FILE *out) {
    if (report->other_count < 2) return;
    fprintf(out, "\n%-14s %14s %14s %14s  %s\n", "codec", "KB a token", "decode tok/s", "all tok/s",
            "bottleneck");
    for (uint32_t i = 0; i < report->other_count; i++) {
        const PlanChoice *other = &report->others[i];
        fprintf(out, "%-14s %14.1f %14.4g %14.4g  %s\n", codec_name(&other->placement),
                other->cost.kv_token_bytes / 1e3, other->cost.decode_rate, other->cost.total_rate,
                other->cost.fits ? plan_bottleneck_name(&other->cost) : "does not fit");
    }
}

void plan_report_print(const PlanReport *report, FILE *out) {
    const PlanCost *cost = &report->choice->cost;
    print_head(report, out);
    print_placement(report->choice, out);
    if (cost->fits)
        print_speed(cost, out);
    else
        fprintf(out, "does not fit: %s\n", cost->refusal);
    print_tiers(report, out);
    if (report->gains && cost->fits) print_gains(report, out);
    if (report->in_host) print_in_host(report, out);
    print_others(report, out);
    if (!report->nearest) return;
    fprintf(out, "\nthe nearest that fits:%s\n",
            report->nearest->cost.fits ? "" : " there is none");
    if (!report->nearest->cost.fits) return;
    print_placement(report->nearest, out);
    print_speed(&report->nearest->cost, out);
}
