/* The ring on both of its rows: every test runs over io_uring and over the thread pool, and what comes out must be the same.
 * A row that does not work here is skipped and says why. */

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <malloc.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "runtime/base/monotonic.h"
#include "runtime/base/random.h"
#include "tiers/ring.h"
#include "tiers/spill_file.h"

enum {
    UNIT = 4096,
    UNIT_COUNT = 256,
    FILE_BYTES = UNIT * UNIT_COUNT,
    QUEUE = 128,
    DEPTH = 16,
    SECOND = 1000000000,
};

/* ---- a ring over one spill file ---- */

typedef struct Bed {
    SpillFile file;
    uint8_t *staging; /* [UNIT_COUNT][UNIT] */
    IoFaultPlan faults;
    RingFile ring_file;
    RingOptions options;
    Ring *ring;
} Bed;

static void bed_make(Bed *bed, const char *engine) {
    *bed = (Bed){.ring = NULL};
    const SpillFileOptions options = {.directory = "/tmp", .bytes = FILE_BYTES};
    assert_int_equal(spill_file_open(&bed->file, &options), STATUS_OK);
    bed->staging = aligned_alloc(UNIT, FILE_BYTES);
    assert_non_null(bed->staging);
    bed->ring_file = (RingFile){bed->file.descriptor, bed->file.alignment_bytes};
    bed->options = (RingOptions){.engine = engine,
                                 .files = &bed->ring_file,
                                 .file_count = 1,
                                 .staging = bed->staging,
                                 .staging_bytes = FILE_BYTES,
                                 .depth = DEPTH,
                                 .queue_count = QUEUE,
                                 .local_ranks = 1,
                                 .faults = &bed->faults};
}

static void bed_open(Bed *bed, const char *engine, const char *fault) {
    bed_make(bed, engine);
    if (fault) assert_int_equal(io_fault_add(&bed->faults, fault), STATUS_OK);
    assert_int_equal(ring_open(&bed->ring, &bed->options), STATUS_OK);
    assert_string_equal(ring_facts(bed->ring)->engine, engine);
}

static void bed_close(Bed *bed) {
    ring_close(bed->ring);
    spill_file_close(&bed->file);
    free(bed->staging);
}

/* The whole unit `index` of the file, from or to its place in staging; its index comes back as user word. */
static RingOperation unit_operation(const Bed *bed, RingKind kind, uint32_t index) {
    return (RingOperation){.kind = kind,
                           .memory = bed->staging + (size_t)index * UNIT,
                           .offset = (uint64_t)index * UNIT,
                           .bytes = UNIT,
                           .user = index};
}

/* Puts one operation through and returns its result. */
static RingResult one(Bed *bed, const RingOperation *operation) {
    RingResult result;
    assert_int_equal(ring_submit(bed->ring, operation, 1), 1);
    assert_int_equal(ring_reap(bed->ring, &result, 1, 20ull * SECOND), 1);
    assert_int_equal(result.user, operation->user);
    assert_int_equal(ring_stats(bed->ring).held, 0);
    return result;
}

/* The same operation on every unit; each has one result, without error. */
static void every_unit(Bed *bed, RingKind kind) {
    bool seen[UNIT_COUNT] = {false};
    uint32_t next = 0, done = 0;
    while (done < UNIT_COUNT) {
        RingOperation operation = unit_operation(bed, kind, next);
        while (next < UNIT_COUNT && ring_submit(bed->ring, &operation, 1) == 1)
            operation = unit_operation(bed, kind, ++next % UNIT_COUNT);
        RingResult results[7];
        uint32_t count = ring_reap(bed->ring, results, 7, 20ull * SECOND);
        assert_true(count > 0);
        for (uint32_t i = 0; i < count; i++) {
            assert_int_equal(results[i].error, RING_ERROR_NONE);
            assert_int_equal(results[i].bytes, UNIT);
            assert_false(seen[results[i].user]);
            seen[results[i].user] = true;
        }
        done += count;
    }
}

static void fill_staging(Bed *bed, uint64_t seed) {
    Random random = {.key = seed};
    for (size_t i = 0; i < FILE_BYTES; i += sizeof(uint64_t)) {
        uint64_t word = random_u64(&random);
        memcpy(bed->staging + i, &word, sizeof word);
    }
}

/* Writes random bytes, reads them back, and compares. */
static void round_trip(Bed *bed, uint64_t seed) {
    uint8_t *written = test_malloc(FILE_BYTES);
    fill_staging(bed, seed);
    memcpy(written, bed->staging, FILE_BYTES);
    every_unit(bed, RING_WRITE);
    memset(bed->staging, 0, FILE_BYTES);
    every_unit(bed, RING_READ);
    assert_memory_equal(bed->staging, written, FILE_BYTES);
    test_free(written);
}

/* ---- what must work ---- */

static void moves_bytes(void **state) {
    static const uint32_t depths[] = {1, 2, 3, 16, 64};
    for (size_t i = 0; i < sizeof depths / sizeof *depths; i++) {
        Bed bed;
        bed_make(&bed, *state);
        bed.options.depth = depths[i];
        assert_int_equal(ring_open(&bed.ring, &bed.options), STATUS_OK);
        round_trip(&bed, i);
        RingStats stats = ring_stats(bed.ring);
        assert_true(stats.in_flight_peak <= depths[i]);
        assert_int_equal(stats.operations[RING_READ], UNIT_COUNT);
        assert_int_equal(stats.bytes[RING_WRITE], FILE_BYTES);
        bed_close(&bed);
    }
}

