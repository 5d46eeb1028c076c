#include "kernels/cpu/attention_tasks.h"

#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu_kernels.h"
#include "runtime/base/bytes.h"
#include "runtime/base/invariant.h"

enum {
    TASKS_A_THREAD = 4, /* fewer: tasks are cut by groups */
    ALIGNMENT = 64,
};

/* Multiply-adds below which waking others costs more than it brings. */
#define SERIAL_WORK (1u << 18)

/* Query heads by the KV head that they read. */
typedef struct HeadGroup {
    uint32_t kv_head, first, count;
} HeadGroup;

typedef struct HeadGroups {
    HeadGroup *groups; /* [head_count] */
    uint16_t *heads;   /* [head_count], a group's side by side */
    uint32_t count;
} HeadGroups;

/* The blocks [first, end) of a run that lie in one group. */
typedef struct BlockGroup {
    const AttendRun *run;
    uint32_t first, end;
} BlockGroup;

/* One group of a task that is cut by groups. */
typedef struct AttendUnit {
    AttendTask task;
    BlockGroup blocks;
} AttendUnit;

/* Walks the tasks of a call in their one order. */
typedef struct TaskCursor {
    uint32_t run_first, run_end; /* the series of runs with the same rows */
    uint32_t group, slice;       /* the next task's */
    uint64_t position;           /* of that group's first task */
} TaskCursor;

typedef struct Driver {
    const AttendIsa *isa;
    const AttendArgs *args;
    Team *team;
    HeadGroups heads;
    AttendScratch *threads; /* [thread_count] */
    TaskCursor *cursors;    /* [thread_count] where each thread is in the tasks */
    AttendUnit *units;      /* [slot_count] */
    AttendState *slots;     /* [slot_count] their group states */
    uint32_t thread_count, slot_count;
} Driver;

/* ---- scratch: the same walk measures it (base NULL) and hands it out */

static void *take(uint8_t *base, size_t *io_used, uint64_t count, size_t element_bytes) {
    void *piece = base ? base + *io_used : NULL;
    *io_used += align_up(count * element_bytes, ALIGNMENT);
    return piece;
}

static void take_state(uint8_t *base, size_t *io_used, uint32_t padded_dim, AttendState *out) {
    *out = (AttendState){
        .max = take(base, io_used, ATTEND_ITEMS, sizeof(float)),
        .sum = take(base, io_used, ATTEND_ITEMS, sizeof(float)),
        .out = take(base, io_used, (uint64_t)ATTEND_ITEMS * padded_dim, sizeof(float)),
        .seen = take(base, io_used, ATTEND_ITEMS, sizeof(bool)),
    };
}

static void take_thread(uint8_t *base, size_t *io_used, uint32_t padded_dim, uint32_t padded_tokens,
                        AttendScratch *out) {
    AttendScratch scratch = {.padded_dim = padded_dim, .padded_tokens = padded_tokens};
    uint64_t row_bytes = padded_dim * sizeof(float);
    scratch.q = take(base, io_used, ATTEND_ITEMS, row_bytes);
    scratch.keys = take(base, io_used, padded_tokens, row_bytes);
    scratch.values = take(base, io_used, padded_tokens, row_bytes);
    scratch.scores = take(base, io_used, ATTEND_TILE_MAX, padded_tokens * sizeof(float));
    scratch.partial_out = take(base, io_used, ATTEND_TILE_MAX, row_bytes);
    scratch.coded_q = take(base, io_used, ATTEND_TILE_MAX, row_bytes);
    take_state(base, io_used, padded_dim, &scratch.group);
    if (base) *out = scratch;
}

