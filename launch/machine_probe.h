#ifndef LAUNCH_MACHINE_PROBE_H
#define LAUNCH_MACHINE_PROBE_H

/* This machine for the planner: speeds, measured once and kept in $XDG_CACHE_HOME/spillway (or ~/.cache/spillway) by processor, kernels,
 * threads and the disk's device; sizes, as they are now. A probe takes about five seconds. Not for several ranks at the same time. */

#include "runtime/engine/plan_machine.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct MachineProbeOptions {
    const char *cpu_isa;
    uint32_t thread_count; /* kernels of a rank; 0: the cores */
    uint32_t rank_count, node_count;
    const char *const *
        directories; /* [directory_count] that spill files go to; speeds are of the first, times their number */
    uint32_t directory_count;
    const char *io_engine;
    uint32_t io_depth;         /* 0: auto */
    double memory_limit_bytes; /* of a rank; 0: none */
    bool renew;                /* measure, whatever is kept */
    bool only_kept;            /* never measure */
} MachineProbeOptions;

/* E-UNAVAILABLE, E-SPILL-CREATE and what the ring says. A cache that cannot be read or written is only missed. STATUS_NOT_FOUND, not
 * logged: only_kept, and nothing is. */
Status machine_probe(const MachineProbeOptions *options, PlanMachine *out);

/* That this process may use. */
uint32_t machine_core_count(void);

/* Where the speeds are kept. False: there is no such folder. */
bool machine_probe_path(const MachineProbeOptions *options, char *out, size_t out_bytes);

SPILLWAY_EXTERN_C_END

#endif