static void works_outside_staging(void **state) {
    Bed bed;
    bed_make(&bed, *state);
    bed.options.staging_bytes = 100 * UNIT; /* the rest of the memory is not registered */
    assert_int_equal(ring_open(&bed.ring, &bed.options), STATUS_OK);
    round_trip(&bed, 5);
    bed_close(&bed);
}

static void takes_what_fits_and_drops_nothing(void **state) {
    Bed bed;
    bed_make(&bed, *state);
    bed.options.depth = 2;
    bed.options.queue_count = 2;
    assert_int_equal(ring_open(&bed.ring, &bed.options), STATUS_OK);
    RingOperation three[3];
    for (uint32_t i = 0; i < 3; i++)
        three[i] = unit_operation(&bed, RING_WRITE, i);
    assert_int_equal(ring_submit(bed.ring, three, 3), 2);
    assert_int_equal(ring_submit(bed.ring, three, 1), 0);
    RingResult results[3];
    uint32_t done = 0;
    while (done < 2)
        done += ring_reap(bed.ring, results, 3, SECOND);
    assert_int_equal(ring_stats(bed.ring).held, 0);
    round_trip(&bed, 1);
    bed_close(&bed);
}

/* Everything is submitted and completes before the first result is asked for. */
static void a_slow_reaper_loses_nothing(void **state) {
    Bed bed;
    RingResult results[QUEUE];
    bool seen[QUEUE] = {false};
    uint32_t count = 0;
    bed_open(&bed, *state, NULL);
    fill_staging(&bed, 3);
    for (uint32_t i = 0; i < QUEUE; i++) {
        RingOperation operation = unit_operation(&bed, RING_WRITE, i);
        assert_int_equal(ring_submit(bed.ring, &operation, 1), 1);
        ring_flush(bed.ring);
    }
    usleep(50000);
    for (uint32_t taken; (taken = ring_reap(bed.ring, results, QUEUE, SECOND)) > 0; count += taken)
        for (uint32_t i = 0; i < taken; i++) {
            assert_int_equal(results[i].error, RING_ERROR_NONE);
            assert_false(seen[results[i].user]);
            seen[results[i].user] = true;
        }
    assert_int_equal(count, QUEUE);
    bed_close(&bed);
}

static void waits_no_longer_than_asked(void **state) {
    Bed bed;
    RingResult result;
    bed_open(&bed, *state, "io.read:delay:ms=150,count=1");
    RingOperation operation = unit_operation(&bed, RING_READ, 0);
    assert_int_equal(ring_reap(bed.ring, &result, 1, 20ull * SECOND), 0); /* nothing is held */
    assert_int_equal(ring_submit(bed.ring, &operation, 1), 1);
    uint64_t before = monotonic_now_ns(&monotonic_system);
    assert_int_equal(ring_reap(bed.ring, &result, 1, 0), 0);
    assert_int_equal(ring_reap(bed.ring, &result, 1, 10000000), 0);
    assert_int_equal(ring_reap(bed.ring, &result, 1, 20ull * SECOND), 1);
    uint64_t waited = monotonic_now_ns(&monotonic_system) - before;
    assert_true(waited >= 150000000 && waited < 10ull * SECOND);
    assert_int_equal(result.error, RING_ERROR_NONE);
    bed_close(&bed);
}

/* One transfer at a time: all reads are done before most writes, but no run of reads is longer than seven. */
static void reads_go_first_and_starve_no_write(void **state) {
    Bed bed;
    RingResult result;
    int reads = 0, writes = 0, run = 0;
    bed_make(&bed, *state);
    bed.options.depth = 1;
    assert_int_equal(ring_open(&bed.ring, &bed.options), STATUS_OK);
    for (uint32_t i = 0; i < 20; i++) {
        RingOperation write = unit_operation(&bed, RING_WRITE, i),
                      read = unit_operation(&bed, RING_READ, 100 + i);
        assert_int_equal(ring_submit(bed.ring, &write, 1), 1);
        assert_int_equal(ring_submit(bed.ring, &read, 1), 1);
    }
    while (ring_reap(bed.ring, &result, 1, 20ull * SECOND) == 1) {
        bool read = result.user >= 100;
        reads += read;
        writes += !read;
        run = read ? run + 1 : 0;
        assert_true(run <= 7);
        if (reads == 20 && read) assert_int_equal(writes, 2);
    }
    assert_int_equal(reads + writes, 40);
    bed_close(&bed);
}

static void allocates_nothing_after_opening(void **state) {
    Bed bed;
    bed_open(&bed, *state, NULL);
    fill_staging(&bed, 3);
    every_unit(&bed, RING_WRITE);
    size_t before = mallinfo2().uordblks;
    every_unit(&bed, RING_READ);
    every_unit(&bed, RING_WRITE);
    assert_int_equal(mallinfo2().uordblks, before);
    bed_close(&bed);
}

