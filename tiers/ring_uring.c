/* io_uring through liburing, which only this file includes. Files and staging are registered where the kernel and the memlock
 * limit allow it. The flags that keep completions out of interrupts (6.1) are tried first: they cost nothing to lose. */

#include <errno.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <liburing.h>

#include "runtime/base/bytes.h"
#include "runtime/base/invariant.h"
#include "tiers/ring_engine.h"

enum {
    NEEDED_FEATURES = IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG, /* Linux 5.11 */
    REGISTER_TRIES = 5,
    REGISTER_PAUSE_NS = 20000000,
    NS_PER_SECOND = 1000000000,
};

#define PIECE_BYTES (1ull << 30) /* the kernel registers no buffer above 1 GiB */

enum { PIECES_MAX = 1024 };

#define CANCELLING UINT64_MAX /* user data of requests to cancel; others have a slot there */

struct RingEngineState {
    struct io_uring ring;
    RingFile files[RING_FILES_MAX];
    bool files_registered;
    const uint8_t *registered; /* the first registered_bytes of staging, in pieces of PIECE_BYTES */
    uint64_t registered_bytes;
};

/* ---- opening ---- */

static int explain(int failed, char *out_why, size_t why_bytes) {
    const char *hint = failed == -EPERM || failed == -EACCES
                           ? "; look at sysctl kernel.io_uring_disabled and the seccomp profile of "
                             "the container"
                       : failed == -ENOSYS ? "; the kernel is too old, or seccomp hides it"
                       : failed == -ENOMEM ? "; raise the memlock limit (ulimit -l)"
                                           : "";
    snprintf(out_why, why_bytes, "io_uring: %s%s", strerror(-failed), hint);
    return failed;
}

static int setup(struct io_uring *ring, uint32_t depth, char *out_why, size_t why_bytes) {
    static const unsigned flag_sets[] = {
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
        0,
    };
    int failed = -EINVAL;
    struct io_uring_params params;
    for (size_t i = 0; i < sizeof flag_sets / sizeof *flag_sets && failed == -EINVAL; i++) {
        memset(&params, 0, sizeof params);
        params.flags = flag_sets[i];
        failed = io_uring_queue_init_params(depth, ring, &params);
    }
    if (failed) return explain(failed, out_why, why_bytes);
    if ((params.features & NEEDED_FEATURES) == NEEDED_FEATURES) return 0;
    io_uring_queue_exit(ring);
    snprintf(out_why, why_bytes, "io_uring: the kernel is older than 5.11");
    return -ENOSYS;
}

static int uring_probe(char *out_why, size_t why_bytes) {
    struct io_uring ring;
    int failed = setup(&ring, 2, out_why, why_bytes);
    if (!failed) io_uring_queue_exit(&ring);
    return failed;
}

/* Whether RLIMIT_MEMLOCK does not bind this process. */
static bool may_lock_memory(void) {
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {0};
    return syscall(SYS_capget, &header, data) == 0 && data[0].effective & (1u << CAP_IPC_LOCK);
}

static uint64_t memlock_limit(void) {
    struct rlimit limit;
    if (may_lock_memory() || getrlimit(RLIMIT_MEMLOCK, &limit) != 0 ||
        limit.rlim_cur == RLIM_INFINITY)
        return UINT64_MAX;
    return limit.rlim_cur;
}

/* The kernel counts locked pages by user, over all processes: each rank takes its share of half the limit. */
static uint64_t registered_goal(const RingOptions *options, uint64_t limit) {
    uint32_t ranks = options->local_ranks ? options->local_ranks : 1;
    uint64_t share = limit == UINT64_MAX ? limit : limit / ranks / 2;
    uint64_t most = PIECE_BYTES * PIECES_MAX;
    if (share > most) share = most;
    uint64_t goal = share < options->staging_bytes ? share : options->staging_bytes;
    return goal & ~(uint64_t)4095;
}

static void pause_ns(uint64_t ns) {
    struct timespec time = {.tv_sec = (time_t)(ns / NS_PER_SECOND),
                            .tv_nsec = (long)(ns % NS_PER_SECOND)};
    nanosleep(&time, NULL);
}

static int register_once(struct io_uring *ring, const RingOptions *options, uint64_t bytes) {
    IoFault fault = io_fault_next(options->faults, IO_FAULT_REGISTER);
    if (fault.kind == IO_FAULT_ERROR) return -fault.os_error;
    struct iovec pieces[PIECES_MAX];
    uint32_t count = 0;
    for (uint64_t at = 0; at < bytes; at += PIECE_BYTES) {
        uint64_t left = bytes - at;
        pieces[count++] = (struct iovec){.iov_base = (uint8_t *)options->staging + at,
                                         .iov_len = left < PIECE_BYTES ? left : PIECE_BYTES};
    }
    return io_uring_register_buffers(ring, pieces, count);
}

/* The account of a process that just ended lags behind: a refusal is tried again for a moment. */
static void register_staging(RingEngineState *state, const RingOptions *options, RingFacts *facts) {
    facts->memlock_bytes = memlock_limit();
    uint64_t goal = options->staging ? registered_goal(options, facts->memlock_bytes) : 0;
    int failed = goal > 0 ? -ENOMEM : 0;
    for (int i = 0; i < REGISTER_TRIES && failed == -ENOMEM; i++) {
        if (i > 0) pause_ns(REGISTER_PAUSE_NS);
        failed = register_once(&state->ring, options, goal);
    }
    if (failed) goal = 0;
    state->registered = options->staging;
    state->registered_bytes = facts->registered_bytes = goal;
}

