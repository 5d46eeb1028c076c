#include "launch/model_open.h"

#include "runtime/models/model.h"

Status model_open(const Settings *settings, bool shapes, Weights **out) {
    const WeightsOptions options = {.type = settings->weight_type,
                                    .random = {.allowed = shapes || settings->random_weights,
                                               .seed = (uint64_t)settings->weight_seed,
                                               .list_tensors = model_list_tensors}};
    Weights *weights;
    TRY(weights_open_with(&weights, settings->model, &options));
    if (settings->random_weights && !weights_are_random(weights)) {
        weights_close(weights);
        FAIL(USAGE, "--random-weights is given, but \"%s\" has weights of its own: leave it out",
             settings->model);
    }
    *out = weights;
    return STATUS_OK;
}
