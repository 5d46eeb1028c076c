#include "kernels/cpu/matmul_tiles.h"

#include <string.h>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/matrix_source.h"
#include "runtime/base/bytes.h"
#include "runtime/base/invariant.h"

enum {
    VECTORS_PER_STEP = 8, /* words of four codes in 32 k */
    BLOCK_ELEMENTS_MAX = 256,
    BLOCK_GROUPS_MAX = 16,

    ROW_BLOCK = 128,         /* rows whose activations stay in the second-level cache */
    CHUNK_STEPS = 64,        /* steps of 32 k whose column tiles stay near the first-level cache */
    CHUNK_STEPS_FLOAT = 256, /* the same for floats, k by k */
    WHOLE_ROWS_MAX = 8,      /* up to here there is little to keep in caches: all of k at once */
    STREAM_ROWS_MAX = 2, /* up to here memory is the limit: one column tile after the other … */
    STREAM_AHEAD_BYTES = 8192, /* … fetched so far ahead */
    NEXT_TILES_BYTES_MAX = 65536,
    STREAM_TASK_BYTES = 32768, /* the shortest stream that is worth a task */
    QUANTISE_ALONE_MAX = 4096, /* activations that are rounded faster than a team meets */
};

/* ---- layout ---- */

static TileClass float_class(const Quant *quant) {
    if (quant == &quant_f16) return TILE_F16;
    return quant == &quant_bf16 ? TILE_BF16 : TILE_F32;
}

/* What can stay encoded: codes of some width in groups of 16 or 32, with offsets in groups of 32 only. */
static TileClass encoded_class(const Quant *quant) {
    static const TileClass by_bits[9] = {
        [4] = TILE_CODES_4, [5] = TILE_CODES_5, [6] = TILE_CODES_6, [8] = TILE_CODES_8};
    TileClass tile_class = quant->code_bits <= 8 ? by_bits[quant->code_bits] : TILE_F32;
    bool halves = tile_class == TILE_CODES_6;
    bool fits = quant->group_elements == (halves ? 16 : 32) && (quant->code_bias || !halves);
    return fits ? tile_class : TILE_F32;
}

/* Encoded when no group of weights or activations is cut; else numbers, as f32 unless the file's floats are shorter. */
static TileClass source_class(const MatrixSource *source) {
    const Quant *quant = source->tensor.quant;
    if (!quant->expand) return float_class(quant);
    bool whole_groups =
        source->column_begin % TILE_GROUP == 0 && source->column_end % TILE_GROUP == 0;
    return whole_groups ? encoded_class(quant) : TILE_F32;
}

static TileFormat tile_format(uint32_t columns, TileClass tile_class, const Quant *quant,
                              uint64_t column_count) {
    static const uint32_t step_bytes_per_column[TILE_CLASS_COUNT] = {4, 2, 2, 16, 20, 24, 32};
    TileFormat format = {
        .tile_class = tile_class,
        .encoded = tile_class >= TILE_CODES_4,
        .step_k = 1,
        .step_bytes = step_bytes_per_column[tile_class] * columns,
    };
    if (format.encoded) {
        format.wide_scales = !quant->scales_f16;
        format.code_bias = (int32_t)quant->code_bias;
        format.has_offsets = quant->code_bias == 0;
        format.step_k = TILE_GROUP;
        format.scale_bytes = columns * (format.wide_scales ? 4 : 2) *
                             (TILE_GROUP / quant->group_elements) * (format.has_offsets ? 2 : 1);
    }
    format.step_count = column_count / format.step_k;
    format.column_tile_bytes =
        align_up(align_up(format.step_count, 2) * (format.step_bytes + format.scale_bytes), 64);
    return format;
}

/* Offset of an even step in its column tile. */
static uint64_t step_offset(const TileFormat *format, uint64_t step) {
    return step * (format->step_bytes + format->scale_bytes);
}

static uint64_t tile_count(uint64_t row_count, uint32_t columns) {
    return divide_up(row_count, columns);
}

uint64_t tiles_matrix_bytes(const TileIsa *isa, const MatrixSource *source) {
    TileFormat format = tile_format(isa->columns, source_class(source), source->tensor.quant,
                                    matrix_source_columns(source));
    return tile_count(matrix_source_rows(source), isa->columns) * format.column_tile_bytes;
}

/* ---- packing ---- */

static void store_scale(const TileFormat *format, uint8_t *scales, uint32_t index, float value) {
    if (format->wide_scales) {
        memcpy(scales + 4 * index, &value, 4);
    } else {
        uint16_t half = f32_to_f16(value);
        memcpy(scales + 2 * index, &half, 2);
    }
}

