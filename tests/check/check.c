#include "tests/check/check.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/base/bytes.h"
#include "runtime/base/invariant.h"
#include "runtime/base/monotonic.h"
#include "tests/check/check_device.h"

enum {
    POISON = 0xFF, /* a NaN in every float format */
    GUARD_BYTES = 64,
    FAILURES_SHOWN = 3,
    BENCH_SAMPLES = 9,
};
#define BENCH_SAMPLE_SECONDS 0.02
#define BENCH_SLOW_SECONDS   0.1 /* a call that takes longer is timed once more only */

/* One mapping: [guard … poison][user bytes][slack poison][page without access]. */
struct CheckMemory {
    CheckMemory *next;
    uint8_t *mapping;
    size_t mapping_bytes; /* with the last page */
    uint8_t *user;
    size_t user_bytes;
};

struct CheckTeam {
    CheckTeam *next;
    Team *team;
};

/* ---- drawing */

uint32_t check_below(Check *check, uint32_t bound) {
    return (uint32_t)random_below(&check->random, bound);
}

bool check_chance(Check *check, double probability) {
    return random_unit(&check->random) < probability;
}

uint32_t check_size(Check *check, uint32_t limit) {
    static const uint32_t primes[] = {3,  5,  7,   11,  13,  17,  31,  37,
                                      61, 67, 127, 131, 257, 521, 1031};
    uint32_t size = 1;
    limit = limit > check->slowness ? limit / check->slowness : 1;
    switch (check_below(check, 5)) {
    case 0: size = 1; break;
    case 1: size = primes[check_below(check, sizeof primes / sizeof *primes)]; break;
    case 2: size = 1u << check_below(check, 12); break;
    case 3: size = (1u << check_below(check, 12)) + check_below(check, 3) - 1; break;
    default: size = 1 + check_below(check, limit); break;
    }
    return size >= 1 && size <= limit ? size : 1 + check_below(check, limit);
}

void check_fill_normal(Check *check, float *out, size_t count, double deviation) {
    for (size_t i = 0; i < count; i++)
        out[i] = (float)(deviation * random_normal(&check->random));
}

/* ---- memory */

static uint8_t *map_fenced(Check *check, size_t bytes, size_t front_alignment) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t body = align_up(GUARD_BYTES + bytes + front_alignment, page);
    uint8_t *mapping =
        mmap(NULL, body + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CheckMemory *memory = malloc(sizeof *memory);
    CHECK(mapping != MAP_FAILED && memory);
    CHECK(mprotect(mapping + body, page, PROT_NONE) == 0);
    memset(mapping, POISON, body);
    size_t offset = body - bytes;
    if (front_alignment) offset -= offset % front_alignment;
    *memory = (CheckMemory){check->memory, mapping, body + page, mapping + offset, bytes};
    check->memory = memory;
    return memory->user;
}

void *check_memory(Check *check, size_t count, size_t element_bytes) {
    return map_fenced(check, count * element_bytes, 0);
}

void *check_memory_aligned(Check *check, size_t bytes) {
    return map_fenced(check, bytes, 64);
}

void *check_copy(Check *check, const void *source, size_t bytes) {
    return memcpy(check_memory(check, bytes, 1), source, bytes);
}

Team *check_team(Check *check, uint32_t thread_count) {
    for (CheckTeam *known = check->teams; known; known = known->next)
        if (team_thread_count(known->team) == thread_count) return known->team;
    Team *team;
    CheckTeam *made = malloc(sizeof *made);
    CHECK(made && team_create(&team, thread_count) == STATUS_OK);
    *made = (CheckTeam){check->teams, team};
    check->teams = made;
    return team;
}

KernelContext check_context(Check *check, const Kernels *kernels, const KernelLimits *limits,
                            uint32_t thread_count) {
    size_t bytes = kernels->scratch_bytes(limits, thread_count);
    return (KernelContext){
        .team = check_team(check, thread_count),
        .scratch = bytes ? check_memory_aligned(check, bytes) : NULL,
        .scratch_bytes = bytes,
    };
}

static bool all_poison(const uint8_t *bytes, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (bytes[i] != POISON) return false;
    return true;
}

static void memory_verify(Check *check, const CheckMemory *memory) {
    size_t front = (size_t)(memory->user - memory->mapping);
    size_t guard = front < 4 * GUARD_BYTES ? front : 4 * GUARD_BYTES;
    if (!all_poison(memory->user - guard, guard))
        check_fail(check, "wrote before a buffer of %zu bytes", memory->user_bytes);
    uint8_t *end = memory->user + memory->user_bytes;
    uint8_t *fence = memory->mapping + memory->mapping_bytes - (size_t)sysconf(_SC_PAGESIZE);
    if (!all_poison(end, (size_t)(fence - end)))
        check_fail(check, "wrote past a buffer of %zu bytes", memory->user_bytes);
}

void check_round_begin(Check *check, uint64_t seed) {
    check->seed = seed;
    check->random = (Random){.key = seed};
    check->memory = NULL;
    check->teams = NULL;
}

void check_round_end(Check *check) {
    while (check->memory) {
        CheckMemory *memory = check->memory;
        memory_verify(check, memory);
        check->memory = memory->next;
        munmap(memory->mapping, memory->mapping_bytes);
        free(memory);
    }
    while (check->teams) {
        CheckTeam *team = check->teams;
        check->teams = team->next;
        team_destroy(team->team);
        free(team);
    }
}

/* ---- verdicts */

void check_fail(Check *check, const char *format, ...) {
    if (check->failure_count++ >= FAILURES_SHOWN) return;
    printf("FAIL %s.%s [%s]: ", check->group, check->name, check->variant);
    va_list arguments;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n  again: check --seed %llu --rounds 1 --variant %s %s.%s\n",
           (unsigned long long)check->seed, check->variant, check->group, check->name);
}

