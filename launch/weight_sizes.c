#include "launch/weight_sizes.h"

#include <stdio.h>
#include <string.h>

/* What streams is read from the file itself; the folder says which disk that is. */
static Status use_packed(const Settings *settings, WeightSizes *out) {
    const char *path = settings->packed_weights, *slash = strrchr(path, '/');
    int bytes = slash ? (int)(slash - path) + (slash == path) : 1;
    if (settings->weights_nvme_dir.count > 0)
        FAIL(USAGE, "--weights-nvme-dir is given, but layers are read from --packed-weights");
    if (strlen(path) >= PATH_MAX) FAIL(USAGE, "--packed-weights: the name is too long");
    snprintf(out->packed_folder, sizeof out->packed_folder, "%.*s", bytes, slash ? path : ".");
    out->packed_dir = out->packed_folder;
    out->nvme_dirs = &out->packed_dir;
    out->nvme_dir_count = 1;
    return STATUS_OK;
}

static void choose_dirs(const Settings *settings, const KvSizes *kv, WeightSizes *out) {
    if (out->nvme_dir_count > 0) return;
    out->nvme_dirs = settings->weights_nvme_dir.items;
    out->nvme_dir_count = (uint32_t)settings->weights_nvme_dir.count;
    if (out->nvme_dir_count > 0) return;
    out->nvme_dirs = kv->nvme_dirs;
    out->nvme_dir_count = kv->nvme_dir_count;
    if (out->nvme_dir_count > 0) return;
    char refused[1024];
    out->nvme_dirs = &out->scratch.path;
    out->nvme_dir_count = scratch_find(&out->scratch, refused, sizeof refused);
}

Status weight_sizes_resolve(const Settings *settings, const KvSizes *kv, WeightSizes *out) {
    const OptionSize *device = &settings->weights_device_size, *host = &settings->weights_host_size,
                     *limit = &settings->memory_limit;
    *out = (WeightSizes){.memory_limit_bytes = limit->bytes};
    if (limit->per_cent > 0) FAIL(USAGE, "--memory-limit takes bytes, as in 20GiB");
    if (settings->packed_weights) TRY(use_packed(settings, out));
    bool all = device->per_cent >= 100;
    if (settings->placement) { /* which makes the sizes */
        choose_dirs(settings, kv, out);
        return STATUS_OK;
    }
    if (all && settings->weights_nvme_dir.count > 0)
        FAIL(USAGE, "--weights-nvme-dir is given, but all layers stay in memory: say with "
                    "--weights-device-size how much may");
    if (all) return STATUS_OK;
    bool least = device->bytes == OPTION_SIZE_LEAST && device->per_cent == 0;
    out->bytes[TIER_DEVICE] = least ? 0 : device->bytes;
    out->per_cent[TIER_DEVICE] = device->per_cent;
    out->bytes[TIER_HOST] = host->bytes;
    out->per_cent[TIER_HOST] = host->per_cent;
    choose_dirs(settings, kv, out);
    bool nowhere = least && host->bytes == 0 && host->per_cent == 0 && out->nvme_dir_count == 0;
    if (nowhere)
        FAIL(USAGE,
             "--weights-device-size min: say with --weights-nvme-dir where the layers may lie, "
             "or with --weights-host-size how much in host memory");
    out->bytes[TIER_NVME] = out->nvme_dir_count > 0 ? UINT64_MAX : 0;
    return STATUS_OK;
}