/* Column `lane` of one step: 32 codes as eight words of four. */
static void pack_codes(const TileFormat *format, uint32_t columns, uint32_t lane,
                       const uint8_t *codes, uint8_t *step) {
    uint32_t words[VECTORS_PER_STEP], *vectors = (uint32_t *)(void *)step + lane;
    memcpy(words, codes, sizeof words);
    if (format->tile_class == TILE_CODES_8) {
        for (uint32_t j = 0; j < 8; j++)
            vectors[j * columns] = words[j];
        return;
    }
    for (uint32_t j = 0; j < 4; j++)
        vectors[j * columns] = (words[j] & 0x0f0f0f0fu) | (words[j + 4] & 0x0f0f0f0fu) << 4;
    if (format->tile_class == TILE_CODES_5) {
        uint32_t plane = 0;
        for (uint32_t j = 0; j < 8; j++)
            plane |= (words[j] >> 4 & 0x01010101u) << j;
        vectors[4 * columns] = plane;
    } else if (format->tile_class == TILE_CODES_6) {
        uint32_t planes[2] = {0, 0};
        for (uint32_t j = 0; j < 8; j++)
            planes[j / 4] |= (words[j] >> 4 & 0x03030303u) << (2 * (j % 4));
        vectors[4 * columns] = planes[0];
        vectors[5 * columns] = planes[1];
    }
}

/* A step's scales: scales of the first (or only) group, scales of the second group if there are two, then offsets. */
static void pack_scales(const TileFormat *format, uint32_t columns, uint32_t lane,
                        uint32_t group_count, const float *group_scales, const float *group_offsets,
                        uint8_t *step) {
    for (uint32_t g = 0; g < group_count; g++) {
        store_scale(format, step, g * columns + lane, group_scales[g]);
        if (format->has_offsets)
            store_scale(format, step, (group_count + g) * columns + lane, group_offsets[g]);
    }
}

/* Output `row` of an encoded source into its lane of a column tile, block after block of the file. */
static void pack_encoded_row(const TileFormat *format, uint32_t columns, const MatrixSource *source,
                             uint64_t row, uint8_t *column_tile) {
    const Quant *quant = source->tensor.quant;
    uint32_t lane = (uint32_t)(row % columns);
    uint32_t step_groups = TILE_GROUP / quant->group_elements;
    uint64_t column = source->column_begin;
    while (column < source->column_end) {
        uint8_t codes[BLOCK_ELEMENTS_MAX];
        float group_scales[BLOCK_GROUPS_MAX], group_offsets[BLOCK_GROUPS_MAX];
        uint64_t block_begin = column - column % quant->block_elements;
        quant->expand(matrix_source_block(source, row, column), quant->block_elements, codes,
                      group_scales, group_offsets);
        uint64_t end = block_begin + quant->block_elements;
        if (end > source->column_end) end = source->column_end;
        for (; column < end; column += TILE_GROUP) {
            uint64_t step = (column - source->column_begin) / TILE_GROUP;
            uint64_t group = (column - block_begin) / quant->group_elements;
            uint64_t odd = step % 2;
            uint8_t *pair = column_tile + step_offset(format, step - odd);
            pack_codes(format, columns, lane, codes + (column - block_begin),
                       pair + odd * format->step_bytes);
            pack_scales(format, columns, lane, step_groups, group_scales + group,
                        group_offsets + group,
                        pair + 2 * format->step_bytes + odd * format->scale_bytes);
        }
    }
}

static void pack_float_row(const TileFormat *format, uint32_t columns, const MatrixSource *source,
                           uint64_t row, uint8_t *column_tile) {
    const Quant *quant = source->tensor.quant;
    uint64_t column = source->column_begin;
    uint32_t element_bytes = format->step_bytes / columns;
    uint8_t *lane = column_tile + row % columns * element_bytes;
    while (column < source->column_end) {
        float numbers[BLOCK_ELEMENTS_MAX];
        uint64_t first = column % quant->block_elements;
        const uint8_t *bytes = matrix_source_block(source, row, column);
        if (quant->expand) {
            quant->dequantise(bytes, quant->block_elements, numbers);
            bytes = (const uint8_t *)(numbers + first);
        }
        for (; first < quant->block_elements && column < source->column_end; first++, column++) {
            memcpy(lane, bytes, element_bytes);
            bytes += element_bytes;
            lane += format->step_bytes;
        }
    }
}

