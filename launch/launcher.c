#include "launch/launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "runtime/base/arena.h"
#include "runtime/base/log.h"
#include "runtime/comm/comm.h"

/* Environment variables by launcher; the first row whose rank variable is set counts. */
static const struct PlaceRow {
    const char *name, *rank, *size, *local_size;
} place_rows[] = {
    {"mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"},
    {"srun", "PMIX_RANK", "SLURM_STEP_NUM_TASKS", NULL},
    {"mpiexec", "PMI_RANK", "PMI_SIZE", NULL},
};

/* A job of one of these says itself how many processes fit a node. */
static const char *const resource_managers[] = {"SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID"};

/* Tells rank 0 where the launcher's pipe is: path and what it leads to. No SPILLWAY_ in front: it is no option. */
static const char input_variable[] = "_SPILLWAY_INPUT";

enum {
    INPUT_BYTES = 65536,
    INPUT_NAME_BYTES = 96,
    ARGUMENTS_MAX = 32,
    LEFTOVER_WAIT_MS = 5000,
    LEFTOVER_STEP_MS = 50
};

/* While mpirun starts, a signal may reach nobody; to drain twice is to drain once. */
enum { REPEAT_DRAIN_MS = 500 };

static int number_of(const char *variable) {
    const char *text = variable ? getenv(variable) : NULL;
    return text ? atoi(text) : 0;
}

Status launcher_find(LauncherPlace *out) {
    LauncherPlace place = {0};
    for (size_t i = 0; i < sizeof place_rows / sizeof place_rows[0] && !place.name; i++) {
        const struct PlaceRow *row = &place_rows[i];
        if (!getenv(row->rank)) continue;
        place = (LauncherPlace){.name = row->name,
                                .size = number_of(row->size),
                                .rank = number_of(row->rank),
                                .local_size = number_of(row->local_size)};
    }
    if (!place.name && getenv("SLURM_STEP_ID") && number_of("SLURM_STEP_NUM_TASKS") > 1)
        FAIL(UNAVAILABLE,
             "srun started %d processes without PMIx, so they cannot find each other: use "
             "srun --mpi=pmix",
             number_of("SLURM_STEP_NUM_TASKS"));
    if (place.size == 1) place = (LauncherPlace){0};
    *out = place;
    return STATUS_OK;
}

/* What the parent keeps while mpirun runs. */
typedef struct Launch {
    pid_t mpirun;
    int signals;         /* signalfd */
    int input;           /* write end of rank 0's standard input, -1: closed */
    int input_read_end;  /* stays open until rank 0 has found it, -1: nothing is forwarded */
    int stop_count;      /* how often we were asked to end */
    size_t input_length; /* waiting in the buffer */
    size_t input_sent;
    char buffer[INPUT_BYTES];
} Launch;

static void block_signals(sigset_t *out_set) {
    static const int wanted[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGCHLD};
    sigemptyset(out_set);
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++)
        sigaddset(out_set, wanted[i]);
    sigprocmask(SIG_BLOCK, out_set, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGTTIN, SIG_IGN);
}

static bool is_managed(void) {
    for (size_t i = 0; i < sizeof resource_managers / sizeof resource_managers[0]; i++)
        if (getenv(resource_managers[i])) return true;
    return false;
}

static int core_count(void) {
    cpu_set_t cores;
    return sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 1;
}

typedef struct CommandLine {
    char *arguments[ARGUMENTS_MAX];
    int count;
} CommandLine;

static void add(CommandLine *line, const char *argument) {
    line->arguments[line->count++] = (char *)argument;
}

static void add_parameter(CommandLine *line, const char *name, const char *value) {
    add(line, "--mca");
    add(line, name);
    add(line, value);
}

/* Without --bind-to none, Open MPI 4 gives each of two ranks one core, for all its threads. Single-copy reads of
 * another process's memory are refused in many containers, and we send nothing large by message on a node. */
