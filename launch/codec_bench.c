#include "launch/codec_bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "launch/bench_measure.h"
#include "runtime/base/arena.h"
#include "runtime/base/invariant.h"
#include "runtime/base/monotonic.h"
#include "runtime/base/random.h"

enum {
    KV_HEADS = 3,
    HEAD_DIM = 64,
    BLOCK_TOKENS = 64,
    BLOCK_COUNT = 2048, /* 96 MiB of f16 */
    DRAWN_COUNT = 64,   /* blocks of numbers of their own; the others repeat them */
    PIECE_BLOCKS = 32,  /* timed together: a fraction of a millisecond */
    PIECE_COUNT = BLOCK_COUNT / PIECE_BLOCKS,
    ROUNDS = 2,
    CACHE_LINE = 64,
};

struct CodecBench {
    const Kernels *kernels;
    KvShape shape;
    uint64_t block_bytes;
    uint8_t *raw, *encoded, *decoded; /* [BLOCK_COUNT][block_bytes] */
    const void **pointers;            /* [PIECE_BLOCKS] */
    const Codec **codecs;             /* [PIECE_BLOCKS] */
    KernelContext context;
    uint16_t kv_head_index[CODEC_BENCH_HEADS];
    float q[CODEC_BENCH_HEADS * HEAD_DIM], out[CODEC_BENCH_HEADS * HEAD_DIM];
    float maxima[CODEC_BENCH_HEADS], sums[CODEC_BENCH_HEADS];
};

static void draw_numbers(CodecBench *bench) {
    Random random = {.key = 1};
    uint16_t *halves = (uint16_t *)bench->raw;
    for (uint64_t i = 0; i < DRAWN_COUNT * bench->block_bytes / sizeof *halves; i++)
        halves[i] = f32_to_f16(random_normal(&random));
    for (uint64_t block = DRAWN_COUNT; block < BLOCK_COUNT; block++)
        memcpy(bench->raw + block * bench->block_bytes,
               bench->raw + block % DRAWN_COUNT * bench->block_bytes, bench->block_bytes);
    for (uint32_t i = 0; i < CODEC_BENCH_HEADS * HEAD_DIM; i++)
        bench->q[i] = random_normal(&random);
    for (uint32_t head = 0; head < CODEC_BENCH_HEADS; head++)
        bench->kv_head_index[head] = (uint16_t)(head * KV_HEADS / CODEC_BENCH_HEADS);
}

static Status take_memory(CodecBench *bench) {
    const char *what = "blocks to measure codecs with";
    const KernelLimits limits = {.row_count = 1,
                                 .column_count = 1,
                                 .head_count = CODEC_BENCH_HEADS,
                                 .head_dim = HEAD_DIM,
                                 .block_tokens = BLOCK_TOKENS};
    bench->context.scratch_bytes = bench->kernels->scratch_bytes(&limits, 1);
    TRY(memory_take(&bench->context.scratch, bench->context.scratch_bytes, 1, what));
    TRY(memory_take((void **)&bench->raw, BLOCK_COUNT, bench->block_bytes, what));
    TRY(memory_take((void **)&bench->encoded, BLOCK_COUNT, bench->block_bytes, what));
    TRY(memory_take((void **)&bench->decoded, BLOCK_COUNT, bench->block_bytes, what));
    TRY(memory_take((void **)&bench->codecs, PIECE_BLOCKS, sizeof *bench->codecs, what));
    return memory_take((void **)&bench->pointers, PIECE_BLOCKS, sizeof *bench->pointers, what);
}

Status codec_bench_create(CodecBench **out, const Kernels *kernels) {
    CodecBench *bench;
    TRY(memory_take((void **)&bench, 1, sizeof *bench, "a benchmark"));
    bench->kernels = kernels;
    bench->shape = (KvShape){KV_HEADS, HEAD_DIM, BLOCK_TOKENS};
    bench->block_bytes = kv_block_bytes(&bench->shape);
    Status status = take_memory(bench);
    if (status != STATUS_OK) {
        codec_bench_destroy(bench);
        return status;
    }
    draw_numbers(bench);
    *out = bench;
    return STATUS_OK;
}

void codec_bench_destroy(CodecBench *bench) {
    if (!bench) return;
    free(bench->context.scratch);
    free(bench->raw);
    free(bench->encoded);
    free(bench->decoded);
    free(bench->codecs);
    free(bench->pointers);
    free(bench);
}

const KvShape *codec_bench_shape(const CodecBench *bench) {
    return &bench->shape;
}

/* ---- what is timed, PIECE_BLOCKS blocks from `first` on; false: the codec refused one */

typedef bool CodecWork(CodecBench *bench, const Codec *codec, uint64_t first);

static bool copy_piece(CodecBench *bench, const Codec *codec, uint64_t first) {
    (void)codec;
    memcpy(bench->decoded + first * bench->block_bytes, bench->raw + first * bench->block_bytes,
           PIECE_BLOCKS * bench->block_bytes);
    return true;
}

static bool encode_piece(CodecBench *bench, const Codec *codec, uint64_t first) {
    uint64_t bytes = codec_block_bytes(codec, &bench->shape);
    bool good = true;
    for (uint64_t block = first; block < first + PIECE_BLOCKS; block++)
        good =
            bench->kernels->kv_encode(codec, &bench->shape, bench->raw + block * bench->block_bytes,
                                      bench->encoded + block * bytes) == STATUS_OK &&
            good;
    return good;
}

