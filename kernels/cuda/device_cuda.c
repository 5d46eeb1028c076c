#include "kernels/cuda/device_cuda.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cuda_runtime.h>

#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/digest.h"
#include "runtime/base/arena.h"

typedef struct CudaDevice {
    Device device;
    int index;
    int levels[STREAM_PRIORITY_COUNT]; /* CUDA's: lower goes first */
    char name[48];                     /* "cuda:0" */
    char identity[2 * sizeof(cudaUUID_t) + 1];
    char model[sizeof(((struct cudaDeviceProp *)0)->name)]; /* "NVIDIA H100 80GB HBM3" */
} CudaDevice;

/* ---- errors */

/* The first error that could not be returned: a literal and a cudaError_t, written once. */
static _Atomic(const char *) noted_what;
static _Atomic int noted_error;

void cuda_note(cudaError_t error, const char *what) {
    const char *none = NULL;
    if (error == cudaSuccess) return;
    if (atomic_compare_exchange_strong(&noted_what, &none, what)) atomic_store(&noted_error, error);
}

/* All that are not here are DEVICE_FAULT_OTHER. What the driver reports as an Xid comes as one of these. */
static const struct {
    cudaError_t error;
    DeviceFault fault;
} faults[] = {
    {cudaErrorMemoryAllocation, DEVICE_FAULT_MEMORY},
    {cudaErrorECCUncorrectable, DEVICE_FAULT_ECC},
#if CUDART_VERSION >= 12080
    {cudaErrorContained,
     DEVICE_FAULT_ECC}, /* of its hardware; what it spoilt is this process's alone */
#endif
    {cudaErrorNoDevice, DEVICE_FAULT_LOST},
    {cudaErrorInvalidDevice, DEVICE_FAULT_LOST},
    {cudaErrorDevicesUnavailable, DEVICE_FAULT_LOST},
    {cudaErrorSystemNotReady, DEVICE_FAULT_LOST},
    {cudaErrorContextIsDestroyed, DEVICE_FAULT_LOST},
    {cudaErrorMpsClientTerminated, DEVICE_FAULT_LOST},
    {cudaErrorLaunchFailure, DEVICE_FAULT_KERNEL},
    {cudaErrorLaunchTimeout, DEVICE_FAULT_KERNEL},
    {cudaErrorIllegalAddress, DEVICE_FAULT_KERNEL},
    {cudaErrorMisalignedAddress, DEVICE_FAULT_KERNEL},
    {cudaErrorInvalidAddressSpace, DEVICE_FAULT_KERNEL},
    {cudaErrorInvalidPc, DEVICE_FAULT_KERNEL},
    {cudaErrorIllegalInstruction, DEVICE_FAULT_KERNEL},
    {cudaErrorHardwareStackError, DEVICE_FAULT_KERNEL},
    {cudaErrorAssert, DEVICE_FAULT_KERNEL},
    {cudaErrorNvlinkUncorrectable, DEVICE_FAULT_LINK},
};

DeviceFault cuda_fault(cudaError_t error) {
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        if (faults[i].error == error) return faults[i].fault;
    return DEVICE_FAULT_OTHER;
}

static Status raise_error(const Device *device, const char *what, cudaError_t error) {
    const CudaDevice *cuda = device->state;
    char name[sizeof cuda->name + sizeof cuda->model + 4];
    snprintf(name, sizeof name, "%s (%s)", cuda->name, cuda->model);
    return device_fault_raise(cuda_fault(error), name, "%s: %s (%s)", what,
                              cudaGetErrorString(error), cudaGetErrorName(error));
}

static Status check_call(const Device *device, const char *what, cudaError_t error) {
    const char *noted = atomic_load(&noted_what);
    if (noted) return raise_error(device, noted, (cudaError_t)atomic_load(&noted_error));
    return error == cudaSuccess ? STATUS_OK : raise_error(device, what, error);
}

/* Which GPU a call means is a property of the thread. */
static void use(const Device *device) {
    const CudaDevice *cuda = device->state;
    cuda_note(cudaSetDevice(cuda->index), "cudaSetDevice");
}

