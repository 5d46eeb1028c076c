#ifndef RUNTIME_MODELS_MODEL_H
#define RUNTIME_MODELS_MODEL_H

/* Model families: what a config means, which tensors a layer has, and what a layer computes. A family is one file and one
 * word in models/meson.build; a file exports rows `const ModelFamily model_<file>[]`, ended by a row without a name.
 *
 * A Model is this rank's share of the weights, packed for the backend and immutable after model_load. Numbers are in device
 * memory; records, and kv_head_index, in the host's. */

#include <stdint.h>

#include "kernels/kernels.h"
#include "runtime/comm/parallel.h"
#include "runtime/weights/weight_stream.h"
#include "runtime/weights/weights.h"

SPILLWAY_EXTERN_C_BEGIN

typedef enum RopeScaling {
    ROPE_SCALING_NONE,
    ROPE_SCALING_LINEAR,
    ROPE_SCALING_LLAMA3,
    ROPE_SCALING_TABLE
} RopeScaling;

typedef struct RopeConfig {
    uint32_t rotary_dim; /* 0: no rotary positions */
    bool interleaved;    /* pairs (2i, 2i+1): GGUF llama; else halves */
    double theta;
    RopeScaling scaling;
    double factor;                            /* linear, llama3 */
    double low_freq_factor, high_freq_factor; /* llama3 */
    uint32_t original_context;                /* llama3 */
    const Tensor *
        frequency_factors; /* table: GGUF rope_freqs.weight, f32 [rotary_dim / 2] divides the frequency */
} RopeConfig;

typedef struct ModelConfig {
    const struct ModelFamily *family;
    const char *architecture; /* as the file says */
    uint32_t layer_count;
    uint32_t hidden_size;
    uint32_t intermediate_size;
    uint32_t vocab_count;
    uint32_t head_count, kv_head_count, head_dim;
    uint32_t context_length;
    float norm_epsilon;
    RopeConfig rope;
    uint32_t window; /* sliding window of every layer; 0: none */
    bool tied_embeddings;
    bool qk_norm;   /* rms norm of each head of q and k before RoPE (Qwen3) */
    bool post_norm; /* OPT-350m: norms after the residual additions, none at the end */
    bool final_norm;
    uint32_t embedding_size;  /* OPT-350m: width of the embedding table; else hidden_size */
    uint32_t position_offset; /* OPT: row of the position table for position 0 */
} ModelConfig;

/* Reads and checks config; E-MODEL-UNSUPPORTED names a key that changes the arithmetic and is not supported. */
Status model_read_config(const Weights *weights, ModelConfig *out);

/* One layer of one rank; members that a family lacks have data NULL. Biases of row-parallel products (attention_out, mlp_down) are
 * held by rank 0 alone, so that the reduced sum has them once. Vectors are f32. */
typedef struct LayerWeights {
    Matrix q, k,
        v; /* [heads * head_dim][hidden], [kv_heads * head_dim][hidden]: this rank's heads */
    Matrix attention_out;    /* [hidden][heads * head_dim] */
    Matrix mlp_gate, mlp_up; /* [mlp columns][hidden]; OPT has up only */
    Matrix mlp_down;         /* [hidden][mlp columns] */
    const float *q_bias, *k_bias, *v_bias, *attention_out_bias;
    const float *mlp_gate_bias, *mlp_up_bias, *mlp_down_bias;
    const float *attention_norm, *attention_norm_bias; /* [hidden] */
    const float *mlp_norm, *mlp_norm_bias;             /* [hidden] */
    const float *q_norm, *k_norm;                      /* [head_dim] */
} LayerWeights;

typedef struct Model {
    ModelConfig config;
    RankShare share;      /* what this rank holds */
    LayerWeights *layers; /* [layer_count] */
    Tensor
        token_embedding; /* this rank's rows [vocab_rows][embedding_size], as in the file; mapped, or on the device */
    const float *position_embedding; /* OPT: f32 [positions][hidden]; NULL: none */
    uint32_t position_count;
    Matrix project_in, project_out; /* OPT-350m, whole on every rank */
    const float *final_norm, *final_norm_bias;
    Matrix head;                      /* [this rank's vocabulary rows][embedding_size] */
    uint16_t *kv_head_index;          /* [heads of this rank] into this rank's KV heads */
    float *rope_cosines, *rope_sines; /* [rope_positions][rotary_dim / 2] */
    uint64_t weight_bytes;            /* packed */
    uint64_t reserved_bytes;          /* private: ModelSizes.device_bytes */
    Device *device;
    struct ModelMemory *memory; /* private: what model_unload gives back */
    struct LayerTiers *tiers;   /* private: where the layers' matrices lie */
} Model;

