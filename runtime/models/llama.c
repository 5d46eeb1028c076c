/* The Llama family: pre-norm with RMS norm, rotary positions, grouped-query attention, SwiGLU (Llama, arXiv 2302.13971;
 * GQA, 2305.13245). Mistral adds a sliding window (2310.06825), Qwen2 biases on q, k and v (2407.10671), Qwen3 a norm of
 * each head of q and k (2505.09388).
 *
 * A layer, x [rows][hidden]:
 *     h = rms(x);  q, k, v = h Wq, h Wk, h Wv;  (q, k = rms per head);  rotate q, k
 *     x += sum over ranks of attention(q, k, v) Wo
 *     h = rms(x);  x += sum over ranks of (silu(h Wgate) * (h Wup)) Wdown */

#include <string.h>

#include "runtime/models/layers.h"
#include "runtime/models/model_loader.h"

/* ---- config ---- */

static const char *const hf_understood[] = {"architectures",
                                            "model_type",
                                            "hidden_size",
                                            "num_hidden_layers",
                                            "intermediate_size",
                                            "vocab_size",
                                            "num_attention_heads",
                                            "num_key_value_heads",
                                            "head_dim",
                                            "max_position_embeddings",
                                            "rms_norm_eps",
                                            "rope_theta",
                                            "rope_scaling.*",
                                            "rope_parameters.*",
                                            "rope_interleaved",
                                            "partial_rotary_factor",
                                            "sliding_window",
                                            "use_sliding_window",
                                            "max_window_layers",
                                            "layer_types",
                                            "tie_word_embeddings",
                                            "hidden_act",
                                            "attention_bias",
                                            "mlp_bias",
                                            NULL};

static const char *const hf_harmless[] = {"_name_or_path",
                                          "name_or_path",
                                          "torch_dtype",
                                          "dtype",
                                          "transformers_version",
                                          "use_cache",
                                          "bos_token_id",
                                          "eos_token_id",
                                          "pad_token_id",
                                          "unk_token_id",
                                          "sep_token_id",
                                          "initializer_range",
                                          "attention_dropout",
                                          "pretraining_tp",
                                          "is_llama_config",
                                          "transformers.js_config.*",
                                          "output_attentions",
                                          "output_hidden_states",
                                          "return_dict",
                                          "is_decoder",
                                          "chunk_size_feed_forward",
                                          "problem_type",
                                          "id2label.*",
                                          "label2id.*",
                                          "unsloth_version",
                                          "unsloth_fixed",
                                          "_attn_implementation",
                                          "attn_implementation",
                                          "add_cross_attention",
                                          "is_encoder_decoder",
                                          "cross_attention_hidden_size",
                                          "decoder_start_token_id",
                                          "finetuning_task",
                                          "prefix",
                                          "task_specific_params",
                                          "tokenizer_class",
                                          "tie_encoder_decoder",
                                          "torchscript",
                                          "pruned_heads.*",
                                          NULL};

static Status read_rope_scaling_hf(const Weights *weights, const char *type, const char *prefix,
                                   RopeConfig *rope) {
    char key[TENSOR_NAME_BYTES_MAX];
    double original;
    if (!strcmp(type, "default")) return STATUS_OK;
    bool linear = !strcmp(type, "linear"), llama3 = !strcmp(type, "llama3");
    if (!linear && !llama3) {
        loader_key(prefix, "rope_type", key);
        return config_refuse(weights, key,
                             "only the RoPE scalings default, linear and llama3 are computed");
    }
    rope->scaling = linear ? ROPE_SCALING_LINEAR : ROPE_SCALING_LLAMA3;
    loader_key(prefix, "factor", key);
    TRY(config_float_or(weights, key, 0.0, &rope->factor));
    if (!(rope->factor > 0))
        return config_refuse(weights, key, "the RoPE scaling needs a factor above 0");
    if (linear) return STATUS_OK;
    loader_key(prefix, "low_freq_factor", key);
    TRY(config_float_or(weights, key, 0.0, &rope->low_freq_factor));
    loader_key(prefix, "high_freq_factor", key);
    TRY(config_float_or(weights, key, 0.0, &rope->high_freq_factor));
    loader_key(prefix, "original_max_position_embeddings", key);
    TRY(config_float_or(weights, key, 0.0, &original));
    if (!(rope->low_freq_factor > 0 && rope->high_freq_factor > rope->low_freq_factor &&
          original >= 1 && original < UINT32_MAX))
        return config_refuse(
            weights, key,
            "llama3 RoPE scaling needs 0 < low_freq_factor < high_freq_factor and a context");
    rope->original_context = (uint32_t)original;
    return STATUS_OK;
}

