#ifndef RUNTIME_WEIGHTS_WEIGHTS_H
#define RUNTIME_WEIGHTS_WEIGHTS_H

/* A model on disk: named tensors (mapped, never copied) and metadata, the same view of a GGUF file (one or split
 * in shards) and of a Hugging Face folder (config.json, one safetensors file or an index of shards). Format rows are
 * tried by what stands at the path; a family decides what the names mean.
 *
 * Everything is checked against the real file length before it is used or allocated. Weights are immutable after
 * open: any thread may read. Names, metadata strings and tensor data live until weights_close. */

#include <stddef.h>
#include <stdint.h>

#include "kernels/tensor.h"
#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

/* How tensors and metadata keys are named. */
typedef enum WeightsNaming {
    WEIGHTS_NAMING_GGUF, /* "blk.0.attn_q.weight", "llama.block_count" */
    WEIGHTS_NAMING_HF,   /* "model.layers.0.self_attn.q_proj.weight", "num_hidden_layers" */
} WeightsNaming;

typedef struct Weights Weights;

/* A model that has a shape and no numbers: a name of configs/shapes, a config.json by itself, or a folder that holds no more.
 * It opens when the caller allows random numbers in their place. */
typedef struct RandomWeights {
    bool allowed;
    uint64_t seed;
    /* Adds every tensor of the model with weights_add_random, as its metadata say: model_list_tensors. */
    Status (*list_tensors)(Weights *weights);
} RandomWeights;

/* How a model is opened that is not taken just as it lies. */
typedef struct WeightsOptions {
    /* Name of a row of quants[]. Of a shape: what its matrices hold; NULL: q4_0. Of a model with numbers: what the matrices of its layers,
     * which must be floats, are encoded in as they are packed (Quant.encode); NULL: they stay as they are. */
    const char *type;
    RandomWeights random;
} WeightsOptions;

/* path: a GGUF file (the first of a split one), a folder with config.json, or a single safetensors file (tensors and the
 * header's __metadata__ only: enough to inspect it). */
Status weights_open(Weights **out, const char *path);
/* The same, and shapes. E-FILE-MISSING for one where random numbers are not allowed; E-USAGE: no such type, or it cannot be made of floats. */
Status weights_open_with(Weights **out, const char *path, const WeightsOptions *options);
void weights_close(Weights *weights);

WeightsNaming weights_naming(const Weights *weights);
const char *weights_path(const Weights *weights);
const char *weights_format_name(const Weights *weights); /* "gguf", "safetensors", "random" */
bool weights_are_random(const Weights *weights);
/* As opened with, or q4_0 of a shape; NULL: a model as it lies. */
const Quant *weights_type(const Weights *weights);

typedef struct NamedTensor {
    const char *name;
    const char *type_name; /* "q4_1", "i64": as quants[] and the formats name it, in lower case */
    /* quant is NULL when the type has no row in quants[]: whoever computes with the tensor refuses it */
    Tensor tensor;
    const char *file;     /* that holds it */
    uint64_t file_offset; /* of its first byte */
} NamedTensor;

size_t weights_tensor_count(const Weights *weights);
const NamedTensor *weights_tensor(const Weights *weights, size_t index);   /* in file order */
const NamedTensor *weights_find(const Weights *weights, const char *name); /* NULL when absent */

/* What a layer's matrix is packed from: its tensor or, where layers are encoded, that in its new form, with data NULL until whoever
 * packs has encoded them. E-TENSOR: it is no matrix of floats. */
Status weights_layer_matrix(const Weights *weights, const NamedTensor *named, Tensor *out);

/* For RandomWeights.list_tensors: a matrix [rows][columns], or with columns 0 a vector. Data follow when all are listed: vectors
 * are f32, weights of norms ones, the rest pseudo-random with a deviation that keeps activations finite. */
Status weights_add_random(Weights *weights, const char *name, uint64_t rows, uint64_t columns);

/* 64 bits that change when metadata or the tensor directory change (names, types, shapes, offsets), or the type that layers are
 * encoded in: ranks compare it. */
