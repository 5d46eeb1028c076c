#include "tests/check/check_device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/base/invariant.h"

/* Host memory and its copy on the device. */
typedef struct Mirror {
    const void *host;
    void *device;
    uint64_t bytes;
    bool written; /* copied down after the call */
} Mirror;

/* Found by a hash of the host address. */
enum { MIRRORS_MAX = 1 << 14, MIRROR_SLOTS = 2 * MIRRORS_MAX };

struct CheckDevice {
    Device *device;
    const Kernels *kernels;
    KernelContext context;
    Mirror mirrors[MIRRORS_MAX];
    uint32_t mirror_count;
    uint32_t slots[MIRROR_SLOTS]; /* 1 + index of a mirror; 0: none */
    bool keep;
};

static CheckDevice *used;

/* Larger than any case. */
static const KernelLimits limits = {.row_count = 1024,
                                    .column_count = 8192,
                                    .head_count = 64,
                                    .head_dim = 256,
                                    .block_tokens = 256};

static void expect(Status status) {
    if (status == STATUS_OK) return;
    printf("FAIL: the device is broken\n"); /* the error's line says how */
    exit(1);
}

/* ---- copies */

/* Through pinned memory. */
static void copy_between(void *device, void *host, const void *source, uint64_t bytes, bool down) {
    Device *row = used->device;
    DeviceStream *stream = used->context.stream;
    void *pinned;
    expect(row->memory_take(row, MEMORY_HOST, bytes, "check", &pinned));
    if (!down) memcpy(pinned, source, bytes);
    expect(down ? row->copy(row, stream, pinned, device, bytes)
                : row->copy(row, stream, device, pinned, bytes));
    expect(row->stream_wait(row, stream));
    if (down) memcpy(host, pinned, bytes);
    row->memory_give(row, MEMORY_HOST, pinned, bytes);
}

/* The slot of the mirror of host, or the empty one where it belongs. */
static uint32_t *mirror_slot(const void *host) {
    uint64_t hash = (uint64_t)(uintptr_t)host * 0x9E3779B97F4A7C15u >> 32;
    uint32_t *slot = &used->slots[hash % MIRROR_SLOTS];
    while (*slot && used->mirrors[*slot - 1].host != host)
        slot = slot + 1 < used->slots + MIRROR_SLOTS ? slot + 1 : used->slots;
    return slot;
}

/* The device's copy of `bytes` bytes at host; NULL of NULL. */
static void *mirror(const void *host, uint64_t bytes, bool written) {
    if (!host) return NULL;
    uint32_t *slot = mirror_slot(host);
    Mirror *known = *slot ? &used->mirrors[*slot - 1] : NULL;
    if (!known) {
        CHECK(used->mirror_count < MIRRORS_MAX);
        known = &used->mirrors[used->mirror_count++];
        *known = (Mirror){.host = host, .bytes = bytes};
        *slot = used->mirror_count;
        Device *row = used->device;
        expect(row->memory_take(row, MEMORY_DEVICE, bytes, "check", &known->device));
        copy_between(known->device, NULL, host, bytes, false);
    }
    CHECK(known->bytes == bytes); /* two arguments that overlap are the same */
    known->written = known->written || written;
    return known->device;
}

static void mirrors_drop(void) {
    Device *row = used->device;
    if (used->mirror_count == 0) return;
    for (uint32_t i = 0; i < used->mirror_count; i++)
        row->memory_give(row, MEMORY_DEVICE, used->mirrors[i].device, used->mirrors[i].bytes);
    memset(used->slots, 0, sizeof used->slots);
    used->mirror_count = 0;
}

/* The context of a call: the case's team, the device's rest. */
static const KernelContext *context_of(const KernelContext *context) {
    used->context.team = context->team;
    return &used->context;
}

/* After the call. */
static void finish(void) {
    expect(used->device->stream_wait(used->device, used->context.stream));
    if (used->keep) return;
    for (uint32_t i = 0; i < used->mirror_count; i++) {
        Mirror *one = &used->mirrors[i];
        if (one->written) copy_between(one->device, (void *)one->host, NULL, one->bytes, true);
    }
    mirrors_drop();
}

/* ---- arrays of the arguments */

