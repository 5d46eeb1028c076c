#ifndef RUNTIME_ENGINE_ENGINE_PARTS_H
#define RUNTIME_ENGINE_ENGINE_PARTS_H

/* What the engine is made of, for its own files: engine_open.c (memory and agreement at start), engine_run.c (a step as every
 * rank runs it), engine.c (requests, and a step as rank 0 leads it), engine_stats.c (figures of all ranks). */

#include "kernels/backend.h"
#include "runtime/base/arena.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/forward.h"
#include "runtime/engine/kv_budget.h"
#include "runtime/engine/scheduler.h"
#include "runtime/engine/sequence.h"
#include "runtime/engine/step_plan.h"

/* The prompt that runs layer by layer, as rank 0 leads it: one layer over all its tokens, then the next (FlexGen's column order,
 * arXiv 2303.06865), so that a layer's K and V are read back no more than its own attention needs. */
typedef struct LayerMajor {
    uint32_t task;
    uint32_t token_count;     /* of the prompt */
    uint32_t layer, position; /* of the next unit */
} LayerMajor;

enum {
    QUEUE_COUNT = 4096,  /* requests that may wait */
    HEAD_ROWS_MAX = 128, /* rows of one head call: bounds logits memory */
    SLOTS_MAX = 256,     /* sequences at once */
};

/* What every rank says after the layers of a step. */
typedef struct RankReport {
    uint64_t step, digest;
    uint64_t stop;                    /* StopRequest seen by that rank */
    uint64_t layer_blocks;            /* that its tiers can hold now */
    uint64_t lost[SLOTS_MAX / 64];    /* bit s: a block of slot s was lost */
    uint64_t refused[SLOTS_MAX / 64]; /* and that for a codec's sake */
    EngineStats stats;                /* what concerns KV */
} RankReport;

/* Which row of the batch a logits row belongs to, on rank 0. */
typedef struct LogitOwner {
    uint32_t task;
    uint32_t position;
} LogitOwner;

struct Engine {
    EngineOptions options;
    const Weights *weights;
    const Tokenizer *tokenizer; /* NULL: tokens only */
    Comm *comm;
    Device *device;
    Kernels kernels;
    KernelContext context;
    ModelConfig config;
    ModelLoadOptions load;
    ModelSizes sizes;
    PackedFile packed; /* where options.packed_weights names one */
    Model model;
    uint32_t *layers_expected;       /* [3 * layers] scratch of a step */
    uint64_t weights_read, kv_moved; /* as of the step before: bytes of files */
    KvCache *cache;
    KvLayout layout;
    KvBudget budget;
    bool off_told[TIER_COUNT];     /* that the tier went off was said */
    TierBlocks blocks[TIER_COUNT]; /* as last counted */
    double blocks_due_seconds;     /* when to count again */
    uint32_t spill_file_count;
    SpillFile *spill_files; /* [options.kv_nvme_dir_count] */
    double forget_due;      /* seconds; when buffered spill files leave the page cache again */
    RingFile *ring_files;   /* the same, for the ring */
    Pass pass;
    PassTimes times;
    LogitsGather gather;
    CommDevice reduce;
    Arena activations; /* device memory */
    Arena host_logits; /* where copies may bring them */
    PlanChannel channel;
    uint32_t head_rows;

    /* the batch of the step; arrays sized by the token budget */
    Batch batch;
    BatchSequence *batch_sequences;
    uint32_t *positions;
    uint32_t *logit_rows;

    /* the layer-major prompt, on every rank */
    uint32_t prefill_rows;     /* longest such prompt; 0: none */
    float *prefill_x;          /* [prefill_rows][hidden] its residual stream between layers */
    uint32_t *prefill_numbers; /* [prefill_rows] 0, 1, … : positions, and rows that want logits */
    double unit_seconds;       /* a unit of the last step that had some took; 0: not known */

    /* rank 0 */
    Scheduler *scheduler;
    Sequence *sequences; /* by scheduler task */
    ScheduledRun *runs;  /* [slots] */
    LogitOwner *owners;  /* [token budget + prefill rows] */
    uint32_t *closes;    /* [slots] to close with the next plan */
    uint32_t close_count;
    uint32_t *dropped; /* [slots] scratch of a plan */
    LayerMajor layer_major;
    SamplerWorkspace **samplers; /* [threads] */
    SamplerOutput *sampled;      /* [head rows] */
    Status *sample_status;       /* [head rows] */
    uint32_t layer_blocks;       /* blocks a layer that the tiers of every rank can hold now */
    uint64_t lost[SLOTS_MAX / 64], refused[SLOTS_MAX / 64]; /* on any rank in this step */
    RankReport *reports;                                    /* [ranks] */
    uint64_t *report_bytes;                                 /* [ranks] */
    StopRequest stop;
    EngineStats stats;
};

/* Logits of owners [first, first + count), on rank 0 only. [count][vocab] */
typedef Status (*LogitsSink)(Engine *engine, uint32_t first, uint32_t count, const float *logits);

/* The head over the logit rows of pass->batch, a bounded number at a time; their owners begin at owner_first. Collective. */
Status engine_run_head(Engine *engine, Pass *pass, uint32_t owner_first, LogitsSink sink);

/* One planned step on this rank: slots, layers, logits to the sink (NULL on ranks > 0), reports. Collective. */
Status engine_run_step(Engine *engine, const StepPlan *plan, LogitsSink sink);

/* Streamed weights (engine_weights.c): what the step will use is read ahead; behind it, the share of disks goes by what it moved. */
void engine_expect_layers(Engine *engine, const StepPlan *plan);
void engine_share_disks(Engine *engine);
void engine_note_weights(Engine *engine);

/* Refuses, with the numbers, what --memory-limit or the device has no room for (engine_memory.c). */
Status memory_plan_check(Engine *engine);
uint64_t engine_activation_bytes(const Engine *engine);
uint64_t engine_logit_bytes(const Engine *engine); /* host memory beside them */
uint64_t engine_prefill_bytes(const Engine *engine);

/* The units of a layer-major prefill, on every rank: layers, then the logits that the plan wants, as owners from `owner_first`. */
Status prefill_run_units(Engine *engine, const StepPlan *plan);
Status prefill_logits(Engine *engine, const StepPlan *plan, uint32_t owner_first, LogitsSink sink);

/* Rank 0: adds the next units of the prompt that runs layer by layer, if there is one; what they want of logits has its owners
 * behind the `logit_row_count` of the step. */
void prefill_plan(Engine *engine, StepPlan *plan, uint32_t logit_row_count);
/* Rank 0: opens the task's slot with this plan, unless it is open. */
void plan_open(Engine *engine, uint32_t task, StepPlan *plan);

/* Raises engine->stop to what this rank was asked. */
void engine_note_stop(Engine *engine);

void engine_unit_begin(const Engine *engine, const char *phase); /* for the watchdog */
void engine_unit_end(const Engine *engine);

/* Fills the KV part of engine->stats from this rank's cache. */
void engine_note_kv(Engine *engine);

/* Every rank's KV and memory figures, summed into rank 0's stats. Collective. */
Status engine_gather_memory(Engine *engine);

/* The last plan: what ended is closed, transfers come to their end, figures are gathered. Collective. */
Status engine_wind_up(Engine *engine, const StepPlan *plan);

#endif
