#include "launch/watchdog.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "kernels/device_fault.h"
#include "launch/stop.h"
#include "runtime/base/arena.h"
#include "runtime/base/log.h"
#include "runtime/base/monotonic.h"

/* A tick every quarter of a second; silent for 3 s is odd; a tick that comes a second late means that this process
 * itself was paused. Those that left with an error take the others along after 1.5 s, if the launcher did not. */
enum {
    TICK_MS = 250,
    MEET_MS = 10,
    SILENT_TICKS = 12,
    PAUSE_MS = 1000,
    FAREWELL_TICKS = 6,
    HURRIED_TICKS = 2
};
enum {
    SWEEP_MS = 1000,
    SWEEP_STEP_MS = 50,
    TOLD_MS = 100,
    ABORT_MS = 1000,
    PHASE_BYTES = 64,
    PHASE_WORDS = PHASE_BYTES / 8,
    DEVICE_BYTES = 96,
    GROWTH_PAGES = 256 /* a process grows by a few now and then that do not stand for progress */
};

enum { PEER_RUNS, PEER_LEAVES, PEER_LEFT };

/* Written by its rank, read by the others of the node. */
typedef struct BoardSlot {
    _Alignas(128) atomic_int process; /* 0: not there yet */
    atomic_int rank;
    atomic_int state; /* PEER_… */
    atomic_int exit_code;
    atomic_uint heartbeat; /* ticks lived */
    atomic_uint unit;      /* units begun and ended: odd inside one */
    atomic_ullong calls;   /* collectives entered, as of the last tick */
    atomic_ullong phase[PHASE_WORDS];
} BoardSlot;

typedef struct Board {
    _Alignas(128) atomic_int told; /* somebody has named the cause */
    BoardSlot slots[];             /* [local_size] */
} Board;

/* What this rank remembers of one slot. */
typedef struct Peer {
    uint32_t heartbeat;
    int silent_ticks;
    int farewell_ticks;
    bool opened; /* its pidfd was asked for */
    bool gone;   /* left, then ended */
} Peer;

/* What moves while a rank works. */
typedef struct Progress {
    uint64_t unit;   /* as in its slot */
    uint64_t calls;  /* the same */
    uint64_t moves;  /* of its device: comm_moves */
    uint64_t io;     /* while it loads: pages and blocks that were read and written */
    uint64_t growth; /* the same: pieces of memory that came */
} Progress;

enum { POLL_STOP, POLL_PARENT, POLL_PEERS };

struct Watchdog {
    pthread_t thread;
    WatchdogOptions options;
    pthread_mutex_t lock; /* of options.comm, which goes away when this rank leaves, and device */
    char device[DEVICE_BYTES]; /* "": none that is known */
    bool alone;                /* the only rank of the job */
    atomic_bool loads;         /* the unit is one of loading */
    uint64_t pages;            /* resident as of the last look */
    uint64_t pages_come;       /* in all looks */
    Board *board;
    BoardSlot *own;
    int local_size;
    int parent; /* process */
    uint64_t last_tick_ns;
    Progress now, seen; /* as of the last tick, and the one before */
    int stuck_ticks;
    int hurried_ticks;     /* since this process was asked to stop now */
    Peer *peers;           /* [local_size] */
    struct pollfd *polled; /* [POLL_PEERS + local_size]; descriptor -1 where there is none */
};

uint64_t watchdog_board_bytes(int local_size) {
    return sizeof(Board) + (uint64_t)local_size * sizeof(BoardSlot);
}

static int open_process(int process) {
    return (int)syscall(SYS_pidfd_open, process, 0);
}

static void write_phase(BoardSlot *slot, const char *phase) {
    union {
        char text[PHASE_BYTES];
        unsigned long long words[PHASE_WORDS];
    } copy = {{0}};
    snprintf(copy.text, sizeof copy.text, "%s", phase);
    for (int word = 0; word < PHASE_WORDS; word++)
        atomic_store_explicit(&slot->phase[word], copy.words[word], memory_order_relaxed);
}

