#include "launch/probe_compute.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/base/invariant.h"
#include "runtime/base/random.h"

enum {
    KV_HEADS = 4,
    BLOCK_COUNT = 2048, /* 128 MiB of f16 */
    DRAWN_COUNT = 64,   /* of numbers of their own; the others repeat them */
    SEQUENCES = 32,
    SEQUENCE_BLOCKS = BLOCK_COUNT / SEQUENCES,
    PROMPT_BLOCKS = PROBE_ROWS / PROBE_BLOCK_TOKENS,
};

static const KvShape shape = {KV_HEADS, PROBE_HEAD_DIM, PROBE_BLOCK_TOKENS};

typedef struct Attention {
    const ProbeKernels *probe;
    uint8_t *raw, *encoded; /* [DRAWN_COUNT][block bytes], [BLOCK_COUNT][block bytes] */
    const void *blocks[BLOCK_COUNT];
    const Codec *codecs[BLOCK_COUNT];
    AttendRun runs[SEQUENCES];
    uint16_t kv_head_index[PROBE_HEADS];
    float *q, *out, *maxima, *sums; /* [PROBE_ROWS][PROBE_HEADS]… */
    AttendArgs args;
    AttendEdgeArgs edge;
} Attention;

static void attend(void *user) {
    Attention *attention = user;
    const Kernels *kernels = attention->probe->kernels;
    kernels->attend_begin(attention->probe->context, &attention->edge);
    kernels->attend(attention->probe->context, &attention->args);
}

static Status take_memory(Attention *attention) {
    const char *what = "attention to measure";
    uint64_t heads = PROBE_ROWS * PROBE_HEADS, bytes = kv_block_bytes(&shape);
    TRY(memory_take((void **)&attention->raw, DRAWN_COUNT, bytes, what));
    TRY(memory_take((void **)&attention->encoded, BLOCK_COUNT, bytes, what));
    TRY(memory_take((void **)&attention->q, heads * PROBE_HEAD_DIM, sizeof(float), what));
    TRY(memory_take((void **)&attention->out, heads * PROBE_HEAD_DIM, sizeof(float), what));
    TRY(memory_take((void **)&attention->maxima, heads, sizeof(float), what));
    return memory_take((void **)&attention->sums, heads, sizeof(float), what);
}

static void draw_numbers(Attention *attention) {
    Random random = {.key = 5};
    uint16_t *halves = (uint16_t *)attention->raw;
    for (uint64_t i = 0; i < DRAWN_COUNT * kv_block_bytes(&shape) / sizeof *halves; i++)
        halves[i] = f32_to_f16(random_normal(&random));
    for (uint64_t i = 0; i < (uint64_t)PROBE_ROWS * PROBE_HEADS * PROBE_HEAD_DIM; i++)
        attention->q[i] = random_normal(&random);
}

/* Blocks of the codec, one behind the other; false: it refused one. */
static bool store_blocks(Attention *attention, const Codec *codec) {
    uint64_t raw_bytes = kv_block_bytes(&shape), bytes = codec_block_bytes(codec, &shape);
    for (uint32_t block = 0; block < BLOCK_COUNT; block++) {
        uint8_t *to = attention->encoded + block * bytes;
        const uint8_t *raw = attention->raw + block % DRAWN_COUNT * raw_bytes;
        if (block >= DRAWN_COUNT)
            memcpy(to, attention->encoded + block % DRAWN_COUNT * bytes, bytes);
        else if (attention->probe->kernels->kv_encode(codec, &shape, raw, to) != STATUS_OK)
            return false;
        attention->blocks[block] = to;
        attention->codecs[block] = codec;
    }
    return true;
}