static size_t lay_out(uint8_t *base, uint32_t head_count, uint32_t head_dim, uint32_t block_tokens,
                      Driver *io_driver) {
    size_t used = 0;
    uint32_t padded_dim = (uint32_t)align_up(head_dim, ATTEND_LANES_MAX);
    uint32_t padded_tokens = (uint32_t)align_up(block_tokens, ATTEND_LANES_MAX);
    io_driver->heads.groups = take(base, &used, head_count, sizeof(HeadGroup));
    io_driver->heads.heads = take(base, &used, head_count, sizeof(uint16_t));
    io_driver->threads = take(base, &used, io_driver->thread_count, sizeof(AttendScratch));
    io_driver->cursors = take(base, &used, io_driver->thread_count, sizeof(TaskCursor));
    io_driver->units = take(base, &used, io_driver->slot_count, sizeof(AttendUnit));
    io_driver->slots = take(base, &used, io_driver->slot_count, sizeof(AttendState));
    for (uint32_t i = 0; i < io_driver->thread_count; i++)
        take_thread(base, &used, padded_dim, padded_tokens, base ? &io_driver->threads[i] : NULL);
    for (uint32_t i = 0; i < io_driver->slot_count; i++) {
        AttendState slot;
        take_state(base, &used, padded_dim, &slot);
        if (base) io_driver->slots[i] = slot;
    }
    return used;
}

size_t attention_scratch_bytes(const KernelLimits *limits, uint32_t thread_count) {
    Driver driver = {.thread_count = thread_count, .slot_count = TASKS_A_THREAD * thread_count};
    return lay_out(NULL, limits->head_count, limits->head_dim, limits->block_tokens, &driver);
}

/* ---- tasks */

static void group_heads(const AttendArgs *args, HeadGroups *out) {
    uint32_t taken = 0;
    out->count = 0;
    for (uint32_t head = 0; head < args->head_count; head++) {
        uint32_t kv_head = args->kv_head_index[head];
        bool known = false;
        for (uint32_t i = 0; i < out->count; i++)
            known = known || out->groups[i].kv_head == kv_head;
        if (known) continue;
        HeadGroup group = {.kv_head = kv_head, .first = taken};
        for (uint32_t other = head; other < args->head_count; other++)
            if (args->kv_head_index[other] == kv_head) out->heads[taken++] = (uint16_t)other;
        group.count = taken - group.first;
        out->groups[out->count++] = group;
    }
}

static bool same_rows(const AttendRun *a, const AttendRun *b) {
    return a->row_first == b->row_first && a->row_count == b->row_count &&
           a->position_first == b->position_first;
}

static uint32_t series_end(const AttendArgs *args, uint32_t first) {
    uint32_t end = first + 1;
    while (end < args->run_count && same_rows(&args->runs[first], &args->runs[end]))
        end++;
    return end;
}

static uint32_t slice_count(const AttendRun *run, const HeadGroup *group) {
    return (uint32_t)divide_up((uint64_t)run->row_count * group->count, ATTEND_ITEMS);
}

/* Later rows of a sequence see more tokens: they go first, so that the last tasks are the small ones. */
static AttendTask task_at(const Driver *driver, const TaskCursor *cursor) {
    const AttendRun *run = &driver->args->runs[cursor->run_first];
    const HeadGroup *group = &driver->heads.groups[cursor->group];
    uint32_t item_total = run->row_count * group->count;
    uint32_t first = (slice_count(run, group) - 1 - cursor->slice) * ATTEND_ITEMS;
    return (AttendTask){
        .runs = run,
        .run_count = cursor->run_end - cursor->run_first,
        .kv_head = group->kv_head,
        .heads = driver->heads.heads + group->first,
        .head_count = group->count,
        .item_first = first,
        .item_count = item_total - first < ATTEND_ITEMS ? item_total - first : ATTEND_ITEMS,
    };
}

/* Skips to task number `position`, counted from the first; false when there are fewer. */
static bool cursor_seek(const Driver *driver, TaskCursor *cursor, uint64_t position,
                        AttendTask *out) {
    const AttendArgs *args = driver->args;
    while (cursor->run_first < args->run_count) {
        if (!cursor->run_end) cursor->run_end = series_end(args, cursor->run_first);
        uint32_t slices =
            slice_count(&args->runs[cursor->run_first], &driver->heads.groups[cursor->group]);
        if (position < cursor->position + slices) {
            cursor->slice = (uint32_t)(position - cursor->position);
            *out = task_at(driver, cursor);
            return true;
        }
        cursor->position += slices;
        if (++cursor->group < driver->heads.count) continue;
        cursor->group = 0;
        cursor->run_first = cursor->run_end;
        cursor->run_end = 0;
    }
    return false;
}