static void read_phase(BoardSlot *slot, char out[PHASE_BYTES]) {
    for (int word = 0; word < PHASE_WORDS; word++) {
        unsigned long long bits = atomic_load_explicit(&slot->phase[word], memory_order_relaxed);
        memcpy(out + word * 8, &bits, 8);
    }
    out[PHASE_BYTES - 1] = 0;
}

/* Runs in a child that outlives the ranks, after a fork from a process with threads: system calls only. */
static void sweep(struct pollfd *peers, int count) {
    struct timespec nap = {.tv_nsec = SWEEP_STEP_MS * 1000000};
    for (int waited_ms = 0; waited_ms < SWEEP_MS; waited_ms += SWEEP_STEP_MS) {
        int running = 0;
        poll(peers, (nfds_t)count, 0);
        for (int peer = 0; peer < count; peer++)
            running += peers[peer].fd >= 0 && !peers[peer].revents;
        if (running == 0) return;
        nanosleep(&nap, NULL);
    }
    for (int peer = 0; peer < count; peer++)
        if (peers[peer].fd >= 0) syscall(SYS_pidfd_send_signal, peers[peer].fd, SIGKILL, NULL, 0);
}

/* Closes every descriptor but the pidfds: files may be locked, and the launcher waits for the output's end. */
static void close_all_but(const struct pollfd *kept, int count) {
    unsigned first = 0;
    for (;;) {
        unsigned next = UINT_MAX;
        for (int i = 0; i < count; i++)
            if (kept[i].fd >= 0 && (unsigned)kept[i].fd >= first && (unsigned)kept[i].fd < next)
                next = (unsigned)kept[i].fd;
        if (next > first) syscall(SYS_close_range, first, next == UINT_MAX ? next : next - 1, 0);
        if (next == UINT_MAX) return;
        first = next + 1;
    }
}

/* The exit code must come first and the kill after it, for a launcher reports the code of whoever ends first. So a
 * child does the killing. */
static void leave_sweeper(const Watchdog *watchdog) {
    struct pollfd *peers = watchdog->polled + POLL_PEERS;
    if (_Fork() != 0) return;
    close_all_but(peers, watchdog->local_size);
    sweep(peers, watchdog->local_size);
    _exit(0);
}

/* What this rank's device does with those that are gone has to end first, or it would stay in a kernel that waits for them. */
static void leave(Watchdog *watchdog, int exit_code) __attribute__((noreturn));
static void leave(Watchdog *watchdog, int exit_code) {
    pthread_mutex_lock(&watchdog->lock);
    if (watchdog->options.comm) comm_abort(watchdog->options.comm, ABORT_MS / 1000.0);
    pthread_mutex_unlock(&watchdog->lock);
    _exit(exit_code);
}

/* True when no peer has named a cause: then it is this rank's to do. */
static bool may_tell(Watchdog *watchdog) {
    int untold = 0;
    bool mine = atomic_compare_exchange_strong(&watchdog->board->told, &untold, 1);
    if (!mine) usleep(TOLD_MS * 1000);
    return mine;
}

/* Names the cause unless a peer has, and ends this process. */
static void end_job(Watchdog *watchdog, const char *text) __attribute__((noreturn));
static void end_job(Watchdog *watchdog, const char *text) {
    if (may_tell(watchdog)) {
        (void)error_raise(ERROR_PEER_LOST, "%s; all ranks end, run the same command again", text);
        leave_sweeper(watchdog);
    }
    leave(watchdog, error_row(ERROR_PEER_LOST)->exit_code);
}

static void end_because_of(Watchdog *watchdog, int peer, const char *what) {
    char text[320];
    BoardSlot *slot = &watchdog->board->slots[peer];
    snprintf(text, sizeof text, "rank %d@%s (process %d) %s", atomic_load(&slot->rank),
             watchdog->options.host, atomic_load(&slot->process), what);
    end_job(watchdog, text);
}

static void check_dead_peer(Watchdog *watchdog, int peer) {
    BoardSlot *slot = &watchdog->board->slots[peer];
    struct pollfd *polled = &watchdog->polled[POLL_PEERS + peer];
    if (atomic_load(&slot->state) == PEER_RUNS) {
        /* A launcher that ends a job sends TERM, then KILL: whoever dies of that is not the cause. */
        if (watchdog->hurried_ticks >= HURRIED_TICKS) atomic_store(&watchdog->board->told, 1);
        end_because_of(watchdog, peer, "was killed or crashed");
    }
    if (polled->fd >= 0) close(polled->fd);
    polled->fd = -1;
    polled->revents = 0;
    watchdog->peers[peer].gone = true;
}

