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
};
#define READ_BYTES ((size_t)192 << 20)

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
    void (*loop)(void);
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

static double seconds_of_loop(void (*loop)(void), uint32_t thread_count) {
    double best = INFINITY;
    for (int sample = 0; sample < SAMPLES; sample++) {
        double start = monotonic_seconds();
#pragma omp parallel for num_threads(thread_count) schedule(static, 1)
        for (uint32_t thread = 0; thread < thread_count; thread++)
            loop();
        best = fmin(best, monotonic_seconds() - start);
    }
    return best;
}

double peak_operations(PeakKind kind, const char *variant, uint32_t thread_count) {
    static double measured[PEAK_LOOP_COUNT];
    for (int i = 0; i < PEAK_LOOP_COUNT; i++) {
        if (peak_loops[i].kind != kind || strcmp(peak_loops[i].variant, variant) != 0) continue;
        if (measured[i] == 0.0) {
            double operations = (double)peak_loops[i].step_operations * CHAINS * ROUNDS;
            measured[i] =
                operations * thread_count / seconds_of_loop(peak_loops[i].loop, thread_count);
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

static double read_bytes_per_second(const uint64_t *words, uint32_t thread_count) {
    size_t slice = READ_BYTES / sizeof *words / thread_count;
    double best = INFINITY;
    for (int sample = 0; sample < SAMPLES; sample++) {
        uint64_t total = 0;
        double start = monotonic_seconds();
#pragma omp parallel for num_threads(thread_count) schedule(static, 1) reduction(+ : total)
        for (uint32_t thread = 0; thread < thread_count; thread++)
            total += sum_words(words + thread * slice, slice);
        best = fmin(best, monotonic_seconds() - start);
        __asm__ volatile("" ::"r"(total));
    }
    return (double)slice * sizeof *words * thread_count / best;
}

double peak_read_bytes(uint32_t thread_count) {
    static double measured;
    if (measured == 0.0) {
        void *words;
        if (memory_take(&words, READ_BYTES, 1, "read benchmark") != STATUS_OK) return 0.0;
        memset(words, 1, READ_BYTES);
        measured = read_bytes_per_second(words, thread_count);
        free(words);
    }
    return measured;
}
