/* Partial attention over KV blocks, as kernels.h defines it: softmax with a running maximum (Milakov and
 * Gimelshein, arXiv 1805.02867), folded per block and per group in double, the running state in f32. */

#include <math.h>

#include "kernels/attend_range.h"
#include "kernels/reference/reference.h"
#include "runtime/base/invariant.h"

/* (max, sum, out) of some tokens; out[head_dim] */
typedef struct Partial {
    double max, sum;
    double *out;
} Partial;

/* Two partials and a row of decoded numbers. */
static size_t scratch_need(uint32_t head_dim) {
    return head_dim * (2 * sizeof(double) + sizeof(float));
}

size_t scratch_bytes_reference(const KernelLimits *limits, uint32_t thread_count) {
    (void)thread_count;
    return scratch_need(limits->head_dim);
}

static void kv_store_reference(const KernelContext *context, const KvStoreArgs *args) {
    (void)context;
    const KvShape *shape = &args->shape;
    uint64_t head_elements = (uint64_t)shape->block_tokens * shape->head_dim;
    for (uint32_t row = 0; row < args->row_count; row++) {
        uint16_t *keys =
            (uint16_t *)args->blocks[row] + (uint64_t)args->block_slots[row] * shape->head_dim;
        uint16_t *values = keys + shape->kv_head_count * head_elements;
        const float *k = args->k + row * args->k_stride;
        const float *v = args->v + row * args->v_stride;
        for (uint32_t head = 0; head < shape->kv_head_count; head++)
            for (uint32_t i = 0; i < shape->head_dim; i++) {
                keys[head * head_elements + i] = f32_to_f16(k[head * shape->head_dim + i]);
                values[head * head_elements + i] = f32_to_f16(v[head * shape->head_dim + i]);
            }
    }
}

static void partial_clear(Partial *partial, uint32_t head_dim) {
    partial->max = -INFINITY;
    partial->sum = 0.0;
    for (uint32_t i = 0; i < head_dim; i++)
        partial->out[i] = 0.0;
}

/* exp(x - max), where a maximum of -inf stands for "nothing yet" */
static double weight_of(double x, double max) {
    return exp(x - (max == -INFINITY ? 0.0 : max));
}

static void partial_fold(Partial *into, const Partial *from, uint32_t head_dim) {
    double max = fmax(into->max, from->max);
    double kept = weight_of(into->max, max), added = weight_of(from->max, max);
    into->max = max;
    into->sum = into->sum * kept + from->sum * added;
    for (uint32_t i = 0; i < head_dim; i++)
        into->out[i] = into->out[i] * kept + from->out[i] * added;
}

/* The keys or the values of one KV head in a block. */
typedef struct HeadBytes {
    CodecHead head;
    const uint8_t *bytes;
} HeadBytes;

static HeadBytes head_bytes_of(const AttendArgs *args, const AttendRun *run, uint32_t block,
                               CodecPart part, uint32_t kv_head) {
    const Codec *codec = attend_codec(run, block);
    if (!codec) codec = codec_find("f16");
    const uint8_t *bytes = run->blocks[block];
    return (HeadBytes){codec_head(codec, &args->shape, part),
                       bytes + codec_head_offset(codec, &args->shape, part, kv_head)};
}

static double score_of(const float *q, const HeadBytes *keys, uint32_t token, double scale,
                       float *row) {
    double sum = 0.0;
    keys->head.codec->expand(&keys->head, keys->bytes, token, row);
    for (uint32_t i = 0; i < keys->head.head_dim; i++)
        sum += (double)q[i] * (double)row[i];
    return scale * sum;
}

/* row: scratch for one token's numbers */
static void block_partial(const AttendArgs *args, const float *q, const HeadBytes *keys,
                          const HeadBytes *values, TokenRange range, float *row, Partial *out) {
    uint32_t head_dim = args->shape.head_dim;
    double scale = (double)args->scale;
    partial_clear(out, head_dim);
    for (uint32_t token = range.begin; token < range.end; token++)
        out->max = fmax(out->max, score_of(q, keys, token, scale, row));
    for (uint32_t token = range.begin; token < range.end; token++) {
        double weight = weight_of(score_of(q, keys, token, scale, row), out->max);
        values->head.codec->expand(&values->head, values->bytes, token, row);
        out->sum += weight;
        for (uint32_t i = 0; i < head_dim; i++)
            out->out[i] += weight * (double)row[i];
    }
}

