#include "runtime/models/layers.h"

#include <math.h>
#include <string.h>

#include "runtime/base/monotonic.h"

static Status sum_over_ranks(Pass *pass, float *data, uint64_t count) {
    TRY(comm_device_keep_pace(pass->reduce, count));
    if (pass->comm->size == 1) return STATUS_OK;
    double start = monotonic_seconds();
    Status status = comm_device_all_reduce(pass->reduce, data, count);
    pass->times->collective += monotonic_seconds() - start;
    return status;
}

Status layers_embed(Pass *pass, float *out) {
    const Model *model = pass->model;
    EmbedArgs args = {.table = model->token_embedding,
                      .row_begin = model->share.vocab_rows.begin,
                      .row_end = model->share.vocab_rows.end,
                      .ids = pass->batch->tokens,
                      .row_count = pass->batch->row_count,
                      .out = out,
                      .out_stride = model->config.embedding_size};
    pass->kernels->embed(pass->context, &args);
    return sum_over_ranks(pass, out, (uint64_t)args.row_count * args.out_stride);
}

void layers_matmul(Pass *pass, const MatmulArgs *args) {
    double start = monotonic_seconds();
    pass->kernels->matmul(pass->context, args);
    pass->times->matmul += monotonic_seconds() - start;
}

void layers_project(Pass *pass, const Matrix *w, const float *bias, const float *x,
                    uint32_t row_count, float *out) {
    MatmulArgs args = {
        .x = x,
        .x_stride = w->column_count,
        .row_count = row_count,
        .output_count = 1,
        .outputs = {{.weights = w, .bias = bias, .out = out, .out_stride = w->row_count}}};
    layers_matmul(pass, &args);
}

Status layers_project_sum(Pass *pass, const Matrix *w, const float *bias, const float *x) {
    layers_project(pass, w, bias, x, pass->batch->row_count, pass->sum);
    return sum_over_ranks(pass, pass->sum, (uint64_t)pass->batch->row_count * w->row_count);
}

void layers_add_residual(Pass *pass) {
    uint32_t hidden = pass->model->config.hidden_size;
    ElementwiseArgs args = {.a = pass->x,
                            .b = pass->sum,
                            .out = pass->x,
                            .a_stride = hidden,
                            .b_stride = hidden,
                            .out_stride = hidden,
                            .row_count = pass->batch->row_count,
                            .element_count = hidden};
    pass->kernels->add(pass->context, &args);
}

void layers_norm(Pass *pass, NormKernel norm, NormWeights weights, const float *in, float *out,
                 uint32_t row_count) {
    uint32_t hidden = pass->model->config.hidden_size;
    NormArgs args = {.x = in,
                     .x_stride = hidden,
                     .out = out,
                     .out_stride = hidden,
                     .weight = weights.weight,
                     .bias = weights.bias,
                     .row_count = row_count,
                     .element_count = hidden,
                     .epsilon = pass->model->config.norm_epsilon};
    norm(pass->context, &args);
}

void layers_norm_heads(Pass *pass, const float *weight, float *x, uint32_t head_count) {
    uint32_t head_dim = pass->model->config.head_dim;
    NormArgs args = {.x = x,
                     .x_stride = head_dim,
                     .out = x,
                     .out_stride = head_dim,
                     .weight = weight,
                     .row_count = pass->batch->row_count * head_count,
                     .element_count = head_dim,
                     .epsilon = pass->model->config.norm_epsilon};
    pass->kernels->rms_norm(pass->context, &args);
}

static RopeMatrix heads_of(const Model *model, float *x, Share heads) {
    uint32_t head_count = share_count(heads);
    return (RopeMatrix){x, (uint64_t)head_count * model->config.head_dim, head_count};
}

void layers_rope(Pass *pass) {
    const Model *model = pass->model;
    RopeArgs args = {.matrices = {heads_of(model, pass->q, model->share.heads),
                                  heads_of(model, pass->k, model->share.kv_heads)},
                     .row_count = pass->batch->row_count,
                     .head_dim = model->config.head_dim,
                     .rotary_dim = model->config.rope.rotary_dim,
                     .interleaved = model->config.rope.interleaved,
                     .positions = pass->batch->positions,
                     .cosines = model->rope_cosines,
                     .sines = model->rope_sines};
    pass->kernels->rope(pass->context, &args);
}

