#include "runtime/engine/kv_encoder_device.h"

#include <stdlib.h>

#include "runtime/base/arena.h"
#include "runtime/base/invariant.h"

typedef struct DeviceJob {
    bool out;
    uint32_t block_count;
    Status begun;        /* of putting it on the stream */
    DeviceEvent *passed; /* behind it */
} DeviceJob;

struct KvDeviceEncoder {
    Device *device;
    const Kernels *kernels;
    const KernelContext *context;
    KvLayout layout;
    DeviceJob jobs[KV_ENCODER_JOBS_MAX];
    uint32_t *refused; /* pinned, [KV_ENCODER_JOBS_MAX][KV_PACK_BLOCKS_MAX] */
};

enum { REFUSED_BYTES = KV_ENCODER_JOBS_MAX * KV_PACK_BLOCKS_MAX * sizeof(uint32_t) };

static Status fill(KvDeviceEncoder *encoder) {
    Device *device = encoder->device;
    for (uint32_t i = 0; i < KV_ENCODER_JOBS_MAX; i++)
        TRY(device->event_create(device, &encoder->jobs[i].passed));
    return device->memory_take(device, MEMORY_HOST, REFUSED_BYTES, "KV encoder",
                               (void **)&encoder->refused);
}

Status kv_device_encoder_create(KvDeviceEncoder **out, Device *device, const Kernels *kernels,
                                const KernelContext *context, const KvLayout *layout) {
    CHECK(layout->codec && layout->pack_blocks <= KV_PACK_BLOCKS_MAX);
    void *memory;
    TRY(memory_take(&memory, 1, sizeof(KvDeviceEncoder), "KV encoder"));
    KvDeviceEncoder *encoder = memory;
    encoder->device = device;
    encoder->kernels = kernels;
    encoder->context = context;
    encoder->layout = *layout;
    Status status = fill(encoder);
    if (status != STATUS_OK) {
        kv_device_encoder_destroy(encoder);
        return status;
    }
    *out = encoder;
    return STATUS_OK;
}

void kv_device_encoder_destroy(KvDeviceEncoder *encoder) {
    if (!encoder) return;
    Device *device = encoder->device;
    for (uint32_t i = 0; i < KV_ENCODER_JOBS_MAX; i++)
        if (encoder->jobs[i].passed) device->event_destroy(device, encoder->jobs[i].passed);
    device->memory_give(device, MEMORY_HOST, encoder->refused, REFUSED_BYTES);
    free(encoder);
}

static Status put_on_stream(KvDeviceEncoder *encoder, uint32_t index, const KvEncoderJob *job) {
    const KvLayout *layout = &encoder->layout;
    Device *device = encoder->device;
    void *targets[KV_PACK_BLOCKS_MAX];
    for (uint32_t i = 0; i < job->block_count; i++)
        targets[i] = job->out_bytes + i * layout->encoded_bytes;
    const KvEncodeArgs args = {.codec = layout->codec,
                               .shape = layout->shape,
                               .block_count = job->block_count,
                               .blocks = job->blocks,
                               .out_bytes = targets,
                               .refused = encoder->refused + index * KV_PACK_BLOCKS_MAX};
    TRY(encoder->kernels->kv_encode_blocks(encoder->kernels, encoder->context, &args));
    return device->event_record(device, encoder->jobs[index].passed, encoder->context->stream);
}

uint32_t kv_device_encoder_submit(KvDeviceEncoder *encoder, const KvEncoderJob *job) {
    uint32_t index = 0;
    while (index < KV_ENCODER_JOBS_MAX && encoder->jobs[index].out)
        index++;
    CHECK(index < KV_ENCODER_JOBS_MAX);
    DeviceJob *own = &encoder->jobs[index];
    own->out = true;
    own->block_count = job->block_count;
    own->begun = put_on_stream(encoder, index, job);
    return index;
}

Status kv_device_encoder_wait(KvDeviceEncoder *encoder, uint32_t job_index) {
    DeviceJob *job = &encoder->jobs[job_index];
    const uint32_t *refused = encoder->refused + job_index * KV_PACK_BLOCKS_MAX;
    CHECK(job->out);
    job->out = false;
    TRY(job->begun);
    TRY(encoder->device->event_wait(encoder->device, job->passed));
    for (uint32_t i = 0; i < job->block_count; i++)
        if (refused[i]) return STATUS_BAD_INPUT;
    return STATUS_OK;
}
