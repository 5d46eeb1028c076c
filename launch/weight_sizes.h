#ifndef LAUNCH_WEIGHT_SIZES_H
#define LAUNCH_WEIGHT_SIZES_H

/* Where the packed layers of a rank may lie, and what it may take in all, from what was asked for. */

#include <limits.h>

#include "launch/kv_sizes.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct WeightSizes {
    uint64_t bytes[TIER_COUNT]; /* as EngineOptions.weight_bytes */
    double per_cent[TIER_COUNT];
    const char *const *nvme_dirs;
    uint32_t nvme_dir_count;
    ScratchFolder scratch; /* what nvme_dirs points to when no folder was given */
    const char *packed_dir;
    char packed_folder[PATH_MAX]; /* the same, of the file of packed weights */
    uint64_t memory_limit_bytes;
} WeightSizes;

/* `out` stays where it is while nvme_dirs is used. E-USAGE: a folder, though all layers stay in memory or are packed; per cent of a limit. */
Status weight_sizes_resolve(const Settings *settings, const KvSizes *kv, WeightSizes *out);

SPILLWAY_EXTERN_C_END

#endif
