#include "runtime/weights/random_weights.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/base/arena.h"
#include "runtime/base/bytes.h"
#include "runtime/base/hash.h"
#include "runtime/base/random.h"
#include "runtime/weights/safetensors.h"
#include "runtime/weights/shapes.h"

#pragma GCC diagnostic error "-Wconversion"
#pragma GCC diagnostic error "-Wsign-conversion"

enum {
    PAGE_BYTES = 4096,
    PATTERN_BYTES_MAX = 16 << 20,
    PATTERNS_MAX =
        2, /* the type asked for, and f16 for rows that are no whole number of its blocks */
    VECTOR_SHIFT_MAX = 1024,
};

/* As models are initialised before they are trained; over 80 layers of 8,192 the residual stream stays below 1,000. */
static const float deviation = 0.02f;
static const char default_type[] = "q4_0"; /* of matrices */

typedef struct Pattern {
    const Quant *quant;
    uint64_t unit_bytes; /* whole pages of whole blocks: where a matrix may begin */
    uint64_t bytes;      /* whole units */
    int descriptor;
} Pattern;

struct RandomData {
    Pattern patterns[PATTERNS_MAX];
    uint32_t pattern_count;
    uint8_t *addresses; /* of all matrices */
    uint64_t address_bytes;
    float *ones, *small; /* longest vector, and VECTOR_SHIFT_MAX more of the small ones */
};

bool random_data_maps(const RandomData *data, const uint8_t *bytes) {
    return data && bytes >= data->addresses && bytes < data->addresses + data->address_bytes;
}

void random_data_free(RandomData *data) {
    if (!data) return;
    if (data->addresses) munmap(data->addresses, data->address_bytes);
    for (uint32_t i = 0; i < data->pattern_count; i++)
        if (data->patterns[i].descriptor >= 0) close(data->patterns[i].descriptor);
    free(data->ones);
    free(data->small);
    free(data);
}

/* ---- the directory ---- */

Status weights_add_random(Weights *weights, const char *name, uint64_t rows, uint64_t columns) {
    NamedTensor added = {.file = weights->path};
    Tensor *tensor = &added.tensor;
    bool is_matrix = columns > 0;
    const Quant *quant = is_matrix ? weights->type : &quant_f32;
    if (is_matrix && columns % quant->block_elements != 0) quant = &quant_f16;
    *tensor = (Tensor){.quant = quant, .dim_count = is_matrix ? 2 : 1, .shape = {rows, 1, 1, 1}};
    if (is_matrix) tensor->shape[1] = columns;
    added.type_name = quant->name;
    if (!weights_shape_bytes(tensor, quant->block_elements, quant->block_bytes, &tensor->bytes))
        FAIL(HF_CONFIG, "\"%s\": tensor %s would have no or too many elements",
             weights->metadata_path, name);
    TRY(weights_copy_text(weights, name, strlen(name), &added.name));
    weights_digest(weights, name, strlen(name));
    return weights_add_tensor(weights, &added);
}

/* ---- the numbers ---- */

static uint64_t greatest_divisor(uint64_t a, uint64_t b) {
    return b == 0 ? a : greatest_divisor(b, a % b);
}

static uint64_t mapped_bytes(const NamedTensor *named) {
    return named->tensor.dim_count == 2 ? align_up(named->tensor.bytes, PAGE_BYTES) : 0;
}

static Status fail_memory(const Weights *weights, const char *what) {
    FAIL(MEMORY, "random weights of \"%s\": %s: %s", weights->path, what, strerror(errno));
}

static Status fill_pattern(const Weights *weights, const Pattern *pattern) {
    Random random = {.key = weights->random.seed, .stream = pattern->quant->gguf_type};
    if (ftruncate(pattern->descriptor, (off_t)pattern->bytes) != 0)
        return fail_memory(weights, "a pattern");
    uint8_t *bytes =
        mmap(NULL, pattern->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, pattern->descriptor, 0);
    if (bytes == MAP_FAILED) return fail_memory(weights, "a pattern");
    for (uint64_t at = 0; at < pattern->bytes; at += pattern->quant->block_bytes)
        quant_draw_block(pattern->quant, &random, deviation, bytes + at);
    munmap(bytes, pattern->bytes);
    return STATUS_OK;
}

/* One for the type; for small models no longer than three times their largest matrix, so that matrices differ. */
static Status add_pattern(Weights *weights, const Quant *quant, const Pattern **out) {
    RandomData *data = weights->random_data;
    for (uint32_t i = 0; i < data->pattern_count; i++)
        if (data->patterns[i].quant == quant) {
            *out = &data->patterns[i];
            return STATUS_OK;
        }
    uint64_t longest = 0;
    for (size_t i = 0; i < weights->tensor_count; i++)
        if (mapped_bytes(&weights->tensors[i]) > longest)
            longest = mapped_bytes(&weights->tensors[i]);
    uint64_t wanted = longest < PATTERN_BYTES_MAX / 3 ? 3 * longest : PATTERN_BYTES_MAX;
    Pattern *pattern = &data->patterns[data->pattern_count];
    pattern->quant = quant;
    pattern->unit_bytes =
        quant->block_bytes / greatest_divisor(PAGE_BYTES, quant->block_bytes) * PAGE_BYTES;
    pattern->bytes = divide_up(wanted, pattern->unit_bytes) * pattern->unit_bytes;
    pattern->descriptor = memfd_create("spillway-random-weights", MFD_CLOEXEC);
    data->pattern_count++;
    if (pattern->descriptor < 0) return fail_memory(weights, "memfd_create");
    *out = pattern;
    return fill_pattern(weights, pattern);
}

