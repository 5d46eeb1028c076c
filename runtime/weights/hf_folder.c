/* A folder as transformers' save_pretrained writes it: config.json, and model.safetensors or an index of shards. */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/arena.h"
#include "runtime/weights/json_walk.h"
#include "runtime/weights/random_weights.h"
#include "runtime/weights/safetensors.h"

#pragma GCC diagnostic error "-Wconversion"
#pragma GCC diagnostic error "-Wsign-conversion"

enum { MEMBER_TEXT_MAX = 64 << 10 /* of a member of the index that is not needed */ };

static const char config_name[] = "config.json";
static const char single_name[] = "model.safetensors";
static const char index_name[] = "model.safetensors.index.json";
static const char shard_suffix[] = ".safetensors";

/* What other programs leave in such folders: pickles and other frameworks' files, which are never read. */
static const char *const foreign_names[] = {
    "pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth",
    "tf_model.h5",       "flax_model.msgpack",
};

enum { FOREIGN_NAME_COUNT = sizeof foreign_names / sizeof *foreign_names };

/* *out is NULL when the folder has no such file. */
static Status find_member(Weights *weights, const char *name, const char **out) {
    TRY(weights_join_path(weights, weights->folder, name, out));
    if (access(*out, F_OK) != 0) *out = NULL;
    return STATUS_OK;
}

/* ---- model.safetensors.index.json: {"metadata": …, "weight_map": {tensor: shard file, …}} ---- */

typedef struct ShardIndex {
    Weights *weights;
    JsonWalk walk;
    const char *shard_names[SHARDS_MAX];
    size_t shard_count, recent_shard;
    bool *listed; /* [tensor_count], once the shards are read */
} ShardIndex;

typedef Status (*VisitEntry)(ShardIndex *index, const char *tensor, const char *shard);

static Status walk_entry(ShardIndex *index, const json_t *key, VisitEntry visit) {
    json_t *shard = NULL;
    TRY(json_walk_value(&index->walk, MEMBER_TEXT_MAX, &shard));
    Status status = json_is_string(shard)
                        ? visit(index, json_string_value(key), json_string_value(shard))
                        : json_walk_fail(&index->walk, "a shard of weight_map is no string");
    json_decref(shard);
    return status;
}

static Status walk_weight_map(ShardIndex *index, VisitEntry visit) {
    json_t *key = NULL;
    TRY(json_walk_enter(&index->walk));
    TRY(json_walk_next(&index->walk, NAME_BYTES_MAX, &key));
    while (key) {
        Status status = walk_entry(index, key, visit);
        json_decref(key);
        TRY(status);
        TRY(json_walk_next(&index->walk, NAME_BYTES_MAX, &key));
    }
    return STATUS_OK;
}

static Status walk_index(ShardIndex *index, VisitEntry visit) {
    bool has_map = false;
    json_t *key = NULL, *ignored = NULL;
    index->walk.at = 0;
    TRY(json_walk_enter(&index->walk));
    TRY(json_walk_next(&index->walk, NAME_BYTES_MAX, &key));
    while (key) {
        bool is_map = strcmp(json_string_value(key), "weight_map") == 0;
        json_decref(key);
        if (is_map && has_map) return json_walk_fail(&index->walk, "weight_map occurs twice");
        if (is_map)
            TRY(walk_weight_map(index, visit));
        else
            TRY(json_walk_value(&index->walk, MEMBER_TEXT_MAX, &ignored));
        json_decref(ignored);
        ignored = NULL;
        has_map |= is_map;
        TRY(json_walk_next(&index->walk, NAME_BYTES_MAX, &key));
    }
    if (!has_map) return json_walk_fail(&index->walk, "weight_map is missing");
    return json_walk_finish(&index->walk);
}

/* A name that stays inside the folder. */
static bool is_plain_shard_name(const char *name) {
    size_t name_bytes = strlen(name), suffix_bytes = sizeof shard_suffix - 1;
    return weights_name_is_clean(name, name_bytes) && !strchr(name, '/') && name[0] != '.' &&
           name_bytes > suffix_bytes && strcmp(name + name_bytes - suffix_bytes, shard_suffix) == 0;
}

/* First walk: the shards. Neighbours usually share one. */
static Status note_shard(ShardIndex *index, const char *tensor, const char *shard) {
    (void)tensor;
    if (index->shard_count > 0 && strcmp(index->shard_names[index->recent_shard], shard) == 0)
        return STATUS_OK;
    for (size_t i = 0; i < index->shard_count; i++)
        if (strcmp(index->shard_names[i], shard) == 0) {
            index->recent_shard = i;
            return STATUS_OK;
        }
    if (!is_plain_shard_name(shard))
        return json_walk_fail(&index->walk, "a shard is no plain file name that ends in %s",
                              shard_suffix);
    if (index->shard_count == SHARDS_MAX)
        return json_walk_fail(&index->walk, "more than %d shards", SHARDS_MAX);
    index->recent_shard = index->shard_count;
    return weights_copy_text(index->weights, shard, strlen(shard),
                             &index->shard_names[index->shard_count++]);
}