/* The state letter of /proc/PID/stat, or 0. */
static char process_state(int process) {
    char path[32], line[512];
    snprintf(path, sizeof path, "/proc/%d/stat", process);
    FILE *file = fopen(path, "re");
    if (!file) return 0;
    size_t length = fread(line, 1, sizeof line - 1, file);
    fclose(file);
    line[length] = 0;
    const char *after_name = strrchr(line, ')');
    return after_name && after_name[1] ? after_name[2] : 0;
}

static void end_because_of_silence(Watchdog *watchdog, int peer) {
    char what[96];
    char state = process_state(atomic_load(&watchdog->board->slots[peer].process));
    snprintf(what, sizeof what, "gave no sign of life for %d s%s", SILENT_TICKS * TICK_MS / 1000,
             state == 'T' || state == 't' ? ": it is stopped (SIGSTOP or a debugger)" : "");
    end_because_of(watchdog, peer, what);
}

static void check_heartbeat(Watchdog *watchdog, int peer) {
    BoardSlot *slot = &watchdog->board->slots[peer];
    Peer *known = &watchdog->peers[peer];
    uint32_t heartbeat = atomic_load(&slot->heartbeat);
    bool silent = heartbeat == known->heartbeat && atomic_load(&slot->state) != PEER_LEFT;
    known->silent_ticks = silent ? known->silent_ticks + 1 : 0;
    known->heartbeat = heartbeat;
    if (known->silent_ticks >= SILENT_TICKS) end_because_of_silence(watchdog, peer);
}

/* A peer that left with an error has told its cause; the launcher ends the job, and if there is none we do. */
static void check_farewell(Watchdog *watchdog, int peer) {
    BoardSlot *slot = &watchdog->board->slots[peer];
    if (atomic_load(&slot->state) == PEER_RUNS || atomic_load(&slot->exit_code) == 0) return;
    if (atomic_load(&watchdog->own->state) != PEER_RUNS) return;
    if (++watchdog->peers[peer].farewell_ticks >= FAREWELL_TICKS)
        leave(watchdog, atomic_load(&slot->exit_code));
}

static void check_peer(Watchdog *watchdog, int peer) {
    Peer *known = &watchdog->peers[peer];
    if (!known->opened) return;
    if (!known->gone) check_heartbeat(watchdog, peer);
    check_farewell(watchdog, peer);
}

static unsigned long long calls_of(const Watchdog *watchdog, int peer) {
    return atomic_load(&watchdog->board->slots[peer].calls);
}

/* The rank that entered the fewest collectives holds the others up; out_ahead is one that entered the most. */
static int find_laggard(const Watchdog *watchdog, int *out_ahead) {
    int laggard = 0, ahead = 0;
    for (int peer = 1; peer < watchdog->local_size; peer++) {
        if (calls_of(watchdog, peer) < calls_of(watchdog, laggard)) laggard = peer;
        if (calls_of(watchdog, peer) > calls_of(watchdog, ahead)) ahead = peer;
    }
    *out_ahead = ahead;
    return laggard;
}

static void end_stuck_unit(Watchdog *watchdog) {
    char what[256], phase[PHASE_BYTES];
    int ahead, laggard = find_laggard(watchdog, &ahead);
    unsigned long long entered = calls_of(watchdog, laggard), most = calls_of(watchdog, ahead);
    double seconds = watchdog->options.timeout_seconds;
    if (entered == most) {
        read_phase(watchdog->own, phase);
        snprintf(what, sizeof what,
                 "no progress for %g s in \"%s\" (collective %llu): no rank of this node is behind "
                 "the others (see --comm-timeout)",
                 seconds, phase, most);
        end_job(watchdog, what);
    }
    read_phase(&watchdog->board->slots[laggard], phase);
    snprintf(what, sizeof what,
             "made no progress for %g s in \"%s\": it is at collective %llu, others wait in %llu "
             "(see --comm-timeout)",
             seconds, phase, entered, most);
    end_because_of(watchdog, laggard, what);
}

