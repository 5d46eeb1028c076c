#ifndef RUNTIME_MODELS_MODEL_LOADER_H
#define RUNTIME_MODELS_MODEL_LOADER_H

/* How a family takes its tensors: by name and expected shape, this rank's slice, packed or decoded. Remembers what was
 * taken, so that a tensor that nobody asked for (and that would change the result) is refused by name.
 * Start-up only; one thread. */

#include "runtime/models/model.h"

SPILLWAY_EXTERN_C_BEGIN

/* What a bind is for. */
typedef enum LoaderPhase {
    LOADER_LOAD,    /* tensors are taken and packed */
    LOADER_MEASURE, /* they are looked for and checked, and sizes added up */
    LOADER_CONVERT, /* the same, and matrices of layers are packed one by one and handed to the sink */
    LOADER_LIST, /* nothing is there yet: names and shapes are added to the weights (model_list_tensors) */
} LoaderPhase;

typedef struct ModelLoader {
    LoaderPhase phase;
    Weights *listed; /* LOADER_LIST: where tensors are added */
    const Weights *weights;
    const ModelConfig *config;
    const ModelLoadOptions *options;
    Model *model;
    const char *const *prefixes; /* tried in order before every name; ended by NULL; NULL: none */
    bool *taken;                 /* [tensor count] */
    ModelSizes *sizes;           /* LOADER_MEASURE, LOADER_CONVERT */
    const PackedSink *sink;      /* LOADER_CONVERT */
} ModelLoader;

enum { TENSOR_NAME_BYTES_MAX = 256 };

/* Name of a tensor of layer `layer_index`: `pattern` with "%u" replaced. */
void loader_layer_name(const char *pattern, uint32_t layer_index, char out[TENSOR_NAME_BYTES_MAX]);

/* NULL when absent. */
const NamedTensor *loader_find(ModelLoader *loader, const char *name);

/* A [rows][columns] tensor as it lies in the file. */
Status loader_tensor(ModelLoader *loader, const char *name, uint64_t rows, uint64_t columns,
                     Tensor *out);

/* The embedding table [vocab][embedding_size] as it lies in the file, cut to this rank's rows. */
Status loader_embedding(ModelLoader *loader, const char *name);

typedef struct LoaderSlice {
    uint64_t rows, columns; /* of the whole tensor */
    Share row_share;        /* {0, rows} for all */
    Share column_share;
} LoaderSlice;

Status loader_matrix(ModelLoader *loader, const char *name, const LoaderSlice *slice, Matrix *out);

typedef enum LoaderBias {
    LOADER_BIAS_AS_FILE,  /* taken where the file has one */
    LOADER_BIAS_REQUIRED, /* E-TENSOR without it */
    LOADER_BIAS_NONE, /* never looked for; one in the file is then refused as a tensor nobody took */
} LoaderBias;

/* A linear layer of layer `layer_index`: pattern + ".weight", and pattern + ".bias". */
typedef struct LoaderLinear {
    const char *pattern; /* "blk.%u.attn_q" */
    uint32_t rows, columns;
    Share row_share, column_share;
    LoaderBias bias;
} LoaderLinear;

/* *out_bias is this rank's part; NULL where there is none, and on ranks > 0 where the columns are shared out (the sum over
 * ranks then has it once). */
Status loader_linear(ModelLoader *loader, const LoaderLinear *linear, uint32_t layer_index,
                     Matrix *out, const float **out_bias);

/* The output head from the tensor `name` [vocab][embedding]: this rank's vocabulary rows. */
Status loader_head(ModelLoader *loader, const char *name);

/* Required f32 vector pattern + suffix of a layer, whole. */
Status loader_layer_vector(ModelLoader *loader, const char *pattern, const char *suffix,
                           uint32_t layer_index, uint32_t count, const float **out);

Share loader_scale_share(Share share, uint32_t factor); /* heads → rows of their projection */

/* out = prefix followed by name, both shorter than half of it */
void loader_key(const char *prefix, const char *name, char out[TENSOR_NAME_BYTES_MAX]);

/* `count` numbers of which [share) are kept, as f32. Missing: E-TENSOR, or *out = NULL where optional. */
Status loader_vector(ModelLoader *loader, const char *name, uint32_t count, Share share,
                     bool optional, const float **out);

/* A small whole [rows][columns] table as f32. */
Status loader_table(ModelLoader *loader, const char *name, uint64_t rows, uint64_t columns,
                    const float **out);

/* A tensor that may be there and is not needed (buffers that other programs save). */
void loader_ignore(ModelLoader *loader, const char *name);

/* E-MODEL-UNSUPPORTED naming a tensor that was neither taken nor ignored. */
Status loader_check_all_taken(const ModelLoader *loader);

/* Memory that the host reads and model_unload gives back; 64-byte aligned. */
Status loader_host_memory(ModelLoader *loader, uint64_t bytes, const char *what, void **out);

/* While it measures: so much will lie in host memory at a time on its way to the device, if that is out of the host's reach. */
void loader_note_staged(ModelLoader *loader, uint64_t bytes);

/* Config keys. A family lists every key it understands; any other key under `prefix` ("" for config.json) that stands
 * in `harmless` nor is understood is refused by name, because it might change the arithmetic. */
typedef struct ConfigKeys {
    const char *prefix;
    const char *const *understood; /* ended by NULL; "x.*" covers all keys that begin with "x." */
    const char *const *harmless;
} ConfigKeys;

Status config_check_keys(const Weights *weights, const ConfigKeys *keys);

/* Required and optional reads; E-HF-CONFIG or E-GGUF names file and key. `fallback` is taken when the key is absent or null. */
Status config_u32(const Weights *weights, const char *key, uint32_t *out);
Status config_u32_or(const Weights *weights, const char *key, uint32_t fallback, uint32_t *out);
Status config_float_or(const Weights *weights, const char *key, double fallback, double *out);
Status config_bool_or(const Weights *weights, const char *key, bool fallback, bool *out);
Status config_string_or(const Weights *weights, const char *key, const char *fallback,
                        const char **out);

/* E-MODEL-UNSUPPORTED: `key` has a value that this program does not compute. */
Status config_refuse(const Weights *weights, const char *key, const char *reason);

SPILLWAY_EXTERN_C_END

#endif