static uint64_t hash_of(const Weights *weights, const NamedTensor *named) {
    return hash_xxh3(named->name, strlen(named->name), weights->random.seed);
}

/* The pattern over and over, from a place that goes by the tensor's name. */
static Status map_matrix(Weights *weights, NamedTensor *named, uint8_t *address) {
    const Pattern *pattern = NULL;
    TRY(add_pattern(weights, named->tensor.quant, &pattern));
    uint64_t at = hash_of(weights, named) % (pattern->bytes / pattern->unit_bytes);
    at *= pattern->unit_bytes;
    for (uint64_t left = mapped_bytes(named); left > 0;) {
        uint64_t piece = left < pattern->bytes - at ? left : pattern->bytes - at;
        if (mmap(address, piece, PROT_READ, MAP_SHARED | MAP_FIXED, pattern->descriptor,
                 (off_t)at) == MAP_FAILED)
            return fail_memory(weights, named->name);
        address += piece;
        left -= piece;
        at = 0;
    }
    return STATUS_OK;
}

static Status map_matrices(Weights *weights) {
    RandomData *data = weights->random_data;
    for (size_t i = 0; i < weights->tensor_count; i++)
        data->address_bytes += mapped_bytes(&weights->tensors[i]);
    if (data->address_bytes == 0) return STATUS_OK;
    void *addresses = mmap(NULL, data->address_bytes, PROT_NONE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (addresses == MAP_FAILED) return fail_memory(weights, "addresses");
    data->addresses = addresses;
    uint8_t *at = data->addresses;
    for (size_t i = 0; i < weights->tensor_count; i++) {
        NamedTensor *named = &weights->tensors[i];
        if (named->tensor.dim_count != 2) continue;
        TRY(map_matrix(weights, named, at));
        named->tensor.data = at;
        named->file_offset = (uint64_t)(at - data->addresses);
        at += mapped_bytes(named);
    }
    return STATUS_OK;
}

static bool is_norm_weight(const char *name) {
    static const char ending[] = ".weight";
    size_t bytes = strlen(name);
    return strstr(name, "norm") && bytes > sizeof ending &&
           strcmp(name + bytes + 1 - sizeof ending, ending) == 0;
}

static Status fill_vectors(Weights *weights) {
    RandomData *data = weights->random_data;
    Random random = {.key = weights->random.seed, .stream = UINT64_MAX};
    uint64_t longest = 0;
    for (size_t i = 0; i < weights->tensor_count; i++)
        if (weights->tensors[i].tensor.dim_count == 1 &&
            weights->tensors[i].tensor.shape[0] > longest)
            longest = weights->tensors[i].tensor.shape[0];
    TRY(memory_take((void **)&data->ones, longest, sizeof(float), "random weights"));
    TRY(memory_take((void **)&data->small, longest + VECTOR_SHIFT_MAX, sizeof(float),
                    "random weights"));
    for (uint64_t i = 0; i < longest; i++)
        data->ones[i] = 1;
    for (uint64_t i = 0; i < longest + VECTOR_SHIFT_MAX; i++)
        quant_draw_block(&quant_f32, &random, deviation, &data->small[i]);
    for (size_t i = 0; i < weights->tensor_count; i++) {
        NamedTensor *named = &weights->tensors[i];
        uint64_t shift = hash_of(weights, named) % VECTOR_SHIFT_MAX;
        if (named->tensor.dim_count == 1)
            named->tensor.data = is_norm_weight(named->name) ? data->ones : data->small + shift;
    }
    return STATUS_OK;
}

Status random_weights_fill(Weights *weights) {
    TRY(memory_take((void **)&weights->random_data, 1, sizeof(RandomData), "random weights"));
    TRY(weights_index_metadata(weights));
    if (!weights->type) weights->type = quant_find(default_type);
    weights_digest(weights, weights->type->name, strlen(weights->type->name));
    weights_digest(weights, &weights->random.seed, sizeof weights->random.seed);
    TRY(weights->random.list_tensors(weights));
    TRY(map_matrices(weights));
    return fill_vectors(weights);
}

/* ---- the format ---- */

static bool recognises_config(const char *path) {
    static const char ending[] = ".json";
    size_t bytes = strlen(path);
    char start;
    return bytes > sizeof ending && strcmp(path + bytes + 1 - sizeof ending, ending) == 0 &&
           weights_file_start(path, &start, 1) == 1 && start == '{';
}

static Status open_shape(Weights *weights, const char *path) {
    const char *text = shape_find(path);
    if (!weights->random.allowed)
        FAIL(FILE_MISSING,
             "model \"%s\" is a shape without weights: give a GGUF file or a Hugging Face folder, "
             "or "
             "--random-weights to run it with random numbers",
             path);
    if (recognises_config(path))
        TRY(hf_config_read(weights, path));
    else
        TRY(hf_config_parse(weights, weights->path, text, strlen(text)));
    return random_weights_fill(weights);
}

const WeightsFormat weights_format_random = {
    .name = "random",
    .naming = WEIGHTS_NAMING_HF,
    .malformed = ERROR_HF_CONFIG,
    .malformed_metadata = ERROR_HF_CONFIG,
    .recognises = recognises_config,
    .open = open_shape,
};