typedef struct PackCall {
    TileFormat format;
    uint32_t columns; /* of a tile */
    const MatrixSource *source;
    uint8_t *memory;
} PackCall;

static void pack_tile(void *user, uint32_t tile, uint32_t thread_index) {
    (void)thread_index;
    const PackCall *call = user;
    const TileFormat *format = &call->format;
    uint64_t rows = matrix_source_rows(call->source), columns = call->columns;
    uint64_t begin = tile * columns, end = begin + columns < rows ? begin + columns : rows;
    uint8_t *column_tile = call->memory + tile * format->column_tile_bytes;
    memset(column_tile, 0, format->column_tile_bytes);
    for (uint64_t row = begin; row < end; row++)
        (format->encoded ? pack_encoded_row : pack_float_row)(format, call->columns, call->source,
                                                              row, column_tile);
}

void tiles_matrix_describe(const TileIsa *isa, const MatrixSource *source, Matrix *out) {
    *out = (Matrix){
        .row_count = (uint32_t)matrix_source_rows(source),
        .column_count = (uint32_t)matrix_source_columns(source),
        .layout = source_class(source),
        .quant = source->tensor.quant,
        .bytes = tiles_matrix_bytes(isa, source),
    };
}

void tiles_matrix_pack(const TileIsa *isa, const KernelContext *context, const MatrixSource *source,
                       void *memory, Matrix *out) {
    const Quant *quant = source->tensor.quant;
    uint64_t rows = matrix_source_rows(source);
    TileFormat format =
        tile_format(isa->columns, source_class(source), quant, matrix_source_columns(source));
    CHECK(quant->block_elements <= BLOCK_ELEMENTS_MAX);
    PackCall call = {.format = format, .columns = isa->columns, .source = source, .memory = memory};
    team_run(context->team, (uint32_t)tile_count(rows, isa->columns), pack_tile, &call);
    tiles_matrix_describe(isa, source, out);
    out->data = memory;
}

/* ---- activations ---- */

static const uint32_t record_bytes[2] = {INT8_RECORD_BYTES, INT16_RECORD_BYTES};

static uint64_t records_bytes(uint64_t rows, uint64_t columns, uint32_t form) {
    return align_up(rows * (columns / TILE_GROUP) * record_bytes[form], 64);
}

size_t matmul_scratch_bytes(const KernelLimits *limits, uint32_t thread_count) {
    (void)thread_count;
    uint64_t columns = align_up(limits->column_count, TILE_GROUP);
    return records_bytes(limits->row_count, columns, 0) +
           records_bytes(limits->row_count, columns, 1);
}

/* x as records: forms[0] int8, forms[1] int16; NULL where no output needs it. */
typedef struct QuantisedX {
    uint8_t *forms[2];       /* [row_count][column_count / 32] */
    uint64_t row_strides[2]; /* in bytes */
} QuantisedX;

static void quantise_rows(const TileIsa *isa, const MatmulArgs *args, const QuantisedX *out,
                          uint64_t row_begin, uint64_t row_end) {
    uint64_t columns = args->outputs[0].weights->column_count;
    for (uint64_t m = row_begin; m < row_end; m++) {
        const float *x = args->x + m * args->x_stride;
        if (out->forms[0]) isa->quantise_int8(x, columns, out->forms[0] + m * out->row_strides[0]);
        if (out->forms[1]) isa->quantise_int16(x, columns, out->forms[1] + m * out->row_strides[1]);
    }
}

/* ---- product ---- */

/* What a call does for one of its matrices. */
typedef struct Product {
    const MatmulOutput *output;
    TileFormat format;
    const TileKernelSet *kernels;
    const uint8_t *x; /* row 0 */
    uint64_t x_stride_bytes;
    uint32_t x_step_bytes;
    uint64_t tile_count;
} Product;

typedef struct MatmulPlan {
    Product products[MATMUL_OUTPUTS_MAX];
    uint32_t product_count;
    uint64_t tile_count; /* of all products */
    QuantisedX quantised;
} MatmulPlan;

/* Room for one integer form of x in scratch, once. */
static void plan_form(MatmulPlan *plan, const KernelContext *context, const MatmulArgs *args,
                      uint32_t form) {
    QuantisedX *quantised = &plan->quantised;
    if (quantised->forms[form]) return;
    uint64_t rows = args->row_count, columns = args->outputs[0].weights->column_count;
    uint64_t first = form ? records_bytes(rows, columns, 0) : 0;
    CHECK(first + records_bytes(rows, columns, form) <= context->scratch_bytes);
    quantised->forms[form] = (uint8_t *)context->scratch + first;
    quantised->row_strides[form] = columns / TILE_GROUP * record_bytes[form];
}

