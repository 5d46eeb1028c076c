#include "kernels/cuda/packed_matrix.h"

#include <string.h>

#include "kernels/cuda/cuda_context.h"
#include "kernels/matrix_source.h"
#include "runtime/base/bytes.h"
#include "runtime/base/invariant.h"

enum {
    PACKED_ENCODED, /* Matrix.layout: the codes of the quant, or its floats */
    PACKED_F32,
    BLOCK_ELEMENTS_MAX = 256,
    BLOCK_GROUPS_MAX = 16,
    PLANE_BYTES = 4, /* an output */
};

/* ---- the form */

static PackedForm float_form(const Quant *quant) {
    PackedForm form = {.code_bits = 8 * quant->block_bytes, .bf16 = quant == &quant_bf16};
    form.record_bytes = quant->block_bytes * PACKED_COLUMNS * PACKED_OUTPUTS;
    return form;
}

static PackedForm encoded_form(const Quant *quant) {
    bool bytes = quant->code_bits == 8;
    PackedForm form = {
        .code_bits = quant->code_bits,
        .groups = PACKED_COLUMNS / quant->group_elements,
        .scales_f16 = quant->scales_f16,
        .offsets = quant->code_bias == 0,
        .code_bias = bytes ? 0 : (int32_t)quant->code_bias, /* bytes are made signed when packed */
    };
    CHECK(form.groups == 1 || (form.groups == 2 && !form.offsets));
    uint32_t planes = bytes ? 0 : quant->code_bits - 4;
    uint32_t number_bytes = (form.scales_f16 ? 2u : 4u) * form.groups * PACKED_OUTPUTS;
    form.scales_at = (bytes ? 32u : 16u + planes * PLANE_BYTES) * PACKED_OUTPUTS;
    form.offsets_at = form.scales_at + number_bytes;
    form.record_bytes = form.offsets_at + (form.offsets ? number_bytes : 0);
    return form;
}

static PackedForm form_make(const Quant *quant, uint64_t column_count) {
    PackedForm form = quant->expand ? encoded_form(quant) : float_form(quant);
    form.record_count = (uint32_t)divide_up(column_count, PACKED_COLUMNS);
    return form;
}

PackedForm packed_form(const Matrix *matrix) {
    const Quant *quant = matrix->layout == PACKED_F32 ? &quant_f32 : matrix->quant;
    return form_make(quant, matrix->column_count);
}

static Matrix matrix_of(const MatrixSource *source) {
    const Quant *quant = source->tensor.quant;
    bool cut = quant->expand && (source->column_begin % PACKED_COLUMNS != 0 ||
                                 source->column_end % PACKED_COLUMNS != 0);
    Matrix matrix = {.row_count = (uint32_t)matrix_source_rows(source),
                     .column_count = (uint32_t)matrix_source_columns(source),
                     .layout = cut ? PACKED_F32 : PACKED_ENCODED,
                     .quant = quant};
    PackedForm form = packed_form(&matrix);
    matrix.bytes = divide_up(matrix.row_count, PACKED_OUTPUTS) * form.record_count *
                   (uint64_t)form.record_bytes;
    return matrix;
}

uint64_t matrix_bytes_cuda(const MatrixSource *source) {
    return matrix_of(source).bytes;
}

void matrix_describe_cuda(const MatrixSource *source, Matrix *out) {
    *out = matrix_of(source);
}

/* ---- packing */

/* A piece of a matrix, made in pinned memory: records [record_first, …) of tiles [tile_first, …). */
typedef struct PackJob {
    const MatrixSource *source;
    PackedForm form;
    uint64_t tile_first;
    uint32_t record_first, record_count;
    uint8_t *out; /* [tile][record_count] */
} PackJob;

static void put_number(const PackedForm *form, uint8_t *numbers, uint32_t index, float number) {
    uint16_t half = f32_to_f16(number);
    memcpy(numbers + index * (form->scales_f16 ? 2 : 4),
           form->scales_f16 ? (const void *)&half : (const void *)&number,
           form->scales_f16 ? sizeof half : sizeof number);
}

static void put_codes(const PackedForm *form, uint8_t *record, uint32_t output,
                      const uint8_t *codes) {
    if (form->code_bits == 8) {
        for (uint32_t i = 0; i < PACKED_COLUMNS; i++) /* signed: less 128 */
            record[16 * (i / 16 * PACKED_OUTPUTS + output) + i % 16] = codes[i] ^ 0x80;
        return;
    }
    for (uint32_t i = 0; i < PACKED_COLUMNS; i++) {
        uint8_t *byte = record + 16 * output + i / 8 * 4 + i % 4;
        *byte |= (uint8_t)((codes[i] & 15) << (i / 4 % 2 ? 4 : 0));
    }
    uint8_t *planes = record + 16 * PACKED_OUTPUTS;
    for (uint32_t bit = 4; bit < form->code_bits; bit++) {
        uint8_t *plane = planes + ((bit - 4) * PACKED_OUTPUTS + output) * PLANE_BYTES;
        for (uint32_t i = 0; i < PACKED_COLUMNS; i++)
            plane[i % 4] |= (uint8_t)((codes[i] >> bit & 1) << (i / 4));
    }
}