/* rope_theta and rope_scaling at the top (transformers 4), or both in rope_parameters (transformers 5). */
static Status read_rope_hf(const Weights *weights, ModelConfig *config) {
    RopeConfig *rope = &config->rope;
    bool interleaved;
    double partial;
    TRY(config_bool_or(weights, "rope_interleaved", false, &interleaved));
    if (interleaved)
        return config_refuse(weights, "rope_interleaved",
                             "only half-split rotary positions are computed");
    TRY(config_float_or(weights, "partial_rotary_factor", 1.0, &partial));
    TRY(config_float_or(weights, "rope_parameters.partial_rotary_factor", partial, &partial));
    if (partial != 1.0)
        return config_refuse(weights, "partial_rotary_factor", "only whole heads are rotated");
    rope->rotary_dim = config->head_dim;
    TRY(config_float_or(weights, "rope_theta", 10000.0, &rope->theta));
    TRY(config_float_or(weights, "rope_parameters.rope_theta", rope->theta, &rope->theta));
    const char *type;
    TRY(config_string_or(weights, "rope_parameters.rope_type", NULL, &type));
    if (type) return read_rope_scaling_hf(weights, type, "rope_parameters.", rope);
    TRY(config_string_or(weights, "rope_scaling.type", "default", &type));
    TRY(config_string_or(weights, "rope_scaling.rope_type", type, &type));
    return read_rope_scaling_hf(weights, type, "rope_scaling.", rope);
}

/* Layers of one kind only: all full, or all with the window. */
static Status read_window_hf(const Weights *weights, ModelConfig *config) {
    bool is_mistral = !strcmp(config->family->name, "mistral"), use_window;
    TRY(config_bool_or(weights, "use_sliding_window", is_mistral, &use_window));
    if (use_window) TRY(config_u32_or(weights, "sliding_window", 0, &config->window));
    if (use_window && !is_mistral && config->window)
        return config_refuse(weights, "use_sliding_window",
                             "a window on some layers only is not computed");
    const Metadata *types = weights_metadata_find(weights, "layer_types");
    for (size_t i = 0; types && types->type == METADATA_ARRAY && i < types->element_count; i++) {
        size_t bytes;
        const char *type =
            types->element_type == METADATA_STRING ? weights_array_string(types, i, &bytes) : NULL;
        const char *wanted = config->window ? "sliding_attention" : "full_attention";
        if (!type || bytes != strlen(wanted) || memcmp(type, wanted, bytes) != 0)
            return config_refuse(weights, "layer_types",
                                 "layers of different kinds are not computed");
    }
    return STATUS_OK;
}

