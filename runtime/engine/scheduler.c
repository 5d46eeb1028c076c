#include "runtime/engine/scheduler.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/base/bytes.h"
#include "runtime/base/invariant.h"

struct Scheduler {
    SchedulerLimits limits;
    ScheduledTask *tasks; /* [slot_count + queue_count] */
    uint32_t *free_tasks; /* stack */
    uint32_t free_task_count;
    uint32_t *free_slots; /* stack */
    uint32_t free_slot_count;
    uint32_t *order; /* running tasks by admission, then waiting ones by arrival */
    uint32_t running_count, waiting_count;
    uint32_t promised_blocks; /* to running tasks */
    uint32_t layer_major;     /* task, or SCHEDULER_NONE */
};

static uint32_t task_limit(const SchedulerLimits *limits) {
    return limits->slot_count + limits->queue_count;
}

static uint32_t worst_blocks(const Scheduler *scheduler, uint32_t token_capacity) {
    return kv_layout_slots(&scheduler->limits.layout, token_capacity);
}

Status scheduler_create(Scheduler **out, const SchedulerLimits *limits) {
    CHECK(limits->slot_count > 0 && limits->token_budget >= limits->slot_count &&
          limits->layout.shape.block_tokens > 0);
    void *memory;
    TRY(memory_take(&memory, 1, sizeof(Scheduler), "scheduler"));
    Scheduler *scheduler = memory;
    scheduler->limits = *limits;
    scheduler->layer_major = SCHEDULER_NONE;
    uint32_t count = task_limit(limits);
    Status status =
        memory_take((void **)&scheduler->tasks, count, sizeof(ScheduledTask), "scheduler tasks");
    if (status == STATUS_OK)
        status = memory_take((void **)&scheduler->free_tasks, count, sizeof(uint32_t),
                             "scheduler tasks");
    if (status == STATUS_OK)
        status =
            memory_take((void **)&scheduler->order, count, sizeof(uint32_t), "scheduler order");
    if (status == STATUS_OK)
        status = memory_take((void **)&scheduler->free_slots, limits->slot_count, sizeof(uint32_t),
                             "scheduler slots");
    if (status != STATUS_OK) {
        scheduler_destroy(scheduler);
        return status;
    }
    for (uint32_t i = 0; i < count; i++)
        scheduler->free_tasks[i] = count - 1 - i;
    for (uint32_t i = 0; i < limits->slot_count; i++)
        scheduler->free_slots[i] = limits->slot_count - 1 - i;
    scheduler->free_task_count = count;
    scheduler->free_slot_count = limits->slot_count;
    *out = scheduler;
    return STATUS_OK;
}

void scheduler_destroy(Scheduler *scheduler) {
    if (!scheduler) return;
    free(scheduler->tasks);
    free(scheduler->free_tasks);
    free(scheduler->free_slots);
    free(scheduler->order);
    free(scheduler);
}

bool scheduler_fits(const Scheduler *scheduler, uint32_t token_capacity) {
    return worst_blocks(scheduler, token_capacity) <= scheduler->limits.block_count;
}

Status scheduler_add(Scheduler *scheduler, uint64_t id, uint32_t prompt_count,
                     uint32_t token_capacity, uint32_t *out_task) {
    CHECK(prompt_count > 0 && prompt_count <= token_capacity &&
          scheduler_fits(scheduler, token_capacity));
    if (scheduler->waiting_count >= scheduler->limits.queue_count) return STATUS_AGAIN;
    uint32_t task = scheduler->free_tasks[--scheduler->free_task_count];
    scheduler->tasks[task] = (ScheduledTask){.id = id,
                                             .prompt_count = prompt_count,
                                             .token_capacity = token_capacity,
                                             .token_count = prompt_count};
    scheduler->order[scheduler->running_count + scheduler->waiting_count++] = task;
    *out_task = task;
    return STATUS_OK;
}

