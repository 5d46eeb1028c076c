#ifndef RUNTIME_ENGINE_ENGINE_H
#define RUNTIME_ENGINE_ENGINE_H

/* The engine: requests in, tokens out, over all ranks of a Comm. Rank 0 schedules, broadcasts a step plan with a digest,
 * samples and delivers events; the others follow. The same calls on one rank and on many.
 *
 *     every rank:  engine_open
 *     rank 0:      engine_submit … engine_step until idle … engine_stop      others:  engine_follow
 *     every rank:  engine_close
 *
 * One thread a rank. A sink's callbacks may submit and cancel; they may not step. */

#include <stdint.h>

#include "runtime/comm/comm.h"
#include "runtime/engine/request.h"
#include "runtime/models/model.h"
#include "runtime/text/tokenizer.h"
#include "runtime/weights/weights.h"
#include "tiers/ring.h"
#include "tiers/spill_file.h"
#include "tiers/tier_manager.h"

SPILLWAY_EXTERN_C_BEGIN

/* Asked once a unit of work; see launch/stop.h. Ranks agree on it through the step plan. */
typedef enum StopRequest { STOP_NONE, STOP_DRAIN, STOP_HURRY } StopRequest;

typedef struct EngineHooks {
    void *user;
    StopRequest (*stop_requested)(void *user);         /* optional */
    void (*unit_begin)(void *user, const char *phase); /* optional: watchdog */
    void (*unit_end)(void *user);                      /* optional */
    /* Both optional and called by engine_open alone: the device is open, and out of the host's reach; a part of loading begins, which the next or unit_end
     * ends. */
    Status (*device_open)(void *user, const char *device);
    void (*load_begin)(void *user, const char *part);
} EngineHooks;

typedef struct EngineOptions {
    const char *backend;             /* "auto" */
    uint64_t emulation_seed;         /* of an emulated device: when it does what */
    uint64_t emulation_bytes;        /* of an emulated device: its memory; 0: 1 GiB */
    DeviceFailures device_failures;  /* tests: of an emulated device */
    const char *cpu_isa;             /* "auto" */
    uint32_t thread_count;           /* kernels of this rank */
    uint32_t max_model_len;          /* 0: the model's own */
    uint32_t max_num_seqs;           /* sequences in a step, at most 256 */
    bool max_num_seqs_auto;          /* fewer where KV budgets make them dear */
    uint32_t max_num_batched_tokens; /* rows of a step */
    uint32_t block_tokens;           /* 0: auto */
    /* KV budgets of this rank. Device 0: what max_num_seqs sequences need, at most half of what the host has free and of
     * memory_limit_bytes, or most of what a device with memory of its own has left beside all else; UINT64_MAX: the least that
     * works. Host and nvme 0: absent. */
    uint64_t kv_bytes[TIER_COUNT];
    bool
        kv_reads_ahead; /* the device's budget has room for reads ahead: they get it, however small it is */
    double
        kv_device_per_cent; /* of what the device has free for this rank, in place of bytes; 0: bytes */
    const char *const *kv_nvme_dirs; /* [kv_nvme_dir_count], striped */
    uint32_t kv_nvme_dir_count;
    /* Packed matrices of the layers: bytes of this rank that stay on the device and in host memory; the rest lies in files, at most as
     * many as nvme says, and streams through every pass. Device UINT64_MAX, or all 0: all stay. */
    uint64_t weight_bytes[TIER_COUNT];
    double weight_per_cent[TIER_COUNT];  /* of them, in place of bytes; 0: bytes */
    const char *const *weight_nvme_dirs; /* [weight_nvme_dir_count]; none: kv_nvme_dirs */
    uint32_t weight_nvme_dir_count;
    const char *packed_weights; /* a PackedFile, read in place of packing; NULL: none */
    uint64_t
        memory_limit_bytes; /* of the host, for this rank; 0: none. E-MEMORY before anything is packed when it is not enough */
    const char *kv_codec; /* name of a row of kernels/codec.h; NULL or "f16": none */
    const char *kv_tier_codecs[TIER_COUNT]; /* the same, of blocks that go down to host or nvme */
    /* Decodes attend blocks in host memory where they lie, on the CPU: for a device out of the host's reach, with a host tier. Which bits
     * come out then depends on budgets and timing. */
    bool attend_host;
    int64_t kv_residual; /* newest tokens that stay f16; negative: the codec's own */
    bool
        codec_during_prefill; /* also of a prompt that is on its way: lossy prefill, for comparisons */
    const char *kv_placement; /* name of a row */
    const uint64_t *
        kv_trace; /* [kv_trace_count]: uses of blocks, for a placement that needs them (tiers/placement.h) */
    uint64_t kv_trace_count;
    void (*kv_record)(void *user, uint64_t access); /* optional: makes such a trace */
    void *kv_record_user;
    const char *io_engine; /* "auto", "uring", "threads" */
    uint32_t io_depth;
    double io_timeout_seconds;  /* I/O of spill files that takes longer is given up; 0: never */
    uint32_t corrupt_max;       /* wrong blocks that turn a tier off; 0: 16 */
    bool corrupt_is_fatal;      /* E-SPILL-CRC instead of computing again */
    IoFaultPlan *io_faults;     /* tests; NULL: none */
    IoFaultPlan *weight_faults; /* the same for files of streamed weights */
    const char *comm;           /* how devices sum over ranks: "auto", "host", "nccl"; NULL: auto */
    double comm_timeout_seconds; /* of a wait for such sums; 0: none */
    EngineHooks hooks;
} EngineOptions;

