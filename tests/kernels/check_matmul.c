/* Matrix products. Every variant is compared with a scalar twin of its arithmetic (kernels/cpu/matmul_tiles.h; on a GPU
 * that of kernels/cuda/matmul.cu, which differs where weights are floats) bit for bit, and with the exact product within what rounding the activations allows; and a row's bits may depend on
 * nothing but that row. The twin reads the file's blocks, not the packed form. */

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/bytes.h"
#include "runtime/base/invariant.h"
#include "tests/check/check.h"
#include "tests/kernels/check_blocks.h"

enum { GROUP = 32, ROWS_MAX = 150, OUTPUTS_MAX = 70, COLUMNS_MAX = 2400, GROUPS_OF_ROW_MAX = 256 };

/* A product and where its outputs go. */
typedef struct DrawnProduct {
    MatmulArgs args; /* outputs' weights and out unset */
    MatrixSource sources[MATMUL_OUTPUTS_MAX];
    uint32_t column_count; /* K */
} DrawnProduct;

/* ---- drawing ---- */

static bool all_floats(const Quant *const *formats, uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        if (formats[i]->block_elements != 1) return false;
    return true;
}

/* Columns of the tensor, whole blocks of every format; some longer than a run of k of the CPU kernels. */
static uint32_t draw_tensor_columns(Check *check, const Quant *const *formats, uint32_t count) {
    uint32_t limit = check_chance(check, 0.1) ? COLUMNS_MAX : 700;
    if (all_floats(formats, count)) return check_size(check, limit);
    uint32_t block = 1;
    for (uint32_t i = 0; i < count; i++)
        if (formats[i]->block_elements > block) block = formats[i]->block_elements;
    return block * check_size(check, limit / block);
}

/* A part of the columns: any, or whole groups. */
static void draw_cut(Check *check, uint32_t columns, uint32_t *out_begin, uint32_t *out_end) {
    uint32_t unit = check_chance(check, 0.5) && columns >= GROUP ? GROUP : 1;
    uint32_t units = columns / unit;
    *out_begin = unit * check_below(check, units);
    *out_end = *out_begin + unit * (1 + check_below(check, units - *out_begin / unit));
}

static DrawnProduct draw_product(Check *check) {
    const Quant *formats[MATMUL_OUTPUTS_MAX];
    uint32_t count = check_chance(check, 0.5) ? 1 : 2 + check_below(check, 2);
    for (uint32_t i = 0; i < count; i++)
        formats[i] = check_draw_quant(check);
    uint32_t columns = draw_tensor_columns(check, formats, count), begin = 0, end = columns;
    if (check_chance(check, 0.3)) draw_cut(check, columns, &begin, &end);
    /* as many for slow variants: what they compute depends on the rows */
    uint32_t rows = check_size(check, check->slowness * (check_chance(check, 0.1) ? ROWS_MAX : 20));
    DrawnProduct drawn = {
        .args = {.row_count = rows,
                 .x_stride = end - begin + check_below(check, 3),
                 .output_count = count,
                 .precise = check_chance(check, 0.5)},
        .column_count = end - begin,
    };
    size_t x_count = (rows - 1) * drawn.args.x_stride + drawn.column_count;
    float *x = check_memory(check, x_count, sizeof *x);
    check_fill_normal(check, x, x_count, exp2(check_below(check, 30) - 15.0));
    drawn.args.x = x;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t outputs = check_size(check, OUTPUTS_MAX), first = check_below(check, 3);
        float *bias = check_memory(check, outputs, sizeof *bias);
        check_fill_normal(check, bias, outputs, 1.0);
        drawn.args.outputs[i].bias = check_chance(check, 0.5) ? bias : NULL;
        drawn.args.outputs[i].out_stride = outputs + check_below(check, 3);
        drawn.sources[i] = (MatrixSource){
            .tensor = check_draw_tensor(check, formats[i], first + outputs + 1, columns),
            .row_begin = first,
            .row_end = first + outputs,
            .column_begin = begin,
            .column_end = end,
        };
    }
    return drawn;
}

/* The largest integer sums there are: every code the largest, every activation the group's largest. */
static void make_largest(Check *check, DrawnProduct *drawn) {
    size_t count = (drawn->args.row_count - 1) * drawn->args.x_stride + drawn->column_count;
    float *x = check_copy(check, drawn->args.x, count * sizeof *x);
    float value = check_chance(check, 0.5) ? 0.7f : -0.7f;
    for (size_t i = 0; i < count; i++)
        x[i] = value;
    drawn->args.x = x;
    for (uint32_t i = 0; i < drawn->args.output_count; i++) {
        Tensor *tensor = &drawn->sources[i].tensor;
        uint8_t *bytes = check_memory(check, tensor->bytes, 1);
        check_blocks_fill_largest(check, tensor->quant, tensor->bytes / tensor->quant->block_bytes,
                                  bytes);
        tensor->data = bytes;
    }
}