static float *rows_mirror(const float *rows, uint64_t row_count, uint64_t stride, uint64_t columns,
                          bool written) {
    if (row_count == 0) return NULL;
    return mirror(rows, ((row_count - 1) * stride + columns) * sizeof *rows, written);
}

static void norm_run(const KernelContext *context, NormArgs args,
                     void (*slot)(const KernelContext *context, const NormArgs *args)) {
    args.out = rows_mirror(args.out, args.row_count, args.out_stride, args.element_count, true);
    args.x = rows_mirror(args.x, args.row_count, args.x_stride, args.element_count, false);
    args.weight = mirror(args.weight, args.element_count * sizeof(float), false);
    args.bias = mirror(args.bias, args.element_count * sizeof(float), false);
    slot(context_of(context), &args);
    finish();
}

static void rms_norm_mirrored(const KernelContext *context, const NormArgs *args) {
    norm_run(context, *args, used->kernels->rms_norm);
}

static void layer_norm_mirrored(const KernelContext *context, const NormArgs *args) {
    norm_run(context, *args, used->kernels->layer_norm);
}

static void rope_mirrored(const KernelContext *context, const RopeArgs *args) {
    RopeArgs copy = *args;
    uint64_t positions = 0;
    for (uint32_t row = 0; row < args->row_count; row++)
        if (args->positions[row] >= positions) positions = args->positions[row] + 1u;
    uint64_t table_bytes = positions * (args->rotary_dim / 2) * sizeof(float);
    for (uint32_t m = 0; m < ROPE_MATRICES; m++) {
        RopeMatrix *matrix = &copy.matrices[m];
        uint64_t columns = (uint64_t)matrix->head_count * args->head_dim;
        if (columns > 0)
            matrix->x = rows_mirror(matrix->x, args->row_count, matrix->x_stride, columns, true);
    }
    copy.cosines = mirror(args->cosines, table_bytes, false);
    copy.sines = mirror(args->sines, table_bytes, false);
    used->kernels->rope(context_of(context), &copy);
    finish();
}

static void elementwise_run(const KernelContext *context, ElementwiseArgs args, bool two_operands,
                            void (*slot)(const KernelContext *context,
                                         const ElementwiseArgs *args)) {
    args.out = rows_mirror(args.out, args.row_count, args.out_stride, args.element_count, true);
    args.a = rows_mirror(args.a, args.row_count, args.a_stride, args.element_count, false);
    if (two_operands)
        args.b = rows_mirror(args.b, args.row_count, args.b_stride, args.element_count, false);
    slot(context_of(context), &args);
    finish();
}

static void add_mirrored(const KernelContext *context, const ElementwiseArgs *args) {
    elementwise_run(context, *args, true, used->kernels->add);
}

static void silu_multiply_mirrored(const KernelContext *context, const ElementwiseArgs *args) {
    elementwise_run(context, *args, true, used->kernels->silu_multiply);
}

static void relu_mirrored(const KernelContext *context, const ElementwiseArgs *args) {
    elementwise_run(context, *args, false, used->kernels->relu);
}

static void embed_mirrored(const KernelContext *context, const EmbedArgs *args) {
    EmbedArgs copy = *args;
    copy.table.data = mirror(args->table.data, args->table.bytes, false);
    copy.out =
        rows_mirror(args->out, args->row_count, args->out_stride, args->table.shape[1], true);
    used->kernels->embed(context_of(context), &copy);
    finish();
}

static void kv_store_mirrored(const KernelContext *context, const KvStoreArgs *args) {
    KvStoreArgs copy = *args;
    uint64_t columns = (uint64_t)args->shape.kv_head_count * args->shape.head_dim;
    void **blocks = malloc(args->row_count * sizeof *blocks);
    CHECK(blocks);
    for (uint32_t row = 0; row < args->row_count; row++)
        blocks[row] = mirror(args->blocks[row], kv_block_bytes(&args->shape), true);
    copy.blocks = blocks;
    copy.k = rows_mirror(args->k, args->row_count, args->k_stride, columns, false);
    copy.v = rows_mirror(args->v, args->row_count, args->v_stride, columns, false);
    used->kernels->kv_store(context_of(context), &copy);
    free(blocks);
    finish();
}