static Status read_config_hf(const Weights *weights, ModelConfig *config) {
    const ConfigKeys keys = {.prefix = "", .understood = hf_understood, .harmless = hf_harmless};
    TRY(config_check_keys(weights, &keys));
    const char *activation;
    double epsilon;
    TRY(config_u32(weights, "num_hidden_layers", &config->layer_count));
    TRY(config_u32(weights, "hidden_size", &config->hidden_size));
    TRY(config_u32(weights, "intermediate_size", &config->intermediate_size));
    TRY(config_u32(weights, "vocab_size", &config->vocab_count));
    TRY(config_u32(weights, "num_attention_heads", &config->head_count));
    TRY(config_u32_or(weights, "num_key_value_heads", config->head_count, &config->kv_head_count));
    if (config->head_count == 0) return config_refuse(weights, "num_attention_heads", "it is zero");
    TRY(config_u32_or(weights, "head_dim", config->hidden_size / config->head_count,
                      &config->head_dim));
    TRY(config_u32_or(weights, "max_position_embeddings", 2048, &config->context_length));
    TRY(config_float_or(weights, "rms_norm_eps", 1e-6, &epsilon));
    config->norm_epsilon = (float)epsilon;
    TRY(config_bool_or(weights, "tie_word_embeddings", false, &config->tied_embeddings));
    TRY(config_string_or(weights, "hidden_act", "silu", &activation));
    if (strcmp(activation, "silu") != 0)
        return config_refuse(weights, "hidden_act", "only silu is computed");
    TRY(read_rope_hf(weights, config));
    return read_window_hf(weights, config);
}

static const char *const gguf_understood[] = {"context_length",
                                              "embedding_length",
                                              "block_count",
                                              "feed_forward_length",
                                              "attention.head_count",
                                              "attention.head_count_kv",
                                              "attention.layer_norm_rms_epsilon",
                                              "attention.key_length",
                                              "attention.value_length",
                                              "rope.freq_base",
                                              "rope.dimension_count",
                                              "rope.scaling.type",
                                              "rope.scaling.factor",
                                              "vocab_size",
                                              "attention.sliding_window",
                                              NULL};

static const char *const gguf_harmless[] = {"rope.scaling.finetuned",
                                            "rope.scaling.original_context_length", NULL};

static Status read_rope_gguf(const Weights *weights, const char *prefix, ModelConfig *config) {
    RopeConfig *rope = &config->rope;
    char key[TENSOR_NAME_BYTES_MAX];
    const char *type;
    /* llama.cpp's converter permutes q and k of this architecture so that pairs are neighbours */
    rope->interleaved = !strcmp(config->architecture, "llama");
    loader_key(prefix, "rope.dimension_count", key);
    TRY(config_u32_or(weights, key, config->head_dim, &rope->rotary_dim));
    loader_key(prefix, "rope.freq_base", key);
    TRY(config_float_or(weights, key, 10000.0, &rope->theta));
    loader_key(prefix, "rope.scaling.type", key);
    TRY(config_string_or(weights, key, "none", &type));
    bool linear = !strcmp(type, "linear");
    if (!linear && strcmp(type, "none") != 0)
        return config_refuse(weights, key, "only linear RoPE scaling is computed");
    loader_key(prefix, "rope.scaling.factor", key);
    TRY(config_float_or(weights, key, 1.0, &rope->factor));
    if (linear && !(rope->factor > 0))
        return config_refuse(weights, key, "the factor should be above 0");
    rope->scaling = linear ? ROPE_SCALING_LINEAR : ROPE_SCALING_NONE;
    const NamedTensor *factors = weights_find(weights, "rope_freqs.weight");
    if (!factors) return STATUS_OK;
    if (linear || !factors->tensor.quant || strcmp(factors->tensor.quant->name, "f32") != 0 ||
        factors->tensor.shape[0] != rope->rotary_dim / 2 || factors->tensor.dim_count != 1)
        FAIL(TENSOR,
             "%s: tensor rope_freqs.weight should be %u numbers in f32, without linear scaling",
             factors->file, rope->rotary_dim / 2);
    rope->scaling = ROPE_SCALING_TABLE;
    rope->frequency_factors = &factors->tensor;
    return STATUS_OK;
}