/* Second walk: each tensor is where the index says, once. */
static Status check_entry(ShardIndex *index, const char *tensor, const char *shard) {
    const NamedTensor *found = weights_find(index->weights, tensor);
    if (!found || strcmp(strrchr(found->file, '/') + 1, shard) != 0)
        return json_walk_fail(&index->walk, "tensor \"%.128s\" is not in shard \"%.128s\"", tensor,
                              shard);
    bool *listed = &index->listed[found - index->weights->tensors];
    if (*listed) return json_walk_fail(&index->walk, "tensor \"%s\" is listed twice", tensor);
    *listed = true;
    return STATUS_OK;
}

static int compare_texts(const void *left, const void *right) {
    return strcmp(*(const char *const *)left, *(const char *const *)right);
}

static Status read_shards(ShardIndex *index) {
    Weights *weights = index->weights;
    TRY(walk_index(index, note_shard));
    qsort(index->shard_names, index->shard_count, sizeof *index->shard_names, compare_texts);
    for (size_t i = 0; i < index->shard_count; i++) {
        const char *path = NULL;
        TRY(weights_join_path(weights, weights->folder, index->shard_names[i], &path));
        TRY(safetensors_read(weights, path, false));
    }
    TRY(weights_index_tensors(weights));
    void *listed = NULL;
    TRY(memory_take(&listed, weights->tensor_count, sizeof(bool), "tensor list"));
    index->listed = listed;
    Status status = walk_index(index, check_entry);
    free(listed);
    return status;
}

static Status read_index(Weights *weights, const char *path) {
    const MappedFile *file = NULL;
    void *taken = NULL;
    TRY(weights_map_file(weights, path, &file));
    TRY(memory_take(&taken, 1, sizeof(ShardIndex), "shard index"));
    ShardIndex *index = taken;
    index->weights = weights;
    index->walk = (JsonWalk){.path = file->path,
                             .error = ERROR_SAFETENSORS,
                             .text = (const char *)file->bytes,
                             .text_bytes = file->size_bytes};
    Status status = read_shards(index);
    weights_digest(weights, file->bytes, file->size_bytes);
    free(index);
    return status;
}

/* ---- the folder ---- */

/* A shape, unless there are weights that only other programs read. */
static Status open_without_weights(Weights *weights) {
    for (size_t i = 0; i < FOREIGN_NAME_COUNT; i++) {
        const char *path = NULL;
        TRY(find_member(weights, foreign_names[i], &path));
        if (path)
            FAIL(MODEL_FORMAT,
                 "\"%s\" is not read, only safetensors and GGUF are; convert it: python3 -c \"from "
                 "transformers import AutoModelForCausalLM as M; M.from_pretrained('%s')"
                 ".save_pretrained('%s')\"",
                 path, weights->folder, weights->folder);
    }
    weights->format = &weights_format_random;
    if (weights->random.allowed) return random_weights_fill(weights);
    FAIL(FILE_MISSING,
         "\"%s\" has a config.json but neither %s nor %s; fetch the model again, or give "
         "--random-weights to run its shape with random numbers",
         weights->folder, single_name, index_name);
}

static Status open_folder(Weights *weights, const char *path) {
    const char *config = NULL, *single = NULL, *index = NULL;
    TRY(weights_copy_text(weights, path, strlen(path), &weights->folder));
    TRY(weights_join_path(weights, path, config_name, &config));
    TRY(hf_config_read(weights, config));
    TRY(find_member(weights, single_name, &single));
    TRY(find_member(weights, index_name, &index));
    if (single) return safetensors_read(weights, single, false);
    return index ? read_index(weights, index) : open_without_weights(weights);
}

static bool recognises_folder(const char *path) {
    char config[4096], start;
    int written = snprintf(config, sizeof config, "%s/%s", path, config_name);
    return written > 0 && (size_t)written < sizeof config &&
           weights_file_start(config, &start, 1) == 1;
}

const WeightsFormat weights_format_hf_folder = {
    .name = "safetensors",
    .naming = WEIGHTS_NAMING_HF,
    .malformed = ERROR_SAFETENSORS,
    .malformed_metadata = ERROR_HF_CONFIG,
    .recognises = recognises_folder,
    .open = open_folder,
};