/* What the host attends it does while the device's kernels run. */
static Status attend_runs(const Pass *pass, const KvCursor *cursor, const KvRuns *runs,
                          AttendArgs args) {
    if (runs->host_count > 0) TRY(host_attend_ask(pass->host_attend, &args, cursor->host_rows));
    args.runs = runs->device;
    args.run_count = runs->device_count;
    if (runs->device_count > 0) pass->kernels->attend(pass->context, &args);
    args.runs = runs->host;
    args.run_count = runs->host_count;
    return runs->host_count > 0 ? host_attend_run(pass->host_attend, &args) : STATUS_OK;
}

static Status attend_blocks(Pass *pass, uint32_t layer_index) {
    const Model *model = pass->model;
    uint32_t heads = share_count(model->share.heads), kv_heads = share_count(model->share.kv_heads);
    uint32_t head_dim = model->config.head_dim;
    KvRows rows = {.k = pass->k,
                   .v = pass->v,
                   .k_stride = (uint64_t)kv_heads * head_dim,
                   .v_stride = (uint64_t)kv_heads * head_dim};
    TRY(kv_cache_store(pass->cache, pass->kernels, pass->context, pass->batch, layer_index, &rows));

    AttendEdgeArgs edge = {.row_count = pass->batch->row_count,
                           .head_count = heads,
                           .head_dim = head_dim,
                           .maxima = pass->maxima,
                           .sums = pass->sums,
                           .out = pass->attention};
    AttendArgs args = {.shape = kv_cache_shape(pass->cache),
                       .head_count = heads,
                       .kv_head_index = model->kv_head_index,
                       .scale = (float)(1.0 / sqrt((double)head_dim)),
                       .window = model->config.window,
                       .q = pass->q,
                       .q_stride = (uint64_t)heads * head_dim,
                       .maxima = pass->maxima,
                       .sums = pass->sums,
                       .out = pass->attention};
    pass->kernels->attend_begin(pass->context, &edge);
    KvCursor cursor = kv_cache_begin(pass->cache, pass->batch, layer_index, model->config.window);
    for (;;) {
        KvRuns runs;
        TRY(kv_cache_next(&cursor, &runs));
        if (runs.device_count + runs.host_count == 0) break;
        TRY(attend_runs(pass, &cursor, &runs, args));
    }
    if (pass->host_attend) TRY(host_attend_merge(pass->host_attend, &edge));
    pass->kernels->attend_end(pass->context, &edge);
    return kv_cache_seal(pass->cache, pass->batch, layer_index);
}

Status layers_attend(Pass *pass, uint32_t layer_index) {
    double start = monotonic_seconds();
    Status status = attend_blocks(pass, layer_index);
    pass->times->attention += monotonic_seconds() - start;
    return status;
}

/* Rows that lie side by side, which are all of them in a decode step, go in one copy. */
Status layers_gather_head_rows(Pass *pass, const float *x, float *out) {
    Device *device = pass->model->device;
    const uint32_t *rows = pass->batch->logit_rows + pass->head_first;
    uint64_t hidden = pass->model->config.hidden_size;
    for (uint32_t first = 0, end; first < pass->head_count; first = end) {
        for (end = first + 1; end < pass->head_count && rows[end] == rows[end - 1] + 1;)
            end++;
        TRY(device->copy(device, pass->context->stream, out + first * hidden,
                         x + rows[first] * hidden, (end - first) * hidden * sizeof(float)));
    }
    return STATUS_OK;
}

void layers_head(Pass *pass, const float *in) {
    const Matrix *head = &pass->model->head;
    MatmulArgs args = {
        .x = in,
        .x_stride = head->column_count,
        .row_count = pass->head_count,
        .output_count = 1,
        .precise = true,
        .outputs = {{.weights = head, .out = pass->logits, .out_stride = head->row_count}}};
    if (head->row_count > 0) layers_matmul(pass, &args);
}