static Status read_config_gguf(const Weights *weights, ModelConfig *config) {
    char prefix[TENSOR_NAME_BYTES_MAX], key[TENSOR_NAME_BYTES_MAX];
    double epsilon;
    uint32_t value_dim;
    loader_key(config->architecture, ".", prefix);
    const ConfigKeys keys = {
        .prefix = prefix, .understood = gguf_understood, .harmless = gguf_harmless};
    TRY(config_check_keys(weights, &keys));
    const struct {
        const char *name;
        uint32_t *out;
    } sizes[] = {{"block_count", &config->layer_count},
                 {"embedding_length", &config->hidden_size},
                 {"feed_forward_length", &config->intermediate_size},
                 {"attention.head_count", &config->head_count},
                 {"context_length", &config->context_length}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        loader_key(prefix, sizes[i].name, key);
        TRY(config_u32(weights, key, sizes[i].out));
    }
    loader_key(prefix, "attention.head_count", key);
    if (config->head_count == 0) return config_refuse(weights, key, "it is zero");
    loader_key(prefix, "attention.head_count_kv", key);
    TRY(config_u32_or(weights, key, config->head_count, &config->kv_head_count));
    loader_key(prefix, "attention.key_length", key);
    TRY(config_u32_or(weights, key, config->hidden_size / config->head_count, &config->head_dim));
    loader_key(prefix, "attention.value_length", key);
    TRY(config_u32_or(weights, key, config->head_dim, &value_dim));
    if (value_dim != config->head_dim)
        return config_refuse(weights, key, "keys and values should be of one size");
    loader_key(prefix, "attention.layer_norm_rms_epsilon", key);
    TRY(config_float_or(weights, key, 1e-5, &epsilon));
    config->norm_epsilon = (float)epsilon;
    loader_key(prefix, "attention.sliding_window", key);
    TRY(config_u32_or(weights, key, 0, &config->window));
    const NamedTensor *embedding = weights_find(weights, "token_embd.weight");
    if (!embedding || embedding->tensor.dim_count != 2 || embedding->tensor.shape[0] > UINT32_MAX)
        FAIL(TENSOR, "%s: tensor token_embd.weight is missing or has no two dimensions",
             weights_path(weights));
    config->vocab_count = (uint32_t)embedding->tensor.shape[0];
    config->tied_embeddings = !weights_find(weights, "output.weight");
    return read_rope_gguf(weights, prefix, config);
}

static Status llama_read_config(const Weights *weights, ModelConfig *config) {
    if (weights_naming(weights) == WEIGHTS_NAMING_GGUF)
        TRY(read_config_gguf(weights, config));
    else
        TRY(read_config_hf(weights, config));
    config->embedding_size = config->hidden_size;
    config->qk_norm = !strcmp(config->family->name, "qwen3");
    return STATUS_OK;
}

/* ---- tensors ---- */

typedef struct LlamaNames {
    const char *embedding, *final_norm, *head;
    const char *attention_norm, *q, *k, *v, *attention_out, *q_norm,
        *k_norm; /* "%u" is the layer; without ".weight" */
    const char *mlp_norm, *gate, *up, *down;
    const char *const *ignored; /* buffers that other programs save; ended by NULL */
} LlamaNames;

static const char *const gguf_ignored[] = {"rope_freqs.weight", NULL};
static const char *const hf_ignored[] = {NULL};

