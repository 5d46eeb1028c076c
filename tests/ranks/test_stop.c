/* launch/stop and launch/launcher_find, each case in a process of its own. */

#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "launch/launcher.h"
#include "launch/stop.h"

enum { FINE = 42, PATIENCE_MS = 5000 };

static int run_in_child(int (*scenario)(void)) {
    int status;
    pid_t child = fork();
    if (child == 0) _exit(scenario());
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static bool wait_for_request(StopRequest wanted) {
    for (int waited_ms = 0; waited_ms < PATIENCE_MS; waited_ms++) {
        if (stop_requested() == wanted) return true;
        usleep(1000);
    }
    return false;
}

static bool is_readable(int descriptor) {
    struct pollfd polled = {.fd = descriptor, .events = POLLIN};
    return poll(&polled, 1, 0) == 1;
}

static int drain_then_hurry(void) {
    if (stop_descriptor() != -1 || stop_install(NULL, NULL) != STATUS_OK) return 1;
    if (stop_requested() != STOP_NONE || is_readable(stop_descriptor())) return 2;
    kill(getpid(), SIGUSR1);
    if (!wait_for_request(STOP_DRAIN) || !is_readable(stop_descriptor())) return 3;
    kill(getpid(), SIGUSR1);
    kill(getpid(), SIGINT);
    if (!wait_for_request(STOP_HURRY) || !is_readable(stop_descriptor())) return 4;
    kill(getpid(), SIGUSR1); /* a drain does not take the hurry back */
    usleep(50000);
    return stop_requested() == STOP_HURRY ? FINE : 5;
}

static int hurry_twice(void) {
    if (stop_install(NULL, NULL) != STATUS_OK) return 1;
    kill(getpid(), SIGTERM);
    if (!wait_for_request(STOP_HURRY)) return 2;
    kill(getpid(), SIGTERM);
    usleep(PATIENCE_MS * 1000);
    return 3;
}

static void print_byte(void *user) {
    (void)!write(*(int *)user, "x", 1);
}

static int print_state(void) {
    int ends[2];
    char byte;
    if (pipe(ends) != 0 || stop_install(print_byte, &ends[1]) != STATUS_OK) return 1;
    for (int time = 0; time < 3; time++) {
        kill(getpid(), SIGUSR2);
        if (read(ends[0], &byte, 1) != 1 || byte != 'x') return 2;
    }
    return stop_requested() == STOP_NONE ? FINE : 3;
}

static int write_in_vain(void) {
    int ends[2];
    char path[] = "/tmp/spillway-test-XXXXXX";
    const struct rlimit limit = {.rlim_cur = 1, .rlim_max = 1};
    if (pipe(ends) != 0 || stop_install(NULL, NULL) != STATUS_OK) return 1;
    close(ends[0]);
    if (write(ends[1], "x", 1) != -1) return 2;
    int file = mkstemp(path);
    if (file < 0 || unlink(path) != 0) return 3;
    setrlimit(RLIMIT_FSIZE, &limit);
    if (write(file, "x", 1) != 1 || write(file, "x", 1) != -1) return 4;
    return FINE;
}

static void test_signals(void **state) {
    (void)state;
    assert_int_equal(run_in_child(drain_then_hurry), FINE);
    assert_int_equal(run_in_child(hurry_twice), 75);
    assert_int_equal(run_in_child(print_state), FINE);
    assert_int_equal(run_in_child(write_in_vain), FINE);
}

typedef struct PlaceCase {
    const char *environment[8]; /* name, value, … */
    Status status;
    const char *name;
    int size, rank, local_size;
} PlaceCase;

static const PlaceCase place_cases[] = {
    {{0}, STATUS_OK, NULL, 0, 0, 0},
    {{"OMPI_COMM_WORLD_RANK", "1", "OMPI_COMM_WORLD_SIZE", "4", "OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
     STATUS_OK,
     "mpirun",
     4,
     1,
     2},
    {{"OMPI_COMM_WORLD_RANK", "0", "OMPI_COMM_WORLD_SIZE", "1"}, STATUS_OK, NULL, 0, 0, 0},
    {{"PMIX_RANK", "3", "SLURM_STEP_ID", "0", "SLURM_STEP_NUM_TASKS", "8"},
     STATUS_OK,
     "srun",
     8,
     3,
     0},
    {{"SLURM_STEP_ID", "0", "SLURM_STEP_NUM_TASKS", "8"}, STATUS_UNSUPPORTED, NULL, 0, 0, 0},
    {{"SLURM_STEP_ID", "0", "SLURM_STEP_NUM_TASKS", "1"}, STATUS_OK, NULL, 0, 0, 0},
    {{"SLURM_JOB_ID", "7", "SLURM_PROCID", "0"}, STATUS_OK, NULL, 0, 0, 0}, /* a batch script */
    {{"PMI_RANK", "1", "PMI_SIZE", "2"}, STATUS_OK, "mpiexec", 2, 1, 0},
};

static void check_place(const PlaceCase *expected) {
    LauncherPlace place = {0};
    clearenv();
    for (int i = 0; expected->environment[i]; i += 2)
        setenv(expected->environment[i], expected->environment[i + 1], 1);
    assert_int_equal(launcher_find(&place), expected->status);
    assert_int_equal(place.size, expected->size);
    assert_int_equal(place.rank, expected->rank);
    assert_int_equal(place.local_size, expected->local_size);
    if (expected->name)
        assert_string_equal(place.name, expected->name);
    else
        assert_null(place.name);
}

static void test_places(void **state) {
    (void)state;
    error_capture_begin();
    for (size_t i = 0; i < sizeof place_cases / sizeof place_cases[0]; i++)
        check_place(&place_cases[i]);
    error_capture_end();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_signals),
        cmocka_unit_test(test_places),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