typedef struct Engine Engine;

typedef struct EngineWeightStats {
    uint64_t bytes[TIER_COUNT]; /* packed layers that lie in each tier */
    uint64_t read_bytes;        /* of files */
    uint64_t sent_bytes;        /* of files and host memory, to a device out of the host's reach */
    uint64_t passes;            /* all layers once */
    double seconds_reading,
        seconds_stalled; /* while reads were out; while a layer was waited for: of rank 0 alone */
} EngineWeightStats;

typedef struct EngineMoves {
    uint64_t blocks, bytes;
} EngineMoves;

typedef struct EngineTierStats {
    uint64_t capacity_bytes, used_bytes, peak_bytes, read_bytes, written_bytes;
    uint64_t filling_blocks, sealed_blocks; /* whose copies lie here, as of the last count */
    uint64_t lost_blocks;                   /* their only copy lay here */
    uint64_t hits;                          /* pins of blocks that lay here */
    EngineMoves moves_in[REASON_COUNT], moves_out[REASON_COUNT];
    double seconds_stalled; /* waiting for blocks that lay here; device: for room */
    uint32_t off_count;     /* ranks whose tier went off */
} EngineTierStats;

/* Seconds spent, for the time split of a step and the summary. */
typedef struct EngineStats {
    uint64_t steps;
    uint64_t prompt_tokens, generated_tokens, recomputed_tokens;
    uint64_t requests_ok, requests_failed, requests_cancelled;
    uint32_t running, waiting, parked; /* parked: of those running */
    uint64_t parks;                    /* how often one had to pause */
    double seconds_prefill,
        seconds_decode; /* of steps that held any prefill row; of pure decode steps */
    double seconds_matmul, seconds_attention, seconds_collective, seconds_sampling, seconds_other;
    EngineTierStats
        tiers[TIER_COUNT]; /* this rank; summed over ranks once engine_stop is through */
    uint64_t corrupt_blocks, io_errors, late_transfers;
    uint64_t prefetch_useful, prefetch_late, prefetch_wasted;
    uint64_t wants_left_out; /* blocks that no queue had room to read ahead */
    uint64_t blocks_filling, blocks_sealed, blocks_lost; /* now */
    double seconds_tier_thread;                          /* CPU time of it, up to its last rest */
    double seconds_stalled[TIER_COUNT]; /* as in tiers, of this rank alone: a part of its steps */
    uint64_t kv_block_bytes;            /* of a slot: with header and padding */
    uint32_t kv_pack_blocks;            /* encoded blocks that share a slot; 0 without a codec */
    uint32_t kv_residual_tokens;        /* the newest, never encoded */
    uint64_t kv_packs;                  /* slots of encoded blocks that were made */
    double seconds_encode,
        seconds_encode_waited; /* behind steps; of it, while a step waited for it */
    uint64_t kv_raw_bytes,
        kv_stored_bytes; /* of the cached tokens as f16, and as they lay, when they were most */
    /* With attend_host: blocks attended in host memory, a layer and step each; what they would have moved, and what moved in their place */
    uint64_t host_attended_blocks, host_attended_bytes, host_partial_bytes;
    double seconds_host_attention;
    uint32_t kv_block_tokens;
    uint64_t weight_bytes;   /* packed, this rank */
    bool random_weights;     /* the model is a shape: no answer means anything */
    const char *weight_type; /* weights_type of its matrices; NULL: as the model has them */
    EngineWeightStats weights;
    /* Of this rank, as reckoned before anything was packed: of the host, and of a device with memory of its own (else 0). */
    uint64_t memory_planned_bytes, device_planned_bytes;
    uint64_t device_free_bytes;  /* then, for this rank; 0: the device's memory is the host's */
    uint64_t device_taken_bytes; /* by the end of engine_open; 0: not known, for ranks share it */
    uint64_t memory_peak_bytes;  /* resident; summed over ranks once engine_stop is through */
    double seconds_load;
    uint64_t
        determinism_digest; /* of all sampled tokens and plans: equal runs give equal digests */
} EngineStats;

