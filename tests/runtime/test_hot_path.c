/* Decode steps of a spilling run allocate nothing, wait for no lock, and make no system call but those of the ring and of sleeping and
 * waking. A child runs the engine; once it is warm, every system call of all its threads goes through this process (seccomp user
 * notification), which counts it and lets it go on. malloc and its kin are counted in their own place. A thread that sleeps on
 * more than one word has met a lock: each has one word of its own to wait for work on.
 *
 * Prints who called what a step. */

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/base/invariant.h"
#include "runtime/base/monotonic.h"
#include "runtime/engine/engine.h"

enum {
    SEQUENCES = 4,
    CONTEXT = 60,
    WARM_STEPS = 10,
    STEPS = 40, /* several blocks long */
    BLOCK_TOKENS = 4,
    CALLS_MAX = 512,
    THREADS_MAX = 16,
    WORDS_MAX = 8,
    ALLOCATORS_MAX = 4,
    MIB = 1 << 20,
};

/* What child and parent share. */
typedef struct Shared {
    _Atomic int listener; /* the child's descriptor number; -1: not yet, -2: refused */
    int refusal;          /* errno */
    _Atomic bool counting;
    _Atomic uint64_t allocations;
    void *allocators[ALLOCATORS_MAX]; /* where the first ones were called from */
    uint64_t moved_bytes;             /* in the steps that count */
    double seconds;                   /* that they took */
} Shared;

static Shared *shared;

/* ---- allocations ---- */

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *memory, size_t bytes);
void *__libc_memalign(size_t alignment, size_t bytes);

static void count_allocation(void *caller) {
    if (!shared || !atomic_load(&shared->counting)) return;
    uint64_t index = atomic_fetch_add(&shared->allocations, 1);
    if (index < ALLOCATORS_MAX) shared->allocators[index] = caller;
}

__attribute__((visibility("default"))) void *malloc(size_t bytes) {
    count_allocation(__builtin_return_address(0));
    return __libc_malloc(bytes);
}

__attribute__((visibility("default"))) void *calloc(size_t count, size_t bytes) {
    count_allocation(__builtin_return_address(0));
    return __libc_calloc(count, bytes);
}

__attribute__((visibility("default"))) void *realloc(void *memory, size_t bytes) {
    count_allocation(__builtin_return_address(0));
    return __libc_realloc(memory, bytes);
}

__attribute__((visibility("default"))) void *aligned_alloc(size_t alignment, size_t bytes) {
    count_allocation(__builtin_return_address(0));
    return __libc_memalign(alignment, bytes);
}

/* ---- the child ---- */

typedef struct Case {
    const char *name;
    uint64_t bytes[TIER_COUNT];
    const char *io;
    uint32_t threads, io_depth;
    bool locks;      /* the pool of threads has some */
    long allowed[8]; /* system calls; ended by -1 */
} Case;

static uint32_t started;

static void on_token(void *user, const TokenEvent *event) {
    (void)user;
    started += event->index == 0;
}

static void on_finish(void *user, const FinishEvent *event) {
    (void)user;
    (void)event;
    CHECK(!"a sequence ended early");
}

static Engine *open_engine(const Case *hot) {
    static const char *directory;
    directory = getenv("TMPDIR") ? getenv("TMPDIR") : "/var/tmp";
    Weights *weights;
    Comm *comm;
    Engine *engine;
    EngineOptions options = {.backend = "auto",
                             .cpu_isa = "auto",
                             .thread_count = hot->threads,
                             .max_num_seqs = SEQUENCES,
                             .max_num_batched_tokens = SEQUENCES,
                             .block_tokens = BLOCK_TOKENS,
                             .kv_nvme_dirs = &directory,
                             .kv_nvme_dir_count = 1,
                             .io_engine = hot->io,
                             .io_depth = hot->io_depth};
    memcpy(options.kv_bytes, hot->bytes, sizeof options.kv_bytes);
    CHECK(weights_open(&weights, GOLDEN "/models/gguf_llama_f32/gguf_llama_f32.gguf") == STATUS_OK);
    CHECK(comm_self_create(&comm) == STATUS_OK);
    CHECK(engine_open(&engine, &options, weights, NULL, comm) == STATUS_OK);
    return engine;
}

static void step(Engine *engine) {
    bool idle;
    CHECK(engine_step(engine, &idle) == STATUS_OK && !idle);
}

