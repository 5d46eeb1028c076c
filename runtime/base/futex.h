#ifndef RUNTIME_BASE_FUTEX_H
#define RUNTIME_BASE_FUTEX_H

/* A word that threads of this process sleep on: the one system call behind every lock, without the lock. Wakes may come without a
 * cause; whoever sleeps looks at the word again. */

#include <stdint.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

#ifdef __cplusplus
typedef uint32_t FutexWord;
#else
typedef _Atomic uint32_t FutexWord;
#endif

/* Sleeps while the word has this value, for wait_ns at most; UINT64_MAX: without end. */
void futex_wait(FutexWord *word, uint32_t while_value, uint64_t wait_ns);
void futex_wake(FutexWord *word); /* one sleeper */

SPILLWAY_EXTERN_C_END

#endif
