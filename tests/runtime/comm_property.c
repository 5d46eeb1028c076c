#include "tests/runtime/comm_property.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/invariant.h"
#include "runtime/base/random.h"

enum { COUNT_MAX = 70000, RANKS_MAX = 64 };

/* Sizes at and around the edges of lines, chunks and slices, and beyond several chunks. */
static const uint64_t sizes[] = {0,    1,    2,    3,    15,    16,    17,    63,    576,
                                 4095, 4096, 4097, 8191, 8192,  8193,  16384, 16385, 20001,
                                 600,  1536, 2304, 9216, 24576, 32768, 65535, 69999};

typedef struct Round {
    Comm *comm;
    uint64_t seed; /* of this round, the same on all ranks */
    int index;
    float *data, *expected; /* [COUNT_MAX × size] each */
} Round;

/* What rank r holds at place i: values of mixed sign and very different size, so that order shows. */
static float value_of(uint64_t seed, int rank, uint64_t i) {
    uint64_t bits = (seed ^ ((uint64_t)rank << 48) ^ i) * 0x9e3779b97f4a7c15u;
    bits ^= bits >> 29;
    bits *= 0xbf58476d1ce4e5b9u;
    bits ^= bits >> 32;
    float unit = (float)(int32_t)(uint32_t)bits * 0x1p-31f;
    return unit * (float)(1u << (bits >> 40 & 15));
}

static uint64_t random_size(Random *random) {
    return sizes[random_below(random, sizeof sizes / sizeof sizes[0])];
}

static int compare(const Round *round, const char *what, uint64_t count) {
    if (memcmp(round->data, round->expected, count * sizeof(float)) == 0) return 0;
    uint64_t i = 0;
    while (memcmp(&round->data[i], &round->expected[i], sizeof(float)) == 0)
        i++;
    fprintf(stderr, "round %d, %s of %llu floats, rank %d: [%llu] is %a, not %a\n", round->index,
            what, (unsigned long long)count, round->comm->rank, (unsigned long long)i,
            (double)round->data[i], (double)round->expected[i]);
    return 1;
}

static int check_all_reduce(const Round *round, Random *random) {
    uint64_t count = random_size(random);
    for (uint64_t i = 0; i < count; i++) {
        round->data[i] = value_of(round->seed, round->comm->rank, i);
        round->expected[i] = value_of(round->seed, 0, i);
        for (int rank = 1; rank < round->comm->size; rank++)
            round->expected[i] += value_of(round->seed, rank, i);
    }
    if (comm_all_reduce(round->comm, round->data, count) != STATUS_OK) return 1;
    return compare(round, "all_reduce", count);
}

/* Fills expected with all parts side by side and part_bytes; returns their sum in floats. */
static uint64_t expect_parts(const Round *round, Random *random, uint64_t *part_bytes) {
    uint64_t total = 0;
    for (int rank = 0; rank < round->comm->size; rank++) {
        uint64_t count = random_size(random);
        for (uint64_t i = 0; i < count; i++)
            round->expected[total + i] = value_of(round->seed, rank, i);
        part_bytes[rank] = count * sizeof(float);
        total += count;
    }
    return total;
}

static int check_gathers(const Round *round, Random *random, bool to_all) {
    uint64_t part_bytes[RANKS_MAX];
    static _Thread_local float send[COUNT_MAX];
    Comm *comm = round->comm;
    uint64_t total = expect_parts(round, random, part_bytes);
    int root = (int)random_below(random, (uint64_t)comm->size);
    bool receives = to_all || comm->rank == root;
    for (uint64_t i = 0; i < part_bytes[comm->rank] / sizeof(float); i++)
        send[i] = value_of(round->seed, comm->rank, i);
    memset(round->data, 0xff, total * sizeof(float));
    Status status = to_all
                        ? comm_all_gather(comm, send, round->data, part_bytes)
                        : comm_gather(comm, root, send, receives ? round->data : NULL, part_bytes);
    if (status != STATUS_OK) return 1;
    return receives ? compare(round, to_all ? "all_gather" : "gather", total) : 0;
}

static int check_all_gather(const Round *round, Random *random) {
    return check_gathers(round, random, true);
}

static int check_gather(const Round *round, Random *random) {
    return check_gathers(round, random, false);
}

static int check_broadcast(const Round *round, Random *random) {
    uint64_t count = random_size(random);
    int root = (int)random_below(random, (uint64_t)round->comm->size);
    for (uint64_t i = 0; i < count; i++) {
        round->expected[i] = value_of(round->seed, root, i);
        round->data[i] = value_of(round->seed, round->comm->rank, i);
    }
    if (comm_broadcast(round->comm, root, round->data, count * sizeof(float)) != STATUS_OK)
        return 1;
    return compare(round, "broadcast", count);
}

static int check_barrier(const Round *round, Random *random) {
    (void)random;
    return comm_barrier(round->comm) != STATUS_OK;
}

/* Sometimes a rank comes late, so that slots would be overwritten too early if they could be. */
static void dawdle(uint64_t seed, int rank) {
    uint64_t draw = (seed + (uint64_t)rank * 7919) % 97;
    if (draw < 3) usleep((useconds_t)(draw * 700));
}

int comm_property_check(Comm *comm, uint64_t seed, int rounds) {
    static int (*const checks[])(const Round *, Random *) = {check_all_reduce, check_all_reduce,
                                                             check_all_gather, check_gather,
                                                             check_broadcast,  check_barrier};
    uint64_t capacity = (uint64_t)COUNT_MAX * (uint64_t)comm->size;
    Round round = {.comm = comm,
                   .data = malloc(capacity * sizeof(float)),
                   .expected = malloc(capacity * sizeof(float))};
    CHECK(comm->size <= RANKS_MAX && round.data && round.expected);
    int failures = 0;
    Random random = {.key = seed};
    for (round.index = 0; round.index < rounds; round.index++) {
        round.seed = random_u64(&random);
        dawdle(round.seed, comm->rank);
        uint64_t check = random_below(&random, sizeof checks / sizeof checks[0]);
        failures += checks[check](&round, &random);
    }
    free(round.data);
    free(round.expected);
    return failures;
}
