#include "launch/probe_compute.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/base/random.h"

enum { MATRIX_ROWS = 2048, COPIES_MAX = 64, HEAD_POINT = 2 /* rows of the head's measurement */ };
static const uint64_t area_bytes = 128 << 20; /* of the same matrix again and again */

typedef struct Product {
    const ProbeKernels *probe;
    MatmulArgs args;
    Matrix copies[COPIES_MAX];
    uint32_t copy_count, next;
    uint8_t *memory;
    float *x, *out;
} Product;

static void multiply(void *user) {
    Product *product = user;
    product->args.outputs[0].weights = &product->copies[product->next];
    product->next = (product->next + 1) % product->copy_count;
    product->probe->kernels->matmul(product->probe->context, &product->args);
}

/* Blocks of the formats that are measured begin with their scale. */
static void fill_source(const Quant *quant, uint8_t *bytes, uint64_t count) {
    const uint16_t scale = f32_to_f16(0.01f);
    Random random = {.key = 3};
    for (uint64_t at = 0; at < count; at += quant->block_bytes) {
        uint64_t word = random_u64(&random);
        if (quant->group_elements == 0) {
            uint16_t half = f32_to_f16((float)(int8_t)word * 0.01f);
            memcpy(bytes + at, &half, sizeof half);
            continue;
        }
        for (uint32_t i = 0; i < quant->block_bytes; i++)
            bytes[at + i] = (uint8_t)(word >> i % 8 * 8) ^ (uint8_t)i;
        memcpy(bytes + at, &scale, sizeof scale);
    }
}

static Status pack(Product *product, const Quant *quant) {
    const Kernels *kernels = product->probe->kernels;
    uint64_t row_bytes;
    if (!quant_row_bytes(quant, PROBE_COLUMNS, &row_bytes))
        FAIL(INVARIANT, "%s has no rows of %d", quant->name, PROBE_COLUMNS);
    uint8_t *source_bytes;
    TRY(memory_take((void **)&source_bytes, MATRIX_ROWS, row_bytes, "a matrix"));
    fill_source(quant, source_bytes, MATRIX_ROWS * row_bytes);
    const MatrixSource source = {.tensor = {.quant = quant,
                                            .dim_count = 2,
                                            .shape = {MATRIX_ROWS, PROBE_COLUMNS, 1, 1},
                                            .data = source_bytes,
                                            .bytes = MATRIX_ROWS * row_bytes},
                                 .row_end = MATRIX_ROWS,
                                 .column_end = PROBE_COLUMNS};
    uint64_t bytes = (kernels->matrix_bytes(&source) + 63) / 64 * 64;
    product->copy_count =
        (uint32_t)(area_bytes / bytes < COPIES_MAX ? area_bytes / bytes : COPIES_MAX);
    Status status =
        memory_take((void **)&product->memory, product->copy_count, bytes, "packed matrices");
    if (status == STATUS_OK)
        kernels->matrix_pack(product->probe->context, &source, product->memory,
                             &product->copies[0]);
    free(source_bytes);
    TRY(status);
    for (uint32_t i = 1; i < product->copy_count; i++) {
        product->copies[i] = product->copies[0];
        product->copies[i].data = product->memory + i * bytes;
        memcpy(product->memory + i * bytes, product->memory, bytes);
    }
    return STATUS_OK;
}

static double operations_a_second(Product *product, uint32_t rows, bool precise) {
    product->args = (MatmulArgs){.x = product->x,
                                 .x_stride = PROBE_COLUMNS,
                                 .row_count = rows,
                                 .output_count = 1,
                                 .precise = precise,
                                 .outputs = {{.out = product->out, .out_stride = MATRIX_ROWS}}};
    uint32_t threads = team_thread_count(product->probe->context->team);
    return 2.0 * rows * PROBE_COLUMNS * MATRIX_ROWS / probe_seconds(threads, multiply, product);
}

static Status measure_format(Product *product, PlanFormat format, PlanMachine *machine) {
    static const char *const quant_names[PLAN_FORMAT_COUNT] = {"f16", "q8_0", "q4_0"};
    Status status = pack(product, quant_find(quant_names[format]));
    double *rates = machine->operation_rate[format];
    for (int i = 0; i < PLAN_ROW_POINTS && status == STATUS_OK; i++)
        rates[i] = operations_a_second(product, plan_row_points[i], false);
    double element_bytes = (double)product->copies[0].bytes / PROBE_COLUMNS / MATRIX_ROWS;
    if (status == STATUS_OK && rates[0] / 2 * element_bytes > machine->device_rate)
        machine->device_rate = rates[0] / 2 * element_bytes; /* one row reads all of them */
    if (status == STATUS_OK && format == PLAN_8_BITS)
        machine->head_speed =
            operations_a_second(product, plan_row_points[HEAD_POINT], true) / rates[HEAD_POINT];
    free(product->memory);
    product->memory = NULL;
    return status;
}

Status probe_matmul(const ProbeKernels *probe, PlanMachine *machine) {
    Product product = {.probe = probe};
    Random random = {.key = 4};
    TRY(memory_take((void **)&product.x, PROBE_ROWS * PROBE_COLUMNS, sizeof *product.x, "rows"));
    Status status =
        memory_take((void **)&product.out, PROBE_ROWS * MATRIX_ROWS, sizeof *product.out, "rows");
    for (uint32_t i = 0; i < PROBE_ROWS * PROBE_COLUMNS; i++)
        product.x[i] = random_normal(&random);
    for (int format = 0; format < PLAN_FORMAT_COUNT && status == STATUS_OK; format++)
        status = measure_format(&product, (PlanFormat)format, machine);
    free(product.out);
    free(product.x);
    return status;
}
