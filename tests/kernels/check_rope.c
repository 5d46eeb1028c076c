#include <math.h>
#include <string.h>

#include "tests/check/check.h"

enum { ROWS_MAX = 24, HEADS_MAX = 12, PAIRS_MAX = 70, POSITIONS_MAX = 300 };

typedef struct RopeCase {
    RopeArgs args; /* x unset */
    const float *input;
    CheckShape shape;
} RopeCase;

static RopeCase draw_case(Check *check) {
    uint32_t rows = check_size(check, ROWS_MAX), heads = check_size(check, HEADS_MAX);
    uint32_t pairs = check_size(check, PAIRS_MAX), head_dim = 2 * pairs + check_below(check, 4);
    uint32_t positions = check_size(check, POSITIONS_MAX);
    CheckShape shape = {rows, heads * head_dim, (uint64_t)heads * head_dim + check_below(check, 5)};
    float *input = check_memory(check, check_shape_count(&shape), sizeof *input);
    float *cosines = check_memory(check, (size_t)positions * pairs, sizeof *cosines);
    float *sines = check_memory(check, (size_t)positions * pairs, sizeof *sines);
    uint32_t *row_positions = check_memory(check, rows, sizeof *row_positions);
    check_fill_normal(check, input, check_shape_count(&shape), 1.0);
    for (uint32_t i = 0; i < positions * pairs; i++) {
        double angle = 100.0 * random_unit(&check->random);
        cosines[i] = (float)cos(angle);
        sines[i] = (float)sin(angle);
    }
    for (uint32_t row = 0; row < rows; row++)
        row_positions[row] = check_below(check, positions);
    return (RopeCase){
        .args = {.x_stride = shape.stride,
                 .row_count = rows,
                 .head_count = heads,
                 .head_dim = head_dim,
                 .rotary_dim = 2 * pairs,
                 .interleaved = check_chance(check, 0.5),
                 .positions = row_positions,
                 .cosines = cosines,
                 .sines = sines},
        .input = input,
        .shape = shape,
    };
}

static float *run_on_copy(Check *check, const Kernels *kernels, RopeArgs args, const float *input,
                          const CheckShape *shape, uint32_t thread_count) {
    KernelContext context = {.team = check_team(check, thread_count)};
    args.x = check_copy(check, input, check_shape_count(shape) * sizeof *input);
    kernels->rope(&context, &args);
    return args.x;
}

static void expect_row_invariance(Check *check, const RopeCase *drawn, const float *together) {
    uint32_t row = check_below(check, drawn->shape.rows);
    RopeArgs args = drawn->args;
    args.positions += row;
    args.row_count = 1;
    CheckShape shape = {1, drawn->shape.columns, drawn->shape.stride};
    float *alone =
        run_on_copy(check, check->kernels, args, drawn->input + row * shape.stride, &shape, 1);
    check_same_bits(check, "a row alone", together + row * shape.stride, alone,
                    shape.columns * sizeof *alone);
}

/* A rotation keeps the length of each pair and turns (1, 0) into (cosine, sine). */
static void expect_rotation(Check *check) {
    float cosine = 0.6f, sine = 0.8f, x[5] = {1.0f, 2.0f, 0.0f, 3.0f, 4.0f};
    uint32_t position = 0;
    float cosines[2] = {cosine, 1.0f}, sines[2] = {sine, 0.0f};
    RopeArgs args = {.x = x,
                     .x_stride = 5,
                     .row_count = 1,
                     .head_count = 1,
                     .head_dim = 5,
                     .rotary_dim = 4,
                     .positions = &position,
                     .cosines = cosines,
                     .sines = sines};
    KernelContext context = {0};
    check->kernels->rope(&context, &args);
    float halves[5] = {cosine, 2.0f, sine, 3.0f, 4.0f};
    check_same_bits(check, "pairs (i, i + half)", halves, x, sizeof x);
    float y[5] = {1.0f, 0.0f, 2.0f, 3.0f, 4.0f}, neighbours[5] = {cosine, sine, 2.0f, 3.0f, 4.0f};
    args.x = y;
    args.interleaved = true;
    check->kernels->rope(&context, &args);
    check_same_bits(check, "pairs (2i, 2i + 1)", neighbours, y, sizeof y);
}

static void run_rope(Check *check) {
    RopeCase drawn = draw_case(check);
    uint32_t threads = 1 + check_below(check, check->thread_count);
    float *actual =
        run_on_copy(check, check->kernels, drawn.args, drawn.input, &drawn.shape, threads);
    float *expected =
        run_on_copy(check, check->reference, drawn.args, drawn.input, &drawn.shape, 1);
    CheckTolerance tolerance = {.absolute = 1e-6, .relative = 2 * 0x1p-23};
    check_close(check, "x", expected, actual, &drawn.shape, tolerance);
    expect_row_invariance(check, &drawn, actual);
    expect_rotation(check);
}

typedef struct RopeBench {
    KernelContext context;
    RopeArgs args;
    const Kernels *kernels;
} RopeBench;

static void call_rope(void *argument) {
    RopeBench *bench = argument;
    bench->kernels->rope(&bench->context, &bench->args);
}

static void bench_rope(Check *check) {
    enum { HEADS = 9, HEAD_DIM = 64, ROWS = 512 };
    static const struct {
        const char *label;
        uint32_t rows;
        bool interleaved;
    } shapes[] = {{"1 row of 9 x 64", 1, true},
                  {"32 rows of 9 x 64", 32, true},
                  {"512 rows of 9 x 64", ROWS, true},
                  {"512 rows of 9 x 64, halves", ROWS, false}};
    size_t count = (size_t)ROWS * HEADS * HEAD_DIM, pairs = (size_t)ROWS * HEAD_DIM / 2;
    float *x = check_memory(check, count, sizeof *x);
    float *cosines = check_memory(check, pairs, sizeof *cosines);
    float *sines = check_memory(check, pairs, sizeof *sines);
    uint32_t *positions = check_memory(check, ROWS, sizeof *positions);
    check_fill_normal(check, x, count, 1.0);
    for (uint32_t row = 0; row < ROWS; row++)
        positions[row] = row;
    for (size_t i = 0; i < pairs; i++) {
        cosines[i] = (float)cos((double)i);
        sines[i] = (float)sin((double)i);
    }
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        RopeBench bench = {
            .context = {.team = check_team(check, check->thread_count)},
            .args = {.x = x,
                     .x_stride = HEADS * HEAD_DIM,
                     .row_count = shapes[i].rows,
                     .head_count = HEADS,
                     .head_dim = HEAD_DIM,
                     .rotary_dim = HEAD_DIM,
                     .interleaved = shapes[i].interleaved,
                     .positions = positions,
                     .cosines = cosines,
                     .sines = sines},
            .kernels = check->kernels,
        };
        CheckWork work = {.bytes = 8.0 * shapes[i].rows * HEADS * HEAD_DIM};
        check_bench(check, shapes[i].label, &work, call_rope, &bench);
    }
}

const CheckGroup check_rope = {{
    {"rope", CHECK_SLOT(rope), run_rope, bench_rope},
    {0},
}};