static void fill_mpirun(CommandLine *line, int ranks, const char *ranks_text) {
    add(line, "mpirun");
    add(line, "--quiet");
    add(line, "--bind-to");
    add(line, "none");
    add_parameter(line, "btl_vader_single_copy_mechanism", "none");
    if (geteuid() == 0) add(line, "--allow-run-as-root");
    if (!is_managed()) add(line, "--oversubscribe");
    if (ranks > core_count()) add_parameter(line, "mpi_yield_when_idle", "1");
    if (getenv(input_variable)) {
        add(line, "-x");
        add(line, input_variable);
    }
    add(line, "-n");
    add(line, ranks_text);
}

/* mpirun's words, this program's path, its arguments, NULL: *out is to be freed, its strings are borrowed. */
static Status build_arguments(const LauncherOptions *options, const char *ranks_text,
                              const char *program, char ***out) {
    CommandLine line = {.count = 0};
    size_t own = 1;
    void *memory;
    fill_mpirun(&line, options->ranks, ranks_text);
    while (options->argv[own])
        own++;
    TRY(memory_take(&memory, (uint64_t)line.count + own + 1, sizeof(char *), "command line"));
    char **arguments = memory;
    memcpy(arguments, line.arguments, (size_t)line.count * sizeof(char *));
    arguments[line.count] = (char *)program;
    memcpy(arguments + line.count + 1, options->argv + 1, own * sizeof(char *));
    *out = arguments;
    return STATUS_OK;
}

/* In the child. A process group of its own: Ctrl-C reaches only the parent, which makes a drain of it. Says its
 * errno through `report` when there is no mpirun. */
static void become_mpirun(char **arguments, const sigset_t *blocked, int report)
    __attribute__((noreturn));
static void become_mpirun(char **arguments, const sigset_t *blocked, int report) {
    pid_t parent = getppid();
    int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(1);
    dup2(nothing, STDIN_FILENO);
    signal(SIGPIPE, SIG_DFL);
    signal(SIGTTIN, SIG_DFL);
    sigprocmask(SIG_UNBLOCK, blocked, NULL);
    execvp(arguments[0], arguments);
    int cause = errno;
    (void)!write(report, &cause, sizeof cause);
    _exit(1);
}

static Status start_mpirun(Launch *launch, char **arguments, const sigset_t *blocked) {
    int report[2], cause = 0;
    if (pipe2(report, O_CLOEXEC) != 0) FAIL(MEMORY, "pipe to mpirun: %s", strerror(errno));
    launch->mpirun = fork();
    if (launch->mpirun == 0) become_mpirun(arguments, blocked, report[1]);
    close(report[1]);
    ssize_t got = launch->mpirun > 0 ? read(report[0], &cause, sizeof cause) : 0;
    int fork_cause = errno;
    close(report[0]);
    if (launch->mpirun < 0) FAIL(MEMORY, "starting mpirun: %s", strerror(fork_cause));
    if (got <= 0) return STATUS_OK;
    waitpid(launch->mpirun, NULL, 0);
    FAIL(UNAVAILABLE,
         "several ranks need mpirun, which cannot be run (%s): install openmpi-bin, or use "
         "--ranks 1",
         strerror(cause));
}

static void close_input(Launch *launch) {
    if (launch->input >= 0) close(launch->input);
    launch->input = -1;
}

/* A background job may not read the terminal: EIO then, and we ask again later. */
static void read_input(Launch *launch) {
    struct timespec nap = {.tv_nsec = 200000000};
    ssize_t got = read(STDIN_FILENO, launch->buffer, sizeof launch->buffer);
    int cause = got < 0 ? errno : 0;
    launch->input_sent = 0;
    launch->input_length = got > 0 ? (size_t)got : 0;
    if (cause == EIO) nanosleep(&nap, NULL);
    if (got == 0 || (cause && cause != EINTR && cause != EAGAIN && cause != EIO))
        close_input(launch);
}