void scheduler_remove(Scheduler *scheduler, uint32_t task) {
    uint32_t total = scheduler->running_count + scheduler->waiting_count, position = 0;
    while (position < total && scheduler->order[position] != task)
        position++;
    CHECK(position < total);
    if (scheduler->layer_major == task) scheduler->layer_major = SCHEDULER_NONE;
    if (position < scheduler->running_count) {
        scheduler->running_count--;
        scheduler->free_slots[scheduler->free_slot_count++] = scheduler->tasks[task].slot;
        scheduler->promised_blocks -=
            worst_blocks(scheduler, scheduler->tasks[task].token_capacity);
    } else {
        scheduler->waiting_count--;
    }
    memmove(&scheduler->order[position], &scheduler->order[position + 1],
            (total - position - 1) * sizeof(uint32_t));
    scheduler->free_tasks[scheduler->free_task_count++] = task;
}

void scheduler_requeue(Scheduler *scheduler, uint32_t task) {
    uint32_t position = 0;
    while (position < scheduler->running_count && scheduler->order[position] != task)
        position++;
    CHECK(position < scheduler->running_count);
    scheduler->running_count--;
    scheduler->waiting_count++;
    scheduler->free_slots[scheduler->free_slot_count++] = scheduler->tasks[task].slot;
    scheduler->promised_blocks -= worst_blocks(scheduler, scheduler->tasks[task].token_capacity);
    scheduler->tasks[task].computed_count = 0;
    scheduler->tasks[task].parked = false;
    if (scheduler->layer_major == task) scheduler->layer_major = SCHEDULER_NONE;
    memmove(&scheduler->order[position], &scheduler->order[position + 1],
            (scheduler->running_count - position) * sizeof(uint32_t));
    scheduler->order[scheduler->running_count] = task;
}

void scheduler_set_block_count(Scheduler *scheduler, uint32_t block_count) {
    scheduler->limits.block_count = block_count;
}

/* Starts the oldest waiting task if slot and blocks allow. Order is kept: a large task is not overtaken. */
static bool admit_next(Scheduler *scheduler) {
    if (scheduler->waiting_count == 0 || scheduler->free_slot_count == 0) return false;
    ScheduledTask *task = &scheduler->tasks[scheduler->order[scheduler->running_count]];
    uint32_t blocks = worst_blocks(scheduler, task->token_capacity);
    if (scheduler->promised_blocks + blocks > scheduler->limits.block_count) return false;
    task->slot = scheduler->free_slots[--scheduler->free_slot_count];
    scheduler->promised_blocks += blocks;
    scheduler->running_count++;
    scheduler->waiting_count--;
    return true;
}

uint32_t scheduler_next_count(const Scheduler *scheduler, uint32_t task) {
    const ScheduledTask *scheduled = &scheduler->tasks[task];
    uint32_t all = scheduled->token_count - scheduled->computed_count;
    if (!scheduler->limits.whole_prompts || all == 0) return all;
    bool in_prompt = scheduled->computed_count < scheduled->prompt_count;
    return in_prompt ? scheduled->prompt_count - scheduled->computed_count : 1;
}

/* ---- making way ---- */

static uint32_t held_blocks(const Scheduler *scheduler, uint32_t task) {
    const ScheduledTask *scheduled = &scheduler->tasks[task];
    bool layer_major = scheduler->layer_major == task;
    return worst_blocks(scheduler,
                        layer_major ? scheduled->token_count : scheduled->computed_count);
}

