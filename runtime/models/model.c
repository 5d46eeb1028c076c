#include "runtime/models/model.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/base/bytes.h"
#include "runtime/base/invariant.h"
#include "runtime/models/layer_tiers.h"
#include "runtime/models/model_loader.h"
#include "runtime/models/model_memory.h"
#include "runtime/models/rope_table.h"

#define MODEL(name) extern const ModelFamily model_##name[];
#include "runtime/models/model_rows.h"
#undef MODEL

static const ModelFamily *const family_files[] = {
#define MODEL(name) model_##name,
#include "runtime/models/model_rows.h"
#undef MODEL
    NULL,
};

enum { FAMILIES_MAX = 32 };

static const ModelFamily *families[FAMILIES_MAX + 1];
static pthread_once_t families_once = PTHREAD_ONCE_INIT;

static void collect_families(void) {
    size_t count = 0;
    for (size_t file = 0; family_files[file]; file++)
        for (const ModelFamily *row = family_files[file]; row->name; row++) {
            CHECK(count < FAMILIES_MAX && row->read_config && row->bind && row->embed &&
                  row->layer && row->head);
            families[count++] = row;
        }
}

const ModelFamily *const *model_families(void) {
    pthread_once(&families_once, collect_families);
    return families;
}

/* The name as the family's list holds it, which ends with NUL and lives for ever; NULL when it is not in the list. */
static const char *find_listed(const char *const *names, const char *name, size_t name_bytes) {
    for (size_t i = 0; names && names[i]; i++)
        if (strlen(names[i]) == name_bytes && !memcmp(names[i], name, name_bytes)) return names[i];
    return NULL;
}

/* The name is not ended by NUL in config.json's list. */
static Status read_architecture(const Weights *weights, const char **out, size_t *out_bytes) {
    if (weights_naming(weights) == WEIGHTS_NAMING_GGUF) {
        TRY(config_string_or(weights, "general.architecture", "", out));
        *out_bytes = strlen(*out);
        return STATUS_OK;
    }
    const Metadata *list = weights_metadata_find(weights, "architectures");
    if (!list || list->type != METADATA_ARRAY || list->element_type != METADATA_STRING ||
        list->element_count != 1)
        FAIL(HF_CONFIG, "%s: config.json: architectures should be a list of one name",
             weights_path(weights));
    *out = weights_array_string(list, 0, out_bytes);
    return STATUS_OK;
}

static Status find_family(const Weights *weights, ModelConfig *out) {
    bool gguf = weights_naming(weights) == WEIGHTS_NAMING_GGUF;
    const char *name;
    size_t bytes;
    TRY(read_architecture(weights, &name, &bytes));
    for (const ModelFamily *const *row = model_families(); *row; row++) {
        out->family = *row;
        out->architecture =
            find_listed(gguf ? (*row)->gguf_architectures : (*row)->hf_architectures, name, bytes);
        if (out->architecture) return STATUS_OK;
    }
    FAIL(MODEL_UNSUPPORTED,
         "%s: architecture \"%.*s\" is not supported (see the list in the README)",
         weights_path(weights), (int)(bytes < 100 ? bytes : 100), name);
}

/* Relations that every family needs and that later code divides by. */
static Status check_config(const Weights *weights, const ModelConfig *config) {
    const char *path = weights_path(weights);
    enum { LAYERS_MAX = 1024, HEAD_DIM_MAX = 1024, SIZE_MAX_ = 1 << 24 };
    if (config->layer_count == 0 || config->layer_count > LAYERS_MAX)
        FAIL(MODEL_UNSUPPORTED, "%s: %u layers; 1 to %d are possible", path, config->layer_count,
             LAYERS_MAX);
    if (config->hidden_size == 0 || config->hidden_size > SIZE_MAX_ ||
        config->intermediate_size == 0 || config->intermediate_size > SIZE_MAX_ ||
        config->vocab_count == 0 || config->vocab_count > SIZE_MAX_ || config->context_length == 0)
        FAIL(MODEL_UNSUPPORTED,
             "%s: hidden size %u, MLP size %u, vocabulary %u or context %u is out of range", path,
             config->hidden_size, config->intermediate_size, config->vocab_count,
             config->context_length);
    if (config->kv_head_count == 0 || config->head_count == 0 || config->head_count > UINT16_MAX ||
        config->head_count % config->kv_head_count != 0)
        FAIL(MODEL_UNSUPPORTED, "%s: %u query heads are no multiple of %u KV heads", path,
             config->head_count, config->kv_head_count);
    if (config->head_dim == 0 || config->head_dim > HEAD_DIM_MAX ||
        config->rope.rotary_dim > config->head_dim || config->rope.rotary_dim % 2 != 0)
        FAIL(MODEL_UNSUPPORTED, "%s: head size %u with %u rotary dimensions is not possible", path,
             config->head_dim, config->rope.rotary_dim);
    if (config->rope.rotary_dim > 0 && !(config->rope.theta > 0))
        FAIL(MODEL_UNSUPPORTED, "%s: rope_theta %g should be above 0", path, config->rope.theta);
    if (!(config->norm_epsilon >= 0))
        FAIL(MODEL_UNSUPPORTED, "%s: the norm's epsilon is negative", path);
    return STATUS_OK;
}