/* Opens the backend, packs this rank's share of the weights, takes KV memory and scratch. Collective. */
Status engine_open(Engine **out, const EngineOptions *options, const Weights *weights,
                   const Tokenizer *tokenizer, Comm *comm);
void engine_close(Engine *engine);

const ModelConfig *engine_model(const Engine *engine);
uint32_t engine_max_model_len(const Engine *engine);
uint32_t engine_max_num_seqs(const Engine *engine); /* after the budgets had their say */
const RingFacts *
engine_ring(const Engine *engine); /* what is really on; NULL without an nvme tier */
/* Streamed weights of this rank; NULL when all stay in memory. */
WeightStream *engine_weight_stream(const Engine *engine);
/* A spill file of this rank, in the order of kv_nvme_dirs; NULL behind the last. */
const SpillFile *engine_spill_file(const Engine *engine, uint32_t index);
const char *engine_kernels_name(const Engine *engine); /* "avx512" */
/* Of attention on the host; NULL without attend_host. */
const char *engine_host_kernels_name(const Engine *engine);
/* How devices sum over ranks, and why not otherwise; "" where there is nothing to tell. */
const char *engine_sums_text(const Engine *engine);

/* Refuses at once, with the numbers, what can never run (E-CONTEXT-LENGTH, E-REQUEST); else the request waits its turn.
 * STATUS_AGAIN when the queue (4096 requests) is full. Rank 0. */
Status engine_submit(Engine *engine, const Request *request);
/* The request ends with FINISH_CANCELLED at the next step. STATUS_NOT_FOUND when it is not in the engine. Rank 0. */
Status engine_cancel(Engine *engine, uint64_t request_id);

/* The request pauses with its KV, which leaves the device for the tiers below first, until it is resumed: nothing is computed
 * again. STATUS_NOT_FOUND when it is not in the engine. Rank 0. */
Status engine_park(Engine *engine, uint64_t request_id);
Status engine_resume(Engine *engine, uint64_t request_id);

/* One step: schedule, run, sample, deliver. *out_idle: nothing runs or waits but what is parked. After a stop was requested anywhere, drain lets what
 * runs finish and hurry cancels it; *out_idle then comes true. Rank 0. */
Status engine_step(Engine *engine, bool *out_idle);
/* Every full block of keys and values that is stored as it is, on this rank, as it lies now; what `visit` answers but STATUS_OK ends it.
 * Inside a sink's callback, too. */
Status engine_visit_blocks(Engine *engine,
                           Status (*visit)(void *user, const KvShape *shape, const void *block),
                           void *user);

StopRequest engine_stop_seen(const Engine *engine);
/* Tells the other ranks to leave engine_follow, and gathers their memory figures into engine_stats. Rank 0. */
Status engine_stop(Engine *engine);
/* Runs steps as rank 0 plans them until engine_stop. Ranks > 0. */
Status engine_follow(Engine *engine);

const EngineStats *engine_stats(const Engine *engine);
/* The same with all that concerns KV summed over ranks, as of the last step. Rank 0. */
EngineStats engine_stats_of_ranks(const Engine *engine);

SPILLWAY_EXTERN_C_END

#endif