static void closing_waits_for_the_kernel(void **state) {
    Bed bed;
    bed_open(&bed, *state, NULL);
    fill_staging(&bed, 1);
    every_unit(&bed, RING_WRITE);
    for (uint32_t i = 0; i < DEPTH; i++) {
        RingOperation operation = unit_operation(&bed, RING_READ, i);
        assert_int_equal(ring_submit(bed.ring, &operation, 1), 1);
    }
    ring_flush(bed.ring);
    ring_close(bed.ring);
    bed.ring = NULL;
    memset(bed.staging, 0x5a, FILE_BYTES);
    usleep(20000);
    for (size_t i = 0; i < FILE_BYTES; i++)
        assert_int_equal(bed.staging[i], 0x5a);
    bed_close(&bed);
}

/* ---- results that are not "all of it" ---- */

static void the_end_of_the_file_is_short(void **state) {
    Bed bed;
    bed_open(&bed, *state, NULL);
    RingOperation operation = unit_operation(&bed, RING_READ, 0);
    operation.offset = FILE_BYTES - UNIT;
    operation.bytes = 3 * UNIT;
    RingResult result = one(&bed, &operation);
    assert_int_equal(result.error, RING_ERROR_SHORT);
    assert_int_equal(result.bytes, UNIT);
    operation.offset = FILE_BYTES + 5 * UNIT;
    result = one(&bed, &operation);
    assert_int_equal(result.error, RING_ERROR_SHORT);
    assert_int_equal(result.bytes, 0);
    bed_close(&bed);
}

static void errors_have_their_class(void **state) {
    static const struct {
        const char *fault;
        RingKind kind;
        RingError error;
        int os_error;
    } rows[] = {
        {"io.read:eio:count=1", RING_READ, RING_ERROR_IO, EIO},
        {"io.write:eio:count=1", RING_WRITE, RING_ERROR_IO, EIO},
        {"io.write:enospc:count=1", RING_WRITE, RING_ERROR_NO_SPACE, ENOSPC},
        {"io.write:efbig:count=1", RING_WRITE, RING_ERROR_NO_SPACE, EFBIG},
        {"io.write:erofs:count=1", RING_WRITE, RING_ERROR_READ_ONLY, EROFS},
        {"io.read:einval:count=1", RING_READ, RING_ERROR_REFUSED, EINVAL},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        Bed bed;
        bed_open(&bed, *state, rows[i].fault);
        fill_staging(&bed, i);
        RingOperation operation = unit_operation(&bed, rows[i].kind, 3);
        RingResult result = one(&bed, &operation);
        assert_int_equal(result.error, rows[i].error);
        assert_int_equal(result.os_error, rows[i].os_error);
        assert_int_equal(result.bytes, 0);
        assert_int_equal(ring_stats(bed.ring).errors[rows[i].error], 1);
        assert_int_equal(one(&bed, &operation).error, RING_ERROR_NONE);
        bed_close(&bed);
    }
}

static void the_system_refuses_a_closed_file(void **state) {
    Bed bed;
    bed_make(&bed, *state);
    int pipe_ends[2];
    assert_int_equal(pipe(pipe_ends), 0);
    bed.ring_file = (RingFile){pipe_ends[1], 1}; /* a pipe cannot be read at this end */
    assert_int_equal(ring_open(&bed.ring, &bed.options), STATUS_OK);
    RingOperation operation = unit_operation(&bed, RING_READ, 0);
    RingResult result = one(&bed, &operation);
    assert_int_equal(result.error, RING_ERROR_IO);
    assert_int_not_equal(result.os_error, 0);
    bed_close(&bed);
    close(pipe_ends[0]);
    close(pipe_ends[1]);
}

static void the_rest_of_a_short_transfer_goes_again(void **state) {
    for (uint64_t seed = 0; seed < 3; seed++) {
        Bed bed;
        char fault[64];
        bed_make(&bed, *state);
        for (int kind = 0; kind < 2; kind++) {
            snprintf(fault, sizeof fault, "io.%s:short:odds=0.7,seed=%d", kind ? "read" : "write",
                     (int)seed);
            assert_int_equal(io_fault_add(&bed.faults, fault), STATUS_OK);
        }
        assert_int_equal(ring_open(&bed.ring, &bed.options), STATUS_OK);
        fill_staging(&bed, seed);
        RingOperation whole = {.kind = RING_WRITE, .memory = bed.staging, .bytes = FILE_BYTES};
        uint8_t *written = test_malloc(FILE_BYTES);
        memcpy(written, bed.staging, FILE_BYTES);
        assert_int_equal(one(&bed, &whole).error, RING_ERROR_NONE);
        memset(bed.staging, 0, FILE_BYTES);
        whole.kind = RING_READ;
        assert_int_equal(one(&bed, &whole).error, RING_ERROR_NONE);
        assert_memory_equal(bed.staging, written, FILE_BYTES);
        test_free(written);
        bed_close(&bed);
    }
}

