/* What this rank will take in all, reckoned before anything is packed, and the refusal when --memory-limit has no room for it. */

#include <inttypes.h>
#include <stdio.h>

#include "runtime/engine/engine_parts.h"

/* The program, its libraries and threads, and what is small and not reckoned: 20 MiB for the smallest models, and as much again for
 * stacks, patterns of random weights and the allocator. A token of a vocabulary is kept as text and in tables; a block has a record. */
static const uint64_t program_bytes = 64ull << 20;
enum { TOKEN_RECORD_BYTES = 256, BLOCK_RECORD_BYTES = 256, SAMPLER_TOKEN_BYTES = 32 };

enum { ROWS_MAX = 12 };

typedef struct MemoryPlan {
    struct {
        const char *name;
        uint64_t bytes;
    } rows[ROWS_MAX];
    uint32_t row_count;
    uint64_t bytes; /* sum of rows */
} MemoryPlan;

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

static MemoryPlan plan_memory(const Engine *engine, const ModelSizes *sizes) {
    MemoryPlan plan = {.row_count = 0};
    uint64_t slot_bytes = engine->layout.slot_bytes;
    add(&plan, "packed layers on the device", sizes->layer_bytes[TIER_DEVICE]);
    add(&plan, "packed layers in host memory", sizes->layer_bytes[TIER_HOST]);
    add(&plan, "frames of streamed layers", sizes->frame_bytes);
    add(&plan, "embedding, head, vectors", sizes->fixed_bytes + sizes->mapped_bytes);
    add(&plan, "the matrix that is being packed", sizes->source_bytes);
    add(&plan, "KV on the device", engine->budget.slots[TIER_DEVICE] * slot_bytes);
    add(&plan, "KV in host memory", engine->budget.slots[TIER_HOST] * slot_bytes);
    add(&plan, "activations", engine_activation_bytes(engine));
    add(&plan, "residual stream of a prompt", engine_prefill_bytes(engine));
    add(&plan, "attention on the host", engine_host_attend_bytes(engine));
    add(&plan, "kernel scratch", engine->context.scratch_bytes);
    add(&plan, "program and margin", small_bytes(engine));
    return plan;
}

static void describe(const MemoryPlan *plan, char *out, size_t out_bytes) {
    size_t at = 0;
    for (uint32_t i = 0; i < plan->row_count && at < out_bytes; i++)
        at += (size_t)snprintf(out + at, out_bytes - at, "%s%s %.1f MiB", i ? ", " : "",
                               plan->rows[i].name, (double)plan->rows[i].bytes / 1048576);
}

/* The largest share of the layers that may stay on the device, in steps of 5 per cent; false when not even none of them. */
static bool nearest_share(Engine *engine, uint32_t *out_per_cent, uint64_t *out_bytes) {
    for (int per_cent = 100; per_cent >= 0; per_cent -= 5) {
        ModelSizes sizes = engine->sizes;
        model_try_share(&engine->model, per_cent, &sizes);
        *out_bytes = plan_memory(engine, &sizes).bytes;
        *out_per_cent = (uint32_t)per_cent;
        if (*out_bytes <= engine->options.memory_limit_bytes) return true;
    }
    return false;
}

Status memory_plan_check(Engine *engine) {
    uint64_t limit = engine->options.memory_limit_bytes, nearest_bytes;
    MemoryPlan plan = plan_memory(engine, &engine->sizes);
    char text[768] = "", advice[192];
    uint32_t per_cent;
    engine->stats.memory_planned_bytes = plan.bytes;
    if (limit == 0 || plan.bytes <= limit) return STATUS_OK;
    describe(&plan, text, sizeof text);
    if (!nearest_share(engine, &per_cent, &nearest_bytes))
        snprintf(advice, sizeof advice,
                 "no less than %.1f MiB with --weights-device-size min: lower --kv-device-size, "
                 "--max-num-batched-tokens or --max-num-seqs",
                 (double)nearest_bytes / 1048576);
    else if (per_cent > 0)
        snprintf(advice, sizeof advice,
                 "--weights-device-size %u%% with --weights-nvme-dir needs %.1f MiB", per_cent,
                 (double)nearest_bytes / 1048576);
    else
        snprintf(advice, sizeof advice,
                 "--weights-device-size min with --weights-nvme-dir needs %.1f MiB",
                 (double)nearest_bytes / 1048576);
    FAIL(MEMORY, "--memory-limit %.1f MiB: rank %d needs %.1f MiB (%s); %s",
         (double)limit / 1048576, engine->comm->rank, (double)plan.bytes / 1048576, text, advice);
}
