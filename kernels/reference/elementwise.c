/* One output an input element. */

#include <math.h>

#include "kernels/reference/reference.h"

static void add_reference(const KernelContext *context, const ElementwiseArgs *args) {
    (void)context;
    for (uint32_t row = 0; row < args->row_count; row++)
        for (uint32_t i = 0; i < args->element_count; i++)
            args->out[row * args->out_stride + i] =
                args->a[row * args->a_stride + i] + args->b[row * args->b_stride + i];
}

static void silu_multiply_reference(const KernelContext *context, const ElementwiseArgs *args) {
    (void)context;
    for (uint32_t row = 0; row < args->row_count; row++)
        for (uint32_t i = 0; i < args->element_count; i++) {
            double a = (double)args->a[row * args->a_stride + i];
            double b = (double)args->b[row * args->b_stride + i];
            args->out[row * args->out_stride + i] = (float)(a / (1.0 + exp(-a)) * b);
        }
}

/* a NaN stays a NaN: it has to reach the logits to be noticed */
static void relu_reference(const KernelContext *context, const ElementwiseArgs *args) {
    (void)context;
    for (uint32_t row = 0; row < args->row_count; row++)
        for (uint32_t i = 0; i < args->element_count; i++) {
            float a = args->a[row * args->a_stride + i];
            args->out[row * args->out_stride + i] = a < 0.0f ? 0.0f : a;
        }
}

void elementwise_fill_reference(Kernels *kernels) {
    kernels->add = add_reference;
    kernels->silu_multiply = silu_multiply_reference;
    kernels->relu = relu_reference;
}