static uint32_t source_rows(const MatrixSource *source) {
    return (uint32_t)(source->row_end - source->row_begin);
}

/* ---- calling ---- */

static Matrix *pack(Check *check, const Kernels *kernels, const MatrixSource *source) {
    uint64_t bytes = kernels->matrix_bytes(source);
    Matrix *matrix = check_memory_aligned(check, sizeof *matrix);
    KernelContext context = {.team =
                                 check_team(check, 1 + check_below(check, check->thread_count))};
    kernels->matrix_pack(&context, source, check_memory_aligned(check, bytes), matrix);
    if (matrix->bytes != bytes) check_fail(check, "%s: packed size", source->tensor.quant->name);
    Matrix described;
    kernels->matrix_describe(source, &described);
    if (described.data || described.bytes != bytes || described.layout != matrix->layout ||
        described.row_count != matrix->row_count || described.quant != matrix->quant ||
        described.column_count != matrix->column_count)
        check_fail(check, "%s: not described as it was packed", source->tensor.quant->name);
    return matrix;
}

/* Runs the product for rows [row, row + row_count) into fresh memory. */
static MatmulArgs call(Check *check, const Kernels *kernels, const MatmulArgs *args, uint32_t row,
                       uint32_t row_count, uint32_t thread_count) {
    MatmulArgs part = *args;
    part.x += row * args->x_stride;
    part.row_count = row_count;
    for (uint32_t i = 0; i < part.output_count; i++) {
        CheckShape shape = {row_count, part.outputs[i].weights->row_count,
                            part.outputs[i].out_stride};
        part.outputs[i].out = check_memory(check, check_shape_count(&shape), sizeof(float));
    }
    KernelLimits limits = {.row_count = row_count,
                           .column_count = part.outputs[0].weights->column_count};
    KernelContext context = check_context(check, kernels, &limits, thread_count);
    kernels->matmul(&context, &part);
    return part;
}

/* ---- the twin ---- */

/* What the arithmetic of an output is. */
typedef enum TwinKind {
    TWIN_DOUBLE,
    TWIN_F32,
    TWIN_F32_RECORDS,
    TWIN_F16_PARTS,
    TWIN_BF16_PARTS,
    TWIN_INT8,
    TWIN_INT16
} TwinKind;

static TwinKind twin_kind(const Check *check, const MatrixSource *source, bool precise) {
    const Quant *quant = source->tensor.quant;
    if (strcmp(check->variant, "reference") == 0) return TWIN_DOUBLE;
    if (!quant->expand || source->column_begin % GROUP || source->column_end % GROUP)
        return !check->device         ? TWIN_F32
               : quant == &quant_f16  ? TWIN_F16_PARTS
               : quant == &quant_bf16 ? TWIN_BF16_PARTS
                                      : TWIN_F32_RECORDS;
    bool int8_overflows = quant->code_bits == 8 && strcmp(check->variant, "avx2") == 0;
    return precise || int8_overflows ? TWIN_INT16 : TWIN_INT8;
}

/* One row of weights over the source's columns. */
typedef struct TwinWeights {
    float numbers[COLUMNS_MAX];
    uint8_t codes[COLUMNS_MAX];
    float scales[GROUPS_OF_ROW_MAX], offsets[GROUPS_OF_ROW_MAX];
} TwinWeights;

static void twin_weights_read(const MatrixSource *source, uint64_t row, TwinKind kind,
                              TwinWeights *out) {
    const Tensor *tensor = &source->tensor;
    uint64_t columns = tensor->shape[1], row_bytes = tensor->bytes / tensor->shape[0];
    const uint8_t *blocks = (const uint8_t *)tensor->data + (source->row_begin + row) * row_bytes;
    TwinWeights whole;
    tensor->quant->dequantise(blocks, columns, whole.numbers);
    uint64_t count = source->column_end - source->column_begin, begin = source->column_begin;
    memcpy(out->numbers, whole.numbers + begin, count * sizeof(float));
    if (kind != TWIN_INT8 && kind != TWIN_INT16) return;
    uint32_t group = tensor->quant->group_elements;
    tensor->quant->expand(blocks, columns, whole.codes, whole.scales, whole.offsets);
    memcpy(out->codes, whole.codes + begin, count);
    memcpy(out->scales, whole.scales + begin / group, count / group * sizeof(float));
    memcpy(out->offsets, whole.offsets + begin / group, count / group * sizeof(float));
}