static void state_fold(const AttendArgs *args, uint64_t state, const Partial *group) {
    uint32_t head_dim = args->shape.head_dim;
    float *out = args->out + state * head_dim;
    double old_max = (double)args->maxima[state];
    double max = (double)(float)fmax(old_max, group->max); /* as it will be read back */
    double kept = weight_of(old_max, max), added = weight_of(group->max, max);
    args->maxima[state] = (float)max;
    args->sums[state] = (float)((double)args->sums[state] * kept + group->sum * added);
    for (uint32_t i = 0; i < head_dim; i++)
        out[i] = (float)((double)out[i] * kept + group->out[i] * added);
}

/* One row and query head against the blocks [first, end) of a run, all of one group. */
static void attend_group(const AttendArgs *args, const AttendRun *run, uint32_t row, uint32_t head,
                         uint32_t first, uint32_t end, double *scratch) {
    const KvShape *shape = &args->shape;
    uint32_t kv_head = args->kv_head_index[head];
    const float *q =
        args->q + (run->row_first + row) * args->q_stride + (uint64_t)head * shape->head_dim;
    Partial group = {.out = scratch}, partial = {.out = scratch + shape->head_dim};
    bool seen = false;
    partial_clear(&group, shape->head_dim);
    for (uint32_t block = first; block < end; block++) {
        TokenRange range = attend_range(args, run, row, block);
        if (range.begin == range.end) continue;
        HeadBytes keys = head_bytes_of(args, run, block, CODEC_KEYS, kv_head);
        HeadBytes values = head_bytes_of(args, run, block, CODEC_VALUES, kv_head);
        block_partial(args, q, &keys, &values, range, (float *)(scratch + 2 * shape->head_dim),
                      &partial);
        partial_fold(&group, &partial, shape->head_dim);
        seen = true;
    }
    if (seen) state_fold(args, (uint64_t)(run->row_first + row) * args->head_count + head, &group);
}

static void attend_reference(const KernelContext *context, const AttendArgs *args) {
    CHECK(context->scratch_bytes >= scratch_need(args->shape.head_dim));
    for (uint32_t i = 0; i < args->run_count; i++) {
        const AttendRun *run = &args->runs[i];
        CHECK(attend_run_in_groups(run));
        for (uint32_t row = 0; row < run->row_count; row++)
            for (uint32_t head = 0; head < args->head_count; head++)
                for (uint32_t first = 0; first < run->block_count; first += ATTEND_GROUP_BLOCKS) {
                    uint32_t end = first + ATTEND_GROUP_BLOCKS;
                    if (end > run->block_count) end = run->block_count;
                    attend_group(args, run, row, head, first, end, context->scratch);
                }
    }
}

static void attend_begin_reference(const KernelContext *context, const AttendEdgeArgs *args) {
    (void)context;
    uint64_t state_count = (uint64_t)args->row_count * args->head_count;
    for (uint64_t state = 0; state < state_count; state++) {
        args->maxima[state] = -INFINITY;
        args->sums[state] = 0.0f;
    }
    for (uint64_t i = 0; i < state_count * args->head_dim; i++)
        args->out[i] = 0.0f;
}

static void attend_merge_reference(const KernelContext *context, const AttendMergeArgs *args) {
    (void)context;
    const AttendEdgeArgs *into = &args->state;
    uint64_t state_count = (uint64_t)into->row_count * into->head_count;
    for (uint64_t state = 0; state < state_count; state++) {
        if (args->maxima[state] == -INFINITY && args->sums[state] == 0.0f) continue;
        double old_max = (double)into->maxima[state], from_max = (double)args->maxima[state];
        double max = fmax(old_max, from_max);
        double kept = weight_of(old_max, max), added = weight_of(from_max, max);
        into->maxima[state] = (float)max;
        into->sums[state] =
            (float)((double)into->sums[state] * kept + (double)args->sums[state] * added);
        for (uint64_t i = state * into->head_dim; i < (state + 1) * into->head_dim; i++)
            into->out[i] = (float)((double)into->out[i] * kept + (double)args->out[i] * added);
    }
}

static void attend_end_reference(const KernelContext *context, const AttendEdgeArgs *args) {
    (void)context;
    uint64_t state_count = (uint64_t)args->row_count * args->head_count;
    for (uint64_t state = 0; state < state_count; state++) {
        double sum = (double)args->sums[state];
        float *out = args->out + state * args->head_dim;
        for (uint32_t i = 0; i < args->head_dim; i++)
            out[i] = sum == 0.0 ? 0.0f : (float)((double)out[i] / sum);
    }
}

void attention_fill_reference(Kernels *kernels) {
    kernels->scratch_bytes = scratch_bytes_reference;
    kernels->kv_store = kv_store_reference;
    kernels->attend_begin = attend_begin_reference;
    kernels->attend = attend_reference;
    kernels->attend_merge = attend_merge_reference;
    kernels->attend_end = attend_end_reference;
}
