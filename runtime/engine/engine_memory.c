/* What this rank will take in all, of the host's memory and of a device's own, reckoned before anything is packed, and the refusals
 * when --memory-limit or the device has no room for it. Where the host can address the device, its memory is the host's. */

#include <inttypes.h>
#include <stdio.h>

#include "runtime/engine/engine_parts.h"

/* The program, its libraries and threads, and what is small and not reckoned: 20 MiB for the smallest models, and as much again for
 * stacks, patterns of random weights and the allocator. A token of a vocabulary is kept as text and in tables; a block has a record. */
static const uint64_t program_bytes = 64ull << 20;
/* Of a device: kernels that are loaded late, pages that are not full. */
static const uint64_t device_margin_bytes = 64ull << 20;
enum { TOKEN_RECORD_BYTES = 256, BLOCK_RECORD_BYTES = 256, SAMPLER_TOKEN_BYTES = 32 };

enum { ROWS_MAX = 18, TEXT_BYTES = 768, ADVICE_BYTES = 256 };
static const double mebibyte = 1048576;

typedef struct MemoryPlan {
    struct {
        const char *name;
        uint64_t bytes;
    } rows[ROWS_MAX];
    uint32_t row_count;
    uint64_t bytes; /* sum of rows */
} MemoryPlan;

typedef struct MemoryPlans {
    bool own; /* the device has memory of its own; else its rows are the host's */
    MemoryPlan device, host;
} MemoryPlans;

static void add(MemoryPlan *plan, const char *name, uint64_t bytes) {
    if (bytes == 0) return;
    plan->rows[plan->row_count].name = name;
    plan->rows[plan->row_count++].bytes = bytes;
    plan->bytes += bytes;
}

static uint64_t small_bytes(const Engine *engine) {
    uint64_t blocks = 0, vocab = engine->config.vocab_count;
    for (int tier = 0; tier < TIER_COUNT; tier++)
        blocks += engine->budget.slots[tier];
    return program_bytes + blocks * BLOCK_RECORD_BYTES +
           vocab * SAMPLER_TOKEN_BYTES * engine->options.thread_count +
           (engine->tokenizer ? vocab * TOKEN_RECORD_BYTES : 0);
}

/* Weights on a device of its own come through host memory and lie in one chunk; on the host's they are used where the file is mapped. */
static void plan_weights(const ModelSizes *sizes, MemoryPlans *plans) {
    MemoryPlan *device = plans->own ? &plans->device : &plans->host;
    uint64_t layers = sizes->layer_bytes[TIER_DEVICE];
    add(device, "packed layers on the device", layers);
    add(device, "embedding, head, vectors",
        plans->own ? sizes->device_bytes - layers : sizes->fixed_bytes + sizes->mapped_bytes);
    add(device, "frames of layers that come by", sizes->device_frame_bytes);
    add(&plans->host, "packed layers in host memory", sizes->layer_bytes[TIER_HOST]);
    add(&plans->host, "frames of streamed layers", sizes->frame_bytes);
    add(&plans->host, "the matrix that is being packed", sizes->source_bytes);
    add(&plans->host, "weights on their way to the device", sizes->staged_bytes);
}

static void plan_blocks(const Engine *engine, MemoryPlans *plans) {
    MemoryPlan *device = plans->own ? &plans->device : &plans->host;
    const KvBudget *budget = &engine->budget;
    uint64_t slot_bytes = engine->layout.slot_bytes;
    uint64_t on_way = budget->bounce_slots + (plans->own ? 1ull : 0); /* KvCache.bounce */
    add(device, "KV on the device", (budget->slots[TIER_DEVICE] + 1ull) * slot_bytes);
    add(&plans->host, "KV in host memory", (budget->slots[TIER_HOST] + on_way) * slot_bytes);
}

static void plan_sums(const Engine *engine, MemoryPlans *plans) {
    static const char name[] = "sums over ranks";
    const Comm *comm = engine->comm;
    const char *choice = engine->options.comm;
    add(&plans->device, name, comm_device_bytes(comm, engine->device, choice, MEMORY_DEVICE));
    add(&plans->host, name, comm_device_bytes(comm, engine->device, choice, MEMORY_HOST));
}

static MemoryPlans plan_memory(const Engine *engine, const ModelSizes *sizes) {
    MemoryPlans plans = {.own = !engine->device->host_addressable};
    MemoryPlan *device = plans.own ? &plans.device : &plans.host;
    plan_weights(sizes, &plans);
    plan_blocks(engine, &plans);
    add(device, "activations", engine_activation_bytes(engine));
    add(device, "residual stream of a prompt", engine_prefill_bytes(engine));
    plan_sums(engine, &plans);
    add(&plans.host, "logits", engine_logits_bytes(engine));
    add(device, "attention on the host", engine_host_attend_bytes(engine, MEMORY_DEVICE));
    add(&plans.host, "attention on the host", engine_host_attend_bytes(engine, MEMORY_HOST));
    add(&plans.host, "kernel scratch", engine->context.scratch_bytes);
    add(&plans.host, "program and margin", small_bytes(engine));
    if (plans.own) add(&plans.device, "margin", device_margin_bytes);
    return plans;
}

