#ifndef RUNTIME_ENGINE_SCHEDULER_H
#define RUNTIME_ENGINE_SCHEDULER_H

/* Which sequences run in the next step and with how many tokens: continuous batching (Orca, OSDI 2022) with chunked prefill
 * (Sarathi, arXiv 2308.16369). A pure function of its inputs: no clock, no memory, no I/O. One thread.
 *
 * Rules. Requests are admitted in order of arrival, when a slot is free and the blocks for their worst case (prompt +
 * max_tokens) are not promised to others: what runs always finishes. In a step every running sequence with one token to
 * go (decode) comes first, then prompts in order of admission, until the token budget is spent. A prompt longer than
 * layer_major_tokens does not take part: one at a time, it runs layer by layer beside the step (the engine cuts it).
 *
 * The KV budget may shrink under running tasks. Then those run, oldest first, whose worst cases still fit beside what the others
 * hold; the rest are parked with what they hold, and when not even the oldest fits, the youngest give theirs back. */

#include <stdint.h>

#include "runtime/engine/kv_layout.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct SchedulerLimits {
    uint32_t slot_count;         /* sequences at once */
    uint32_t token_budget;       /* rows of a step, at least slot_count */
    KvLayout layout;             /* how many slots a task's tokens take in a layer */
    uint32_t block_count;        /* a layer: the KV budget in slots of one layer */
    uint32_t queue_count;        /* requests that may wait */
    uint32_t layer_major_tokens; /* 0: no prompt runs layer by layer */
    /* With a codec: a prompt goes through each layer whole, in one step or layer by layer; and tokens that were generated before
     * their KV was lost run one a step again, so that the same is encoded at the same time. */
    bool whole_prompts;
} SchedulerLimits;

typedef struct ScheduledTask {
    uint64_t id;
    uint32_t prompt_count;
    uint32_t token_capacity; /* worst case: prompt + max_tokens */
    uint32_t token_count;    /* known now: prompt + generated */
    uint32_t computed_count; /* whose KV is cached */
    uint32_t slot;           /* while it runs */
    bool parked;             /* runs, but pauses: for want of room, or on request */
    bool park_requested;
} ScheduledTask;

/* What one task does in the step. */
typedef struct ScheduledRun {
    uint32_t task; /* index into scheduler_task */
    uint32_t token_count;
} ScheduledRun;

typedef struct Scheduler Scheduler;

Status scheduler_create(Scheduler **out, const SchedulerLimits *limits);
void scheduler_destroy(Scheduler *scheduler);

/* False when the task can never be admitted: its worst case needs more blocks than there are. */
bool scheduler_fits(const Scheduler *scheduler, uint32_t token_capacity);

/* Appends to the queue; STATUS_AGAIN when it is full. *out_task is its index until scheduler_remove. */
Status scheduler_add(Scheduler *scheduler, uint64_t id, uint32_t prompt_count,
                     uint32_t token_capacity, uint32_t *out_task);
void scheduler_remove(Scheduler *scheduler,
                      uint32_t task); /* running or waiting: frees its slot and blocks */

/* A running task waits again, before all others, and starts from nothing: its KV was lost. */
void scheduler_requeue(Scheduler *scheduler, uint32_t task);

/* The KV budget changed: a tier went away or came back. */
void scheduler_set_block_count(Scheduler *scheduler, uint32_t block_count);

/* Decides who is parked. out_dropped[slot_count]: tasks that have to give their blocks back (scheduler_requeue), youngest first. */
uint32_t scheduler_make_way(Scheduler *scheduler, uint32_t *out_dropped);

/* A task pauses with what it holds until it is asked to go on; it keeps its place and its promise. */
void scheduler_park(Scheduler *scheduler, uint32_t task, bool park);

/* Plans a step: out_runs[slot_count]; tasks that are admitted get their slot. admit false: nothing new starts (drain). */
uint32_t scheduler_plan(Scheduler *scheduler, bool admit, ScheduledRun *out_runs);

/* The running prompt that runs layer by layer now, since the last plan; SCHEDULER_NONE. It is done when all is computed. */
enum { SCHEDULER_NONE = UINT32_MAX };
uint32_t scheduler_layer_major(const Scheduler *scheduler);
/* Tokens that the task can run next, at once: its prompt, or all it knows, or one. */
uint32_t scheduler_next_count(const Scheduler *scheduler, uint32_t task);

ScheduledTask *scheduler_task(Scheduler *scheduler, uint32_t task);
uint32_t scheduler_running_count(const Scheduler *scheduler);
uint32_t scheduler_waiting_count(const Scheduler *scheduler);
/* Tasks in order: running by admission, then waiting by arrival. */
uint32_t scheduler_task_at(const Scheduler *scheduler, uint32_t position);

SPILLWAY_EXTERN_C_END

#endif
