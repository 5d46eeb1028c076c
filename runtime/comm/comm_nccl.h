#ifndef RUNTIME_COMM_COMM_NCCL_H
#define RUNTIME_COMM_COMM_NCCL_H

/* Sums over ranks that stay on the devices: slices are exchanged by grouped sends and receives, added in rank order by the `add`
 * kernel, and sent to all; so the bits are those of comm_all_reduce, which an all-reduce of the library's own would not promise.
 *
 * All of it is work on a stream of its own, which starts after what the compute stream has by then and which the compute stream
 * waits for. A communicator that breaks is E-COMM, one that does not get on in time E-PEER-LOST, both with rank, device and
 * call; it is aborted first, so that its device comes free. Marks (device_marks.h) tell what a wait is for: peers have their time only once all
 * that is in front of their part has passed; until then it is the own device, which has a little less of it for each piece of its work, and
 * is E-DEVICE-LOST. So the rank whose device hangs speaks first. A wait on a stream elsewhere knows no such limit: there the
 * watchdog ends the process, and before it the communicator, through comm_abort: a wait on a stream then comes back, and the next
 * call here is STATUS_PEER without a word.
 *
 *     comm_nccl_create → comm_nccl_join → comm_nccl_all_reduce …, comm_nccl_settle before ranks talk otherwise → destroy
 *
 * Borrows all that its options name. One thread, the one that made the Comm. */

#include "kernels/kernels.h"
#include "runtime/comm/comm.h"
#include "runtime/comm/nccl_api.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct CommNccl CommNccl;

typedef struct CommNcclOptions {
    const NcclApi *api;
    Comm *comm; /* for the start, and for its counters */
    Device *device;
    const Kernels *kernels;
    const KernelContext *context; /* its stream: work before and after a sum */
    double timeout_seconds;       /* of any one wait for peers; 0: none */
} CommNcclOptions;

/* Takes what this rank needs of its device; no rank hears of it. */
Status comm_nccl_create(CommNccl **out, const CommNcclOptions *options);

/* What comm_nccl_create takes of its memory. */
uint64_t comm_nccl_device_bytes(int rank_count);

/* Ends the communicator, in step with its peers where all went well. Takes NULL. */
void comm_nccl_destroy(CommNccl *nccl);

/* Makes the communicator. Collective. */
Status comm_nccl_join(CommNccl *nccl);

/* data[count] in device memory = sum over ranks; on its way on return, for what the compute stream gets from then on. Collective. */
Status comm_nccl_all_reduce(CommNccl *nccl, float *data, uint64_t count);

/* Before the compute stream gets more: waits, if need be, until the oldest sums on their way have come through. So no wait is for many. */
Status comm_nccl_keep_pace(CommNccl *nccl);

/* Waits until every sum so far has come through. */
Status comm_nccl_settle(CommNccl *nccl);

/* The same, and for all that the compute stream has besides. */
Status comm_nccl_wait(CommNccl *nccl);

SPILLWAY_EXTERN_C_END

#endif
