#include "runtime/models/model_loader.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/matrix_source.h"
#include "runtime/base/arena.h"
#include "runtime/base/bytes.h"
#include "runtime/base/invariant.h"
#include "runtime/models/layer_tiers.h"
#include "runtime/models/model_memory.h"

void loader_layer_name(const char *pattern, uint32_t layer_index, char out[TENSOR_NAME_BYTES_MAX]) {
    const char *hole = strstr(pattern, "%u");
    CHECK(hole);
    snprintf(out, TENSOR_NAME_BYTES_MAX, "%.*s%u%s", (int)(hole - pattern), pattern, layer_index,
             hole + 2);
}

const NamedTensor *loader_find(ModelLoader *loader, const char *name) {
    static const char *const no_prefix[] = {"", NULL};
    const char *const *prefixes = loader->prefixes ? loader->prefixes : no_prefix;
    for (size_t i = 0; prefixes[i]; i++) {
        char full[TENSOR_NAME_BYTES_MAX];
        snprintf(full, sizeof full, "%s%s", prefixes[i], name);
        const NamedTensor *found = weights_find(loader->weights, full);
        if (!found) continue;
        loader->taken[found - weights_tensor(loader->weights, 0)] = true;
        return found;
    }
    return NULL;
}

void loader_ignore(ModelLoader *loader, const char *name) {
    if (loader->phase == LOADER_LIST) return;
    (void)loader_find(loader, name);
}

static Status loader_missing(const ModelLoader *loader, const char *name) {
    FAIL(TENSOR, "%s: tensor %s is missing", weights_path(loader->weights), name);
}

/* With the first prefix, for that is how models are saved. A tied table is asked for twice. */
static Status list_tensor(ModelLoader *loader, const char *name, uint64_t rows, uint64_t columns) {
    char full[TENSOR_NAME_BYTES_MAX];
    loader_key(loader->prefixes ? loader->prefixes[0] : "", name, full);
    for (size_t i = 0; i < weights_tensor_count(loader->listed); i++)
        if (!strcmp(weights_tensor(loader->listed, i)->name, full)) return STATUS_OK;
    return weights_add_random(loader->listed, full, rows, columns);
}

Status loader_tensor(ModelLoader *loader, const char *name, uint64_t rows, uint64_t columns,
                     Tensor *out) {
    *out = (Tensor){0};
    if (loader->phase == LOADER_LIST) return list_tensor(loader, name, rows, columns);
    const NamedTensor *found = loader_find(loader, name);
    if (!found) return loader_missing(loader, name);
    const Tensor *tensor = &found->tensor;
    if (!tensor->quant)
        FAIL(TENSOR,
             "%s: tensor %s is of type %s, which is not supported; convert it to q8_0 or q4_k",
             found->file, name, found->type_name);
    if (tensor->dim_count != 2 || tensor->shape[0] != rows || tensor->shape[1] != columns)
        FAIL(TENSOR, "%s: tensor %s has shape [%llu, %llu] in %u dimensions, expected [%llu, %llu]",
             found->file, name, (unsigned long long)tensor->shape[0],
             (unsigned long long)tensor->shape[1], tensor->dim_count, (unsigned long long)rows,
             (unsigned long long)columns);
    *out = *tensor;
    return STATUS_OK;
}

void loader_note_staged(ModelLoader *loader, uint64_t bytes) {
    bool passes = !loader->options->device->host_addressable;
    if (passes && bytes > loader->sizes->staged_bytes) loader->sizes->staged_bytes = bytes;
}

static void begin_part(const ModelLoader *loader, const char *name) {
    const ModelLoadOptions *options = loader->options;
    if (options->begin_part) options->begin_part(options->begin_part_user, name);
}

/* Around what reads a tensor of a file: what was copied, or packed, is not read again. */
static void begin_reading(const ModelLoader *loader, const Tensor *tensor) {
    if (loader->options->tiers.drop_sources) weights_expect(loader->weights, tensor);
}

static void end_reading(const ModelLoader *loader, const Tensor *tensor) {
    if (loader->options->tiers.drop_sources) weights_forget(loader->weights, tensor);
}

