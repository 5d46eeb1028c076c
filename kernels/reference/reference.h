#ifndef KERNELS_REFERENCE_REFERENCE_H
#define KERNELS_REFERENCE_REFERENCE_H

/* The specification in plain C: one file a group of slots, each with a function that fills its slots.
 * kernels_fill_reference calls them all. */

#include "kernels/kernels.h"

SPILLWAY_EXTERN_C_BEGIN

/* What all of these together need. */
size_t scratch_bytes_reference(const KernelLimits *limits, uint32_t thread_count);

void matmul_fill_reference(Kernels *kernels);
void norm_fill_reference(Kernels *kernels);
void rope_fill_reference(Kernels *kernels);
void embed_fill_reference(Kernels *kernels);
void attention_fill_reference(Kernels *kernels); /* and scratch_bytes: no other file needs any */
void elementwise_fill_reference(Kernels *kernels);

SPILLWAY_EXTERN_C_END

#endif
