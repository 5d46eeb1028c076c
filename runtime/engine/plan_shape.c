#include "runtime/engine/plan_shape.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"

enum { QUANT_GROUP = 32 }; /* columns of the MLP are shared out in whole ones */

const char *plan_format_name(PlanFormat format) {
    static const char *const names[] = {"float", "8 bits", "4 bits"};
    return names[format];
}

PlanFormat plan_format_of(const Quant *quant) {
    if (quant->group_elements == 0) return PLAN_FLOAT;
    return quant->code_bits > 5 ? PLAN_8_BITS : PLAN_4_BITS;
}

double plan_shape_kv_bytes(const PlanShape *shape) {
    return 2.0 * 2.0 * shape->layer_count * shape->kv_head_count * shape->head_dim;
}

/* ---- from a tensor directory ---- */

/* "blk.7.attn_q.weight", "model.layers.7.self_attn.q_proj.weight" */
static bool is_of_layer(const char *name) {
    return strncmp(name, "blk.", 4) == 0 || strncmp(name, "layers.", 7) == 0 ||
           strstr(name, ".layers.") || strstr(name, ".h.");
}

static bool is_of_attention(const char *name) {
    return strstr(name, "attn") || strstr(name, "attention");
}

static bool is_head(const char *name) {
    return strcmp(name, "output.weight") == 0 || strcmp(name, "lm_head.weight") == 0;
}

static bool is_token_embedding(const char *name) {
    return strstr(name, "token_embd") || strstr(name, "embed_tokens");
}

/* form: what the tensor is packed from. */
static double packed_bytes(const Tensor *tensor, const Tensor *form, const Kernels *kernels) {
    if (!kernels) return (double)form->bytes;
    const MatrixSource source = {
        .tensor = *form, .row_end = tensor->shape[0], .column_end = tensor->shape[1]};
    return (double)kernels->matrix_bytes(&source);
}

static void add_matrix(PlanMatrices *sum, const Tensor *tensor, const Tensor *form,
                       const Kernels *kernels) {
    sum->elements[plan_format_of(form->quant)] +=
        (double)tensor->shape[0] * (double)tensor->shape[1];
    sum->bytes += packed_bytes(tensor, form, kernels);
}

static void scale(PlanMatrices *sum, double factor) {
    for (int format = 0; format < PLAN_FORMAT_COUNT; format++)
        sum->elements[format] *= factor;
    sum->bytes *= factor;
}

static PlanShape shape_of(const ModelConfig *config) {
    return (PlanShape){.layer_count = config->layer_count,
                       .hidden_size = config->hidden_size,
                       .intermediate_size = config->intermediate_size,
                       .vocab_count = config->vocab_count,
                       .head_count = config->head_count,
                       .kv_head_count = config->kv_head_count,
                       .head_dim = config->head_dim,
                       .mlp_matrix_count = config->family->mlp_matrix_count,
                       .context_length = config->context_length};
}

Status plan_shape_read(const Weights *weights, const ModelConfig *config, const Kernels *kernels,
                       PlanShape *out) {
    PlanShape shape = shape_of(config);
    const Tensor *embedding = NULL;
    for (size_t i = 0; i < weights_tensor_count(weights); i++) {
        const NamedTensor *named = weights_tensor(weights, i);
        const Tensor *tensor = &named->tensor;
        bool matrix = tensor->dim_count == 2 && tensor->quant;
        if (is_token_embedding(named->name)) embedding = tensor;
        if (matrix && is_of_layer(named->name)) {
            Tensor form;
            TRY(weights_layer_matrix(weights, named, &form));
            add_matrix(is_of_attention(named->name) ? &shape.attention : &shape.mlp, tensor, &form,
                       kernels);
        } else if (matrix && is_head(named->name) && !config->tied_embeddings) {
            add_matrix(&shape.head, tensor, tensor, kernels);
        } else {
            shape.other_bytes += (double)tensor->bytes;
        }
    }
    if (shape.attention.bytes == 0 || shape.mlp.bytes == 0 || !embedding)
        FAIL(TENSOR, "%s: no matrices of layers, or no token embedding, to plan for",
             weights_path(weights));
    if (shape.head.bytes == 0) /* the same numbers */
        add_matrix(&shape.head, embedding, embedding, kernels);
    scale(&shape.attention, 1.0 / shape.layer_count);
    scale(&shape.mlp, 1.0 / shape.layer_count);
    *out = shape;
    return STATUS_OK;
}

/* ---- over ranks ---- */

static double larger(double a, double b) {
    return a > b ? a : b;
}

Status plan_share(const PlanShape *shape, uint32_t rank_count, PlanShare *out) {
    const ParallelShape parallel = {.head_count = shape->head_count,
                                    .kv_head_count = shape->kv_head_count,
                                    .head_dim = shape->head_dim,
                                    .hidden_size = shape->hidden_size,
                                    .intermediate_size = shape->intermediate_size,
                                    .vocab_count = shape->vocab_count,
                                    .mlp_matrix_count = shape->mlp_matrix_count,
                                    .mlp_column_granule = QUANT_GROUP};
    RankShare *shares;
    TRY(memory_take((void **)&shares, rank_count, sizeof *shares, "rank shares"));
    Status status = parallel_split(&parallel, (int)rank_count, shares);
    PlanShare most = {0};
    for (uint32_t rank = 0; rank < rank_count && status == STATUS_OK; rank++) {
        const RankShare *own = &shares[rank];
        double heads = (double)share_count(own->heads) / shape->head_count;
        double mlp = (double)share_count(own->mlp_columns) / shape->intermediate_size;
        double weights = (heads * shape->attention.bytes + mlp * shape->mlp.bytes) /
                         (shape->attention.bytes + shape->mlp.bytes);
        double vocab = (double)share_count(own->vocab_rows) / shape->vocab_count;
        most.heads = larger(most.heads, heads);
        most.mlp = larger(most.mlp, mlp);
        most.weights = larger(most.weights, weights);
        most.vocab = larger(most.vocab, vocab);
        if (share_count(own->kv_heads) > most.kv_heads) most.kv_heads = share_count(own->kv_heads);
    }
    free(shares);
    if (status == STATUS_OK) *out = most;
    return status;
}