Status loader_embedding(ModelLoader *loader, const char *name) {
    const ModelConfig *config = loader->config;
    Share rows = loader->model->share.vocab_rows;
    Tensor table;
    TRY(loader_tensor(loader, name, config->vocab_count, config->embedding_size, &table));
    if (loader->phase == LOADER_LIST) return STATUS_OK;
    uint64_t row_bytes = table.bytes / config->vocab_count;
    table.data = (const uint8_t *)table.data + rows.begin * row_bytes;
    table.shape[0] = share_count(rows);
    table.bytes = share_count(rows) * row_bytes;
    loader->model->token_embedding = table;
    if (loader->phase != LOADER_LOAD) {
        loader->sizes->mapped_bytes += table.bytes;
        loader_note_staged(loader, 2 * table.bytes); /* its pages, and the copy */
        return STATUS_OK;
    }
    if (loader->options->device->host_addressable) return STATUS_OK; /* read from the file */
    void *host, *place;
    begin_part(loader, name);
    TRY(model_memory_stage(loader->model->memory, table.bytes, name, &host, &place));
    begin_reading(loader, &table);
    memcpy(host, table.data, table.bytes);
    end_reading(loader, &table);
    loader->model->token_embedding.data = place;
    return model_memory_send(loader->model->memory);
}

Status loader_host_memory(ModelLoader *loader, uint64_t bytes, const char *what, void **out) {
    return model_memory_take(loader->model->memory, MEMORY_HOST, bytes, what, out);
}

static MatrixSource source_of(const Tensor *tensor, const LoaderSlice *slice) {
    return (MatrixSource){.tensor = *tensor,
                          .row_begin = slice->row_share.begin,
                          .row_end = slice->row_share.end,
                          .column_begin = slice->column_share.begin,
                          .column_end = slice->column_share.end};
}

static void note_source(ModelLoader *loader, uint64_t bytes) {
    if (bytes > loader->sizes->source_bytes) loader->sizes->source_bytes = bytes;
}

static void pack(ModelLoader *loader, const MatrixSource *source, void *memory, Matrix *out) {
    loader->options->kernels->matrix_pack(loader->options->context, source, memory, out);
    loader->model->weight_bytes += out->bytes;
}

Status loader_matrix(ModelLoader *loader, const char *name, const LoaderSlice *slice, Matrix *out) {
    Tensor tensor;
    TRY(loader_tensor(loader, name, slice->rows, slice->columns, &tensor));
    if (loader->phase == LOADER_LIST) return STATUS_OK;
    MatrixSource source = source_of(&tensor, slice);
    uint64_t bytes = loader->options->kernels->matrix_bytes(&source);
    if (loader->phase != LOADER_LOAD) {
        note_source(loader, tensor.bytes);
        loader->sizes->fixed_bytes += bytes;
        return STATUS_OK;
    }
    void *memory;
    begin_part(loader, name);
    TRY(model_memory_take(loader->model->memory, MEMORY_DEVICE, bytes, name, &memory));
    begin_reading(loader, &tensor);
    pack(loader, &source, memory, out);
    end_reading(loader, &tensor);
    return STATUS_OK;
}

/* A layer's matrix in its file, and what it is packed from: the same, or its numbers in another format. */
typedef struct LayerMatrix {
    const NamedTensor *named;
    MatrixSource source; /* tensor.data NULL: still to be encoded */
} LayerMatrix;

/* The rows of this rank in memory of their own. */
static Status encode(const ModelLoader *loader, const LayerMatrix *matrix, MatrixSource *out,
                     void **out_blocks) {
    const MatrixSource *source = &matrix->source;
    MatrixSource floats = *source, encoded = *source;
    uint64_t rows = source->row_end - source->row_begin, wrong_row;
    uint64_t row_bytes = source->tensor.bytes / source->tensor.shape[0];
    void *blocks;
    floats.tensor = matrix->named->tensor;
    TRY(memory_take(&blocks, rows, row_bytes, matrix->named->name));
    if (!matrix_source_encode(loader->options->context->team, &floats, source->tensor.quant, blocks,
                              &wrong_row)) {
        free(blocks);
        FAIL(TENSOR,
             "%s: row %llu of tensor %s holds a number that is not finite or too large for "
             "--weight-type %s",
             matrix->named->file, (unsigned long long)(source->row_begin + wrong_row),
             matrix->named->name, source->tensor.quant->name);
    }
    encoded.tensor.data = blocks;
    encoded.tensor.shape[0] = rows;
    encoded.tensor.bytes = rows * row_bytes;
    encoded.row_begin = 0;
    encoded.row_end = rows;
    *out = encoded;
    *out_blocks = blocks;
    return STATUS_OK;
}

