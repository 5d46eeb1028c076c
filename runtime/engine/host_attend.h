#ifndef RUNTIME_ENGINE_HOST_ATTEND_H
#define RUNTIME_ENGINE_HOST_ATTEND_H

/* Attention on the host, for a device whose memory it cannot reach: blocks in host memory are attended where they lie, by the CPU's
 * kernels, while the device attends those that it has (FlexGen's CPU attention, arXiv 2303.06865). Of a layer the queries come down once,
 * and one partial (max, sum, out) a row and head goes up, to be merged behind what the device has attended.
 *
 *     for each layer: as often as there are runs of blocks:  host_attend_ask, the device's attention, host_attend_run
 *                     then host_attend_merge
 *
 * It borrows the device, its kernels, stream and team. One thread. Nothing is allocated after create. */

#include "kernels/kernels.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct HostAttend HostAttend;

typedef struct HostAttendOptions {
    Device *device;
    const Kernels *kernels;       /* of the device */
    const KernelContext *context; /* of the device; its team works for the host, too */
    const char *cpu_isa;
    uint32_t row_count; /* at most, of a layer */
    uint32_t head_count, head_dim, block_tokens;
} HostAttendOptions;

typedef struct HostAttendStats {
    uint64_t moved_bytes; /* queries and partials, over the link */
    double seconds;       /* of the CPU's kernels, with the wait for queries */
} HostAttendStats;

Status host_attend_create(HostAttend **out, const HostAttendOptions *options);
void host_attend_destroy(HostAttend *attend); /* takes NULL */
/* What create takes there. */
uint64_t host_attend_bytes(const HostAttendOptions *options, MemoryPlace place);

/* Queries of rows [0, row_count) start their way down, behind what is on the stream; not again in the same layer. Rows of args->q lie
 * side by side. */
Status host_attend_ask(HostAttend *attend, const AttendArgs *args, uint32_t row_count);
/* Waits for the queries, and attends args->runs, of those rows, whose blocks are host memory. */
Status host_attend_run(HostAttend *attend, const AttendArgs *args);
/* What was attended since the layer began folds into the device's state, on the stream; nothing, where nothing was. */
Status host_attend_merge(HostAttend *attend, const AttendEdgeArgs *state);

const char *host_attend_kernels_name(const HostAttend *attend); /* "avx512" */
HostAttendStats host_attend_stats(const HostAttend *attend);

SPILLWAY_EXTERN_C_END

#endif
