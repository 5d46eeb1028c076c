#ifndef KERNELS_CPU_FEATURES_H
#define KERNELS_CPU_FEATURES_H

/* Which instruction sets this CPU and kernel offer. Kernel choice goes by these flags, never by timing, and is
 * part of the digest that ranks compare. */

#include <stdint.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

enum {
    CPU_AVX2 = 1u << 0,   /* with FMA and F16C */
    CPU_AVX512 = 1u << 1, /* F, BW, DQ, VL */
    CPU_AVX512_VNNI = 1u << 2,
    CPU_AVX512_BF16 = 1u << 3,
};

uint32_t cpu_features(void);

/* Comma separated list for people: "avx2, avx512, avx512_vnni". Static storage. */
const char *cpu_features_text(void);

SPILLWAY_EXTERN_C_END

#endif
