#include "kernels/cpu/attention_vector.h"
#include "kernels/cpu/cpu_kernels.h"

static void attend_avx512(const KernelContext *context, const AttendArgs *args) {
    attend_with(&attend_isa, context, args);
}

void attention_fill_avx512(Kernels *kernels) {
    kernels->attend = attend_avx512;
}
