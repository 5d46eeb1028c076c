#ifndef RUNTIME_BASE_INVARIANT_H
#define RUNTIME_BASE_INVARIANT_H

/* Assertions are for bugs; bad input and full disks are a Status. CHECK stays on in release builds (states,
 * counts, owners); ASSERT is for inner loops of debug builds. A broken CHECK prints the line and exits 70. */

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

void invariant_broken(const char *file, int line, const char *expression)
    __attribute__((noreturn, cold));

SPILLWAY_EXTERN_C_END

#define CHECK(expression)                                                                          \
    do {                                                                                           \
        if (__builtin_expect(!(expression), 0)) invariant_broken(__FILE__, __LINE__, #expression); \
    } while (0)

#ifdef NDEBUG
#define ASSERT(expression) ((void)sizeof(!(expression)))
#else
#define ASSERT(expression) CHECK(expression)
#endif

#endif
