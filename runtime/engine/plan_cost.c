#include "runtime/engine/plan_cost.h"

#include <math.h>

#include "runtime/engine/plan_load.h"

const uint32_t plan_row_points[PLAN_ROW_POINTS] = {1, 8, 32, 128, 512};

const char *plan_activity_name(PlanActivity activity) {
    static const char *const names[PLAN_ACTIVITY_COUNT] = {
        "compute", "disk", "link to device", "link from device", "memory copies", "cores"};
    return names[activity];
}

static PlanActivity longest_of(const PlanStep *step) {
    PlanActivity longest = PLAN_COMPUTE;
    for (int i = 1; i < PLAN_ACTIVITY_COUNT; i++)
        if (step->activity[i] > step->activity[longest]) longest = (PlanActivity)i;
    return longest;
}

const char *plan_bottleneck_name(const PlanCost *cost) {
    const PlanStep *step = &cost->decode;
    if (cost->bottleneck != PLAN_COMPUTE) return plan_activity_name(cost->bottleneck);
    return step->attention > step->matmul + step->head ? "attention" : "matmul";
}

static double token_bytes(const PlanLoad *load) {
    const KvLayout *layout = &load->layout;
    double block_bytes =
        layout->codec ? (double)layout->encoded_bytes : (double)kv_block_bytes(&layout->shape);
    return block_bytes / layout->shape.block_tokens / load->share.kv_heads *
           load->shape->kv_head_count * load->shape->layer_count;
}

static void add_rates(const PlanLoad *load, PlanCost *out) {
    const PlanWork *work = load->work;
    double sequences = load->placement->sequences;
    out->turns = ceil((double)work->batch / sequences);
    double prompts = out->prompt.seconds * out->passes;
    out->seconds = out->turns * (prompts + (work->output_tokens - 1) * out->decode.seconds);
    out->decode_rate = sequences / out->decode.seconds;
    out->prompt_rate = sequences * work->prompt_tokens / prompts;
    out->total_rate = (double)work->batch * work->output_tokens / out->seconds;
}

Status plan_cost(const PlanShape *shape, const PlanMachine *machine, const PlanWork *work,
                 const PlanPlacement *placement, PlanCost *out) {
    PlanLoad load = {.shape = shape, .machine = machine, .work = work, .placement = placement};
    PlanCost cost = {0};
    TRY(plan_load_set_up(&load, &cost));
    plan_add_needs(&load, &cost);
    cost.fits = plan_check_fit(&load, &cost);
    cost.block_tokens = load.layout.shape.block_tokens;
    cost.slot_bytes = (double)load.layout.slot_bytes;
    cost.cache_bytes = plan_cache_slots(&load) * cost.slot_bytes;
    cost.kv_token_bytes = token_bytes(&load);
    plan_decode_step(&load, &cost.decode);
    plan_set_home(&load, plan_staging_of(&load, &cost.decode));
    cost.decode = (PlanStep){0};
    plan_decode_step(&load, &cost.decode);
    cost.pass_rows = plan_rows_of_pass(&load);
    cost.passes = (double)work->prompt_tokens * placement->sequences / cost.pass_rows;
    plan_prompt_pass(&load, cost.pass_rows, &cost.prompt);
    cost.bottleneck = longest_of(&cost.decode);
    add_rates(&load, &cost);
    *out = cost;
    return STATUS_OK;
}
