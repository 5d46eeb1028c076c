#include "kernels/matrix_source.h"

#include <stdatomic.h>
#include <string.h>

#include "runtime/base/bytes.h"
#include "runtime/base/invariant.h"

enum { BLOCK_ELEMENTS_MAX = 256 };

const uint8_t *matrix_source_block(const MatrixSource *source, uint64_t row, uint64_t column) {
    const Quant *quant = source->tensor.quant;
    uint64_t row_blocks =
        source->tensor.shape[source->tensor.dim_count - 1] / quant->block_elements;
    uint64_t block = (source->row_begin + row) * row_blocks + column / quant->block_elements;
    return (const uint8_t *)source->tensor.data + block * quant->block_bytes;
}

void matrix_source_decode_row(const MatrixSource *source, uint64_t row, float *out) {
    const Quant *quant = source->tensor.quant;
    CHECK(quant->block_elements <= BLOCK_ELEMENTS_MAX);
    uint64_t column = source->column_begin;
    while (column < source->column_end) {
        float block[BLOCK_ELEMENTS_MAX];
        uint64_t first = column % quant->block_elements;
        uint64_t count = quant->block_elements - first;
        if (count > source->column_end - column) count = source->column_end - column;
        quant->dequantise(matrix_source_block(source, row, column), quant->block_elements, block);
        memcpy(out + (column - source->column_begin), block + first, count * sizeof *out);
        column += count;
    }
}

bool matrix_encoded(const Tensor *matrix, const Quant *quant, Tensor *out) {
    Tensor encoded = *matrix;
    uint64_t *columns = &encoded.shape[1], row_bytes;
    if (matrix->dim_count != 2 || !matrix->quant->store) return false;
    encoded.quant = quant;
    encoded.data = NULL;
    *columns = align_up(*columns, quant->block_elements);
    if (!quant_row_bytes(quant, *columns, &row_bytes) ||
        !bytes_multiply(row_bytes, encoded.shape[0], &encoded.bytes))
        return false;
    *out = encoded;
    return true;
}

typedef struct EncodeJob {
    const MatrixSource *source;
    const Quant *quant;
    uint8_t *out;
    uint32_t task_count;
    _Atomic uint64_t refused_row; /* the first; row count: none */
} EncodeJob;

static void note_refused(EncodeJob *job, uint64_t row) {
    uint64_t first = atomic_load(&job->refused_row);
    while (row < first && !atomic_compare_exchange_weak(&job->refused_row, &first, row)) {
    }
}

static void encode_row(EncodeJob *job, uint64_t row) {
    const Tensor *tensor = &job->source->tensor;
    const Quant *quant = job->quant, *floats = tensor->quant;
    uint64_t columns = tensor->shape[1], blocks = divide_up(columns, quant->block_elements);
    const uint8_t *from = matrix_source_block(job->source, row, 0);
    uint8_t *block = job->out + row * blocks * quant->block_bytes;
    for (uint64_t column = 0; column < columns; column += quant->block_elements) {
        float numbers[BLOCK_ELEMENTS_MAX];
        uint64_t count = columns - column;
        if (count > quant->block_elements) count = quant->block_elements;
        floats->dequantise(from + column * floats->block_bytes, count, numbers);
        if (!quant->encode(numbers, count, block)) note_refused(job, row);
        block += quant->block_bytes;
    }
}

static void encode_rows(void *user, uint32_t task_index, uint32_t thread_index) {
    (void)thread_index;
    EncodeJob *job = user;
    uint64_t rows = matrix_source_rows(job->source);
    uint64_t end = team_task_begin(rows, task_index + 1, job->task_count);
    for (uint64_t row = team_task_begin(rows, task_index, job->task_count); row < end; row++)
        encode_row(job, row);
}

bool matrix_source_encode(Team *team, const MatrixSource *source, const Quant *quant, void *out,
                          uint64_t *out_row) {
    uint64_t rows = matrix_source_rows(source);
    EncodeJob job = {.source = source,
                     .quant = quant,
                     .out = out,
                     .task_count = team_task_count(team, rows),
                     .refused_row = rows};
    CHECK(source->tensor.quant->store && quant->block_elements <= BLOCK_ELEMENTS_MAX);
    team_run(team, job.task_count, encode_rows, &job);
    *out_row = job.refused_row;
    return job.refused_row == rows;
}
