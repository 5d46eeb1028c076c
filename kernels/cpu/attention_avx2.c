#include "kernels/cpu/attention_vector.h"
#include "kernels/cpu/cpu_kernels.h"

static void attend_avx2(const KernelContext *context, const AttendArgs *args) {
    attend_with(&attend_isa, context, args);
}

void attention_fill_avx2(Kernels *kernels) {
    kernels->attend = attend_avx2;
}
