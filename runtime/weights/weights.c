#include "runtime/weights/weights.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utf8proc.h>

#include "kernels/matrix_source.h"
#include "runtime/base/arena.h"
#include "runtime/base/bytes.h"
#include "runtime/base/hash.h"
#include "runtime/base/invariant.h"
#include "runtime/weights/random_weights.h"
#include "runtime/weights/shapes.h"
#include "runtime/weights/weights_builder.h"

#pragma GCC diagnostic error "-Wconversion"
#pragma GCC diagnostic error "-Wsign-conversion"

static const WeightsFormat *const formats[] = {
    &weights_format_gguf,
    &weights_format_safetensors,
    &weights_format_hf_folder,
    &weights_format_random,
};

enum { FORMAT_COUNT = sizeof formats / sizeof *formats };

/* ---- what readers build with ---- */

typedef struct PoolChunk {
    struct PoolChunk *next;
    size_t size_bytes, used_bytes;
    _Alignas(8) uint8_t bytes[];
} PoolChunk;

enum { POOL_CHUNK_BYTES = 64 << 10 };

static Status add_chunk(Weights *weights, size_t size_bytes) {
    if (size_bytes > POOL_BYTES_MAX - weights->pool_bytes)
        FAIL(MODEL_FORMAT,
             "\"%s\": names and metadata take more than %d MiB: the file is damaged or hostile; "
             "fetch or convert it again",
             weights->path, POOL_BYTES_MAX >> 20);
    PoolChunk *chunk = calloc(1, sizeof *chunk + size_bytes);
    if (!chunk) FAIL(MEMORY, "model metadata: cannot get %zu bytes of memory", size_bytes);
    chunk->size_bytes = size_bytes;
    chunk->next = weights->pool;
    weights->pool = chunk;
    weights->pool_bytes += size_bytes;
    return STATUS_OK;
}

Status weights_take(Weights *weights, uint64_t size_bytes, void **out) {
    uint64_t taken_bytes = size_bytes < POOL_BYTES_MAX ? align_up(size_bytes, 8) : size_bytes;
    PoolChunk *chunk = weights->pool;
    if (!chunk || chunk->size_bytes - chunk->used_bytes < taken_bytes)
        TRY(add_chunk(weights, taken_bytes > POOL_CHUNK_BYTES ? taken_bytes : POOL_CHUNK_BYTES));
    chunk = weights->pool;
    *out = chunk->bytes + chunk->used_bytes;
    chunk->used_bytes += taken_bytes;
    return STATUS_OK;
}

Status weights_copy_text(Weights *weights, const char *text, size_t text_bytes, const char **out) {
    void *copy = NULL;
    TRY(weights_take(weights, (uint64_t)text_bytes + 1, &copy));
    memcpy(copy, text, text_bytes);
    *out = copy;
    return STATUS_OK;
}

Status weights_join_path(Weights *weights, const char *folder, const char *name, const char **out) {
    size_t folder_bytes = strlen(folder), name_bytes = strlen(name);
    void *joined = NULL;
    TRY(weights_take(weights, folder_bytes + name_bytes + 2, &joined));
    char *path = joined;
    memcpy(path, folder, folder_bytes);
    path[folder_bytes] = '/';
    memcpy(path + folder_bytes + 1, name, name_bytes);
    *out = path;
    return STATUS_OK;
}

/* A descriptor of an ordinary file, never of a pipe or device that could block; -1 and errno. */
static int open_ordinary(const char *path, uint64_t *out_size_bytes) {
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0) return -1;
    struct stat info = {.st_mode = 0};
    if (fstat(descriptor, &info) == 0 && S_ISREG(info.st_mode) && info.st_size >= 0) {
        *out_size_bytes = (uint64_t)info.st_size;
        return descriptor;
    }
    close(descriptor);
    errno = S_ISDIR(info.st_mode) ? EISDIR : EINVAL;
    return -1;
}

