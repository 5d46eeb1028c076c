/* Matrix products: weights decoded to f32 rows when packed, each output summed in double over rising k. */

#include "kernels/matrix_source.h"
#include "kernels/reference/reference.h"
#include "runtime/base/invariant.h"

static uint64_t matrix_bytes_reference(const MatrixSource *source) {
    return matrix_source_rows(source) * matrix_source_columns(source) * sizeof(float);
}

static void matrix_describe_reference(const MatrixSource *source, Matrix *out) {
    *out = (Matrix){
        .row_count = (uint32_t)matrix_source_rows(source),
        .column_count = (uint32_t)matrix_source_columns(source),
        .quant = source->tensor.quant,
        .bytes = matrix_bytes_reference(source),
    };
}

static void matrix_pack_reference(const KernelContext *context, const MatrixSource *source,
                                  void *memory, Matrix *out) {
    (void)context;
    uint64_t rows = matrix_source_rows(source), columns = matrix_source_columns(source);
    float *weights = memory; /* [rows][columns] */
    for (uint64_t row = 0; row < rows; row++)
        matrix_source_decode_row(source, row, weights + row * columns);
    matrix_describe_reference(source, out);
    out->data = memory;
}

static double dot_reference(const float *a, const float *b, uint32_t count) {
    double sum = 0.0;
    for (uint32_t i = 0; i < count; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

static void matmul_reference(const KernelContext *context, const MatmulArgs *args) {
    (void)context;
    CHECK(args->output_count <= MATMUL_OUTPUTS_MAX);
    for (uint32_t i = 0; i < args->output_count; i++) {
        const MatmulOutput *output = &args->outputs[i];
        const Matrix *matrix = output->weights;
        const float *weights = matrix->data; /* [row_count][column_count] */
        for (uint32_t m = 0; m < args->row_count; m++) {
            const float *x = args->x + m * args->x_stride;
            for (uint32_t n = 0; n < matrix->row_count; n++) {
                const float *w = weights + (uint64_t)n * matrix->column_count;
                double bias = output->bias ? (double)output->bias[n] : 0.0;
                output->out[m * output->out_stride + n] =
                    (float)(bias + dot_reference(x, w, matrix->column_count));
            }
        }
    }
}

void matmul_fill_reference(Kernels *kernels) {
    kernels->matrix_bytes = matrix_bytes_reference;
    kernels->matrix_pack = matrix_pack_reference;
    kernels->matrix_describe = matrix_describe_reference;
    kernels->matmul = matmul_reference;
}