/* Query heads side by side over the KV heads. */
static void set_heads(Attention *attention, uint32_t row_count, uint32_t head_count) {
    for (uint32_t head = 0; head < head_count; head++)
        attention->kv_head_index[head] = (uint16_t)(head * KV_HEADS / head_count);
    attention->args = (AttendArgs){.shape = shape,
                                   .head_count = head_count,
                                   .kv_head_index = attention->kv_head_index,
                                   .scale = 0.125f,
                                   .q = attention->q,
                                   .q_stride = head_count * PROBE_HEAD_DIM,
                                   .maxima = attention->maxima,
                                   .sums = attention->sums,
                                   .out = attention->out,
                                   .runs = attention->runs};
    attention->edge = (AttendEdgeArgs){row_count,         head_count,      PROBE_HEAD_DIM,
                                       attention->maxima, attention->sums, attention->out};
}

/* One new token of each sequence on all its blocks. */
static double decode_seconds(Attention *attention, uint32_t head_count) {
    set_heads(attention, SEQUENCES, head_count);
    for (uint32_t i = 0; i < SEQUENCES; i++)
        attention->runs[i] = (AttendRun){.row_first = i,
                                         .row_count = 1,
                                         .position_first = SEQUENCE_BLOCKS * PROBE_BLOCK_TOKENS - 1,
                                         .block_count = SEQUENCE_BLOCKS,
                                         .blocks = attention->blocks + i * SEQUENCE_BLOCKS,
                                         .codecs = attention->codecs + i * SEQUENCE_BLOCKS};
    attention->args.run_count = SEQUENCES;
    return probe_seconds(team_thread_count(attention->probe->context->team), attend, attention);
}

/* A prompt on itself. */
static double prompt_seconds(Attention *attention) {
    set_heads(attention, PROBE_ROWS, PROBE_HEADS);
    attention->runs[0] = (AttendRun){.row_count = PROBE_ROWS,
                                     .block_count = PROMPT_BLOCKS,
                                     .blocks = attention->blocks,
                                     .codecs = attention->codecs};
    attention->args.run_count = 1;
    return probe_seconds(team_thread_count(attention->probe->context->team), attend, attention);
}

/* Two equations: bytes / byte_rate + n * operations / operation_rate = seconds, for n = 1 and 4. Where noise leaves nothing for one of the
 * two, it gets a twentieth. */
PlanAttention probe_attention_rates(double bytes, double operations, double seconds_one,
                                    double seconds_four) {
    double computing = (seconds_four - seconds_one) / 3;
    if (computing < seconds_one / 20) computing = seconds_one / 20;
    if (computing > seconds_one * 19 / 20) computing = seconds_one * 19 / 20;
    return (PlanAttention){bytes / (seconds_one - computing), operations / computing};
}

static Status measure(Attention *attention, PlanMachine *machine) {
    const Codec *codec;
    double tokens = BLOCK_COUNT * PROBE_BLOCK_TOKENS;
    double operations = 4.0 * KV_HEADS * PROBE_HEAD_DIM * tokens;
    for (uint32_t i = 0; i < PLAN_CODECS_MAX && (codec = codec_at(i)); i++) {
        if (codec_refusal(codec, &shape)) continue;
        bool stored = store_blocks(attention, codec);
        CHECK(stored); /* numbers of our own */
        double one = decode_seconds(attention, KV_HEADS);
        double four = decode_seconds(attention, 4 * KV_HEADS);
        double bytes = (double)BLOCK_COUNT * (double)codec_block_bytes(codec, &shape);
        machine->attention[i] = probe_attention_rates(bytes, operations, one, four);
        if (codec_is_raw(codec))
            machine->prompt_rate = 2.0 * PROBE_HEADS * PROBE_HEAD_DIM * PROBE_ROWS * PROBE_ROWS /
                                   prompt_seconds(attention);
    }
    return STATUS_OK;
}

Status probe_attention(const ProbeKernels *probe, PlanMachine *machine) {
    Attention *attention;
    TRY(memory_take((void **)&attention, 1, sizeof *attention, "attention to measure"));
    attention->probe = probe;
    Status status = take_memory(attention);
    if (status == STATUS_OK) {
        draw_numbers(attention);
        status = measure(attention, machine);
    }
    void *const memory[] = {attention->raw, attention->encoded, attention->q,
                            attention->out, attention->maxima,  attention->sums};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        free(memory[i]);
    free(attention);
    return status;
}
