#include "launch/stop.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "runtime/base/log.h"

static atomic_int request = STOP_NONE;
static int descriptor = -1;
static void (*state_printer)(void *user);
static void *state_user;
static void (*_Atomic interrupt_taker)(void *user);
static void *interrupt_user; /* written before interrupt_taker */

StopRequest stop_requested(void) {
    return (StopRequest)atomic_load(&request);
}

int stop_descriptor(void) {
    return descriptor;
}

static void raise_request(StopRequest wanted) {
    uint64_t one = 1;
    if ((int)wanted > atomic_load(&request)) atomic_store(&request, (int)wanted);
    /* Cannot fail: the counter is far from its limit. */
    (void)!write(descriptor, &one, sizeof one);
}

static void on_drain(void) {
    raise_request(STOP_DRAIN);
}

static void on_hurry(void) {
    if (stop_requested() == STOP_HURRY) _exit(error_row(ERROR_STOPPED)->exit_code);
    raise_request(STOP_HURRY);
}

static void on_interrupt(void) {
    void (*take)(void *user) = atomic_load(&interrupt_taker);
    if (take)
        take(interrupt_user);
    else
        on_hurry();
}

void stop_divert_interrupt(void (*take)(void *user), void *user) {
    interrupt_user = user;
    atomic_store(&interrupt_taker, take);
}

static void on_print(void) {
    if (state_printer) state_printer(state_user);
}

static const struct SignalRow {
    int signal;
    void (*act)(void);
} signal_rows[] = {
    {SIGUSR1, on_drain}, {SIGTERM, on_hurry}, {SIGINT, on_interrupt}, {SIGUSR2, on_print}};

enum { SIGNAL_ROWS = sizeof signal_rows / sizeof signal_rows[0] };

static void fill_set(sigset_t *out) {
    sigemptyset(out);
    for (int row = 0; row < SIGNAL_ROWS; row++)
        sigaddset(out, signal_rows[row].signal);
}

static void *wait_for_signals(void *unused) {
    (void)unused;
    sigset_t set;
    fill_set(&set);
    for (;;) {
        int received;
        if (sigwait(&set, &received) != 0) continue;
        for (int row = 0; row < SIGNAL_ROWS; row++)
            if (signal_rows[row].signal == received) signal_rows[row].act();
    }
    return NULL;
}

Status stop_install(void (*print_state)(void *user), void *user) {
    sigset_t set;
    pthread_t thread;
    state_printer = print_state;
    state_user = user;
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    fill_set(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    descriptor = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (descriptor < 0) FAIL(MEMORY, "eventfd for stop requests: %s", strerror(errno));
    int cause = pthread_create(&thread, NULL, wait_for_signals, NULL);
    if (cause != 0) FAIL(MEMORY, "thread that waits for signals: %s", strerror(cause));
    pthread_detach(thread);
    return STATUS_OK;
}