/* A buffered file may be cut at any byte: here at each of a small one. */
static void short_at_every_byte(void **state) {
    Bed bed;
    bed_make(&bed, *state);
    FILE *plain = tmpfile();
    assert_non_null(plain);
    bed.ring_file = (RingFile){fileno(plain), 1};
    assert_int_equal(io_fault_add(&bed.faults, "io.write:short"), STATUS_OK);
    assert_int_equal(io_fault_add(&bed.faults, "io.read:short"), STATUS_OK);
    assert_int_equal(ring_open(&bed.ring, &bed.options), STATUS_OK);
    for (uint32_t bytes = 1; bytes < 80; bytes++) {
        uint8_t written[80];
        for (uint32_t i = 0; i < bytes; i++)
            bed.staging[i] = written[i] = (uint8_t)(7 * i + bytes);
        RingOperation operation = {.kind = RING_WRITE, .memory = bed.staging, .bytes = bytes};
        assert_int_equal(one(&bed, &operation).bytes, bytes);
        memset(bed.staging, 0, bytes);
        operation.kind = RING_READ;
        assert_int_equal(one(&bed, &operation).bytes, bytes);
        assert_memory_equal(bed.staging, written, bytes);
    }
    assert_true(ring_stats(bed.ring).resubmitted > 80);
    bed_close(&bed);
    fclose(plain);
}

static void interruptions_go_again(void **state) {
    static const char *const faults[] = {"io.read:eintr:count=5", "io.read:eagain:count=5"};
    for (size_t i = 0; i < 2; i++) {
        Bed bed;
        bed_open(&bed, *state, faults[i]);
        RingOperation operation = unit_operation(&bed, RING_READ, 0);
        assert_int_equal(one(&bed, &operation).error, RING_ERROR_NONE);
        assert_int_equal(ring_stats(bed.ring).retried, 5);
        bed_close(&bed);
    }
}

static void endless_refusal_ends_without_a_busy_loop(void **state) {
    Bed bed;
    bed_open(&bed, *state, "io.read:eagain");
    RingOperation operation = unit_operation(&bed, RING_READ, 0);
    uint64_t before = monotonic_now_ns(&monotonic_system);
    RingResult result = one(&bed, &operation);
    uint64_t waited = monotonic_now_ns(&monotonic_system) - before;
    assert_int_equal(result.error, RING_ERROR_IO);
    assert_int_equal(result.os_error, EAGAIN);
    assert_true(ring_stats(bed.ring).retried * 1000000 < waited); /* fewer than 1000 a second */
    bed_close(&bed);
}

static void a_kernel_that_takes_no_batch_is_asked_again(void **state) {
    Bed bed;
    bed_open(&bed, *state, "io.submit:eagain:count=4");
    RingOperation operation = unit_operation(&bed, RING_READ, 0);
    assert_int_equal(one(&bed, &operation).error, RING_ERROR_NONE);
    assert_int_equal(ring_stats(bed.ring).submit_retries, 4);
    bed_close(&bed);
}

static void on_alarm(int signal_number) {
    (void)signal_number;
}

static void a_storm_of_signals_changes_nothing(void **state) {
    Bed bed;
    struct sigaction action = {.sa_handler = on_alarm}, before; /* no SA_RESTART */
    const struct itimerval storm = {{0, 200}, {0, 200}}, calm = {{0, 0}, {0, 0}};
    bed_open(&bed, *state, NULL);
    assert_int_equal(sigaction(SIGALRM, &action, &before), 0);
    setitimer(ITIMER_REAL, &storm, NULL);
    for (uint64_t seed = 0; seed < 3; seed++)
        round_trip(&bed, seed);
    setitimer(ITIMER_REAL, &calm, NULL);
    sigaction(SIGALRM, &before, NULL);
    bed_close(&bed);
}

/* ---- in a child ---- */

enum { CHILD_SKIPPED = 77 };

/* Runs work in a child, whose exit status is 0 when it agreed. */
static void in_child(int (*work)(const char *engine), const char *engine) {
    int how;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) _exit(work(engine));
    assert_int_equal(waitpid(child, &how, 0), child);
    if (WIFEXITED(how) && WEXITSTATUS(how) == CHILD_SKIPPED) skip();
    assert_true(WIFEXITED(how));
    assert_int_equal(WEXITSTATUS(how), 0);
}

/* ---- faults that lie ---- */

static void what_never_completes_can_be_cancelled(void **state) {
    Bed bed;
    RingResult result;
    bed_open(&bed, *state, "io.write:swallow:count=1");
    RingOperation operation = unit_operation(&bed, RING_WRITE, 9);
    assert_int_equal(ring_submit(bed.ring, &operation, 1), 1);
    assert_int_equal(ring_reap(bed.ring, &result, 1, 20000000), 0);
    assert_int_equal(ring_cancel(bed.ring, 8), 0);
    assert_int_equal(ring_cancel(bed.ring, 9), 1);
    assert_int_equal(ring_reap(bed.ring, &result, 1, 0), 1);
    assert_int_equal(result.error, RING_ERROR_CANCELLED);
    assert_int_equal(one(&bed, &operation).error, RING_ERROR_NONE);
    assert_int_equal(ring_submit(bed.ring, &operation, 1), 1); /* queued, not handed over */
    assert_int_equal(ring_cancel(bed.ring, 9), 1);
    assert_int_equal(ring_reap(bed.ring, &result, 1, 0), 1);
    assert_int_equal(result.error, RING_ERROR_CANCELLED);
    bed_close(&bed);
}

