/* OPT (arXiv 2205.01068): learned positions, layer norm with bias, biases everywhere, ReLU, full multi-head attention.
 *
 * A layer, x [rows][hidden]; pre-norm (125m, 1.3b … 66b):
 *     h = norm(x);  q, k, v = h Wq + bq, …;   x += sum over ranks of attention(q, k, v) Wo + bo
 *     h = norm(x);  x += sum over ranks of relu(h W1 + b1) W2 + b2
 * post-norm (350m) norms x after each addition instead, has no final norm, and its embedding is narrower than hidden:
 * project_in widens it, project_out narrows x before the head. */

#include <string.h>

#include "runtime/models/layers.h"
#include "runtime/models/model_loader.h"

/* ---- config ---- */

static const char *const understood[] = {"architectures",
                                         "model_type",
                                         "hidden_size",
                                         "num_hidden_layers",
                                         "ffn_dim",
                                         "vocab_size",
                                         "num_attention_heads",
                                         "max_position_embeddings",
                                         "word_embed_proj_dim",
                                         "do_layer_norm_before",
                                         "activation_function",
                                         "tie_word_embeddings",
                                         "enable_bias",
                                         "layer_norm_elementwise_affine",
                                         "_remove_final_layer_norm",
                                         "position_embedding_type",
                                         NULL};

static const char *const harmless[] = {"_name_or_path",
                                       "name_or_path",
                                       "torch_dtype",
                                       "dtype",
                                       "transformers_version",
                                       "use_cache",
                                       "bos_token_id",
                                       "eos_token_id",
                                       "pad_token_id",
                                       "init_std",
                                       "dropout",
                                       "attention_dropout",
                                       "activation_dropout",
                                       "layerdrop",
                                       "output_projection",
                                       "prefix",
                                       "output_attentions",
                                       "output_hidden_states",
                                       "return_dict",
                                       "is_decoder",
                                       "is_encoder_decoder",
                                       "chunk_size_feed_forward",
                                       "id2label.*",
                                       "label2id.*",
                                       "tokenizer_class",
                                       "add_cross_attention",
                                       NULL};

static Status refuse_unless(const Weights *weights, const char *key, bool wanted) {
    bool value;
    TRY(config_bool_or(weights, key, wanted, &value));
    return value == wanted ? STATUS_OK
                           : config_refuse(weights, key, "this variant of OPT is not computed");
}

static Status opt_read_config(const Weights *weights, ModelConfig *config) {
    const ConfigKeys keys = {.prefix = "", .understood = understood, .harmless = harmless};
    TRY(config_check_keys(weights, &keys));
    const char *activation, *position_type;
    bool norm_before;
    TRY(config_u32(weights, "num_hidden_layers", &config->layer_count));
    TRY(config_u32(weights, "hidden_size", &config->hidden_size));
    TRY(config_u32(weights, "ffn_dim", &config->intermediate_size));
    TRY(config_u32(weights, "vocab_size", &config->vocab_count));
    TRY(config_u32(weights, "num_attention_heads", &config->head_count));
    TRY(config_u32(weights, "max_position_embeddings", &config->context_length));
    TRY(config_u32_or(weights, "word_embed_proj_dim", config->hidden_size,
                      &config->embedding_size));
    TRY(config_bool_or(weights, "do_layer_norm_before", true, &norm_before));
    TRY(config_bool_or(weights, "tie_word_embeddings", true, &config->tied_embeddings));
    TRY(config_string_or(weights, "activation_function", "relu", &activation));
    TRY(config_string_or(weights, "position_embedding_type", "absolute", &position_type));
    if (strcmp(activation, "relu") != 0)
        return config_refuse(weights, "activation_function", "only relu is computed");
    if (strcmp(position_type, "absolute") != 0)
        return config_refuse(weights, "position_embedding_type",
                             "only absolute positions are computed");
    TRY(refuse_unless(weights, "enable_bias", true));
    TRY(refuse_unless(weights, "layer_norm_elementwise_affine", true));
    TRY(refuse_unless(weights, "_remove_final_layer_norm", false));
    if (config->head_count == 0 || config->hidden_size % config->head_count != 0)
        return config_refuse(weights, "num_attention_heads", "it should divide hidden_size");
    if (config->embedding_size == 0)
        return config_refuse(weights, "word_embed_proj_dim", "it is zero");
    config->kv_head_count = config->head_count;
    config->head_dim = config->hidden_size / config->head_count;
    config->norm_epsilon = 1e-5f;
    config->position_offset = 2; /* fairseq's padding rows come first in the position table */
    config->post_norm = !norm_before;
    config->final_norm = norm_before;
    return STATUS_OK;
}