static void send_input(Launch *launch) {
    ssize_t sent = write(launch->input, launch->buffer + launch->input_sent,
                         launch->input_length - launch->input_sent);
    if (sent > 0) launch->input_sent += (size_t)sent;
    if (sent < 0 && errno != EINTR && errno != EAGAIN) close_input(launch);
}

static void ask_to_end(Launch *launch) {
    launch->stop_count++;
    kill(launch->mpirun, launch->stop_count == 1 ? SIGUSR1 : SIGTERM);
}

static void on_signal(Launch *launch) {
    struct signalfd_siginfo info;
    if (read(launch->signals, &info, sizeof info) != sizeof info) return;
    switch (info.ssi_signo) {
    case SIGTERM:
    case SIGINT:
    case SIGHUP: ask_to_end(launch); break;
    case SIGUSR1:
        if (launch->stop_count == 0) launch->stop_count = 1;
        kill(launch->mpirun, SIGUSR1);
        break;
    case SIGUSR2: kill(launch->mpirun, SIGUSR2); break;
    default: break; /* SIGCHLD: the caller's waitpid sees it */
    }
}

static void serve_once(Launch *launch) {
    bool pending = launch->input_sent < launch->input_length;
    struct pollfd polled[] = {
        {.fd = launch->signals, .events = POLLIN},
        {.fd = launch->input >= 0 && !pending ? STDIN_FILENO : -1, .events = POLLIN},
        {.fd = pending ? launch->input : -1, .events = POLLOUT},
    };
    int ready = poll(polled, sizeof polled / sizeof polled[0],
                     launch->stop_count == 1 ? REPEAT_DRAIN_MS : -1);
    if (ready == 0) kill(launch->mpirun, SIGUSR1);
    if (ready <= 0) return;
    if (polled[0].revents) on_signal(launch);
    if (polled[1].revents) read_input(launch);
    if (polled[2].revents) send_input(launch);
}

static int wait_for_mpirun(Launch *launch) {
    int status;
    while (waitpid(launch->mpirun, &status, WNOHANG) == 0)
        serve_once(launch);
    return status;
}

/* Ranks whose mpirun was killed are our children now (subreaper): they end by themselves, or we see to it. */
static void kill_leftovers(void) {
    char path[64];
    int process;
    snprintf(path, sizeof path, "/proc/self/task/%d/children", getpid());
    FILE *file = fopen(path, "re");
    if (!file) return;
    while (fscanf(file, "%d", &process) == 1)
        kill(process, SIGKILL);
    fclose(file);
}

static void reap_leftovers(void) {
    struct timespec nap = {.tv_nsec = LEFTOVER_STEP_MS * 1000000};
    for (int waited_ms = 0; waited_ms < LEFTOVER_WAIT_MS; waited_ms += LEFTOVER_STEP_MS) {
        pid_t ended;
        while ((ended = waitpid(-1, NULL, WNOHANG)) > 0)
            continue;
        if (ended < 0) return;
        nanosleep(&nap, NULL);
    }
    kill_leftovers();
}

/* A signal can reach mpirun or the ranks before they listen to it: asked to end, they ended. Ranks that lost mpirun
 * lost their error output with it, so we speak for them. */
static int exit_code_of(const Launch *launch, int status) {
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    bool by_drain = code == 128 + SIGUSR1 && launch->stop_count > 0;
    if (by_drain || launch->stop_count > 1) return error_row(ERROR_STOPPED)->exit_code;
    if (WIFEXITED(status)) return code;
    (void)error_raise(ERROR_PEER_LOST,
                      "mpirun (process %d) was killed by signal %d; the ranks end, run the same "
                      "command again",
                      launch->mpirun, WTERMSIG(status));
    return error_row(ERROR_PEER_LOST)->exit_code;
}

