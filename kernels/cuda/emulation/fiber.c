#include "kernels/cuda/emulation/fiber.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/base/arena.h"
#include "runtime/base/bytes.h"
#include "runtime/base/invariant.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

/* Kernels keep little on the stack; the sanitizers' frames are several times larger. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { STACK_BYTES = 128 << 10 };
#else
enum { STACK_BYTES = 32 << 10 };
#endif

typedef struct Fiber {
    FiberPool *pool;
    uint8_t *stack; /* STACK_BYTES above a page without access */
    bool started;
#if defined(__x86_64__)
    void *stack_pointer;
#else
    ucontext_t context;
#endif
#if defined(__SANITIZE_ADDRESS__)
    void *fake_stack;
#endif
#if defined(__SANITIZE_THREAD__)
    void *thread_state;
#endif
} Fiber;

struct FiberPool {
    FiberFunction *function;
    void *user;
    uint8_t *stacks;
    size_t stacks_bytes;
    Fiber caller; /* whoever resumes */
    Fiber *current;
    const void *caller_stack; /* for the address sanitizer */
    size_t caller_stack_bytes;
    uint32_t fiber_count;
    Fiber fibers[];
};

/* ---- the switch itself */

#if defined(__x86_64__)
/* swapcontext makes two system calls; this saves what the ABI says a callee keeps. The floating-point control words stay
 * as they are: nothing here changes them. */
void fiber_switch_stacks(void **out_saved, void *target);
__asm__(".text\n"
        ".globl fiber_switch_stacks\n"
        ".hidden fiber_switch_stacks\n"
        ".type fiber_switch_stacks, @function\n"
        "fiber_switch_stacks:\n"
        "    pushq %rbp\n    pushq %rbx\n    pushq %r12\n    pushq %r13\n    pushq %r14\n    pushq "
        "%r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n    popq %r14\n    popq %r13\n    popq %r12\n    popq %rbx\n    popq %rbp\n"
        "    ret\n"
        ".size fiber_switch_stacks, .-fiber_switch_stacks\n");
#endif

static void switch_registers(Fiber *from, Fiber *to) {
#if defined(__x86_64__)
    fiber_switch_stacks(&from->stack_pointer, to->stack_pointer);
#else
    swapcontext(&from->context, &to->context);
#endif
}

/* Called on the stack that was just switched to. */
static void arrived(FiberPool *pool, Fiber *here) {
#if defined(__SANITIZE_ADDRESS__)
    const void *stack;
    size_t bytes;
    __sanitizer_finish_switch_fiber(here->fake_stack, &stack, &bytes);
    if (here != &pool->caller) {
        pool->caller_stack = stack;
        pool->caller_stack_bytes = bytes;
    }
#else
    (void)pool;
    (void)here;
#endif
}

static void fiber_switch(FiberPool *pool, Fiber *from, Fiber *to) {
#if defined(__SANITIZE_ADDRESS__)
    bool back = to == &pool->caller;
    __sanitizer_start_switch_fiber(&from->fake_stack, back ? pool->caller_stack : to->stack,
                                   back ? pool->caller_stack_bytes : STACK_BYTES);
#endif
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(to->thread_state, 0);
#endif
    switch_registers(from, to);
    arrived(pool, from);
}

static _Thread_local Fiber *fiber_entering; /* the argument of fiber_main */

static void fiber_main(void) {
    Fiber *fiber = fiber_entering;
    FiberPool *pool = fiber->pool;
    arrived(pool, fiber);
    for (;;) {
        pool->function(pool->user, (uint32_t)(fiber - pool->fibers));
        fiber_yield(pool);
    }
}

/* A fiber that was forgotten, or that only waits for more work, never left its frames: what the address sanitizer marked in them
 * would outlive the stack. */
static void forget_frames(uint8_t *stack, size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
    ASAN_UNPOISON_MEMORY_REGION(stack, bytes);
#else
    (void)stack;
    (void)bytes;
#endif
}

static void fiber_prepare(Fiber *fiber) {
    forget_frames(fiber->stack, STACK_BYTES);
#if defined(__SANITIZE_THREAD__)
    if (!fiber->thread_state) fiber->thread_state = __tsan_create_fiber(0); /* dear: as needed */
#endif
#if defined(__x86_64__)
    /* As if fiber_main's caller had switched away: six registers, then where to return to, the stack 16-byte
     * aligned as it is after a call. */
    void **top = (void **)(fiber->stack + STACK_BYTES) - 2;
    memset(top - 6, 0, 8 * sizeof *top);
    void (*entry)(void) = fiber_main;
    memcpy(top, &entry, sizeof entry);
    fiber->stack_pointer = top - 6;
#else
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack;
    fiber->context.uc_stack.ss_size = STACK_BYTES;
    makecontext(&fiber->context, fiber_main, 0);
#endif
    fiber->started = true;
}

/* ---- the pool */

void fiber_resume(FiberPool *pool, uint32_t fiber_index) {
    Fiber *fiber = &pool->fibers[fiber_index];
    if (!fiber->started) fiber_prepare(fiber);
#if defined(__SANITIZE_THREAD__)
    pool->caller.thread_state = __tsan_get_current_fiber();
#endif
    fiber_entering = fiber;
    pool->current = fiber;
    fiber_switch(pool, &pool->caller, fiber);
    pool->current = NULL;
}

void fiber_yield(FiberPool *pool) {
    fiber_switch(pool, pool->current, &pool->caller);
}

void fiber_pool_reset(FiberPool *pool) {
    for (uint32_t i = 0; i < pool->fiber_count; i++)
        pool->fibers[i].started = false;
}

Status fiber_pool_create(FiberPool **out, uint32_t fiber_count, FiberFunction *function,
                         void *user) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), stride = page + STACK_BYTES;
    void *memory;
    TRY(memory_take(&memory, 1, sizeof(FiberPool) + fiber_count * sizeof(Fiber), "fibers"));
    FiberPool *pool = memory;
    pool->function = function;
    pool->user = user;
    pool->fiber_count = fiber_count;
    pool->stacks_bytes = fiber_count * stride;
    pool->stacks = mmap(NULL, pool->stacks_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pool->stacks == MAP_FAILED) {
        free(pool);
        FAIL(MEMORY, "the emulated device: no memory for %u stacks", fiber_count);
    }
    for (uint32_t i = 0; i < fiber_count; i++) {
        Fiber *fiber = &pool->fibers[i];
        fiber->pool = pool;
        fiber->stack = pool->stacks + i * stride + page;
        CHECK(mprotect(fiber->stack - page, page, PROT_NONE) == 0);
    }
    *out = pool;
    return STATUS_OK;
}

void fiber_pool_destroy(FiberPool *pool) {
    if (!pool) return;
#if defined(__SANITIZE_THREAD__)
    for (uint32_t i = 0; i < pool->fiber_count; i++)
        if (pool->fibers[i].thread_state) __tsan_destroy_fiber(pool->fibers[i].thread_state);
#endif
    forget_frames(pool->stacks, pool->stacks_bytes);
    munmap(pool->stacks, pool->stacks_bytes);
    free(pool);
}