/* ---- tensors ---- */

/* transformers saves the bare decoder as "decoder.…", the language model as "model.decoder.…" */
static const char *const prefixes[] = {"model.decoder.", "decoder.", "", NULL};

static Status bind_norm(ModelLoader *loader, const char *pattern, uint32_t layer_index,
                        const float **out_weight, const float **out_bias) {
    TRY(loader_layer_vector(loader, pattern, ".weight", layer_index, loader->config->hidden_size,
                            out_weight));
    return loader_layer_vector(loader, pattern, ".bias", layer_index, loader->config->hidden_size,
                               out_bias);
}

static Status bind_layer(ModelLoader *loader, uint32_t layer_index, LayerWeights *layer) {
    const ModelConfig *config = loader->config;
    uint32_t hidden = config->hidden_size;
    Share all_hidden = {0, hidden};
    Share heads = loader_scale_share(loader->model->share.heads, config->head_dim);
    Share mlp = loader->model->share.mlp_columns;
    LoaderLinear q = {"layers.%u.self_attn.q_proj", hidden, hidden, heads, all_hidden,
                      LOADER_BIAS_REQUIRED};
    LoaderLinear k = {"layers.%u.self_attn.k_proj", hidden, hidden, heads, all_hidden,
                      LOADER_BIAS_REQUIRED};
    LoaderLinear v = {"layers.%u.self_attn.v_proj", hidden, hidden, heads, all_hidden,
                      LOADER_BIAS_REQUIRED};
    LoaderLinear out = {
        "layers.%u.self_attn.out_proj", hidden, hidden, all_hidden, heads, LOADER_BIAS_REQUIRED};
    LoaderLinear up = {"layers.%u.fc1", config->intermediate_size, hidden, mlp,
                       all_hidden,      LOADER_BIAS_REQUIRED};
    LoaderLinear down = {"layers.%u.fc2", hidden, config->intermediate_size,
                         all_hidden,      mlp,    LOADER_BIAS_REQUIRED};
    TRY(loader_linear(loader, &q, layer_index, &layer->q, &layer->q_bias));
    TRY(loader_linear(loader, &k, layer_index, &layer->k, &layer->k_bias));
    TRY(loader_linear(loader, &v, layer_index, &layer->v, &layer->v_bias));
    TRY(loader_linear(loader, &out, layer_index, &layer->attention_out,
                      &layer->attention_out_bias));
    TRY(loader_linear(loader, &up, layer_index, &layer->mlp_up, &layer->mlp_up_bias));
    TRY(loader_linear(loader, &down, layer_index, &layer->mlp_down, &layer->mlp_down_bias));
    TRY(bind_norm(loader, "layers.%u.self_attn_layer_norm", layer_index, &layer->attention_norm,
                  &layer->attention_norm_bias));
    return bind_norm(loader, "layers.%u.final_layer_norm", layer_index, &layer->mlp_norm,
                     &layer->mlp_norm_bias);
}

static Status bind_projections(ModelLoader *loader, Model *model) {
    uint32_t hidden = loader->config->hidden_size, embedding = loader->config->embedding_size;
    if (hidden == embedding) return STATUS_OK;
    LoaderSlice in = {hidden, embedding, {0, hidden}, {0, embedding}};
    LoaderSlice out = {embedding, hidden, {0, embedding}, {0, hidden}};
    TRY(loader_matrix(loader, "project_in.weight", &in, &model->project_in));
    return loader_matrix(loader, "project_out.weight", &out, &model->project_out);
}

static Status opt_bind(ModelLoader *loader, Model *model) {
    const ModelConfig *config = loader->config;
    uint32_t hidden = config->hidden_size;
    Share all_hidden = {0, hidden};
    loader->prefixes = prefixes;
    TRY(loader_embedding(loader, "embed_tokens.weight"));
    model->position_count = config->context_length + config->position_offset;
    TRY(loader_table(loader, "embed_positions.weight", model->position_count, hidden,
                     &model->position_embedding));
    TRY(bind_projections(loader, model));
    if (config->final_norm) {
        TRY(loader_vector(loader, "final_layer_norm.weight", hidden, all_hidden, false,
                          &model->final_norm));
        TRY(loader_vector(loader, "final_layer_norm.bias", hidden, all_hidden, false,
                          &model->final_norm_bias));
    }
    TRY(loader_head(loader, config->tied_embeddings ? "embed_tokens.weight" : "lm_head.weight"));
    if (config->tied_embeddings) loader_ignore(loader, "lm_head.weight");
    for (uint32_t i = 0; i < config->layer_count; i++)
        TRY(bind_layer(loader, i, &model->layers[i]));
    return STATUS_OK;
}