/* Only its device can hold this rank up. */
static void end_for_device(Watchdog *watchdog, const char *device, const char *phase) {
    if (may_tell(watchdog)) {
        (void)device_fault_raise(DEVICE_FAULT_LOST, device,
                                 "no progress for %g s in \"%s\" (see --comm-timeout)",
                                 watchdog->options.timeout_seconds, phase);
        if (!watchdog->alone) leave_sweeper(watchdog);
    }
    leave(watchdog, error_row(ERROR_DEVICE_LOST)->exit_code);
}

/* What takes part in no collective: a rank alone, and one that loads. */
static void end_on_its_own(Watchdog *watchdog) {
    char phase[PHASE_BYTES], device[DEVICE_BYTES], what[160];
    read_phase(watchdog->own, phase);
    pthread_mutex_lock(&watchdog->lock);
    memcpy(device, watchdog->device, sizeof device);
    pthread_mutex_unlock(&watchdog->lock);
    if (device[0]) end_for_device(watchdog, device, phase);
    snprintf(what, sizeof what, "made no progress for %g s in \"%s\" (see --comm-timeout)",
             watchdog->options.timeout_seconds, phase);
    end_because_of(watchdog, (int)(watchdog->own - watchdog->board->slots), what);
}

/* Nothing has been done by then that a later run could miss. Peers that wait for this rank end as it does. */
static void stop_loading(Watchdog *watchdog) {
    int exit_code = error_row(ERROR_STOPPED)->exit_code;
    atomic_store(&watchdog->own->exit_code, exit_code);
    atomic_store(&watchdog->own->state, PEER_LEAVES);
    if (may_tell(watchdog))
        (void)error_raise(ERROR_STOPPED, "stopped on request while the model was loaded");
    leave(watchdog, exit_code);
}

static void check_progress(Watchdog *watchdog) {
    const Progress *now = &watchdog->now;
    bool works = now->unit % 2 == 1, loads = works && atomic_load(&watchdog->loads);
    bool stuck = works && memcmp(now, &watchdog->seen, sizeof *now) == 0;
    if (loads && stop_requested() != STOP_NONE) stop_loading(watchdog);
    watchdog->stuck_ticks = stuck ? watchdog->stuck_ticks + 1 : 0;
    watchdog->seen = *now;
    double timeout_ms = watchdog->options.timeout_seconds * 1000;
    if (timeout_ms == 0 || (double)watchdog->stuck_ticks * TICK_MS < timeout_ms) return;
    if (watchdog->alone || loads)
        end_on_its_own(watchdog);
    else
        end_stuck_unit(watchdog);
}

/* Pages of memory that this process has; 0 where it cannot be told. */
static uint64_t resident_pages(void) {
    unsigned long long all = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (!file) return 0;
    if (fscanf(file, "%llu %llu", &all, &resident) != 2) resident = 0;
    fclose(file);
    return resident;
}

/* However slow its disk, and however large a tensor: pages that had to be read, blocks of disks, and memory that is filled. The faults that
 * need no reading do not count: a kernel that balances nodes makes some for ever. */
static void note_loading(Watchdog *watchdog) {
    uint64_t pages = resident_pages();
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    watchdog->now.io =
        (uint64_t)usage.ru_majflt + (uint64_t)usage.ru_inblock + (uint64_t)usage.ru_oublock;
    if (pages > watchdog->pages) watchdog->pages_come += pages - watchdog->pages;
    watchdog->pages = pages;
    watchdog->now.growth = watchdog->pages_come / GROWTH_PAGES;
}

static void beat(Watchdog *watchdog) {
    atomic_fetch_add(&watchdog->own->heartbeat, 1);
    pthread_mutex_lock(&watchdog->lock);
    if (watchdog->options.comm) {
        watchdog->now.moves = comm_moves(watchdog->options.comm);
        watchdog->now.calls = comm_calls(watchdog->options.comm);
    }
    pthread_mutex_unlock(&watchdog->lock);
    watchdog->now.unit = atomic_load(&watchdog->own->unit);
    if (atomic_load(&watchdog->loads)) note_loading(watchdog);
    atomic_store(&watchdog->own->calls, watchdog->now.calls);
}