static bool decode_piece(CodecBench *bench, const Codec *codec, uint64_t first) {
    uint64_t bytes = codec_block_bytes(codec, &bench->shape);
    for (uint64_t block = first; block < first + PIECE_BLOCKS; block++)
        bench->kernels->kv_decode(codec, &bench->shape, bench->encoded + block * bytes,
                                  bench->decoded + block * bench->block_bytes);
    return true;
}

static bool attend_piece(CodecBench *bench, const Codec *codec, uint64_t first) {
    uint64_t bytes = codec_block_bytes(codec, &bench->shape);
    for (uint64_t block = 0; block < PIECE_BLOCKS; block++) {
        bench->pointers[block] = bench->encoded + (first + block) * bytes;
        bench->codecs[block] = codec;
    }
    const AttendRun run = {.row_count = 1,
                           .position_first = PIECE_BLOCKS * BLOCK_TOKENS - 1,
                           .block_count = PIECE_BLOCKS,
                           .blocks = bench->pointers,
                           .codecs = bench->codecs};
    const AttendEdgeArgs edge = {1,           CODEC_BENCH_HEADS, HEAD_DIM, bench->maxima,
                                 bench->sums, bench->out};
    const AttendArgs args = {.shape = bench->shape,
                             .head_count = CODEC_BENCH_HEADS,
                             .kv_head_index = bench->kv_head_index,
                             .scale = 0.125f,
                             .q = bench->q,
                             .q_stride = CODEC_BENCH_HEADS * HEAD_DIM,
                             .maxima = bench->maxima,
                             .sums = bench->sums,
                             .out = bench->out,
                             .runs = &run,
                             .run_count = 1};
    bench->kernels->attend_begin(&bench->context, &edge);
    bench->kernels->attend(&bench->context, &args);
    return true;
}

/* Cold blocks are read from memory, which a cache of any size would else hide here. */
static void leave_cache(const uint8_t *bytes, uint64_t count) {
#if defined(__x86_64__)
    for (uint64_t i = 0; i < count; i += CACHE_LINE)
        __builtin_ia32_clflush(bytes + i);
    __builtin_ia32_mfence();
#else
    (void)bytes, (void)count;
#endif
}

/* Seconds for all blocks, which begin at `source` and take `bytes` each, by the median piece: other programs that take turns on
 * the core spoil pieces, not the figure. */
static double seconds_of(CodecBench *bench, const Codec *codec, CodecWork *work,
                         const uint8_t *source, uint64_t bytes) {
    double seconds[ROUNDS * PIECE_COUNT];
    for (uint32_t piece = 0; piece < PIECE_COUNT; piece++)
        work(bench, codec, piece * PIECE_BLOCKS); /* memory is touched */
    for (uint32_t i = 0; i < ROUNDS * PIECE_COUNT; i++) {
        leave_cache(source + i % PIECE_COUNT * PIECE_BLOCKS * bytes, PIECE_BLOCKS * bytes);
        double begin = monotonic_seconds();
        bool good = work(bench, codec, i % PIECE_COUNT * PIECE_BLOCKS);
        CHECK(good); /* numbers of our own */
        seconds[i] = monotonic_seconds() - begin;
    }
    return bench_statistics(seconds, ROUNDS * PIECE_COUNT).median * PIECE_COUNT;
}

void codec_error_add(CodecErrorSums *sums, const uint16_t *numbers, const uint16_t *decoded,
                     uint64_t count) {
    for (uint64_t i = 0; i < count; i++) {
        double number = (double)f16_to_f32(numbers[i]);
        double off = number - (double)f16_to_f32(decoded[i]);
        sums->numbers += number * number;
        sums->offs += off * off;
    }
}

double codec_error_relative(const CodecErrorSums *sums) {
    return sums->numbers > 0 ? sqrt(sums->offs / sums->numbers) : 0;
}

static double relative_error(const CodecBench *bench) {
    CodecErrorSums sums = {0};
    codec_error_add(&sums, (const uint16_t *)bench->raw, (const uint16_t *)bench->decoded,
                    DRAWN_COUNT * bench->block_bytes / sizeof(uint16_t));
    return codec_error_relative(&sums);
}

double codec_bench_copy_bytes_per_second(CodecBench *bench) {
    return (double)(BLOCK_COUNT * bench->block_bytes) /
           seconds_of(bench, NULL, copy_piece, bench->raw, bench->block_bytes);
}

Status codec_bench_measure(CodecBench *bench, const Codec *codec, CodecFigures *out) {
    const char *why = codec_refusal(codec, &bench->shape);
    if (why) FAIL(UNAVAILABLE, "codec %s: %s", codec->name, why);
    uint64_t raw_bytes = bench->block_bytes, bytes = codec_block_bytes(codec, &bench->shape);
    double all_bytes = (double)(BLOCK_COUNT * raw_bytes);
    CodecFigures figures = {.bits = 16.0 * (double)bytes / (double)raw_bytes};
    figures.encode_bytes_per_second =
        all_bytes / seconds_of(bench, codec, encode_piece, bench->raw, raw_bytes);
    figures.decode_bytes_per_second =
        all_bytes / seconds_of(bench, codec, decode_piece, bench->encoded, bytes);
    figures.error = relative_error(bench);
    figures.attend_tokens_per_second =
        (double)(BLOCK_COUNT * BLOCK_TOKENS) /
        seconds_of(bench, codec, attend_piece, bench->encoded, bytes);
    *out = figures;
    return STATUS_OK;
}