static void what_is_stuck_ends_when_it_does(void **state) {
    Bed bed;
    RingResult result;
    bed_open(&bed, *state, NULL);
    RingOperation operation = unit_operation(&bed, RING_WRITE, 9);
    memset(operation.memory, 0, UNIT);
    assert_int_equal(one(&bed, &operation).error, RING_ERROR_NONE);
    assert_int_equal(io_fault_add(&bed.faults, "io.read:stuck:count=1,ms=100"), STATUS_OK);
    operation.kind = RING_READ;
    memset(operation.memory, 0x5a, UNIT);
    assert_int_equal(ring_submit(bed.ring, &operation, 1), 1);
    assert_int_equal(ring_reap(bed.ring, &result, 1, 20000000), 0);
    assert_int_equal(ring_cancel(bed.ring, 9), 0);
    assert_int_equal(*(uint8_t *)operation.memory, 0x5a);
    assert_int_equal(ring_reap(bed.ring, &result, 1, 20ull * SECOND), 1);
    assert_int_equal(result.error, RING_ERROR_NONE);
    assert_int_equal(*(uint8_t *)operation.memory, 0);
    bed_close(&bed);
}

/* A read that the kernel has and that would wait for ever: of a pipe, which the pool cannot read. */
static void the_kernel_is_asked_to_cancel(void **state) {
    Bed bed;
    RingResult result;
    int ends[2];
    if (strcmp(*state, "uring") != 0) return;
    assert_int_equal(pipe(ends), 0);
    for (int closing = 0; closing < 2; closing++) {
        bed_make(&bed, *state);
        bed.ring_file = (RingFile){ends[0], 1};
        assert_int_equal(ring_open(&bed.ring, &bed.options), STATUS_OK);
        RingOperation operation = unit_operation(&bed, RING_READ, 0);
        assert_int_equal(ring_submit(bed.ring, &operation, 1), 1);
        assert_int_equal(ring_reap(bed.ring, &result, 1, 20000000), 0);
        assert_int_equal(ring_stats(bed.ring).in_flight, 1);
        if (!closing) {
            assert_int_equal(ring_cancel(bed.ring, 0), 0);
            assert_int_equal(ring_reap(bed.ring, &result, 1, 20ull * SECOND), 1);
            assert_int_equal(result.error, RING_ERROR_CANCELLED);
        }
        assert_true(ring_close(bed.ring));
        bed.ring = NULL;
        bed_close(&bed);
    }
    close(ends[0]);
    close(ends[1]);
}

static uint64_t seconds_now(void) {
    return monotonic_now_ns(&monotonic_system) / SECOND;
}

static int closing_over_what_is_stuck(const char *engine) {
    Bed bed;
    bed_open(&bed, engine, "io.read:stuck:count=1");
    RingOperation operation = unit_operation(&bed, RING_READ, 0);
    RingResult result;
    ring_submit(bed.ring, &operation, 1);
    if (ring_reap(bed.ring, &result, 1, 1000000) != 0) return 1;
    uint64_t begin = seconds_now();
    if (ring_close(bed.ring)) return 2;
    return seconds_now() - begin <= 3 ? 0 : 3;
}

static void closing_waits_for_nothing_for_ever(void **state) {
    in_child(closing_over_what_is_stuck, *state);
}

/* Memory whose first touch waits until `release`: system calls into it are really stuck. NULL where that is not allowed. */
static uint8_t *stuck_memory(int *out_fault) {
    *out_fault = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    struct uffdio_api api = {.api = UFFD_API};
    if (*out_fault < 0 || ioctl(*out_fault, UFFDIO_API, &api) != 0) return NULL;
    uint8_t *memory =
        mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct uffdio_register range = {.range = {(uintptr_t)memory, FILE_BYTES},
                                    .mode = UFFDIO_REGISTER_MODE_MISSING};
    return ioctl(*out_fault, UFFDIO_REGISTER, &range) == 0 ? memory : NULL;
}

/* 64 threads are stuck in system calls; what waits for them is cancelled, and they end when they can. */
static int the_pool_is_stuck(const char *engine) {
    enum { MANY = 80, POOL = 64 };
    Bed bed;
    int fault;
    RingResult results[MANY];
    if (strcmp(engine, "threads") != 0) return 0;
    uint8_t *memory = stuck_memory(&fault);
    if (!memory) return CHILD_SKIPPED;
    bed_make(&bed, engine);
    bed.options.depth = MANY;
    if (ring_open(&bed.ring, &bed.options) != STATUS_OK) return 1;
    for (uint32_t i = 0; i < MANY; i++) {
        RingOperation operation = unit_operation(&bed, RING_READ, i);
        operation.memory = memory + (size_t)i * UNIT;
        if (ring_submit(bed.ring, &operation, 1) != 1) return 2;
    }
    if (ring_reap(bed.ring, results, MANY, SECOND / 5) != 0) return 3;
    for (uint32_t i = 0; i < MANY; i++)
        ring_cancel(bed.ring, i);
    uint32_t cancelled = ring_reap(bed.ring, results, MANY, SECOND);
    for (uint32_t i = 0; i < cancelled; i++)
        if (results[i].error != RING_ERROR_CANCELLED) return 4;
    if (cancelled != MANY - POOL || ring_stats(bed.ring).in_flight != POOL) return 5;
    struct uffdio_range all = {(uintptr_t)memory, FILE_BYTES};
    if (ioctl(fault, UFFDIO_UNREGISTER, &all) != 0) return 6;
    uint32_t ended = 0;
    for (uint32_t count; (count = ring_reap(bed.ring, results, MANY, 5ull * SECOND)) > 0;)
        ended += count;
    return ended == POOL && ring_close(bed.ring) ? 0 : 7;
}

