#ifndef KERNELS_CUDA_PACKED_MATRIX_H
#define KERNELS_CUDA_PACKED_MATRIX_H

/* Weights as the GPU keeps them (PackedForm in cuda_kernels.h): packed on the host, by the team, into pinned memory and copied up.
 * A matrix keeps the codes of its file; one whose columns are cut inside a group of 32 is packed as f32. */

#include "kernels/cuda/cuda_kernels.h"

SPILLWAY_EXTERN_C_BEGIN

/* The form of a packed matrix. */
PackedForm packed_form(const Matrix *matrix);

/* The slots. */
uint64_t matrix_bytes_cuda(const MatrixSource *source);
void matrix_describe_cuda(const MatrixSource *source, Matrix *out);
void matrix_pack_cuda(const KernelContext *context, const MatrixSource *source, void *memory,
                      Matrix *out);

SPILLWAY_EXTERN_C_END

#endif