/* Every system call of every thread from now on asks the listener. */
static void watch_calls(void) {
    struct sock_filter ask[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF)};
    struct sock_fprog program = {.len = 1, .filter = ask};
    long listener = -1;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)
        listener = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
                           SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_NEW_LISTENER |
                               SECCOMP_FILTER_FLAG_TSYNC_ESRCH,
                           &program);
    if (listener < 0) {
        shared->refusal = errno;
        atomic_store(&shared->listener, -2);
        _exit(0);
    }
    atomic_store(&shared->listener, (int)listener);
}

static uint64_t moved_bytes(const Engine *engine) {
    const EngineStats *stats = engine_stats(engine);
    return stats->tiers[TIER_HOST].read_bytes + stats->tiers[TIER_NVME].read_bytes;
}

static void run_child(const Case *hot) {
    static int32_t prompt[CONTEXT];
    Engine *engine = open_engine(hot);
    for (uint32_t i = 0; i < SEQUENCES; i++) {
        const Request request = {.id = i,
                                 .prompt = prompt,
                                 .prompt_count = CONTEXT,
                                 .max_tokens = WARM_STEPS + STEPS + SEQUENCES,
                                 .ignore_eos = true,
                                 .synthetic_context = true,
                                 .sampling = sampling_defaults,
                                 .sink = {.on_token = on_token, .on_finish = on_finish}};
        CHECK(engine_submit(engine, &request) == STATUS_OK);
    }
    while (started < SEQUENCES)
        step(engine);
    for (int i = 0; i < WARM_STEPS; i++)
        step(engine);
    uint64_t before = moved_bytes(engine);
    watch_calls();
    double start = monotonic_seconds();
    atomic_store(&shared->counting, true);
    for (int i = 0; i < STEPS; i++)
        step(engine);
    atomic_store(&shared->counting, false);
    shared->seconds = monotonic_seconds() - start;
    shared->moved_bytes = moved_bytes(engine) - before;
    _exit(0);
}

/* ---- the parent ---- */

typedef struct Watched {
    pid_t child;
    uint64_t calls[THREADS_MAX][CALLS_MAX]; /* the child's first thread is 0 */
    uint64_t sleeps[THREADS_MAX];
    uint64_t words[THREADS_MAX][WORDS_MAX]; /* addresses slept on */
    uint32_t word_counts[THREADS_MAX];
    pid_t threads[THREADS_MAX];
    uint32_t thread_count;
} Watched;

static uint32_t thread_index(Watched *watched, pid_t thread) {
    uint32_t index = 0;
    while (index < watched->thread_count && watched->threads[index] != thread)
        index++;
    CHECK(index < THREADS_MAX);
    if (index == watched->thread_count) watched->threads[watched->thread_count++] = thread;
    return index;
}

static void count_sleep(Watched *watched, uint32_t thread, uint64_t word) {
    uint32_t index = 0;
    while (index < watched->word_counts[thread] && watched->words[thread][index] != word)
        index++;
    watched->sleeps[thread]++;
    if (index == watched->word_counts[thread] && index < WORDS_MAX)
        watched->words[thread][watched->word_counts[thread]++] = word;
}

static void count_call(Watched *watched, const struct seccomp_notif *call) {
    uint32_t thread = thread_index(watched, (pid_t)call->pid);
    int number = call->data.nr;
    watched->calls[thread][number >= 0 && number < CALLS_MAX ? number : CALLS_MAX - 1]++;
    unsigned operation = (unsigned)call->data.args[1] & FUTEX_CMD_MASK;
    if (number == SYS_futex && (operation == FUTEX_WAIT || operation == FUTEX_WAIT_BITSET))
        count_sleep(watched, thread, call->data.args[0]);
}

/* Until the child is gone. */
static void serve_calls(int listener, Watched *watched) {
    struct pollfd ready = {.fd = listener, .events = POLLIN};
    while (poll(&ready, 1, 60000) > 0 && (ready.revents & POLLIN)) {
        struct seccomp_notif call = {0};
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call) != 0) continue; /* killed meanwhile */
        if (atomic_load(&shared->counting)) count_call(watched, &call);
        struct seccomp_notif_resp answer = {.id = call.id,
                                            .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
        (void)ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
    }
}

