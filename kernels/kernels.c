#include "kernels/kernels.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/reference/reference.h"
#include "runtime/base/arena.h"
#include "runtime/base/invariant.h"

/* ---- slots that stand on other slots, where the host's memory is the device's */

static Status context_open_host(const Kernels *kernels, Device *device, const KernelLimits *limits,
                                KernelContext *context) {
    (void)device;
    context->scratch_bytes = kernels->scratch_bytes(limits, team_thread_count(context->team));
    return memory_take(&context->scratch, context->scratch_bytes, 1, "kernel scratch");
}

static void context_close_host(Device *device, KernelContext *context) {
    (void)device;
    free(context->scratch);
    context->scratch = NULL;
}

typedef struct EncodeJob {
    const Kernels *kernels;
    const KvEncodeArgs *args;
} EncodeJob;

static void encode_block(void *user, uint32_t index, uint32_t thread_index) {
    (void)thread_index;
    const EncodeJob *job = user;
    const KvEncodeArgs *args = job->args;
    args->refused[index] = job->kernels->kv_encode(args->codec, &args->shape, args->blocks[index],
                                                   args->out_bytes[index]) != STATUS_OK;
}

static Status encode_blocks_host(const Kernels *kernels, const KernelContext *context,
                                 const KvEncodeArgs *args) {
    EncodeJob job = {.kernels = kernels, .args = args};
    CHECK(args->block_count <= KV_ENCODE_BLOCKS_MAX);
    team_run(context->team, args->block_count, encode_block, &job);
    return STATUS_OK;
}

static void check_block(void *user, uint32_t index, uint32_t thread_index) {
    (void)thread_index;
    const KvCheckArgs *args = user;
    args->refused[index] = !codec_takes_block(&args->shape, args->blocks[index]);
}

static Status check_blocks_host(const KernelContext *context, const KvCheckArgs *args) {
    KvCheckArgs job = *args;
    CHECK(args->block_count <= KV_CHECK_BLOCKS_MAX);
    team_run(context->team, args->block_count, check_block, &job);
    return STATUS_OK;
}

void kernels_fill_reference(Kernels *kernels) {
    kernels->name = kernels->layout = "reference";
    matmul_fill_reference(kernels);
    norm_fill_reference(kernels);
    rope_fill_reference(kernels);
    embed_fill_reference(kernels);
    attention_fill_reference(kernels);
    elementwise_fill_reference(kernels);
    kernels->kv_encode = codec_encode_block;
    kernels->kv_decode = codec_decode_block;
    kernels->context_open = context_open_host;
    kernels->context_close = context_close_host;
    kernels->kv_encode_blocks = encode_blocks_host;
    kernels->kv_check_blocks = check_blocks_host;
}

typedef struct SlotRow {
    const char *name;
    size_t offset;
} SlotRow;

#define SLOT(name) \
    { #name, offsetof(Kernels, name) }

static const SlotRow slot_rows[] = {
    SLOT(scratch_bytes),
    SLOT(context_open),
    SLOT(context_close),
    SLOT(kv_encode_blocks),
    SLOT(kv_check_blocks),
    SLOT(matrix_bytes),
    SLOT(matrix_pack),
    SLOT(matrix_describe),
    SLOT(matmul),
    SLOT(rms_norm),
    SLOT(layer_norm),
    SLOT(rope),
    SLOT(embed),
    SLOT(kv_store),
    SLOT(attend_begin),
    SLOT(attend),
    SLOT(attend_merge),
    SLOT(attend_end),
    SLOT(kv_encode),
    SLOT(kv_decode),
    SLOT(add),
    SLOT(silu_multiply),
    SLOT(relu),
};

enum { SLOT_COUNT = sizeof slot_rows / sizeof slot_rows[0] };

/* Kernels is its names and its slots: a slot without a row does not compile. */
_Static_assert(sizeof(Kernels) == 2 * sizeof(const char *) + SLOT_COUNT * sizeof(void (*)(void)),
               "slot_rows lists every slot");

bool kernels_complete(const Kernels *kernels, const char **out_missing) {
    for (size_t i = 0; i < SLOT_COUNT; i++) {
        void (*slot)(void);
        memcpy(&slot, (const char *)kernels + slot_rows[i].offset, sizeof slot);
        if (!slot) {
            *out_missing = slot_rows[i].name;
            return false;
        }
    }
    return true;
}