static const LlamaNames llama_names[] = {
    [WEIGHTS_NAMING_GGUF] = {.embedding = "token_embd.weight",
                             .final_norm = "output_norm.weight",
                             .head = "output.weight",
                             .attention_norm = "blk.%u.attn_norm",
                             .q = "blk.%u.attn_q",
                             .k = "blk.%u.attn_k",
                             .v = "blk.%u.attn_v",
                             .attention_out = "blk.%u.attn_output",
                             .q_norm = "blk.%u.attn_q_norm",
                             .k_norm = "blk.%u.attn_k_norm",
                             .mlp_norm = "blk.%u.ffn_norm",
                             .gate = "blk.%u.ffn_gate",
                             .up = "blk.%u.ffn_up",
                             .down = "blk.%u.ffn_down",
                             .ignored = gguf_ignored},
    [WEIGHTS_NAMING_HF] = {.embedding = "model.embed_tokens.weight",
                           .final_norm = "model.norm.weight",
                           .head = "lm_head.weight",
                           .attention_norm = "model.layers.%u.input_layernorm",
                           .q = "model.layers.%u.self_attn.q_proj",
                           .k = "model.layers.%u.self_attn.k_proj",
                           .v = "model.layers.%u.self_attn.v_proj",
                           .attention_out = "model.layers.%u.self_attn.o_proj",
                           .q_norm = "model.layers.%u.self_attn.q_norm",
                           .k_norm = "model.layers.%u.self_attn.k_norm",
                           .mlp_norm = "model.layers.%u.post_attention_layernorm",
                           .gate = "model.layers.%u.mlp.gate_proj",
                           .up = "model.layers.%u.mlp.up_proj",
                           .down = "model.layers.%u.mlp.down_proj",
                           .ignored = hf_ignored},
};

typedef struct LlamaBiases {
    LoaderBias qkv, attention_out, mlp;
} LlamaBiases;

/* config.json says which layers have a bias, and transformers computes what it says, not what the file holds. Qwen2 always has
 * them on q, k and v; a GGUF file says it by its tensors. */
static Status read_biases(const Weights *weights, const ModelFamily *family, LlamaBiases *out) {
    bool attention, mlp, is_qwen2 = !strcmp(family->name, "qwen2");
    *out = (LlamaBiases){LOADER_BIAS_AS_FILE, LOADER_BIAS_AS_FILE, LOADER_BIAS_AS_FILE};
    if (weights_naming(weights) == WEIGHTS_NAMING_GGUF) return STATUS_OK;
    TRY(config_bool_or(weights, "attention_bias", false, &attention));
    TRY(config_bool_or(weights, "mlp_bias", false, &mlp));
    if (attention && (is_qwen2 || !strcmp(family->name, "mistral")))
        return config_refuse(weights, "attention_bias", "this family has no such choice");
    if (mlp && strcmp(family->name, "llama") != 0)
        return config_refuse(weights, "mlp_bias", "this family has no such choice");
    out->qkv = attention || is_qwen2 ? LOADER_BIAS_REQUIRED : LOADER_BIAS_NONE;
    out->attention_out = attention ? LOADER_BIAS_REQUIRED : LOADER_BIAS_NONE;
    out->mlp = mlp ? LOADER_BIAS_REQUIRED : LOADER_BIAS_NONE;
    return STATUS_OK;
}

