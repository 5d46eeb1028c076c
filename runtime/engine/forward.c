#include "runtime/engine/forward.h"

#include <string.h>

#include "runtime/base/monotonic.h"

Status forward_layer(Pass *pass, uint32_t layer) {
    if (pass->progress) pass->progress(pass->progress_user);
    TRY(model_layer_acquire(pass->model, layer));
    return pass->model->config.family->layer(pass, layer);
}

Status forward_layers(Pass *pass) {
    const ModelFamily *family = pass->model->config.family;
    TRY(family->embed(pass));
    for (uint32_t layer = 0; layer < pass->model->config.layer_count; layer++)
        TRY(forward_layer(pass, layer));
    return model_layer_release(pass->model);
}

/* parts: rank after rank, each [count][its vocabulary rows] → rows [count][vocab] */
static void join_parts(const LogitsGather *gather, int rank_count, uint32_t vocab_count,
                       uint32_t count) {
    const float *part = gather->parts;
    for (int rank = 0; rank < rank_count; rank++) {
        Share share = gather->shares[rank].vocab_rows;
        uint64_t width = share_count(share);
        for (uint32_t row = 0; row < count; row++)
            memcpy(gather->rows + (uint64_t)row * vocab_count + share.begin, part + row * width,
                   width * sizeof(float));
        part += count * width;
    }
}

/* Waits for the head, where its logits have to be brought to the host. */
static Status bring_logits(const Pass *pass, uint32_t count) {
    Device *device = pass->model->device;
    DeviceStream *stream = pass->context->stream;
    uint64_t bytes = (uint64_t)count * share_count(pass->model->share.vocab_rows) * sizeof(float);
    if (pass->host_logits == pass->logits || bytes == 0) return STATUS_OK;
    TRY(device->copy(device, stream, pass->host_logits, pass->logits, bytes));
    return comm_device_wait(pass->reduce);
}

Status forward_logits(Pass *pass, const LogitsGather *gather, uint32_t first, uint32_t count,
                      const float **out_logits) {
    pass->head_first = first;
    pass->head_count = count;
    TRY(pass->model->config.family->head(pass));
    TRY(bring_logits(pass, count));
    TRY(comm_device_settle(pass->reduce));
    Comm *comm = pass->comm;
    *out_logits = pass->host_logits;
    if (comm->size == 1) return STATUS_OK;
    double start = monotonic_seconds();
    for (int rank = 0; rank < comm->size; rank++)
        gather->part_bytes[rank] =
            (uint64_t)count * share_count(gather->shares[rank].vocab_rows) * sizeof(float);
    TRY(comm_gather(comm, 0, pass->host_logits, comm->rank == 0 ? gather->parts : NULL,
                    gather->part_bytes));
    if (comm->rank == 0) join_parts(gather, comm->size, pass->model->config.vocab_count, count);
    *out_logits = comm->rank == 0 ? gather->rows : NULL;
    pass->times->collective += monotonic_seconds() - start;
    return STATUS_OK;
}