static void edge_run(const KernelContext *context, AttendEdgeArgs args,
                     void (*slot)(const KernelContext *context, const AttendEdgeArgs *args)) {
    uint64_t states = (uint64_t)args.row_count * args.head_count;
    args.maxima = mirror(args.maxima, states * sizeof(float), true);
    args.sums = mirror(args.sums, states * sizeof(float), true);
    args.out = mirror(args.out, states * args.head_dim * sizeof(float), true);
    slot(context_of(context), &args);
    finish();
}

static void attend_begin_mirrored(const KernelContext *context, const AttendEdgeArgs *args) {
    edge_run(context, *args, used->kernels->attend_begin);
}

static void attend_end_mirrored(const KernelContext *context, const AttendEdgeArgs *args) {
    edge_run(context, *args, used->kernels->attend_end);
}

static void attend_merge_mirrored(const KernelContext *context, const AttendMergeArgs *args) {
    AttendMergeArgs copy = *args;
    uint64_t states = (uint64_t)args->state.row_count * args->state.head_count;
    uint64_t out_bytes = states * args->state.head_dim * sizeof(float);
    copy.state.maxima = mirror(args->state.maxima, states * sizeof(float), true);
    copy.state.sums = mirror(args->state.sums, states * sizeof(float), true);
    copy.state.out = mirror(args->state.out, out_bytes, true);
    copy.maxima = mirror(args->maxima, states * sizeof(float), false);
    copy.sums = mirror(args->sums, states * sizeof(float), false);
    copy.out = mirror(args->out, out_bytes, false);
    used->kernels->attend_merge(context_of(context), &copy);
    finish();
}

/* The run with blocks on the device: blocks[block_count] is the caller's. */
static AttendRun run_mirror(const AttendArgs *args, const AttendRun *run, const void **blocks) {
    AttendRun copy = *run;
    for (uint32_t i = 0; i < run->block_count; i++) {
        const Codec *codec = attend_codec(run, i);
        uint64_t bytes =
            codec ? codec_block_bytes(codec, &args->shape) : kv_block_bytes(&args->shape);
        blocks[i] = mirror(run->blocks[i], bytes, false);
    }
    copy.blocks = blocks;
    return copy;
}

static void attend_mirrored(const KernelContext *context, const AttendArgs *args) {
    AttendArgs copy = *args;
    uint64_t rows = 0, block_count = 0;
    for (uint32_t i = 0; i < args->run_count; i++) {
        uint64_t end = (uint64_t)args->runs[i].row_first + args->runs[i].row_count;
        if (end > rows) rows = end;
        block_count += args->runs[i].block_count;
    }
    AttendRun *runs = calloc(args->run_count + 1, sizeof *runs);
    const void **blocks = calloc(block_count + 1, sizeof *blocks);
    CHECK(runs && blocks);
    for (uint32_t i = 0, block = 0; i < args->run_count; block += args->runs[i].block_count, i++)
        runs[i] = run_mirror(args, &args->runs[i], blocks + block);
    uint64_t states = rows * args->head_count, head_dim = args->shape.head_dim;
    copy.runs = runs;
    copy.q = rows_mirror(args->q, rows, args->q_stride, args->head_count * head_dim, false);
    copy.maxima = mirror(args->maxima, states * sizeof(float), true);
    copy.sums = mirror(args->sums, states * sizeof(float), true);
    copy.out = mirror(args->out, states * head_dim * sizeof(float), true);
    used->kernels->attend(context_of(context), &copy);
    finish();
    free(runs);
    free(blocks);
}

/* Packed on the device, kept by the case as host memory. */
static void matrix_pack_mirrored(const KernelContext *context, const MatrixSource *source,
                                 void *memory, Matrix *out) {
    uint64_t bytes = used->kernels->matrix_bytes(source);
    void *device = mirror(memory, bytes, true);
    used->kernels->matrix_pack(context_of(context), source, device, out);
    out->data = memory;
    bool keep = used->keep;
    used->keep = false;
    finish();
    used->keep = keep;
}

static uint64_t matrix_bytes_mirrored(const MatrixSource *source) {
    return used->kernels->matrix_bytes(source);
}

static void matrix_describe_mirrored(const MatrixSource *source, Matrix *out) {
    used->kernels->matrix_describe(source, out);
}