#define CALL(device, function, ...) \
    (use(device), check_call(device, #function, function(__VA_ARGS__)))

/* ---- memory */

static Status host_memory_map(Device *device, uint64_t bytes, const char *what, void **out) {
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        FAIL(MEMORY, "%s: cannot map %llu bytes", what, (unsigned long long)bytes);
    madvise(memory, bytes, MADV_HUGEPAGE); /* advice only, as is the next */
    madvise(memory, bytes, MADV_DONTDUMP);
    use(device);
    cudaError_t error = cudaHostRegister(memory, bytes, cudaHostRegisterPortable);
    if (error == cudaSuccess) {
        *out = memory;
        return STATUS_OK;
    }
    munmap(memory, bytes);
    (void)cudaGetLastError(); /* or the next launch is blamed for it */
    DeviceFault fault = cuda_fault(error);
    if (fault != DEVICE_FAULT_MEMORY && fault != DEVICE_FAULT_OTHER)
        return check_call(device, "cudaHostRegister", error);
    FAIL(MEMORY, "%s: cannot pin %llu bytes: %s; see ulimit -l", what, (unsigned long long)bytes,
         cudaGetErrorString(error));
}

static Status cuda_memory_take(Device *device, MemoryPlace place, uint64_t bytes, const char *what,
                               void **out) {
    bytes = bytes ? bytes : 1;
    if (place == MEMORY_HOST) return host_memory_map(device, bytes, what, out);
    void *memory;
    use(device);
    cudaError_t error = cudaMalloc(&memory, bytes);
    if (error != cudaSuccess) (void)cudaGetLastError(); /* or the next launch is blamed for it */
    if (error == cudaErrorMemoryAllocation)
        return device_fault_raise(DEVICE_FAULT_MEMORY, device->name, "%s: no %llu bytes are left",
                                  what, (unsigned long long)bytes);
    TRY(check_call(device, "cudaMalloc", error));
    *out = memory;
    return STATUS_OK;
}

static void cuda_memory_give(Device *device, MemoryPlace place, void *memory, uint64_t bytes) {
    if (!memory) return;
    use(device);
    if (place == MEMORY_DEVICE) {
        cuda_note(cudaFree(memory), "cudaFree");
        return;
    }
    cuda_note(cudaHostUnregister(memory), "cudaHostUnregister");
    munmap(memory, bytes ? bytes : 1);
}

static Status cuda_memory_free(Device *device, uint64_t *out_bytes) {
    size_t free_bytes, total_bytes;
    TRY(CALL(device, cudaMemGetInfo, &free_bytes, &total_bytes));
    *out_bytes = free_bytes;
    return STATUS_OK;
}

/* ---- streams, copies, events */

static cudaStream_t cuda_stream(DeviceStream *stream) {
    return (cudaStream_t)(void *)stream;
}

static cudaEvent_t cuda_event(DeviceEvent *event) {
    return (cudaEvent_t)(void *)event;
}

static Status cuda_stream_create(Device *device, StreamPriority priority, DeviceStream **out) {
    const CudaDevice *cuda = device->state;
    cudaStream_t stream;
    TRY(CALL(device, cudaStreamCreateWithPriority, &stream, cudaStreamNonBlocking,
             cuda->levels[priority]));
    *out = (DeviceStream *)(void *)stream;
    return STATUS_OK;
}

static void cuda_stream_destroy(Device *device, DeviceStream *stream) {
    use(device);
    cuda_note(cudaStreamDestroy(cuda_stream(stream)), "cudaStreamDestroy");
}

static Status cuda_stream_wait(Device *device, DeviceStream *stream) {
    return CALL(device, cudaStreamSynchronize, cuda_stream(stream));
}

static Status cuda_copy(Device *device, DeviceStream *stream, void *destination, const void *source,
                        uint64_t bytes) {
    return CALL(device, cudaMemcpyAsync, destination, source, bytes, cudaMemcpyDefault,
                cuda_stream(stream));
}

static Status cuda_digest(Device *device, DeviceStream *stream, const DeviceDigest *digests,
                          uint32_t digest_count, uint64_t *out) {
    use(device);
    digest_launch_cuda(stream, digests, digest_count, out);
    return check_call(device, "XXH3", cudaSuccess);
}

static Status cuda_event_create(Device *device, DeviceEvent **out) {
    cudaEvent_t event;
    TRY(CALL(device, cudaEventCreateWithFlags, &event, cudaEventDisableTiming));
    *out = (DeviceEvent *)(void *)event;
    return STATUS_OK;
}

static void cuda_event_destroy(Device *device, DeviceEvent *event) {
    use(device);
    cuda_note(cudaEventDestroy(cuda_event(event)), "cudaEventDestroy");
}

static Status cuda_event_record(Device *device, DeviceEvent *event, DeviceStream *stream) {
    return CALL(device, cudaEventRecord, cuda_event(event), cuda_stream(stream));
}

static Status cuda_stream_wait_event(Device *device, DeviceStream *stream, DeviceEvent *event) {
    return CALL(device, cudaStreamWaitEvent, cuda_stream(stream), cuda_event(event), 0);
}

static Status cuda_event_wait(Device *device, DeviceEvent *event) {
    return CALL(device, cudaEventSynchronize, cuda_event(event));
}

static bool cuda_event_done(Device *device, DeviceEvent *event) {
    use(device);
    cudaError_t error = cudaEventQuery(cuda_event(event));
    if (error == cudaErrorNotReady) return false;
    cuda_note(error, "cudaEventQuery");
    return true;
}

static void cuda_close(Device *device) {
    free(device->state);
}

/* ---- opening */

Status device_cuda_probe(const char **out_reason) {
    int count = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaSuccess && count > 0) return STATUS_OK;
    *out_reason = error == cudaSuccess                   ? "no GPU is here"
                  : error == cudaErrorInsufficientDriver ? "no NVIDIA driver, or one too old"
                                                         : cudaGetErrorString(error);
    return STATUS_UNSUPPORTED;
}

bool device_cuda_find(uint32_t index, BackendDevice *out) {
    struct cudaDeviceProp properties = {0};
    int count = 0;
    *out = (BackendDevice){.count = 0};
    if (cudaGetDeviceCount(&count) != cudaSuccess || count <= 0) return false;
    int own = (int)(index % (uint32_t)count);
    if (cudaDeviceGetPCIBusId(out->pci, sizeof out->pci, own) != cudaSuccess ||
        cudaGetDeviceProperties(&properties, own) != cudaSuccess)
        return false;
    snprintf(out->name, sizeof out->name, "cuda:%d", own);
    snprintf(out->model, sizeof out->model, "%.*s", (int)sizeof out->model - 1, properties.name);
    out->count = (uint32_t)count;
    return true;
}

static const Device cuda_row = {
    .collectives = "nccl",
    .memory_take = cuda_memory_take,
    .memory_give = cuda_memory_give,
    .memory_free = cuda_memory_free,
    .stream_create = cuda_stream_create,
    .stream_destroy = cuda_stream_destroy,
    .stream_wait = cuda_stream_wait,
    .copy = cuda_copy,
    .digest = cuda_digest,
    .event_create = cuda_event_create,
    .event_destroy = cuda_event_destroy,
    .event_record = cuda_event_record,
    .event_wait = cuda_event_wait,
    .event_done = cuda_event_done,
    .stream_wait_event = cuda_stream_wait_event,
    .close = cuda_close,
};

/* Its UUID: an index may name another GPU in another process. */
static void write_identity(const cudaUUID_t *uuid, char *out) {
    for (size_t i = 0; i < sizeof uuid->bytes; i++)
        sprintf(out + 2 * i, "%02x", (unsigned char)uuid->bytes[i]);
}

/* With two levels only, what is urgent shares the upper one. */
static Status find_levels(CudaDevice *cuda) {
    int last, first;
    TRY(CALL(&cuda->device, cudaDeviceGetStreamPriorityRange, &last, &first));
    cuda->levels[STREAM_URGENT] = first;
    cuda->levels[STREAM_COMPUTE] = last - first > 1 ? first + 1 : first;
    cuda->levels[STREAM_COPY] = last;
    return STATUS_OK;
}

static Status check_code(CudaDevice *cuda) {
    use(&cuda->device);
    if (digest_runs_cuda()) return STATUS_OK;
    FAIL(UNAVAILABLE,
         "%s (%s): this program holds no code for it; build it with -Dgpu_architecture=native on "
         "such a machine, or all",
         cuda->name, cuda->model);
}

Status device_cuda_open(Device **out, uint32_t index) {
    const char *reason;
    if (device_cuda_probe(&reason) != STATUS_OK)
        FAIL(UNAVAILABLE, "there is no GPU to open: %s", reason);
    void *memory;
    TRY(memory_take(&memory, 1, sizeof(CudaDevice), "device"));
    CudaDevice *cuda = memory;
    int count = 0;
    struct cudaDeviceProp properties = {0};
    cuda_note(cudaGetDeviceCount(&count), "cudaGetDeviceCount");
    cuda->index = count > 0 ? (int)(index % (uint32_t)count) : 0;
    snprintf(cuda->name, sizeof cuda->name, "cuda:%d", cuda->index);
    cuda_note(cudaGetDeviceProperties(&properties, cuda->index), "cudaGetDeviceProperties");
    memcpy(cuda->model, properties.name, sizeof cuda->model);
    cuda->device = cuda_row;
    write_identity(&properties.uuid, cuda->identity);
    cuda->device.name = cuda->name;
    cuda->device.identity = cuda->identity;
    cuda->device.state = cuda;
    Status status = find_levels(cuda);
    if (status == STATUS_OK) status = check_code(cuda);
    if (status != STATUS_OK) {
        free(cuda);
        return status;
    }
    *out = &cuda->device;
    return STATUS_OK;
}
