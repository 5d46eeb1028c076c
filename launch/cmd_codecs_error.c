/* How far decoding is off on keys and values as a model makes them: a text is run through it, and every full block that it leaves
 * goes through every codec. */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include <jansson.h>

#include "launch/codec_bench.h"
#include "launch/command.h"
#include "launch/session.h"
#include "launch/whole_file.h"
#include "runtime/base/arena.h"

enum { TEXT_BYTES_MAX = 1 << 24, CODECS_MAX = 32 };

typedef struct ErrorJob {
    Session *session;
    TokenList tokens;
    KvShape shape;
    CodecErrorSums codecs[CODECS_MAX][CODEC_PART_COUNT]; /* over all numbers */
    uint64_t block_count;
    void *bytes;       /* an encoded block */
    uint16_t *decoded; /* a block */
    Status status;
} ErrorJob;

static Status add_block(ErrorJob *job, const Codec *codec, CodecErrorSums *sums,
                        const void *block) {
    const uint16_t *halves = block;
    uint64_t count = kv_block_bytes(&job->shape) / sizeof *halves / CODEC_PART_COUNT;
    if (codec_encode_block(codec, &job->shape, block, job->bytes) != STATUS_OK)
        FAIL(NAN_LOGITS, "keys or values of this text are not finite");
    codec_decode_block(codec, &job->shape, job->bytes, job->decoded);
    for (int part = 0; part < CODEC_PART_COUNT; part++)
        codec_error_add(&sums[part], halves + part * count, job->decoded + part * count, count);
    return STATUS_OK;
}

static Status take_memory(ErrorJob *job, const KvShape *shape) {
    uint64_t bytes = kv_block_bytes(shape);
    job->shape = *shape;
    for (uint32_t i = 0; codec_at(i); i++)
        if (!codec_refusal(codec_at(i), shape) && codec_block_bytes(codec_at(i), shape) > bytes)
            bytes = codec_block_bytes(codec_at(i), shape);
    TRY(memory_take(&job->bytes, bytes, 1, "an encoded block"));
    return memory_take((void **)&job->decoded, bytes, 1, "a block");
}

static Status visit(void *user, const KvShape *shape, const void *block) {
    ErrorJob *job = user;
    if (!job->bytes) TRY(take_memory(job, shape));
    job->block_count++;
    for (uint32_t i = 0; i < CODECS_MAX && codec_at(i); i++)
        if (!codec_refusal(codec_at(i), shape))
            TRY(add_block(job, codec_at(i), job->codecs[i], block));
    return STATUS_OK;
}

/* The prompt is cached, and its sequence still runs. */
static void on_token(void *user, const TokenEvent *event) {
    ErrorJob *job = user;
    if (event->index == 0) job->status = engine_visit_blocks(job->session->engine, visit, job);
}

static void on_finish(void *user, const FinishEvent *event) {
    ErrorJob *job = user;
    if (event->reason == FINISH_ERROR && job->status == STATUS_OK)
        job->status = error_raise(event->error, "%s", event->error_text);
}

static Status read_text(Session *session, void *user) {
    ErrorJob *job = user;
    char *text;
    size_t bytes;
    session->request_count_max = 1;
    TRY(whole_file_read(session->settings->file, TEXT_BYTES_MAX, &text, &bytes));
    Status status =
        tokenizer_encode(session->tokenizer, text, bytes, TOKENIZE_ADD_SPECIAL, &job->tokens);
    free(text);
    return status;
}

static json_t *figures(const ErrorJob *job) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < CODECS_MAX && codec_at(i); i++) {
        const CodecErrorSums *sums = job->codecs[i];
        const Codec *codec = codec_at(i);
        if (codec_refusal(codec, &job->shape)) continue;
        double bits = 8.0 * (double)codec_block_bytes(codec, &job->shape) /
                      ((double)kv_block_bytes(&job->shape) / 2);
        json_array_append_new(list,
                              json_pack("{ss sf sf sf}", "name", codec->name, "bits_per_value",
                                        bits, "key_error", codec_error_relative(&sums[CODEC_KEYS]),
                                        "value_error", codec_error_relative(&sums[CODEC_VALUES])));
    }
    return list;
}

static void print_table(const ErrorJob *job, const json_t *list) {
    size_t index;
    const json_t *row;
    printf("%" PRIu64 " blocks of %" PRIu32 " tokens; root mean square error as a share of the "
           "numbers'\n\n%-14s %9s %8s %8s\n",
           job->block_count, job->shape.block_tokens, "", "bits", "keys", "values");
    json_array_foreach(list, index, row) {
        printf("%-14s %9.3f %8.4f %8.4f\n", json_string_value(json_object_get(row, "name")),
               json_number_value(json_object_get(row, "bits_per_value")),
               json_number_value(json_object_get(row, "key_error")),
               json_number_value(json_object_get(row, "value_error")));
    }
}

static Status tell(const ErrorJob *job) {
    json_t *list = figures(job);
    if (!list) FAIL(MEMORY, "no memory for the answer");
    if (job->session->settings->json) {
        json_t *root = json_pack("{sI sO}", "blocks", (json_int_t)job->block_count, "codecs", list);
        json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
        putchar('\n');
        json_decref(root);
    } else {
        print_table(job, list);
    }
    json_decref(list);
    return STATUS_OK;
}

static Status measure(Session *session, void *user) {
    ErrorJob *job = user;
    uint32_t context = engine_max_model_len(session->engine);
    job->session = session;
    Request request = {.prompt = job->tokens.tokens,
                       .prompt_count = (uint32_t)job->tokens.count,
                       .max_tokens = 2,
                       .ignore_eos = true,
                       .sampling = sampling_defaults,
                       .sink = {.user = job, .on_token = on_token, .on_finish = on_finish}};
    if (request.prompt_count + request.max_tokens > context)
        request.prompt_count = context - request.max_tokens;
    TRY(engine_submit(session->engine, &request));
    TRY(session_run_until_idle(session));
    TRY(job->status);
    if (job->block_count == 0)
        FAIL(TEXT, "\"%s\": its %u tokens fill no block; a longer text is needed",
             session->settings->file, request.prompt_count);
    return tell(job);
}

static int codecs_error(const Settings *settings) {
    ErrorJob job = {.status = STATUS_OK};
    const SessionPlan plan = {
        .needs_text = true, .prepare = read_text, .work = measure, .user = &job};
    int exit_code = session_run(settings, &plan);
    token_list_free(&job.tokens);
    free(job.bytes);
    free(job.decoded);
    return exit_code;
}

const Command command_codecs_error[] = {
    {.name = "codecs error",
     .summary = "how far each codec is off on the keys and values of a text",
     .positionals = "model",
     .needs = "model file",
     .takes = "@model threads cpu-isa block-size file json",
     .run = codecs_error},
    {.name = NULL},
};