static void plan_product(MatmulPlan *plan, const TileIsa *isa, const KernelContext *context,
                         const MatmulArgs *args, uint32_t index) {
    Product *product = &plan->products[index];
    const Matrix *matrix = args->outputs[index].weights;
    CHECK(matrix->column_count == args->outputs[0].weights->column_count);
    CHECK(matrix->layout < TILE_CLASS_COUNT);
    product->output = &args->outputs[index];
    product->format =
        tile_format(isa->columns, matrix->layout, matrix->quant, matrix->column_count);
    product->tile_count = tile_count(matrix->row_count, isa->columns);
    plan->tile_count += product->tile_count;
    if (!product->format.encoded) {
        product->kernels = isa->kernels[matrix->layout];
        product->x = (const uint8_t *)args->x;
        product->x_stride_bytes = args->x_stride * sizeof(float);
        product->x_step_bytes = sizeof(float);
        return;
    }
    uint32_t form = args->precise || !isa->kernels[matrix->layout];
    plan_form(plan, context, args, form);
    product->kernels = (form ? isa->kernels_int16 : isa->kernels)[matrix->layout];
    product->x = plan->quantised.forms[form];
    product->x_stride_bytes = plan->quantised.row_strides[form];
    product->x_step_bytes = record_bytes[form];
}

static MatmulPlan plan_call(const TileIsa *isa, const KernelContext *context,
                            const MatmulArgs *args) {
    CHECK(args->output_count >= 1 && args->output_count <= MATMUL_OUTPUTS_MAX);
    MatmulPlan plan = {.product_count = args->output_count};
    for (uint32_t i = 0; i < args->output_count; i++)
        plan_product(&plan, isa, context, args, i);
    return plan;
}

/* A part of a product: column tiles × steps of k × rows. */
typedef struct Region {
    uint64_t tile, tile_end;
    uint64_t step, step_end;
    uint32_t row, row_end;
} Region;

/* Where rows are few, memory is the limit: one linear stream, or enough chains of floats to hide their latency. */
static uint32_t region_span(const TileFormat *format, const Region *region) {
    bool stream = region->row_end - region->row <= STREAM_ROWS_MAX && format->encoded;
    return stream || region->tile_end - region->tile < TILE_SPAN_MAX ? 1 : TILE_SPAN_MAX;
}

/* How far ahead to fetch: the same steps of the next tiles, unless those follow anyway or lie too far. */
static uint64_t region_ahead_bytes(const TileFormat *format, const Region *region, uint32_t span) {
    uint64_t next_tiles = span * format->column_tile_bytes;
    bool linear = region->step_end - region->step == format->step_count;
    return linear && (span == 1 || next_tiles > NEXT_TILES_BYTES_MAX) ? STREAM_AHEAD_BYTES
                                                                      : next_tiles;
}

/* The first `span` column tiles of a region: its rows in near-equal groups, a kernel call each. The last call fetches
 * what comes next. */
static void multiply_span(const TileIsa *isa, const Product *product, const Region *region,
                          uint32_t span) {
    const TileFormat *format = &product->format;
    const MatmulOutput *output = product->output;
    uint64_t column = region->tile * isa->columns;
    uint64_t columns_left = output->weights->row_count - column;
    bool last_step = region->step_end == format->step_count;
    TileRun run = {
        .format = format,
        .weights = (const uint8_t *)output->weights->data +
                   region->tile * format->column_tile_bytes + step_offset(format, region->step),
        .x_stride_bytes = product->x_stride_bytes,
        .step_count = region->step_end - region->step,
        .out_stride = output->out_stride,
        .column_count =
            (uint32_t)(columns_left < span * isa->columns ? columns_left : span * isa->columns),
        .resume = region->step > 0,
        .bias = output->bias && last_step ? output->bias + column : NULL,
    };
    uint32_t row_count = region->row_end - region->row;
    uint32_t call_count = (uint32_t)divide_up(row_count, TILE_ROWS_MAX);
    for (uint32_t call = 0; call < call_count; call++) {
        uint32_t begin = region->row + row_count * call / call_count;
        uint32_t end = region->row + row_count * (call + 1) / call_count;
        run.x = product->x + begin * product->x_stride_bytes + region->step * product->x_step_bytes;
        run.out = output->out + begin * output->out_stride + column;
        if (call + 1 == call_count) run.prefetch_bytes = region_ahead_bytes(format, region, span);
        product->kernels->kernels[span - 1][end - begin - 1](&run);
    }
}

