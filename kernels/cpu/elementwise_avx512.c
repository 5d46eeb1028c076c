#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/elementwise_vector.h"

void elementwise_fill_avx512(Kernels *kernels) {
    elementwise_fill_vector(kernels);
}
