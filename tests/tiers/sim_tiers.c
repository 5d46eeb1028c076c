/* Runs the simulator over many seeds:
 *
 *     sim_tiers [--seeds N | --soak MINUTES] [--seed S] [--jobs J] [--placement NAME] [--verbose]
 *
 * Seeds S … S + N - 1, or from S on until time is up, are shared out over J processes. A seed that fails prints its options and the command that replays it; the
 * others go on. */

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/base/invariant.h"
#include "runtime/base/monotonic.h"
#include "tests/tiers/sim_engine.h"

enum { JOBS_MAX = 64 };

typedef struct Run {
    uint64_t seed_first, seed_count;
    double soak_seconds; /* 0: by count */
    double begin;
    uint32_t jobs;
    const char *placement;
    bool verbose;
} Run;

/* Shared with the processes that simulate. */
typedef struct Job {
    uint64_t seed; /* being simulated */
    uint64_t passed;
    SimReport sum;
} Job;

static bool goes_on(const Run *run, const Job *job) {
    return run->soak_seconds > 0 ? monotonic_seconds() - run->begin < run->soak_seconds
                                 : job->seed < run->seed_first + run->seed_count;
}

static void simulate(const Run *run, Job *job) {
    for (; goes_on(run, job); job->seed += run->jobs) {
        SimOptions options = sim_options_draw(job->seed, run->placement);
        if (run->verbose) sim_options_print(&options);
        SimReport report = sim_run(&options);
        sim_report_add(&job->sum, &report);
        job->passed++;
    }
}

static pid_t start(const Run *run, Job *job) {
    fflush(stdout);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid > 0) return pid;
    simulate(run, job);
    fflush(stdout);
    _exit(0);
}

static void report_failure(const Run *run, const Job *job) {
    SimOptions options = sim_options_draw(job->seed, run->placement);
    sim_options_print(&options);
    printf("replay: sim_tiers --seed %" PRIu64 " --seeds 1%s%s\n", job->seed,
           run->placement ? " --placement " : "", run->placement ? run->placement : "");
}

/* A process that dies has met a broken rule: the next seed goes on in a new one. */
static uint64_t simulate_all(const Run *run, Job *jobs) {
    pid_t pids[JOBS_MAX];
    for (uint32_t j = 0; j < run->jobs; j++) {
        jobs[j].seed = run->seed_first + j;
        pids[j] = start(run, &jobs[j]);
    }
    uint64_t failed = 0;
    for (uint32_t j = 0; j < run->jobs; j++)
        for (;;) {
            int status;
            CHECK(waitpid(pids[j], &status, 0) == pids[j]);
            if (WIFEXITED(status) && WEXITSTATUS(status) == 0) break;
            failed++;
            report_failure(run, &jobs[j]);
            jobs[j].seed += run->jobs;
            pids[j] = start(run, &jobs[j]);
        }
    return failed;
}

static void print_sum(const SimReport *sum, double seconds) {
    printf("steps %" PRIu64 " checks %" PRIu64 " attended %" PRIu64 " in host %" PRIu64
           " moves %" PRIu64 " finished %" PRIu64 " preempted %" PRIu64 " lost %" PRIu64
           " cancelled %" PRIu64 " refused %" PRIu64 " late %" PRIu64 "\nfaults:",
           sum->steps, sum->checks, sum->attended, sum->in_host, sum->moves, sum->finished,
           sum->preempted, sum->lost, sum->cancelled, sum->refused, sum->late);
    for (int fault = 0; fault < SIM_FAULT_COUNT; fault++)
        printf(" %s %" PRIu64, sim_fault_names[fault], sum->injected[fault]);
    printf("\n%.1f s\n", seconds);
}

static Run parse(int argc, char **argv) {
    Run run = {.seed_first = 1, .seed_count = 100, .begin = monotonic_seconds(), .jobs = 2};
    static const struct option options[] = {
        {"seeds", required_argument, NULL, 'n'},
        {"seed", required_argument, NULL, 's'},
        {"jobs", required_argument, NULL, 'j'},
        {"placement", required_argument, NULL, 'p'},
        {"verbose", no_argument, NULL, 'v'},
        {"soak", required_argument, NULL, 'm'},
        {0},
    };
    for (int flag; (flag = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (flag == 'n') run.seed_count = strtoull(optarg, NULL, 10);
        if (flag == 's') run.seed_first = strtoull(optarg, NULL, 10);
        if (flag == 'j') run.jobs = (uint32_t)strtoul(optarg, NULL, 10);
        if (flag == 'p') run.placement = optarg;
        if (flag == 'v') run.verbose = true;
        if (flag == 'm') run.soak_seconds = 60 * strtod(optarg, NULL);
        if (flag == '?') exit(64);
    }
    bool known = !run.placement || placement_find(run.placement);
    if (known && run.jobs > 0 && run.jobs <= JOBS_MAX && run.seed_count > 0) return run;
    fprintf(stderr,
            "sim_tiers: --jobs is 1 … %d, --seeds at least 1, --placement one of the table\n",
            JOBS_MAX);
    exit(64);
}

int main(int argc, char **argv) {
    Run run = parse(argc, argv);
    Job *jobs = mmap(NULL, sizeof(Job[JOBS_MAX]), PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(jobs != MAP_FAILED);
    uint64_t failed = simulate_all(&run, jobs), passed = 0;
    SimReport sum = {0};
    for (uint32_t j = 0; j < run.jobs; j++) {
        sim_report_add(&sum, &jobs[j].sum);
        passed += jobs[j].passed;
    }
    print_sum(&sum, monotonic_seconds() - run.begin);
    printf("%" PRIu64 " passed, %" PRIu64 " failed, 0 skipped\n", passed, failed);
    return failed > 0;
}