/* Oldest first, of the first `count` running tasks. False: not even the oldest fits. */
static bool park_what_does_not_fit(Scheduler *scheduler, uint32_t count) {
    uint64_t reserved = 0;
    bool anyone = false;
    for (uint32_t i = 0; i < count; i++)
        reserved += held_blocks(scheduler, scheduler->order[i]);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t task = scheduler->order[i];
        ScheduledTask *scheduled = &scheduler->tasks[task];
        uint64_t needed =
            worst_blocks(scheduler, scheduled->token_capacity) - held_blocks(scheduler, task);
        bool fits = reserved + needed <= scheduler->limits.block_count;
        scheduled->parked = scheduled->park_requested || !fits;
        if (scheduled->park_requested) continue;
        if (!fits && !anyone) return false;
        anyone = true;
        if (fits) reserved += needed;
    }
    return true;
}

uint32_t scheduler_make_way(Scheduler *scheduler, uint32_t *out_dropped) {
    uint32_t kept = scheduler->running_count, dropped = 0;
    while (kept > 0 && !park_what_does_not_fit(scheduler, kept))
        out_dropped[dropped++] = scheduler->order[--kept];
    return dropped;
}

void scheduler_park(Scheduler *scheduler, uint32_t task, bool park) {
    scheduler->tasks[task].park_requested = park;
}

/* ---- a step ---- */

/* True when the task is, or becomes, the one that runs layer by layer, or waits for its turn to. `budget`: rows that are left. */
static bool goes_layer_major(Scheduler *scheduler, uint32_t task, uint32_t budget) {
    if (scheduler->layer_major == task) return true;
    uint32_t most = scheduler->limits.layer_major_tokens;
    if (scheduler->limits.whole_prompts && budget < most) most = budget;
    bool begun = scheduler->tasks[task].computed_count > 0;
    if (scheduler->limits.layer_major_tokens == 0 || begun ||
        scheduler_next_count(scheduler, task) <= most)
        return false;
    if (scheduler->layer_major == SCHEDULER_NONE) scheduler->layer_major = task;
    return true;
}

uint32_t scheduler_plan(Scheduler *scheduler, bool admit, ScheduledRun *out_runs) {
    uint32_t budget = scheduler->limits.token_budget, run_count = 0;
    uint32_t layer_major = scheduler->layer_major;
    if (layer_major != SCHEDULER_NONE && scheduler->tasks[layer_major].computed_count > 0)
        scheduler->layer_major = SCHEDULER_NONE; /* done */
    for (uint32_t i = 0; i < scheduler->running_count; i++) {
        uint32_t task = scheduler->order[i];
        if (scheduler_next_count(scheduler, task) != 1 || scheduler->tasks[task].parked) continue;
        out_runs[run_count++] = (ScheduledRun){.task = task, .token_count = 1};
        budget--;
    }
    for (uint32_t i = 0; budget > 0; i++) {
        bool is_new = i == scheduler->running_count;
        if (is_new && (!admit || !admit_next(scheduler))) break;
        uint32_t task = scheduler->order[i], lacking = scheduler_next_count(scheduler, task);
        if (lacking == 0 || (lacking == 1 && !is_new) || scheduler->tasks[task].parked) continue;
        if (goes_layer_major(scheduler, task, budget)) continue;
        uint32_t count = lacking < budget ? lacking : budget;
        out_runs[run_count++] = (ScheduledRun){.task = task, .token_count = count};
        budget -= count;
    }
    return run_count;
}

uint32_t scheduler_layer_major(const Scheduler *scheduler) {
    uint32_t task = scheduler->layer_major;
    return task == SCHEDULER_NONE || scheduler->tasks[task].parked ? SCHEDULER_NONE : task;
}

ScheduledTask *scheduler_task(Scheduler *scheduler, uint32_t task) {
    return &scheduler->tasks[task];
}

uint32_t scheduler_running_count(const Scheduler *scheduler) {
    return scheduler->running_count;
}

uint32_t scheduler_waiting_count(const Scheduler *scheduler) {
    return scheduler->waiting_count;
}

uint32_t scheduler_task_at(const Scheduler *scheduler, uint32_t position) {
    CHECK(position < scheduler->running_count + scheduler->waiting_count);
    return scheduler->order[position];
}