static void register_files(RingEngineState *state, const RingOptions *options, RingFacts *facts) {
    int descriptors[RING_FILES_MAX];
    for (uint32_t i = 0; i < options->file_count; i++)
        descriptors[i] = options->files[i].descriptor;
    memcpy(state->files, options->files, options->file_count * sizeof *options->files);
    state->files_registered =
        io_uring_register_files(&state->ring, descriptors, options->file_count) == 0;
    facts->files_registered = state->files_registered;
}

static int uring_open(RingEngineState **out, const RingOptions *options, RingFacts *facts,
                      char *out_why, size_t why_bytes) {
    RingEngineState *state = calloc(1, sizeof *state);
    if (!state) return explain(-ENOMEM, out_why, why_bytes);
    int failed = setup(&state->ring, options->depth, out_why, why_bytes);
    if (failed) {
        free(state);
        return failed;
    }
    register_files(state, options, facts);
    register_staging(state, options, facts);
    *out = state;
    return 0;
}

/* The kernel takes a ring apart some time later: what it holds is given back before. */
static void uring_close(RingEngineState *state) {
    if (state->files_registered) io_uring_unregister_files(&state->ring);
    if (state->registered_bytes > 0) io_uring_unregister_buffers(&state->ring);
    io_uring_queue_exit(&state->ring);
    free(state);
}

/* ---- moving ---- */

/* Index of the registered piece that holds all of the memory, or -1. */
static int piece_of(const RingEngineState *state, const void *memory, uint32_t bytes) {
    uint64_t at = (uint64_t)((uintptr_t)memory - (uintptr_t)state->registered);
    if ((uintptr_t)memory < (uintptr_t)state->registered || at >= state->registered_bytes ||
        bytes > state->registered_bytes - at)
        return -1;
    return at / PIECE_BYTES == (at + bytes - 1) / PIECE_BYTES ? (int)(at / PIECE_BYTES) : -1;
}

static void prepare(const RingEngineState *state, struct io_uring_sqe *entry,
                    const RingTransfer *transfer) {
    int descriptor =
        state->files_registered ? (int)transfer->file : state->files[transfer->file].descriptor;
    int piece = piece_of(state, transfer->memory, transfer->bytes);
    bool read = transfer->kind == RING_READ;
    if (piece < 0 && read)
        io_uring_prep_read(entry, descriptor, transfer->memory, transfer->bytes, transfer->offset);
    else if (piece < 0)
        io_uring_prep_write(entry, descriptor, transfer->memory, transfer->bytes, transfer->offset);
    else if (read)
        io_uring_prep_read_fixed(entry, descriptor, transfer->memory, transfer->bytes,
                                 transfer->offset, piece);
    else
        io_uring_prep_write_fixed(entry, descriptor, transfer->memory, transfer->bytes,
                                  transfer->offset, piece);
    if (state->files_registered) io_uring_sqe_set_flags(entry, IOSQE_FIXED_FILE);
    io_uring_sqe_set_data64(entry, transfer->slot);
}

static int uring_submit(RingEngineState *state, const RingTransfer *transfers, uint32_t count,
                        uint32_t *out_taken) {
    uint32_t taken = 0;
    struct io_uring_sqe *entry;
    while (taken < count && (entry = io_uring_get_sqe(&state->ring)))
        prepare(state, entry, &transfers[taken++]);
    *out_taken = taken;
    int submitted = io_uring_submit(&state->ring);
    if (submitted < 0) return submitted;
    return io_uring_sq_ready(&state->ring) > 0 || taken < count ? -EAGAIN : 0;
}

static uint32_t uring_reap(RingEngineState *state, RingCompletion *out, uint32_t completion_max,
                           uint64_t wait_ns) {
    struct io_uring_cqe *entries[64];
    uint32_t most = completion_max < 64 ? completion_max : 64;
    uint32_t count = io_uring_peek_batch_cqe(&state->ring, entries, most);
    if (count == 0 && wait_ns > 0) {
        struct __kernel_timespec time = {.tv_sec = (int64_t)(wait_ns / NS_PER_SECOND),
                                         .tv_nsec = (int64_t)(wait_ns % NS_PER_SECOND)};
        io_uring_wait_cqe_timeout(&state->ring, entries, &time);
        count = io_uring_peek_batch_cqe(&state->ring, entries, most);
    }
    uint32_t taken = 0;
    for (uint32_t i = 0; i < count; i++)
        if (io_uring_cqe_get_data64(entries[i]) != CANCELLING)
            out[taken++] = (RingCompletion){.slot = (uint32_t)io_uring_cqe_get_data64(entries[i]),
                                            .result = entries[i]->res};
    io_uring_cq_advance(&state->ring, count);
    return taken;
}

static void uring_cancel(RingEngineState *state, uint32_t slot) {
    struct io_uring_sqe *entry = io_uring_get_sqe(&state->ring);
    if (!entry) return; /* the kernel takes nothing now: the transfer just goes on */
    io_uring_prep_cancel64(entry, slot, 0);
    io_uring_sqe_set_data64(entry, CANCELLING);
    io_uring_submit(&state->ring);
}

const RingEngine ring_uring = {
    .name = "uring",
    .probe = uring_probe,
    .open = uring_open,
    .submit = uring_submit,
    .reap = uring_reap,
    .cancel = uring_cancel,
    .close = uring_close,
};
