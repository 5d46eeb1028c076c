#include <math.h>
#include <string.h>

#include "tests/check/check.h"

enum { ROWS_MAX = 24, HEADS_MAX = 12, PAIRS_MAX = 70, POSITIONS_MAX = 300 };

typedef struct RopeCase {
    RopeArgs args; /* x unset */
    const float *inputs[ROPE_MATRICES];
    CheckShape shapes[ROPE_MATRICES];
} RopeCase;

/* Now and then there is but one matrix, in either place. */
static void draw_matrices(Check *check, RopeCase *io_case) {
    uint32_t absent = check_below(check, 8);
    for (uint32_t m = 0; m < ROPE_MATRICES; m++) {
        uint32_t heads = m == absent ? 0 : check_size(check, HEADS_MAX);
        uint32_t columns = heads * io_case->args.head_dim;
        CheckShape shape = {io_case->args.row_count, columns, columns + check_below(check, 5)};
        float *input = check_memory(check, check_shape_count(&shape), sizeof *input);
        check_fill_normal(check, input, check_shape_count(&shape), 1.0);
        io_case->args.matrices[m] = (RopeMatrix){.x_stride = shape.stride, .head_count = heads};
        io_case->inputs[m] = input;
        io_case->shapes[m] = shape;
    }
}

static RopeCase draw_case(Check *check) {
    uint32_t rows = check_size(check, ROWS_MAX);
    uint32_t pairs = check_size(check, PAIRS_MAX), head_dim = 2 * pairs + check_below(check, 4);
    uint32_t positions = check_size(check, POSITIONS_MAX);
    float *cosines = check_memory(check, (size_t)positions * pairs, sizeof *cosines);
    float *sines = check_memory(check, (size_t)positions * pairs, sizeof *sines);
    uint32_t *row_positions = check_memory(check, rows, sizeof *row_positions);
    for (uint32_t i = 0; i < positions * pairs; i++) {
        double angle = 100.0 * random_unit(&check->random);
        cosines[i] = (float)cos(angle);
        sines[i] = (float)sin(angle);
    }
    for (uint32_t row = 0; row < rows; row++)
        row_positions[row] = check_below(check, positions);
    RopeCase drawn = {.args = {.row_count = rows,
                               .head_dim = head_dim,
                               .rotary_dim = 2 * pairs,
                               .interleaved = check_chance(check, 0.5),
                               .positions = row_positions,
                               .cosines = cosines,
                               .sines = sines}};
    draw_matrices(check, &drawn);
    return drawn;
}

/* The case's args with a copy of its inputs. */
static RopeArgs run_on_copy(Check *check, const Kernels *kernels, const RopeCase *drawn,
                            uint32_t thread_count) {
    KernelContext context = {.team = check_team(check, thread_count)};
    RopeArgs args = drawn->args;
    for (uint32_t m = 0; m < ROPE_MATRICES; m++)
        args.matrices[m].x = check_copy(check, drawn->inputs[m],
                                        check_shape_count(&drawn->shapes[m]) * sizeof(float));
    kernels->rope(&context, &args);
    return args;
}

/* A row of one matrix has the same bits without the other rows and the other matrix. */
static void expect_row_invariance(Check *check, const RopeCase *drawn, const RopeArgs *together) {
    uint32_t row = check_below(check, drawn->args.row_count), m = check_below(check, ROPE_MATRICES);
    RopeCase alone = *drawn;
    alone.args.positions += row;
    alone.args.row_count = 1;
    for (uint32_t i = 0; i < ROPE_MATRICES; i++) {
        alone.inputs[i] += row * drawn->shapes[i].stride;
        alone.shapes[i].rows = 1;
    }
    alone.args.matrices[1 - m].head_count = 0;
    RopeArgs actual = run_on_copy(check, check->kernels, &alone, 1);
    check_same_bits(check, "a row alone", together->matrices[m].x + row * drawn->shapes[m].stride,
                    actual.matrices[m].x, drawn->shapes[m].columns * sizeof(float));
}

/* A rotation keeps the length of each pair and turns (1, 0) into (cosine, sine). */
static void expect_rotation(Check *check) {
    float cosine = 0.6f, sine = 0.8f, x[5] = {1.0f, 2.0f, 0.0f, 3.0f, 4.0f};
    uint32_t position = 0;
    float cosines[2] = {cosine, 1.0f}, sines[2] = {sine, 0.0f};
    RopeArgs args = {.matrices = {{x, 5, 1}},
                     .row_count = 1,
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
    args.matrices[0].x = y;
    args.interleaved = true;
    check->kernels->rope(&context, &args);
    check_same_bits(check, "pairs (2i, 2i + 1)", neighbours, y, sizeof y);
}

static void run_rope(Check *check) {
    RopeCase drawn = draw_case(check);
    uint32_t threads = 1 + check_below(check, check->thread_count);
    RopeArgs actual = run_on_copy(check, check->kernels, &drawn, threads);
    RopeArgs expected = run_on_copy(check, check->reference, &drawn, 1);
    CheckTolerance tolerance = {.absolute = 1e-6, .relative = 2 * 0x1p-23};
    for (uint32_t m = 0; m < ROPE_MATRICES; m++)
        check_close(check, m ? "k" : "q", expected.matrices[m].x, actual.matrices[m].x,
                    &drawn.shapes[m], tolerance);
    expect_row_invariance(check, &drawn, &actual);
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
            .args = {.matrices = {{x, HEADS * HEAD_DIM, HEADS}},
                     .row_count = shapes[i].rows,
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