/* One output's part of the piece, a block of the file at a time. */
static void pack_codes(const PackJob *job, uint64_t row, uint32_t output, uint8_t *records) {
    const PackedForm *form = &job->form;
    const Quant *quant = job->source->tensor.quant;
    uint64_t column = (uint64_t)job->record_first * PACKED_COLUMNS;
    uint64_t end = column + (uint64_t)job->record_count * PACKED_COLUMNS;
    while (column < end) {
        uint8_t codes[BLOCK_ELEMENTS_MAX];
        float scales[BLOCK_GROUPS_MAX], offsets[BLOCK_GROUPS_MAX];
        uint64_t from = job->source->column_begin + column;
        quant->expand(matrix_source_block(job->source, row, from), quant->block_elements, codes,
                      scales, offsets);
        for (uint32_t i = (uint32_t)(from % quant->block_elements);
             i < quant->block_elements && column < end;
             i += PACKED_COLUMNS, column += PACKED_COLUMNS, records += form->record_bytes) {
            put_codes(form, records, output, codes + i);
            for (uint32_t g = 0; g < form->groups; g++) {
                uint32_t group = i / quant->group_elements + g;
                uint32_t index = g * PACKED_OUTPUTS + output;
                put_number(form, records + form->scales_at, index, scales[group]);
                if (form->offsets)
                    put_number(form, records + form->offsets_at, index, offsets[group]);
            }
        }
    }
}

static void put_floats(const PackedForm *form, uint8_t *record, uint32_t output,
                       const float *numbers, uint32_t count) {
    uint32_t bytes = form->code_bits / 8, per_part = 16 / bytes;
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *to = record + 16 * (i / per_part * PACKED_OUTPUTS + output) + i % per_part * bytes;
        uint32_t bits;
        memcpy(&bits, &numbers[i], sizeof bits);
        uint16_t half = form->bf16 ? (uint16_t)(bits >> 16) : f32_to_f16(numbers[i]);
        memcpy(to, bytes == 4 ? (const void *)&numbers[i] : (const void *)&half, bytes);
    }
}

static void pack_floats(const PackJob *job, uint64_t row, uint32_t output, uint8_t *records) {
    for (uint32_t r = 0; r < job->record_count; r++, records += job->form.record_bytes) {
        float numbers[PACKED_COLUMNS];
        MatrixSource part = *job->source;
        part.column_begin += (uint64_t)(job->record_first + r) * PACKED_COLUMNS;
        if (part.column_end > part.column_begin + PACKED_COLUMNS)
            part.column_end = part.column_begin + PACKED_COLUMNS;
        matrix_source_decode_row(&part, row, numbers);
        put_floats(&job->form, records, output, numbers, (uint32_t)matrix_source_columns(&part));
    }
}

/* A task is an output of a tile: it touches bytes of its own. */
static void pack_task(void *user, uint32_t task_index, uint32_t thread_index) {
    (void)thread_index;
    const PackJob *job = user;
    uint64_t tile = task_index / PACKED_OUTPUTS;
    uint32_t output = task_index % PACKED_OUTPUTS;
    uint64_t row = (job->tile_first + tile) * PACKED_OUTPUTS + output;
    if (row >= matrix_source_rows(job->source)) return;
    uint8_t *records = job->out + tile * job->record_count * job->form.record_bytes;
    (job->form.groups ? pack_codes : pack_floats)(job, row, output, records);
}

/* Tiles [first, first + count), whole or, when one is larger than a stage, a single one in pieces. */
static void pack_tiles(const KernelContext *context, PackJob *job, uint64_t first, uint32_t count,
                       uint32_t record_step, uint8_t *memory) {
    UploadArena *arena = cuda_context(context)->upload;
    uint64_t tile_bytes = (uint64_t)job->form.record_count * job->form.record_bytes;
    job->tile_first = first;
    for (uint32_t record = 0; record < job->form.record_count; record += record_step) {
        uint32_t left = job->form.record_count - record;
        job->record_first = record;
        job->record_count = left < record_step ? left : record_step;
        size_t bytes = (size_t)count * job->record_count * job->form.record_bytes;
        job->out = upload_stage(arena, bytes);
        if (!job->out) return;
        memset(job->out, 0, bytes);
        team_run(context->team, count * PACKED_OUTPUTS, pack_task, job);
        upload_send(arena, memory + first * tile_bytes + (uint64_t)record * job->form.record_bytes);
    }
}

void matrix_pack_cuda(const KernelContext *context, const MatrixSource *source, void *memory,
                      Matrix *out) {
    *out = matrix_of(source);
    out->data = memory;
    PackJob job = {.source = source, .form = packed_form(out)};
    uint64_t stage_bytes = upload_bytes_max(cuda_context(context)->upload);
    uint64_t tile_bytes = (uint64_t)job.form.record_count * job.form.record_bytes;
    uint64_t tile_count = divide_up(out->row_count, PACKED_OUTPUTS);
    uint64_t tile_step = tile_bytes < stage_bytes ? stage_bytes / tile_bytes : 1;
    uint64_t record_step =
        tile_bytes <= stage_bytes ? job.form.record_count : stage_bytes / job.form.record_bytes;
    for (uint64_t tile = 0; tile < tile_count; tile += tile_step) {
        uint64_t left = tile_count - tile;
        pack_tiles(context, &job, tile, (uint32_t)(left < tile_step ? left : tile_step),
                   (uint32_t)record_step, memory);
    }
}
