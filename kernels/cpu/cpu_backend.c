/* The CPU backend: the specification, overridden by the ISA libraries that this CPU can run, lowest first. */

#include <string.h>

#include "kernels/backend.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu_features.h"
#include "kernels/reference/reference.h"

extern const Backend backend_cpu;

enum { ISA_FILLS_MAX = 4 };

typedef struct IsaRow {
    const char *name;
    uint32_t needs; /* CPU_… flags */
    void (*fills[ISA_FILLS_MAX + 1])(Kernels *kernels);
} IsaRow;

/* Lowest first; each stands on the ones before it. */
static const IsaRow isa_rows[] = {
    {"reference", 0, {kernels_fill_reference}},
#if defined(__x86_64__)
    {"avx2",
     CPU_AVX2,
     {matmul_fill_avx2, attention_fill_avx2, codec_fill_avx2, elementwise_fill_avx2}},
    {"avx512",
     CPU_AVX2 | CPU_AVX512 | CPU_AVX512_VNNI,
     {matmul_fill_avx512, attention_fill_avx512, codec_fill_avx512, elementwise_fill_avx512}},
#endif
};

enum { ISA_COUNT = sizeof isa_rows / sizeof isa_rows[0] };

/* Slots of any row may stay in use, and only one runs at a time: the largest need. */
static size_t scratch_bytes_cpu(const KernelLimits *limits, uint32_t thread_count) {
    static size_t (*const needs[])(const KernelLimits *limits, uint32_t thread_count) = {
        scratch_bytes_reference,
#if defined(__x86_64__)
        matmul_scratch_bytes,
        attention_scratch_bytes,
#endif
    };
    size_t most = 0;
    for (size_t i = 0; i < sizeof needs / sizeof needs[0]; i++) {
        size_t need = needs[i](limits, thread_count);
        if (need > most) most = need;
    }
    return most;
}

static bool isa_usable(const IsaRow *isa) {
    return (cpu_features() & isa->needs) == isa->needs;
}

/* Index of the row to stop at. */
static Status isa_choose(const char *name, size_t *out_index) {
    bool automatic = !strcmp(name, "auto");
    for (size_t i = ISA_COUNT; i-- > 0;) {
        if (automatic ? !isa_usable(&isa_rows[i]) : strcmp(name, isa_rows[i].name) != 0) continue;
        if (!isa_usable(&isa_rows[i]))
            FAIL(UNAVAILABLE, "this CPU cannot run --cpu-isa %s: it has %s", name,
                 cpu_features_text());
        *out_index = i;
        return STATUS_OK;
    }
    FAIL(UNAVAILABLE, "--cpu-isa %s is not in this build", name);
}

void codec_fill_host(Kernels *kernels) {
    kernels->kv_encode = codec_encode_block;
    kernels->kv_decode = codec_decode_block;
#if defined(__x86_64__)
    const uint32_t avx512 = CPU_AVX2 | CPU_AVX512 | CPU_AVX512_VNNI;
    if (cpu_features() & CPU_AVX2) codec_fill_avx2(kernels);
    if ((cpu_features() & avx512) == avx512) codec_fill_avx512(kernels);
#endif
}

static Status cpu_probe(const char **out_reason) {
    (void)out_reason;
    return STATUS_OK;
}

static Status cpu_open(const BackendOptions *options, Device **out_device, Kernels *out_kernels) {
    size_t last = 0;
    TRY(isa_choose(options->cpu_isa, &last));
    Device *device;
    TRY(device_host_open(&device));
    Kernels kernels = {0};
    for (size_t i = 0; i <= last; i++)
        for (size_t f = 0; isa_rows[i].fills[f]; f++)
            isa_rows[i].fills[f](&kernels);
    kernels.scratch_bytes = scratch_bytes_cpu;
    kernels.name = kernels.layout = isa_rows[last].name;
    *out_device = device;
    *out_kernels = kernels;
    return STATUS_OK;
}

const Backend backend_cpu = {
    .name = "cpu",
    .summary = "this machine's processors; kernels by instruction set",
    .automatic = true,
    .probe = cpu_probe,
    .open = cpu_open,
};