/* Codes of 32 activations and what one of them stands for. */
static float twin_quantise(const float *x, float code_max, int32_t codes[GROUP]) {
    float most = 0.0f;
    for (uint32_t i = 0; i < GROUP; i++)
        most = fmaxf(most, fabsf(x[i]));
    float inverse = most >= 0x1p-100f ? code_max / most : 0.0f;
    for (uint32_t i = 0; i < GROUP; i++)
        codes[i] = (int32_t)nearbyintf(x[i] * inverse);
    return most / code_max;
}

/* An output by the twin, and how far the exact product may be from it. */
typedef struct TwinResult {
    float out;
    double bound;
} TwinResult;

static TwinResult twin_encoded(const TwinWeights *weights, const float *x, uint32_t count,
                               const Quant *quant, float code_max) {
    float sum = 0.0f;
    double magnitude = 0.0, rounding = 0.0;
    for (uint32_t first = 0; first < count; first += GROUP) {
        int32_t codes[GROUP];
        float scale = twin_quantise(x + first, code_max, codes);
        int32_t code_sum = 0;
        for (uint32_t i = 0; i < GROUP; i++) {
            code_sum += codes[i];
            rounding += 0.5001 * (double)scale * fabs((double)weights->numbers[first + i]);
        }
        for (uint32_t begin = first; begin < first + GROUP; begin += quant->group_elements) {
            uint32_t group = begin / quant->group_elements;
            int32_t products = 0;
            for (uint32_t i = begin; i < begin + quant->group_elements; i++)
                products +=
                    codes[i - first] * ((int32_t)weights->codes[i] - (int32_t)quant->code_bias);
            float factor = weights->scales[group] * scale;
            sum = fmaf((float)products, factor, sum);
            magnitude += fabs((double)products * (double)factor);
            if (quant->code_bias) continue;
            float scaled_sum = scale * (float)code_sum;
            sum = fmaf(weights->offsets[group], scaled_sum, sum);
            magnitude += fabs((double)weights->offsets[group] * (double)scaled_sum);
        }
    }
    return (TwinResult){sum, rounding + magnitude * (count / 16.0 + 4.0) * 0x1p-23};
}

static TwinResult twin_f32(const float *weights, const float *x, uint32_t count) {
    float sum = 0.0f;
    double magnitude = 0.0;
    for (uint32_t k = 0; k < count; k++) {
        sum = fmaf(weights[k], x[k], sum);
        magnitude += fabs((double)weights[k] * (double)x[k]);
    }
    return (TwinResult){sum, magnitude * (count + 2.0) * 0x1p-24};
}

/* A chain for each 32 columns, filled up with zeros, and a chain of these. */
static TwinResult twin_f32_records(const float *weights, const float *x, uint32_t count) {
    float sum = 0.0f;
    for (uint32_t first = 0; first < count; first += GROUP) {
        float part = 0.0f;
        for (uint32_t k = first; k < first + GROUP; k++)
            part = k < count ? fmaf(weights[k], x[k], part) : fmaf(0.0f, 0.0f, part);
        sum += part;
    }
    return (TwinResult){sum, twin_f32(weights, x, count).bound};
}

enum { PARTS_MAX = 3 };

/* 32 numbers of x as sums of numbers of 16 bits, and what 1 stands for. */
typedef struct TwinParts {
    float parts[PARTS_MAX][GROUP]; /* the largest first */
    uint32_t count;
    float unit;
} TwinParts;

/* The largest magnitude is brought to [2^14, 2^15), if it is at least 2^-112. */
static TwinParts twin_f16_parts(const float x[GROUP]) {
    float most = 0.0f;
    for (uint32_t i = 0; i < GROUP; i++)
        most = fmaxf(most, fabsf(x[i]));
    int exponent = -111;
    if (most >= 0x1p-112f) frexpf(most, &exponent);
    TwinParts out = {.count = 2, .unit = ldexpf(1.0f, exponent - 15)};
    for (uint32_t i = 0; i < GROUP; i++) {
        float scaled = ldexpf(x[i], 15 - exponent);
        out.parts[0][i] = f16_to_f32(f32_to_f16(scaled));
        out.parts[1][i] = f16_to_f32(f32_to_f16(scaled - out.parts[0][i]));
    }
    return out;
}

static float bf16_cut(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bf16_to_f32((uint16_t)(bits >> 16));
}

static TwinParts twin_bf16_parts(const float x[GROUP]) {
    TwinParts out = {.count = 3, .unit = 1.0f};
    for (uint32_t i = 0; i < GROUP; i++) {
        float left = x[i];
        for (uint32_t part = 0; part < 3; part++) {
            out.parts[part][i] = bf16_cut(left);
            left -= out.parts[part][i];
        }
    }
    return out;
}