static Status pack_layer_matrix(ModelLoader *loader, const LayerMatrix *matrix, void *memory,
                                Matrix *out) {
    MatrixSource source = matrix->source;
    void *blocks = NULL;
    begin_reading(loader, &matrix->named->tensor);
    if (!source.tensor.data) TRY(encode(loader, matrix, &source, &blocks));
    pack(loader, &source, memory, out);
    free(blocks);
    end_reading(loader, &matrix->named->tensor);
    return STATUS_OK;
}

/* Packed into memory of its own, which a device can write too, for the sink. */
static Status convert(ModelLoader *loader, const LayerMatrix *layer_matrix, uint32_t layer_index,
                      uint64_t bytes) {
    const NamedTensor *named = layer_matrix->named;
    const PackedEntry entry = {.rank = (uint32_t)loader->options->rank,
                               .layer = layer_index,
                               .bytes = bytes,
                               .name_hash = packed_name_hash(named->name),
                               .sample = packed_sample(&named->tensor)};
    Device *device = loader->options->device;
    void *memory;
    Matrix matrix;
    TRY(device->memory_take(device, MEMORY_HOST, bytes, named->name, &memory));
    Status status = pack_layer_matrix(loader, layer_matrix, memory, &matrix);
    Status arrived = device->stream_wait(device, loader->options->context->stream);
    if (status == STATUS_OK) status = arrived;
    if (status == STATUS_OK) status = loader->sink->add(loader->sink->user, &entry, memory);
    device->memory_give(device, MEMORY_HOST, memory, bytes);
    return status;
}

static Status measure_layer_matrix(ModelLoader *loader, const LayerMatrix *matrix,
                                   uint32_t layer_index, uint64_t bytes, Matrix *out) {
    const Tensor *tensor = &matrix->named->tensor, *encoded = &matrix->source.tensor;
    note_source(loader, tensor->bytes + (encoded->data ? 0 : encoded->bytes));
    if (loader->options->tiers.packed) loader_note_staged(loader, bytes);
    if (loader->phase == LOADER_CONVERT) TRY(convert(loader, matrix, layer_index, bytes));
    return layer_tiers_add(loader->model->tiers, matrix->named->name, layer_index, bytes, out);
}

/* The bytes of a matrix that stays on the device, or in host memory. */
static Status read_packed(ModelLoader *loader, const char *name, LayerPlace *place) {
    const PackedFile *file = loader->options->tiers.packed;
    ModelMemory *memory = loader->model->memory;
    void *host = place->memory;
    bool stays = place->tier == TIER_DEVICE;
    if (stays)
        TRY(model_memory_stage(memory, place->packed->entry.bytes, name, &host, &place->memory));
    if (host) TRY(packed_file_read(file, place->packed, name, host));
    return stays ? model_memory_send(memory) : STATUS_OK;
}

/* Nothing is packed: the bytes are those of the file, now or, where the matrix streams, later. */
static Status unpack(ModelLoader *loader, const LayerMatrix *matrix, LayerPlace *place,
                     Matrix *out) {
    const PackedFile *file = loader->options->tiers.packed;
    const char *name = matrix->named->name;
    if (packed_sample(&matrix->named->tensor) != place->packed->entry.sample)
        FAIL(PACKED_WEIGHTS,
             "\"%s\" was made of another model: its tensor %s has other numbers than \"%s\"; "
             "convert "
             "this one",
             file->path, name, weights_path(loader->weights));
    TRY(read_packed(loader, name, place));
    loader->options->kernels->matrix_describe(&matrix->source, out);
    out->data = place->memory;
    loader->model->weight_bytes += out->bytes;
    return STATUS_OK;
}

