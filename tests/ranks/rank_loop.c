/* A job that is nothing but ranks: collectives in a loop, with the launcher, the watchdog and the stop signals of the
 * real program, and faults on demand. rank_loop [--ranks N] [--steps N] [--timeout SECONDS] [--input]
 * [--differ R | --refuse R | --fall R | --hang R | --linger R | --fill R | --stall R] where R is a rank. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "launch/launcher.h"
#include "launch/ranks.h"
#include "launch/stop.h"
#include "runtime/base/log.h"

typedef struct Job {
    int ranks;
    int steps; /* 0: until stopped */
    int timeout;
    int differ; /* this rank has another fact */
    int refuse; /* this rank's start-up fails */
    int fall;   /* this rank ends alone, with exit code 74 */
    int hang;   /* this rank stands still inside a unit */
    int linger; /* this rank takes 4 s longer to end than the others */
    int fill;   /* this rank loads for long, and fills memory all the while */
    int stall;  /* this rank stands still while it loads */
    int input;  /* rank 0 prints what it reads */
} Job;

static void parse(Job *job, int argc, char **argv) {
    const struct {
        const char *name;
        int *value;
    } rows[] = {
        {"--ranks", &job->ranks},   {"--steps", &job->steps},   {"--timeout", &job->timeout},
        {"--differ", &job->differ}, {"--refuse", &job->refuse}, {"--fall", &job->fall},
        {"--hang", &job->hang},     {"--linger", &job->linger}, {"--input", &job->input},
        {"--fill", &job->fill},     {"--stall", &job->stall}};
    for (int i = 1; i + 1 < argc; i += 2)
        for (size_t row = 0; row < sizeof rows / sizeof rows[0]; row++)
            if (strcmp(argv[i], rows[row].name) == 0) *rows[row].value = atoi(argv[i + 1]);
}

static Status refuse(void) {
    FAIL(GGUF, "refused on request");
}

/* Without a word to the others, who wait in a vote. */
static Status load(Ranks *ranks, const Job *job, int rank) {
    enum { PIECES = 12, PIECE_BYTES = 4 << 20, PIECE_US = 400000 };
    uint8_t *memory = mmap(NULL, PIECES * PIECE_BYTES, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) FAIL(MEMORY, "no memory to load into");
    watchdog_load_begin(ranks->watchdog, "a matrix");
    while (rank == job->stall)
        pause();
    for (int piece = 0; piece < PIECES && rank == job->fill; piece++) {
        memset(memory + piece * PIECE_BYTES, 1, PIECE_BYTES);
        usleep(PIECE_US);
    }
    watchdog_unit_end(ranks->watchdog);
    munmap(memory, PIECES * PIECE_BYTES);
    return STATUS_OK;
}

static Status start(Ranks *ranks, const Job *job, int rank) {
    const RanksFact facts[] = {
        {"program", "rank_loop"},
        {"settings", rank == job->differ ? "same: 1\nodd" : "same: 1\nusual"}};
    const RanksOptions options = {.size = job->ranks,
                                  .threads = 1,
                                  .comm_timeout_seconds = job->timeout,
                                  .facts = facts,
                                  .fact_count = 2};
    TRY(ranks_start(ranks, &options));
    TRY(ranks_vote(ranks, load(ranks, job, rank)));
    return ranks_vote(ranks, rank == job->refuse ? refuse() : STATUS_OK);
}

static void act_up(Ranks *ranks, const Job *job, int step) {
    if (step == 100 && ranks->comm->rank == job->fall) {
        (void)error_raise(ERROR_OUTPUT_WRITE, "fell on request");
        ranks_abort(ranks, error_row(ERROR_OUTPUT_WRITE)->exit_code);
    }
    while (step == 100 && ranks->comm->rank == job->hang)
        pause();
}

/* One unit: everybody's stop request, added up, is what all obey. */
static Status run_step(Ranks *ranks, const Job *job, int step, bool *out_stop) {
    float data[576] = {(float)stop_requested()};
    watchdog_unit_begin(ranks->watchdog, "step");
    act_up(ranks, job, step);
    TRY(comm_all_reduce(ranks->comm, data, 576));
    watchdog_unit_end(ranks->watchdog);
    *out_stop = data[0] > 0;
    return STATUS_OK;
}

static Status run(Ranks *ranks, const Job *job) {
    bool stop = false;
    fprintf(stderr, "rank %d is process %d of launcher %d, %u threads, row %s\n", ranks->comm->rank,
            getpid(), getppid(), ranks->threads, ranks->comm->row->name);
    for (int step = 0; !stop && (job->steps == 0 || step < job->steps); step++)
        TRY(run_step(ranks, job, step, &stop));
    if (ranks->comm->rank == job->linger) sleep(4);
    return stop ? STATUS_STOPPED : STATUS_OK;
}

static void echo_input(void) {
    char line[256];
    while (fgets(line, sizeof line, stdin))
        printf("read %s", line);
}

int main(int argc, char **argv) {
    Job job = {.timeout = 60,
               .differ = -1,
               .refuse = -1,
               .fall = -1,
               .hang = -1,
               .linger = -1,
               .fill = -1,
               .stall = -1};
    LauncherPlace place;
    Ranks ranks;
    int exit_code;
    parse(&job, argc, argv);
    Status status = launcher_find(&place);
    if (status == STATUS_OK && !place.name && job.ranks > 1) {
        const LauncherOptions options = {
            .ranks = job.ranks, .argv = argv, .forward_input = job.input};
        status = launcher_run(&options, &exit_code);
        return status == STATUS_OK ? exit_code : error_exit_code(status);
    }
    if (status == STATUS_OK) status = launcher_take_input(&place);
    if (status == STATUS_OK) status = stop_install(NULL, NULL);
    if (status != STATUS_OK) return error_exit_code(status);
    log_configure(&(LogOptions){
        .level = LOG_INFO, .descriptor = 2, .rank = place.name ? place.rank : -1, .host = "here"});
    status = start(&ranks, &job, place.rank);
    if (status == STATUS_OK && job.input && ranks.comm->rank == 0) echo_input();
    if (status == STATUS_OK) status = run(&ranks, &job);
    exit_code = error_exit_code(status);
    ranks_stop(&ranks, exit_code);
    return exit_code;
}
