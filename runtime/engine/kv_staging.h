#ifndef RUNTIME_ENGINE_KV_STAGING_H
#define RUNTIME_ENGINE_KV_STAGING_H

/* How much of the device staging needs: reads ahead go on while nothing is let go, so staging has to take what the disk gives while work
 * goes on between two letting-gos (a layer's matrix products, the head, a run of resident blocks), beside what is in the kernel
 * and what is being attended. A slot more of staging saves a read's time in each such pause that is longer, a slot more of home one
 * read a step: so the second longest pause of a step says how much. At a quarter of the KV in memory, staging of a quarter of that
 * costs 6 % more bytes a step. Plain data, one thread. */

#include <stdint.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct KvStaging {
    uint64_t slot_bytes;
    uint32_t slots_least, slots_most; /* bounds of the plan */
    double step_began, work_began;    /* seconds */
    double pauses[2];                 /* the longest of this step, and the next */
    uint64_t read_bytes_before;
    double planned; /* slots, falling slowly, rising at once */
} KvStaging;

/* A step begins at `now`, with so many bytes read since the start: the slots for it, from what the step before was like. */
uint32_t kv_staging_begin_step(KvStaging *staging, double now, uint64_t read_bytes);
/* Work begins on blocks that are at hand; it ends when they are let go. Waiting between is no pause: staging fills then. Where kernels run
 * behind the host they are let go later than the host asks for the next: pauses are between the times when they are. */
void kv_staging_work(KvStaging *staging, double now);
void kv_staging_let_go(KvStaging *staging, double now);

SPILLWAY_EXTERN_C_END

#endif
