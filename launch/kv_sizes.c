#include "launch/kv_sizes.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "runtime/base/machine.h"
#include "tiers/spill_file.h"

static Status host_bytes(double per_cent, int local_ranks, uint64_t *out) {
    uint64_t free_bytes = machine_available_bytes();
    if (free_bytes == 0)
        FAIL(UNAVAILABLE,
             "/proc/meminfo does not tell the free memory: give --kv-host-size in bytes");
    *out = (uint64_t)((double)free_bytes * per_cent / 100 / local_ranks);
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

/* Where a job's scheduler, or its user, keeps what may be thrown away: Slurm's plugins, anybody and LSF, PBS. */
static const char *const scratch_variables[] = {"SLURM_TMPDIR", "TMPDIR", "PBS_JOBDIR"};

bool scratch_find(ScratchFolder *out, char *out_refused, size_t refused_bytes) {
    out_refused[0] = '\0';
    for (size_t i = 0; i < sizeof scratch_variables / sizeof *scratch_variables; i++) {
        const char *variable = scratch_variables[i], *path = getenv(variable);
        if (!path || !path[0]) continue;
        const char *objection = spill_directory_objection(path);
        if (!objection) {
            *out = (ScratchFolder){path, variable};
            return true;
        }
        size_t used = strlen(out_refused);
        snprintf(out_refused + used, refused_bytes - used, "; $%s, \"%.200s\": %s", variable, path,
                 objection);
    }
    return false;
}

static Status choose_dirs(const Settings *settings, KvSizes *out) {
    out->nvme_dirs = settings->kv_nvme_dir.items;
    out->nvme_dir_count = (uint32_t)settings->kv_nvme_dir.count;
    if (out->nvme_dir_count > 0) return STATUS_OK;
    char refused[1024];
    if (!scratch_find(&out->scratch, refused, sizeof refused))
        FAIL(USAGE,
             "--kv-nvme-size is given, but no --kv-nvme-dir, and none of $SLURM_TMPDIR, $TMPDIR, "
             "$PBS_JOBDIR is a disk of this machine: say where%s",
             refused);
    out->nvme_dirs = &out->scratch.path;
    out->nvme_dir_count = 1;
    return STATUS_OK;
}

Status kv_sizes_resolve(const Settings *settings, int local_ranks, KvSizes *out) {
    const OptionSize *device = &settings->kv_device_size, *host = &settings->kv_host_size,
                     *nvme = &settings->kv_nvme_size;
    *out = (KvSizes){.bytes = {device->bytes, host->bytes / (uint64_t)local_ranks, nvme->bytes},
                     .device_per_cent = device->per_cent};
    if (host->per_cent > 0) TRY(host_bytes(host->per_cent, local_ranks, &out->bytes[TIER_HOST]));
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