/* One of a layer's matrices, which may lie in any tier. */
static Status layer_matrix(ModelLoader *loader, const char *name, uint32_t layer_index,
                           const LoaderSlice *slice, Matrix *out) {
    Tensor tensor;
    LayerPlace place;
    TRY(loader_tensor(loader, name, slice->rows, slice->columns, &tensor));
    if (loader->phase == LOADER_LIST) return STATUS_OK;
    LayerMatrix matrix = {.named = loader_find(loader, name), .source = source_of(&tensor, slice)};
    CHECK(matrix.named);
    TRY(weights_layer_matrix(loader->weights, matrix.named, &matrix.source.tensor));
    uint64_t bytes = loader->options->kernels->matrix_bytes(&matrix.source);
    if (loader->phase != LOADER_LOAD)
        return measure_layer_matrix(loader, &matrix, layer_index, bytes, out);
    begin_part(loader, name);
    TRY(layer_tiers_next(loader->model->tiers, bytes, &place));
    if (place.packed) return unpack(loader, &matrix, &place, out);
    if (place.tier == TIER_DEVICE)
        TRY(model_memory_take(loader->model->memory, MEMORY_DEVICE, bytes, name, &place.memory));
    return pack_layer_matrix(loader, &matrix, place.memory, out);
}

static Status decode(ModelLoader *loader, const char *name, const Tensor *tensor, uint64_t count,
                     const float **out) {
    void *host, *place;
    if (loader->phase != LOADER_LOAD) {
        loader->sizes->fixed_bytes += count * sizeof(float);
        loader_note_staged(loader, tensor->bytes + count * sizeof(float));
        return STATUS_OK;
    }
    begin_part(loader, name);
    TRY(model_memory_stage(loader->model->memory, count * sizeof(float), name, &host, &place));
    begin_reading(loader, tensor);
    tensor->quant->dequantise(tensor->data, count, host);
    end_reading(loader, tensor);
    *out = place;
    return model_memory_send(loader->model->memory);
}

Status loader_vector(ModelLoader *loader, const char *name, uint32_t count, Share share,
                     bool optional, const float **out) {
    *out = NULL;
    if (loader->phase == LOADER_LIST)
        return optional ? STATUS_OK : list_tensor(loader, name, count, 0);
    const NamedTensor *found = loader_find(loader, name);
    if (!found) return optional ? STATUS_OK : loader_missing(loader, name);
    const Tensor *tensor = &found->tensor;
    if (!tensor->quant || count % tensor->quant->block_elements != 0 || tensor->dim_count != 1 ||
        tensor->shape[0] != count)
        FAIL(TENSOR, "%s: tensor %s should be %u numbers in one dimension", found->file, name,
             count);
    const float *whole = NULL;
    TRY(decode(loader, name, tensor, count, &whole));
    *out = whole ? whole + share.begin : NULL;
    return STATUS_OK;
}

Status loader_table(ModelLoader *loader, const char *name, uint64_t rows, uint64_t columns,
                    const float **out) {
    Tensor tensor;
    *out = NULL;
    TRY(loader_tensor(loader, name, rows, columns, &tensor));
    if (loader->phase == LOADER_LIST) return STATUS_OK;
    return decode(loader, name, &tensor, rows * columns, out);
}

Share loader_scale_share(Share share, uint32_t factor) {
    return (Share){share.begin * factor, share.end * factor};
}

void loader_key(const char *prefix, const char *name, char out[TENSOR_NAME_BYTES_MAX]) {
    snprintf(out, TENSOR_NAME_BYTES_MAX, "%s%s", prefix, name);
}

static void layer_key(const char *pattern, const char *suffix, uint32_t layer_index,
                      char out[TENSOR_NAME_BYTES_MAX]) {
    char name[TENSOR_NAME_BYTES_MAX];
    loader_layer_name(pattern, layer_index, name);
    snprintf(out, TENSOR_NAME_BYTES_MAX, "%.200s%s", name, suffix);
}

Status loader_linear(ModelLoader *loader, const LoaderLinear *linear, uint32_t layer_index,
                     Matrix *out, const float **out_bias) {
    char name[TENSOR_NAME_BYTES_MAX];
    LoaderSlice slice = {linear->rows, linear->columns, linear->row_share, linear->column_share};
    layer_key(linear->pattern, ".weight", layer_index, name);
    TRY(layer_matrix(loader, name, layer_index, &slice, out));
    *out_bias = NULL;
    if (linear->bias == LOADER_BIAS_NONE) return STATUS_OK;
    layer_key(linear->pattern, ".bias", layer_index, name);
    TRY(loader_vector(loader, name, linear->rows, linear->row_share,
                      linear->bias != LOADER_BIAS_REQUIRED, out_bias));
    bool columns_shared = share_count(linear->column_share) < linear->columns;
    if (columns_shared && loader->options->rank > 0) *out_bias = NULL;
    return STATUS_OK;
}

