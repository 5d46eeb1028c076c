#ifndef LAUNCH_BENCH_LOAD_H
#define LAUNCH_BENCH_LOAD_H

/* Synthetic requests through the engine, with the time of every token. Rank 0. */

#include "launch/session.h"
#include "runtime/base/random.h"

SPILLWAY_EXTERN_C_BEGIN

/* Any token but the special ones, which a model may answer in ways of its own. out [count] */
void bench_random_prompt(const Session *session, Random *random, uint32_t count, int32_t *out);

typedef struct BenchLoad {
    uint32_t request_count, concurrency;
    uint32_t input_tokens, output_tokens; /* of each request; the end of text is ignored */
    uint64_t seed;                        /* of the prompts' random tokens */
} BenchLoad;

/* Engine time of a stretch of steps, in seconds. */
typedef struct BenchSplit {
    double prefill, decode; /* steps with prompt rows; pure decode steps */
    double matmul, attention, collective, sampling, other;
} BenchSplit;

BenchSplit bench_split_now(const Session *session);
BenchSplit bench_split_since(const BenchSplit *before, const Session *session);

typedef struct BenchTimes {
    uint32_t completed, failed;
    uint64_t input_tokens, output_tokens;
    double seconds; /* from the first submit to the last token */
    /* All owned, in seconds: [completed], but gaps [gap_count]. */
    double *first_token, *per_token, *end_to_end; /* TTFT, TPOT, E2EL */
    double *gaps;                                 /* ITL: between tokens of a request */
    size_t gap_count;
    BenchSplit split;
    uint64_t decode_steps, decode_tokens;
} BenchTimes;

/* STATUS_STOPPED when it was asked to stop. Free *out with bench_times_free also on failure. */
Status bench_load_run(Session *session, const BenchLoad *load, BenchTimes *out);
void bench_times_free(BenchTimes *times);

SPILLWAY_EXTERN_C_END

#endif
