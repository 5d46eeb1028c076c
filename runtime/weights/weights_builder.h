#ifndef RUNTIME_WEIGHTS_WEIGHTS_BUILDER_H
#define RUNTIME_WEIGHTS_WEIGHTS_BUILDER_H

/* What the readers of runtime/weights use to fill a Weights; nobody else includes it. Everything handed out here belongs to
 * the Weights and lives until weights_close. One thread, inside weights_open.
 *
 * Limits (so that a hostile file cannot take memory): what is taken from the pool stays below POOL_BYTES_MAX in all, and
 * tensors and keys below their counts. A reader compares every claimed size with the file first. */

#include <stdint.h>

#include "runtime/weights/weights.h"

SPILLWAY_EXTERN_C_BEGIN

enum {
    FILE_TENSORS_MAX = 65536,
    MODEL_TENSORS_MAX = 262144,
    METADATA_MAX = 65536,
    SHARDS_MAX = 1024,
    FILES_MAX = SHARDS_MAX + 2, /* shards, config.json and the index of shards */
    NAME_BYTES_MAX = 256,       /* tensor names and keys: they fit into an error line */
    POOL_BYTES_MAX = 32 << 20,
    HEADER_BYTES_MAX = 100 << 20, /* of one file: everything before the tensor data */
};

typedef struct MappedFile {
    const char *path;
    const uint8_t *bytes; /* NULL when the file is empty */
    uint64_t size_bytes;
} MappedFile;

typedef struct RandomData RandomData; /* random_weights.c */

struct Weights {
    const WeightsFormat *format;
    const char *path;          /* as given */
    const char *folder;        /* NULL when the model is a single file */
    const char *metadata_path; /* file that the metadata came from */
    MappedFile *files;         /* [FILES_MAX], so that their addresses stay */
    size_t file_count;
    NamedTensor *tensors;
    size_t tensor_count, tensor_capacity;
    const NamedTensor **tensors_by_name; /* sorted, once complete */
    Metadata *metadata;
    size_t metadata_count, metadata_capacity;
    const Metadata **metadata_by_key; /* sorted, once complete */
    struct PoolChunk *pool;
    size_t pool_bytes;
    uint64_t fingerprint;
    const Quant *type;       /* as weights_type */
    RandomWeights random;    /* as asked for */
    RandomData *random_data; /* NULL: the numbers are a file's */
};

/* Maps an ordinary file for reading, E-FILE-MISSING when it cannot. An empty one is mapped to NULL. */
Status weights_map_file(Weights *weights, const char *path, const MappedFile **out);

/* Zeroed memory, 8-byte aligned. */
Status weights_take(Weights *weights, uint64_t size_bytes, void **out);
/* A copy with a NUL after it. */
Status weights_copy_text(Weights *weights, const char *text, size_t text_bytes, const char **out);
/* folder/name */
Status weights_join_path(Weights *weights, const char *folder, const char *name, const char **out);

/* Both copy the struct; names and keys must outlive the Weights (mapped or from the pool). */
Status weights_add_tensor(Weights *weights, const NamedTensor *tensor);
Status weights_add_metadata(Weights *weights, const Metadata *metadata);

/* Tensors [first, tensor_count) by file offset; free() the list. */
Status weights_sort_by_offset(const Weights *weights, size_t first, const NamedTensor ***out);

/* Sorts the names seen so far for weights_find; refuses one that occurs twice. */
Status weights_index_tensors(Weights *weights);

/* The same for metadata and weights_metadata_find; again when there are more. */
Status weights_index_metadata(Weights *weights);

/* Makes the fingerprint depend on these bytes. */
void weights_digest(Weights *weights, const void *bytes, size_t size_bytes);

/* 1 to NAME_BYTES_MAX bytes of UTF-8 without control characters: safe to print in one line. */
bool weights_name_is_clean(const char *name, size_t name_bytes);

/* Elements of the shape, and its bytes as whole rows of blocks; false when a dimension is zero, a row is no multiple of
 * block_elements or something overflows. */
bool weights_shape_bytes(const Tensor *tensor, uint32_t block_elements, uint32_t block_bytes,
                         uint64_t *out_bytes);

/* Reads the first bytes of an ordinary file; how many there were, 0 when it cannot be read. Logs nothing. */
size_t weights_file_start(const char *path, void *out, size_t size_bytes);

/* For the SIGBUS handler (weights_guard.c): which addresses belong to which file. */
void weights_guard_watch(const MappedFile *file);
void weights_guard_unwatch(const MappedFile *file);

extern const WeightsFormat weights_format_gguf;
extern const WeightsFormat weights_format_safetensors;
extern const WeightsFormat weights_format_hf_folder;
extern const WeightsFormat weights_format_random;

SPILLWAY_EXTERN_C_END

#endif