CheckTolerance check_tolerance_sum(uint32_t count, double scale) {
    return (CheckTolerance){.absolute = 4.0 * sqrt(count) * 0x1p-24 * scale};
}

CheckTolerance check_tolerance_ulps(double ulps) {
    return (CheckTolerance){.absolute = 0x1p-149, .relative = ulps * 0x1p-23};
}

/* How far apart, as a share of what is allowed; above 1 fails. */
static double deviation_share(float expected, float actual, CheckTolerance tolerance) {
    if (isnan(expected) || isnan(actual)) return isnan(expected) && isnan(actual) ? 0.0 : INFINITY;
    if (expected == actual) return 0.0;
    if (isinf(expected) || isinf(actual)) return INFINITY;
    double allowed = tolerance.absolute + tolerance.relative * fabs((double)expected);
    double distance = fabs((double)expected - (double)actual);
    return allowed > 0.0 ? distance / allowed : INFINITY;
}

bool check_close(Check *check, const char *what, const float *expected, const float *actual,
                 const CheckShape *shape, CheckTolerance tolerance) {
    double worst = 0.0;
    uint64_t worst_row = 0, worst_column = 0;
    for (uint64_t row = 0; row < shape->rows; row++) {
        const float *expected_row = expected + row * shape->stride;
        const float *actual_row = actual + row * shape->stride;
        for (uint64_t column = 0; column < shape->columns; column++) {
            double share = deviation_share(expected_row[column], actual_row[column], tolerance);
            if (share <= worst) continue;
            worst = share;
            worst_row = row;
            worst_column = column;
        }
        uint64_t gap = row + 1 < shape->rows ? shape->stride - shape->columns : 0;
        if (memcmp(expected_row + shape->columns, actual_row + shape->columns,
                   gap * sizeof(float)) != 0) {
            check_fail(check, "%s: wrote between row %llu and the next", what,
                       (unsigned long long)row);
            return false;
        }
    }
    if (worst <= 1.0) return true;
    uint64_t index = worst_row * shape->stride + worst_column;
    check_fail(check, "%s of %u x %u: row %llu column %llu is %.9g, expected %.9g (%.3g x allowed)",
               what, shape->rows, shape->columns, (unsigned long long)worst_row,
               (unsigned long long)worst_column, (double)actual[index], (double)expected[index],
               worst);
    return false;
}

bool check_gaps(Check *check, const char *what, const float *actual, const CheckShape *shape) {
    for (uint64_t row = 0; row + 1 < shape->rows; row++) {
        const float *end = actual + row * shape->stride + shape->columns;
        if (all_poison((const uint8_t *)end, (shape->stride - shape->columns) * sizeof *end))
            continue;
        check_fail(check, "%s: wrote between row %llu and the next", what, (unsigned long long)row);
        return false;
    }
    return true;
}

bool check_same_bits(Check *check, const char *what, const void *expected, const void *actual,
                     size_t bytes) {
    const uint8_t *left = expected, *right = actual;
    for (size_t i = 0; i < bytes; i++) {
        if (left[i] == right[i]) continue;
        check_fail(check, "%s: byte %zu of %zu differs (%02x, expected %02x)", what, i, bytes,
                   right[i], left[i]);
        return false;
    }
    return true;
}

/* ---- timing */

static double seconds_of_calls(uint64_t count, void (*call)(void *), void *argument) {
    double start = monotonic_seconds();
    for (uint64_t i = 0; i < count; i++)
        call(argument);
    return monotonic_seconds() - start;
}

static int compare_doubles(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

typedef struct Timing {
    double median, best; /* seconds a call */
} Timing;

static Timing time_calls(void (*call)(void *), void *argument) {
    double once = seconds_of_calls(1, call, argument);
    uint64_t repeats = 1 + (uint64_t)(BENCH_SAMPLE_SECONDS / fmax(once, 1e-7));
    double samples[BENCH_SAMPLES];
    int count = once < BENCH_SLOW_SECONDS ? BENCH_SAMPLES : 1;
    for (int i = 0; i < count; i++)
        samples[i] = seconds_of_calls(repeats, call, argument) / (double)repeats;
    qsort(samples, (size_t)count, sizeof *samples, compare_doubles);
    return (Timing){.median = samples[count / 2], .best = samples[0]};
}

static void print_rate(const char *unit, double rate, const char *peak_text, double peak) {
    printf(", %.4g %s", rate / 1e9, unit);
    if (peak > 0.0) printf(" (%.0f %% of %s %.4g)", 100.0 * rate / peak, peak_text, peak / 1e9);
}

void check_bench(Check *check, const char *label, const CheckWork *work,
                 void (*call)(void *argument), void *argument) {
    Team *team = check_team(check, check->thread_count);
    if (check->device) check_device_keep(check->device, true);
    Timing timing = time_calls(call, argument);
    if (check->device) check_device_keep(check->device, false);
    double seconds = timing.median;
    printf("%s.%s [%s] %s: %.4g us (best %.4g)", check->group, check->name, check->variant, label,
           seconds * 1e6, timing.best * 1e6);
    bool host = !check->device; /* the peaks are the host's */
    if (work->operations > 0.0)
        print_rate("GOP/s", work->operations / seconds, peak_name(work->peak),
                   host ? peak_operations(work->peak, check->variant, team) : 0.0);
    if (work->bytes > 0.0)
        print_rate("GB/s", work->bytes / seconds, "read", host ? peak_read_bytes(team) : 0.0);
    printf("\n");
}
