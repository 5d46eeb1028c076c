/* What device code does to memory, checked: see emulated_grid.h. */

#include <stdio.h>
#include <string.h>

#include "kernels/cuda/emulation/grid_parts.h"

uint8_t *emulated_shared_view(uint64_t offset_bytes, uint64_t bytes, uint32_t alignment) {
    uint64_t limit = runner_now->launch->shared_bytes;
    if (offset_bytes > limit || bytes > limit - offset_bytes)
        emulated_defect("a view of shared bytes %llu to %llu, of which the launch has %llu",
                        (unsigned long long)offset_bytes,
                        (unsigned long long)(offset_bytes + bytes), (unsigned long long)limit);
    if (offset_bytes % alignment)
        emulated_defect("a view at shared byte %llu of elements aligned to %u",
                        (unsigned long long)offset_bytes, alignment);
    return runner_now->shared + offset_bytes;
}

static const char *const verdict_texts[] = {
    [SHARED_NEVER_WRITTEN] = "reads shared byte %u, which nobody wrote",
    [SHARED_READ_OF_WRITE] =
        "reads shared byte %u, which thread %u wrote, with no barrier between them",
    [SHARED_WRITE_OF_WRITE] =
        "writes shared byte %u, which thread %u wrote, with no barrier between them",
    [SHARED_WRITE_OF_READ] =
        "writes shared byte %u, which thread %u read, with no barrier between them",
};

void emulated_shared_access(const EmulatedAccess *access) {
    GridRunner *runner = runner_now;
    uint64_t elements = access->bytes;
    if (access->index >= access->count)
        emulated_defect("%s element %llu of a shared array of %llu",
                        access->write ? "writes" : "reads", (unsigned long long)access->index,
                        (unsigned long long)access->count);
    GridThread *thread = runner->current;
    SharedTouch touch = {.offset = (uint32_t)((const uint8_t *)access->address - runner->shared),
                         .bytes = (uint32_t)elements,
                         .write = access->write,
                         .thread = thread->place.flat_thread_index,
                         .warp_turn = runner->warp_turns[thread->place.flat_thread_index / LANES]};
    if (touch.offset % access->bytes)
        emulated_defect("%u bytes at shared byte %u: misaligned", access->bytes, touch.offset);
    uint32_t other;
    SharedVerdict verdict = shared_shadow_touch(runner->shadow, &touch, &other);
    if (verdict == SHARED_FINE) return;
    char text[160];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(text, sizeof text, verdict_texts[verdict], touch.offset, other);
#pragma GCC diagnostic pop
    emulated_defect("%s", text);
}

void emulated_global_access(const void *address, uint32_t bytes, uint32_t alignment) {
    GridRunner *runner = runner_now;
    if ((uintptr_t)address % alignment)
        emulated_defect("%u bytes at %p: misaligned", bytes, address);
    if (!runner->holds(runner->holds_user, address, bytes))
        emulated_defect("%u bytes at %p, which is not memory of this device", bytes, address);
}

/* ---- cp.async */

void emulated_copy_async(const EmulatedAccess *target, const void *source) {
    GridThread *thread = runner_now->current;
    emulated_global_access(source, COPY_BYTES, COPY_BYTES);
    if (thread->copy_count == COPIES_MAX)
        emulated_defect("more than %d unfinished asynchronous copies", COPIES_MAX);
    thread->copies[thread->copy_count++] = (AsyncCopy){*target, source, thread->group_open};
}

void emulated_copy_async_commit(void) {
    runner_now->current->group_open++;
}

void emulated_copy_async_wait(uint32_t later_groups) {
    GridThread *thread = runner_now->current;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < thread->copy_count; i++) {
        const AsyncCopy *copy = &thread->copies[i];
        if (copy->group + later_groups >= thread->group_open) {
            thread->copies[kept++] = *copy;
            continue;
        }
        emulated_shared_access(&copy->target);
        memcpy((void *)(uintptr_t)copy->target.address, copy->source, COPY_BYTES);
    }
    thread->copy_count = kept;
}
