#include "runtime/base/monotonic.h"

#include <time.h>

static uint64_t system_now_ns(void *context) {
    (void)context;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

const Monotonic monotonic_system = {.now_ns = system_now_ns};

double monotonic_seconds(void) {
    return (double)system_now_ns(NULL) * 1e-9;
}
