#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/comm/comm.h"
#include "runtime/comm/shared_memory.h"
#include "tests/runtime/comm_property.h"

enum { RANKS_MAX = 5, ROUNDS = 120 };

typedef struct RankThread {
    pthread_t thread;
    Comm *comm;
    uint64_t seed;
    int failures;
} RankThread;

static void *run_rank(void *argument) {
    RankThread *rank = argument;
    rank->failures = comm_property_check(rank->comm, rank->seed, ROUNDS);
    return NULL;
}

static void check_thread_ranks(int size, uint64_t seed) {
    RankThread ranks[RANKS_MAX] = {0};
    Comm *comms[RANKS_MAX];
    assert_int_equal(comm_threads_create(comms, size), STATUS_OK);
    for (int rank = 0; rank < size; rank++) {
        ranks[rank].comm = comms[rank];
        ranks[rank].seed = seed;
        assert_int_equal(pthread_create(&ranks[rank].thread, NULL, run_rank, &ranks[rank]), 0);
    }
    for (int rank = 0; rank < size; rank++)
        pthread_join(ranks[rank].thread, NULL);
    for (int rank = 0; rank < size; rank++) {
        assert_int_equal(ranks[rank].failures, 0);
        assert_true(comm_calls(comms[rank]) > 0);
        comm_destroy(comms[rank]);
    }
}

static void test_thread_ranks(void **state) {
    (void)state;
    for (int size = 1; size <= RANKS_MAX; size++)
        for (uint64_t seed = 1; seed <= 3; seed++)
            check_thread_ranks(size, seed);
}

static void test_self(void **state) {
    (void)state;
    Comm *comm;
    assert_int_equal(comm_self_create(&comm), STATUS_OK);
    assert_int_equal(comm->size, 1);
    assert_int_equal(comm->local_size, 1);
    assert_int_equal(comm_property_check(comm, 7, ROUNDS), 0);
    comm_destroy(comm);
}

static void test_counters(void **state) {
    (void)state;
    Comm *comm;
    float data[3] = {1, 2, 3};
    assert_int_equal(comm_self_create(&comm), STATUS_OK);
    assert_int_equal(comm_all_reduce(comm, data, 3), STATUS_OK);
    assert_int_equal(comm_all_reduce(comm, data, 0), STATUS_OK);
    assert_int_equal(comm_barrier(comm), STATUS_OK);
    assert_int_equal(comm->bytes, sizeof data);
    assert_int_equal(comm_calls(comm), 2);
    comm_destroy(comm);
    comm_destroy(NULL);
}

static void test_shared_memory(void **state) {
    (void)state;
    SharedMemory made, seen;
    SharedMemoryTicket ticket;
    assert_int_equal(shared_memory_create(&made, 10000, &ticket), STATUS_OK);
    assert_int_equal(shared_memory_open(&seen, &ticket), STATUS_OK);
    memcpy((char *)made.base + 9990, "the same", 9);
    assert_string_equal((char *)seen.base + 9990, "the same");
    assert_ptr_not_equal(made.base, seen.base);
    shared_memory_destroy(&seen);
    shared_memory_destroy(&seen);

    SharedMemoryTicket wrong = ticket;
    wrong.inode++;
    assert_int_equal(shared_memory_open(&seen, &wrong), STATUS_NOT_FOUND);
    wrong = ticket;
    wrong.size_bytes *= 2;
    assert_int_equal(shared_memory_open(&seen, &wrong), STATUS_NOT_FOUND);
    shared_memory_close_door(&made);
    assert_int_equal(shared_memory_open(&seen, &ticket), STATUS_NOT_FOUND);
    shared_memory_destroy(&made);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_self),
        cmocka_unit_test(test_counters),
        cmocka_unit_test(test_shared_memory),
        cmocka_unit_test(test_thread_ranks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
