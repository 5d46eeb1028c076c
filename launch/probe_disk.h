#ifndef LAUNCH_PROBE_DISK_H
#define LAUNCH_PROBE_DISK_H

/* What spill files in a folder give through the ring: reads of two sizes, writes, and what a core does for a
 * byte that is read and checked. About three seconds and 256 MiB of disk, which are given back. */

#include "runtime/engine/plan_machine.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct ProbeDiskOptions {
    const char *directory;
    const char *io_engine;
    uint32_t io_depth; /* 0: auto */
} ProbeDiskOptions;

/* Sets the speeds of the disk. E-SPILL-CREATE, E-SPILL-SPACE, E-IO-ENGINE, E-SPILL-IO. */
Status probe_disk(const ProbeDiskOptions *options, PlanMachine *machine);

SPILLWAY_EXTERN_C_END

#endif
