/* The slots of Kernels on a GPU: host arrays go up, launchers do the rest. A call of no rows launches nothing. */

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cuda/coded_form.h"
#include "kernels/cuda/cuda_attention.h"
#include "kernels/cuda/cuda_context.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/packed_matrix.h"
#include "runtime/base/bytes.h"
#include "runtime/base/invariant.h"

enum { PRODUCT_ROWS_MAX = 512 }; /* whose activations are kept at a time; a multiple of 32 */

static uint64_t most(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

static uint64_t activation_row_bytes(uint64_t column_count) {
    return divide_up(column_count, PACKED_COLUMNS) * ACTIVATION_ROW_BYTES_MAX;
}

uint64_t cuda_scratch_bytes(const KernelLimits *limits) {
    uint64_t rows =
        limits->row_count < PRODUCT_ROWS_MAX ? limits->row_count : (uint64_t)PRODUCT_ROWS_MAX;
    uint64_t filled = divide_up(rows, ACTIVATION_TILES_ROWS) * ACTIVATION_TILES_ROWS;
    return most(filled * activation_row_bytes(limits->column_count), ATTEND_PARTIALS_BYTES);
}

static size_t scratch_bytes_cuda(const KernelLimits *limits, uint32_t thread_count) {
    (void)limits, (void)thread_count;
    return 0; /* none in host memory */
}

/* ---- slots that pass their arguments on */

static void rms_norm_cuda(const KernelContext *context, const NormArgs *args) {
    if (args->row_count) cuda_context(context)->launchers->rms_norm(context->stream, args);
}

static void layer_norm_cuda(const KernelContext *context, const NormArgs *args) {
    if (args->row_count) cuda_context(context)->launchers->layer_norm(context->stream, args);
}

static void add_cuda(const KernelContext *context, const ElementwiseArgs *args) {
    if (args->row_count) cuda_context(context)->launchers->add(context->stream, args);
}

static void silu_multiply_cuda(const KernelContext *context, const ElementwiseArgs *args) {
    if (args->row_count) cuda_context(context)->launchers->silu_multiply(context->stream, args);
}

static void relu_cuda(const KernelContext *context, const ElementwiseArgs *args) {
    if (args->row_count) cuda_context(context)->launchers->relu(context->stream, args);
}

static void attend_begin_cuda(const KernelContext *context, const AttendEdgeArgs *args) {
    if (args->row_count) cuda_context(context)->launchers->attend_begin(context->stream, args);
}

static void attend_merge_cuda(const KernelContext *context, const AttendMergeArgs *args) {
    if (args->state.row_count)
        cuda_context(context)->launchers->attend_merge(context->stream, args);
}

static void attend_end_cuda(const KernelContext *context, const AttendEdgeArgs *args) {
    if (args->row_count) cuda_context(context)->launchers->attend_end(context->stream, args);
}

/* ---- slots with arrays of the host's */

static void rope_cuda(const KernelContext *context, const RopeArgs *args) {
    const CudaContext *cuda = cuda_context(context);
    RopeArgs launch = *args;
    uint32_t heads = args->matrices[0].head_count + args->matrices[1].head_count;
    if (!args->row_count || !args->rotary_dim || !heads) return;
    launch.positions =
        upload(cuda->upload, args->positions, args->row_count * sizeof *args->positions);
    if (launch.positions) cuda->launchers->rope(cuda->stream, &launch);
}

static void embed_cuda(const KernelContext *context, const EmbedArgs *args) {
    const CudaContext *cuda = cuda_context(context);
    EmbedArgs launch = *args;
    if (!args->row_count) return;
    launch.ids = upload(cuda->upload, args->ids, args->row_count * sizeof *args->ids);
    if (!launch.ids) return;
    bool known = cuda->launchers->embed(cuda->stream, &launch);
    CHECK(known); /* a weight format without a row in embed.cu */
}

static void kv_store_cuda(const KernelContext *context, const KvStoreArgs *args) {
    const CudaContext *cuda = cuda_context(context);
    KvStoreArgs launch = *args;
    if (!args->row_count) return;
    UploadPart parts[] = {{args->blocks, args->row_count * sizeof *args->blocks, NULL},
                          {args->block_slots, args->row_count * sizeof *args->block_slots, NULL}};
    if (!upload_parts(cuda->upload, parts, 2)) return;
    launch.blocks = parts[0].device;
    launch.block_slots = parts[1].device;
    cuda->launchers->kv_store(cuda->stream, &launch);
}

/* ---- codecs */

static Status kv_encode_blocks_cuda(const Kernels *kernels, const KernelContext *context,
                                    const KvEncodeArgs *args) {
    (void)kernels;
    const CudaContext *cuda = cuda_context(context);
    CodedForm form;
    CHECK(args->block_count <= KV_ENCODE_BLOCKS_MAX);
    if (!coded_form(args->codec, &args->shape, &form))
        FAIL(UNAVAILABLE, "codec %s has no kernel on %s", args->codec->name, cuda->device->name);
    UploadPart parts[] = {{&form, sizeof form, NULL},
                          {args->blocks, args->block_count * sizeof *args->blocks, NULL},
                          {args->out_bytes, args->block_count * sizeof *args->out_bytes, NULL}};
    if (args->block_count && upload_parts(cuda->upload, parts, 3)) {
        EncodeLaunch launch = {.form = parts[0].device,
                               .turbo = form.kind == CODED_TURBOQUANT,
                               .shape = args->shape,
                               .block_count = args->block_count,
                               .blocks = parts[1].device,
                               .out_bytes = parts[2].device,
                               .refused = cuda->scratch};
        cuda->launchers->codec_encode(cuda->stream, &launch);
    }
    return cuda->device->copy(cuda->device, cuda->stream, args->refused, cuda->scratch,
                              args->block_count * sizeof *args->refused);
}

static Status kv_check_blocks_cuda(const KernelContext *context, const KvCheckArgs *args) {
    const CudaContext *cuda = cuda_context(context);
    CHECK(args->block_count <= KV_CHECK_BLOCKS_MAX);
    if (!args->block_count) return STATUS_OK;
    CheckLaunch launch = {
        .shape = args->shape,
        .block_count = args->block_count,
        .blocks = upload(cuda->upload, args->blocks, args->block_count * sizeof *args->blocks),
        .refused = cuda->scratch};
    if (launch.blocks) cuda->launchers->codec_check(cuda->stream, &launch);
    return cuda->device->copy(cuda->device, cuda->stream, args->refused, cuda->scratch,
                              args->block_count * sizeof *args->refused);
}

/* ---- matrix products */

static ActivationKind activation_kind(const CudaLaunchers *launchers, const PackedForm *form,
                                      bool precise, uint32_t row_count) {
    if (form->groups == 0) {
        if (form->code_bits != 16 || !launchers->tensor_floats) return ACTIVATION_F32;
        return form->bf16 ? ACTIVATION_BF16_PARTS : ACTIVATION_F16_PARTS;
    }
    if (precise) return ACTIVATION_INT16;
    return row_count >= launchers->tensor_rows_least ? ACTIVATION_INT8_TILES : ACTIVATION_INT8;
}

typedef void ProductLauncher(DeviceStream *stream, const ProductLaunch *launch);

/* Integer products have the same bits from both kernels; those of 16-bit floats are one kernel's whatever the rows. */
static ProductLauncher *product_kernel(const CudaLaunchers *launchers,
                                       const ProductLaunch *product) {
    if (activation_record_rows(product->kind) == ACTIVATION_PARTS_ROWS)
        return launchers->product_float;
    if (product->kind == ACTIVATION_INT8_TILES) return launchers->product_tensor;
    return launchers->product;
}

/* Rows [row, row + count) of the outputs whose matrices take x as `kind`. */
static void products_of_kind(const CudaContext *cuda, const MatmulArgs *args, ActivationKind kind,
                             uint32_t row, uint32_t count) {
    ActivationLaunch x = {.kind = kind,
                          .x = args->x + row * args->x_stride,
                          .x_stride = args->x_stride,
                          .row_count = count,
                          .record_rows = activation_record_rows(kind),
                          .record_bytes = activation_record_bytes(kind),
                          .records = cuda->scratch};
    for (uint32_t i = 0; i < args->output_count; i++) {
        const MatmulOutput *output = &args->outputs[i];
        const Matrix *matrix = output->weights;
        PackedForm form = packed_form(matrix);
        if (activation_kind(cuda->launchers, &form, args->precise, count) != kind ||
            matrix->row_count == 0)
            continue;
        if (x.column_count == 0) {
            x.column_count = matrix->column_count;
            x.record_count = form.record_count;
            cuda->launchers->activations(cuda->stream, &x);
        }
        ProductLaunch product = {.form = form,
                                 .kind = kind,
                                 .tiles = matrix->data,
                                 .records = x.records,
                                 .activation_bytes = x.record_bytes,
                                 .row_count = count,
                                 .output_count = matrix->row_count,
                                 .bias = output->bias,
                                 .out = output->out + row * output->out_stride,
                                 .out_stride = output->out_stride};
        product_kernel(cuda->launchers, &product)(cuda->stream, &product);
    }
}

static void matmul_cuda(const KernelContext *context, const MatmulArgs *args) {
    const CudaContext *cuda = cuda_context(context);
    uint64_t row_bytes = activation_row_bytes(args->outputs[0].weights->column_count);
    uint64_t rows_max =
        cuda->scratch_bytes / row_bytes / ACTIVATION_TILES_ROWS * ACTIVATION_TILES_ROWS;
    CHECK(args->output_count <= MATMUL_OUTPUTS_MAX && rows_max > 0);
    for (uint32_t row = 0; row < args->row_count;) {
        uint32_t left = args->row_count - row;
        uint32_t count = left < rows_max ? left : (uint32_t)rows_max;
        for (ActivationKind kind = ACTIVATION_INT8; kind < ACTIVATION_KINDS; kind++)
            products_of_kind(cuda, args, kind, row, count);
        row += count;
    }
}

void cuda_kernels_fill(Kernels *kernels) {
    kernels->layout = "cuda"; /* of the emulated device, too */
    kernels->scratch_bytes = scratch_bytes_cuda;
    kernels->context_close = cuda_context_close;
    kernels->matrix_bytes = matrix_bytes_cuda;
    kernels->matrix_pack = matrix_pack_cuda;
    kernels->matrix_describe = matrix_describe_cuda;
    kernels->matmul = matmul_cuda;
    kernels->rms_norm = rms_norm_cuda;
    kernels->layer_norm = layer_norm_cuda;
    kernels->rope = rope_cuda;
    kernels->embed = embed_cuda;
    kernels->kv_store = kv_store_cuda;
    kernels->attend_begin = attend_begin_cuda;
    kernels->attend = attend_cuda;
    kernels->attend_merge = attend_merge_cuda;
    kernels->attend_end = attend_end_cuda;
    codec_fill_host(kernels);
    kernels->kv_encode_blocks = kv_encode_blocks_cuda;
    kernels->kv_check_blocks = kv_check_blocks_cuda;
    kernels->add = add_cuda;
    kernels->silu_multiply = silu_multiply_cuda;
    kernels->relu = relu_cuda;
}
