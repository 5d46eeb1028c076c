/* Normalisation of rows: RMS norm (Zhang and Sennrich, arXiv 1910.07467) and layer norm (Ba et al., arXiv
 * 1607.06450), moments in double. */

#include <math.h>

#include "kernels/reference/reference.h"

static double mean_of(const float *x, uint32_t count) {
    double sum = 0.0;
    for (uint32_t i = 0; i < count; i++)
        sum += (double)x[i];
    return sum / count;
}

static double mean_square_around(const float *x, uint32_t count, double centre) {
    double sum = 0.0;
    for (uint32_t i = 0; i < count; i++)
        sum += ((double)x[i] - centre) * ((double)x[i] - centre);
    return sum / count;
}

static void normalise_row(const NormArgs *args, uint32_t row, double centre, const float *bias) {
    const float *x = args->x + row * args->x_stride;
    float *out = args->out + row * args->out_stride;
    double spread = mean_square_around(x, args->element_count, centre);
    double inverse = 1.0 / sqrt(spread + (double)args->epsilon);
    for (uint32_t i = 0; i < args->element_count; i++) {
        double weight = args->weight ? (double)args->weight[i] : 1.0;
        out[i] =
            (float)(((double)x[i] - centre) * inverse * weight + (bias ? (double)bias[i] : 0.0));
    }
}

static void rms_norm_reference(const KernelContext *context, const NormArgs *args) {
    (void)context;
    for (uint32_t row = 0; row < args->row_count; row++)
        normalise_row(args, row, 0.0, NULL);
}

static void layer_norm_reference(const KernelContext *context, const NormArgs *args) {
    (void)context;
    for (uint32_t row = 0; row < args->row_count; row++) {
        double mean = mean_of(args->x + row * args->x_stride, args->element_count);
        normalise_row(args, row, mean, args->bias);
    }
}

void norm_fill_reference(Kernels *kernels) {
    kernels->rms_norm = rms_norm_reference;
    kernels->layer_norm = layer_norm_reference;
}
