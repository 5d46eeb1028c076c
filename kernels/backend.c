#include "kernels/backend.h"

#include <string.h>

extern const Backend backend_cpu;

const Backend *const backends[] = {&backend_cpu, NULL};

static const Backend *backend_choose(const char *name) {
    const char *reason;
    for (size_t i = 0; backends[i]; i++)
        if (!strcmp(name, "auto") ? backends[i]->probe(&reason) == STATUS_OK
                                  : !strcmp(name, backends[i]->name))
            return backends[i];
    return NULL;
}

Status backend_open(const char *name, const BackendOptions *options, Device **out_device,
                    Kernels *out_kernels) {
    const Backend *backend = backend_choose(name);
    if (!backend) FAIL(UNAVAILABLE, "backend %s is not in this build", name);
    const char *reason = "";
    if (backend->probe(&reason) != STATUS_OK)
        FAIL(UNAVAILABLE, "backend %s cannot run here: %s", name, reason);
    return backend->open(options, out_device, out_kernels);
}
