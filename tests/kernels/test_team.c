/* Teams: every task once, on a thread of its own, whoever comes late; nothing of a call is touched after it. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "kernels/team.h"
#include "runtime/base/random.h"

enum { TASKS_MAX = 300, THREADS_MAX = 17, CALLS_TINY = 100000 };

typedef struct Call {
    uint32_t runs[TASKS_MAX]; /* plain words: a task that runs twice at once is a data race */
    atomic_bool busy[THREADS_MAX];
    uint32_t last_task[THREADS_MAX]; /* + 1 */
    uint32_t thread_count;
    atomic_uint wrong_count;
} Call;

static void count_task(void *user, uint32_t task_index, uint32_t thread_index) {
    Call *call = user;
    bool wrong = thread_index >= call->thread_count ||
                 atomic_exchange(&call->busy[thread_index], true) ||
                 task_index < call->last_task[thread_index];
    if (wrong) atomic_fetch_add(&call->wrong_count, 1);
    call->last_task[thread_index] = task_index + 1;
    call->runs[task_index]++;
    atomic_store(&call->busy[thread_index], false);
}

static void sleep_us(long us) {
    nanosleep(&(struct timespec){.tv_nsec = us * 1000}, NULL);
}

static void run_once(Team *team, uint32_t task_count) {
    Call call;
    memset(&call, 0, sizeof call);
    call.thread_count = team_thread_count(team);
    team_run(team, task_count, count_task, &call);
    for (uint32_t i = 0; i < TASKS_MAX; i++)
        assert_int_equal(call.runs[i], i < task_count);
    assert_int_equal(atomic_load(&call.wrong_count), 0);
    memset(&call, 0xff, sizeof call); /* a race for the thread sanitizer, were a worker late */
}

static void test_each_task_once(void **state) {
    (void)state;
    Random random = {.key = 11};
    for (uint32_t threads = 1; threads <= THREADS_MAX; threads++) {
        Team *team;
        assert_int_equal(team_create(&team, threads), STATUS_OK);
        assert_int_equal(team_thread_count(team), threads);
        for (int call = 0; call < 200; call++) {
            run_once(team, (uint32_t)random_below(&random, TASKS_MAX + 1));
            if (random_below(&random, 20) == 0) sleep_us(100); /* workers fall asleep */
        }
        team_destroy(team);
    }
}

static void add_one(void *user, uint32_t task_index, uint32_t thread_index) {
    (void)thread_index;
    ((uint32_t *)user)[task_index]++;
}

static void test_tiny_calls(void **state) {
    (void)state;
    for (uint32_t threads = 2; threads <= 4; threads++) {
        uint32_t counts[3] = {0};
        Team *team;
        assert_int_equal(team_create(&team, threads), STATUS_OK);
        for (uint32_t call = 0; call < CALLS_TINY; call++) {
            uint32_t task_count = 1 + call % 3;
            uint32_t before = counts[task_count - 1];
            team_run(team, task_count, add_one, counts);
            assert_int_equal(counts[task_count - 1], before + 1);
        }
        team_destroy(team);
        assert_int_equal(counts[0], CALLS_TINY);
        assert_int_equal(counts[1], CALLS_TINY - (CALLS_TINY + 2) / 3);
        assert_int_equal(counts[2], CALLS_TINY / 3);
    }
}

static void test_without_team(void **state) {
    (void)state;
    assert_int_equal(team_thread_count(NULL), 1);
    run_once(NULL, TASKS_MAX);
    run_once(NULL, 0);
    team_destroy(NULL);
}

static void test_destroyed_at_any_time(void **state) {
    (void)state;
    for (int round = 0; round < 100; round++) {
        Team *team;
        assert_int_equal(team_create(&team, 3), STATUS_OK);
        if (round % 2) run_once(team, 5);
        if (round % 3) sleep_us(round % 3 == 1 ? 40 : 200); /* about to sleep, asleep */
        team_destroy(team);
    }
}

static void wait_for_company(void *user, uint32_t task_index, uint32_t thread_index) {
    (void)task_index;
    (void)thread_index;
    atomic_uint *present = user;
    atomic_fetch_add(present, 1);
    while (atomic_load(present) < 3)
        sleep_us(10);
}

/* Three tasks that wait for each other end only if two workers come, awake or woken. */
static void test_workers_come(void **state) {
    (void)state;
    Team *team;
    assert_int_equal(team_create(&team, 3), STATUS_OK);
    for (int call = 0; call < 20; call++) {
        atomic_uint present = 0;
        if (call % 2) sleep_us(300);
        team_run(team, 3, wait_for_company, &present);
        assert_int_equal(atomic_load(&present), 3);
    }
    team_destroy(team);
}

static void test_task_bounds(void **state) {
    (void)state;
    for (uint32_t count = 1; count < 20; count++) {
        assert_int_equal(team_task_begin(UINT32_MAX, 0, count), 0);
        assert_int_equal(team_task_begin(UINT32_MAX, count, count), UINT32_MAX);
    }
    assert_int_equal(team_task_count(NULL, 3), 3);
    assert_int_equal(team_task_count(NULL, UINT64_MAX), 8);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_task_once), cmocka_unit_test(test_tiny_calls),
        cmocka_unit_test(test_without_team),   cmocka_unit_test(test_destroyed_at_any_time),
        cmocka_unit_test(test_workers_come),   cmocka_unit_test(test_task_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
