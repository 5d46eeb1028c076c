/* Latency and bandwidth of all_reduce over the ranks of this node, beside what copying costs here:
 * mpirun -n 2 bench_comm [--by-message] [--crowded]. Prints one row a size. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/monotonic.h"
#include "runtime/comm/comm.h"

enum { SAMPLES = 21, COUNT_MAX = 1 << 20 };

/* Of one decode step of SmolLM2-135M (576 floats a row): batch 1, 32, 256; then a large prefill chunk. */
static const uint64_t sizes_bytes[] = {2304, 16384, 76800, 614400, 4194304};

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Calls at a time, so that a sample is about a millisecond. */
static int calls_of(uint64_t bytes) {
    uint64_t calls = 4000000 / (bytes + 4000);
    return calls > 0 ? (int)calls : 1;
}

static double measure_all_reduce(Comm *comm, float *data, uint64_t bytes) {
    double samples[SAMPLES];
    int calls = calls_of(bytes);
    for (int sample = 0; sample < SAMPLES; sample++) {
        memset(data, 0, bytes);
        if (comm_barrier(comm) != STATUS_OK) exit(1);
        double begin = monotonic_seconds();
        for (int call = 0; call < calls; call++)
            if (comm_all_reduce(comm, data, bytes / sizeof *data) != STATUS_OK) exit(1);
        samples[sample] = (monotonic_seconds() - begin) / calls;
    }
    qsort(samples, SAMPLES, sizeof *samples, compare_doubles);
    return samples[SAMPLES / 2];
}

static double measure_copy(float *to, const float *from, uint64_t bytes) {
    double samples[SAMPLES];
    int calls = calls_of(bytes) * 4;
    for (int sample = 0; sample < SAMPLES; sample++) {
        double begin = monotonic_seconds();
        for (int call = 0; call < calls; call++) {
            memcpy(to, from, bytes);
            __asm__ volatile("" : : "r"(to) : "memory"); /* the copy is used */
        }
        samples[sample] = (monotonic_seconds() - begin) / calls;
    }
    qsort(samples, SAMPLES, sizeof *samples, compare_doubles);
    return samples[SAMPLES / 2];
}

static void print_row(const Comm *comm, uint64_t bytes, double seconds, double copy_seconds) {
    if (comm->rank != 0) return;
    printf("%8llu bytes  all_reduce %8.2f us  %6.2f GB/s   memcpy %8.2f us  %6.2f GB/s\n",
           (unsigned long long)bytes, seconds * 1e6, (double)bytes / seconds * 1e-9,
           copy_seconds * 1e6, (double)bytes / copy_seconds * 1e-9);
}

int main(int argc, char **argv) {
    Comm *comm;
    bool by_message = false, crowded = false;
    for (int i = 1; i < argc; i++) {
        by_message |= strcmp(argv[i], "--by-message") == 0;
        crowded |= strcmp(argv[i], "--crowded") == 0;
    }
    float *data = calloc(COUNT_MAX, sizeof *data), *other = calloc(COUNT_MAX, sizeof *other);
    if (!data || !other || comm_mpi_create(&comm, by_message) != STATUS_OK) return 1;
    comm->crowded = crowded;
    if (comm->rank == 0)
        printf("%d ranks, row %s%s; median of %d samples\n", comm->size, comm->row->name,
               crowded ? ", crowded" : "", SAMPLES);
    for (size_t i = 0; i < sizeof sizes_bytes / sizeof sizes_bytes[0]; i++)
        print_row(comm, sizes_bytes[i], measure_all_reduce(comm, data, sizes_bytes[i]),
                  measure_copy(other, data, sizes_bytes[i]));
    comm_destroy(comm);
    free(data);
    free(other);
    return 0;
}
