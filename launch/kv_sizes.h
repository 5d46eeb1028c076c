#ifndef LAUNCH_KV_SIZES_H
#define LAUNCH_KV_SIZES_H

/* The KV budgets of this rank in bytes, and where its spill files go, from what was asked for: per cent are of what is free now,
 * and the ranks of a node share its memory and its disks. Every rank must have asked before one takes anything. */

#include "launch/settings.h"
#include "tiers/tier_manager.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct KvSizes {
    uint64_t bytes[TIER_COUNT]; /* as EngineOptions.kv_bytes */
    const char *const *nvme_dirs;
    uint32_t nvme_dir_count;
    const char *default_dir;      /* what nvme_dirs points to when no folder was given … */
    const char *default_variable; /* … and the environment variable that named it; NULL */
} KvSizes;

/* `out` stays where it is while nvme_dirs is used. E-USAGE: a folder without a size, or a size without a
 * folder where the environment names no disk of this machine. E-SPILL-CREATE: no such
 * folder. E-UNAVAILABLE: free memory is not told here. */
Status kv_sizes_resolve(const Settings *settings, int local_ranks, KvSizes *out);

SPILLWAY_EXTERN_C_END

#endif
