#include "runtime/engine/plan_cost.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/bytes.h"
#include "tiers/ring.h"

enum {
    ROW_FLOATS_HIDDEN = 10, /* read or written by norms, rope, additions and stores */
    ROW_FLOATS_MLP = 3,
    LAYERS_STAGED = 2, /* of streamed weights: one is used, one arrives */
};
static const double prompt_bytes_max = 1ull << 30; /* of a prompt that runs layer by layer */
static const double staging_margin = 1.5;          /* of kv_staging.c */
static const double disk_slack = 1.01;             /* spill files come in whole extents */

const uint32_t plan_row_points[PLAN_ROW_POINTS] = {1, 8, 32, 128, 512};

const char *plan_activity_name(PlanActivity activity) {
    static const char *const names[PLAN_ACTIVITY_COUNT] = {
        "compute", "disk", "link to device", "link from device", "memory copies", "cores"};
    return names[activity];
}

/* What all parts of a reckoning share. */
typedef struct Load {
    const PlanShape *shape;
    const PlanMachine *machine;
    const PlanWork *work;
    const PlanPlacement *placement;
    PlanShare share;
    KvLayout layout;
    KvBudgetInput input;
    KvBudget budget;
    double weight_bytes; /* of a layer on this rank */
    double home;         /* slots of the device that hold what stays */
    double node_ranks;
} Load;

static double larger(double a, double b) {
    return a > b ? a : b;
}

static double smaller(double a, double b) {
    return a < b ? a : b;
}

/* Seconds of `amount` at `rate`: none of nothing, and never of what is not there. */
static double seconds_at(double amount, double rate) {
    if (amount <= 0) return 0;
    return rate > 0 ? amount / rate : INFINITY;
}

/* ---- sizes ---- */

static double disk_percent(const PlanPlacement *placement, PlanPart device) {
    return larger(0, 100 - placement->percent[device] - placement->percent[device + 1]);
}

static bool cache_spills(const PlanPlacement *placement) {
    return placement->percent[PLAN_CACHE_DEVICE] < 100;
}

static Status choose_layout(Load *load) {
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
    load->layout = kv_layout(&shape, codec, residual, cache_spills(placement));
    return STATUS_OK;
}

static uint32_t rows_of(const PlanPlacement *placement) {
    return placement->rows > placement->sequences ? placement->rows : placement->sequences;
}

/* Slots of `sequences` at their longest, as admission promises them. */
static double cache_slots(const Load *load) {
    const KvBudgetInput *input = &load->input;
    double prompt = load->layout.codec
                        ? (double)divide_up(input->token_max, load->layout.shape.block_tokens)
                        : 0;
    return (double)input->sequence_max * kv_layout_slots(&load->layout, input->token_max) *
               load->shape->layer_count +
           prompt;
}

/* The device's part comes on top of what one layer of a step needs there; the lowest tier makes up for what staging takes at most. */
static void divide_cache(Load *load, PlanCost *out) {
    const PlanPlacement *placement = load->placement;
    double slot_bytes = (double)load->layout.slot_bytes, slots = cache_slots(load);
    if (!cache_spills(placement)) {
        out->kv_bytes[TIER_DEVICE] = (uint64_t)(slots * slot_bytes);
        load->input.bytes[TIER_DEVICE] = out->kv_bytes[TIER_DEVICE];
        return;
    }
    load->input.bytes[TIER_HOST] = 1; /* lower tiers there are */
    double least = (double)kv_budget_device_min(&load->input) / slot_bytes;
    double device = ceil(slots * placement->percent[PLAN_CACHE_DEVICE] / 100) + least;
    double host = ceil(slots * placement->percent[PLAN_CACHE_HOST] / 100);
    double staging = smaller(device / 4, (double)(128ull << 20) / slot_bytes) + 1;
    if (disk_percent(placement, PLAN_CACHE_DEVICE) > 0)
        out->kv_bytes[TIER_NVME] =
            (uint64_t)((slots * disk_percent(placement, PLAN_CACHE_DEVICE) / 100 + staging + 1) *
                       slot_bytes * disk_slack);
    else
        host += staging + 1;
    out->kv_bytes[TIER_DEVICE] = (uint64_t)(device * slot_bytes);
    out->kv_bytes[TIER_HOST] = (uint64_t)(host * slot_bytes);
    memcpy(load->input.bytes, out->kv_bytes, sizeof out->kv_bytes);
}