static uint32_t count_tasks(const Driver *driver) {
    TaskCursor cursor = {0};
    AttendTask task;
    cursor_seek(driver, &cursor, UINT64_MAX, &task);
    CHECK(cursor.position <= UINT32_MAX);
    return (uint32_t)cursor.position;
}

/* Multiply-adds of the call, about: all blocks of all runs. */
static double work_of(const AttendArgs *args) {
    double row_blocks = 0.0;
    for (uint32_t i = 0; i < args->run_count; i++)
        row_blocks += (double)args->runs[i].row_count * args->runs[i].block_count;
    return 2.0 * row_blocks * args->shape.block_tokens * args->shape.head_dim * args->head_count;
}

/* ---- one task */

static void load_queries(const AttendArgs *args, const AttendTask *task,
                         const AttendScratch *scratch) {
    uint32_t head_dim = args->shape.head_dim;
    for (uint32_t item = 0; item < task->item_count; item++) {
        uint64_t row = task->runs->row_first + attend_item_row(task, item);
        const float *q =
            args->q + row * args->q_stride + (uint64_t)attend_item_head(task, item) * head_dim;
        float *padded = scratch->q + (uint64_t)item * scratch->padded_dim;
        memcpy(padded, q, head_dim * sizeof *q);
        memset(padded + head_dim, 0, (scratch->padded_dim - head_dim) * sizeof *q);
    }
}

static void state_clear(const AttendState *state, uint32_t item_count, uint32_t padded_dim) {
    for (uint32_t item = 0; item < item_count; item++) {
        state->max[item] = -INFINITY;
        state->sum[item] = 0.0f;
        state->seen[item] = false;
    }
    memset(state->out, 0, (size_t)item_count * padded_dim * sizeof *state->out);
}

static void compute_group(const Driver *driver, const AttendTask *task, const BlockGroup *blocks,
                          const AttendScratch *scratch, const AttendState *group) {
    state_clear(group, task->item_count, scratch->padded_dim);
    for (uint32_t block = blocks->first; block < blocks->end; block++)
        driver->isa->fold_block(driver->args, task, blocks->run, block, scratch, group);
}

static void fold_into_running(const Driver *driver, const AttendTask *task,
                              const AttendState *group, uint32_t padded_dim) {
    const AttendArgs *args = driver->args;
    for (uint32_t item = 0; item < task->item_count; item++) {
        if (!group->seen[item]) continue;
        uint64_t row = task->runs->row_first + attend_item_row(task, item);
        uint64_t state = row * args->head_count + attend_item_head(task, item);
        driver->isa->fold_group(group->max[item], group->sum[item],
                                group->out + (uint64_t)item * padded_dim, &args->maxima[state],
                                &args->sums[state], args->out + state * args->shape.head_dim,
                                args->shape.head_dim);
    }
}

/* Can any of the task's items see the group? Rows are in rising order, and so is what they see. */
static bool group_seen(const AttendArgs *args, const AttendTask *task, const BlockGroup *blocks) {
    uint32_t first_row = attend_item_row(task, 0);
    uint32_t last_row = attend_item_row(task, task->item_count - 1);
    for (uint32_t block = blocks->first; block < blocks->end; block++) {
        uint32_t begin = attend_range(args, blocks->run, first_row, block).begin;
        uint32_t end = attend_range(args, blocks->run, last_row, block).end;
        if (begin < end) return true;
    }
    return false;
}