/* Open MPI 4's own forwarding ends in a null pointer now and then when input comes faster than rank 0 reads it, so
 * rank 0 opens our pipe itself; its inode says that what it opens is the pipe, on this node. */
static Status open_input(Launch *launch, bool forward) {
    int ends[2];
    struct stat identity;
    char name[INPUT_NAME_BYTES];
    launch->input = launch->input_read_end = -1;
    unsetenv(input_variable);
    if (!forward) return STATUS_OK;
    if (pipe2(ends, O_CLOEXEC) != 0) FAIL(MEMORY, "pipe to rank 0: %s", strerror(errno));
    launch->input = ends[1];
    launch->input_read_end = ends[0];
    fcntl(ends[1], F_SETFL, O_NONBLOCK);
    if (fstat(ends[0], &identity) != 0) FAIL(MEMORY, "pipe to rank 0: %s", strerror(errno));
    snprintf(name, sizeof name, "/proc/%d/fd/%d pipe:[%llu]", getpid(), ends[0],
             (unsigned long long)identity.st_ino);
    setenv(input_variable, name, 1);
    return STATUS_OK;
}

static Status open_named_input(const char *name, int *out) {
    char path[INPUT_NAME_BYTES], expected[INPUT_NAME_BYTES], found[INPUT_NAME_BYTES];
    if (sscanf(name, "%95s %95s", path, expected) != 2)
        FAIL(USAGE, "environment variable %s is \"%s\", which no launcher set", input_variable,
             name);
    ssize_t length = readlink(path, found, sizeof found - 1);
    found[length > 0 ? length : 0] = 0;
    *out = strcmp(found, expected) == 0 ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (*out < 0)
        FAIL(UNAVAILABLE,
             "rank 0 cannot reach the standard input of the program that started it (%s): are "
             "they on two nodes? Give the input as a file",
             name);
    return STATUS_OK;
}

Status launcher_take_input(const LauncherPlace *place) {
    const char *name = getenv(input_variable);
    int input;
    if (!name || place->rank != 0) return STATUS_OK;
    TRY(open_named_input(name, &input));
    dup2(input, STDIN_FILENO);
    close(input);
    return STATUS_OK;
}

static void close_input_ends(Launch *launch) {
    close_input(launch);
    if (launch->input_read_end >= 0) close(launch->input_read_end);
    launch->input_read_end = -1;
}

static Status run_mpirun(Launch *launch, const LauncherOptions *options, const char *program,
                         int *out_exit_code) {
    sigset_t blocked;
    char ranks_text[16], **arguments;
    snprintf(ranks_text, sizeof ranks_text, "%d", options->ranks);
    TRY(build_arguments(options, ranks_text, program, &arguments));
    block_signals(&blocked);
    launch->signals = signalfd(-1, &blocked, SFD_CLOEXEC);
    Status status = launch->signals < 0 ? error_raise(ERROR_MEMORY, "signalfd: %s", strerror(errno))
                                        : STATUS_OK;
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    if (status == STATUS_OK) status = start_mpirun(launch, arguments, &blocked);
    free(arguments);
    if (status == STATUS_OK) {
        *out_exit_code = exit_code_of(launch, wait_for_mpirun(launch));
        reap_leftovers();
    }
    close(launch->signals);
    return status;
}

Status launcher_run(const LauncherOptions *options, int *out_exit_code) {
    static Launch launch;
    char program[PATH_MAX];
    if (!comm_mpi_built())
        FAIL(UNAVAILABLE, "this build has no MPI, so it runs as one rank only: install "
                          "libopenmpi-dev and build again with -Dmpi=enabled");
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    if (length < 0) FAIL(UNAVAILABLE, "/proc/self/exe: %s", strerror(errno));
    program[length] = 0;
    Status status = open_input(&launch, options->forward_input);
    if (status == STATUS_OK) status = run_mpirun(&launch, options, program, out_exit_code);
    close_input_ends(&launch);
    return status;
}