static void forgive_all(Watchdog *watchdog) {
    for (int peer = 0; peer < watchdog->local_size; peer++)
        watchdog->peers[peer].silent_ticks = 0;
    watchdog->stuck_ticks = 0;
}

static void tick(Watchdog *watchdog) {
    uint64_t now_ns = monotonic_now_ns(&monotonic_system);
    uint64_t passed_ms = (now_ns - watchdog->last_tick_ns) / 1000000;
    if (passed_ms < TICK_MS) return;
    watchdog->last_tick_ns = now_ns;
    beat(watchdog);
    if (stop_requested() == STOP_HURRY) watchdog->hurried_ticks++;
    if (passed_ms > PAUSE_MS) {
        forgive_all(watchdog);
        return;
    }
    for (int peer = 0; peer < watchdog->local_size; peer++)
        if (&watchdog->board->slots[peer] != watchdog->own) check_peer(watchdog, peer);
    check_progress(watchdog);
}

static void check_deaths(Watchdog *watchdog) {
    char text[64];
    for (int peer = 0; peer < watchdog->local_size; peer++)
        if (watchdog->polled[POLL_PEERS + peer].revents) check_dead_peer(watchdog, peer);
    if (!watchdog->polled[POLL_PARENT].revents) return;
    snprintf(text, sizeof text, "the launcher of this node (process %d) is gone", watchdog->parent);
    end_job(watchdog, text);
}

/* A pidfd of each peer that has come to the board since; true when all have. Where the kernel gives none, the heartbeat
 * alone tells. */
static bool meet_peers(Watchdog *watchdog) {
    int met = 0;
    for (int peer = 0; peer < watchdog->local_size; peer++) {
        BoardSlot *slot = &watchdog->board->slots[peer];
        Peer *known = &watchdog->peers[peer];
        int process = atomic_load(&slot->process);
        if (!known->opened && process != 0 && slot != watchdog->own) {
            known->opened = true;
            watchdog->polled[POLL_PEERS + peer].fd = open_process(process);
            if (watchdog->polled[POLL_PEERS + peer].fd < 0 && errno == ESRCH)
                check_dead_peer(watchdog, peer);
        }
        met += process != 0;
    }
    return met == watchdog->local_size;
}

static void *watch(void *argument) {
    Watchdog *watchdog = argument;
    nfds_t count = POLL_PEERS + (nfds_t)watchdog->local_size;
    bool all_met = false;
    while (!watchdog->polled[POLL_STOP].revents) {
        if (!all_met) all_met = meet_peers(watchdog);
        int ready = poll(watchdog->polled, count, all_met ? TICK_MS : MEET_MS);
        if (ready > 0) check_deaths(watchdog);
        tick(watchdog);
    }
    return NULL;
}

static void close_descriptors(Watchdog *watchdog) {
    for (int i = 0; i < POLL_PEERS + watchdog->local_size; i++)
        if (watchdog->polled[i].fd >= 0) close(watchdog->polled[i].fd);
}

static void watchdog_free(Watchdog *watchdog) {
    if (watchdog->polled) close_descriptors(watchdog);
    pthread_mutex_destroy(&watchdog->lock);
    free(watchdog->polled);
    free(watchdog->peers);
    free(watchdog);
}

static Status open_descriptors(Watchdog *watchdog) {
    for (int i = 0; i < POLL_PEERS + watchdog->local_size; i++)
        watchdog->polled[i] = (struct pollfd){.fd = -1, .events = POLLIN};
    if (!watchdog->alone) /* who runs alone may outlive what started it */
        watchdog->polled[POLL_PARENT].fd = open_process(watchdog->parent);
    watchdog->polled[POLL_STOP].fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (watchdog->polled[POLL_STOP].fd < 0)
        FAIL(MEMORY, "eventfd of the watchdog: %s", strerror(errno));
    return STATUS_OK;
}