/* Steps to the task's next group that some item sees; start with {task->runs, 0, 0}. */
static bool next_group(const AttendArgs *args, const AttendTask *task, BlockGroup *io_blocks) {
    const AttendRun *end = task->runs + task->run_count;
    while (io_blocks->run < end) {
        io_blocks->first = io_blocks->end;
        if (io_blocks->first == io_blocks->run->block_count) {
            *io_blocks = (BlockGroup){.run = io_blocks->run + 1};
            continue;
        }
        uint32_t left = io_blocks->run->block_count - io_blocks->first;
        io_blocks->end =
            io_blocks->first + (left < ATTEND_GROUP_BLOCKS ? left : ATTEND_GROUP_BLOCKS);
        if (group_seen(args, task, io_blocks)) return true;
    }
    return false;
}

static void run_task(const Driver *driver, const AttendTask *task, const AttendScratch *scratch) {
    BlockGroup blocks = {.run = task->runs};
    load_queries(driver->args, task, scratch);
    while (next_group(driver->args, task, &blocks)) {
        compute_group(driver, task, &blocks, scratch, &scratch->group);
        fold_into_running(driver, task, &scratch->group, scratch->padded_dim);
    }
}

/* ---- the two ways to use threads */

static void run_task_apart(void *user, uint32_t task_index, uint32_t thread_index) {
    const Driver *driver = user;
    AttendTask task;
    bool found = cursor_seek(driver, &driver->cursors[thread_index], task_index, &task);
    CHECK(found);
    run_task(driver, &task, &driver->threads[thread_index]);
}

static void run_tasks_apart(Driver *driver, uint32_t task_count) {
    memset(driver->cursors, 0, driver->thread_count * sizeof *driver->cursors);
    team_run(driver->team, task_count, run_task_apart, driver);
}

/* A unit's group state into the slot of the same number. */
static void run_unit(void *user, uint32_t task_index, uint32_t thread_index) {
    const Driver *driver = user;
    const AttendUnit *unit = &driver->units[task_index];
    const AttendScratch *scratch = &driver->threads[thread_index];
    load_queries(driver->args, &unit->task, scratch);
    compute_group(driver, &unit->task, &unit->blocks, scratch, &driver->slots[task_index]);
}

static void run_units(Driver *driver, uint32_t count) {
    team_run(driver->team, count, run_unit, driver);
    for (uint32_t i = 0; i < count; i++)
        fold_into_running(driver, &driver->units[i].task, &driver->slots[i],
                          driver->threads->padded_dim);
}

static void run_tasks_cut(Driver *driver) {
    TaskCursor cursor = {0};
    AttendTask task;
    uint32_t count = 0;
    for (uint64_t i = 0; cursor_seek(driver, &cursor, i, &task); i++) {
        BlockGroup blocks = {.run = task.runs};
        while (next_group(driver->args, &task, &blocks)) {
            driver->units[count++] = (AttendUnit){task, blocks};
            if (count < driver->slot_count) continue;
            run_units(driver, count);
            count = 0;
        }
    }
    if (count) run_units(driver, count);
}

void attend_with(const AttendIsa *isa, const KernelContext *context, const AttendArgs *args) {
    uint32_t thread_count = team_thread_count(context->team);
    Driver driver = {.isa = isa,
                     .args = args,
                     .team = context->team,
                     .thread_count = thread_count,
                     .slot_count = TASKS_A_THREAD * thread_count};
    size_t used = lay_out(context->scratch, args->head_count, args->shape.head_dim,
                          args->shape.block_tokens, &driver);
    CHECK(used <= context->scratch_bytes);
    for (uint32_t i = 0; i < args->run_count; i++)
        CHECK(attend_run_in_groups(&args->runs[i]));
    group_heads(args, &driver.heads);
    if (work_of(args) < SERIAL_WORK) driver.team = NULL;
    uint32_t task_count = count_tasks(&driver);
    if (team_thread_count(driver.team) > 1 && task_count < driver.slot_count)
        run_tasks_cut(&driver);
    else
        run_tasks_apart(&driver, task_count);
}
