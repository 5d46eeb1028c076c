#include <math.h>
#include <string.h>

#include "tests/check/check.h"

enum { ROWS_MAX = 40, ELEMENTS_MAX = 1200 };

typedef void NormSlot(const KernelContext *context, const NormArgs *args);

typedef struct NormCase {
    NormArgs args; /* out unset */
    CheckShape out_shape;
    float deviation; /* of the inputs */
} NormCase;

static NormCase draw_case(Check *check) {
    uint32_t rows = check_size(check, ROWS_MAX), elements = check_size(check, ELEMENTS_MAX);
    uint64_t x_stride = elements + check_below(check, 3),
             out_stride = elements + check_below(check, 3);
    float deviation = exp2f((float)check_below(check, 24) - 12.0f);
    float *x = check_memory(check, (rows - 1) * x_stride + elements, sizeof *x);
    float *weight = check_memory(check, elements, sizeof *weight);
    float *bias = check_memory(check, elements, sizeof *bias);
    check_fill_normal(check, x, (rows - 1) * x_stride + elements, (double)deviation);
    check_fill_normal(check, weight, elements, 1.0);
    check_fill_normal(check, bias, elements, 1.0);
    return (NormCase){
        .args = {.x = x,
                 .x_stride = x_stride,
                 .out_stride = out_stride,
                 .weight = check_chance(check, 0.8) ? weight : NULL,
                 .bias = check_chance(check, 0.8) ? bias : NULL,
                 .row_count = rows,
                 .element_count = elements,
                 .epsilon = check_chance(check, 0.2) ? 0.5f : 1e-5f},
        .out_shape = {rows, elements, out_stride},
        .deviation = deviation,
    };
}

static float *run_into_new(Check *check, NormSlot *slot, NormArgs args, const CheckShape *shape,
                           uint32_t thread_count) {
    KernelContext context = {.team = check_team(check, thread_count)};
    args.out = check_memory(check, check_shape_count(shape), sizeof(float));
    slot(&context, &args);
    return args.out;
}

/* Every row alone, with one thread, must give the bits that it got among the others. */
static void expect_row_invariance(Check *check, NormSlot *slot, const NormCase *drawn,
                                  const float *together) {
    uint32_t row = check_below(check, drawn->args.row_count);
    NormArgs args = drawn->args;
    args.x += row * args.x_stride;
    args.row_count = 1;
    CheckShape shape = {1, args.element_count, args.out_stride};
    float *alone = run_into_new(check, slot, args, &shape, 1);
    check_same_bits(check, "a row alone", together + row * args.out_stride, alone,
                    args.element_count * sizeof *alone);
}

static void expect_in_place(Check *check, NormSlot *slot, const NormCase *drawn,
                            const float *apart) {
    CheckShape shape = {drawn->args.row_count, drawn->args.element_count, drawn->args.x_stride};
    NormArgs args = drawn->args;
    args.out = check_copy(check, args.x, check_shape_count(&shape) * sizeof(float));
    args.x = args.out;
    args.out_stride = args.x_stride;
    KernelContext context = {.team = check_team(check, check->thread_count)};
    slot(&context, &args);
    for (uint32_t row = 0; row < shape.rows; row++)
        check_same_bits(check, "in place", apart + row * drawn->args.out_stride,
                        args.out + row * shape.stride, shape.columns * sizeof(float));
}

/* Rounding x - mean costs an eps of the largest |x|, which the division by the row's spread enlarges. */
static CheckTolerance row_tolerance(const NormArgs *args, uint32_t row, bool centred) {
    const float *x = args->x + row * args->x_stride;
    double sum = 0.0, squares = 0.0, largest = 0.0;
    for (uint32_t i = 0; i < args->element_count; i++) {
        sum += (double)x[i];
        squares += (double)x[i] * (double)x[i];
        largest = fmax(largest, fabs((double)x[i]));
    }
    double mean = centred ? sum / args->element_count : 0.0;
    double variance = fmax(squares / args->element_count - mean * mean, 0.0);
    CheckTolerance tolerance =
        check_tolerance_sum(args->element_count, largest / sqrt(variance + (double)args->epsilon));
    tolerance.relative = 8 * 0x1p-23;
    return tolerance;
}