/* As kv_cache_open.c has it: what is attended and what is in the kernel, twice. */
static double staging_least(const Load *load) {
    uint32_t depth = ring_depth_auto(load->layout.slot_bytes);
    return cache_spills(load->placement) ? 2 * ATTEND_GROUP_BLOCKS + 2 * depth : 0;
}

static void set_home(Load *load, double staging_slots) {
    load->home =
        load->budget.slots[TIER_DEVICE] - smaller(staging_slots, load->budget.staging_slots);
}

static Status set_up(Load *load, PlanCost *out) {
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
                        .row_count_max = rows_of(placement)};
    divide_cache(load, out);
    TRY(kv_budget_plan(&load->input, &load->budget));
    set_home(load, staging_least(load));
    double layers = load->weight_bytes * shape->layer_count;
    out->weight_bytes[TIER_DEVICE] =
        (uint64_t)(layers * placement->percent[PLAN_WEIGHTS_DEVICE] / 100);
    out->weight_bytes[TIER_HOST] = (uint64_t)(layers * placement->percent[PLAN_WEIGHTS_HOST] / 100);
    out->weight_bytes[TIER_NVME] =
        (uint64_t)(layers * disk_percent(placement, PLAN_WEIGHTS_DEVICE) / 100);
    return STATUS_OK;
}

/* ---- does it fit ---- */

/* Where KV spills, a longer prompt than a step runs layer by layer. */
static bool runs_by_layer(const Load *load) {
    double prompt = load->work->prompt_tokens;
    return cache_spills(load->placement) && prompt > rows_of(load->placement) &&
           prompt * load->shape->hidden_size * 4 <= prompt_bytes_max;
}

/* As runtime/engine/pass.c lays them out, and the residual stream of a prompt that runs by layer. */
static double activation_bytes(const Load *load) {
    const PlanShape *shape = load->shape;
    double heads = load->share.heads * shape->head_count * shape->head_dim;
    double kv = (double)load->share.kv_heads * shape->head_dim;
    double mlp = load->share.mlp * shape->intermediate_size;
    double row = 3.0 * shape->hidden_size + 2 * heads + 2 * kv + 2 * mlp;
    double logits = load->share.vocab * shape->vocab_count * load->placement->sequences;
    double prompt = runs_by_layer(load) ? load->work->prompt_tokens : 0;
    return 4 * (row * rows_of(load->placement) + logits + prompt * shape->hidden_size);
}

/* Weights that are not on the device, of one layer. */
static double streamed_bytes(const Load *load, PlanPart from) {
    double percent = from == PLAN_WEIGHTS_HOST ? load->placement->percent[PLAN_WEIGHTS_HOST]
                                               : disk_percent(load->placement, PLAN_WEIGHTS_DEVICE);
    return load->weight_bytes * percent / 100;
}

static void add_needs(const Load *load, PlanCost *out) {
    const PlanMachine *machine = load->machine;
    PlanNeed *device = &out->needs[TIER_DEVICE], *host = &out->needs[TIER_HOST],
             *disk = &out->needs[TIER_NVME];
    double from_host = machine->unified ? 0 : streamed_bytes(load, PLAN_WEIGHTS_HOST);
    device->staging = LAYERS_STAGED * (from_host + streamed_bytes(load, PLAN_WEIGHTS_DEVICE));
    device->activations = activation_bytes(load);
    device->other = load->share.vocab * load->shape->head.bytes;
    *(machine->unified ? &device->other : &host->other) += load->shape->other_bytes;
    if (!machine->unified)
        host->staging = LAYERS_STAGED * streamed_bytes(load, PLAN_WEIGHTS_DEVICE);
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
    if (machine->unified) host->capacity = larger(0, device->capacity - device->total);
}

static void refuse(PlanCost *out, Tier tier) {
    const PlanNeed *need = &out->needs[tier];
    const double gib = 1 << 30;
    snprintf(out->refusal, sizeof out->refusal,
             "%s: %.2f GiB a rank are needed (weights %.2f, keys and values %.2f, staging %.2f, "
             "activations %.2f, other %.2f), %.2f are there",
             tier_name(tier), need->total / gib, need->weights / gib, need->cache / gib,
             need->staging / gib, need->activations / gib, need->other / gib, need->capacity / gib);
}