static void what_waits_in_the_pool_is_cancelled(void **state) {
    in_child(the_pool_is_stuck, *state);
}

/* Writes zeros to units 0 to 3, then runs `kind` with the fault on units 1 and 2 with 0xff in memory, and leaves in
 * `after` what the units hold then (write), or what memory holds then (read). */
static void lie(const char *engine, const char *fault, RingKind kind, uint8_t after[4 * UNIT]) {
    Bed bed;
    bed_open(&bed, engine, NULL);
    RingOperation all = {.kind = RING_WRITE, .memory = bed.staging, .bytes = 4 * UNIT};
    memset(bed.staging, 0, 4 * UNIT);
    assert_int_equal(one(&bed, &all).error, RING_ERROR_NONE);
    memset(bed.staging, 0xff, 4 * UNIT);
    assert_int_equal(io_fault_add(&bed.faults, fault), STATUS_OK);
    RingOperation two = {
        .kind = kind, .memory = bed.staging + UNIT, .offset = 2 * UNIT, .bytes = 2 * UNIT};
    RingResult result = one(&bed, &two);
    assert_int_equal(result.error, RING_ERROR_NONE);
    assert_int_equal(result.bytes, 2 * UNIT);
    all.kind = RING_READ;
    if (kind == RING_WRITE) assert_int_equal(one(&bed, &all).error, RING_ERROR_NONE);
    memcpy(after, bed.staging, 4 * UNIT);
    bed_close(&bed);
}

static void expect_units(const uint8_t *after, const char *expected) {
    for (size_t i = 0; i < 4 * UNIT; i++)
        assert_int_equal(after[i], expected[i / UNIT] == 'x' ? 0xff : 0);
}

static void lies_are_told_as_asked(void **state) {
    static const struct {
        const char *fault;
        RingKind kind;
        const char *expected; /* of each unit: x as it was in memory, . as it was in the file */
    } rows[] = {
        {"io.write:delay:count=1,ms=5", RING_WRITE, "..xx"},
        {"io.write:stale:count=1", RING_WRITE, "...."},
        {"io.write:torn:count=1", RING_WRITE, "..x."},
        {"io.write:misdirected:count=1", RING_WRITE, "xx.."},
        {"io.read:stale:count=1", RING_READ, "xxxx"},
        {"io.read:torn:count=1", RING_READ, "x.xx"},
        {"io.read:misdirected:count=1", RING_READ, "x..x"},
    };
    uint8_t *after = test_malloc(4 * UNIT);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        lie(*state, rows[i].fault, rows[i].kind, after);
        expect_units(after, rows[i].expected);
    }
    int wrong_bits = 0;
    lie(*state, "io.read:flip:count=1,seed=3", RING_READ, after);
    for (size_t i = UNIT; i < 3 * UNIT; i++)
        wrong_bits += __builtin_popcount(after[i]);
    assert_int_equal(wrong_bits, 1);
    test_free(after);
}

/* ---- against a model in memory, with faults ---- */

typedef struct Model {
    uint8_t value[UNIT_COUNT]; /* every byte of the unit in the file */
    bool known[UNIT_COUNT];    /* false after a failed write */
    bool busy[UNIT_COUNT];     /* an operation on it is held */
    RingKind kind[UNIT_COUNT];
} Model;

static void start_random(Bed *bed, Model *model, Random *random) {
    uint32_t unit = (uint32_t)random_below(random, UNIT_COUNT);
    if (model->busy[unit]) return;
    RingKind kind = random_below(random, 2) ? RING_READ : RING_WRITE;
    RingOperation operation = unit_operation(bed, kind, unit);
    uint8_t value = (uint8_t)random_below(random, 256);
    memset(operation.memory, value, UNIT);
    if (ring_submit(bed->ring, &operation, 1) == 0) return;
    model->busy[unit] = true;
    model->kind[unit] = kind;
    if (kind == RING_WRITE) model->value[unit] = value;
}

static void settle(Bed *bed, Model *model, const RingResult *result) {
    uint32_t unit = (uint32_t)result->user;
    const uint8_t *memory = bed->staging + (size_t)unit * UNIT;
    assert_true(unit < UNIT_COUNT && model->busy[unit]);
    model->busy[unit] = false;
    bool whole = result->error == RING_ERROR_NONE;
    assert_int_equal(result->bytes == UNIT, whole);
    if (model->kind[unit] == RING_WRITE) model->known[unit] = whole;
    if (model->kind[unit] == RING_READ && whole && model->known[unit])
        for (size_t i = 0; i < UNIT; i++)
            assert_int_equal(memory[i], model->value[unit]);
}