Status weights_map_file(Weights *weights, const char *path, const MappedFile **out) {
    CHECK(weights->file_count < FILES_MAX);
    MappedFile *file = &weights->files[weights->file_count];
    TRY(weights_copy_text(weights, path, strlen(path), &file->path));
    int descriptor = open_ordinary(path, &file->size_bytes);
    if (descriptor < 0)
        FAIL(FILE_MISSING, "\"%s\": cannot be opened: %s; check that it is all there and readable",
             path, strerror(errno));
    void *mapped = NULL;
    if (file->size_bytes > 0)
        mapped = mmap(NULL, file->size_bytes, PROT_READ, MAP_SHARED, descriptor, 0);
    int map_errno = errno;
    close(descriptor);
    if (mapped == MAP_FAILED)
        FAIL(FILE_MISSING, "\"%s\": cannot map %" PRIu64 " bytes: %s", path, file->size_bytes,
             strerror(map_errno));
    file->bytes = mapped;
    weights->file_count++;
    weights_guard_watch(file);
    *out = file;
    return STATUS_OK;
}

size_t weights_file_start(const char *path, void *out, size_t size_bytes) {
    uint64_t file_bytes;
    int descriptor = open_ordinary(path, &file_bytes);
    if (descriptor < 0) return 0;
    ssize_t got = pread(descriptor, out, size_bytes, 0);
    close(descriptor);
    return got > 0 ? (size_t)got : 0;
}

/* Room for one more element of a list that grows by doubling. */
static Status make_room(void **list, size_t *capacity, size_t count, size_t element_bytes) {
    if (count < *capacity) return STATUS_OK;
    size_t grown = *capacity ? *capacity * 2 : 64;
    void *moved = realloc(*list, grown * element_bytes);
    if (!moved) FAIL(MEMORY, "model directory: cannot get %zu bytes", grown * element_bytes);
    *list = moved;
    *capacity = grown;
    return STATUS_OK;
}

Status weights_add_tensor(Weights *weights, const NamedTensor *tensor) {
    if (weights->tensor_count == MODEL_TENSORS_MAX)
        return error_raise(weights->format->malformed, "\"%s\": more than %d tensors",
                           weights->path, MODEL_TENSORS_MAX);
    void *list = weights->tensors;
    TRY(make_room(&list, &weights->tensor_capacity, weights->tensor_count, sizeof *tensor));
    weights->tensors = list;
    weights->tensors[weights->tensor_count++] = *tensor;
    return STATUS_OK;
}

Status weights_add_metadata(Weights *weights, const Metadata *metadata) {
    if (weights->metadata_count == METADATA_MAX)
        return error_raise(weights->format->malformed_metadata, "\"%s\": more than %d keys",
                           weights->metadata_path, METADATA_MAX);
    void *list = weights->metadata;
    TRY(make_room(&list, &weights->metadata_capacity, weights->metadata_count, sizeof *metadata));
    weights->metadata = list;
    weights->metadata[weights->metadata_count++] = *metadata;
    return STATUS_OK;
}

void weights_digest(Weights *weights, const void *bytes, size_t size_bytes) {
    weights->fingerprint = hash_xxh3(bytes, size_bytes, weights->fingerprint);
}

bool weights_name_is_clean(const char *name, size_t name_bytes) {
    if (name_bytes == 0 || name_bytes > NAME_BYTES_MAX) return false;
    const utf8proc_uint8_t *at = (const utf8proc_uint8_t *)name;
    const utf8proc_uint8_t *end = at + name_bytes;
    while (at < end) {
        utf8proc_int32_t codepoint;
        utf8proc_ssize_t used = utf8proc_iterate(at, end - at, &codepoint);
        if (used <= 0 || utf8proc_category(codepoint) == UTF8PROC_CATEGORY_CC) return false;
        at += used;
    }
    return true;
}

bool weights_shape_bytes(const Tensor *tensor, uint32_t block_elements, uint32_t block_bytes,
                         uint64_t *out_bytes) {
    uint64_t row_elements = tensor->dim_count ? tensor->shape[tensor->dim_count - 1] : 1;
    if (row_elements == 0 || row_elements % block_elements != 0) return false;
    uint64_t bytes, elements = row_elements;
    if (!bytes_multiply(row_elements / block_elements, block_bytes, &bytes)) return false;
    for (uint32_t i = 0; i + 1 < tensor->dim_count; i++)
        if (tensor->shape[i] == 0 || !bytes_multiply(elements, tensor->shape[i], &elements) ||
            !bytes_multiply(bytes, tensor->shape[i], &bytes))
            return false;
    *out_bytes = bytes;
    return true;
}

