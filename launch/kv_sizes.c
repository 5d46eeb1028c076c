#include "launch/kv_sizes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "runtime/base/machine.h"

static Status memory_bytes(const OptionSize *size, const char *option, int local_ranks,
                           uint64_t *out) {
    uint64_t free_bytes = machine_available_bytes();
    if (free_bytes == 0)
        FAIL(UNAVAILABLE, "/proc/meminfo does not tell the free memory: give --%s in bytes",
             option);
    *out = (uint64_t)((double)free_bytes * size->per_cent / 100 / local_ranks);
    return STATUS_OK;
}

/* What a folder can hold when all that lie on its file system get the same. */
static Status disk_share(const KvSizes *sizes, uint32_t index, uint64_t *out) {
    struct statvfs space;
    struct stat found, other;
    const char *path = sizes->nvme_dirs[index];
    if (stat(path, &found) != 0 || statvfs(path, &space) != 0)
        FAIL(SPILL_CREATE, "spill directory \"%s\": %s; see --kv-nvme-dir", path, strerror(errno));
    uint64_t sharers = 0;
    for (uint32_t i = 0; i < sizes->nvme_dir_count; i++)
        sharers += stat(sizes->nvme_dirs[i], &other) == 0 && other.st_dev == found.st_dev;
    *out = (uint64_t)space.f_bavail * space.f_frsize / (sharers > 0 ? sharers : 1);
    return STATUS_OK;
}

/* Spill files are of one size, so the fullest disk decides. */
static Status disk_bytes(const KvSizes *sizes, double per_cent, uint64_t *out) {
    uint64_t least = UINT64_MAX;
    for (uint32_t i = 0; i < sizes->nvme_dir_count; i++) {
        uint64_t share;
        TRY(disk_share(sizes, i, &share));
        if (share < least) least = share;
    }
    *out = (uint64_t)((double)least * sizes->nvme_dir_count * per_cent / 100);
    return STATUS_OK;
}

const char *kv_sizes_default_dir(void) {
    static const char *const variables[] = {"SLURM_TMPDIR", "TMPDIR", "PBS_JOBDIR"};
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++) {
        const char *value = getenv(variables[i]);
        if (value && value[0]) return value;
    }
    return NULL;
}

static Status choose_dirs(const Settings *settings, KvSizes *out) {
    out->nvme_dirs = settings->kv_nvme_dir.items;
    out->nvme_dir_count = (uint32_t)settings->kv_nvme_dir.count;
    if (out->nvme_dir_count > 0) return STATUS_OK;
    out->default_dir = kv_sizes_default_dir();
    if (out->default_dir) {
        out->nvme_dirs = &out->default_dir;
        out->nvme_dir_count = 1;
        return STATUS_OK;
    }
    FAIL(USAGE, "--kv-nvme-size is given, but no --kv-nvme-dir, and SLURM_TMPDIR, TMPDIR and "
                "PBS_JOBDIR are not set: say where");
}

Status kv_sizes_resolve(const Settings *settings, int local_ranks, KvSizes *out) {
    const OptionSize *device = &settings->kv_device_size, *host = &settings->kv_host_size,
                     *nvme = &settings->kv_nvme_size;
    *out = (KvSizes){.bytes = {device->bytes, host->bytes / (uint64_t)local_ranks, nvme->bytes}};
    if (device->per_cent > 0)
        TRY(memory_bytes(device, "kv-device-size", local_ranks, &out->bytes[TIER_DEVICE]));
    if (host->per_cent > 0)
        TRY(memory_bytes(host, "kv-host-size", local_ranks, &out->bytes[TIER_HOST]));
    bool on_disk = nvme->per_cent > 0 || nvme->bytes > 0;
    if (settings->placement) { /* which makes the sizes */
        out->nvme_dirs = settings->kv_nvme_dir.items;
        out->nvme_dir_count = (uint32_t)settings->kv_nvme_dir.count;
        return STATUS_OK;
    }
    if (!on_disk && settings->kv_nvme_dir.count > 0)
        FAIL(USAGE, "--kv-nvme-dir is given, but no --kv-nvme-size: say how much may lie there, as "
                    "in 64GiB or 50%%");
    if (!on_disk) return STATUS_OK;
    TRY(choose_dirs(settings, out));
    if (nvme->per_cent > 0) TRY(disk_bytes(out, nvme->per_cent, &out->bytes[TIER_NVME]));
    out->bytes[TIER_NVME] /= (uint64_t)local_ranks;
    return STATUS_OK;
}