/* Each 32 columns from zero, the smallest part first: of every eight columns the first four, k in the order of a tensor product, then
 * the others. The bound holds for the parts that count, and would not for one less. */
static TwinResult twin_parts(const float *weights, const float *x, uint32_t count, bool bf16) {
    float sum = 0.0f;
    double magnitude = 0.0, rounding = 0.0;
    for (uint32_t first = 0; first < count; first += GROUP) {
        float group[GROUP] = {0.0f}, part_sum = 0.0f;
        uint32_t here = count - first < GROUP ? count - first : (uint32_t)GROUP;
        memcpy(group, x + first, here * sizeof *group);
        TwinParts twin = bf16 ? twin_bf16_parts(group) : twin_f16_parts(group);
        for (uint32_t pass = 0; pass < twin.count * GROUP; pass++) {
            uint32_t part = twin.count - 1 - pass / GROUP, step = pass % GROUP / 16, k = pass % 16;
            uint32_t i = k % 8 / 2 * 8 + 4 * step + k / 8 * 2 + k % 2;
            part_sum = fmaf(i < here ? weights[first + i] : 0.0f, twin.parts[part][i], part_sum);
        }
        sum = bf16 ? sum + part_sum : fmaf(part_sum, twin.unit, sum);
        for (uint32_t i = 0; i < here; i++) {
            double weight = fabs((double)weights[first + i]);
            magnitude += weight * fabs((double)group[i]);
            /* half the last place of a rest that is subnormal; of bfloat16 a card may take what is subnormal as zero */
            rounding += bf16 ? 0x1p-126 * (weight + fabs((double)group[i]) + 1.0)
                             : 0x1p-25 * (double)twin.unit * weight;
        }
    }
    rounding += bf16 ? 0.0 : 0x1p-23 * magnitude;
    return (TwinResult){sum, rounding + magnitude * (count / (double)GROUP + 40.0) * 0x1p-24};
}

static double exact_dot(const float *weights, const float *x, uint32_t count) {
    double sum = 0.0;
    for (uint32_t k = 0; k < count; k++)
        sum += (double)weights[k] * (double)x[k];
    return sum;
}

static TwinResult twin_output(const TwinWeights *weights, const float *x, uint32_t count,
                              const Quant *quant, TwinKind kind) {
    switch (kind) {
    case TWIN_F32: return twin_f32(weights->numbers, x, count);
    case TWIN_F32_RECORDS: return twin_f32_records(weights->numbers, x, count);
    case TWIN_F16_PARTS: return twin_parts(weights->numbers, x, count, false);
    case TWIN_BF16_PARTS: return twin_parts(weights->numbers, x, count, true);
    case TWIN_INT8: return twin_encoded(weights, x, count, quant, 127.0f);
    case TWIN_INT16: return twin_encoded(weights, x, count, quant, 32767.0f);
    case TWIN_DOUBLE: break;
    }
    return (TwinResult){0.0f, 0.0};
}

/* Output `index` of a product: bits of the twin, and within reach of the exact product. */
static void expect_twin(Check *check, const DrawnProduct *drawn, const MatmulArgs *done,
                        uint32_t index) {
    static TwinWeights weights;
    const MatrixSource *source = &drawn->sources[index];
    const Quant *quant = source->tensor.quant;
    const MatmulOutput *output = &done->outputs[index];
    TwinKind kind = twin_kind(check, source, done->precise);
    /* tensor cores of a GPU sum floats in an order of their own */
    bool same_order =
        (kind != TWIN_F16_PARTS && kind != TWIN_BF16_PARTS) || strcmp(check->variant, "cuda") != 0;
    uint32_t columns = source_rows(source);
    CheckShape shape = {done->row_count, columns, output->out_stride};
    float *expected = check_memory(check, check_shape_count(&shape), sizeof *expected);
    for (uint32_t n = 0; n < columns; n++) {
        twin_weights_read(source, n, kind, &weights);
        double bias = output->bias ? (double)output->bias[n] : 0.0;
        for (uint32_t m = 0; m < done->row_count; m++) {
            const float *x = done->x + m * done->x_stride;
            double exact = bias + exact_dot(weights.numbers, x, drawn->column_count);
            TwinResult twin = twin_output(&weights, x, drawn->column_count, quant, kind);
            float out = kind == TWIN_DOUBLE ? (float)exact
                        : output->bias      ? twin.out + (float)bias
                                            : twin.out;
            expected[m * output->out_stride + n] = out;
            double bound = twin.bound + 2 * 0x1p-24 * (fabs(exact) + fabs(bias)) +
                           drawn->column_count * 0x1p-149; /* subnormal products */
            if (fabs((double)out - exact) > bound)
                check_fail(check, "%s: twin gives %.9g, exact is %.9g, bound %.3g", quant->name,
                           (double)out, exact, bound);
            double given = (double)output->out[m * output->out_stride + n];
            if (!same_order && !(fabs(given - exact) <= 4.0 * bound))
                check_fail(check, "%s: %.9g, exact is %.9g, bound %.3g", quant->name, given, exact,
                           bound);
        }
    }
    if (!same_order)
        check_gaps(check, quant->name, output->out, &shape);
    else if (!check_same_bits(check, quant->name, expected, output->out,
                              check_shape_count(&shape) * sizeof(float)))
        check_fail(check, "%s: %u rows, %u outputs, %u columns from %llu, twin %d", quant->name,
                   done->row_count, columns, drawn->column_count,
                   (unsigned long long)source->column_begin, (int)kind);
}

