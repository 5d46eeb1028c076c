#include "runtime/engine/plan_load.h"

#include <math.h>

#include "runtime/base/bytes.h"

enum {
    ROW_FLOATS_HIDDEN = 10, /* read or written by norms, rope, additions and stores */
    ROW_FLOATS_MLP = 3,
};
static const double staging_margin = 1.5; /* of kv_staging.c */
/* What steps of SmolLM2-135M reached of a disk's speed alone (README.md: 75 to 100 %), and what I/O took of a core beside kernels for what it takes
 * alone, as they share caches and memory (2 cores of an Intel Xeon, family 6 model 207). */
static const double disk_reached = 0.9, core_beside = 1.5;

/* Seconds of `amount` at `rate`: none of nothing, and never of what is not there. */
static double seconds_at(double amount, double rate) {
    if (amount <= 0) return 0;
    return rate > 0 ? amount / rate : INFINITY;
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
static double matmul_seconds(const PlanLoad *load, const PlanMatrices *matrices, double share,
                             double rows) {
    double seconds = 0;
    for (int format = 0; format < PLAN_FORMAT_COUNT; format++) {
        double operations = 2 * matrices->elements[format] * share * rows;
        double rate = operation_rate(load->machine, (PlanFormat)format, rows);
        seconds += seconds_at(operations, rate);
    }
    return plan_larger(seconds, seconds_at(matrices->bytes * share, load->machine->device_rate));
}

static const PlanAttention *attention_of(const PlanMachine *machine, const Codec *codec) {
    uint32_t index = 0;
    while (codec && codec_at(index) != codec)
        index++;
    const PlanAttention *own = &machine->attention[index];
    return own->byte_rate > 0 ? own : &machine->attention[0];
}

/* `tokens` of each of the sequences, stored in so many bytes a token on this rank. */
static double attention_part(const PlanLoad *load, const Codec *codec, double tokens,
                             double bytes) {
    const PlanAttention *rates = attention_of(load->machine, codec);
    double sequences = load->placement->sequences;
    double heads = load->share.heads * load->shape->head_count;
    return seconds_at(tokens * bytes * sequences, rates->byte_rate) +
           seconds_at(4 * heads * load->shape->head_dim * tokens * sequences,
                      rates->operation_rate);
}

static double attention_seconds(const PlanLoad *load, double context) {
    const KvLayout *layout = &load->layout;
    double block = layout->shape.block_tokens;
    double raw_bytes = (double)kv_block_bytes(&layout->shape) / block;
    double packed = layout->codec ? kv_layout_cold_blocks(layout, (uint32_t)context) * block : 0;
    return attention_part(load, NULL, context - packed, raw_bytes) +
           attention_part(load, layout->codec, packed, (double)layout->encoded_bytes / block);
}

static double rows_seconds(const PlanLoad *load, double rows, double sequences) {
    double floats = ROW_FLOATS_HIDDEN * (double)load->shape->hidden_size +
                    ROW_FLOATS_MLP * load->share.mlp * load->shape->intermediate_size;
    return load->machine->layer_seconds + sequences * load->machine->sequence_seconds +
           seconds_at(4 * floats * rows, load->machine->row_rate);
}

/* Two sums over ranks a layer, each sliced, exchanged and gathered. */
static double collective_seconds(const PlanLoad *load, double rows) {
    const PlanMachine *machine = load->machine;
    double ranks = machine->rank_count;
    if (ranks == 1) return 0;
    double bytes = 2 * 4 * rows * load->shape->hidden_size * (ranks - 1) / ranks;
    return 2 * (machine->peer_seconds + seconds_at(bytes, machine->peer_rate));
}

/* What one layer computes beside attention; sets the parts of the step. */
static void add_compute(const PlanLoad *load, double rows, double sequences, double attention,
                        PlanStep *step) {
    const PlanShape *shape = load->shape;
    double layers = shape->layer_count;
    step->matmul = layers * (matmul_seconds(load, &shape->attention, load->share.heads, rows) +
                             matmul_seconds(load, &shape->mlp, load->share.mlp, rows));
    step->attention = layers * attention;
    step->rows = layers * rows_seconds(load, rows, sequences);
    step->collective = layers * collective_seconds(load, rows);
    step->activity[PLAN_COMPUTE] = step->matmul + step->attention + step->rows + step->collective;
}

/* ---- bytes and the seconds they take ---- */

/* Slots below the device are on the host first. */
static void add_below(const PlanLoad *load, double slots, double *bytes) {
    double host = plan_smaller(slots, load->budget.slots[TIER_HOST]);
    bytes[TIER_HOST] += host * (double)load->layout.slot_bytes;
    bytes[TIER_NVME] += (slots - host) * (double)load->layout.slot_bytes;
}

static double slots_of(const PlanLoad *load, double context) {
    const KvLayout *layout = &load->layout;
    uint32_t blocks = (uint32_t)divide_up((uint64_t)context, layout->shape.block_tokens);
    uint32_t packed = layout->codec ? kv_layout_cold_blocks(layout, (uint32_t)context) : 0;
    uint32_t packs = packed > 0 ? (uint32_t)divide_up(packed, layout->pack_blocks) : 0;
    return (double)(packs + blocks - packed) * load->placement->sequences *
           load->shape->layer_count;
}

/* All blocks are read once a step. Those that fill stay on the device as far as they fit; the others come and go in every step. A
 * block that is sealed leaves when the device is full. */
static void add_decode_traffic(const PlanLoad *load, double context, PlanStep *step) {
    double slots = slots_of(load, context);
    double filling = (double)load->placement->sequences * load->shape->layer_count;
    double below = plan_larger(0, slots - load->home);
    double travelling = plan_larger(0, filling - load->home);
    uint32_t blocks = load->layout.pack_blocks > 0 ? load->layout.pack_blocks : 1;
    double sealed = below > 0 ? filling / load->layout.shape.block_tokens / blocks : 0;
    if (load->work->output_tokens < 2) sealed = 0;
    add_below(load, below, step->kv_read);
    add_below(load, travelling + sealed, step->kv_written);
    if (!load->placement->attend_host || load->machine->unified) return;
    double moved =
        plan_smaller(travelling * (double)load->layout.slot_bytes, step->kv_read[TIER_HOST]);
    step->kv_in_host = step->kv_read[TIER_HOST] - moved;
    step->kv_read[TIER_HOST] = moved;
}

/* Of a layer, of whose blocks a part is attended in host memory, at the speed at which that is copied: device and host work at the same
 * time, the host from when the queries are down until its partials are up. */
static double shared_attention(const PlanLoad *load, double context, double on_device,
                               const PlanStep *step) {
    const PlanMachine *machine = load->machine;
    double layers = load->shape->layer_count, head_dim = load->shape->head_dim;
    double states =
        load->placement->sequences * load->share.heads * (double)load->shape->head_count;
    double in_host = step->kv_in_host / layers;
    double all = slots_of(load, context) / layers * (double)load->layout.slot_bytes;
    if (in_host <= 0) return on_device;
    double on_host = load->node_ranks * seconds_at(in_host, machine->copy_rate) +
                     seconds_at(4 * states * head_dim, machine->from_device_rate) +
                     seconds_at(4 * states * (head_dim + 2), machine->to_device_rate);
    return plan_larger(on_device * (1 - in_host / all), on_host);
}

/* Layers that all find a frame are still there from the last pass. */
static void add_weight_traffic(const PlanLoad *load, PlanStep *step) {
    double layers = load->shape->layer_count;
    if (layers <= plan_layers_staged(load)) {
        step->weights_read[TIER_DEVICE] = layers * load->weight_bytes;
        return;
    }
    step->weights_read[TIER_HOST] = layers * plan_streamed_bytes(load, PLAN_WEIGHTS_HOST);
    step->weights_read[TIER_NVME] = layers * plan_streamed_bytes(load, PLAN_WEIGHTS_DEVICE);
    step->weights_read[TIER_DEVICE] =
        layers * load->weight_bytes - step->weights_read[TIER_HOST] - step->weights_read[TIER_NVME];
}

static double disk_seconds(const PlanLoad *load, double kv_bytes, double bytes, double rate) {
    double transfers = kv_bytes / (double)load->layout.slot_bytes;
    return load->node_ranks / disk_reached *
           (seconds_at(kv_bytes + bytes, rate) + transfers * load->machine->disk_transfer_seconds);
}

/* Kernels and I/O share the cores. Where kernels take them all, what I/O takes from one is lost to the whole team, which waits for
 * its last thread. */
static double cores_seconds(const PlanLoad *load, const PlanStep *step, double disk_bytes) {
    const PlanMachine *machine = load->machine;
    double threads = machine->thread_count * load->node_ranks, cores = machine->core_count;
    double kernels = step->activity[PLAN_COMPUTE] * threads;
    double moving = core_beside * disk_bytes * machine->disk_core_seconds +
                    step->activity[PLAN_COPY] / load->node_ranks; /* of a rank */
    if (threads < cores) return (kernels + moving * load->node_ranks) / cores;
    return kernels / cores + moving;
}

static void add_activities(const PlanLoad *load, PlanStep *step) {
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
    step->activity[PLAN_CORES] = cores_seconds(load, step, disk_read + disk_written + weights);
}

static double stream_seconds(const PlanStep *step) {
    double longest = 0;
    for (int i = 0; i < PLAN_ACTIVITY_COUNT; i++)
        if (i != PLAN_COMPUTE && i != PLAN_CORES) longest = plan_larger(longest, step->activity[i]);
    return longest;
}

/* Attention lets go of staging as it goes on. While the rest of a layer computes, reads ahead go on until staging is full; what of its slots is
 * being attended, half at most, takes none. Seconds of compute during which nothing is read any more. */
static double uncovered_seconds(const PlanLoad *load, const PlanStep *step) {
    double holds = step->activity[PLAN_COMPUTE] - step->attention, stream = stream_seconds(step);
    double slots =
        (step->kv_read[TIER_HOST] + step->kv_read[TIER_NVME]) / (double)load->layout.slot_bytes;
    double meanwhile =
        stream > 0 ? slots / load->shape->layer_count * plan_smaller(1, holds / stream) : 0;
    if (meanwhile == 0) return 0;
    double staging = load->budget.staging_slots;
    double ahead = staging - plan_smaller(plan_staging_least(load), staging / 2);
    return holds * (1 - plan_smaller(1, ahead / meanwhile));
}

/* Layers are alike, so the longest activity of one is the longest of all. */
static void finish_step(const PlanLoad *load, PlanStep *step) {
    double longest = stream_seconds(step) + uncovered_seconds(load, step);
    for (int i = 0; i < PLAN_ACTIVITY_COUNT; i++)
        longest = plan_larger(longest, step->activity[i]);
    step->seconds = longest + step->head + step->sampling;
}

static void add_head(const PlanLoad *load, double rows, PlanStep *step) {
    const PlanMachine *machine = load->machine;
    double speed = machine->head_speed > 0 ? machine->head_speed : 1;
    step->head = matmul_seconds(load, &load->shape->head, load->share.vocab, rows) / speed;
    step->sampling = seconds_at(rows * load->shape->vocab_count, machine->logit_rate);
}

static double context_of(const PlanWork *work) {
    return work->prompt_tokens + (double)(work->output_tokens / 2);
}

void plan_decode_step(const PlanLoad *load, PlanStep *step) {
    double rows = load->placement->sequences, context = context_of(load->work);
    double attention = attention_seconds(load, context);
    add_decode_traffic(load, context, step);
    add_compute(load, rows, rows, shared_attention(load, context, attention, step), step);
    add_weight_traffic(load, step);
    add_activities(load, step);
    add_head(load, rows, step);
    finish_step(load, step);
}

/* Staging takes what is read while a layer computes, and half as much again (kv_staging.c), from what could stay. */
double plan_staging_of(const PlanLoad *load, const PlanStep *step) {
    double layer = step->activity[PLAN_COMPUTE] / load->shape->layer_count;
    double read = step->kv_read[TIER_HOST] + step->kv_read[TIER_NVME];
    if (!(step->seconds < INFINITY)) return plan_staging_least(load);
    return plan_staging_least(load) +
           staging_margin * read * (layer / step->seconds) / (double)load->layout.slot_bytes;
}

/* ---- prompts ---- */

/* Rows that one pass over the layers works on. */
double plan_rows_of_pass(const PlanLoad *load) {
    double rows = plan_rows_of(load->placement), prompt = load->work->prompt_tokens;
    return plan_smaller(plan_runs_by_layer(load) ? prompt : rows,
                        prompt * load->placement->sequences);
}

void plan_prompt_pass(const PlanLoad *load, double rows, PlanStep *step) {
    const PlanShape *shape = load->shape;
    double prompt = load->work->prompt_tokens,
           chunk = plan_smaller(rows, plan_rows_of(load->placement));
    double heads = load->share.heads * shape->head_count;
    double operations = 2 * heads * shape->head_dim * prompt * rows; /* half of it is masked */
    double prompts = plan_larger(1, chunk / prompt);
    add_compute(load, chunk, prompts,
                seconds_at(operations, load->machine->prompt_rate) * chunk / rows, step);
    double *parts[] = {&step->matmul, &step->attention, &step->rows, &step->collective,
                       &step->activity[PLAN_COMPUTE]};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        *parts[i] *= rows / chunk;
    double slots = slots_of(load, prompt), all = prompt * load->placement->sequences;
    add_below(load, plan_larger(0, slots - load->home) * rows / all, step->kv_written);
    add_weight_traffic(load, step);
    add_activities(load, step);
    add_head(load, load->placement->sequences * rows / all, step);
    finish_step(load, step);
}
