#ifndef KERNELS_CPU_CPU_KERNELS_H
#define KERNELS_CPU_CPU_KERNELS_H

/* What each ISA library of cpu/ offers to the CPU backend: a function that overrides the slots it has. Lowest
 * ISA first; a later one wins. Each file is compiled with its own -m flags and may run only where the flag is set. */

#include "kernels/kernels.h"

SPILLWAY_EXTERN_C_BEGIN

/* Scratch of the slots that a file fills, whatever the ISA. */
size_t matmul_scratch_bytes(const KernelLimits *limits, uint32_t thread_count);
size_t attention_scratch_bytes(const KernelLimits *limits, uint32_t thread_count);

void matmul_fill_avx2(Kernels *kernels);
void matmul_fill_avx512(Kernels *kernels); /* needs VNNI */
void attention_fill_avx2(Kernels *kernels);
void attention_fill_avx512(Kernels *kernels);
void codec_fill_avx2(Kernels *kernels);
void codec_fill_avx512(Kernels *kernels);
void elementwise_fill_avx2(Kernels *kernels);
void elementwise_fill_avx512(Kernels *kernels);

/* For every backend: the slots that work on host memory, as this CPU does them best. */
void codec_fill_host(Kernels *kernels);

SPILLWAY_EXTERN_C_END

#endif
