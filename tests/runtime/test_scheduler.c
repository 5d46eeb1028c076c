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
                                       .block_tokens = BLOCK_TOKENS,
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
            assert_int_equal(scheduler_waiting_count(crowd->scheduler), QUEUE);
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(serves_a_crowd),
        cmocka_unit_test(knows_what_never_fits),
        cmocka_unit_test(drain_starts_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
