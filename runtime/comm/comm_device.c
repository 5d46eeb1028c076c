#include "runtime/comm/comm_device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/comm/device_marks.h"

/* Large enough that a message hides its latency, small beside what is pinned otherwise. */
enum { BOUNCE_FLOATS = 1 << 20 };

/* ---- which way */

/* What a rank says about itself; equal identities are one device. */
typedef struct Candidate {
    char identity[96];
    char refusal[192]; /* "": it could */
} Candidate;

static void refuse(Candidate *candidate, const char *reason) {
    snprintf(candidate->refusal, sizeof candidate->refusal, "%s", reason);
}

/* Makes what this rank would need; where that fails, the refusal says why and nothing is left. */
static void prepare(const CommDeviceOptions *options, Candidate *candidate, CommNccl **out) {
    const Device *device = options->device;
    bool automatic = !options->choice || !strcmp(options->choice, "auto");
    const char *reason = "";
    const NcclLibrary *library =
        device->collectives ? nccl_library_find(device->collectives) : NULL;
    if (!library) return refuse(candidate, "its device has no collectives of its own");
    if (automatic && !library->automatic)
        return refuse(candidate, "an emulated device does it only when it is asked to");
    snprintf(candidate->identity, sizeof candidate->identity, "%s", device->identity);
    CommNcclOptions nccl = {.api = library->open(&reason),
                            .comm = options->comm,
                            .device = options->device,
                            .kernels = options->kernels,
                            .context = options->context,
                            .timeout_seconds = options->timeout_seconds};
    if (!nccl.api) return refuse(candidate, reason);
    error_capture_begin();
    Status status = comm_nccl_create(out, &nccl);
    error_capture_end();
    (void)error_last(&reason);
    if (status != STATUS_OK) refuse(candidate, reason);
}

/* Why the ranks cannot, the same on each; false: they can. */
static bool find_obstacle(const Candidate *candidates, int size, char *out, size_t out_bytes) {
    for (int rank = 0; rank < size; rank++) {
        const Candidate *mine = &candidates[rank];
        if (mine->refusal[0]) {
            snprintf(out, out_bytes, "rank %d: %s", rank, mine->refusal);
            return true;
        }
        for (int lower = 0; lower < rank; lower++)
            if (!strcmp(candidates[lower].identity, mine->identity)) {
                snprintf(out, out_bytes, "ranks %d and %d share a device", lower, rank);
                return true;
            }
    }
    return false;
}

static Status compare(Comm *comm, const Candidate *mine, bool *out_obstacle, char *out,
                      size_t out_bytes) {
    void *sizes = NULL, *candidates = NULL;
    uint64_t size = (uint64_t)comm->size;
    Status status = memory_take(&sizes, size, sizeof(uint64_t), "sums over ranks");
    if (status == STATUS_OK)
        status = memory_take(&candidates, size, sizeof(Candidate), "sums over ranks");
    for (uint64_t rank = 0; status == STATUS_OK && rank < size; rank++)
        ((uint64_t *)sizes)[rank] = sizeof *mine;
    if (status == STATUS_OK) status = comm_all_gather(comm, mine, candidates, sizes);
    if (status == STATUS_OK) *out_obstacle = find_obstacle(candidates, comm->size, out, out_bytes);
    free(candidates);
    free(sizes);
    return status;
}

static Status join(CommDevice *reduce, const CommDeviceOptions *options) {
    const NcclLibrary *library = nccl_library_find(options->device->collectives);
    const char *reason;
    int version = 0;
    TRY(comm_nccl_join(reduce->nccl));
    (void)library->open(&reason)->get_version(&version);
    snprintf(reduce->text, sizeof reduce->text, "on the devices, by %s %d.%d.%d", library->text,
             version / 10000, version / 100 % 100, version % 100);
    return STATUS_OK;
}

/* By the devices, if all ranks can; nccl stays NULL if not. */
static Status choose(CommDevice *reduce, const CommDeviceOptions *options) {
    bool insists = options->choice && !strcmp(options->choice, "nccl"), obstacle = false;
    Candidate mine = {0};
    char text[256];
    prepare(options, &mine, &reduce->nccl);
    TRY(compare(options->comm, &mine, &obstacle, text, sizeof text));
    if (!obstacle) return join(reduce, options);
    comm_nccl_destroy(reduce->nccl);
    reduce->nccl = NULL;
    if (insists) FAIL(UNAVAILABLE, "--comm nccl: %s", text);
    snprintf(reduce->text, sizeof reduce->text, "through host memory: %s", text);
    return STATUS_OK;
}

static Status open_way(CommDevice *reduce, const CommDeviceOptions *options) {
    Device *device = options->device;
    if (options->choice && !strcmp(options->choice, "host"))
        snprintf(reduce->text, sizeof reduce->text, "through host memory: --comm host");
    else
        TRY(choose(reduce, options));
    if (device->host_addressable) reduce->text[0] = 0;
    if (reduce->nccl || device->host_addressable) return STATUS_OK;
    return device->memory_take(device, MEMORY_HOST, BOUNCE_FLOATS * sizeof(float),
                               "sums over ranks", (void **)&reduce->bounce);
}

