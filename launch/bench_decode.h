#ifndef LAUNCH_BENCH_DECODE_H
#define LAUNCH_BENCH_DECODE_H

/* Decode alone: a batch of sequences that hold a context each takes steps of one token a sequence. What a KV budget costs
 * shows here, for every step reads all KV. Rank 0. */

#include "launch/bench_load.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct BenchDecodeLoad {
    uint32_t batch_size, context_tokens; /* that every sequence holds at least when time begins */
    uint32_t step_count, warm_step_count;
    bool synthetic; /* contexts are filled in, not computed (Request.synthetic_context) */
    uint64_t seed;  /* of the prompts' random tokens */
} BenchDecodeLoad;

typedef struct BenchDecodeTimes {
    double seconds_before; /* until every sequence held its context */
    double *step_seconds;  /* [step_count], owned */
    double seconds;        /* of the timed steps; cpu_seconds: of the process */
    double cpu_seconds;
    uint64_t tokens;        /* generated in them */
    EngineStats begin, end; /* around them; of this rank */
    BenchSplit split;
    double disk_bytes_per_second; /* read alone, before and after the steps; 0 without a disk */
} BenchDecodeTimes;

/* Tokens that a sequence may come to hold, for --max-model-len: those that the first ones generate while the last ones still wait
 * for their context included. */
uint32_t bench_decode_tokens_max(const BenchDecodeLoad *load, uint32_t token_budget);

/* STATUS_STOPPED when it was asked to stop. E-CONTEXT-LENGTH when budgets or lengths keep the batch from running as a whole.
 * Free *out with bench_decode_free also on failure. */
Status bench_decode_run(Session *session, const BenchDecodeLoad *load, BenchDecodeTimes *out);
void bench_decode_free(BenchDecodeTimes *times);

SPILLWAY_EXTERN_C_END

#endif
