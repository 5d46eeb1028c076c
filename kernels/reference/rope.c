/* Rotary position embedding (Su et al., arXiv 2104.09864), angles from tables. */

#include "kernels/reference/reference.h"

static void rotate_head(const RopeArgs *args, float *head, const float *cosines,
                        const float *sines) {
    uint32_t pair_count = args->rotary_dim / 2;
    for (uint32_t pair = 0; pair < pair_count; pair++) {
        float *first = args->interleaved ? head + 2 * pair : head + pair;
        float *second = args->interleaved ? first + 1 : first + pair_count;
        double a = (double)*first, b = (double)*second;
        double cosine = (double)cosines[pair], sine = (double)sines[pair];
        *first = (float)(a * cosine - b * sine);
        *second = (float)(a * sine + b * cosine);
    }
}

static void rotate_row(const RopeArgs *args, const RopeMatrix *matrix, uint32_t row,
                       const float *cosines, const float *sines) {
    for (uint32_t head = 0; head < matrix->head_count; head++)
        rotate_head(args, matrix->x + row * matrix->x_stride + (uint64_t)head * args->head_dim,
                    cosines, sines);
}

static void rope_reference(const KernelContext *context, const RopeArgs *args) {
    (void)context;
    uint64_t pair_count = args->rotary_dim / 2;
    for (uint32_t row = 0; row < args->row_count; row++) {
        const float *cosines = args->cosines + args->positions[row] * pair_count;
        const float *sines = args->sines + args->positions[row] * pair_count;
        for (uint32_t m = 0; m < ROPE_MATRICES; m++)
            rotate_row(args, &args->matrices[m], row, cosines, sines);
    }
}

void rope_fill_reference(Kernels *kernels) {
    kernels->rope = rope_reference;
}
