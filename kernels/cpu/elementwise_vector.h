#ifndef KERNELS_CPU_ELEMENTWISE_VECTOR_H
#define KERNELS_CPU_ELEMENTWISE_VECTOR_H

/* Norms, rotary embedding, elementwise slots and the edges of attention, for the vectors of the instruction set that
 * the file is compiled for; included by one file an ISA. Each row is computed by the same operations wherever it
 * stands: reductions run over its own elements in the order of row_sum. */

#include "kernels/cpu/row_driver.h"
#include "kernels/cpu/vector.h"

#ifdef VECTOR_LANES

#include <math.h>

enum {
    /* cycles for a vector of elements, about */
    WORK_COPY = 4,
    WORK_NORM = 8,
    WORK_SILU = 14,
};

static uint64_t vectors_of(uint64_t element_count) {
    return (element_count + VECTOR_LANES - 1) / VECTOR_LANES;
}

/* ---- norms */

typedef enum Moment { MOMENT_SUM, MOMENT_SQUARES } Moment;

/* Sum of x - centre, or of its squares: vector v goes to accumulator v modulo 4, a partial last vector to the
 * next; then (0 + 1) + (2 + 3) and vector_sum. */
static inline float row_moment(Moment moment, const float *x, uint32_t count, float centre) {
    enum { CHAINS = 4 };
    Vector sums[CHAINS], around = vector_set(centre);
    for (int chain = 0; chain < CHAINS; chain++)
        sums[chain] = vector_zero();
    uint32_t i = 0;
    for (; i + CHAINS * VECTOR_LANES <= count; i += CHAINS * VECTOR_LANES)
        for (int chain = 0; chain < CHAINS; chain++) {
            Vector y = vector_subtract(vector_load(x + i + chain * VECTOR_LANES), around);
            sums[chain] =
                moment == MOMENT_SUM ? vector_add(sums[chain], y) : vector_fma(y, y, sums[chain]);
        }
    for (int chain = 0; i < count; chain++, i += VECTOR_LANES) {
        Vector y = vector_subtract(vector_load_tail_or_full(x + i, count - i), around);
        y = vector_keep_lanes(y, vector_zero(), 0, (int32_t)(count - i));
        sums[chain] =
            moment == MOMENT_SUM ? vector_add(sums[chain], y) : vector_fma(y, y, sums[chain]);
    }
    return vector_sum(vector_add(vector_add(sums[0], sums[1]), vector_add(sums[2], sums[3])));
}

static inline void normalise_row(const NormArgs *args, uint32_t row, float centre,
                                 const float *bias) {
    const float *x = args->x + row * args->x_stride;
    float *out = args->out + row * args->out_stride;
    uint32_t count = args->element_count;
    float spread = row_moment(MOMENT_SQUARES, x, count, centre) / (float)count;
    Vector inverse = vector_set(1.0f / sqrtf(spread + args->epsilon)), around = vector_set(centre);
    for (uint32_t i = 0; i < count; i += VECTOR_LANES) {
        uint32_t left = count - i;
        Vector y = vector_subtract(vector_load_tail_or_full(x + i, left), around);
        y = vector_multiply(y, inverse);
        if (args->weight) y = vector_multiply(y, vector_load_tail_or_full(args->weight + i, left));
        if (bias) y = vector_add(y, vector_load_tail_or_full(bias + i, left));
        vector_store_tail_or_full(out + i, y, left);
    }
}

static void rms_norm_rows(const void *norm_args, uint32_t row_begin, uint32_t row_end) {
    for (uint32_t row = row_begin; row < row_end; row++)
        normalise_row(norm_args, row, 0.0f, NULL);
}

static void layer_norm_rows(const void *norm_args, uint32_t row_begin, uint32_t row_end) {
    const NormArgs *args = norm_args;
    for (uint32_t row = row_begin; row < row_end; row++) {
        const float *x = args->x + row * args->x_stride;
        float sum = row_moment(MOMENT_SUM, x, args->element_count, 0.0f);
        normalise_row(args, row, sum / (float)args->element_count, args->bias);
    }
}

static void rms_norm_vector(const KernelContext *context, const NormArgs *args) {
    rows_run(context, args->row_count, WORK_NORM * vectors_of(args->element_count), rms_norm_rows,
             args);
}

