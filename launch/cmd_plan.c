/* What will happen, before anything loads: speeds, bytes a tier, the bottleneck, and where things should lie. */

#include <stdlib.h>
#include <string.h>

#include "launch/command.h"
#include "launch/model_open.h"
#include "launch/plan_report.h"
#include "launch/plan_settings.h"

enum { PROMPT_TOKENS = 512, OUTPUT_TOKENS = 32, TOKENS_MAX = 1 << 24 };
static const double gib = 1 << 30;

typedef struct Plan {
    const Settings *settings;
    PlanShape shape;
    PlanMachine machine;
    PlanWork work;
    PlanFreedom limits;
    const Codec *codecs[PLAN_CODECS_MAX];
    PlanChoice choice, nearest, in_host, others[PLAN_CODECS_MAX];
    uint32_t other_count;
    PlanGain gains[TIER_COUNT];
    bool looked_for_nearest, looked_for_gains, in_host_helps;
} Plan;

/* --prompt and --output are texts for other commands. */
static Status read_tokens(const char *option, const char *text, uint32_t fallback, uint32_t *out) {
    char *end;
    *out = fallback;
    if (!text) return STATUS_OK;
    long tokens = text[0] >= '0' && text[0] <= '9' ? strtol(text, &end, 10) : 0;
    if (tokens < 1 || tokens > TOKENS_MAX || *end)
        FAIL(USAGE, "--%s %.40s: `plan` takes a number of tokens here, 1 to %d", option, text,
             TOKENS_MAX);
    *out = (uint32_t)tokens;
    return STATUS_OK;
}

static Status read_work(Plan *plan) {
    const Settings *settings = plan->settings;
    plan->work.batch = (uint32_t)settings->batch_size;
    TRY(read_tokens("prompt", settings->prompt, PROMPT_TOKENS, &plan->work.prompt_tokens));
    return read_tokens("output", settings->output, OUTPUT_TOKENS, &plan->work.output_tokens);
}

static Status read_shape(Plan *plan) {
    const Settings *settings = plan->settings;
    Weights *weights;
    TRY(model_open(settings, true, &weights));
    Status status =
        plan_settings_shape(settings, weights, &plan->machine, &plan->work, &plan->shape);
    weights_close(weights);
    return status;
}

/* ---- the plan ---- */

static Status look_for_nearest(Plan *plan) {
    plan->looked_for_nearest = true;
    return plan_nearest(&plan->shape, &plan->machine, &plan->work, &plan->choice.placement,
                        &plan->nearest);
}

static Status cost_given(Plan *plan, const double *percent) {
    PlanPlacement *placement = &plan->choice.placement;
    const PlanFreedom *limits = &plan->limits;
    uint32_t most = plan->work.batch < PLAN_SEQUENCES_MAX ? plan->work.batch : PLAN_SEQUENCES_MAX;
    *placement = (PlanPlacement){.codec = plan->codecs[0],
                                 .residual_tokens = limits->residual_tokens,
                                 .block_tokens = limits->block_tokens,
                                 .sequences = limits->sequences ? limits->sequences : most,
                                 .rows = (uint32_t)plan->settings->max_num_batched_tokens};
    memcpy(placement->percent, percent, sizeof placement->percent);
    TRY(plan_cost(&plan->shape, &plan->machine, &plan->work, placement, &plan->choice.cost));
    return plan->choice.cost.fits ? STATUS_OK : look_for_nearest(plan);
}

/* With the codec that was chosen. */
static Status look_for_gains(Plan *plan) {
    const PlanMachine *machine = &plan->machine;
    const Codec *codec = plan->choice.placement.codec;
    PlanFreedom limits = plan->limits;
    limits.codecs = &codec;
    limits.codec_count = 1;
    plan->looked_for_gains = true;
    for (int tier = 0; tier < TIER_COUNT; tier++) {
        PlanMachine more = plan_machine_with(machine, (Tier)tier, gib);
        PlanChoice best;
        plan->gains[tier].there = tier == TIER_DEVICE || (tier == TIER_HOST && !machine->unified) ||
                                  (tier == TIER_NVME && machine->disk_read_rate > 0);
        if (!plan->gains[tier].there) continue;
        TRY(plan_search(&plan->shape, &more, &plan->work, &limits, &best));
        plan->gains[tier].decode_rate = best.cost.decode_rate;
        plan->gains[tier].total_rate = best.cost.total_rate;
    }
    return STATUS_OK;
}