/* ---- indices ---- */

static int compare_offsets(const void *left, const void *right) {
    const NamedTensor *a = *(const NamedTensor *const *)left;
    const NamedTensor *b = *(const NamedTensor *const *)right;
    return (a->file_offset > b->file_offset) - (a->file_offset < b->file_offset);
}

static int compare_names(const void *left, const void *right) {
    return strcmp((*(const NamedTensor *const *)left)->name,
                  (*(const NamedTensor *const *)right)->name);
}

static int compare_keys(const void *left, const void *right) {
    return strcmp((*(const Metadata *const *)left)->key, (*(const Metadata *const *)right)->key);
}

Status weights_sort_by_offset(const Weights *weights, size_t first, const NamedTensor ***out) {
    size_t count = weights->tensor_count - first;
    void *taken = NULL;
    TRY(memory_take(&taken, count, sizeof(NamedTensor *), "tensor order"));
    const NamedTensor **order = taken;
    for (size_t i = 0; i < count; i++)
        order[i] = &weights->tensors[first + i];
    qsort(order, count, sizeof *order, compare_offsets);
    *out = order;
    return STATUS_OK;
}

Status weights_index_tensors(Weights *weights) {
    size_t count = weights->tensor_count;
    void *taken = NULL;
    TRY(memory_take(&taken, count, sizeof(NamedTensor *), "tensor names"));
    free(weights->tensors_by_name);
    weights->tensors_by_name = taken;
    for (size_t i = 0; i < count; i++)
        weights->tensors_by_name[i] = &weights->tensors[i];
    qsort(weights->tensors_by_name, count, sizeof(NamedTensor *), compare_names);
    for (size_t i = 1; i < count; i++) {
        const NamedTensor *a = weights->tensors_by_name[i - 1], *b = weights->tensors_by_name[i];
        if (strcmp(a->name, b->name) == 0)
            return error_raise(weights->format->malformed,
                               "tensor \"%s\" occurs twice: in \"%s\" at byte %" PRIu64
                               " and in \"%s\" at byte %" PRIu64 "; convert the model again",
                               a->name, a->file, a->file_offset, b->file, b->file_offset);
    }
    return STATUS_OK;
}

Status weights_index_metadata(Weights *weights) {
    size_t count = weights->metadata_count;
    void *taken = NULL;
    TRY(memory_take(&taken, count, sizeof(Metadata *), "metadata keys"));
    free(weights->metadata_by_key);
    weights->metadata_by_key = taken;
    for (size_t i = 0; i < count; i++)
        weights->metadata_by_key[i] = &weights->metadata[i];
    qsort(weights->metadata_by_key, count, sizeof(Metadata *), compare_keys);
    for (size_t i = 1; i < count; i++) {
        const char *key = weights->metadata_by_key[i]->key;
        if (strcmp(weights->metadata_by_key[i - 1]->key, key) == 0)
            return error_raise(weights->format->malformed_metadata,
                               "\"%s\": key \"%s\" occurs twice; convert the model again",
                               weights->metadata_path, key);
    }
    return STATUS_OK;
}

/* ---- opening ---- */

static Status refuse_path(const char *path) {
    int error = errno;
    char names[512];
    if (strchr(path, '/'))
        FAIL(FILE_MISSING, "model \"%s\": %s; give a GGUF file or a Hugging Face folder", path,
             strerror(error));
    FAIL(FILE_MISSING,
         "model \"%s\": %s; give a GGUF file, a Hugging Face folder, or one of the shapes %s", path,
         strerror(error), shape_names(names, sizeof names));
}

