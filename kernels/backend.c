#include "kernels/backend.h"

#include <string.h>

#define BACKEND(name) extern const Backend backend_##name;
#include "kernels/backend_rows.h"
#undef BACKEND

const Backend *const backends[] = {
#define BACKEND(name) &backend_##name,
#include "kernels/backend_rows.h"
#undef BACKEND
    NULL,
};

static const Backend *backend_choose(const char *name) {
    bool automatic = !strcmp(name, "auto");
    const char *reason;
    for (size_t i = 0; backends[i]; i++)
        if (automatic ? backends[i]->automatic && backends[i]->probe(&reason) == STATUS_OK
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

bool backend_find_device(const char *name, const BackendOptions *options, BackendDevice *out) {
    const char *reason;
    const Backend *backend = backend_choose(name);
    return backend && backend->find && backend->probe(&reason) == STATUS_OK &&
           backend->find(options, out);
}
