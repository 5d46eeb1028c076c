#include "kernels/cpu_features.h"

#include <stdio.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

typedef struct FeatureRow {
    uint32_t flag;
    const char *name;
} FeatureRow;

static const FeatureRow feature_rows[] = {
    {CPU_AVX2, "avx2"},
    {CPU_AVX512, "avx512"},
    {CPU_AVX512_VNNI, "avx512_vnni"},
    {CPU_AVX512_BF16, "avx512_bf16"},
};

enum { FEATURE_COUNT = sizeof feature_rows / sizeof feature_rows[0] };

#if defined(__x86_64__)
/* __builtin_cpu_supports of clang 14 does not know it; its registers are those of AVX. */
static bool has_f16c(void) {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

uint32_t cpu_features(void) {
    uint32_t flags = 0;
#if defined(__x86_64__)
    /* these builtins also ask whether the kernel saves the wide registers */
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c())
        flags |= CPU_AVX2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        flags |= CPU_AVX512;
    if (__builtin_cpu_supports("avx512vnni")) flags |= CPU_AVX512_VNNI;
    if (__builtin_cpu_supports("avx512bf16")) flags |= CPU_AVX512_BF16;
#endif
    return flags;
}

const char *cpu_features_text(void) {
    static _Thread_local char text[64];
    uint32_t flags = cpu_features();
    size_t used = 0;
    text[0] = '\0';
    for (size_t i = 0; i < FEATURE_COUNT; i++)
        if (flags & feature_rows[i].flag)
            used += (size_t)snprintf(text + used, sizeof text - used, "%s%s", used ? ", " : "",
                                     feature_rows[i].name);
    return text;
}
