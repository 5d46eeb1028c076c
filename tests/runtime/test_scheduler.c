/* The scheduler under a random crowd of requests: budgets hold in every step, order of arrival is kept, decode never
 * waits for prefill, and every request ends. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/base/random.h"
#include "runtime/engine/scheduler.h"

enum { SLOTS = 7, BUDGET = 19, BLOCK_TOKENS = 8, BLOCKS = 24, QUEUE = 50, REQUESTS = 400 };

static const SchedulerLimits limits = {.slot_count = SLOTS,
                                       .token_budget = BUDGET,
                                       .layout = {.shape = {1, 1, BLOCK_TOKENS}},
                                       .block_count = BLOCKS,
                                       .queue_count = QUEUE};

typedef struct Crowd {
    Scheduler *scheduler;
    Random random;
    uint32_t added, finished;
    uint64_t last_started; /* id of the newest admitted request */
} Crowd;

static void arrive(Crowd *crowd) {
    while (crowd->added < REQUESTS && random_below(&crowd->random, 3) > 0) {
        uint32_t prompt = 1 + (uint32_t)random_below(&crowd->random, 60), task;
        uint32_t capacity = prompt + (uint32_t)random_below(&crowd->random, 40);
        Status status = scheduler_add(crowd->scheduler, crowd->added + 1, prompt, capacity, &task);
        if (status == STATUS_AGAIN) {
            assert_true(scheduler_waiting_count(crowd->scheduler) >= QUEUE); /* more: given back */
            return;
        }
        assert_int_equal(status, STATUS_OK);
        crowd->added++;
    }
}

static void check_step(Crowd *crowd, const ScheduledRun *runs, uint32_t count) {
    uint32_t rows = 0, blocks = 0, decodes = 0, running = scheduler_running_count(crowd->scheduler);
    bool slot_used[SLOTS] = {false};
    assert_true(running <= SLOTS);
    for (uint32_t i = 0; i < running; i++) {
        const ScheduledTask *task =
            scheduler_task(crowd->scheduler, scheduler_task_at(crowd->scheduler, i));
        assert_true(task->slot < SLOTS && !slot_used[task->slot]);
        slot_used[task->slot] = true;
        blocks += (task->token_capacity + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
        decodes += task->token_count - task->computed_count == 1;
    }
    assert_true(blocks <= BLOCKS);
    for (uint32_t i = 0; i < count; i++) {
        const ScheduledTask *task = scheduler_task(crowd->scheduler, runs[i].task);
        rows += runs[i].token_count;
        assert_true(runs[i].token_count > 0);
        assert_true(runs[i].token_count <= task->token_count - task->computed_count);
        if (task->id > crowd->last_started) {
            assert_int_equal(task->id, crowd->last_started + 1);
            crowd->last_started = task->id;
        }
        decodes -= task->token_count - task->computed_count == 1;
        for (uint32_t j = 0; j < i; j++)
            assert_int_not_equal(runs[i].task, runs[j].task);
    }
    assert_true(rows <= BUDGET);
    assert_int_equal(decodes, 0); /* no decode was left out */
    assert_true(count > 0 || running == 0);
}

static void run_step(Crowd *crowd, const ScheduledRun *runs, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        ScheduledTask *task = scheduler_task(crowd->scheduler, runs[i].task);
        task->computed_count += runs[i].token_count;
        bool at_end = task->computed_count == task->token_count;
        bool cancelled = random_below(&crowd->random, 50) == 0;
        if (at_end && task->token_count < task->token_capacity && !cancelled) {
            task->token_count++;
        } else if (at_end || cancelled) {
            scheduler_remove(crowd->scheduler, runs[i].task);
            crowd->finished++;
        }
    }
}

static void serves_a_crowd(void **state) {
    (void)state;
    Crowd crowd = {.random = {.key = 3}};
    assert_int_equal(scheduler_create(&crowd.scheduler, &limits), STATUS_OK);
    for (uint32_t step = 0; crowd.finished < REQUESTS; step++) {
        assert_true(step < 100000);
        arrive(&crowd);
        ScheduledRun runs[SLOTS];
        uint32_t count = scheduler_plan(crowd.scheduler, true, runs);
        check_step(&crowd, runs, count);
        run_step(&crowd, runs, count);
    }
    assert_int_equal(
        scheduler_running_count(crowd.scheduler) + scheduler_waiting_count(crowd.scheduler), 0);
    scheduler_destroy(crowd.scheduler);
}

static void knows_what_never_fits(void **state) {
    (void)state;
    Scheduler *scheduler;
    assert_int_equal(scheduler_create(&scheduler, &limits), STATUS_OK);
    assert_true(scheduler_fits(scheduler, BLOCKS * BLOCK_TOKENS));
    assert_false(scheduler_fits(scheduler, BLOCKS * BLOCK_TOKENS + 1));
    scheduler_destroy(scheduler);
}