/* The child's listener as a descriptor of ours, or -1 and why not. */
static int take_listener(pid_t child) {
    int process = (int)syscall(SYS_pidfd_open, child, 0);
    while (atomic_load(&shared->listener) == -1 && waitpid(child, NULL, WNOHANG) == 0)
        usleep(1000);
    if (atomic_load(&shared->listener) < 0) return -1;
    int listener = (int)syscall(SYS_pidfd_getfd, process, atomic_load(&shared->listener), 0);
    if (listener < 0) shared->refusal = errno;
    close(process);
    return listener;
}

static bool is_allowed(const Case *hot, long number) {
    for (int i = 0; hot->allowed[i] >= 0; i++)
        if (hot->allowed[i] == number) return true;
    return false;
}

/* Prints the counts; the tier thread looks at its CPU clock ten times a second. False when a call is among them that must not be. */
static bool judge_calls(const Case *hot, const Watched *watched) {
    bool good = true;
    for (uint32_t thread = 0; thread < watched->thread_count; thread++) {
        printf("  thread %u%s, a step:", thread,
               watched->threads[thread] == watched->child ? " (steps)" : "");
        for (long number = 0; number < CALLS_MAX; number++) {
            if (watched->calls[thread][number] == 0) continue;
            bool rare = number == SYS_clock_gettime &&
                        (double)watched->calls[thread][number] <= 2 + 10 * shared->seconds;
            bool allowed = rare || is_allowed(hot, number);
            printf(" %s %ld %.1f", allowed ? "call" : "FORBIDDEN call", number,
                   (double)watched->calls[thread][number] / STEPS);
            good = good && allowed;
        }
        bool lock = watched->word_counts[thread] > 1 && !hot->locks;
        printf("; sleeps %.1f on %u words%s\n", (double)watched->sleeps[thread] / STEPS,
               watched->word_counts[thread], lock ? ": a LOCK" : "");
        good = good && !lock;
    }
    return good;
}

static bool judge_allocations(void) {
    uint64_t count = atomic_load(&shared->allocations);
    for (uint64_t i = 0; i < count && i < ALLOCATORS_MAX; i++)
        printf("  allocation FORBIDDEN, called from %p (program at %p)\n", shared->allocators[i],
               (void *)run_child);
    return count == 0;
}

typedef enum Verdict { PASSED, FAILED, SKIPPED } Verdict;

static Verdict run_case(const Case *hot) {
    *shared = (Shared){.listener = -1};
    Watched watched = {0};
    pid_t child = fork();
    if (child == 0) run_child(hot);
    watched.child = child;
    int listener = take_listener(child), state;
    if (listener < 0) {
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        printf("%s: system calls cannot be watched here: %s\n", hot->name,
               strerror(shared->refusal));
        return SKIPPED;
    }
    serve_calls(listener, &watched);
    close(listener);
    waitpid(child, &state, 0);
    printf("%s: %.1f KiB came up a step\n", hot->name, (double)shared->moved_bytes / 1024 / STEPS);
    bool calls = judge_calls(hot, &watched), memory = judge_allocations();
    bool ended = WIFEXITED(state) && WEXITSTATUS(state) == 0;
    return calls && memory && ended && shared->moved_bytes > 0 ? PASSED : FAILED;
}

static const Case cases[] = {
    {.name = "disk by io_uring",
     .bytes = {UINT64_MAX, 0, 8 * MIB},
     .io = "uring",
     .threads = 1,
     .allowed = {SYS_futex, SYS_io_uring_enter, -1}},
    {.name = "disk by threads",
     .bytes = {UINT64_MAX, 0, 8 * MIB},
     .io = "threads",
     .threads = 1,
     .io_depth = 4,
     .locks = true,
     .allowed = {SYS_futex, SYS_pread64, SYS_pwrite64, -1}},
    {.name = "host", .bytes = {UINT64_MAX, 8 * MIB, 0}, .threads = 1, .allowed = {SYS_futex, -1}},
    {.name = "host and disk, two threads",
     .bytes = {UINT64_MAX, 100 << 10, 8 * MIB},
     .io = "uring",
     .threads = 2,
     .allowed = {SYS_futex, SYS_io_uring_enter, SYS_sched_yield, -1}},
};

int main(void) {
    int counts[3] = {0};
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        counts[run_case(&cases[i])]++;
    printf("%d passed, %d failed, %d skipped\n", counts[PASSED], counts[FAILED], counts[SKIPPED]);
    if (counts[FAILED] > 0) return 1;
    return counts[PASSED] > 0 ? 0 : 77;
}