/* Where the packed matrices of the layers may lie. All bytes 0: on the device. */
typedef struct WeightTierOptions {
    uint64_t bytes[TIER_COUNT];
    double per_cent[TIER_COUNT];    /* of all of them, in place of bytes; 0: bytes */
    const char *const *directories; /* [directory_count] of streamed ones */
    uint32_t directory_count;
    const char *io_engine;
    uint32_t io_depth;
    uint32_t local_rings;
    double io_timeout_seconds;
    bool silent;
    const PackedFile *packed; /* the matrices, packed before; NULL: none */
    uint32_t packed_rank;     /* whose they are in it */
    bool drop_sources;        /* what was packed leaves memory and page cache at once */
    IoFaultPlan *faults;
} WeightTierOptions;

/* What a model will take, in bytes of this rank. */
typedef struct ModelSizes {
    uint64_t layer_bytes[TIER_COUNT]; /* packed matrices of the layers */
    uint64_t frame_bytes;             /* host memory that what lies in files comes by in */
    uint64_t
        device_frame_bytes; /* device memory, where the host cannot address it, of all that comes by */
    uint64_t fixed_bytes; /* all else that is packed or decoded, RoPE tables */
    uint64_t
        source_bytes; /* of the largest matrix in its file: it passes through while it is packed */
    uint64_t
        mapped_bytes; /* the embedding: read where the file is mapped, or copied to the device */
    uint64_t
        staged_bytes; /* the most that lies in host memory at a time on its way to a device out of the host's reach */
    uint64_t device_bytes; /* of such a device, in all; 0: the host can address it */
} ModelSizes;

typedef struct ModelLoadOptions {
    Device *device;
    const Kernels *kernels;
    const KernelContext *context;
    int rank, rank_count;
    uint32_t max_model_len; /* positions that RoPE tables cover */
    WeightTierOptions tiers;
    void (*begin_part)(void *user, const char *tensor); /* optional: model_load comes to it */
    void *begin_part_user;
} ModelLoadOptions;

/* First this rank's share, and where its matrices will lie: names and shapes are checked, nothing is packed. */
Status model_measure(Model *out, const Weights *weights, const ModelConfig *config,
                     const ModelLoadOptions *options, ModelSizes *out_sizes);
/* What the sizes would be with so much of the layers on the device and the rest in files. For a refusal: the placement is lost. */
void model_try_share(Model *model, double per_cent, ModelSizes *sizes);
/* Then the packing, with the same weights and options. */
Status model_load(Model *model, const Weights *weights, const ModelLoadOptions *options);
void model_unload(Model *model); /* takes a zeroed Model */

/* Takes the next packed matrix of a layer; the bytes are gone after the call. */
typedef struct PackedSink {
    Status (*add)(void *user, const PackedEntry *entry, const void *bytes);
    void *user;
} PackedSink;

/* Packs every matrix of the layers of options->rank, one by one, for a PackedFile. */
Status model_pack_layers(const Weights *weights, const ModelConfig *config,
                         const ModelLoadOptions *options, const PackedSink *sink);

/* What the pass that begins will use: as layer_order_expect. */
void model_expect_layers(const Model *model, const uint32_t *layers, uint32_t layer_count,
                         uint32_t then);
/* model->layers[layer] is whole from here until another layer is acquired, or released, for kernels that are put on the context's stream
 * by then. E-WEIGHTS-IO and E-DEVICE end the job. */
Status model_layer_acquire(const Model *model, uint32_t layer);
Status model_layer_release(const Model *model);
/* NULL when no weights lie in files. */
WeightStream *model_weight_stream(const Model *model);
/* Of layers that came from outside a device out of the host's reach, so far. */
uint64_t model_sent_bytes(const Model *model);

/* For weights that are only a shape (RandomWeights.list_tensors): every tensor that the family would ask for. */
Status model_list_tensors(Weights *weights);

struct Pass;
struct ModelLoader;

typedef struct ModelFamily {
    const char *name;                      /* "llama" */
    const char *summary;                   /* models it serves, for `doctor` and the README */
    const char *const *gguf_architectures; /* "llama", ended by NULL; NULL: none */
    const char *const *hf_architectures;   /* "LlamaForCausalLM", ended by NULL */
    uint32_t mlp_matrix_count; /* 3 with a gate, 2 without: weighs the split over ranks */
    Status (*read_config)(const Weights *weights, ModelConfig *config);
    Status (*bind)(struct ModelLoader *loader, Model *model); /* asks the loader for every tensor */
    Status (*embed)(struct Pass *pass); /* token ids → pass->x [rows][hidden] */
    Status (*layer)(struct Pass *pass, uint32_t layer_index); /* pass->x in place */
    Status (*head)(
        struct Pass
            *pass); /* rows that want logits → pass->logits [rows][this rank's vocabulary] */
} ModelFamily;

/* All rows of all families, ended by NULL. */
const ModelFamily *const *model_families(void);

SPILLWAY_EXTERN_C_END

#endif
