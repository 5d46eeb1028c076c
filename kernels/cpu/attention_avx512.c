#include "kernels/cpu/attention_coded.h"
#include "kernels/cpu/cpu_kernels.h"

void attention_fill_avx512(Kernels *kernels) {
    kernels->attend = attend_vector;
}