static Status bind_layer(ModelLoader *loader, const LlamaNames *names, const LlamaBiases *biases,
                         uint32_t layer_index, LayerWeights *layer) {
    const ModelConfig *config = loader->config;
    uint32_t hidden = config->hidden_size, dim = config->head_dim;
    Share all_hidden = {0, hidden};
    LoaderLinear q = {.pattern = names->q,
                      .rows = config->head_count * dim,
                      .columns = hidden,
                      .row_share = loader_scale_share(loader->model->share.heads, dim),
                      .column_share = all_hidden,
                      .bias = biases->qkv};
    LoaderLinear k = {.pattern = names->k,
                      .rows = config->kv_head_count * dim,
                      .columns = hidden,
                      .row_share = loader_scale_share(loader->model->share.kv_heads, dim),
                      .column_share = all_hidden,
                      .bias = biases->qkv};
    LoaderLinear v = k;
    v.pattern = names->v;
    LoaderLinear out = {.pattern = names->attention_out,
                        .rows = hidden,
                        .columns = q.rows,
                        .row_share = all_hidden,
                        .column_share = q.row_share,
                        .bias = biases->attention_out};
    LoaderLinear gate = {.pattern = names->gate,
                         .rows = config->intermediate_size,
                         .columns = hidden,
                         .row_share = loader->model->share.mlp_columns,
                         .column_share = all_hidden,
                         .bias = biases->mlp};
    LoaderLinear up = gate;
    up.pattern = names->up;
    LoaderLinear down = {.pattern = names->down,
                         .rows = hidden,
                         .columns = config->intermediate_size,
                         .row_share = all_hidden,
                         .column_share = gate.row_share,
                         .bias = biases->mlp};
    TRY(loader_linear(loader, &q, layer_index, &layer->q, &layer->q_bias));
    TRY(loader_linear(loader, &k, layer_index, &layer->k, &layer->k_bias));
    TRY(loader_linear(loader, &v, layer_index, &layer->v, &layer->v_bias));
    TRY(loader_linear(loader, &out, layer_index, &layer->attention_out,
                      &layer->attention_out_bias));
    TRY(loader_linear(loader, &gate, layer_index, &layer->mlp_gate, &layer->mlp_gate_bias));
    TRY(loader_linear(loader, &up, layer_index, &layer->mlp_up, &layer->mlp_up_bias));
    TRY(loader_linear(loader, &down, layer_index, &layer->mlp_down, &layer->mlp_down_bias));
    TRY(loader_layer_vector(loader, names->attention_norm, ".weight", layer_index, hidden,
                            &layer->attention_norm));
    TRY(loader_layer_vector(loader, names->mlp_norm, ".weight", layer_index, hidden,
                            &layer->mlp_norm));
    if (!config->qk_norm) return STATUS_OK;
    TRY(loader_layer_vector(loader, names->q_norm, ".weight", layer_index, dim, &layer->q_norm));
    return loader_layer_vector(loader, names->k_norm, ".weight", layer_index, dim, &layer->k_norm);
}

static Status llama_bind(ModelLoader *loader, Model *model) {
    const ModelConfig *config = loader->config;
    const LlamaNames *names = &llama_names[weights_naming(loader->weights)];
    for (size_t i = 0; names->ignored[i]; i++)
        loader_ignore(loader, names->ignored[i]);
    uint32_t hidden = config->hidden_size;
    TRY(loader_embedding(loader, names->embedding));
    TRY(loader_vector(loader, names->final_norm, hidden, (Share){0, hidden}, false,
                      &model->final_norm));
    TRY(loader_head(loader, config->tied_embeddings ? names->embedding : names->head));
    if (config->tied_embeddings) loader_ignore(loader, names->head);
    LlamaBiases biases;
    TRY(read_biases(loader->weights, config->family, &biases));
    for (uint32_t i = 0; i < config->layer_count; i++)
        TRY(bind_layer(loader, names, &biases, i, &model->layers[i]));
    return STATUS_OK;
}

/* ---- forward ---- */

static Status llama_embed(Pass *pass) {
    return layers_embed(pass, pass->x);
}

static Status attention(Pass *pass, uint32_t layer_index, const LayerWeights *w) {
    const Model *model = pass->model;
    uint32_t hidden = model->config.hidden_size;
    layers_norm(pass, pass->kernels->rms_norm, (NormWeights){.weight = w->attention_norm}, pass->x,
                pass->normed, pass->batch->row_count);
    MatmulArgs qkv = {.x = pass->normed,
                      .x_stride = hidden,
                      .row_count = pass->batch->row_count,
                      .output_count = 3,
                      .outputs = {{&w->q, w->q_bias, pass->q, w->q.row_count},
                                  {&w->k, w->k_bias, pass->k, w->k.row_count},
                                  {&w->v, w->v_bias, pass->v, w->v.row_count}}};
    layers_matmul(pass, &qkv);
    if (model->config.qk_norm) {
        layers_norm_heads(pass, w->q_norm, pass->q, share_count(model->share.heads));
        layers_norm_heads(pass, w->k_norm, pass->k, share_count(model->share.kv_heads));
    }
    layers_rope(pass);
    TRY(layers_attend(pass, layer_index));
    TRY(layers_project_sum(pass, &w->attention_out, w->attention_out_bias, pass->attention));
    layers_add_residual(pass);
    return STATUS_OK;
}

