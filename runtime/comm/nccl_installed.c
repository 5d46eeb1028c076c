/* NCCL as it is installed: opened once, at run time, so that one program also starts where it is not. */

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "runtime/comm/nccl_api.h"

extern const NcclLibrary nccl_installed;

static const char file_name[] = "libnccl.so.2";

static const struct {
    const char *symbol;
    size_t offset; /* of its slot */
} symbols[] = {
    {"ncclGetVersion", offsetof(NcclApi, get_version)},
    {"ncclGetErrorString", offsetof(NcclApi, error_string)},
    {"ncclGetLastError", offsetof(NcclApi, last_error)},
    {"ncclGetUniqueId", offsetof(NcclApi, get_unique_id)},
    {"ncclCommInitRankConfig", offsetof(NcclApi, comm_init)},
    {"ncclCommGetAsyncError", offsetof(NcclApi, comm_async_error)},
    {"ncclCommFinalize", offsetof(NcclApi, comm_finalize)},
    {"ncclCommDestroy", offsetof(NcclApi, comm_destroy)},
    {"ncclCommAbort", offsetof(NcclApi, comm_abort)},
    {"ncclGroupStart", offsetof(NcclApi, group_start)},
    {"ncclGroupEnd", offsetof(NcclApi, group_end)},
    {"ncclSend", offsetof(NcclApi, send)},
    {"ncclRecv", offsetof(NcclApi, recv)},
};

_Static_assert(sizeof(NcclApi) == sizeof symbols / sizeof *symbols * sizeof(void *),
               "a symbol for every slot");

static NcclApi api;
static char refusal[256]; /* "": the table is filled */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void open_once(void) {
    int version = 0;
    void *library = dlopen(file_name, RTLD_NOW | RTLD_LOCAL); /* for as long as the program runs */
    if (!library) {
        snprintf(refusal, sizeof refusal, "%s", dlerror());
        return;
    }
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
        void *found = dlsym(library, symbols[i].symbol);
        if (!found) {
            snprintf(refusal, sizeof refusal, "%s has no %s: 2.14 or newer is needed", file_name,
                     symbols[i].symbol);
            return;
        }
        memcpy((char *)&api + symbols[i].offset, &found, sizeof found);
    }
    if (api.get_version(&version) != NCCL_SUCCESS || version < NCCL_VERSION_LEAST)
        snprintf(refusal, sizeof refusal, "%s is of version %d: 2.14 or newer is needed", file_name,
                 version);
}

static const NcclApi *open_installed(const char **out_reason) {
    pthread_once(&once, open_once);
    *out_reason = refusal;
    return refusal[0] ? NULL : &api;
}

/* Buffers of 4 MiB a channel and peer, made when ranks first meet: an allowance, not a measurement. */
const NcclLibrary nccl_installed = {.name = "nccl",
                                    .automatic = true,
                                    .text = "NCCL",
                                    .own_bytes = 512ull << 20,
                                    .open = open_installed};