static Status find_format(const char *path, const WeightsFormat **out) {
    struct stat info;
    if (stat(path, &info) != 0) {
        if (!shape_find(path)) return refuse_path(path);
        *out = &weights_format_random;
        return STATUS_OK;
    }
    for (size_t i = 0; i < FORMAT_COUNT; i++)
        if (formats[i]->recognises(path)) {
            *out = formats[i];
            return STATUS_OK;
        }
    if (S_ISDIR(info.st_mode))
        FAIL(MODEL_FORMAT,
             "model \"%s\": the folder has no readable config.json; give a GGUF file or a folder "
             "with config.json and safetensors files",
             path);
    uint8_t start[4] = {0};
    size_t start_bytes = weights_file_start(path, start, sizeof start);
    FAIL(
        MODEL_FORMAT,
        "model \"%s\": not a GGUF or safetensors file (got %02x %02x %02x %02x, %zu of the first 4 "
        "bytes); give a GGUF file or a Hugging Face folder",
        path, start[0], start[1], start[2], start[3], start_bytes);
}

/* Of a model with numbers of its own. */
static Status check_type(Weights *weights) {
    char names[256];
    size_t at = 0;
    if (!weights->type || weights->random_data) return STATUS_OK;
    weights_digest(weights, weights->type->name, strlen(weights->type->name));
    if (weights->type->encode) return STATUS_OK;
    for (const Quant *const *row = quants; *row && at < sizeof names; row++)
        if ((*row)->encode)
            at += (size_t)snprintf(names + at, sizeof names - at, at ? ", %s" : "%s", (*row)->name);
    FAIL(USAGE,
         "--weight-type %s: \"%s\" has numbers of its own, and what can be made of them is %s: "
         "leave "
         "it out to take them as they are",
         weights->type->name, weights->path, names);
}

static Status fill(Weights *weights, const char *path, const char *type) {
    void *files = NULL;
    TRY(memory_take(&files, FILES_MAX, sizeof(MappedFile), "weight files"));
    weights->files = files;
    TRY(weights_copy_text(weights, path, strlen(path), &weights->path));
    weights->metadata_path = weights->path;
    weights->type = type ? quant_find(type) : NULL;
    if (type && !weights->type) FAIL(USAGE, "--weight-type %s: no such format", type);
    TRY(weights->format->open(weights, path));
    TRY(check_type(weights));
    TRY(weights_index_tensors(weights));
    return weights_index_metadata(weights);
}

Status weights_open(Weights **out, const char *path) {
    return weights_open_with(out, path, &(WeightsOptions){.type = NULL});
}

Status weights_open_with(Weights **out, const char *path, const WeightsOptions *options) {
    const WeightsFormat *format = NULL;
    TRY(find_format(path, &format));
    void *taken = NULL;
    TRY(memory_take(&taken, 1, sizeof(Weights), "weights"));
    Weights *weights = taken;
    weights->format = format;
    weights->random = options->random;
    Status status = fill(weights, path, options->type);
    if (status != STATUS_OK) {
        weights_close(weights);
        return status;
    }
    *out = weights;
    return STATUS_OK;
}

void weights_close(Weights *weights) {
    if (!weights) return;
    for (size_t i = 0; i < weights->file_count; i++) {
        MappedFile *file = &weights->files[i];
        weights_guard_unwatch(file);
        if (file->bytes) munmap((void *)file->bytes, file->size_bytes);
    }
    random_data_free(weights->random_data);
    while (weights->pool) {
        PoolChunk *chunk = weights->pool;
        weights->pool = chunk->next;
        free(chunk);
    }
    free(weights->tensors_by_name);
    free(weights->metadata_by_key);
    free(weights->tensors);
    free(weights->metadata);
    free(weights->files);
    free(weights);
}

/* ---- reading ---- */

WeightsNaming weights_naming(const Weights *weights) {
    return weights->format->naming;
}

const char *weights_path(const Weights *weights) {
    return weights->path;
}

const char *weights_format_name(const Weights *weights) {
    return weights->format->name;
}

bool weights_are_random(const Weights *weights) {
    return weights->random_data != NULL;
}

const Quant *weights_type(const Weights *weights) {
    return weights->type;
}

Status weights_layer_matrix(const Weights *weights, const NamedTensor *named, Tensor *out) {
    const Tensor *tensor = &named->tensor;
    if (!weights->type || weights->random_data) {
        *out = *tensor;
        return STATUS_OK;
    }
    if (!tensor->quant || !matrix_encoded(tensor, weights->type, out))
        FAIL(TENSOR,
             "%s: tensor %s is %s, and --weight-type %s is made of matrices of f32, f16 or bf16 "
             "alone: leave it out to take them as they are",
             named->file, named->name, named->type_name, weights->type->name);
    return STATUS_OK;
}