static void follows_a_model_with_faults(void **state) {
    static const char *const faults[] = {
        "io.read:eio:odds=0.02",      "io.write:eio:odds=0.02",    "io.write:enospc:odds=0.02",
        "io.read:eintr:odds=0.05",    "io.write:eagain:odds=0.01", "io.read:delay:odds=0.05,ms=2",
        "io.submit:eagain:odds=0.02",
    };
    for (int seed = 0; seed < 4; seed++) {
        Bed bed;
        Model model = {{0}, {0}, {0}, {0}};
        Random random = {.key = (uint64_t)seed};
        RingResult results[16];
        bed_make(&bed, *state);
        for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
            char text[80];
            snprintf(text, sizeof text, "%s,seed=%d", faults[i], seed);
            assert_int_equal(io_fault_add(&bed.faults, text), STATUS_OK);
        }
        assert_int_equal(ring_open(&bed.ring, &bed.options), STATUS_OK);
        uint64_t started = 0, ended = 0;
        while (started < 3000 || ended < started) {
            for (int i = 0; i < 8 && started < 3000; i++)
                start_random(&bed, &model, &random);
            started = ended + ring_stats(bed.ring).held;
            uint32_t count = ring_reap(bed.ring, results, 16, random_below(&random, 2) * SECOND);
            for (uint32_t i = 0; i < count; i++)
                settle(&bed, &model, &results[i]);
            ended += count;
        }
        assert_int_equal(ring_stats(bed.ring).held, 0);
        assert_true(ring_stats(bed.ring).errors[RING_ERROR_IO] > 0);
        bed_close(&bed);
    }
}

/* ---- limits of the process, in a child ---- */

static int at_the_file_size_limit(const char *engine) {
    Bed bed;
    const struct rlimit limit = {FILE_BYTES / 2, FILE_BYTES / 2};
    signal(SIGXFSZ, SIG_IGN);
    bed_open(&bed, engine, NULL);
    memset(bed.staging, 1, FILE_BYTES);
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return CHILD_SKIPPED;
    RingOperation whole = {.kind = RING_WRITE, .memory = bed.staging, .bytes = FILE_BYTES};
    RingResult result = one(&bed, &whole);
    bed_close(&bed);
    if (result.error != RING_ERROR_NO_SPACE || result.os_error != EFBIG) return 1;
    return result.bytes == FILE_BYTES / 2 ? 0 : 2;
}

static void the_file_size_limit_is_no_space(void **state) {
    in_child(at_the_file_size_limit, *state);
}

/* With the fault, the register call itself says ENOMEM; without, the limits are real. */
static int under_memlock(const char *engine, uint64_t limit_bytes, uint32_t ranks,
                         uint64_t expected_bytes, const char *fault) {
    Bed bed;
    const struct rlimit limit = {limit_bytes, limit_bytes};
    if (geteuid() == 0 && setresuid(65534, 65534, 65534) != 0) return CHILD_SKIPPED;
    if (setrlimit(RLIMIT_MEMLOCK, &limit) != 0) return CHILD_SKIPPED;
    bed_make(&bed, engine);
    bed.options.local_ranks = ranks;
    if (fault && io_fault_add(&bed.faults, fault) != STATUS_OK) return 1;
    if (ring_open(&bed.ring, &bed.options) != STATUS_OK) return 2;
    const RingFacts *facts = ring_facts(bed.ring);
    if (facts->thread_count > 0) expected_bytes = 0; /* the pool registers nothing */
    if (facts->registered_bytes != expected_bytes) return 3;
    round_trip(&bed, 1);
    bed_close(&bed);
    return 0;
}

static int memlock_gives_a_share(const char *engine) {
    return under_memlock(engine, 64 * UNIT, 2, 16 * UNIT, NULL);
}

static int memlock_gives_nothing(const char *engine) {
    return under_memlock(engine, 64 * UNIT, 64, 0, NULL); /* half a page each */
}

static int memlock_forbids_the_ring(const char *engine) {
    (void)engine;
    return under_memlock("auto", 0, 2, 0,
                         NULL); /* kernels that count the ring: threads take over */
}

static int memlock_refuses(const char *engine) {
    return under_memlock(engine, 64 * UNIT, 2, 0, "io.register:enomem");
}

static int memlock_refuses_once(const char *engine) {
    return under_memlock(engine, 64 * UNIT, 2, 16 * UNIT, "io.register:enomem:count=1");
}

static void memlock_decides_what_is_registered(void **state) {
    in_child(memlock_gives_a_share, *state);
    in_child(memlock_gives_nothing, *state);
    in_child(memlock_forbids_the_ring, *state);
    in_child(memlock_refuses, *state);
    in_child(memlock_refuses_once, *state);
}

/* The three calls of io_uring fail with the error, as containers and old kernels do it. */
static bool forbid_io_uring(unsigned error) {
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, SYS_io_uring_setup, 0, 2),
        BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, SYS_io_uring_register, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