static Status gated_mlp(Pass *pass, const LayerWeights *w) {
    uint32_t columns = w->mlp_gate.row_count;
    layers_norm(pass, pass->kernels->rms_norm, (NormWeights){.weight = w->mlp_norm}, pass->x,
                pass->normed, pass->batch->row_count);
    MatmulArgs gate_up = {.x = pass->normed,
                          .x_stride = pass->model->config.hidden_size,
                          .row_count = pass->batch->row_count,
                          .output_count = 2,
                          .outputs = {{&w->mlp_gate, w->mlp_gate_bias, pass->gate, columns},
                                      {&w->mlp_up, w->mlp_up_bias, pass->up, columns}}};
    layers_matmul(pass, &gate_up);
    ElementwiseArgs swish = {.a = pass->gate,
                             .b = pass->up,
                             .out = pass->gate,
                             .a_stride = columns,
                             .b_stride = columns,
                             .out_stride = columns,
                             .row_count = pass->batch->row_count,
                             .element_count = columns};
    pass->kernels->silu_multiply(pass->context, &swish);
    TRY(layers_project_sum(pass, &w->mlp_down, w->mlp_down_bias, pass->gate));
    layers_add_residual(pass);
    return STATUS_OK;
}

static Status llama_layer(Pass *pass, uint32_t layer_index) {
    const LayerWeights *w = &pass->model->layers[layer_index];
    TRY(attention(pass, layer_index, w));
    return gated_mlp(pass, w);
}

static Status llama_head(Pass *pass) {
    TRY(layers_gather_head_rows(pass, pass->x, pass->normed));
    layers_norm(pass, pass->kernels->rms_norm, (NormWeights){.weight = pass->model->final_norm},
                pass->normed, pass->normed, pass->head_count);
    layers_head(pass, pass->normed);
    return STATUS_OK;
}

#define LLAMA_FUNCTIONS                                                          \
    .mlp_matrix_count = 3, .read_config = llama_read_config, .bind = llama_bind, \
    .embed = llama_embed, .layer = llama_layer, .head = llama_head

static const char *const llama_gguf[] = {"llama", NULL};
static const char *const llama_hf[] = {"LlamaForCausalLM", NULL};
static const char *const mistral_hf[] = {"MistralForCausalLM", NULL};
static const char *const qwen2_gguf[] = {"qwen2", NULL};
static const char *const qwen2_hf[] = {"Qwen2ForCausalLM", NULL};
static const char *const qwen3_gguf[] = {"qwen3", NULL};
static const char *const qwen3_hf[] = {"Qwen3ForCausalLM", NULL};

extern const ModelFamily model_llama[];
const ModelFamily model_llama[] = {
    {.name = "llama",
     .summary = "Llama 1-3, SmolLM, TinyLlama",
     .gguf_architectures = llama_gguf,
     .hf_architectures = llama_hf,
     LLAMA_FUNCTIONS},
    {.name = "mistral",
     .summary = "Mistral 7B, with its sliding window",
     .hf_architectures = mistral_hf,
     LLAMA_FUNCTIONS},
    {.name = "qwen2",
     .summary = "Qwen2 and Qwen2.5, dense",
     .gguf_architectures = qwen2_gguf,
     .hf_architectures = qwen2_hf,
     LLAMA_FUNCTIONS},
    {.name = "qwen3",
     .summary = "Qwen3, dense",
     .gguf_architectures = qwen3_gguf,
     .hf_architectures = qwen3_hf,
     LLAMA_FUNCTIONS},
    {0},
};
