#include "runtime/engine/plan_load.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/bytes.h"
#include "tiers/ring.h"

enum {
    BOUNCE_SLOTS = 64
}; /* of host memory that kv_budget.c takes at most where the host cannot touch the device */
static const double prompt_bytes_max = 1ull << 30; /* of a prompt that runs layer by layer */
static const double disk_slack = 1.01;             /* spill files come in whole extents */

double plan_disk_percent(const PlanPlacement *placement, PlanPart device) {
    return plan_larger(0, 100 - placement->percent[device] - placement->percent[device + 1]);
}

bool plan_cache_spills(const PlanPlacement *placement) {
    return placement->percent[PLAN_CACHE_DEVICE] < 100;
}

static Status choose_layout(PlanLoad *load) {
    const PlanPlacement *placement = load->placement;
    KvShape shape = {load->share.kv_heads, load->shape->head_dim, placement->block_tokens};
    const Codec *codec = codec_is_raw(placement->codec) ? NULL : placement->codec;
    if (shape.block_tokens == 0)
        shape.block_tokens =
            kv_budget_block_tokens(shape.kv_head_count, shape.head_dim, codec != NULL);
    const char *refusal = codec ? codec_refusal(codec, &shape) : NULL;
    if (refusal) FAIL(USAGE, "codec %s does not fit the model: %s", codec->name, refusal);
    uint32_t residual = codec ? codec->residual_tokens : 0;
    if (placement->residual_tokens >= 0) residual = (uint32_t)placement->residual_tokens;
    load->layout = kv_layout(&shape, codec, residual, plan_cache_spills(placement));
    return STATUS_OK;
}

uint32_t plan_rows_of(const PlanPlacement *placement) {
    return placement->rows > placement->sequences ? placement->rows : placement->sequences;
}

/* Slots of `sequences` at their longest, as admission promises them. */
double plan_cache_slots(const PlanLoad *load) {
    const KvBudgetInput *input = &load->input;
    double prompt = load->layout.codec
                        ? (double)divide_up(input->token_max, load->layout.shape.block_tokens)
                        : 0;
    return (double)input->sequence_max * kv_layout_slots(&load->layout, input->token_max) *
               load->shape->layer_count +
           prompt;
}

/* The device's part comes on top of what a step needs there: what a layer holds, what is read ahead, the blocks that the layer before
 * filled and those that the next one will; the lowest tier makes up for what staging may take beyond. */
static void divide_cache(PlanLoad *load, PlanCost *out) {
    const PlanPlacement *placement = load->placement;
    double slot_bytes = (double)load->layout.slot_bytes, slots = plan_cache_slots(load);
    if (!plan_cache_spills(placement)) {
        out->kv_bytes[TIER_DEVICE] = (uint64_t)(slots * slot_bytes);
        load->input.bytes[TIER_DEVICE] = out->kv_bytes[TIER_DEVICE];
        return;
    }
    load->input.bytes[TIER_HOST] = 1; /* lower tiers there are */
    double least = (double)kv_budget_device_min(&load->input) / slot_bytes;
    double ahead = (double)kv_budget_staging_most(&load->input, 0);
    double filling = 3.0 * placement->sequences; /* a quarter of home is kept free */
    double device =
        ceil(slots * placement->percent[PLAN_CACHE_DEVICE] / 100) + least + filling + ahead;
    double host = ceil(slots * placement->percent[PLAN_CACHE_HOST] / 100);
    double staging = (double)kv_budget_staging_most(&load->input, (uint64_t)device) - ahead + 1;
    bool on_disk = plan_disk_percent(placement, PLAN_CACHE_DEVICE) > 0;
    if (on_disk && host > 0 && load->input.bounces) host += BOUNCE_SLOTS;
    if (on_disk)
        out->kv_bytes[TIER_NVME] =
            (uint64_t)((slots * plan_disk_percent(placement, PLAN_CACHE_DEVICE) / 100 + staging +
                        1) *
                       slot_bytes * disk_slack);
    else
        host += staging + 1;
    out->kv_bytes[TIER_DEVICE] = (uint64_t)(device * slot_bytes);
    out->kv_bytes[TIER_HOST] = (uint64_t)(host * slot_bytes);
    memcpy(load->input.bytes, out->kv_bytes, sizeof out->kv_bytes);
}

double plan_layers_staged(const PlanLoad *load) {
    return load->machine->unified ? WEIGHT_FRAMES : DEVICE_FRAMES;
}

double plan_staging_least(const PlanLoad *load) {
    uint32_t least = kv_budget_staging_least(ring_depth_auto(load->layout.slot_bytes));
    return plan_cache_spills(load->placement) ? least : 0;
}

void plan_set_home(PlanLoad *load, double staging_slots) {
    load->home =
        load->budget.slots[TIER_DEVICE] - plan_smaller(staging_slots, load->budget.staging_slots);
}

