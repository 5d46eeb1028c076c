#include <math.h>

#include "tests/check/check.h"

enum { ROWS_MAX = 40, ELEMENTS_MAX = 1600 };

typedef void ElementwiseSlot(const KernelContext *context, const ElementwiseArgs *args);

typedef struct ElementwiseCase {
    ElementwiseArgs args; /* out unset */
    CheckShape shape;     /* of out */
} ElementwiseCase;

static ElementwiseCase draw_case(Check *check) {
    uint32_t rows = check_size(check, ROWS_MAX), elements = check_size(check, ELEMENTS_MAX);
    uint64_t a_stride = elements + check_below(check, 3),
             b_stride = elements + check_below(check, 3);
    size_t a_count = (rows - 1) * a_stride + elements, b_count = (rows - 1) * b_stride + elements;
    float *a = check_memory(check, a_count, sizeof *a);
    float *b = check_memory(check, b_count, sizeof *b);
    check_fill_normal(check, a, a_count, check_chance(check, 0.3) ? 40.0 : 2.0);
    check_fill_normal(check, b, b_count, 1.0);
    CheckShape shape = {rows, elements, elements + check_below(check, 3)};
    return (ElementwiseCase){
        .args = {.a = a,
                 .b = b,
                 .a_stride = a_stride,
                 .b_stride = b_stride,
                 .out_stride = shape.stride,
                 .row_count = rows,
                 .element_count = elements},
        .shape = shape,
    };
}

static float *run_into_new(Check *check, ElementwiseSlot *slot, ElementwiseArgs args,
                           const CheckShape *shape, uint32_t thread_count) {
    KernelContext context = {.team = check_team(check, thread_count)};
    args.out = check_memory(check, check_shape_count(shape), sizeof(float));
    slot(&context, &args);
    return args.out;
}

static void expect_row_invariance(Check *check, ElementwiseSlot *slot, const ElementwiseCase *drawn,
                                  const float *together) {
    uint32_t row = check_below(check, drawn->shape.rows);
    ElementwiseArgs args = drawn->args;
    args.a += row * args.a_stride;
    args.b += row * args.b_stride;
    args.row_count = 1;
    CheckShape shape = {1, drawn->shape.columns, drawn->shape.stride};
    float *alone = run_into_new(check, slot, args, &shape, 1);
    check_same_bits(check, "a row alone", together + row * shape.stride, alone,
                    shape.columns * sizeof *alone);
}

static void expect_in_place(Check *check, ElementwiseSlot *slot, const ElementwiseCase *drawn,
                            const float *apart) {
    bool over_a = check_chance(check, 0.5);
    ElementwiseArgs args = drawn->args;
    CheckShape shape = {args.row_count, args.element_count, over_a ? args.a_stride : args.b_stride};
    args.out =
        check_copy(check, over_a ? args.a : args.b, check_shape_count(&shape) * sizeof *args.out);
    *(over_a ? &args.a : &args.b) = args.out;
    args.out_stride = shape.stride;
    KernelContext context = {.team = check_team(check, check->thread_count)};
    slot(&context, &args);
    for (uint32_t row = 0; row < shape.rows; row++)
        check_same_bits(check, "in place", apart + row * drawn->shape.stride,
                        args.out + row * shape.stride, shape.columns * sizeof(float));
}

static void run_slot(Check *check, ElementwiseSlot *slot, ElementwiseSlot *reference,
                     CheckTolerance tolerance) {
    ElementwiseCase drawn = draw_case(check);
    uint32_t threads = 1 + check_below(check, check->thread_count);
    float *actual = run_into_new(check, slot, drawn.args, &drawn.shape, threads);
    float *expected = run_into_new(check, reference, drawn.args, &drawn.shape, 1);
    check_close(check, "out", expected, actual, &drawn.shape, tolerance);
    expect_row_invariance(check, slot, &drawn, actual);
    expect_in_place(check, slot, &drawn, actual);
}

/* Hand-made inputs, more than a vector of them, so that vector and tail code both meet each. */
static void expect_values(Check *check, ElementwiseSlot *slot, const float *a, const float *b,
                          const float *expected, uint32_t count, CheckTolerance tolerance) {
    enum { REPEATS = 9 };
    float *wide_a = check_memory(check, REPEATS * count, sizeof *a);
    float *wide_b = check_memory(check, REPEATS * count, sizeof *b);
    float *wide_expected = check_memory(check, REPEATS * count, sizeof *b);
    float *out = check_memory(check, REPEATS * count, sizeof *a);
    for (uint32_t i = 0; i < REPEATS * count; i++) {
        wide_a[i] = a[i % count];
        wide_b[i] = b[i % count];
        wide_expected[i] = expected[i % count];
    }
    KernelContext context = {0};
    ElementwiseArgs args = {
        .a = wide_a, .b = wide_b, .out = out, .row_count = 1, .element_count = REPEATS * count};
    slot(&context, &args);
    CheckShape shape = {1, REPEATS * count, REPEATS * count};
    check_close(check, "known values", wide_expected, out, &shape, tolerance);
}