uint64_t comm_device_bytes(const Comm *comm, const Device *device, const char *choice,
                           MemoryPlace place) {
    const NcclLibrary *library =
        device->collectives ? nccl_library_find(device->collectives) : NULL;
    bool by_devices = library && !(choice && !strcmp(choice, "host"));
    if (comm->size == 1 || device->host_addressable) return 0;
    if (place == MEMORY_HOST) return BOUNCE_FLOATS * sizeof(float);
    return by_devices ? comm_nccl_device_bytes(comm->size) + library->own_bytes : 0;
}

/* ---- a rank alone */

/* A mark for so many numbers: rows of a prompt have one at each half of a layer, and a decode of few rows, which is short, hardly any. As many
 * on their way as hide that the host waits for one of them. */
enum { MARK_FLOATS = 1 << 15, MARKS_AHEAD = 4 };

typedef struct CommPace {
    DeviceMarks marks;
    uint64_t floats; /* since the last mark */
} CommPace;

static Status open_pace(CommDevice *reduce) {
    void *memory;
    if (reduce->device->host_addressable) return STATUS_OK;
    TRY(memory_take(&memory, 1, sizeof(CommPace), "marks in a step"));
    reduce->pace = memory;
    return device_marks_open(&reduce->pace->marks, reduce->device);
}

static void close_pace(CommDevice *reduce) {
    if (!reduce->pace) return;
    device_marks_close(&reduce->pace->marks);
    free(reduce->pace);
}

/* Until so few marks are on their way. Where the device hangs, for ever: then the watchdog sees that no mark passes. */
static Status wait_for_marks(const CommDevice *reduce, uint64_t left) {
    DeviceMarks *marks = &reduce->pace->marks;
    while (device_marks_pending(marks) > left) {
        TRY(reduce->device->event_wait(reduce->device, device_marks_oldest(marks)->event));
        device_marks_pass(marks);
        comm_note_move(reduce->comm);
    }
    return STATUS_OK;
}

static Status keep_pace_alone(const CommDevice *reduce, uint64_t count) {
    CommPace *pace = reduce->pace;
    pace->floats += count;
    if (pace->floats < MARK_FLOATS) return STATUS_OK;
    pace->floats = 0;
    TRY(wait_for_marks(reduce, MARKS_AHEAD - 1));
    return device_marks_make(&pace->marks, reduce->stream, (DeviceMark){0});
}

/* ---- opening and closing */

Status comm_device_create(CommDevice *out, const CommDeviceOptions *options) {
    CommDevice reduce = {
        .comm = options->comm, .device = options->device, .stream = options->context->stream};
    Status status = options->comm->size > 1 ? open_way(&reduce, options) : open_pace(&reduce);
    if (status != STATUS_OK)
        comm_device_destroy(&reduce);
    else
        *out = reduce;
    return status;
}

void comm_device_destroy(CommDevice *reduce) {
    comm_nccl_destroy(reduce->nccl);
    close_pace(reduce);
    if (reduce->bounce)
        reduce->device->memory_give(reduce->device, MEMORY_HOST, reduce->bounce,
                                    BOUNCE_FLOATS * sizeof(float));
    *reduce = (CommDevice){0};
}

/* ---- sums */

/* The copy back ends before the next piece overwrites what it reads. */
static Status reduce_piece(const CommDevice *reduce, float *data, uint64_t count) {
    Device *device = reduce->device;
    uint64_t bytes = count * sizeof(float);
    TRY(device->copy(device, reduce->stream, reduce->bounce, data, bytes));
    TRY(device->stream_wait(device, reduce->stream));
    TRY(comm_all_reduce(reduce->comm, reduce->bounce, count));
    return device->copy(device, reduce->stream, data, reduce->bounce, bytes);
}

Status comm_device_keep_pace(const CommDevice *reduce, uint64_t count) {
    if (reduce->pace) return keep_pace_alone(reduce, count);
    return reduce->nccl ? comm_nccl_keep_pace(reduce->nccl) : STATUS_OK;
}

Status comm_device_all_reduce(const CommDevice *reduce, float *data, uint64_t count) {
    if (reduce->comm->size == 1) return STATUS_OK;
    if (reduce->nccl) return comm_nccl_all_reduce(reduce->nccl, data, count);
    if (!reduce->bounce) return comm_all_reduce(reduce->comm, data, count);
    for (uint64_t first = 0; first < count; first += BOUNCE_FLOATS) {
        uint64_t left = count - first;
        TRY(reduce_piece(reduce, data + first, left < BOUNCE_FLOATS ? left : BOUNCE_FLOATS));
    }
    return STATUS_OK;
}

Status comm_device_settle(const CommDevice *reduce) {
    return reduce->nccl ? comm_nccl_settle(reduce->nccl) : STATUS_OK;
}

Status comm_device_wait(const CommDevice *reduce) {
    if (reduce->nccl) return comm_nccl_wait(reduce->nccl);
    if (reduce->pace) TRY(wait_for_marks(reduce, 0));
    return reduce->device->stream_wait(reduce->device, reduce->stream);
}