static void layer_norm_vector(const KernelContext *context, const NormArgs *args) {
    rows_run(context, args->row_count, WORK_NORM * vectors_of(args->element_count), layer_norm_rows,
             args);
}

/* ---- rotary embedding: (a, b) to (a c - b s, b c + a s), the product with s rounded, the other fused */

static void rotate_neighbours(float *head, uint32_t pair_count, const float *cosines,
                              const float *sines) {
    uint32_t pair = 0;
    for (; pair + VECTOR_LANES / 2 <= pair_count; pair += VECTOR_LANES / 2) {
        Vector x = vector_load(head + 2 * pair);
        Vector crossed = vector_multiply(vector_swap_pairs(x), vector_load_doubled(sines + pair));
        vector_store(head + 2 * pair,
                     vector_fma_alternate(x, vector_load_doubled(cosines + pair), crossed));
    }
    for (; pair < pair_count; pair++) {
        float a = head[2 * pair], b = head[2 * pair + 1];
        head[2 * pair] = fmaf(a, cosines[pair], -(b * sines[pair]));
        head[2 * pair + 1] = fmaf(b, cosines[pair], a * sines[pair]);
    }
}

static void rotate_halves(float *head, uint32_t pair_count, const float *cosines,
                          const float *sines) {
    for (uint32_t pair = 0; pair < pair_count; pair += VECTOR_LANES) {
        uint32_t left = pair_count - pair;
        float *first = head + pair, *second = first + pair_count;
        Vector a = vector_load_tail_or_full(first, left);
        Vector b = vector_load_tail_or_full(second, left);
        Vector cosine = vector_load_tail_or_full(cosines + pair, left);
        Vector sine = vector_load_tail_or_full(sines + pair, left);
        Vector minus = vector_subtract(vector_zero(), vector_multiply(b, sine));
        vector_store_tail_or_full(first, vector_fma(a, cosine, minus), left);
        vector_store_tail_or_full(second, vector_fma(b, cosine, vector_multiply(a, sine)), left);
    }
}

static void rope_rows(const void *rope_args, uint32_t row_begin, uint32_t row_end) {
    const RopeArgs *args = rope_args;
    uint32_t pair_count = args->rotary_dim / 2;
    for (uint32_t row = row_begin; row < row_end; row++) {
        const float *cosines = args->cosines + (uint64_t)args->positions[row] * pair_count;
        const float *sines = args->sines + (uint64_t)args->positions[row] * pair_count;
        for (uint32_t m = 0; m < ROPE_MATRICES; m++) {
            const RopeMatrix *matrix = &args->matrices[m];
            for (uint32_t head = 0; head < matrix->head_count; head++)
                (args->interleaved ? rotate_neighbours : rotate_halves)(
                    matrix->x + row * matrix->x_stride + (uint64_t)head * args->head_dim,
                    pair_count, cosines, sines);
        }
    }
}

static void rope_vector(const KernelContext *context, const RopeArgs *args) {
    uint64_t heads = 0;
    for (uint32_t m = 0; m < ROPE_MATRICES; m++)
        heads += args->matrices[m].head_count;
    rows_run(context, args->row_count, WORK_NORM * vectors_of(heads * args->rotary_dim), rope_rows,
             args);
}

/* ---- elementwise */

#define ELEMENTWISE_ROWS(name, expression)                                                     \
    static void name(const void *elementwise_args, uint32_t row_begin, uint32_t row_end) {     \
        const ElementwiseArgs *args = elementwise_args;                                        \
        for (uint32_t row = row_begin; row < row_end; row++)                                   \
            for (uint32_t i = 0; i < args->element_count; i += VECTOR_LANES) {                 \
                uint32_t left = args->element_count - i;                                       \
                Vector a = vector_load_tail_or_full(args->a + row * args->a_stride + i, left); \
                vector_store_tail_or_full(args->out + row * args->out_stride + i, expression,  \
                                          left);                                               \
            }                                                                                  \
    }

#define OPERAND_B vector_load_tail_or_full(args->b + row * args->b_stride + i, left)

/* a / (1 + exp(-a)) * b; below about -88.7, where the exponential overflows, zero */
static inline Vector silu_times(Vector a, Vector b) {
    Vector exponential = vector_exp(vector_subtract(vector_zero(), a));
    return vector_multiply(vector_divide(a, vector_add(vector_set(1.0f), exponential)), b);
}

