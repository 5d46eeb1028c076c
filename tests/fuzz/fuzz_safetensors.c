/* Any bytes as one of the files of a Hugging Face folder; the first says which: 's' a safetensors file, 'c' config.json, 'i' the
 * index of shards. The other files of the folder are right. */

#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/weights_promises.h"

enum { PATH_BYTES = 64 };

#define SHARD_HEADER                                                   \
    "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}," \
    "\"b\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[8,12]}}"

static const char shard[] = "\x6d\0\0\0\0\0\0\0" SHARD_HEADER "01234567abc";
static_assert(sizeof SHARD_HEADER - 1 == 0x6d, "the length before the header");

static char root[] = "/tmp/spillway-fuzz-XXXXXX";

/* A file below root that is kept open and filled again for each input. */
typedef struct FuzzedFile {
    char kind;
    const char *folder, *name;
    int descriptor;
    char folder_path[PATH_BYTES], path[2 * PATH_BYTES];
} FuzzedFile;

static FuzzedFile fuzzed_files[] = {
    {.kind = 's', .folder = "single", .name = "x.safetensors"},
    {.kind = 'c', .folder = "config", .name = "config.json"},
    {.kind = 'i', .folder = "index", .name = "model.safetensors.index.json"},
};

enum { FUZZED_FILE_COUNT = sizeof fuzzed_files / sizeof *fuzzed_files };

static const struct {
    const char *path, *content;
    size_t content_bytes;
} fixed_files[] = {
    {"config/model.safetensors", shard, sizeof shard},
    {"index/config.json", "{}", 2},
    {"index/a.safetensors", shard, sizeof shard},
};

enum { FIXED_FILE_COUNT = sizeof fixed_files / sizeof *fixed_files };

static void remove_root(void) {
    char path[2 * PATH_BYTES];
    for (size_t i = 0; i < FIXED_FILE_COUNT; i++) {
        snprintf(path, sizeof path, "%s/%s", root, fixed_files[i].path);
        unlink(path);
    }
    for (size_t i = 0; i < FUZZED_FILE_COUNT; i++) {
        unlink(fuzzed_files[i].path);
        rmdir(fuzzed_files[i].folder_path);
    }
    rmdir(root);
}

static int open_for_writing(const char *path) {
    int descriptor = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    PROMISE(descriptor >= 0);
    return descriptor;
}

static void fill(int descriptor, const void *content, size_t content_bytes) {
    PROMISE(ftruncate(descriptor, 0) == 0);
    PROMISE(pwrite(descriptor, content, content_bytes, 0) == (ssize_t)content_bytes);
}

static void make_root(void) {
    PROMISE(mkdtemp(root));
    atexit(remove_root);
    for (size_t i = 0; i < FUZZED_FILE_COUNT; i++) {
        FuzzedFile *file = &fuzzed_files[i];
        snprintf(file->folder_path, sizeof file->folder_path, "%s/%s", root, file->folder);
        PROMISE(mkdir(file->folder_path, 0700) == 0);
        snprintf(file->path, sizeof file->path, "%s/%s", file->folder_path, file->name);
        file->descriptor = open_for_writing(file->path);
    }
    for (size_t i = 0; i < FIXED_FILE_COUNT; i++) {
        char path[2 * PATH_BYTES];
        snprintf(path, sizeof path, "%s/%s", root, fixed_files[i].path);
        int descriptor = open_for_writing(path);
        fill(descriptor, fixed_files[i].content, fixed_files[i].content_bytes);
        close(descriptor);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (fuzzed_files[0].descriptor == 0) make_root();
    for (size_t i = 0; i < FUZZED_FILE_COUNT; i++) {
        FuzzedFile *file = &fuzzed_files[i];
        if (size == 0 || data[0] != (uint8_t)file->kind) continue;
        fill(file->descriptor, data + 1, size - 1);
        Weights *weights = open_quietly(file->kind == 's' ? file->path : file->folder_path);
        if (weights) check_weights_promises(weights);
        weights_close(weights);
    }
    return 0;
}