size_t weights_tensor_count(const Weights *weights) {
    return weights->tensor_count;
}

const NamedTensor *weights_tensor(const Weights *weights, size_t index) {
    CHECK(index < weights->tensor_count);
    return &weights->tensors[index];
}

const NamedTensor *weights_find(const Weights *weights, const char *name) {
    const NamedTensor probe = {.name = name}, *key = &probe;
    const NamedTensor **found = bsearch(&key, weights->tensors_by_name, weights->tensor_count,
                                        sizeof *found, compare_names);
    return found ? *found : NULL;
}

uint64_t weights_fingerprint(const Weights *weights) {
    return weights->fingerprint;
}

size_t weights_metadata_count(const Weights *weights) {
    return weights->metadata_count;
}

const Metadata *weights_metadata(const Weights *weights, size_t index) {
    CHECK(index < weights->metadata_count);
    return &weights->metadata[index];
}

const Metadata *weights_metadata_find(const Weights *weights, const char *key) {
    const Metadata probe = {.key = key}, *wanted = &probe;
    const Metadata **found = bsearch(&wanted, weights->metadata_by_key, weights->metadata_count,
                                     sizeof *found, compare_keys);
    return found ? *found : NULL;
}

static const char *metadata_type_name(MetadataType type) {
    static const char *const names[] = {"null", "bool", "integer", "real number", "string", "list"};
    return names[type];
}

static Status refuse_value(const Weights *weights, const Metadata *entry, const char *wanted) {
    char value[32] = "";
    if (entry->type == METADATA_INTEGER) snprintf(value, sizeof value, " %" PRId64, entry->integer);
    if (entry->type == METADATA_REAL) snprintf(value, sizeof value, " %.9g", entry->real);
    return error_raise(weights->format->malformed_metadata,
                       "\"%s\": key \"%s\" is the %s%s where %s is needed; convert the model again",
                       weights->metadata_path, entry->key, metadata_type_name(entry->type), value,
                       wanted);
}

/* The entry unless it is absent or null. */
static const Metadata *find_value(const Weights *weights, const char *key) {
    const Metadata *entry = weights_metadata_find(weights, key);
    return entry && entry->type != METADATA_NULL ? entry : NULL;
}

Status weights_read_u32(const Weights *weights, const char *key, uint32_t *out) {
    const Metadata *entry = find_value(weights, key);
    if (!entry) return STATUS_NOT_FOUND;
    if (entry->type != METADATA_INTEGER || entry->integer < 0 || entry->integer > UINT32_MAX)
        return refuse_value(weights, entry, "an integer from 0 to 4294967295");
    *out = (uint32_t)entry->integer;
    return STATUS_OK;
}

Status weights_read_float(const Weights *weights, const char *key, double *out) {
    const Metadata *entry = find_value(weights, key);
    if (!entry) return STATUS_NOT_FOUND;
    if ((entry->type != METADATA_INTEGER && entry->type != METADATA_REAL) || !isfinite(entry->real))
        return refuse_value(weights, entry, "a finite number");
    *out = entry->real;
    return STATUS_OK;
}

Status weights_read_bool(const Weights *weights, const char *key, bool *out) {
    const Metadata *entry = find_value(weights, key);
    if (!entry) return STATUS_NOT_FOUND;
    if (entry->type != METADATA_BOOL) return refuse_value(weights, entry, "true or false");
    *out = entry->boolean;
    return STATUS_OK;
}

Status weights_read_string(const Weights *weights, const char *key, const char **out) {
    const Metadata *entry = find_value(weights, key);
    if (!entry) return STATUS_NOT_FOUND;
    if (entry->type != METADATA_STRING) return refuse_value(weights, entry, "a string");
    *out = entry->string;
    return STATUS_OK;
}

/* ---- page cache ---- */

static const MappedFile *file_of(const Weights *weights, const uint8_t *bytes) {
    for (size_t i = 0; i < weights->file_count; i++) {
        const MappedFile *file = &weights->files[i];
        if (file->bytes && bytes >= file->bytes && bytes < file->bytes + file->size_bytes)
            return file;
    }
    return NULL;
}