static void drain_starts_nothing(void **state) {
    (void)state;
    Scheduler *scheduler;
    uint32_t first, second;
    ScheduledRun runs[SLOTS];
    assert_int_equal(scheduler_create(&scheduler, &limits), STATUS_OK);
    assert_int_equal(scheduler_add(scheduler, 1, 30, 40, &first), STATUS_OK);
    assert_int_equal(scheduler_plan(scheduler, true, runs), 1);
    assert_int_equal(scheduler_add(scheduler, 2, 5, 9, &second), STATUS_OK);
    assert_int_equal(scheduler_plan(scheduler, false, runs), 1);
    assert_int_equal(runs[0].task, first);
    assert_int_equal(scheduler_waiting_count(scheduler), 1);
    scheduler_remove(scheduler, second);
    assert_int_equal(scheduler_waiting_count(scheduler), 0);
    scheduler_destroy(scheduler);
}

/* Blocks of the running tasks: those that may still grow by their worst case, the others by what they hold. */
static uint32_t reserved_blocks(const Crowd *crowd) {
    uint32_t blocks = 0;
    for (uint32_t i = 0; i < scheduler_running_count(crowd->scheduler); i++) {
        const ScheduledTask *task =
            scheduler_task(crowd->scheduler, scheduler_task_at(crowd->scheduler, i));
        uint32_t tokens = task->parked ? task->computed_count : task->token_capacity;
        blocks += (tokens + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
    }
    return blocks;
}

static void make_way(Crowd *crowd, uint32_t block_count) {
    uint32_t dropped[SLOTS];
    scheduler_set_block_count(crowd->scheduler, block_count);
    uint32_t running = scheduler_running_count(crowd->scheduler);
    uint32_t count = scheduler_make_way(crowd->scheduler, dropped);
    for (uint32_t i = 0; i < count; i++) {
        assert_int_equal(dropped[i], scheduler_task_at(crowd->scheduler, running - 1 - i));
        scheduler_requeue(crowd->scheduler, dropped[i]);
    }
    assert_true(reserved_blocks(crowd) <= block_count);
    bool any = running > count;
    assert_true(!any ||
                !scheduler_task(crowd->scheduler, scheduler_task_at(crowd->scheduler, 0))->parked);
}

/* Room comes and goes; whoever can never run again leaves, everybody else ends. */
static void gives_way_where_room_is_short(void **state) {
    (void)state;
    Crowd crowd = {.random = {.key = 5}};
    assert_int_equal(scheduler_create(&crowd.scheduler, &limits), STATUS_OK);
    uint32_t parked = 0;
    for (uint32_t step = 0; crowd.finished < REQUESTS; step++) {
        assert_true(step < 200000);
        scheduler_set_block_count(crowd.scheduler, BLOCKS);
        arrive(&crowd);
        make_way(&crowd, BLOCKS - (uint32_t)random_below(&crowd.random, BLOCKS / 2));
        ScheduledRun runs[SLOTS];
        uint32_t count = scheduler_plan(crowd.scheduler, true, runs);
        for (uint32_t i = 0; i < scheduler_running_count(crowd.scheduler); i++)
            parked +=
                scheduler_task(crowd.scheduler, scheduler_task_at(crowd.scheduler, i))->parked;
        for (uint32_t i = 0; i < count; i++)
            assert_false(scheduler_task(crowd.scheduler, runs[i].task)->parked);
        run_step(&crowd, runs, count);
    }
    assert_true(parked > 0);
    scheduler_destroy(crowd.scheduler);
}

static void long_prompts_run_layer_by_layer_one_at_a_time(void **state) {
    (void)state;
    SchedulerLimits deep = limits;
    Scheduler *scheduler;
    uint32_t first, second, small;
    ScheduledRun runs[SLOTS];
    deep.layer_major_tokens = BUDGET;
    assert_int_equal(scheduler_create(&scheduler, &deep), STATUS_OK);
    assert_int_equal(scheduler_add(scheduler, 1, 30, 40, &first), STATUS_OK);
    assert_int_equal(scheduler_add(scheduler, 2, 40, 50, &second), STATUS_OK);
    assert_int_equal(scheduler_add(scheduler, 3, BUDGET, BUDGET + 1, &small), STATUS_OK);
    assert_int_equal(scheduler_plan(scheduler, true, runs), 1);
    assert_int_equal(runs[0].task, small);
    assert_int_equal(scheduler_layer_major(scheduler), first);
    scheduler_task(scheduler, first)->computed_count = 30;
    scheduler_task(scheduler, first)->token_count = 31;
    scheduler_remove(scheduler, small);
    assert_int_equal(scheduler_plan(scheduler, true, runs), 1); /* first decodes */
    assert_int_equal(runs[0].task, first);
    assert_int_equal(scheduler_layer_major(scheduler), second);
    scheduler_requeue(scheduler, second);
    assert_int_equal(scheduler_layer_major(scheduler), SCHEDULER_NONE);
    scheduler_destroy(scheduler);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(serves_a_crowd),
        cmocka_unit_test(knows_what_never_fits),
        cmocka_unit_test(drain_starts_nothing),
        cmocka_unit_test(gives_way_where_room_is_short),
        cmocka_unit_test(long_prompts_run_layer_by_layer_one_at_a_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
