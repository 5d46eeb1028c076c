#include "kernels/cuda/cuda_attention.h"

#include <string.h>

#include "kernels/cuda/coded_form.h"
#include "kernels/cuda/cuda_context.h"
#include "kernels/cuda/cuda_kernels.h"
#include "runtime/base/bytes.h"
#include "runtime/base/invariant.h"

enum {
    BLOCKS_MAX = 2048,
    GROUPS_MAX = 512,
    SPANS_MAX = 256,
    TILES_MAX = 1024,
    FORMS_MAX = 12,
    HEADS_MAX = 512,
    BLOCKS_ENOUGH =
        256, /* blocks of threads that keep a large GPU busy without cutting sequences into groups */
};

/* What one launch is told, as it is collected. */
typedef struct AttendTables {
    const KernelContext *context;
    AttendLaunch launch; /* its tables unset */
    AttendBlock blocks[BLOCKS_MAX];
    AttendGroup groups[GROUPS_MAX];
    AttendSpan spans[SPANS_MAX];
    AttendTile tiles[TILES_MAX];
    CodedForm forms[FORMS_MAX];
    const Codec *codecs[FORMS_MAX]; /* of the forms */
    uint16_t heads[HEADS_MAX];
    uint32_t head_firsts[HEADS_MAX + 1];
    uint32_t heads_max; /* most readers of a KV head */
    uint32_t block_count, group_count, form_count;
} AttendTables;

Status attend_limits_check(const KernelLimits *limits) {
    if (limits->head_dim > ATTEND_HEAD_DIM_MAX || limits->head_count > HEADS_MAX)
        FAIL(MODEL_UNSUPPORTED, "%u heads of %u numbers: the GPU's attention takes up to %d of %d",
             limits->head_count, limits->head_dim, HEADS_MAX, ATTEND_HEAD_DIM_MAX);
    return STATUS_OK;
}

static void heads_collect(const AttendArgs *args, AttendTables *tables) {
    uint32_t count = 0;
    CHECK(args->head_count <= HEADS_MAX && args->shape.kv_head_count <= HEADS_MAX);
    for (uint32_t kv_head = 0; kv_head < args->shape.kv_head_count; kv_head++) {
        tables->head_firsts[kv_head] = count;
        for (uint32_t head = 0; head < args->head_count; head++)
            if (args->kv_head_index[head] == kv_head) tables->heads[count++] = (uint16_t)head;
        uint32_t readers = count - tables->head_firsts[kv_head];
        if (readers > tables->heads_max) tables->heads_max = readers;
    }
    tables->head_firsts[args->shape.kv_head_count] = count;
}

/* ---- launching */

/* Groups side by side: where whole sequences give too few blocks of threads, and the partials fit. */
static void choose_split(AttendTables *tables) {
    const CudaContext *cuda = cuda_context(tables->context);
    AttendLaunch *launch = &tables->launch;
    launch->group_count_max = 0;
    for (uint32_t i = 0; i < launch->span_count; i++) {
        const AttendSpan *span = &tables->spans[i];
        if (span->group_count > launch->group_count_max)
            launch->group_count_max = span->group_count;
        if (span->row_first + span->row_count > launch->row_count)
            launch->row_count = span->row_first + span->row_count;
    }
    uint64_t bytes = (uint64_t)launch->group_count_max * launch->row_count * launch->head_count *
                     (2 + launch->shape.head_dim) * sizeof(float);
    bool few = (uint64_t)launch->tile_count * launch->shape.kv_head_count <
               cuda->launchers->attend_blocks_enough;
    launch->partials = few && launch->group_count_max > 1 && bytes <= cuda->scratch_bytes
                           ? (float *)cuda->scratch
                           : NULL;
}

static void tables_launch(AttendTables *tables) {
    const CudaContext *cuda = cuda_context(tables->context);
    AttendLaunch *launch = &tables->launch;
    uint32_t kv_head_count = launch->shape.kv_head_count;
    if (launch->tile_count == 0) return;
    choose_split(tables);
    UploadPart parts[] = {
        {tables->tiles, launch->tile_count * sizeof(AttendTile), NULL},
        {tables->spans, launch->span_count * sizeof(AttendSpan), NULL},
        {tables->groups, tables->group_count * sizeof(AttendGroup), NULL},
        {tables->blocks, tables->block_count * sizeof(AttendBlock), NULL},
        {tables->forms, tables->form_count * sizeof(CodedForm), NULL},
        {tables->heads, launch->head_count * sizeof(uint16_t), NULL},
        {tables->head_firsts, (kv_head_count + 1) * sizeof(uint32_t), NULL},
    };
    if (upload_parts(cuda->upload, parts, sizeof parts / sizeof *parts)) {
        launch->tiles = parts[0].device;
        launch->spans = parts[1].device;
        launch->groups = parts[2].device;
        launch->blocks = parts[3].device;
        launch->forms = parts[4].device;
        launch->heads = parts[5].device;
        launch->head_firsts = parts[6].device;
        cuda->launchers->attend(cuda->stream, launch);
    }
    launch->tile_count = launch->span_count = launch->row_count = 0;
    launch->coded = false;
    tables->block_count = tables->group_count = tables->form_count = 0;
}