/* ---- properties ---- */

static void expect_same_rows(Check *check, const char *what, const MatmulArgs *whole,
                             const MatmulArgs *part, uint32_t row) {
    for (uint32_t i = 0; i < whole->output_count; i++) {
        const MatmulOutput *output = &whole->outputs[i];
        for (uint32_t m = 0; m < part->row_count; m++)
            check_same_bits(check, what, output->out + (row + m) * output->out_stride,
                            part->outputs[i].out + m * output->out_stride,
                            output->weights->row_count * sizeof(float));
    }
}

static void expect_row_invariance(Check *check, const MatmulArgs *whole) {
    uint32_t row = check_below(check, whole->row_count);
    MatmulArgs alone = call(check, check->kernels, whole, row, 1, 1);
    expect_same_rows(check, "a row alone", whole, &alone, row);
    uint32_t count = 1 + check_below(check, whole->row_count - row);
    MatmulArgs some = call(check, check->kernels, whole, row, count,
                           1 + check_below(check, 2 * check->thread_count + 1));
    expect_same_rows(check, "some rows, other threads", whole, &some, row);
}

/* A rank that owns a part of the outputs computes the same bits. */
static void expect_split_invariance(Check *check, const DrawnProduct *drawn,
                                    const MatmulArgs *whole) {
    uint32_t i = check_below(check, whole->output_count);
    MatrixSource part_source = drawn->sources[i];
    uint32_t first = check_below(check, source_rows(&part_source));
    part_source.row_begin += first;
    MatmulArgs part = *whole;
    part.output_count = 1;
    part.outputs[0] = whole->outputs[i];
    part.outputs[0].weights = pack(check, check->kernels, &part_source);
    if (part.outputs[0].bias) part.outputs[0].bias += first;
    part = call(check, check->kernels, &part, 0, whole->row_count, 1);
    for (uint32_t m = 0; m < whole->row_count; m++)
        check_same_bits(check, "a part of the outputs",
                        whole->outputs[i].out + m * whole->outputs[i].out_stride + first,
                        part.outputs[0].out + m * part.outputs[0].out_stride,
                        source_rows(&part_source) * sizeof(float));
}

static void run_matmul(Check *check) {
    DrawnProduct drawn = draw_product(check);
    if (check_chance(check, 0.2)) make_largest(check, &drawn);
    for (uint32_t i = 0; i < drawn.args.output_count; i++)
        drawn.args.outputs[i].weights = pack(check, check->kernels, &drawn.sources[i]);
    MatmulArgs done = call(check, check->kernels, &drawn.args, 0, drawn.args.row_count,
                           1 + check_below(check, check->thread_count));
    for (uint32_t i = 0; i < done.output_count; i++)
        expect_twin(check, &drawn, &done, i);
    expect_row_invariance(check, &done);
    expect_split_invariance(check, &drawn, &done);
}

/* An infinity or a NaN in a row reaches every output of that row, and no other row. */
static void run_not_finite(Check *check) {
    DrawnProduct drawn = draw_product(check);
    for (uint32_t i = 0; i < drawn.args.output_count; i++)
        drawn.args.outputs[i].weights = pack(check, check->kernels, &drawn.sources[i]);
    MatmulArgs clean = call(check, check->kernels, &drawn.args, 0, drawn.args.row_count, 1);
    uint32_t row = check_below(check, drawn.args.row_count);
    float *x = check_copy(check, drawn.args.x,
                          ((drawn.args.row_count - 1) * drawn.args.x_stride + drawn.column_count) *
                              sizeof *x);
    x[row * drawn.args.x_stride + check_below(check, drawn.column_count)] =
        check_chance(check, 0.5) ? NAN : INFINITY;
    MatmulArgs args = drawn.args;
    args.x = x;
    MatmulArgs spoilt = call(check, check->kernels, &args, 0, args.row_count, 1);
    for (uint32_t i = 0; i < args.output_count; i++) {
        const MatmulOutput *output = &spoilt.outputs[i];
        for (uint32_t m = 0; m < args.row_count; m++) {
            const float *out = output->out + m * output->out_stride;
            if (m != row)
                check_same_bits(check, "another row", clean.outputs[i].out + m * output->out_stride,
                                out, output->weights->row_count * sizeof *out);
            for (uint32_t n = 0; n < output->weights->row_count && m == row; n++)
                if (isfinite(out[n]) && clean.outputs[i].out[m * output->out_stride + n] != 0.0f)
                    check_fail(check, "%s: a spoilt row gives %g", output->weights->quant->name,
                               (double)out[n]);
        }
    }
}