/* ---- forward ---- */

/* The position table is one more embedding, whose ids are the positions. */
static void embed_positions(Pass *pass, float *out) {
    const Model *model = pass->model;
    uint64_t hidden = model->config.hidden_size, offset = model->config.position_offset;
    uint64_t rows = model->position_count - offset;
    EmbedArgs args = {.table = {.quant = &quant_f32,
                                .dim_count = 2,
                                .shape = {rows, hidden, 1, 1},
                                .data = model->position_embedding + offset * hidden,
                                .bytes = rows * hidden * sizeof(float)},
                      .row_end = rows,
                      .ids = (const int32_t *)pass->batch->positions,
                      .row_count = pass->batch->row_count,
                      .out = out,
                      .out_stride = hidden};
    pass->kernels->embed(pass->context, &args);
}

static Status opt_embed(Pass *pass) {
    const Model *model = pass->model;
    bool projected = model->project_in.data != NULL;
    TRY(layers_embed(pass, projected ? pass->normed : pass->x));
    if (projected)
        layers_project(pass, &model->project_in, NULL, pass->normed, pass->batch->row_count,
                       pass->x);
    embed_positions(pass, pass->sum);
    layers_add_residual(pass);
    return STATUS_OK;
}

static void norm(Pass *pass, const float *weight, const float *bias, const float *in, float *out) {
    layers_norm(pass, pass->kernels->layer_norm, (NormWeights){weight, bias}, in, out,
                pass->batch->row_count);
}

static Status opt_layer(Pass *pass, uint32_t layer_index) {
    const LayerWeights *w = &pass->model->layers[layer_index];
    bool post_norm = pass->model->config.post_norm;
    uint32_t hidden = pass->model->config.hidden_size, columns = w->mlp_up.row_count;

    if (!post_norm) norm(pass, w->attention_norm, w->attention_norm_bias, pass->x, pass->normed);
    MatmulArgs qkv = {.x = post_norm ? pass->x : pass->normed,
                      .x_stride = hidden,
                      .row_count = pass->batch->row_count,
                      .output_count = 3,
                      .outputs = {{&w->q, w->q_bias, pass->q, w->q.row_count},
                                  {&w->k, w->k_bias, pass->k, w->k.row_count},
                                  {&w->v, w->v_bias, pass->v, w->v.row_count}}};
    layers_matmul(pass, &qkv);
    TRY(layers_attend(pass, layer_index));
    TRY(layers_project_sum(pass, &w->attention_out, w->attention_out_bias, pass->attention));
    layers_add_residual(pass);
    if (post_norm) norm(pass, w->attention_norm, w->attention_norm_bias, pass->x, pass->x);

    if (!post_norm) norm(pass, w->mlp_norm, w->mlp_norm_bias, pass->x, pass->normed);
    layers_project(pass, &w->mlp_up, w->mlp_up_bias, post_norm ? pass->x : pass->normed,
                   pass->batch->row_count, pass->up);
    ElementwiseArgs relu = {.a = pass->up,
                            .out = pass->up,
                            .a_stride = columns,
                            .out_stride = columns,
                            .row_count = pass->batch->row_count,
                            .element_count = columns};
    pass->kernels->relu(pass->context, &relu);
    TRY(layers_project_sum(pass, &w->mlp_down, w->mlp_down_bias, pass->up));
    layers_add_residual(pass);
    if (post_norm) norm(pass, w->mlp_norm, w->mlp_norm_bias, pass->x, pass->x);
    return STATUS_OK;
}

static Status opt_head(Pass *pass) {
    const Model *model = pass->model;
    float *rows = pass->normed;
    TRY(layers_gather_head_rows(pass, pass->x, rows));
    if (model->config.final_norm)
        layers_norm(pass, pass->kernels->layer_norm,
                    (NormWeights){model->final_norm, model->final_norm_bias}, rows, rows,
                    pass->head_count);
    if (model->project_out.data) {
        layers_project(pass, &model->project_out, NULL, rows, pass->head_count, pass->sum);
        rows = pass->sum;
    }
    layers_head(pass, rows);
    return STATUS_OK;
}

static const char *const opt_hf[] = {"OPTForCausalLM", NULL};

extern const ModelFamily model_opt[];
const ModelFamily model_opt[] = {
    {.name = "opt",
     .summary = "OPT 125m to 66b, and 350m with its norms behind",
     .hf_architectures = opt_hf,
     .mlp_matrix_count = 2,
     .read_config = opt_read_config,
     .bind = opt_bind,
     .embed = opt_embed,
     .layer = opt_layer,
     .head = opt_head},
    {0},
};