/* ---- collecting */

/* FORMS_MAX when there is no room. */
static uint32_t form_index(AttendTables *tables, const Codec *codec) {
    uint32_t i = 0;
    while (i < tables->form_count && tables->codecs[i] != codec)
        i++;
    if (i < tables->form_count || i == FORMS_MAX) return i;
    bool known = coded_form(codec, &tables->launch.shape, &tables->forms[i]);
    CHECK(known); /* kv_encode_blocks makes no other blocks */
    tables->codecs[i] = codec;
    tables->form_count++;
    if (codec) tables->launch.coded = true;
    return i;
}

/* False, and nothing added, when the tables are full. */
static bool group_add(AttendTables *tables, const AttendRun *run, uint32_t first) {
    uint32_t left = run->block_count - first;
    uint32_t count = left < ATTEND_GROUP_BLOCKS ? left : (uint32_t)ATTEND_GROUP_BLOCKS;
    if (tables->group_count == GROUPS_MAX || tables->block_count + count > BLOCKS_MAX) return false;
    AttendBlock *blocks = tables->blocks + tables->block_count;
    for (uint32_t i = 0; i < count; i++) {
        blocks[i] =
            (AttendBlock){run->blocks[first + i], form_index(tables, attend_codec(run, first + i))};
        if (blocks[i].form == FORMS_MAX) return false;
    }
    tables->groups[tables->group_count++] =
        (AttendGroup){tables->block_count, count, run->block_ordinal_first + first};
    tables->block_count += count;
    return true;
}

/* False when the tables are full. */
static bool span_add(AttendTables *tables, const AttendRun *rows, uint32_t tile_items) {
    AttendLaunch *launch = &tables->launch;
    uint32_t items = rows->row_count * tables->heads_max;
    if (launch->span_count == SPANS_MAX ||
        launch->tile_count + divide_up(items, tile_items) > TILES_MAX)
        return false;
    for (uint32_t first = 0; first < items; first += tile_items)
        tables->tiles[launch->tile_count++] = (AttendTile){launch->span_count, first};
    tables->spans[launch->span_count++] = (AttendSpan){
        rows->row_first, rows->row_count, rows->position_first, tables->group_count, 0};
    return true;
}

/* Rows [row, row + count) of a run as a run of their own. */
static AttendRun rows_of(const AttendRun *run, uint32_t row, uint32_t count) {
    AttendRun part = *run;
    part.row_first += row;
    part.position_first += row;
    part.row_count = run->row_count - row < count ? run->row_count - row : count;
    return part;
}

/* `rows` against all runs [0, run_count), in order. FORMS_MAX exceeds the codecs of a group: empty tables take any. */
static void rows_attend(AttendTables *tables, const AttendRun *rows, const AttendRun *runs,
                        uint32_t run_count) {
    AttendLaunch *launch = &tables->launch;
    uint32_t items = rows->row_count * tables->heads_max;
    uint32_t tile_items = items == ATTEND_SOLO  ? (uint32_t)ATTEND_SOLO
                          : items <= ATTEND_FEW ? (uint32_t)ATTEND_FEW
                                                : attend_many(launch->shape.head_dim);
    bool open = false;
    if (tile_items != launch->tile_items) tables_launch(tables);
    launch->tile_items = tile_items;
    for (uint32_t r = 0; r < run_count; r++)
        for (uint32_t first = 0; first < runs[r].block_count;) {
            if (!open) open = span_add(tables, rows, tile_items);
            if (open && group_add(tables, &runs[r], first)) {
                tables->spans[launch->span_count - 1].group_count++;
                first += ATTEND_GROUP_BLOCKS;
            } else { /* the rest goes into the next launch, which folds on */
                tables_launch(tables);
                open = false;
            }
        }
}

void attend_cuda(const KernelContext *context, const AttendArgs *args) {
    AttendTables tables = {.context = context,
                           .launch = {.shape = args->shape,
                                      .head_count = args->head_count,
                                      .scale = args->scale,
                                      .window = args->window,
                                      .q = args->q,
                                      .q_stride = args->q_stride,
                                      .maxima = args->maxima,
                                      .sums = args->sums,
                                      .out = args->out}};
    CHECK(args->shape.head_dim <= ATTEND_HEAD_DIM_MAX);
    heads_collect(args, &tables);
    for (uint32_t i = 0, next; i < args->run_count; i = next) {
        const AttendRun *run = &args->runs[i];
        for (next = i + 1; next < args->run_count; next++)
            if (args->runs[next].row_first != run->row_first) break;
        uint32_t row_step = TILES_MAX * ATTEND_FEW / tables.heads_max;
        for (uint32_t row = 0; row < run->row_count; row += row_step) {
            AttendRun rows = rows_of(run, row, row_step);
            rows_attend(&tables, &rows, run, next - i);
        }
    }
    tables_launch(&tables);
}
