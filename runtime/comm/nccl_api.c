#include "runtime/comm/nccl_api.h"

#include <string.h>

#define NCCL_LIBRARY(name) extern const NcclLibrary nccl_##name;
#include "runtime/comm/nccl_rows.h"
#undef NCCL_LIBRARY

static const NcclLibrary *const libraries[] = {
#define NCCL_LIBRARY(name) &nccl_##name,
#include "runtime/comm/nccl_rows.h"
#undef NCCL_LIBRARY
    NULL,
};

const NcclLibrary *nccl_library_find(const char *name) {
    for (const NcclLibrary *const *row = libraries; *row; row++)
        if (!strcmp((*row)->name, name)) return *row;
    return NULL;
}