uint64_t memory_plan_device_left(const Engine *engine) {
    uint64_t taken = plan_memory(engine, &engine->sizes).device.bytes, room = engine->device_room;
    return room > taken ? room - taken : 0;
}

static void describe(const MemoryPlan *plan, char *out, size_t out_bytes) {
    size_t at = 0;
    for (uint32_t i = 0; i < plan->row_count && at < out_bytes; i++)
        at += (size_t)snprintf(out + at, out_bytes - at, "%s%s %.1f MiB", i ? ", " : "",
                               plan->rows[i].name, (double)plan->rows[i].bytes / mebibyte);
}

/* Where the device's plan or the host's does not fit `room`: the largest share of the layers on the device, in steps of 5 per cent, with
 * which it does. False when not even none of them helps. */
static bool advise_share(Engine *engine, bool of_device, uint64_t room, char out[ADVICE_BYTES]) {
    uint64_t bytes = 0;
    int per_cent;
    for (per_cent = 100; per_cent >= 0; per_cent -= 5) {
        ModelSizes sizes = engine->sizes;
        model_try_share(&engine->model, per_cent, &sizes);
        const MemoryPlans plans = plan_memory(engine, &sizes);
        bytes = of_device ? plans.device.bytes : plans.host.bytes;
        if (bytes <= room) break;
    }
    double needed = (double)bytes / mebibyte;
    char share[16] = "min";
    if (per_cent > 0) snprintf(share, sizeof share, "%d%%", per_cent);
    if (per_cent >= 0)
        snprintf(out, ADVICE_BYTES,
                 "--weights-device-size %s with --weights-nvme-dir needs %.1f MiB", share, needed);
    else
        snprintf(out, ADVICE_BYTES,
                 "no less than %.1f MiB with --weights-device-size min: lower --kv-device-size, "
                 "--max-num-batched-tokens or --max-num-seqs",
                 needed);
    return per_cent >= 0;
}

static Status check_host(Engine *engine, const MemoryPlan *plan) {
    uint64_t limit = engine->options.memory_limit_bytes;
    char text[TEXT_BYTES] = "", advice[ADVICE_BYTES];
    if (limit == 0 || plan->bytes <= limit) return STATUS_OK;
    describe(plan, text, sizeof text);
    if (engine->device->host_addressable)
        advise_share(engine, false, limit, advice);
    else
        snprintf(advice, sizeof advice,
                 "lower --weights-host-size, --kv-host-size, --max-num-batched-tokens or "
                 "--max-num-seqs");
    FAIL(MEMORY, "--memory-limit %.1f MiB: rank %d needs %.1f MiB (%s); %s",
         (double)limit / mebibyte, engine->comm->rank, (double)plan->bytes / mebibyte, text,
         advice);
}

/* A device budget of keys and values that would fit, in whole MiB; 0: none. */
static uint64_t fitting_budget(Engine *engine, const MemoryPlan *plan) {
    KvBudgetInput input = engine_budget_input(engine);
    KvBudget budget;
    uint64_t blocks = (engine->budget.slots[TIER_DEVICE] + 1ull) * engine->layout.slot_bytes,
             others = plan->bytes - blocks + engine->layout.slot_bytes;
    if (others >= engine->device_room) return 0;
    input.bytes[TIER_DEVICE] = (engine->device_room - others) >> 20 << 20;
    error_capture_begin();
    bool fits = kv_budget_plan(&input, &budget) == STATUS_OK;
    error_capture_end();
    return fits ? input.bytes[TIER_DEVICE] : 0;
}

static Status check_device(Engine *engine, const MemoryPlan *plan) {
    char text[TEXT_BYTES] = "", advice[ADVICE_BYTES], shared[48] = "";
    if (plan->bytes <= engine->device_room) return STATUS_OK;
    describe(plan, text, sizeof text);
    uint64_t budget = fitting_budget(engine, plan);
    if (engine->device_sharers > 1)
        snprintf(shared, sizeof shared, ", its part of what %d ranks share",
                 engine->device_sharers);
    if (budget > 0)
        snprintf(advice, sizeof advice, "--kv-device-size %" PRIu64 "MiB fits", budget >> 20);
    else if (!advise_share(engine, true, engine->device_room, advice))
        snprintf(advice, sizeof advice,
                 "no --kv-device-size and no --weights-device-size fits: take more --ranks, lower "
                 "--max-num-batched-tokens, --max-num-seqs or --max-model-len");
    FAIL(DEVICE_MEMORY, "device %s: rank %d needs %.1f MiB (%s), %.1f MiB are free%s; %s",
         engine->device->name, engine->comm->rank, (double)plan->bytes / mebibyte, text,
         (double)engine->device_room / mebibyte, shared, advice);
}

Status memory_plan_check(Engine *engine) {
    const MemoryPlans plans = plan_memory(engine, &engine->sizes);
    engine->stats.memory_planned_bytes = plans.host.bytes;
    engine->stats.device_planned_bytes = plans.device.bytes;
    if (plans.own) {
        engine->stats.device_free_bytes = engine->device_room;
        TRY(check_device(engine, &plans.device));
    }
    return check_host(engine, &plans.host);
}
