#include "runtime/base/invariant.h"
#include "tests/check/check.h"

enum { OWNED_MAX = 50, IDS_MAX = 30, BLOCKS_MAX = 6, FLOATS_MAX = 300 };

/* Random bytes are a table of any format: whatever they decode to, embed must give the same. */
static void embed_format(Check *check, const Quant *quant) {
    uint32_t elements = quant->block_elements *
                        check_size(check, quant->block_elements == 1 ? FLOATS_MAX : BLOCKS_MAX);
    uint32_t owned = check_size(check, OWNED_MAX), first = check_below(check, 40);
    uint32_t rows = check_size(check, IDS_MAX);
    uint64_t row_bytes;
    CHECK(quant_row_bytes(quant, elements, &row_bytes));
    uint8_t *table = check_memory(check, owned * row_bytes, 1);
    for (uint64_t i = 0; i < owned * row_bytes; i++)
        table[i] = (uint8_t)random_u64(&check->random);
    int32_t *ids = check_memory(check, rows, sizeof *ids);
    for (uint32_t row = 0; row < rows; row++)
        ids[row] = (int32_t)check_below(check, first + owned + 20) - 5;

    CheckShape shape = {rows, elements, elements + check_below(check, 4)};
    size_t out_count = check_shape_count(&shape);
    float *actual = check_memory(check, out_count, sizeof *actual);
    float *expected = check_memory(check, out_count, sizeof *expected);
    for (uint32_t row = 0; row < rows; row++) {
        float *out = expected + row * shape.stride;
        int64_t index = (int64_t)ids[row] - first;
        if (index >= 0 && index < owned)
            quant->dequantise(table + (uint64_t)index * row_bytes, elements, out);
        else
            for (uint32_t i = 0; i < elements; i++)
                out[i] = 0.0f;
    }
    EmbedArgs args = {.table = {.quant = quant,
                                .dim_count = 2,
                                .shape = {owned, elements, 1, 1},
                                .data = table,
                                .bytes = owned * row_bytes},
                      .row_begin = first,
                      .row_end = first + owned,
                      .ids = ids,
                      .row_count = rows,
                      .out = actual,
                      .out_stride = shape.stride};
    KernelContext context = {.team =
                                 check_team(check, 1 + check_below(check, check->thread_count))};
    check->kernels->embed(&context, &args);
    check_close(check, quant->name, expected, actual, &shape, (CheckTolerance){0});
}

static void run_embed(Check *check) {
    for (uint32_t i = 0; quants[i]; i++)
        embed_format(check, quants[i]);
}

typedef struct EmbedBench {
    KernelContext context;
    EmbedArgs args;
    const Kernels *kernels;
} EmbedBench;

static void call_embed(void *argument) {
    EmbedBench *bench = argument;
    bench->kernels->embed(&bench->context, &bench->args);
}

static void bench_embed(Check *check) {
    enum { ROWS = 512, VOCABULARY = 4096, ELEMENTS = 576 };
    const Quant *quant = quant_find("q8_0");
    uint64_t row_bytes;
    CHECK(quant && quant_row_bytes(quant, ELEMENTS, &row_bytes));
    uint8_t *table = check_memory(check, VOCABULARY * row_bytes, 1);
    for (uint64_t i = 0; i < VOCABULARY * row_bytes; i++)
        table[i] = (uint8_t)(i * 7);
    int32_t *ids = check_memory(check, ROWS, sizeof *ids);
    for (uint32_t row = 0; row < ROWS; row++)
        ids[row] = (int32_t)check_below(check, VOCABULARY);
    EmbedBench bench = {
        .context = {.team = check_team(check, check->thread_count)},
        .args = {.table = {.quant = quant,
                           .dim_count = 2,
                           .shape = {VOCABULARY, ELEMENTS, 1, 1},
                           .data = table,
                           .bytes = VOCABULARY * row_bytes},
                 .row_end = VOCABULARY,
                 .ids = ids,
                 .row_count = ROWS,
                 .out = check_memory(check, (size_t)ROWS * ELEMENTS, sizeof(float)),
                 .out_stride = ELEMENTS},
        .kernels = check->kernels,
    };
    CheckWork work = {.bytes = (double)ROWS * ((double)row_bytes + 4.0 * ELEMENTS)};
    check_bench(check, "512 rows of q8_0 x 576", &work, call_embed, &bench);
}

const CheckGroup check_embed = {{
    {"embed", CHECK_SLOT(embed), run_embed, bench_embed},
    {0},
}};