static int falls_back(unsigned error) {
    Bed bed;
    bed_make(&bed, "auto");
    if (!forbid_io_uring(error)) return CHILD_SKIPPED;
    if (ring_open(&bed.ring, &bed.options) != STATUS_OK) return 1;
    const RingFacts *facts = ring_facts(bed.ring);
    char text[512];
    ring_describe(facts, text, sizeof text);
    if (strcmp(facts->engine, "threads") != 0 || !strstr(text, facts->fallback_reason) ||
        facts->fallback_reason[0] == '\0')
        return 2;
    round_trip(&bed, 1);
    bed_close(&bed);
    bed_make(&bed, "uring");
    error_capture_begin();
    Status status = ring_open(&bed.ring, &bed.options);
    error_capture_end();
    if (status != STATUS_UNSUPPORTED || error_last(NULL) != ERROR_IO_ENGINE) return 3;
    bed_close(&bed);
    return 0;
}

static int where_containers_forbid_it(const char *engine) {
    (void)engine;
    return falls_back(EPERM);
}

static int where_the_kernel_is_old(const char *engine) {
    (void)engine;
    return falls_back(ENOSYS);
}

static void falls_back_to_threads(void **state) {
    (void)state;
    in_child(where_containers_forbid_it, NULL);
    in_child(where_the_kernel_is_old, NULL);
}

static void says_why_nothing_works(void **state) {
    (void)state;
    Bed bed;
    const char *text;
    bed_make(&bed, "auto");
    assert_int_equal(io_fault_add(&bed.faults, "io.setup:eperm"), STATUS_OK);
    error_capture_begin();
    assert_int_equal(ring_open(&bed.ring, &bed.options), STATUS_UNSUPPORTED);
    bed.options.engine = "aio";
    assert_int_equal(error_last(&text), ERROR_IO_ENGINE);
    assert_non_null(strstr(text, strerror(EPERM)));
    assert_int_equal(ring_open(&bed.ring, &bed.options), STATUS_BAD_INPUT);
    error_capture_end();
    bed_close(&bed);
}

static void lists_its_engines(void **state) {
    (void)state;
    const char *name;
    char text[160];
    uint32_t count = 0;
    while (ring_probe(count, &name, text, sizeof text)) {
        assert_string_equal(name, count == 0 ? "uring" : "threads");
        assert_true(text[0] != '\0');
        count++;
    }
    assert_int_equal(count, 2);
    assert_string_equal(text, "yes"); /* threads work everywhere */
}

/* ---- both rows ---- */

static char *const rows[] = {"uring", "threads"};

static bool row_works(uint32_t index) {
    const char *name;
    char why[160];
    if (ring_probe(index, &name, why, sizeof why) && strcmp(why, "yes") == 0) return true;
    print_message("%s is skipped: %s\n", rows[index], why);
    return false;
}

#define ON_ROW(test, row) \
    { #test, test, NULL, NULL, rows[row] }

#define ON_ROWS(row)                                                                              \
    ON_ROW(moves_bytes, row), ON_ROW(works_outside_staging, row),                                 \
        ON_ROW(takes_what_fits_and_drops_nothing, row), ON_ROW(a_slow_reaper_loses_nothing, row), \
        ON_ROW(waits_no_longer_than_asked, row), ON_ROW(reads_go_first_and_starve_no_write, row), \
        ON_ROW(allocates_nothing_after_opening, row), ON_ROW(closing_waits_for_the_kernel, row),  \
        ON_ROW(the_end_of_the_file_is_short, row), ON_ROW(errors_have_their_class, row),          \
        ON_ROW(the_system_refuses_a_closed_file, row),                                            \
        ON_ROW(the_rest_of_a_short_transfer_goes_again, row), ON_ROW(short_at_every_byte, row),   \
        ON_ROW(interruptions_go_again, row),                                                      \
        ON_ROW(endless_refusal_ends_without_a_busy_loop, row),                                    \
        ON_ROW(a_kernel_that_takes_no_batch_is_asked_again, row),                                 \
        ON_ROW(a_storm_of_signals_changes_nothing, row),                                          \
        ON_ROW(what_never_completes_can_be_cancelled, row),                                       \
        ON_ROW(what_is_stuck_ends_when_it_does, row), ON_ROW(the_kernel_is_asked_to_cancel, row), \
        ON_ROW(closing_waits_for_nothing_for_ever, row),                                          \
        ON_ROW(what_waits_in_the_pool_is_cancelled, row), ON_ROW(lies_are_told_as_asked, row),    \
        ON_ROW(follows_a_model_with_faults, row), ON_ROW(the_file_size_limit_is_no_space, row),   \
        ON_ROW(memlock_decides_what_is_registered, row)

int main(void) {
    const struct CMUnitTest uring[] = {ON_ROWS(0)};
    const struct CMUnitTest threads[] = {ON_ROWS(1)};
    const struct CMUnitTest choice[] = {
        cmocka_unit_test(falls_back_to_threads),
        cmocka_unit_test(says_why_nothing_works),
        cmocka_unit_test(lists_its_engines),
    };
    int failed = cmocka_run_group_tests(threads, NULL, NULL);
    if (row_works(0)) failed += cmocka_run_group_tests(uring, NULL, NULL);
    return failed + cmocka_run_group_tests(choice, NULL, NULL);
}
