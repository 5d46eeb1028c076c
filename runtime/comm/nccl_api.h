#ifndef RUNTIME_COMM_NCCL_API_H
#define RUNTIME_COMM_NCCL_API_H

/* The few functions of NCCL that sums over devices need, as a table: NCCL's own, found at run time in libnccl.so.2 (no header and no
 * library are needed to build), or a twin over emulated devices. Types, numbers and signatures are those of nccl.h 2.28.9, where a
 * DeviceStream stands for the cudaStream_t that it is on a GPU; every function gives an ncclResult_t.
 *
 * Communicators are non-blocking: a call may answer NCCL_IN_PROGRESS, and then comm_async_error tells when it is through. A
 * communicator is used by one thread at a time, with its device current on that thread. Only comm_abort ends one whose peers are
 * gone. */

#include <stdbool.h>
#include <stddef.h>

#include "kernels/device.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct NcclComm NcclComm; /* ncclComm_t points to one */

enum {
    NCCL_SUCCESS = 0,
    NCCL_SYSTEM_ERROR = 2,
    NCCL_INVALID_ARGUMENT = 4,
    NCCL_REMOTE_ERROR = 6,
    NCCL_IN_PROGRESS = 7,
};

enum { NCCL_FLOAT32 = 7 }; /* ncclDataType_t */

typedef struct NcclUniqueId {
    char bytes[128];
} NcclUniqueId;

/* ncclConfig_t as of 2.14, the first that has `blocking`: newer libraries take it, and fill in what came after. */
typedef struct NcclConfig {
    size_t size;
    unsigned magic, version;
    int blocking;
} NcclConfig;

enum { NCCL_VERSION_LEAST = 21400 };
static const unsigned nccl_config_magic = 0xcafebeef;

typedef struct NcclApi {
    int (*get_version)(int *out);
    const char *(*error_string)(int result);
    const char *(*last_error)(NcclComm *comm); /* the last cause in words; may be "" */
    int (*get_unique_id)(NcclUniqueId *out);   /* on rank 0 */
    int (*comm_init)(NcclComm **out, int size, NcclUniqueId id, int rank, NcclConfig *config);
    int (*comm_async_error)(NcclComm *comm, int *out_state);
    int (*comm_finalize)(NcclComm *comm); /* all that was put on streams comes to its end */
    int (*comm_destroy)(NcclComm *comm);
    int (*comm_abort)(NcclComm *comm); /* frees it; what it has on streams ends, with any result */
    int (*group_start)(void);
    int (*group_end)(void); /* puts the sends and receives since then on their stream, as one */
    int (*send)(const void *data, size_t count, int type, int peer, NcclComm *comm,
                DeviceStream *stream);
    int (*recv)(void *data, size_t count, int type, int peer, NcclComm *comm, DeviceStream *stream);
} NcclApi;

/* A row is `const NcclLibrary nccl_<name>` and a word in runtime/comm/meson.build. */
typedef struct NcclLibrary {
    const char *name; /* what Device.collectives says */
    bool automatic;   /* --comm auto may take it */
    const char *text; /* for people */
    uint64_t
        own_bytes; /* of device memory to leave for what it takes itself, in all of a communicator's life */
    /* NULL: it is not here, and *out_reason, which lives as long as the program, says why. Any thread. */
    const NcclApi *(*open)(const char **out_reason);
} NcclLibrary;

const NcclLibrary *nccl_library_find(const char *name); /* NULL: not in this build */

SPILLWAY_EXTERN_C_END

#endif
