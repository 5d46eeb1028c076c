#ifndef KERNELS_BACKEND_H
#define KERNELS_BACKEND_H

/* A backend is a device plus the kernels that run on it. A row is `const Backend backend_<name>` and a word in
 * kernels/meson.build. */

#include "kernels/device.h"
#include "kernels/kernels.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct BackendOptions {
    const char *cpu_isa; /* "auto", "reference", "avx2", "avx512" */
    uint32_t
        device_index; /* which GPU, where there are several: a rank's number on its node, taken round */
    uint64_t seed;            /* of what an emulated device draws */
    uint64_t emulated_bytes;  /* memory of an emulated device; 0: 1 GiB */
    const char *emulated_pci; /* its address, as if it lay on the PCI bus; NULL: none */
    DeviceFailures failures;
} BackendOptions;

/* A device as it lies in the machine, whether it is open or not. */
typedef struct BackendDevice {
    char name[48];  /* "cuda:0", as Device.name */
    char model[96]; /* "NVIDIA H100 80GB HBM3" */
    char pci[32];   /* "0000:3b:00.0" */
    uint32_t count; /* of devices, of which device_index goes round */
} BackendDevice;

typedef struct Backend {
    const char *name;    /* "cpu" */
    const char *summary; /* for doctor */
    bool automatic;      /* --backend auto may take it */
    /* STATUS_OK when it can run here; else *out_reason says why not. No side effects. */
    Status (*probe)(const char **out_reason);
    /* The device that open would open, if it lies on the PCI bus. Optional. */
    bool (*find)(const BackendOptions *options, BackendDevice *out);
    /* Opens the device and fills the table. An ISA that the CPU lacks is E-UNAVAILABLE. */
    Status (*open)(const BackendOptions *options, Device **out_device, Kernels *out_kernels);
} Backend;

extern const Backend *const backends[]; /* in order of preference, ended by NULL */

/* name: "auto" takes the first that may be taken so and probes well. */
Status backend_open(const char *name, const BackendOptions *options, Device **out_device,
                    Kernels *out_kernels);

/* The device that backend_open would open; false where that is not on the PCI bus, or there is none. */
bool backend_find_device(const char *name, const BackendOptions *options, BackendDevice *out);

SPILLWAY_EXTERN_C_END

#endif