ELEMENTWISE_ROWS(add_rows, vector_add(a, OPERAND_B))
ELEMENTWISE_ROWS(silu_multiply_rows, silu_times(a, OPERAND_B))
ELEMENTWISE_ROWS(relu_rows, vector_max(vector_zero(), a)) /* NaN stays NaN */

#undef ELEMENTWISE_ROWS
#undef OPERAND_B

static void add_vector(const KernelContext *context, const ElementwiseArgs *args) {
    rows_run(context, args->row_count, WORK_COPY * vectors_of(args->element_count), add_rows, args);
}

static void silu_multiply_vector(const KernelContext *context, const ElementwiseArgs *args) {
    rows_run(context, args->row_count, WORK_SILU * vectors_of(args->element_count),
             silu_multiply_rows, args);
}

static void relu_vector(const KernelContext *context, const ElementwiseArgs *args) {
    rows_run(context, args->row_count, WORK_COPY * vectors_of(args->element_count), relu_rows,
             args);
}

/* ---- edges of attention */

static void store_halves(const float *x, uint32_t count, uint16_t *out) {
    for (uint32_t i = 0; i < count; i += VECTOR_LANES) {
        Vector values = vector_load_tail_or_full(x + i, count - i);
        if (count - i >= VECTOR_LANES)
            vector_store_half(out + i, values);
        else
            vector_store_half_tail(out + i, values, count - i);
    }
}

static void kv_store_rows(const void *store_args, uint32_t row_begin, uint32_t row_end) {
    const KvStoreArgs *args = store_args;
    const KvShape *shape = &args->shape;
    uint64_t head_elements = (uint64_t)shape->block_tokens * shape->head_dim;
    for (uint32_t row = row_begin; row < row_end; row++) {
        uint16_t *keys =
            (uint16_t *)args->blocks[row] + (uint64_t)args->block_slots[row] * shape->head_dim;
        uint16_t *values = keys + shape->kv_head_count * head_elements;
        for (uint32_t head = 0; head < shape->kv_head_count; head++) {
            uint64_t column = (uint64_t)head * shape->head_dim;
            store_halves(args->k + row * args->k_stride + column, shape->head_dim,
                         keys + head * head_elements);
            store_halves(args->v + row * args->v_stride + column, shape->head_dim,
                         values + head * head_elements);
        }
    }
}

static void kv_store_vector(const KernelContext *context, const KvStoreArgs *args) {
    uint64_t elements = 2ull * args->shape.kv_head_count * args->shape.head_dim;
    rows_run(context, args->row_count, WORK_COPY * vectors_of(elements), kv_store_rows, args);
}

static void attend_end_rows(const void *edge_args, uint32_t row_begin, uint32_t row_end) {
    const AttendEdgeArgs *args = edge_args;
    for (uint64_t state = (uint64_t)row_begin * args->head_count;
         state < (uint64_t)row_end * args->head_count; state++) {
        float *out = args->out + state * args->head_dim;
        Vector sum = vector_set(args->sums[state]);
        for (uint32_t i = 0; i < args->head_dim; i += VECTOR_LANES) {
            uint32_t left = args->head_dim - i;
            Vector share = vector_divide(vector_load_tail_or_full(out + i, left), sum);
            vector_store_tail_or_full(out + i, args->sums[state] == 0.0f ? vector_zero() : share,
                                      left);
        }
    }
}

static void attend_end_vector(const KernelContext *context, const AttendEdgeArgs *args) {
    uint64_t elements = (uint64_t)args->head_count * args->head_dim;
    rows_run(context, args->row_count, WORK_NORM * vectors_of(elements), attend_end_rows, args);
}

static inline void elementwise_fill_vector(Kernels *kernels) {
    kernels->rms_norm = rms_norm_vector;
    kernels->layer_norm = layer_norm_vector;
    kernels->rope = rope_vector;
    kernels->kv_store = kv_store_vector;
    kernels->attend_end = attend_end_vector;
    kernels->add = add_vector;
    kernels->silu_multiply = silu_multiply_vector;
    kernels->relu = relu_vector;
}

#endif

#endif