/* ---- 16-bit floats, whose x is split where tensor cores multiply ---- */

/* Weights of all magnitudes: subnormal ones, and large ones of f16. */
static void fill_half_weights(Check *check, const Tensor *tensor, bool positive) {
    uint8_t *bytes = (uint8_t *)tensor->data;
    bool f16 = tensor->quant == &quant_f16;
    for (uint64_t i = 0; i < tensor->bytes; i += 2) {
        uint16_t bits = load_u16(bytes + i);
        if (check_chance(check, 0.1)) bits = (uint16_t)check_below(check, f16 ? 0x400 : 0x80);
        if (f16 && check_chance(check, 0.05)) bits = (uint16_t)check_below(check, 0x7c00);
        store_u16(bytes + i, positive ? bits & 0x7fff : bits);
    }
}

/* Numbers of which each part that is left when the larger ones are taken away has the number's sign, and is large: should one be
 * dropped, all errors go one way. */
static void fill_same_way(Check *check, float *x, uint32_t count, float scale) {
    for (uint32_t i = 0; i < count; i++) {
        uint32_t bits =
            0x3f800000u | check_below(check, 1 << 10) << 13 | 0x0fc0u | check_below(check, 1 << 6);
        memcpy(&x[i], &bits, sizeof bits);
        x[i] *= scale;
    }
}

/* A row of one of many kinds; scales are powers of two, and keep the bits. */
static void fill_row(Check *check, float *x, uint32_t count) {
    static const float scales[] = {0x1p-126f, 0x1p-113f, 0x1p-100f, 0x1p-20f,
                                   1.0f,      0x1p20f,   0x1p90f};
    float scale = scales[check_below(check, sizeof scales / sizeof *scales)];
    uint32_t kind = check_below(check, 5);
    check_fill_normal(check, x, count, 1.0);
    for (uint32_t i = 0; i < count; i++) {
        if (kind == 0) x[i] = 0.0f;
        if (kind == 1) x[i] *= ldexpf(1.0f, -(int)check_below(check, 60));
        x[i] *= scale;
    }
    if (kind == 2) fill_same_way(check, x, count, scale);
    if (kind == 3) x[check_below(check, count)] = 1e30f;
}

static DrawnProduct draw_half_product(Check *check, uint32_t rows_max) {
    const Quant *quant = check_chance(check, 0.5) ? &quant_f16 : &quant_bf16;
    uint32_t columns = 1 + check_below(check, 200), begin = 0, end = columns;
    uint32_t outputs = 1 + check_below(check, OUTPUTS_MAX), rows = 1 + check_below(check, rows_max);
    if (check_chance(check, 0.3)) draw_cut(check, columns, &begin, &end);
    DrawnProduct drawn = {
        .args = {.row_count = rows,
                 .x_stride = end - begin + check_below(check, 3),
                 .output_count = 1,
                 .outputs = {{.out_stride = outputs + check_below(check, 3)}}},
        .sources = {{.tensor = check_draw_tensor(check, quant, outputs, columns),
                     .row_end = outputs,
                     .column_begin = begin,
                     .column_end = end}},
        .column_count = end - begin,
    };
    fill_half_weights(check, &drawn.sources[0].tensor, check_chance(check, 0.5));
    float *x =
        check_memory(check, (rows - 1) * drawn.args.x_stride + drawn.column_count, sizeof *x);
    for (uint32_t m = 0; m < rows; m++)
        fill_row(check, x + m * drawn.args.x_stride, drawn.column_count);
    drawn.args.x = x;
    drawn.args.outputs[0].weights = pack(check, check->kernels, &drawn.sources[0]);
    return drawn;
}

/* Rows of every magnitude beside each other are as close to the exact product as if each were alone, and their bits as if each were,
 * or some. */
static void run_halves(Check *check) {
    DrawnProduct drawn = draw_half_product(check, 70);
    MatmulArgs done = call(check, check->kernels, &drawn.args, 0, drawn.args.row_count, 1);
    expect_twin(check, &drawn, &done, 0);
    for (uint32_t row = 0, count; row < done.row_count; row += count) {
        uint32_t left = done.row_count - row;
        count = 1 + check_below(check, left < 35 ? left : 35);
        MatmulArgs part = call(check, check->kernels, &drawn.args, row, count, 1);
        expect_same_rows(check, "some rows", &done, &part, row);
    }
}

