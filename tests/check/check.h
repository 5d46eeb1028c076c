#ifndef CHECK_CHECK_H
#define CHECK_CHECK_H

/* The test bench of the kernel tables, after dav1d's checkasm. A check file (tests/kernels/check_<name>.c) exports
 * one CheckGroup: a list of cases, each for one slot of Kernels. The harness runs every case for every variant
 * (reference, avx2, avx512, …) that fills the slot with a function of its own, in rounds; each round draws new
 * shapes and data from a seed that is printed on failure and gives the same round again.
 *
 * A case calls the variant under test and the reference with the same arguments and compares. Memory comes from
 * here: it is poisoned, fenced (a touched byte past its end stops the program with the seed, bytes before
 * it are compared) and freed after the round. Cases run on the main thread, one at a time. */

#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h"
#include "runtime/base/random.h"
#include "tests/check/peak.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct CheckMemory CheckMemory;
typedef struct CheckTeam CheckTeam;
typedef struct CheckDevice CheckDevice;

typedef struct Check {
    const char *group;        /* "norm" */
    const char *name;         /* "rms_norm" */
    const char *variant;      /* "avx2"; "-" for cases without a slot */
    const Kernels *kernels;   /* under test; NULL for cases without a slot */
    const Kernels *reference; /* the specification */
    Random random;            /* restarts each round from `seed` */
    uint64_t seed;            /* of this round */
    uint32_t thread_count;    /* the most threads a case should use */
    uint32_t slowness;        /* check_size divides its limit by this */
    CheckDevice *device;      /* whose memory cases cannot touch; NULL: none */
    uint32_t failure_count;   /* of this case */
    CheckMemory *memory;      /* what check_memory gave out this round */
    CheckTeam *teams;         /* what check_team gave out this round */
} Check;

enum { CHECK_NO_SLOT = -1, CHECK_CASES_MAX = 16 };
#define CHECK_SLOT(slot) ((int)offsetof(Kernels, slot))

typedef struct CheckCase {
    const char *name;            /* NULL ends the list */
    int slot;                    /* CHECK_SLOT(…); CHECK_NO_SLOT: runs once, without kernels */
    void (*run)(Check *check);   /* one round */
    void (*bench)(Check *check); /* NULL: nothing to time */
} CheckCase;

typedef struct CheckGroup {
    CheckCase cases[CHECK_CASES_MAX]; /* in tests/kernels/check_X.c: const CheckGroup check_X */
} CheckGroup;

/* --- drawing --- */

/* A size in [1, limit], of slow variants in [1, limit / slowness], that likes 1, odd numbers, primes, powers of two and
 * their neighbours. */
uint32_t check_size(Check *check, uint32_t limit);
uint32_t check_below(Check *check, uint32_t bound);
bool check_chance(Check *check, double probability);
void check_fill_normal(Check *check, float *out, size_t count, double deviation);

/* --- memory --- */

/* count × element_bytes bytes that end at a page that may not be touched; as aligned as the size allows, no more.
 * Floats of it are NaN until written. Lives until the round ends. */
void *check_memory(Check *check, size_t count, size_t element_bytes);
/* The same, 64-byte aligned at the front; the rest up to the fence is compared after the round. */
void *check_memory_aligned(Check *check, size_t bytes);
/* A copy of `bytes` bytes of source in check_memory. */
void *check_copy(Check *check, const void *source, size_t bytes);
/* A team of so many threads; lives until the round ends. */
Team *check_team(Check *check, uint32_t thread_count);
/* A context with such a team and the scratch that these kernels ask for. */
KernelContext check_context(Check *check, const Kernels *kernels, const KernelLimits *limits,
                            uint32_t thread_count);

/* --- verdicts --- */

/* Counts a failure of this case and prints it with the seed. */
void check_fail(Check *check, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Rows of `columns` numbers, `stride` apart. */
typedef struct CheckShape {
    uint32_t rows, columns;
    uint64_t stride;
} CheckShape;

static inline uint64_t check_shape_count(const CheckShape *shape) {
    return (shape->rows - 1u) * shape->stride + shape->columns;
}

/* |actual - expected| <= absolute + relative * |expected| */
typedef struct CheckTolerance {
    double absolute, relative;
} CheckTolerance;

/* A sum of `count` terms of about `scale` each, added in any order in f32: 4 sqrt(count) eps scale. */
CheckTolerance check_tolerance_sum(uint32_t count, double scale);
CheckTolerance check_tolerance_ulps(double ulps);

/* Compares rows within the tolerance (NaN equals NaN, infinities exactly) and the gaps between rows bit for
 * bit. True when they agree; else one failure is printed with the worst element. */
bool check_close(Check *check, const char *what, const float *expected, const float *actual,
                 const CheckShape *shape, CheckTolerance tolerance);
/* Fails when the gaps between the rows of a fresh check_memory were written. */
bool check_gaps(Check *check, const char *what, const float *actual, const CheckShape *shape);
bool check_same_bits(Check *check, const char *what, const void *expected, const void *actual,
                     size_t bytes);

/* --- timing --- */

typedef struct CheckWork {
    double operations; /* of one call; 0: not counted */
    double bytes;      /* that one call must at least read and write */
    PeakKind peak;     /* which limit the operations are a share of */
} CheckWork;

/* Repeats the call and prints the median time, GOP/s and GB/s with their shares of the peaks measured here. */
void check_bench(Check *check, const char *label, const CheckWork *work,
                 void (*call)(void *argument), void *argument);

/* --- for check_main.c --- */

void check_round_begin(Check *check, uint64_t seed);
void check_round_end(Check *check); /* compares the guards, frees memory and teams */

SPILLWAY_EXTERN_C_END

#endif
