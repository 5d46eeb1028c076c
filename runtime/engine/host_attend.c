#include "runtime/engine/host_attend.h"

#include <stdlib.h>

#include "kernels/backend.h"
#include "runtime/base/arena.h"
#include "runtime/base/invariant.h"
#include "runtime/base/monotonic.h"

struct HostAttend {
    HostAttendOptions options;
    Device *host;          /* of the CPU's backend */
    Kernels kernels;       /* the CPU's */
    KernelContext context; /* for them */
    DeviceEvent *asked;    /* the queries are here */
    float *q;              /* pinned, [row_count][heads][head_dim] */
    float *partials;       /* pinned; as partials_of lays them out */
    float *arrived;        /* device memory, the same */
    uint32_t row_count;    /* of this layer; 0: nobody has asked */
    bool attended;         /* of this layer: partials are not empty */
    HostAttendStats stats;
};

static uint64_t query_floats(const HostAttendOptions *options, uint32_t row_count) {
    return (uint64_t)row_count * options->head_count * options->head_dim;
}

static uint64_t partial_floats(const HostAttendOptions *options, uint32_t row_count) {
    return (uint64_t)row_count * options->head_count * (options->head_dim + 2ull);
}

/* All outs, all maxima, all sums: one copy brings them up. */
static AttendEdgeArgs partials_of(const HostAttend *attend, float *memory) {
    const HostAttendOptions *options = &attend->options;
    float *maxima = memory + query_floats(options, attend->row_count);
    return (AttendEdgeArgs){.row_count = attend->row_count,
                            .head_count = options->head_count,
                            .head_dim = options->head_dim,
                            .maxima = maxima,
                            .sums = maxima + (uint64_t)attend->row_count * options->head_count,
                            .out = memory};
}

uint64_t host_attend_bytes(const HostAttendOptions *options, MemoryPlace place) {
    uint64_t queries = place == MEMORY_HOST ? query_floats(options, options->row_count) : 0;
    return (queries + partial_floats(options, options->row_count)) * sizeof(float);
}

static Status open_kernels(HostAttend *attend) {
    const HostAttendOptions *options = &attend->options;
    const BackendOptions backend = {.cpu_isa = options->cpu_isa};
    TRY(backend_open("cpu", &backend, &attend->host, &attend->kernels));
    attend->context.team = options->context->team;
    const KernelLimits limits = {.row_count = options->row_count,
                                 .column_count = 1, /* no products */
                                 .head_count = options->head_count,
                                 .head_dim = options->head_dim,
                                 .block_tokens = options->block_tokens};
    return attend->kernels.context_open(&attend->kernels, attend->host, &limits, &attend->context);
}

static Status take_memory(HostAttend *attend) {
    static const char what[] = "attention on the host";
    const HostAttendOptions *options = &attend->options;
    Device *device = options->device;
    uint64_t q_bytes = query_floats(options, options->row_count) * sizeof(float),
             bytes = partial_floats(options, options->row_count) * sizeof(float);
    TRY(device->memory_take(device, MEMORY_HOST, q_bytes, what, (void **)&attend->q));
    TRY(device->memory_take(device, MEMORY_HOST, bytes, what, (void **)&attend->partials));
    TRY(device->memory_take(device, MEMORY_DEVICE, bytes, what, (void **)&attend->arrived));
    return device->event_create(device, &attend->asked);
}

Status host_attend_create(HostAttend **out, const HostAttendOptions *options) {
    void *memory;
    CHECK(!options->device->host_addressable);
    TRY(memory_take(&memory, 1, sizeof(HostAttend), "attention on the host"));
    HostAttend *attend = memory;
    attend->options = *options;
    Status status = open_kernels(attend);
    if (status == STATUS_OK) status = take_memory(attend);
    if (status != STATUS_OK) {
        host_attend_destroy(attend);
        return status;
    }
    *out = attend;
    return STATUS_OK;
}

void host_attend_destroy(HostAttend *attend) {
    if (!attend) return;
    const HostAttendOptions *options = &attend->options;
    Device *device = options->device;
    uint64_t q_bytes = query_floats(options, options->row_count) * sizeof(float),
             bytes = partial_floats(options, options->row_count) * sizeof(float);
    if (attend->asked) device->event_destroy(device, attend->asked);
    if (attend->q) device->memory_give(device, MEMORY_HOST, attend->q, q_bytes);
    if (attend->partials) device->memory_give(device, MEMORY_HOST, attend->partials, bytes);
    if (attend->arrived) device->memory_give(device, MEMORY_DEVICE, attend->arrived, bytes);
    if (attend->host) {
        attend->kernels.context_close(attend->host, &attend->context);
        attend->host->close(attend->host);
    }
    free(attend);
}

Status host_attend_ask(HostAttend *attend, const AttendArgs *args, uint32_t row_count) {
    const HostAttendOptions *options = &attend->options;
    Device *device = options->device;
    uint64_t bytes = query_floats(options, row_count) * sizeof(float);
    if (attend->row_count > 0) return STATUS_OK;
    CHECK(row_count > 0 && row_count <= options->row_count &&
          args->head_count == options->head_count && args->shape.head_dim == options->head_dim &&
          args->q_stride == (uint64_t)options->head_count * options->head_dim);
    TRY(device->copy(device, options->context->stream, attend->q, args->q, bytes));
    TRY(device->event_record(device, attend->asked, options->context->stream));
    attend->row_count = row_count;
    attend->stats.moved_bytes += bytes;
    return STATUS_OK;
}

/* The queries came down behind the partials that went up in the layer before: those may be written again. */
Status host_attend_run(HostAttend *attend, const AttendArgs *args) {
    Device *device = attend->options.device;
    double start = monotonic_seconds();
    CHECK(attend->row_count > 0);
    AttendEdgeArgs partials = partials_of(attend, attend->partials);
    if (!attend->attended) {
        TRY(device->event_wait(device, attend->asked));
        attend->kernels.attend_begin(&attend->context, &partials);
        attend->attended = true;
    }
    AttendArgs host = *args;
    host.q = attend->q;
    host.maxima = partials.maxima;
    host.sums = partials.sums;
    host.out = partials.out;
    attend->kernels.attend(&attend->context, &host);
    attend->stats.seconds += monotonic_seconds() - start;
    return STATUS_OK;
}

Status host_attend_merge(HostAttend *attend, const AttendEdgeArgs *state) {
    const HostAttendOptions *options = &attend->options;
    Device *device = options->device;
    if (!attend->attended) return STATUS_OK;
    uint64_t bytes = partial_floats(options, attend->row_count) * sizeof(float);
    AttendEdgeArgs partials = partials_of(attend, attend->arrived);
    AttendMergeArgs args = {
        .state = *state, .maxima = partials.maxima, .sums = partials.sums, .out = partials.out};
    args.state.row_count = attend->row_count;
    TRY(device->copy(device, options->context->stream, attend->arrived, attend->partials, bytes));
    options->kernels->attend_merge(options->context, &args);
    attend->stats.moved_bytes += bytes;
    attend->row_count = 0;
    attend->attended = false;
    return STATUS_OK;
}

const char *host_attend_kernels_name(const HostAttend *attend) {
    return attend->kernels.name;
}

HostAttendStats host_attend_stats(const HostAttend *attend) {
    return attend->stats;
}