static void matmul_mirrored(const KernelContext *context, const MatmulArgs *args) {
    MatmulArgs copy = *args;
    Matrix matrices[MATMUL_OUTPUTS_MAX];
    uint32_t columns = args->outputs[0].weights->column_count;
    copy.x = rows_mirror(args->x, args->row_count, args->x_stride, columns, false);
    for (uint32_t i = 0; i < args->output_count; i++) {
        MatmulOutput *output = &copy.outputs[i];
        matrices[i] = *output->weights;
        matrices[i].data = mirror(matrices[i].data, matrices[i].bytes, false);
        output->weights = &matrices[i];
        output->bias = mirror(output->bias, matrices[i].row_count * sizeof(float), false);
        output->out = rows_mirror(output->out, args->row_count, output->out_stride,
                                  matrices[i].row_count, true);
    }
    used->kernels->matmul(context_of(context), &copy);
    finish();
}

static Status kv_encode_blocks_mirrored(const Kernels *kernels, const KernelContext *context,
                                        const KvEncodeArgs *args) {
    (void)kernels;
    KvEncodeArgs copy = *args;
    const void *blocks[KV_ENCODE_BLOCKS_MAX];
    void *out_bytes[KV_ENCODE_BLOCKS_MAX];
    for (uint32_t i = 0; i < args->block_count; i++) {
        blocks[i] = mirror(args->blocks[i], kv_block_bytes(&args->shape), false);
        out_bytes[i] =
            mirror(args->out_bytes[i], codec_block_bytes(args->codec, &args->shape), true);
    }
    copy.blocks = blocks;
    copy.out_bytes = out_bytes;
    copy.refused = mirror(args->refused, args->block_count * sizeof *args->refused, true);
    Status status = used->kernels->kv_encode_blocks(used->kernels, context_of(context), &copy);
    finish();
    return status;
}

static Status kv_check_blocks_mirrored(const KernelContext *context, const KvCheckArgs *args) {
    KvCheckArgs copy = *args;
    const void *blocks[KV_CHECK_BLOCKS_MAX];
    for (uint32_t i = 0; i < args->block_count; i++)
        blocks[i] = mirror(args->blocks[i], kv_block_bytes(&args->shape), false);
    copy.blocks = blocks;
    copy.refused = mirror(args->refused, args->block_count * sizeof *args->refused, true);
    Status status = used->kernels->kv_check_blocks(context_of(context), &copy);
    finish();
    return status;
}

/* ---- */

Status check_device_open(CheckDevice **out, Device *device, const Kernels *kernels) {
    void *memory;
    TRY(memory_take(&memory, 1, sizeof(CheckDevice), "check device"));
    CheckDevice *made = memory;
    *made = (CheckDevice){.device = device, .kernels = kernels};
    Status status = kernels->context_open(kernels, device, &limits, &made->context);
    if (status != STATUS_OK) {
        check_device_close(made);
        return status;
    }
    *out = made;
    return STATUS_OK;
}

void check_device_close(CheckDevice *device) {
    if (!device) return;
    device->kernels->context_close(device->device, &device->context);
    free(device);
}

void check_device_use(CheckDevice *device) {
    used = device;
}

void check_device_keep(CheckDevice *device, bool keep) {
    check_device_use(device);
    if (!keep) mirrors_drop();
    device->keep = keep;
}

void check_device_fill(Kernels *kernels) {
    kernels->matrix_bytes = matrix_bytes_mirrored;
    kernels->matrix_pack = matrix_pack_mirrored;
    kernels->matrix_describe = matrix_describe_mirrored;
    kernels->matmul = matmul_mirrored;
    kernels->rms_norm = rms_norm_mirrored;
    kernels->layer_norm = layer_norm_mirrored;
    kernels->rope = rope_mirrored;
    kernels->embed = embed_mirrored;
    kernels->kv_store = kv_store_mirrored;
    kernels->attend_begin = attend_begin_mirrored;
    kernels->attend = attend_mirrored;
    kernels->attend_merge = attend_merge_mirrored;
    kernels->attend_end = attend_end_mirrored;
    kernels->kv_encode_blocks = kv_encode_blocks_mirrored;
    kernels->kv_check_blocks = kv_check_blocks_mirrored;
    kernels->add = add_mirrored;
    kernels->silu_multiply = silu_multiply_mirrored;
    kernels->relu = relu_mirrored;
}