/* Whole pages, those at both ends too: a neighbour's part comes back when it is read. */
typedef struct PageRange {
    uint8_t *address;
    size_t bytes;
} PageRange;

static PageRange pages_of(const Tensor *tensor) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE),
              first = (uintptr_t)tensor->data & ~(page - 1);
    return (PageRange){(uint8_t *)first,
                       align_up((uintptr_t)tensor->data + tensor->bytes, page) - first};
}

void weights_read_alone(const Weights *weights) {
    for (size_t i = 0; i < weights->file_count; i++)
        if (weights->files[i].bytes)
            madvise((void *)weights->files[i].bytes, weights->files[i].size_bytes, MADV_RANDOM);
}

/* The kernel takes no more of a call than it reads ahead, 128 KiB by default. */
enum { EXPECT_BYTES = 128 << 10 };

void weights_expect(const Weights *weights, const Tensor *tensor) {
    PageRange pages = pages_of(tensor);
    if (!file_of(weights, tensor->data)) return;
    for (size_t at = 0; at < pages.bytes; at += EXPECT_BYTES) {
        size_t left = pages.bytes - at;
        madvise(pages.address + at, left < EXPECT_BYTES ? left : EXPECT_BYTES, MADV_WILLNEED);
    }
}

void weights_forget(const Weights *weights, const Tensor *tensor) {
    PageRange pages = pages_of(tensor);
    const MappedFile *file = file_of(weights, tensor->data);
    if (!file && !random_data_maps(weights->random_data, tensor->data)) return;
    madvise(pages.address, pages.bytes, MADV_DONTNEED);
    int descriptor = file ? open(file->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
    if (descriptor < 0) return;
    posix_fadvise(descriptor, (off_t)(pages.address - file->bytes), (off_t)pages.bytes,
                  POSIX_FADV_DONTNEED);
    close(descriptor);
}

/* ---- files beside the weights ---- */

enum { SIDE_FILE_BYTES_MAX = 256 << 20 };

static Status read_whole(int descriptor, const char *path, uint64_t size_bytes, char *out) {
    for (uint64_t at = 0; at < size_bytes;) {
        ssize_t got = pread(descriptor, out + at, size_bytes - at, (off_t)at);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0)
            FAIL(FILE_MISSING, "\"%s\" at byte %" PRIu64 ": cannot be read: %s", path, at,
                 got < 0 ? strerror(errno) : "the file became shorter");
        at += (uint64_t)got;
    }
    return STATUS_OK;
}

static Status read_side_file(int descriptor, const char *path, uint64_t size_bytes,
                             char **out_text) {
    if (size_bytes > SIDE_FILE_BYTES_MAX)
        FAIL(JSON, "\"%s\": %" PRIu64 " bytes long, the limit is %d MiB; fetch the model again",
             path, size_bytes, SIDE_FILE_BYTES_MAX >> 20);
    void *text = NULL;
    TRY(memory_take(&text, size_bytes + 1, 1, path));
    Status status = read_whole(descriptor, path, size_bytes, text);
    if (status == STATUS_OK)
        *out_text = text;
    else
        free(text);
    return status;
}

Status weights_read_side_file(const Weights *weights, const char *name, char **out_text,
                              size_t *out_bytes) {
    CHECK(!strchr(name, '/') && name[0] != '.');
    if (!weights->folder) return STATUS_NOT_FOUND;
    char path[4096];
    uint64_t size_bytes;
    int written = snprintf(path, sizeof path, "%s/%s", weights->folder, name);
    if (written < 0 || (size_t)written >= sizeof path) return STATUS_NOT_FOUND;
    int descriptor = open_ordinary(path, &size_bytes);
    if (descriptor < 0 && errno == ENOENT) return STATUS_NOT_FOUND;
    if (descriptor < 0) FAIL(FILE_MISSING, "\"%s\": cannot be opened: %s", path, strerror(errno));
    Status status = read_side_file(descriptor, path, size_bytes, out_text);
    close(descriptor);
    if (status == STATUS_OK) *out_bytes = size_bytes;
    return status;
}