Status plan_load_set_up(PlanLoad *load, PlanCost *out) {
    const PlanShape *shape = load->shape;
    const PlanPlacement *placement = load->placement;
    TRY(plan_share(shape, load->machine->rank_count, &load->share));
    TRY(choose_layout(load));
    load->node_ranks = plan_machine_local_ranks(load->machine);
    load->weight_bytes = load->share.weights * (shape->attention.bytes + shape->mlp.bytes);
    load->input =
        (KvBudgetInput){.layout = load->layout,
                        .layer_count = shape->layer_count,
                        .sequence_max = placement->sequences,
                        .token_max = load->work->prompt_tokens + load->work->output_tokens,
                        .row_count_max = plan_rows_of(placement),
                        .bounces = !load->machine->unified,
                        .reads_ahead = true};
    divide_cache(load, out);
    TRY(kv_budget_plan(&load->input, &load->budget));
    plan_set_home(load, plan_staging_least(load));
    double layers = load->weight_bytes * shape->layer_count;
    out->weight_bytes[TIER_DEVICE] =
        (uint64_t)(layers * placement->percent[PLAN_WEIGHTS_DEVICE] / 100);
    out->weight_bytes[TIER_HOST] = (uint64_t)(layers * placement->percent[PLAN_WEIGHTS_HOST] / 100);
    out->weight_bytes[TIER_NVME] =
        (uint64_t)(layers * plan_disk_percent(placement, PLAN_WEIGHTS_DEVICE) / 100);
    return STATUS_OK;
}

/* ---- does it fit ---- */

/* Where KV spills, a longer prompt than a step runs layer by layer. */
bool plan_runs_by_layer(const PlanLoad *load) {
    double prompt = load->work->prompt_tokens;
    return plan_cache_spills(load->placement) && prompt > plan_rows_of(load->placement) &&
           prompt * load->shape->hidden_size * 4 <= prompt_bytes_max;
}

/* As runtime/engine/pass.c lays them out, and the residual stream of a prompt that runs by layer. */
static double activation_bytes(const PlanLoad *load) {
    const PlanShape *shape = load->shape;
    double heads = load->share.heads * shape->head_count * shape->head_dim;
    double kv = (double)load->share.kv_heads * shape->head_dim;
    double mlp = load->share.mlp * shape->intermediate_size;
    double row = 3.0 * shape->hidden_size + 2 * heads + 2 * kv + 2 * mlp;
    double logits = load->share.vocab * shape->vocab_count * load->placement->sequences;
    double prompt = plan_runs_by_layer(load) ? load->work->prompt_tokens : 0;
    return 4 * (row * plan_rows_of(load->placement) + logits + prompt * shape->hidden_size);
}

/* Weights that are not on the device, of one layer. */
double plan_streamed_bytes(const PlanLoad *load, PlanPart from) {
    double percent = from == PLAN_WEIGHTS_HOST
                         ? load->placement->percent[PLAN_WEIGHTS_HOST]
                         : plan_disk_percent(load->placement, PLAN_WEIGHTS_DEVICE);
    return load->weight_bytes * percent / 100;
}

void plan_add_needs(const PlanLoad *load, PlanCost *out) {
    const PlanMachine *machine = load->machine;
    PlanNeed *device = &out->needs[TIER_DEVICE], *host = &out->needs[TIER_HOST],
             *disk = &out->needs[TIER_NVME];
    double from_host = machine->unified ? 0 : plan_streamed_bytes(load, PLAN_WEIGHTS_HOST);
    device->staging =
        plan_layers_staged(load) * (from_host + plan_streamed_bytes(load, PLAN_WEIGHTS_DEVICE));
    device->activations = activation_bytes(load);
    device->other = load->share.vocab * load->shape->head.bytes + load->shape->other_bytes;
    if (!machine->unified && out->kv_bytes[TIER_HOST] == 0 && out->kv_bytes[TIER_NVME] > 0)
        host->staging = (double)load->budget.bounce_slots * (double)load->layout.slot_bytes;
    if (!machine->unified)
        host->staging += WEIGHT_FRAMES * plan_streamed_bytes(load, PLAN_WEIGHTS_DEVICE);
    device->capacity =
        machine->unified ? machine->host_bytes / load->node_ranks : machine->device_bytes;
    host->capacity = machine->host_bytes / load->node_ranks;
    disk->capacity = machine->disk_bytes / load->node_ranks;
    for (int tier = 0; tier < TIER_COUNT; tier++) {
        PlanNeed *need = &out->needs[tier];
        need->cache = (double)out->kv_bytes[tier];
        need->weights = (double)out->weight_bytes[tier];
        need->total = need->cache + need->weights + need->staging + need->activations + need->other;
    }
    if (machine->unified) host->capacity = plan_larger(0, device->capacity - device->total);
}

static void refuse(PlanCost *out, Tier tier) {
    const PlanNeed *need = &out->needs[tier];
    const double mib = 1 << 20;
    snprintf(out->refusal, sizeof out->refusal,
             "%s: %.1f MiB a rank are needed (weights %.1f, keys and values %.1f, staging %.1f, "
             "activations %.1f, other %.1f), %.1f are there",
             tier_name(tier), need->total / mib, need->weights / mib, need->cache / mib,
             need->staging / mib, need->activations / mib, need->other / mib, need->capacity / mib);
}

bool plan_check_fit(const PlanLoad *load, PlanCost *out) {
    const double *percent = load->placement->percent;
    if (percent[PLAN_ACTIVATIONS_DEVICE] != 100 || percent[PLAN_ACTIVATIONS_HOST] != 0) {
        snprintf(out->refusal, sizeof out->refusal,
                 "activations stay on the device: the last two numbers must be 100,0");
        return false;
    }
    if (load->budget.sequence_max < load->placement->sequences) {
        snprintf(out->refusal, sizeof out->refusal,
                 "device: keys and values of %u sequences at once do not fit, those of %u do",
                 load->placement->sequences, load->budget.sequence_max);
        return false;
    }
    for (int tier = 0; tier < TIER_COUNT; tier++) {
        if (out->needs[tier].total <= out->needs[tier].capacity) continue;
        refuse(out, (Tier)tier);
        return false;
    }
    return true;
}