static bool check_fit(const Load *load, PlanCost *out) {
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

/* ---- seconds of compute ---- */

static double operation_rate(const PlanMachine *machine, PlanFormat format, double rows) {
    const double *rates = machine->operation_rate[format];
    if (rows <= plan_row_points[0]) return rates[0];
    for (int i = 1; i < PLAN_ROW_POINTS; i++) {
        double below = plan_row_points[i - 1], above = plan_row_points[i];
        if (rows > above) continue;
        double part = log(rows / below) / log(above / below);
        return rates[i - 1] + part * (rates[i] - rates[i - 1]);
    }
    return rates[PLAN_ROW_POINTS - 1];
}

/* share: what this rank does of it */
static double matmul_seconds(const Load *load, const PlanMatrices *matrices, double share,
                             double rows) {
    double seconds = 0;
    for (int format = 0; format < PLAN_FORMAT_COUNT; format++) {
        double operations = 2 * matrices->elements[format] * share * rows;
        double rate = operation_rate(load->machine, (PlanFormat)format, rows);
        seconds += seconds_at(operations, rate);
    }
    return larger(seconds, seconds_at(matrices->bytes * share, load->machine->device_rate));
}

static const PlanAttention *attention_of(const PlanMachine *machine, const Codec *codec) {
    uint32_t index = 0;
    while (codec && codec_at(index) != codec)
        index++;
    const PlanAttention *own = &machine->attention[index];
    return own->byte_rate > 0 ? own : &machine->attention[0];
}

/* `tokens` of each of the sequences, stored in so many bytes a token on this rank. */
static double attention_part(const Load *load, const Codec *codec, double tokens, double bytes) {
    const PlanAttention *rates = attention_of(load->machine, codec);
    double sequences = load->placement->sequences;
    double heads = load->share.heads * load->shape->head_count;
    return seconds_at(tokens * bytes * sequences, rates->byte_rate) +
           seconds_at(4 * heads * load->shape->head_dim * tokens * sequences,
                      rates->operation_rate);
}

static double attention_seconds(const Load *load, double context) {
    const KvLayout *layout = &load->layout;
    double block = layout->shape.block_tokens;
    double raw_bytes = (double)kv_block_bytes(&layout->shape) / block;
    double packed = layout->codec ? kv_layout_cold_blocks(layout, (uint32_t)context) * block : 0;
    return attention_part(load, NULL, context - packed, raw_bytes) +
           attention_part(load, layout->codec, packed, (double)layout->encoded_bytes / block);
}

static double rows_seconds(const Load *load, double rows) {
    double floats = ROW_FLOATS_HIDDEN * (double)load->shape->hidden_size +
                    ROW_FLOATS_MLP * load->share.mlp * load->shape->intermediate_size;
    return load->machine->layer_seconds + seconds_at(4 * floats * rows, load->machine->row_rate);
}

/* Two sums over ranks a layer, each sliced, exchanged and gathered. */
static double collective_seconds(const Load *load, double rows) {
    const PlanMachine *machine = load->machine;
    double ranks = machine->rank_count;
    if (ranks == 1) return 0;
    double bytes = 2 * 4 * rows * load->shape->hidden_size * (ranks - 1) / ranks;
    return 2 * (machine->peer_seconds + seconds_at(bytes, machine->peer_rate));
}

/* What one layer computes beside attention; sets the parts of the step. */
static void add_compute(const Load *load, double rows, double attention, PlanStep *step) {
    const PlanShape *shape = load->shape;
    double layers = shape->layer_count;
    step->matmul = layers * (matmul_seconds(load, &shape->attention, load->share.heads, rows) +
                             matmul_seconds(load, &shape->mlp, load->share.mlp, rows));
    step->attention = layers * attention;
    step->rows = layers * rows_seconds(load, rows);
    step->collective = layers * collective_seconds(load, rows);
    step->activity[PLAN_COMPUTE] = step->matmul + step->attention + step->rows + step->collective;
}

/* ---- bytes and the seconds they take ---- */

/* Slots below the device are on the host first. */
static void add_below(const Load *load, double slots, double *bytes) {
    double host = smaller(slots, load->budget.slots[TIER_HOST]);
    bytes[TIER_HOST] += host * (double)load->layout.slot_bytes;
    bytes[TIER_NVME] += (slots - host) * (double)load->layout.slot_bytes;
}

static double slots_of(const Load *load, double context) {
    const KvLayout *layout = &load->layout;
    uint32_t blocks = (uint32_t)divide_up((uint64_t)context, layout->shape.block_tokens);
    uint32_t packed = layout->codec ? kv_layout_cold_blocks(layout, (uint32_t)context) : 0;
    uint32_t packs = packed > 0 ? (uint32_t)divide_up(packed, layout->pack_blocks) : 0;
    return (double)(packs + blocks - packed) * load->placement->sequences *
           load->shape->layer_count;
}

/* All blocks are read once a step. Those that fill stay on the device as far as they fit; the others come and go in every step. A
 * block that is sealed leaves when the device is full. */
static void add_decode_traffic(const Load *load, double context, PlanStep *step) {
    double slots = slots_of(load, context);
    double filling = (double)load->placement->sequences * load->shape->layer_count;
    double below = larger(0, slots - load->home);
    double travelling = larger(0, filling - load->home);
    uint32_t blocks = load->layout.pack_blocks > 0 ? load->layout.pack_blocks : 1;
    double sealed = below > 0 ? filling / load->layout.shape.block_tokens / blocks : 0;
    if (load->work->output_tokens < 2) sealed = 0;
    add_below(load, below, step->kv_read);
    add_below(load, travelling + sealed, step->kv_written);
}

/* Two layers that stream find the frames of the last pass. */
static void add_weight_traffic(const Load *load, PlanStep *step) {
    double layers = load->shape->layer_count;
    if (layers <= LAYERS_STAGED) {
        step->weights_read[TIER_DEVICE] = layers * load->weight_bytes;
        return;
    }
    step->weights_read[TIER_HOST] = layers * streamed_bytes(load, PLAN_WEIGHTS_HOST);
    step->weights_read[TIER_NVME] = layers * streamed_bytes(load, PLAN_WEIGHTS_DEVICE);
    step->weights_read[TIER_DEVICE] =
        layers * load->weight_bytes - step->weights_read[TIER_HOST] - step->weights_read[TIER_NVME];
}

static double disk_seconds(const Load *load, double kv_bytes, double bytes, double rate) {
    double transfers = kv_bytes / (double)load->layout.slot_bytes;
    return load->node_ranks *
           (seconds_at(kv_bytes + bytes, rate) + transfers * load->machine->disk_transfer_seconds);
}

static void add_activities(const Load *load, PlanStep *step) {
    const PlanMachine *machine = load->machine;
    double disk_read = step->kv_read[TIER_NVME], disk_written = step->kv_written[TIER_NVME];
    double weights = step->weights_read[TIER_NVME];
    double host = step->kv_read[TIER_HOST] + step->kv_written[TIER_HOST];
    step->activity[PLAN_DISK] = disk_seconds(load, disk_read, weights, machine->disk_read_rate) +
                                disk_seconds(load, disk_written, 0, machine->disk_write_rate);
    if (machine->unified) {
        step->activity[PLAN_COPY] = load->node_ranks * seconds_at(host, machine->copy_rate);
    } else {
        step->activity[PLAN_TO_DEVICE] = seconds_at(disk_read + weights + step->kv_read[TIER_HOST] +
                                                        step->weights_read[TIER_HOST],
                                                    machine->to_device_rate);
        step->activity[PLAN_FROM_DEVICE] =
            seconds_at(disk_written + step->kv_written[TIER_HOST], machine->from_device_rate);
    }
    if (machine->core_count == 0) return;
    double busy =
        step->activity[PLAN_COMPUTE] * machine->thread_count * load->node_ranks +
        load->node_ranks * (disk_read + disk_written + weights) * machine->disk_core_seconds +
        step->activity[PLAN_COPY];
    step->activity[PLAN_CORES] = busy / machine->core_count;
}

/* Layers are alike, so the longest activity of one is the longest of all. */
static void finish_step(PlanStep *step) {
    double longest = 0;
    for (int i = 0; i < PLAN_ACTIVITY_COUNT; i++)
        longest = larger(longest, step->activity[i]);
    step->seconds = longest + step->head + step->sampling;
}

static void add_head(const Load *load, double rows, PlanStep *step) {
    const PlanMachine *machine = load->machine;
    double speed = machine->head_speed > 0 ? machine->head_speed : 1;
    step->head = matmul_seconds(load, &load->shape->head, load->share.vocab, rows) / speed;
    step->sampling = seconds_at(rows * load->shape->vocab_count, machine->logit_rate);
}

static double context_of(const PlanWork *work) {
    return work->prompt_tokens + (double)(work->output_tokens / 2);
}

static void decode_step(const Load *load, PlanStep *step) {
    double rows = load->placement->sequences, context = context_of(load->work);
    add_compute(load, rows, attention_seconds(load, context), step);
    add_decode_traffic(load, context, step);
    add_weight_traffic(load, step);
    add_activities(load, step);
    add_head(load, rows, step);
    finish_step(step);
}

/* Staging takes what is read while a layer computes, and half as much again (kv_staging.c), from what could stay. */
static double staging_of(const Load *load, const PlanStep *step) {
    double layer = step->activity[PLAN_COMPUTE] / load->shape->layer_count;
    double read = step->kv_read[TIER_HOST] + step->kv_read[TIER_NVME];
    if (!(step->seconds < INFINITY)) return staging_least(load);
    return staging_least(load) +
           staging_margin * read * (layer / step->seconds) / (double)load->layout.slot_bytes;
}

/* ---- prompts ---- */

/* Rows that one pass over the layers works on. */
static double rows_of_pass(const Load *load) {
    double rows = rows_of(load->placement), prompt = load->work->prompt_tokens;
    return smaller(runs_by_layer(load) ? prompt : rows, prompt * load->placement->sequences);
}

static void prompt_pass(const Load *load, double rows, PlanStep *step) {
    const PlanShape *shape = load->shape;
    double prompt = load->work->prompt_tokens, chunk = smaller(rows, rows_of(load->placement));
    double heads = load->share.heads * shape->head_count;
    double operations = 2 * heads * shape->head_dim * prompt * rows; /* half of it is masked */
    add_compute(load, chunk, seconds_at(operations, load->machine->prompt_rate) * chunk / rows,
                step);
    double *parts[] = {&step->matmul, &step->attention, &step->rows, &step->collective,
                       &step->activity[PLAN_COMPUTE]};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        *parts[i] *= rows / chunk;
    double slots = slots_of(load, prompt), all = prompt * load->placement->sequences;
    add_below(load, larger(0, slots - load->home) * rows / all, step->kv_written);
    add_weight_traffic(load, step);
    add_activities(load, step);
    add_head(load, load->placement->sequences * rows / all, step);
    finish_step(step);
}

/* ---- all of it ---- */

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

static double token_bytes(const Load *load) {
    const KvLayout *layout = &load->layout;
    double block_bytes =
        layout->codec ? (double)layout->encoded_bytes : (double)kv_block_bytes(&layout->shape);
    return block_bytes / layout->shape.block_tokens / load->share.kv_heads *
           load->shape->kv_head_count * load->shape->layer_count;
}

static void add_rates(const Load *load, PlanCost *out) {
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
    Load load = {.shape = shape, .machine = machine, .work = work, .placement = placement};
    PlanCost cost = {0};
    TRY(set_up(&load, &cost));
    add_needs(&load, &cost);
    cost.fits = check_fit(&load, &cost);
    cost.block_tokens = load.layout.shape.block_tokens;
    cost.slot_bytes = (double)load.layout.slot_bytes;
    cost.cache_bytes = cache_slots(&load) * cost.slot_bytes;
    cost.kv_token_bytes = token_bytes(&load);
    decode_step(&load, &cost.decode);
    set_home(&load, staging_of(&load, &cost.decode));
    cost.decode = (PlanStep){0};
    decode_step(&load, &cost.decode);
    cost.pass_rows = rows_of_pass(&load);
    cost.passes = (double)work->prompt_tokens * placement->sequences / cost.pass_rows;
    prompt_pass(&load, cost.pass_rows, &cost.prompt);
    cost.bottleneck = longest_of(&cost.decode);
    add_rates(&load, &cost);
    *out = cost;
    return STATUS_OK;
}