/* Each codec alone, and of them the best. */
static Status search_all(Plan *plan) {
    bool found = false;
    for (uint32_t i = 0; i < plan->limits.codec_count; i++) {
        PlanFreedom limits = plan->limits;
        PlanChoice *own = &plan->others[plan->other_count];
        limits.codecs = &plan->codecs[i];
        limits.codec_count = 1;
        error_capture_begin();
        Status status = plan_search(&plan->shape, &plan->machine, &plan->work, &limits, own);
        error_capture_end();
        bool only = plan->limits.codec_count == 1;
        if (status != STATUS_OK && only)
            return plan_search(&plan->shape, &plan->machine, &plan->work, &limits, own);
        if (status != STATUS_OK) continue; /* of no use to this model's heads */
        plan->other_count++;
        bool better = own->cost.fits && own->cost.seconds < plan->choice.cost.seconds;
        if (plan->other_count == 1 || (own->cost.fits && !found) || better) plan->choice = *own;
        found |= own->cost.fits;
    }
    return found ? look_for_gains(plan) : look_for_nearest(plan);
}

/* The same placement, with blocks in host memory attended there. */
static Status look_in_host(Plan *plan) {
    plan->in_host = plan->choice;
    plan->in_host.placement.attend_host = true;
    TRY(plan_cost(&plan->shape, &plan->machine, &plan->work, &plan->in_host.placement,
                  &plan->in_host.cost));
    plan->in_host_helps = plan->in_host.cost.seconds < plan->choice.cost.seconds;
    return STATUS_OK;
}

/* ---- telling ---- */

static Status tell(const Plan *plan) {
    const PlanReport report = {.model = plan->settings->model,
                               .shape = &plan->shape,
                               .machine = &plan->machine,
                               .work = &plan->work,
                               .choice = &plan->choice,
                               .nearest = plan->looked_for_nearest ? &plan->nearest : NULL,
                               .gains = plan->looked_for_gains ? plan->gains : NULL,
                               .in_host = plan->in_host_helps ? &plan->in_host : NULL,
                               .others = plan->others,
                               .other_count = plan->other_count};
    if (plan->settings->json) {
        json_t *root = plan_report_json(&report);
        if (!root) FAIL(MEMORY, "no memory for the plan");
        json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
        putchar('\n');
        json_decref(root);
    } else {
        plan_report_print(&report, stdout);
    }
    if (plan->choice.cost.fits) return STATUS_OK;
    FAIL(PLACEMENT, "%s", plan->choice.cost.refusal);
}

static Status make_plan(Plan *plan) {
    const Settings *settings = plan->settings;
    double percent[PLAN_PART_COUNT];
    bool given;
    TRY(plan_settings_percent(settings->placement, percent, &given));
    TRY(read_work(plan));
    const PlanRanks ranks = {.rank_count = (uint32_t)settings->ranks,
                             .thread_count = (uint32_t)settings->threads};
    TRY(plan_settings_machine(settings, &ranks, &plan->machine));
    TRY(read_shape(plan));
    plan->limits = plan_settings_limits(settings, plan->codecs);
    TRY(given ? cost_given(plan, percent) : search_all(plan));
    if (plan->choice.cost.fits) TRY(look_in_host(plan));
    return tell(plan);
}

static int plan(const Settings *settings) {
    Plan own = {.settings = settings};
    weights_guard_install();
    return error_exit_code(make_plan(&own));
}

const Command command_plan[] = {
    {.name = "plan",
     .summary = "what a model will do on a machine before it is loaded: speeds, bytes, bottleneck",
     .positionals = "model",
     .needs = "model",
     .takes = "model weight-type batch-size prompt output placement machine probe any-codec json "
              "ranks threads cpu-isa max-num-seqs max-num-batched-tokens block-size kv-codec "
              "kv-residual kv-nvme-dir io io-depth memory-limit",
     .run = plan},
    {.name = NULL},
};