static bool same_class(double expected, float given) {
    if (isnan(expected)) return isnan(given);
    return isinf(expected) ? (double)given == expected : isfinite(given);
}

/* What is not finite in x gives what a plain product gives: infinity of the same sign, or NaN; in the weights, either. */
static void run_halves_not_finite(Check *check) {
    static TwinWeights weights;
    /* infinities, and a NaN whose upper bits alone would be one */
    static const uint32_t spoilers[] = {0x7f800000u, 0xff800000u, 0x7f800001u};
    DrawnProduct drawn = draw_half_product(check, 20);
    MatrixSource *source = &drawn.sources[0];
    uint32_t outputs = source_rows(source), columns = drawn.column_count;
    float *x = check_memory(check, drawn.args.row_count * drawn.args.x_stride, sizeof *x);
    for (uint32_t m = 0; m < drawn.args.row_count; m++) {
        float *row = x + m * drawn.args.x_stride;
        check_fill_normal(check, row, columns, 1.0);
        for (uint32_t i = check_below(check, 3); i > 0; i--)
            memcpy(row + check_below(check, columns), &spoilers[check_below(check, 3)],
                   sizeof *row);
    }
    drawn.args.x = x;
    uint8_t *bytes = (uint8_t *)source->tensor.data;
    uint64_t row_bytes = source->tensor.bytes / source->tensor.shape[0];
    uint32_t infinite = check_below(check, outputs);
    uint64_t column = source->column_begin + check_below(check, columns);
    store_u16(bytes + infinite * row_bytes + 2 * column,
              source->tensor.quant == &quant_f16 ? 0x7c00 : 0x7f80);
    drawn.args.outputs[0].weights = pack(check, check->kernels, source);
    MatmulArgs done = call(check, check->kernels, &drawn.args, 0, drawn.args.row_count, 1);
    for (uint32_t n = 0; n < outputs; n++) {
        twin_weights_read(source, n, TWIN_F32, &weights);
        for (uint32_t m = 0; m < done.row_count; m++) {
            float out = done.outputs[0].out[m * done.outputs[0].out_stride + n];
            double exact = exact_dot(weights.numbers, x + m * done.x_stride, columns);
            if (n == infinite ? isfinite(out) : !same_class(exact, out))
                check_fail(check, "%s: %g, and a plain product gives %g",
                           source->tensor.quant->name, (double)out, exact);
        }
    }
}

/* So many rows of so many columns that a backend with bounded scratch takes them in pieces: one seed in 32, for it is slow to
 * emulate. */
static void run_many_rows(Check *check) {
    enum { ROWS = 520, COLUMNS = 8192 };
    if (check->seed % 32 != 1) return;
    static const char *const formats[] = {"q8_0", "q4_1", "f32", "bf16"};
    const Quant *quant = quant_find(formats[check_below(check, 4)]);
    MatrixSource source = {
        .tensor = check_draw_tensor(check, quant, 1, COLUMNS), .row_end = 1, .column_end = COLUMNS};
    /* rows overlap: each begins a number later */
    float *x = check_memory(check, ROWS + COLUMNS, sizeof *x);
    check_fill_normal(check, x, ROWS + COLUMNS, 1.0);
    MatmulArgs args = {
        .x = x,
        .x_stride = 1,
        .row_count = ROWS,
        .output_count = 1,
        .outputs = {{.weights = pack(check, check->kernels, &source), .out_stride = 1}}};
    MatmulArgs whole = call(check, check->kernels, &args, 0, ROWS, check->thread_count);
    uint32_t row = ROWS - 1 - check_below(check, 12);
    MatmulArgs part = call(check, check->kernels, &args, row, ROWS - row, 1);
    expect_same_rows(check, "the last rows alone", &whole, &part, row);
}

/* ---- timing ---- */

/* The products of one step of SmolLM2-135M; the layers' weights lie apart, as a model's do, so that they come from memory. */
enum {
    HIDDEN = 576,
    KEYS = 192,
    FEED = 1536,
    LAYERS = 30,
    VOCABULARY = 49152,
    CALLS_PER_LAYER = 4
};

typedef struct ProductShape {
    uint32_t count, columns;
    uint32_t rows[MATMUL_OUTPUTS_MAX];
} ProductShape;

static const ProductShape layer_shapes[CALLS_PER_LAYER] = {
    {3, HIDDEN, {HIDDEN, KEYS, KEYS}},
    {1, HIDDEN, {HIDDEN}},
    {2, HIDDEN, {FEED, FEED}},
    {1, FEED, {HIDDEN}},
};
static const ProductShape head_shape = {1, HIDDEN, {VOCABULARY}};