uint64_t weights_fingerprint(const Weights *weights);

/* ---- metadata: GGUF keys as they are; config.json flattened with dots ("rope_scaling.factor"). A list is one array;
 * one that mixes types or holds objects or lists has element_type METADATA_NULL and its elements cannot be read ---- */

typedef enum MetadataType {
    METADATA_NULL,
    METADATA_BOOL,
    METADATA_INTEGER, /* fits int64 */
    METADATA_REAL,
    METADATA_STRING,
    METADATA_ARRAY,
} MetadataType;

typedef struct Metadata {
    const char *key;
    MetadataType type;
    bool boolean;
    int64_t integer;
    double real;        /* also set for METADATA_INTEGER */
    const char *string; /* METADATA_STRING: NUL ended; may hold NULs inside string_bytes */
    size_t string_bytes;
    MetadataType element_type; /* METADATA_ARRAY: of all elements; METADATA_NULL: mixed or empty */
    size_t element_count;
    const void *array; /* private: read through weights_array_… */
} Metadata;

size_t weights_metadata_count(const Weights *weights);
const Metadata *weights_metadata(const Weights *weights, size_t index);
const Metadata *weights_metadata_find(const Weights *weights,
                                      const char *key); /* NULL when absent */

/* Element `index` of an array; index is in range and the element type fits (CHECK): integer also reads METADATA_BOOL, real
 * also METADATA_INTEGER. Strings are length-delimited, not NUL ended. Unsigned 64-bit elements above INT64_MAX read as
 * INT64_MAX. */
const char *weights_array_string(const Metadata *array, size_t index, size_t *out_bytes);
int64_t weights_array_integer(const Metadata *array, size_t index);
double weights_array_real(const Metadata *array, size_t index);

/* Typed reads. Absent or null: leave *out alone and return STATUS_NOT_FOUND without logging. Present with another type or
 * out of range: E-HF-CONFIG or E-GGUF naming file and key. */
Status weights_read_u32(const Weights *weights, const char *key, uint32_t *out);
Status weights_read_float(const Weights *weights, const char *key, double *out); /* finite */
Status weights_read_bool(const Weights *weights, const char *key, bool *out);
Status weights_read_string(const Weights *weights, const char *key, const char **out);

/* Tensors are read one by one, each behind a weights_expect, and nothing around them shall come into memory: from here until the weights
 * are closed. Advice only, as the two below. */
void weights_read_alone(const Weights *weights);
/* All of the tensor is read next. */
void weights_expect(const Weights *weights, const Tensor *tensor);
/* What has been read of the tensor leaves this process and, where nobody else has it mapped, the page cache; it is read again when it is
 * touched. */
void weights_forget(const Weights *weights, const Tensor *tensor);

/* A file that is truncated while it is mapped raises SIGBUS in whoever reads it. Installs a handler for the process that says
 * which file and offset became unreadable and exits 74 (E-WEIGHTS-IO); other SIGBUS go where they went before. Call once,
 * after log_configure and before other threads read weights. */
void weights_guard_install(void);

/* A file of a Hugging Face folder by plain name ("tokenizer.json"): its whole text, NUL ended, capped at 256 MiB. Free with
 * free(). STATUS_NOT_FOUND without logging when the model is a single file or the folder lacks it. */
Status weights_read_side_file(const Weights *weights, const char *name, char **out_text,
                              size_t *out_bytes);

/* ---- contract of a format (runtime/weights/gguf.c, safetensors.c); rows are listed in weights.c ---- */

typedef struct WeightsFormat {
    const char *name;
    WeightsNaming naming;
    ErrorCode malformed;          /* raised for a tensor that occurs twice */
    ErrorCode malformed_metadata; /* raised for a key that occurs twice or is of a wrong type */
    /* Whether the path looks like this format (magic bytes, config.json there); cheap, logs nothing. */
    bool (*recognises)(const char *path);
    Status (*open)(Weights *weights, const char *path);
} WeightsFormat;

SPILLWAY_EXTERN_C_END

#endif