static void multiply_region(const TileIsa *isa, const Product *product, Region region) {
    while (region.tile < region.tile_end) {
        uint32_t span = region_span(&product->format, &region);
        multiply_span(isa, product, &region, span);
        region.tile += span;
    }
}

/* Few rows: each column tile is read once, from end to end. Many: blocks of rows and runs of k that fit the caches. */
static void multiply_share(const TileIsa *isa, const Product *product, uint64_t tile,
                           uint64_t tile_end, uint32_t row_count) {
    uint64_t step_count = product->format.step_count;
    uint64_t chunk = product->format.encoded ? CHUNK_STEPS : CHUNK_STEPS_FLOAT;
    if (row_count <= WHOLE_ROWS_MAX) chunk = step_count;
    for (uint32_t row = 0; row < row_count; row += ROW_BLOCK) {
        uint32_t row_end = row_count - row < ROW_BLOCK ? row_count : row + ROW_BLOCK;
        for (uint64_t step = 0; step < step_count; step += chunk) {
            uint64_t step_end = step_count - step < chunk ? step_count : step + chunk;
            multiply_region(isa, product, (Region){tile, tile_end, step, step_end, row, row_end});
        }
    }
}

/* Column tiles [begin, end) of all products laid end to end. */
static void multiply_claim(const TileIsa *isa, const MatmulPlan *plan, uint64_t begin, uint64_t end,
                           uint32_t row_count) {
    uint64_t first = 0;
    for (uint32_t i = 0; i < plan->product_count; i++) {
        const Product *product = &plan->products[i];
        uint64_t next = first + product->tile_count;
        uint64_t tile = begin > first ? begin : first, tile_end = end < next ? end : next;
        if (tile < tile_end)
            multiply_share(isa, product, tile - first, tile_end - first, row_count);
        first = next;
    }
}

typedef struct MatmulCall {
    const TileIsa *isa;
    const MatmulArgs *args;
    MatmulPlan plan;
    uint32_t quantise_task_count;
    uint64_t claim_tiles; /* of a task, the last one's less */
} MatmulCall;

static void quantise_claimed(void *user, uint32_t task_index, uint32_t thread_index) {
    (void)thread_index;
    const MatmulCall *call = user;
    uint32_t rows = call->args->row_count, task_count = call->quantise_task_count;
    quantise_rows(call->isa, call->args, &call->plan.quantised,
                  team_task_begin(rows, task_index, task_count),
                  team_task_begin(rows, task_index + 1, task_count));
}

static void multiply_claimed(void *user, uint32_t task_index, uint32_t thread_index) {
    (void)thread_index;
    const MatmulCall *call = user;
    uint64_t begin = task_index * call->claim_tiles;
    multiply_claim(call->isa, &call->plan, begin, begin + call->claim_tiles, call->args->row_count);
}

/* How many column tiles make a task: a stream is not cut too short. */
static uint64_t claim_tiles(const MatmulPlan *plan, uint32_t row_count, const Team *team) {
    if (team_thread_count(team) == 1) return plan->tile_count;
    uint64_t pieces = plan->tile_count;
    if (row_count <= STREAM_ROWS_MAX) {
        uint64_t bytes = 0;
        for (uint32_t i = 0; i < plan->product_count; i++)
            bytes += plan->products[i].output->weights->bytes;
        pieces = divide_up(bytes, STREAM_TASK_BYTES);
    }
    return align_up(divide_up(plan->tile_count, team_task_count(team, pieces)), TILE_SPAN_MAX);
}

void tiles_matmul(const TileIsa *isa, const KernelContext *context, const MatmulArgs *args) {
    MatmulCall call = {.isa = isa, .args = args, .plan = plan_call(isa, context, args)};
    const QuantisedX *quantised = &call.plan.quantised;
    uint64_t numbers = (uint64_t)args->row_count * args->outputs[0].weights->column_count;
    bool alone = numbers <= QUANTISE_ALONE_MAX;
    call.quantise_task_count = alone ? 1 : team_task_count(context->team, args->row_count);
    if (quantised->forms[0] || quantised->forms[1])
        team_run(context->team, call.quantise_task_count, quantise_claimed, &call);
    call.claim_tiles = claim_tiles(&call.plan, args->row_count, context->team);
    team_run(context->team, (uint32_t)divide_up(call.plan.tile_count, call.claim_tiles),
             multiply_claimed, &call);
}
