#ifndef RUNTIME_BASE_MONOTONIC_H
#define RUNTIME_BASE_MONOTONIC_H

/* The clock: monotonic nanoseconds behind a pointer, so that a simulator can own time. Any thread. */

#include <stdint.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct Monotonic {
    uint64_t (*now_ns)(void *context);
    void *context;
} Monotonic;

extern const Monotonic monotonic_system;

static inline uint64_t monotonic_now_ns(const Monotonic *clock) {
    return clock->now_ns(clock->context);
}

/* Seconds of the system clock, for timings that nothing decides on. */
double monotonic_seconds(void);

SPILLWAY_EXTERN_C_END

#endif
