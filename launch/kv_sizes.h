#ifndef LAUNCH_KV_SIZES_H
#define LAUNCH_KV_SIZES_H

/* The KV budgets of this rank, and where its spill files go, from what was asked for: per cent are of what is free now,
 * and the ranks of a node share its memory and its disks. Every rank must have asked before one takes anything. What the device
 * has free, only the engine can ask. */

#include "launch/settings.h"
#include "tiers/tier_manager.h"

SPILLWAY_EXTERN_C_BEGIN

/* A folder that nobody named, and the environment variable that did. */
typedef struct ScratchFolder {
    const char *path, *variable;
} ScratchFolder;

typedef struct KvSizes {
    uint64_t bytes[TIER_COUNT]; /* as EngineOptions.kv_bytes */
    double device_per_cent;     /* as EngineOptions.kv_device_per_cent */
    const char *const *nvme_dirs;
    uint32_t nvme_dir_count;
    ScratchFolder scratch; /* what nvme_dirs points to when no folder was given */
} KvSizes;

/* `out` stays where it is while nvme_dirs is used. E-USAGE: a folder without a size, or a size without a
 * folder where the environment names no disk of this machine. E-SPILL-CREATE: no such
 * folder. E-UNAVAILABLE: free memory is not told here. */
Status kv_sizes_resolve(const Settings *settings, int local_ranks, KvSizes *out);

/* The first of $SLURM_TMPDIR, $TMPDIR and $PBS_JOBDIR that names a disk of this machine: nobody asked for that very folder, so one
 * that is slow, or frees no memory, is not taken, but told of in *out_refused. */
bool scratch_find(ScratchFolder *out, char *out_refused, size_t refused_bytes);

SPILLWAY_EXTERN_C_END

#endif
