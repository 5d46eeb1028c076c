/* The KV codecs: a table with what they cost and give on this machine, and the door through which outside tests put
 * arrays of keys and values into one block and back. */

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "kernels/backend.h"
#include "launch/codec_bench.h"
#include "launch/command.h"
#include "launch/npy.h"
#include "runtime/base/arena.h"
#include "runtime/base/bytes.h"

/* Runs `work` with the kernels that --cpu-isa names. */
static Status with_kernels(const Settings *settings,
                           Status (*work)(const Settings *settings, const Kernels *kernels)) {
    const BackendOptions options = {.cpu_isa = settings->cpu_isa};
    Device *device;
    Kernels kernels;
    TRY(backend_open("cpu", &options, &device, &kernels));
    Status status = work(settings, &kernels);
    device->close(device);
    TRY(status);
    if (fflush(stdout) || ferror(stdout)) FAIL(OUTPUT_WRITE, "writing to standard output failed");
    return STATUS_OK;
}

static Status print_json(json_t *value) {
    if (!value) FAIL(MEMORY, "no memory for the answer");
    json_dumpf(value, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(value);
    return STATUS_OK;
}

/* ---- codecs */

static json_t *figures_json(const Codec *codec, const CodecFigures *figures) {
    return json_pack("{ss ss sf sf sf sf sf si}", "name", codec->name, "paper", codec->paper,
                     "bits_per_value", figures->bits, "gaussian_error", figures->error,
                     "encode_bytes_per_second", figures->encode_bytes_per_second,
                     "decode_bytes_per_second", figures->decode_bytes_per_second,
                     "attend_tokens_per_second", figures->attend_tokens_per_second,
                     "residual_tokens", (int)codec->residual_tokens);
}

static void print_heading(const CodecBench *bench, const Kernels *kernels, double copy) {
    const KvShape *shape = codec_bench_shape(bench);
    printf("one thread, kernels %s; blocks of %" PRIu32 " tokens, %" PRIu32 " KV heads of %" PRIu32
           ", %d query heads;\nGB/s of f16 numbers, memcpy %.1f\n\n",
           kernels->name, shape->block_tokens, shape->kv_head_count, shape->head_dim,
           CODEC_BENCH_HEADS, copy / 1e9);
    printf("%-14s %9s %8s %11s %11s %15s  %s\n", "", "bits a", "error on", "encode GB/s",
           "decode GB/s", "attend Mtoken/s", "");
    printf("%-14s %9s %8s\n", "", "number", "N(0, 1)");
}

static Status measure_all(const Settings *settings, const Kernels *kernels, CodecBench *bench) {
    double copy = codec_bench_copy_bytes_per_second(bench);
    json_t *list = settings->json ? json_array() : NULL;
    const Codec *codec;
    if (!list) print_heading(bench, kernels, copy);
    for (uint32_t i = 0; (codec = codec_at(i)); i++) {
        CodecFigures figures;
        Status status = codec_bench_measure(bench, codec, &figures);
        if (status != STATUS_OK) {
            json_decref(list);
            return status;
        }
        if (list)
            json_array_append_new(list, figures_json(codec, &figures));
        else
            printf("%-14s %9.3f %8.4f %11.1f %11.1f %15.1f  %s\n", codec->name, figures.bits,
                   figures.error, figures.encode_bytes_per_second / 1e9,
                   figures.decode_bytes_per_second / 1e9, figures.attend_tokens_per_second / 1e6,
                   codec->paper);
    }
    if (!list) return STATUS_OK;
    return print_json(json_pack("{ss sf so}", "kernels", kernels->name, "memcpy_bytes_per_second",
                                copy, "codecs", list));
}

static Status list_codecs(const Settings *settings, const Kernels *kernels) {
    CodecBench *bench;
    TRY(codec_bench_create(&bench, kernels));
    Status status = measure_all(settings, kernels, bench);
    codec_bench_destroy(bench);
    return status;
}

/* ---- codecs roundtrip */

typedef struct Roundtrip {
    const Codec *codec;
    KvShape shape;                     /* all tokens are one block */
    NpyArray arrays[CODEC_PART_COUNT]; /* [token][kv_head][head_dim] */
    uint16_t *block;
    void *bytes;
} Roundtrip;

static Status find_codec(const char *name, const Codec **out) {
    char names[256];
    *out = codec_find(name);
    if (!*out)
        FAIL(USAGE, "there is no codec \"%s\"; there are %s", name,
             codec_names(names, sizeof names));
    return STATUS_OK;
}

static Status check_shapes(Roundtrip *roundtrip, const Settings *settings) {
    const NpyShape *keys = &roundtrip->arrays[CODEC_KEYS].shape;
    const NpyShape *values = &roundtrip->arrays[CODEC_VALUES].shape;
    if (keys->dim_count != 3)
        FAIL(NPY, "\"%s\": it has not three dimensions: tokens, KV heads, head size",
             settings->keys);
    if (memcmp(keys, values, sizeof *keys) != 0)
        FAIL(NPY, "\"%s\": it has another shape than \"%s\"", settings->values, settings->keys);
    for (uint32_t i = 0; i < 3; i++)
        if (keys->dims[i] > UINT32_MAX / 2) FAIL(NPY, "\"%s\": it is too large", settings->keys);
    roundtrip->shape =
        (KvShape){(uint32_t)keys->dims[1], (uint32_t)keys->dims[2], (uint32_t)keys->dims[0]};
    const char *why = codec_refusal(roundtrip->codec, &roundtrip->shape);
    if (why)
        FAIL(USAGE, "codec %s cannot take %" PRIu32 " tokens with heads of %" PRIu32 ": %s",
             roundtrip->codec->name, roundtrip->shape.block_tokens, roundtrip->shape.head_dim, why);
    return STATUS_OK;
}

typedef enum Direction { TO_BLOCK, FROM_BLOCK } Direction;

static uint64_t elements_of(const KvShape *shape) {
    return (uint64_t)shape->kv_head_count * shape->block_tokens * shape->head_dim;
}

/* Between [token][kv_head][head_dim] in f32 and [kv_head][token][head_dim] in f16. */
static void move_part(Roundtrip *roundtrip, CodecPart part, Direction direction) {
    const KvShape *shape = &roundtrip->shape;
    float *numbers = roundtrip->arrays[part].numbers;
    uint16_t *halves = roundtrip->block + part * elements_of(shape);
    for (uint64_t token = 0; token < shape->block_tokens; token++)
        for (uint64_t head = 0; head < shape->kv_head_count; head++) {
            float *row = numbers + (token * shape->kv_head_count + head) * shape->head_dim;
            uint16_t *half_row = halves + (head * shape->block_tokens + token) * shape->head_dim;
            for (uint32_t i = 0; i < shape->head_dim; i++)
                if (direction == TO_BLOCK)
                    half_row[i] = f32_to_f16(row[i]);
                else
                    row[i] = f16_to_f32(half_row[i]);
        }
}

/* Which number it was that cannot be encoded. */
static Status refuse_number(const Roundtrip *roundtrip, const Settings *settings) {
    uint64_t columns = (uint64_t)roundtrip->shape.kv_head_count * roundtrip->shape.head_dim;
    for (CodecPart part = CODEC_KEYS; part < CODEC_PART_COUNT; part++)
        for (uint64_t i = 0; i < elements_of(&roundtrip->shape); i++) {
            float number = roundtrip->arrays[part].numbers[i];
            if (fabsf(f16_to_f32(f32_to_f16(number))) < INFINITY) continue;
            FAIL(NPY,
                 "\"%s\": token %" PRIu64 ", head %" PRIu64 ", number %" PRIu64
                 " is %g: keys and values must be finite as float16",
                 part == CODEC_KEYS ? settings->keys : settings->values, i / columns,
                 i % columns / roundtrip->shape.head_dim, i % roundtrip->shape.head_dim,
                 (double)number);
        }
    FAIL(INVARIANT, "codec %s refuses finite numbers", roundtrip->codec->name);
}

static Status pass_through(Roundtrip *roundtrip, const Settings *settings, const Kernels *kernels) {
    const KvShape *shape = &roundtrip->shape;
    uint64_t bytes = codec_block_bytes(roundtrip->codec, shape);
    TRY(memory_take((void **)&roundtrip->block, kv_block_bytes(shape), 1, "a block"));
    TRY(memory_take(&roundtrip->bytes, bytes, 1, "an encoded block"));
    move_part(roundtrip, CODEC_KEYS, TO_BLOCK);
    move_part(roundtrip, CODEC_VALUES, TO_BLOCK);
    if (kernels->kv_encode(roundtrip->codec, shape, roundtrip->block, roundtrip->bytes) !=
        STATUS_OK)
        return refuse_number(roundtrip, settings);
    kernels->kv_decode(roundtrip->codec, shape, roundtrip->bytes, roundtrip->block);
    move_part(roundtrip, CODEC_KEYS, FROM_BLOCK);
    move_part(roundtrip, CODEC_VALUES, FROM_BLOCK);
    TRY(npy_write(&roundtrip->arrays[CODEC_KEYS], settings->output_keys));
    TRY(npy_write(&roundtrip->arrays[CODEC_VALUES], settings->output_values));
    if (settings->json)
        return print_json(json_pack("{ss sI}", "codec", roundtrip->codec->name, "stored_bytes",
                                    (json_int_t)bytes));
    printf("%s: %" PRIu64 " bytes for %" PRIu64 " numbers, %.4g bits each\n",
           roundtrip->codec->name, bytes, 2 * elements_of(shape),
           4.0 * (double)bytes / (double)elements_of(shape));
    return STATUS_OK;
}

static Status read_and_pass(Roundtrip *roundtrip, const Settings *settings,
                            const Kernels *kernels) {
    TRY(find_codec(settings->codec, &roundtrip->codec));
    TRY(npy_read(&roundtrip->arrays[CODEC_KEYS], settings->keys));
    TRY(npy_read(&roundtrip->arrays[CODEC_VALUES], settings->values));
    TRY(check_shapes(roundtrip, settings));
    return pass_through(roundtrip, settings, kernels);
}

static Status roundtrip_arrays(const Settings *settings, const Kernels *kernels) {
    Roundtrip roundtrip = {.codec = NULL};
    Status status = read_and_pass(&roundtrip, settings, kernels);
    free(roundtrip.arrays[CODEC_KEYS].numbers);
    free(roundtrip.arrays[CODEC_VALUES].numbers);
    free(roundtrip.block);
    free(roundtrip.bytes);
    return status;
}

static int codecs(const Settings *settings) {
    return error_exit_code(with_kernels(settings, list_codecs));
}

static int codecs_roundtrip(const Settings *settings) {
    return error_exit_code(with_kernels(settings, roundtrip_arrays));
}

const Command command_codecs[] = {
    {.name = "codecs",
     .summary = "how cold keys and values can be stored: bits, error, speeds measured now",
     .positionals = "",
     .needs = "",
     .takes = "json cpu-isa",
     .run = codecs},
    {.name = "codecs roundtrip",
     .summary = "encode and decode keys and values given as NumPy files",
     .positionals = "codec",
     .needs = "codec keys values output-keys output-values",
     .takes = "codec keys values output-keys output-values json cpu-isa",
     .run = codecs_roundtrip},
    {.name = NULL},
};