typedef struct MatmulBench {
    KernelContext context;
    const Kernels *kernels;
    MatmulArgs calls[LAYERS * CALLS_PER_LAYER];
    uint32_t call_count;
    double operations_a_row, bytes;
} MatmulBench;

static void bench_add(Check *check, MatmulBench *bench, const Quant *quant,
                      const ProductShape *shape) {
    MatmulArgs *args = &bench->calls[bench->call_count++];
    *args = (MatmulArgs){.output_count = shape->count};
    for (uint32_t i = 0; i < shape->count; i++) {
        MatrixSource source = {.tensor =
                                   check_draw_tensor(check, quant, shape->rows[i], shape->columns),
                               .row_end = shape->rows[i],
                               .column_end = shape->columns};
        args->outputs[i].weights = pack(check, bench->kernels, &source);
        args->outputs[i].out_stride = shape->rows[i];
        bench->operations_a_row += 2.0 * shape->rows[i] * shape->columns;
        bench->bytes += (double)args->outputs[i].weights->bytes;
    }
}

static void bench_call(void *argument) {
    MatmulBench *bench = argument;
    for (uint32_t i = 0; i < bench->call_count; i++)
        bench->kernels->matmul(&bench->context, &bench->calls[i]);
}

static void bench_rows(Check *check, MatmulBench *bench, const char *name, uint32_t rows,
                       bool precise, PeakKind peak) {
    KernelLimits limits = {.row_count = rows, .column_count = FEED};
    /* the calls of a layer apart, for shapes differ */
    float *x = check_memory(check, (size_t)CALLS_PER_LAYER * rows * FEED, sizeof *x);
    float *out = check_memory(check, (size_t)rows * VOCABULARY, sizeof *out);
    check_fill_normal(check, x, (size_t)CALLS_PER_LAYER * rows * FEED, 1.0);
    uint32_t column = 0;
    bench->context = check_context(check, bench->kernels, &limits, check->thread_count);
    for (uint32_t i = 0; i < bench->call_count; i++) {
        MatmulArgs *args = &bench->calls[i];
        uint32_t place = i % CALLS_PER_LAYER;
        if (place == 0) column = 0;
        args->x = x + (size_t)place * rows * FEED;
        args->x_stride = args->outputs[0].weights->column_count;
        args->row_count = rows;
        args->precise = precise;
        for (uint32_t o = 0; o < args->output_count; o++) {
            args->outputs[o].out = out + (size_t)rows * column;
            column += args->outputs[o].weights->row_count;
        }
    }
    char label[64];
    snprintf(label, sizeof label, "%s, %u rows", name, rows);
    CheckWork work = {.operations = bench->operations_a_row * rows,
                      .bytes = rows == 1 ? bench->bytes : 0,
                      .peak = peak};
    check_bench(check, label, &work, bench_call, bench);
}

static void bench_format(Check *check, const char *name, bool head) {
    static const uint32_t rows[] = {1, 2, 8, 32, 128, 512};
    static MatmulBench bench;
    const Quant *quant = quant_find(name);
    bench = (MatmulBench){.kernels = check->kernels};
    for (uint32_t layer = 0; layer < LAYERS && !head; layer++)
        for (uint32_t i = 0; i < CALLS_PER_LAYER; i++)
            bench_add(check, &bench, quant, &layer_shapes[i]);
    if (head) bench_add(check, &bench, quant, &head_shape);
    char label[32];
    snprintf(label, sizeof label, "%s %s", name, head ? "head, precise" : "body");
    PeakKind peak = !quant->expand ? PEAK_F32 : head ? PEAK_INT16 : PEAK_INT8;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (!head || rows[i] <= 128) bench_rows(check, &bench, label, rows[i], head, peak);
}

static void bench_matmul(Check *check) {
    static const char *const bodies[] = {"q4_1", "q4_0", "q8_0", "q5_1", "f32", "f16", "bf16"};
    if (strcmp(check->variant, "reference") == 0) return;
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++)
        bench_format(check, bodies[i], false);
    bench_format(check, "q8_0", true);
}

const CheckGroup check_matmul = {{
    {"matmul", CHECK_SLOT(matmul), run_matmul, bench_matmul},
    {"not_finite", CHECK_SLOT(matmul), run_not_finite, NULL},
    {"halves", CHECK_SLOT(matmul), run_halves, NULL},
    {"halves_not_finite", CHECK_SLOT(matmul), run_halves_not_finite, NULL},
    {"many_rows", CHECK_SLOT(matmul), run_many_rows, NULL},
    {0},
}};
