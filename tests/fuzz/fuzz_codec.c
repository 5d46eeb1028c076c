/* Any bytes as an encoded block: the first four choose codec and shape, the rest (repeated) is the block. Decoding and
 * attention on every instruction set of this machine stay inside their buffers (a sanitizer, or the guard bytes behind
 * them, would tell), and attention gives each row a state. What decodes to finite numbers encodes again. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"
#include "tests/fuzz/fuzz.h"

enum { HEAD_BYTES = 4, GUARD_BYTES = 64, GUARD = 0xa5, QUERY_HEADS = 4, ROWS = 2 };

static uint8_t *guarded(uint64_t bytes) {
    uint8_t *memory = malloc(bytes + GUARD_BYTES);
    PROMISE(memory);
    memset(memory + bytes, GUARD, GUARD_BYTES);
    return memory;
}

static void release(uint8_t *memory, uint64_t bytes) {
    for (uint32_t i = 0; i < GUARD_BYTES; i++)
        PROMISE(memory[bytes + i] == GUARD);
    free(memory);
}

static void check_attend(const Kernels *kernels, const Codec *codec, const KvShape *shape,
                         const void *bytes) {
    const KernelLimits limits = {ROWS, 1, QUERY_HEADS, shape->head_dim, shape->block_tokens};
    KernelContext context = {.scratch_bytes = kernels->scratch_bytes(&limits, 1)};
    uint64_t columns = (uint64_t)QUERY_HEADS * shape->head_dim;
    uint16_t map[QUERY_HEADS];
    float maxima[ROWS * QUERY_HEADS], sums[ROWS * QUERY_HEADS];
    uint8_t *q = guarded(ROWS * columns * sizeof(float));
    uint8_t *out = guarded(ROWS * columns * sizeof(float));
    for (uint64_t i = 0; i < ROWS * columns; i++)
        ((float *)q)[i] = (float)(i % 7) - 3.0f;
    for (uint32_t head = 0; head < QUERY_HEADS; head++)
        map[head] = (uint16_t)(head % shape->kv_head_count);
    context.scratch = aligned_alloc(64, (context.scratch_bytes + 63) / 64 * 64);
    PROMISE(context.scratch);
    const AttendRun run = {.row_count = ROWS,
                           .position_first = shape->block_tokens - 1,
                           .block_count = 1,
                           .blocks = &bytes,
                           .codecs = &codec};
    const AttendEdgeArgs edge = {ROWS, QUERY_HEADS, shape->head_dim, maxima, sums, (float *)out};
    const AttendArgs args = {.shape = *shape,
                             .head_count = QUERY_HEADS,
                             .kv_head_index = map,
                             .scale = 0.125f,
                             .q = (const float *)q,
                             .q_stride = columns,
                             .maxima = maxima,
                             .sums = sums,
                             .out = (float *)out,
                             .runs = &run,
                             .run_count = 1};
    kernels->attend_begin(&context, &edge);
    kernels->attend(&context, &args);
    for (uint32_t i = 0; i < ROWS * QUERY_HEADS; i++)
        PROMISE(!(sums[i] < 0.0f));
    kernels->attend_end(&context, &edge);
    free(context.scratch);
    release(q, ROWS * columns * sizeof(float));
    release(out, ROWS * columns * sizeof(float));
}

static void check_kernels(const Kernels *kernels, const Codec *codec, const KvShape *shape,
                          const uint8_t *bytes) {
    uint64_t block_bytes = kv_block_bytes(shape), encoded_bytes = codec_block_bytes(codec, shape);
    uint8_t *block = guarded(block_bytes), *again = guarded(encoded_bytes);
    kernels->kv_decode(codec, shape, bytes, block);
    bool finite = true;
    for (uint64_t i = 0; i < block_bytes / 2; i++)
        finite = finite && (((const uint16_t *)block)[i] & 0x7c00) != 0x7c00;
    PROMISE((kernels->kv_encode(codec, shape, block, again) == STATUS_OK) == finite);
    check_attend(kernels, codec, shape, bytes);
    release(block, block_bytes);
    release(again, encoded_bytes);
}

static bool draw(const uint8_t *data, const Codec **out_codec, KvShape *out_shape) {
    uint32_t count = 0;
    while (codec_at(count))
        count++;
    *out_codec = codec_at(data[0] % count);
    *out_shape = (KvShape){1 + data[1] % 2u, 16u * (1 + data[2] % 16), 1 + data[3] % 20u};
    if (data[1] & 128) out_shape->block_tokens = 32 * (1 + data[3] % 2u);
    return !codec_refusal(*out_codec, out_shape);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const isas[] = {"reference", "avx2", "avx512"};
    const Codec *codec;
    KvShape shape;
    if (size <= HEAD_BYTES || !draw(data, &codec, &shape)) return 0;
    uint64_t encoded_bytes = codec_block_bytes(codec, &shape);
    uint8_t *bytes = guarded(encoded_bytes);
    for (uint64_t i = 0; i < encoded_bytes; i++)
        bytes[i] = data[HEAD_BYTES + i % (size - HEAD_BYTES)];
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
        const BackendOptions options = {.cpu_isa = isas[i]};
        Device *device;
        Kernels kernels;
        error_capture_begin();
        Status status = backend_open("cpu", &options, &device, &kernels);
        error_capture_end();
        if (status != STATUS_OK) continue;
        check_kernels(&kernels, codec, &shape, bytes);
        device->close(device);
    }
    release(bytes, encoded_bytes);
    return 0;
}