Status loader_head(ModelLoader *loader, const char *name) {
    const ModelConfig *config = loader->config;
    LoaderSlice slice = {config->vocab_count,
                         config->embedding_size,
                         loader->model->share.vocab_rows,
                         {0, config->embedding_size}};
    return loader_matrix(loader, name, &slice, &loader->model->head);
}

Status loader_layer_vector(ModelLoader *loader, const char *pattern, const char *suffix,
                           uint32_t layer_index, uint32_t count, const float **out) {
    char name[TENSOR_NAME_BYTES_MAX];
    layer_key(pattern, suffix, layer_index, name);
    return loader_vector(loader, name, count, (Share){0, count}, false, out);
}

Status loader_check_all_taken(const ModelLoader *loader) {
    size_t count = weights_tensor_count(loader->weights);
    for (size_t i = 0; i < count; i++) {
        const NamedTensor *tensor = weights_tensor(loader->weights, i);
        if (!loader->taken[i])
            FAIL(MODEL_UNSUPPORTED,
                 "%s: tensor %s is not part of a %s model as it is computed here; refusing to "
                 "leave it out",
                 tensor->file, tensor->name, loader->config->architecture);
    }
    return STATUS_OK;
}

static bool key_matches(const char *pattern, const char *key) {
    size_t length = strlen(pattern);
    if (length >= 2 && !strcmp(pattern + length - 2, ".*"))
        return !strncmp(pattern, key, length - 1);
    return !strcmp(pattern, key);
}

static bool key_listed(const char *const *list, const char *key) {
    for (size_t i = 0; list[i]; i++)
        if (key_matches(list[i], key)) return true;
    return false;
}

Status config_check_keys(const Weights *weights, const ConfigKeys *keys) {
    size_t prefix_length = strlen(keys->prefix);
    for (size_t i = 0; i < weights_metadata_count(weights); i++) {
        const Metadata *metadata = weights_metadata(weights, i);
        if (strncmp(metadata->key, keys->prefix, prefix_length) != 0 ||
            metadata->type == METADATA_NULL)
            continue;
        const char *key = metadata->key + prefix_length;
        if (!key_listed(keys->understood, key) && !key_listed(keys->harmless, key))
            return config_refuse(weights, metadata->key,
                                 "this key is not known and may change the arithmetic");
    }
    return STATUS_OK;
}

Status config_refuse(const Weights *weights, const char *key, const char *reason) {
    FAIL(MODEL_UNSUPPORTED, "%s: config key %s: %s", weights_path(weights), key, reason);
}

static Status required(const Weights *weights, const char *key, Status status) {
    if (status != STATUS_NOT_FOUND) return status;
    if (weights_naming(weights) == WEIGHTS_NAMING_GGUF)
        FAIL(GGUF, "%s: key %s is missing", weights_path(weights), key);
    FAIL(HF_CONFIG, "%s: config.json lacks %s", weights_path(weights), key);
}

static bool is_absent(const Weights *weights, const char *key) {
    const Metadata *metadata = weights_metadata_find(weights, key);
    return !metadata || metadata->type == METADATA_NULL;
}

Status config_u32(const Weights *weights, const char *key, uint32_t *out) {
    return required(weights, key,
                    is_absent(weights, key) ? STATUS_NOT_FOUND
                                            : weights_read_u32(weights, key, out));
}

Status config_u32_or(const Weights *weights, const char *key, uint32_t fallback, uint32_t *out) {
    *out = fallback;
    return is_absent(weights, key) ? STATUS_OK : weights_read_u32(weights, key, out);
}

Status config_float_or(const Weights *weights, const char *key, double fallback, double *out) {
    *out = fallback;
    return is_absent(weights, key) ? STATUS_OK : weights_read_float(weights, key, out);
}

Status config_bool_or(const Weights *weights, const char *key, bool fallback, bool *out) {
    *out = fallback;
    return is_absent(weights, key) ? STATUS_OK : weights_read_bool(weights, key, out);
}

Status config_string_or(const Weights *weights, const char *key, const char *fallback,
                        const char **out) {
    *out = fallback;
    return is_absent(weights, key) ? STATUS_OK : weights_read_string(weights, key, out);
}
