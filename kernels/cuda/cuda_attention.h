#ifndef KERNELS_CUDA_CUDA_ATTENTION_H
#define KERNELS_CUDA_CUDA_ATTENTION_H

/* The attend slot of the GPU: runs become tables of spans, groups, blocks and tiles, as many launches as the tables need. How they
 * are cut changes no bit (attention.cu). */

#include "kernels/kernels.h"

SPILLWAY_EXTERN_C_BEGIN

/* Device memory that keeps a context's groups apart when they are attended side by side. */
enum { ATTEND_PARTIALS_BYTES = 16 << 20 };

/* E-MODEL-UNSUPPORTED where heads are wider or more than the kernels take. */
Status attend_limits_check(const KernelLimits *limits);

void attend_cuda(const KernelContext *context, const AttendArgs *args);

SPILLWAY_EXTERN_C_END

#endif
