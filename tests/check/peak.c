#include "tests/check/peak.h"

#include <immintrin.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/base/monotonic.h"

enum {
    CHAINS = 12, /* independent accumulators: latency × throughput of every loop below */
    ROUNDS = 20000,
    SAMPLES = 7,
    READS_A_THREAD = 16,
};
#define READ_BYTES ((size_t)192 << 20)

typedef void PeakLoop(void);

/* Keeps a value alive and its computation where it is. */
#define KEEP(value) __asm__ volatile("" : "+v"(value))

#define PEAK_LOOP(name, isa, vector, zero, one, step)                             \
    __attribute__((target(isa))) static void name(void) {                         \
        vector sums[CHAINS];                                                      \
        vector ones = one;                                                        \
        _Pragma("GCC unroll 12") for (int i = 0; i < CHAINS; i++) sums[i] = zero; \
        for (int round = 0; round < ROUNDS; round++) {                            \
            _Pragma("GCC unroll 12") for (int i = 0; i < CHAINS; i++) {           \
                KEEP(ones);                                                       \
                sums[i] = step;                                                   \
                KEEP(sums[i]);                                                    \
            }                                                                     \
        }                                                                         \
    }

PEAK_LOOP(f32_avx2, "avx2,fma", __m256, _mm256_setzero_ps(), _mm256_set1_ps(0.5f),
          _mm256_fmadd_ps(ones, ones, sums[i]))
PEAK_LOOP(int8_avx2, "avx2", __m256i, _mm256_setzero_si256(), _mm256_set1_epi8(1),
          _mm256_add_epi16(sums[i], _mm256_maddubs_epi16(ones, ones)))
PEAK_LOOP(int16_avx2, "avx2", __m256i, _mm256_setzero_si256(), _mm256_set1_epi16(1),
          _mm256_add_epi32(sums[i], _mm256_madd_epi16(ones, ones)))
PEAK_LOOP(f32_avx512, "avx512f", __m512, _mm512_setzero_ps(), _mm512_set1_ps(0.5f),
          _mm512_fmadd_ps(ones, ones, sums[i]))
PEAK_LOOP(int8_avx512, "avx512f,avx512vnni", __m512i, _mm512_setzero_si512(), _mm512_set1_epi32(1),
          _mm512_dpbusd_epi32(sums[i], ones, ones))
PEAK_LOOP(int16_avx512, "avx512f,avx512vnni", __m512i, _mm512_setzero_si512(), _mm512_set1_epi32(1),
          _mm512_dpwssd_epi32(sums[i], ones, ones))

static const struct {
    PeakKind kind;
    const char *variant;
    uint32_t step_operations; /* multiplies and adds of one step */
    PeakLoop *loop;
} peak_loops[] = {
    {PEAK_F32, "avx2", 16, f32_avx2},        {PEAK_INT8, "avx2", 64, int8_avx2},
    {PEAK_INT16, "avx2", 32, int16_avx2},    {PEAK_F32, "avx512", 32, f32_avx512},
    {PEAK_INT8, "avx512", 128, int8_avx512}, {PEAK_INT16, "avx512", 64, int16_avx512},
};
enum { PEAK_LOOP_COUNT = sizeof peak_loops / sizeof *peak_loops };

const char *peak_name(PeakKind kind) {
    static const char *const names[PEAK_KIND_COUNT] = {"none", "f32", "int8", "int16"};
    return names[kind];
}

static void run_loop(void *user, uint32_t task_index, uint32_t thread_index) {
    (void)task_index;
    (void)thread_index;
    (*(PeakLoop *const *)user)();
}

/* As long as one thread takes: a loop for each thread. */
static double seconds_of_loop(PeakLoop *loop, Team *team) {
    double best = INFINITY;
    for (int sample = 0; sample < SAMPLES; sample++) {
        double start = monotonic_seconds();
        team_run(team, team_thread_count(team), run_loop, &loop);
        best = fmin(best, monotonic_seconds() - start);
    }
    return best;
}

double peak_operations(PeakKind kind, const char *variant, Team *team) {
    static double measured[PEAK_LOOP_COUNT];
    for (int i = 0; i < PEAK_LOOP_COUNT; i++) {
        if (peak_loops[i].kind != kind || strcmp(peak_loops[i].variant, variant) != 0) continue;
        if (measured[i] == 0.0) {
            double operations =
                (double)peak_loops[i].step_operations * CHAINS * ROUNDS * team_thread_count(team);
            measured[i] = operations / seconds_of_loop(peak_loops[i].loop, team);
        }
        return measured[i];
    }
    return 0.0;
}

static uint64_t sum_words(const uint64_t *words, size_t count) {
    uint64_t sums[16] = {0};
    for (size_t i = 0; i + 16 <= count; i += 16)
        for (int lane = 0; lane < 16; lane++)
            sums[lane] += words[i + lane];
    uint64_t sum = 0;
    for (int lane = 0; lane < 16; lane++)
        sum += sums[lane];
    return sum;
}

typedef struct ReadCall {
    const uint64_t *words;
    size_t slice;           /* words of a task */
    _Atomic uint64_t total; /* wanted by nobody, but the loads must stay */
} ReadCall;

static void read_slice(void *user, uint32_t task_index, uint32_t thread_index) {
    (void)thread_index;
    ReadCall *call = user;
    call->total += sum_words(call->words + task_index * call->slice, call->slice);
}

static double read_bytes_per_second(const uint64_t *words, Team *team) {
    uint32_t task_count = team_thread_count(team) * READS_A_THREAD;
    ReadCall call = {.words = words, .slice = READ_BYTES / sizeof *words / task_count};
    double best = INFINITY;
    for (int sample = 0; sample < SAMPLES; sample++) {
        double start = monotonic_seconds();
        team_run(team, task_count, read_slice, &call);
        best = fmin(best, monotonic_seconds() - start);
    }
    return (double)call.slice * sizeof *words * task_count / best;
}

double peak_read_bytes(Team *team) {
    static double measured;
    if (measured == 0.0) {
        void *words;
        if (memory_take(&words, READ_BYTES, 1, "read benchmark") != STATUS_OK) return 0.0;
        memset(words, 1, READ_BYTES);
        measured = read_bytes_per_second(words, team);
        free(words);
    }
    return measured;
}