Status model_read_config(const Weights *weights, ModelConfig *out) {
    ModelConfig config = {.final_norm = true};
    TRY(find_family(weights, &config));
    TRY(config.family->read_config(weights, &config));
    TRY(check_config(weights, &config));
    *out = config;
    return STATUS_OK;
}

/* MLP columns are cut at quant groups of the matrix that is cut along them. */
static uint32_t column_granule(const Weights *weights) {
    const Quant *type = weights_type(weights);
    uint32_t granule = type && type->group_elements ? 32 : 1;
    for (size_t i = 0; i < weights_tensor_count(weights); i++) {
        const Tensor *tensor = &weights_tensor(weights, i)->tensor;
        if (tensor->quant && tensor->quant->group_elements) granule = 32;
    }
    return granule;
}

static Status split(const Weights *weights, const ModelConfig *config,
                    const ModelLoadOptions *options, RankShare *out) {
    ParallelShape shape = {.head_count = config->head_count,
                           .kv_head_count = config->kv_head_count,
                           .head_dim = config->head_dim,
                           .hidden_size = config->hidden_size,
                           .intermediate_size = config->intermediate_size,
                           .vocab_count = config->vocab_count,
                           .mlp_matrix_count = config->family->mlp_matrix_count,
                           .mlp_column_granule = column_granule(weights)};
    void *memory;
    TRY(memory_take(&memory, (uint64_t)options->rank_count, sizeof(RankShare), "rank shares"));
    RankShare *shares = memory;
    Status status = parallel_split(&shape, options->rank_count, shares);
    if (status == STATUS_OK) *out = shares[options->rank];
    free(shares);
    return status;
}

static Status fill_kv_head_index(ModelLoader *loader) {
    Model *model = loader->model;
    uint32_t group = model->config.head_count / model->config.kv_head_count;
    void *memory;
    TRY(loader_host_memory(loader, share_count(model->share.heads) * sizeof(uint16_t),
                           "KV head map", &memory));
    model->kv_head_index = memory;
    for (uint32_t head = model->share.heads.begin; head < model->share.heads.end; head++)
        model->kv_head_index[head - model->share.heads.begin] =
            (uint16_t)(head / group - model->share.kv_heads.begin);
    return STATUS_OK;
}

static Status fill_rope(ModelLoader *loader) {
    Model *model = loader->model;
    const RopeConfig *rope = &model->config.rope;
    if (rope->rotary_dim == 0) return STATUS_OK;
    uint64_t bytes =
        (uint64_t)loader->options->max_model_len * (rope->rotary_dim / 2) * sizeof(float);
    void *host, *place;
    TRY(model_memory_stage(model->memory, 2 * bytes, "RoPE tables", &host, &place));
    uint64_t count = bytes / sizeof(float);
    model->rope_cosines = place;
    model->rope_sines = model->rope_cosines + count;
    rope_table_fill(rope, loader->options->max_model_len, host, (float *)host + count);
    return model_memory_send(model->memory);
}

static Status load(ModelLoader *loader) {
    Model *model = loader->model;
    if (model->reserved_bytes > 0) TRY(model_memory_reserve(model->memory, model->reserved_bytes));
    TRY(layer_tiers_open(model->tiers, &loader->options->tiers));
    TRY(model->config.family->bind(loader, model));
    TRY(layer_tiers_finish(model->tiers));
    TRY(fill_kv_head_index(loader));
    return fill_rope(loader);
}

Status model_list_tensors(Weights *weights) {
    ModelConfig config;
    TRY(model_read_config(weights, &config));
    const ModelLoadOptions whole = {.rank_count = 1};
    Model model = {.config = config};
    ModelLoader loader = {.phase = LOADER_LIST,
                          .listed = weights,
                          .weights = weights,
                          .config = &config,
                          .options = &whole,
                          .model = &model};
    TRY(split(weights, &config, &whole, &model.share));
    TRY(memory_take((void **)&model.layers, config.layer_count, sizeof(LayerWeights), "layers"));
    Status status = config.family->bind(&loader, &model);
    free(model.layers);
    return status;
}

