#ifndef LAUNCH_PROBE_COMPUTE_H
#define LAUNCH_PROBE_COMPUTE_H

/* Speeds of the kernels on this machine, for the planner: matrix products of three formats by rows, attention on blocks of every
 * codec, what runs between them. Numbers lie in more memory than caches hold; a speed is the median of a few rounds. About
 * three seconds and 512 MiB. Main thread. */

#include "runtime/engine/plan_machine.h"

SPILLWAY_EXTERN_C_BEGIN

/* Fills the speeds of compute and of memory. E-UNAVAILABLE: an instruction set that is not here. */
Status probe_compute(const char *cpu_isa, uint32_t thread_count, PlanMachine *machine);

/* What was measured: seconds of an attention with as many query heads as KV heads, and with four times as many. */
PlanAttention probe_attention_rates(double bytes, double operations, double seconds_one,
                                    double seconds_four);

/* Called by probe_compute, one a file. */
typedef struct ProbeKernels {
    const Kernels *kernels;
    const KernelContext *context;
} ProbeKernels;

enum { PROBE_ROWS = 512, PROBE_COLUMNS = 4096, PROBE_HEADS = 16, PROBE_HEAD_DIM = 64 };
enum { PROBE_BLOCK_TOKENS = 64 };

Status probe_matmul(const ProbeKernels *probe, PlanMachine *machine);
Status probe_attention(const ProbeKernels *probe, PlanMachine *machine);

/* Seconds of a call of `work`, which keeps so many threads busy: the median of three rounds of at least 30 ms, after one that is not
 * counted. Where other programs hold the cores, the time that ours had is what counts: a plan is for a machine that is left alone. */
double probe_seconds(uint32_t thread_count, void (*work)(void *user), void *user);

SPILLWAY_EXTERN_C_END

#endif