static Status watchdog_fill(Watchdog *watchdog) {
    void *memory;
    TRY(memory_take(&memory, (uint64_t)watchdog->local_size, sizeof(Peer), "watchdog"));
    watchdog->peers = memory;
    TRY(memory_take(&memory, POLL_PEERS + (uint64_t)watchdog->local_size, sizeof(struct pollfd),
                    "watchdog"));
    watchdog->polled = memory;
    return open_descriptors(watchdog);
}

static void enter_board(Watchdog *watchdog) {
    write_phase(watchdog->own, "start-up");
    atomic_store(&watchdog->own->rank, watchdog->options.comm->rank);
    atomic_store(&watchdog->own->process, getpid());
    /* So that a stopped rank finds out too: nobody else may be left to kill it. Harmless to those who run. */
    prctl(PR_SET_PDEATHSIG, SIGCONT);
}

/* The thread takes no signals: they are the business of launch/stop. */
static Status start_thread(Watchdog *watchdog) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int cause = pthread_create(&watchdog->thread, NULL, watch, watchdog);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (cause != 0) FAIL(MEMORY, "thread of the watchdog: %s", strerror(cause));
    return STATUS_OK;
}

Status watchdog_start(Watchdog **out, const WatchdogOptions *options) {
    void *memory;
    TRY(memory_take(&memory, 1, sizeof(Watchdog), "watchdog"));
    Watchdog *watchdog = memory;
    watchdog->options = *options;
    watchdog->alone = options->comm->size == 1;
    watchdog->local_size = options->comm->local_size;
    watchdog->board = options->board;
    watchdog->own = &watchdog->board->slots[options->comm->local_rank];
    watchdog->parent = getppid();
    watchdog->last_tick_ns = monotonic_now_ns(&monotonic_system);
    pthread_mutex_init(&watchdog->lock, NULL);
    Status status = watchdog_fill(watchdog);
    if (status == STATUS_OK) {
        enter_board(watchdog);
        status = start_thread(watchdog);
    }
    if (status != STATUS_OK) {
        watchdog_free(watchdog);
        return status;
    }
    *out = watchdog;
    return STATUS_OK;
}

static bool is_inside_unit(const Watchdog *watchdog) {
    return atomic_load(&watchdog->own->unit) % 2 == 1;
}

static void begin(Watchdog *watchdog, bool loads, const char *phase) {
    if (!watchdog) return;
    write_phase(watchdog->own, phase);
    atomic_store(&watchdog->loads, loads);
    atomic_fetch_add(&watchdog->own->unit, is_inside_unit(watchdog) ? 2 : 1);
}

void watchdog_unit_begin(Watchdog *watchdog, const char *phase) {
    begin(watchdog, false, phase);
}

void watchdog_load_begin(Watchdog *watchdog, const char *part) {
    char phase[PHASE_BYTES];
    snprintf(phase, sizeof phase, "loading %s", part);
    begin(watchdog, true, phase);
}

void watchdog_set_device(Watchdog *watchdog, const char *device) {
    if (!watchdog) return;
    pthread_mutex_lock(&watchdog->lock);
    snprintf(watchdog->device, sizeof watchdog->device, "%s", device);
    pthread_mutex_unlock(&watchdog->lock);
}

void watchdog_unit_end(Watchdog *watchdog) {
    if (!watchdog) return;
    if (is_inside_unit(watchdog)) atomic_fetch_add(&watchdog->own->unit, 1);
}

void watchdog_leave(Watchdog *watchdog, int exit_code) {
    if (!watchdog) return;
    watchdog_unit_end(watchdog);
    atomic_store(&watchdog->own->exit_code, exit_code);
    atomic_store(&watchdog->own->state, PEER_LEAVES);
    pthread_mutex_lock(&watchdog->lock);
    watchdog->options.comm = NULL;
    pthread_mutex_unlock(&watchdog->lock);
}

void watchdog_stop(Watchdog *watchdog) {
    if (!watchdog) return;
    uint64_t one = 1;
    /* Cannot fail: the counter is far from its limit. */
    (void)!write(watchdog->polled[POLL_STOP].fd, &one, sizeof one);
    pthread_join(watchdog->thread, NULL);
    atomic_store(&watchdog->own->state, PEER_LEFT);
    watchdog_free(watchdog);
}