Status model_load(Model *model, const Weights *weights, const ModelLoadOptions *options) {
    void *taken;
    TRY(memory_take(&taken, weights_tensor_count(weights), sizeof(bool), "tensor marks"));
    ModelLoader loader = {.phase = LOADER_LOAD,
                          .weights = weights,
                          .config = &model->config,
                          .options = options,
                          .model = model,
                          .taken = taken};
    if (options->tiers.drop_sources) weights_read_alone(weights);
    Status status = load(&loader);
    free(taken);
    return status;
}

/* What follows from where the layers lie. */
static void fill_sizes(Model *model, ModelSizes *sizes) {
    layer_tiers_sizes(model->tiers, sizes);
    if (!model->device->host_addressable)
        sizes->device_bytes = model_memory_reserve_bytes(sizes->layer_bytes[TIER_DEVICE] +
                                                         sizes->fixed_bytes + sizes->mapped_bytes);
    model->reserved_bytes = sizes->device_bytes;
}

static Status measure(ModelLoader *loader) {
    Model *model = loader->model;
    const ModelLoadOptions *options = loader->options;
    TRY(split(loader->weights, &model->config, options, &model->share));
    TRY(model_memory_create(&model->memory, options->device, options->context->stream));
    void *layers;
    TRY(loader_host_memory(loader, model->config.layer_count * sizeof(LayerWeights), "layers",
                           &layers));
    model->layers = layers;
    TRY(layer_tiers_create(&model->tiers, &model->config, options->device,
                           options->context->stream));
    TRY(model->config.family->bind(loader, model));
    TRY(loader_check_all_taken(loader));
    uint64_t rope_bytes =
        (uint64_t)options->max_model_len * model->config.rope.rotary_dim * sizeof(float);
    loader->sizes->fixed_bytes += rope_bytes;
    loader_note_staged(loader, rope_bytes);
    TRY(layer_tiers_place(model->tiers, &options->tiers));
    fill_sizes(model, loader->sizes);
    return STATUS_OK;
}

/* sink NULL: nothing is packed. */
static Status look_over(Model *out, const Weights *weights, const ModelConfig *config,
                        const ModelLoadOptions *options, const PackedSink *sink,
                        ModelSizes *out_sizes) {
    void *taken;
    TRY(memory_take(&taken, weights_tensor_count(weights), sizeof(bool), "tensor marks"));
    ModelSizes sizes = {0};
    *out = (Model){.config = *config, .device = options->device};
    ModelLoader loader = {.phase = sink ? LOADER_CONVERT : LOADER_MEASURE,
                          .weights = weights,
                          .config = &out->config,
                          .options = options,
                          .model = out,
                          .taken = taken,
                          .sizes = &sizes,
                          .sink = sink};
    Status status = measure(&loader);
    free(taken);
    if (status == STATUS_OK)
        *out_sizes = sizes;
    else
        model_unload(out);
    return status;
}

Status model_measure(Model *out, const Weights *weights, const ModelConfig *config,
                     const ModelLoadOptions *options, ModelSizes *out_sizes) {
    return look_over(out, weights, config, options, NULL, out_sizes);
}

Status model_pack_layers(const Weights *weights, const ModelConfig *config,
                         const ModelLoadOptions *options, const PackedSink *sink) {
    Model model;
    ModelSizes sizes;
    if (options->tiers.drop_sources) weights_read_alone(weights);
    TRY(look_over(&model, weights, config, options, sink, &sizes));
    model_unload(&model);
    return STATUS_OK;
}

void model_try_share(Model *model, double per_cent, ModelSizes *sizes) {
    layer_tiers_try(model->tiers, per_cent);
    fill_sizes(model, sizes);
}

void model_unload(Model *model) {
    layer_tiers_destroy(model->tiers);
    model_memory_destroy(model->memory);
    *model = (Model){0};
}

Status model_layer_acquire(const Model *model, uint32_t layer) {
    return layer_tiers_acquire(model->tiers, layer);
}

Status model_layer_release(const Model *model) {
    return layer_tiers_release(model->tiers);
}

void model_expect_layers(const Model *model, const uint32_t *layers, uint32_t layer_count,
                         uint32_t then) {
    layer_tiers_expect(model->tiers, layers, layer_count, then);
}

WeightStream *model_weight_stream(const Model *model) {
    return layer_tiers_stream(model->tiers);
}

uint64_t model_sent_bytes(const Model *model) {
    return layer_tiers_sent_bytes(model->tiers);
}
