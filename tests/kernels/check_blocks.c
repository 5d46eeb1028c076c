#include "tests/kernels/check_blocks.h"

#include <math.h>
#include <string.h>

#include "runtime/base/invariant.h"

enum { F16_FIELDS_MAX = 2 };

/* Where a block keeps its f16 numbers and how large those are in models; where its codes lie, and the byte that makes
 * them largest. */
typedef struct BlockRow {
    const char *name;
    uint32_t field_count;
    uint32_t fields[F16_FIELDS_MAX];
    double deviation;
    uint32_t codes_begin, codes_end;
    uint8_t largest;
} BlockRow;

static const BlockRow block_rows[] = {
    {"q4_0", 1, {0}, 0.01, 2, 18, 0xff},          {"q4_1", 2, {0, 2}, 0.01, 4, 20, 0xff},
    {"q5_0", 1, {0}, 0.005, 2, 22, 0xff},         {"q5_1", 2, {0, 2}, 0.005, 4, 24, 0xff},
    {"q8_0", 1, {0}, 0.0005, 2, 34, 0x7f},        {"q4_k", 2, {0, 2}, 0.0003, 16, 144, 0xff},
    {"q5_k", 2, {0, 2}, 0.00015, 16, 176, 0xff},  {"q6_k", 1, {208}, 0.000015, 0, 192, 0xff},
    {"int4_group", 2, {0, 2}, 0.01, 4, 36, 0xff},
};

static const BlockRow *block_row(const Quant *quant) {
    const BlockRow *row = block_rows;
    while (strcmp(row->name, quant->name) != 0) {
        row++;
        CHECK(row < block_rows + sizeof block_rows / sizeof *block_rows); /* format without a row */
    }
    return row;
}

static void fill_floats(Check *check, const Quant *quant, uint64_t count, uint8_t *bytes) {
    for (uint64_t i = 0; i < count; i++) {
        float number = 0.02f * random_normal(&check->random);
        uint32_t bits;
        memcpy(&bits, &number, sizeof bits);
        uint16_t half = quant == &quant_f16 ? f32_to_f16(number) : (uint16_t)(bits >> 16);
        memcpy(bytes + i * quant->block_bytes,
               quant->block_bytes == 4 ? (const void *)&number : (const void *)&half,
               quant->block_bytes);
    }
}

void check_blocks_fill(Check *check, const Quant *quant, uint64_t count, uint8_t *bytes) {
    if (!quant->expand) {
        fill_floats(check, quant, count, bytes);
        return;
    }
    const BlockRow *row = block_row(quant);
    for (uint64_t i = 0; i < count * quant->block_bytes; i++)
        bytes[i] = (uint8_t)random_u64(&check->random);
    for (uint64_t block = 0; block < count; block++)
        for (uint32_t f = 0; f < row->field_count; f++) {
            uint16_t half = f32_to_f16((float)row->deviation * random_normal(&check->random));
            memcpy(bytes + block * quant->block_bytes + row->fields[f], &half, sizeof half);
        }
}

void check_blocks_fill_largest(Check *check, const Quant *quant, uint64_t count, uint8_t *bytes) {
    check_blocks_fill(check, quant, count, bytes);
    if (!quant->expand) return;
    const BlockRow *row = block_row(quant);
    for (uint64_t block = 0; block < count; block++)
        memset(bytes + block * quant->block_bytes + row->codes_begin, row->largest,
               row->codes_end - row->codes_begin);
}

const Quant *check_draw_quant(Check *check) {
    uint32_t count = 0;
    while (quants[count])
        count++;
    return quants[check_below(check, count)];
}

Tensor check_draw_tensor(Check *check, const Quant *quant, uint64_t rows, uint64_t columns) {
    uint64_t row_bytes = 0;
    CHECK(quant_row_bytes(quant, columns, &row_bytes));
    uint8_t *data = check_memory(check, rows, row_bytes);
    check_blocks_fill(check, quant, rows * (columns / quant->block_elements), data);
    return (Tensor){
        .quant = quant,
        .dim_count = 2,
        .shape = {rows, columns, 1, 1},
        .data = data,
        .bytes = rows * row_bytes,
    };
}
