#ifndef CUDA_EMULATION_FIBER_H
#define CUDA_EMULATION_FIBER_H

/* Fibers: stacks that one thread runs in turn, so that the threads of a block can wait for each other without threads of
 * the operating system. A pool owns the stacks; one thread at a time resumes its fibers, and a fiber runs until it yields or its
 * function returns. A fiber whose function returned starts it again when resumed.
 *
 * The sanitizers are told of every switch. To the thread sanitizer a switch orders what stands before and after it, so it sees
 * races between threads of the program and none between fibers. */

#include <stdint.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct FiberPool FiberPool;

typedef void FiberFunction(void *user, uint32_t fiber_index);

Status fiber_pool_create(FiberPool **out, uint32_t fiber_count, FiberFunction *function,
                         void *user);
void fiber_pool_destroy(FiberPool *pool); /* NULL is fine */

/* Runs a fiber until it yields or returns. Not from inside a fiber. */
void fiber_resume(FiberPool *pool, uint32_t fiber_index);

/* From inside a fiber: back to whoever resumed it. */
void fiber_yield(FiberPool *pool);

/* Forgets where every fiber stood: each begins anew when next resumed. What was on their stacks is lost. */
void fiber_pool_reset(FiberPool *pool);

SPILLWAY_EXTERN_C_END

#endif
