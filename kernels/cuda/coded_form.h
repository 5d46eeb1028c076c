#ifndef KERNELS_CUDA_CODED_FORM_H
#define KERNELS_CUDA_CODED_FORM_H

/* From a codec of the table to what kernels know of it. Pure function, any thread. */

#include "kernels/cuda/cuda_kernels.h"

SPILLWAY_EXTERN_C_BEGIN

/* False when no kernel reads such blocks. NULL is a raw block. A codec is known by its expand function, not its name. */
bool coded_form(const Codec *codec, const KvShape *shape, CodedForm *out);

SPILLWAY_EXTERN_C_END

#endif