static void run_add(Check *check) {
    static const float a[] = {1.0f, -1.0f, INFINITY, INFINITY, NAN};
    static const float b[] = {2.0f, 1.0f, 1.0f, -INFINITY, 1.0f};
    static const float sums[] = {3.0f, 0.0f, INFINITY, NAN, NAN};
    CheckTolerance exact = {0};
    run_slot(check, check->kernels->add, check->reference->add, exact);
    expect_values(check, check->kernels->add, a, b, sums, 5, exact);
}

static void run_silu_multiply(Check *check) {
    static const float a[] = {0.0f, 1.0f, -1.0f, 100.0f, -200.0f, 3e38f, -3e38f, NAN, INFINITY};
    static const float b[] = {5.0f, 1.0f, 2.0f, 2.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f};
    static const float expected[] = {
        0.0f, 0.731058578630f, -0.537882842740f, 200.0f, 0.0f, 3e38f, 0.0f, NAN, INFINITY};
    CheckTolerance tolerance = check_tolerance_ulps(4.0);
    tolerance.absolute = 1e-36; /* about 88 exp(-88): where exp(-a) overflows in f32 */
    run_slot(check, check->kernels->silu_multiply, check->reference->silu_multiply, tolerance);
    expect_values(check, check->kernels->silu_multiply, a, b, expected, 9, tolerance);
}

static void run_relu(Check *check) {
    static const float a[] = {-1.0f, 0.0f, 2.0f, NAN, INFINITY, -INFINITY};
    static const float expected[] = {0.0f, 0.0f, 2.0f, NAN, INFINITY, 0.0f};
    CheckTolerance exact = {0};
    run_slot(check, check->kernels->relu, check->reference->relu, exact);
    expect_values(check, check->kernels->relu, a, a, expected, 6, exact);
}

typedef struct ElementwiseBench {
    KernelContext context;
    ElementwiseArgs args;
    ElementwiseSlot *slot;
} ElementwiseBench;

static void call_elementwise(void *argument) {
    ElementwiseBench *bench = argument;
    bench->slot(&bench->context, &bench->args);
}

static void bench_slot(Check *check, ElementwiseSlot *slot, uint32_t operand_count) {
    enum { ELEMENTS = 1536, ROWS = 512 };
    static const struct {
        const char *label;
        uint32_t rows;
    } shapes[] = {{"1 x 1536", 1}, {"32 x 1536", 32}, {"512 x 1536", ROWS}};
    size_t count = (size_t)ROWS * ELEMENTS;
    float *a = check_memory(check, count, sizeof *a), *b = check_memory(check, count, sizeof *b);
    float *out = check_memory(check, count, sizeof *out);
    check_fill_normal(check, a, count, 1.0);
    check_fill_normal(check, b, count, 1.0);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        ElementwiseBench bench = {
            .context = {.team = check_team(check, check->thread_count)},
            .args = {.a = a,
                     .b = b,
                     .out = out,
                     .a_stride = ELEMENTS,
                     .b_stride = ELEMENTS,
                     .out_stride = ELEMENTS,
                     .row_count = shapes[i].rows,
                     .element_count = ELEMENTS},
            .slot = slot,
        };
        CheckWork work = {.bytes = 4.0 * (operand_count + 1.0) * shapes[i].rows * ELEMENTS};
        check_bench(check, shapes[i].label, &work, call_elementwise, &bench);
    }
}

static void bench_add(Check *check) {
    bench_slot(check, check->kernels->add, 2);
}

static void bench_silu_multiply(Check *check) {
    bench_slot(check, check->kernels->silu_multiply, 2);
}

static void bench_relu(Check *check) {
    bench_slot(check, check->kernels->relu, 1);
}

const CheckGroup check_elementwise = {{
    {"add", CHECK_SLOT(add), run_add, bench_add},
    {"silu_multiply", CHECK_SLOT(silu_multiply), run_silu_multiply, bench_silu_multiply},
    {"relu", CHECK_SLOT(relu), run_relu, bench_relu},
    {0},
}};
