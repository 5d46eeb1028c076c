/* What this rank will take in all, reckoned before anything is packed, and the refusal when --memory-limit, or a device with memory of
 * its own, has no room for it. */

#include <inttypes.h>
#include <stdio.h>

#include "runtime/base/invariant.h"
#include "runtime/engine/engine_parts.h"

/* The program, its libraries and threads, and what is small and not reckoned: 20 MiB for the smallest models, and as much again for
 * stacks, patterns of random weights and the allocator. A token of a vocabulary is kept as text and in tables; a block has a record. */
static const uint64_t program_bytes = 64ull << 20;
enum { TOKEN_RECORD_BYTES = 256, BLOCK_RECORD_BYTES = 256, SAMPLER_TOKEN_BYTES = 32 };

enum { ROWS_MAX = 16, TEXT_BYTES = 768 };

/* Whose memory a row is. Where the host can address the device there is one memory: the host's. */
typedef enum MemoryOwner { OWNER_HOST, OWNER_DEVICE, OWNER_COUNT } MemoryOwner;

typedef struct MemoryPlan {
    struct {
        const char *name;
        uint64_t bytes;
        MemoryOwner owner;
    } rows[ROWS_MAX];
    uint32_t row_count;
    uint64_t bytes[OWNER_COUNT]; /* sums of rows */
} MemoryPlan;

static void add(MemoryPlan *plan, MemoryOwner owner, const char *name, uint64_t bytes) {
    if (bytes == 0) return;
    CHECK(plan->row_count < ROWS_MAX);
    plan->rows[plan->row_count].name = name;
    plan->rows[plan->row_count].owner = owner;
    plan->rows[plan->row_count++].bytes = bytes;
    plan->bytes[owner] += bytes;
}

static uint64_t small_bytes(const Engine *engine) {
    uint64_t blocks = 0, vocab = engine->config.vocab_count;
    for (int tier = 0; tier < TIER_COUNT; tier++)
        blocks += engine->budget.slots[tier];
    return program_bytes + blocks * BLOCK_RECORD_BYTES +
           vocab * SAMPLER_TOKEN_BYTES * engine->options.thread_count +
           (engine->tokenizer ? vocab * TOKEN_RECORD_BYTES : 0);
}

static MemoryPlan plan_memory(const Engine *engine, const ModelSizes *sizes) {
    MemoryPlan plan = {.row_count = 0};
    MemoryOwner device = engine->device->host_addressable ? OWNER_HOST : OWNER_DEVICE;
    uint64_t slot_bytes = engine->layout.slot_bytes;
    add(&plan, device, "packed layers on the device", sizes->layer_bytes[TIER_DEVICE]);
    add(&plan, OWNER_HOST, "packed layers in host memory", sizes->layer_bytes[TIER_HOST]);
    add(&plan, OWNER_HOST, "frames of streamed layers", sizes->frame_bytes);
    add(&plan, device, "frames of layers that come by", sizes->device_frame_bytes);
    add(&plan, device, "embedding, head, vectors", sizes->fixed_bytes + sizes->mapped_bytes);
    add(&plan, OWNER_HOST, "the matrix that is being packed", sizes->source_bytes);
    add(&plan, device, "KV on the device", engine->budget.slots[TIER_DEVICE] * slot_bytes);
    add(&plan, OWNER_HOST, "KV in host memory", engine->budget.slots[TIER_HOST] * slot_bytes);
    add(&plan, OWNER_HOST, "KV on its way", engine->budget.bounce_slots * slot_bytes);
    add(&plan, device, "activations", engine_activation_bytes(engine));
    add(&plan, OWNER_HOST, "logits", engine_logit_bytes(engine));
    add(&plan, device, "residual stream of a prompt", engine_prefill_bytes(engine));
    add(&plan, OWNER_HOST, "kernel scratch", engine->context.scratch_bytes);
    add(&plan, OWNER_HOST, "program and margin", small_bytes(engine));
    return plan;
}

static void describe(const MemoryPlan *plan, MemoryOwner owner, char out[TEXT_BYTES]) {
    size_t at = 0;
    out[0] = 0;
    for (uint32_t i = 0; i < plan->row_count && at < TEXT_BYTES; i++)
        if (plan->rows[i].owner == owner)
            at += (size_t)snprintf(out + at, TEXT_BYTES - at, "%s%s %.1f MiB", at ? ", " : "",
                                   plan->rows[i].name, (double)plan->rows[i].bytes / 1048576);
}

static bool fits(const MemoryPlan *plan, const uint64_t limits[OWNER_COUNT]) {
    return plan->bytes[OWNER_HOST] <= limits[OWNER_HOST] &&
           plan->bytes[OWNER_DEVICE] <= limits[OWNER_DEVICE];
}

/* The largest share of the layers that may stay on the device, in steps of 5 per cent; false when not even none of them. */
static bool nearest_share(Engine *engine, const uint64_t limits[OWNER_COUNT],
                          uint32_t *out_per_cent, MemoryPlan *out) {
    for (int per_cent = 100; per_cent >= 0; per_cent -= 5) {
        ModelSizes sizes = engine->sizes;
        model_try_share(&engine->model, per_cent, &sizes);
        *out = plan_memory(engine, &sizes);
        *out_per_cent = (uint32_t)per_cent;
        if (fits(out, limits)) return true;
    }
    return false;
}

static Status refuse(Engine *engine, const MemoryPlan *plan, MemoryOwner owner,
                     const uint64_t limits[OWNER_COUNT]) {
    char text[TEXT_BYTES], advice[192], share[16] = "min", limit[64];
    uint32_t per_cent;
    MemoryPlan nearest;
    bool found = nearest_share(engine, limits, &per_cent, &nearest);
    double needed = (double)nearest.bytes[owner] / 1048576;
    describe(plan, owner, text);
    if (per_cent > 0) snprintf(share, sizeof share, "%u%%", per_cent);
    if (found)
        snprintf(advice, sizeof advice,
                 "--weights-device-size %s with --weights-nvme-dir needs %.1f MiB", share, needed);
    else
        snprintf(advice, sizeof advice,
                 "no less than %.1f MiB with --weights-device-size min: lower --kv-device-size, "
                 "--max-num-batched-tokens or --max-num-seqs",
                 needed);
    snprintf(limit, sizeof limit, owner == OWNER_HOST ? "--memory-limit %.1f MiB" : "%.1f MiB free",
             (double)limits[owner] / 1048576);
    FAIL(MEMORY, "%s%s%s: rank %d needs %.1f MiB (%s); %s",
         owner == OWNER_HOST ? "" : engine->device->name, owner == OWNER_HOST ? "" : ": ", limit,
         engine->comm->rank, (double)plan->bytes[owner] / 1048576, text, advice);
}

/* What --memory-limit allows of the host's memory, and what a device out of its reach has free. */
Status memory_plan_check(Engine *engine) {
    uint64_t limit = engine->options.memory_limit_bytes;
    uint64_t limits[OWNER_COUNT] = {limit > 0 ? limit : UINT64_MAX, UINT64_MAX};
    Device *device = engine->device;
    MemoryPlan plan = plan_memory(engine, &engine->sizes);
    engine->stats.memory_planned_bytes = plan.bytes[OWNER_HOST];
    if (!device->host_addressable) TRY(device->memory_free(device, &limits[OWNER_DEVICE]));
    for (int owner = 0; owner < OWNER_COUNT; owner++)
        if (plan.bytes[owner] > limits[owner])
            return refuse(engine, &plan, (MemoryOwner)owner, limits);
    return STATUS_OK;
}