static void run_norm(Check *check, NormSlot *slot, NormSlot *reference, bool centred) {
    NormCase drawn = draw_case(check);
    uint32_t threads = 1 + check_below(check, check->thread_count);
    float *actual = run_into_new(check, slot, drawn.args, &drawn.out_shape, threads);
    float *expected = run_into_new(check, reference, drawn.args, &drawn.out_shape, 1);
    CheckShape one = {1, drawn.args.element_count, drawn.args.out_stride};
    for (uint32_t row = 0; row < drawn.args.row_count; row++)
        check_close(check, "out", expected + row * one.stride, actual + row * one.stride, &one,
                    row_tolerance(&drawn.args, row, centred));
    check_gaps(check, "out", actual, &drawn.out_shape);
    expect_row_invariance(check, slot, &drawn, actual);
    expect_in_place(check, slot, &drawn, actual);
}

/* The definition written out once more, in long double, for the specification itself. */
static void expect_definition(Check *check, NormSlot *slot, bool centred) {
    NormCase drawn = draw_case(check);
    const NormArgs *args = &drawn.args;
    float *actual = run_into_new(check, slot, *args, &drawn.out_shape, 1);
    float *expected = check_memory(check, check_shape_count(&drawn.out_shape), sizeof(float));
    for (uint32_t row = 0; row < args->row_count; row++) {
        const float *x = args->x + row * args->x_stride;
        long double sum = 0.0L, squares = 0.0L;
        for (uint32_t i = 0; i < args->element_count; i++) {
            sum += (long double)x[i];
            squares += (long double)x[i] * (long double)x[i];
        }
        long double mean = centred ? sum / args->element_count : 0.0L;
        long double variance = squares / args->element_count - mean * mean;
        for (uint32_t i = 0; i < args->element_count; i++) {
            long double weight = args->weight ? (long double)args->weight[i] : 1.0L;
            long double bias = args->bias && centred ? (long double)args->bias[i] : 0.0L;
            long double root = sqrtl(variance + (long double)args->epsilon);
            expected[row * args->out_stride + i] =
                (float)(((long double)x[i] - mean) / root * weight + bias);
        }
    }
    CheckTolerance tolerance = check_tolerance_ulps(1.0);
    tolerance.absolute = 1e-7;
    check_close(check, "definition", expected, actual, &drawn.out_shape, tolerance);
}

static void run_rms_norm(Check *check) {
    run_norm(check, check->kernels->rms_norm, check->reference->rms_norm, false);
    expect_definition(check, check->reference->rms_norm, false);
}

static void run_layer_norm(Check *check) {
    run_norm(check, check->kernels->layer_norm, check->reference->layer_norm, true);
    expect_definition(check, check->reference->layer_norm, true);
}

typedef struct NormBench {
    KernelContext context;
    NormArgs args;
    NormSlot *slot;
} NormBench;

static void call_norm(void *argument) {
    NormBench *bench = argument;
    bench->slot(&bench->context, &bench->args);
}

static void bench_norm(Check *check, NormSlot *slot) {
    static const struct {
        const char *label;
        uint32_t rows, elements;
    } shapes[] = {{"1 x 576", 1, 576},
                  {"32 x 576", 32, 576},
                  {"512 x 576", 512, 576},
                  {"32 x 4096", 32, 4096}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        uint32_t elements = shapes[i].elements;
        size_t count = (size_t)shapes[i].rows * elements;
        float *x = check_memory(check, count, sizeof *x);
        float *weight = check_memory(check, elements, sizeof *weight);
        check_fill_normal(check, x, count, 1.0);
        check_fill_normal(check, weight, elements, 1.0);
        NormBench bench = {
            .context = {.team = check_team(check, check->thread_count)},
            .args = {.x = x,
                     .x_stride = elements,
                     .out_stride = elements,
                     .weight = weight,
                     .out = check_memory(check, count, sizeof *x),
                     .row_count = shapes[i].rows,
                     .element_count = elements,
                     .epsilon = 1e-5f},
            .slot = slot,
        };
        CheckWork work = {.bytes = 8.0 * (double)count};
        check_bench(check, shapes[i].label, &work, call_norm, &bench);
    }
}

static void bench_rms_norm(Check *check) {
    bench_norm(check, check->kernels->rms_norm);
}

static void bench_layer_norm(Check *check) {
    bench_norm(check, check->kernels->layer_norm);
}

const CheckGroup check_norm = {{
    {"rms_norm", CHECK_SLOT(rms_norm), run_rms_norm, bench_rms_norm},
    {"layer_norm", CHECK_SLOT(layer_norm), run_layer_norm, bench_layer_norm},
    {0},
}};
