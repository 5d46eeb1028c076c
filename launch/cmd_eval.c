/* How well a model predicts a text, and how far that is from a run which loses nothing. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "launch/bench_measure.h"
#include "launch/command.h"
#include "launch/logit_compare.h"
#include "launch/logit_file.h"
#include "launch/text_score.h"
#include "launch/whole_file.h"
#include "runtime/base/arena.h"

enum { TEXT_BYTES_MAX = 1 << 30 };

typedef struct EvalJob {
    TokenList tokens; /* of the text alone */
    size_t text_bytes;
    int32_t head; /* in front of each window; -1: none */
    WindowRule rule;
    TextWindows windows;
    uint64_t scored_bytes; /* of text, in the tokens that are scored */
    float *logprobs;       /* owned; [scored] */

    /* kl */
    float *reference_logprobs; /* owned; [scored] */
    char reference_kernels[32];
    LogitFile reference;
    float *reference_row; /* owned; [vocab] */
    double *weights;      /* owned; [vocab] */
    double *divergences;  /* owned; [scored] */
    uint64_t same_top_count;
    uint32_t vocab_count;
} EvalJob;

static void job_free(EvalJob *job) {
    token_list_free(&job->tokens);
    text_windows_free(&job->windows);
    logit_file_close(&job->reference);
    free(job->logprobs);
    free(job->reference_logprobs);
    free(job->reference_row);
    free(job->weights);
    free(job->divergences);
}

/* ---- the text and its windows ---- */

static bool is_given(const Settings *settings, const char *name) {
    return options_source(settings->options, name) != OPTION_SOURCE_DEFAULT;
}

/* What the settings leave open: a window is no longer than the model's context. */
static Status make_rule(const Session *session, uint32_t head_count, WindowRule *out) {
    const Settings *settings = session->settings;
    ModelConfig model;
    TRY(model_read_config(session->weights, &model));
    uint32_t longest = (uint32_t)settings->max_model_len;
    if (longest == 0 || longest > model.context_length) longest = model.context_length;
    uint32_t context = (uint32_t)settings->context;
    if (context > longest && is_given(settings, "context"))
        FAIL(CONTEXT_LENGTH, "--context %u: \"%s\" works on %u tokens at most", context,
             settings->model, longest);
    if (context > longest) context = longest;
    bool sliding = strcmp(settings->mode, "sliding") == 0;
    if (!sliding && is_given(settings, "stride")) FAIL(USAGE, "--stride goes with --mode sliding");
    uint32_t prefix = (uint32_t)settings->prefix, stride = (uint32_t)settings->stride;
    if (prefix == 0) prefix = context / 4 > head_count ? context / 4 : head_count + 1;
    if (stride == 0) stride = context - prefix < context / 2 ? context - prefix : context / 2;
    *out = (WindowRule){.context = context,
                        .head_count = head_count,
                        .prefix = prefix,
                        .stride = sliding ? stride : 0,
                        .window_max = (uint32_t)settings->windows};
    return window_rule_check(out);
}

static Status encode_file(const Session *session, EvalJob *job) {
    char *text;
    TRY(whole_file_read(session->settings->file, TEXT_BYTES_MAX, &text, &job->text_bytes));
    Status status = STATUS_OK;
    if (job->text_bytes == 0)
        status = error_raise(ERROR_TEXT, "\"%s\" is empty", session->settings->file);
    else
        status = tokenizer_encode(session->tokenizer, text, job->text_bytes, 0, &job->tokens);
    free(text);
    return status;
}

static uint64_t count_scored_bytes(const Session *session, const EvalJob *job) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < job->windows.count; i++) {
        const TextWindow *window = &job->windows.items[i];
        const int32_t *end = job->tokens.tokens + window->first + window->count;
        for (const int32_t *token = end - window->scored_count; token < end; token++) {
            size_t token_bytes;
            tokenizer_token_bytes(session->tokenizer, *token, &token_bytes);
            bytes += token_bytes;
        }
    }
    return bytes;
}

static Status read_text(Session *session, void *user) {
    EvalJob *job = user;
    bool begins = !session->settings->no_bos && tokenizer_adds_bos(session->tokenizer);
    job->head = begins ? tokenizer_bos(session->tokenizer) : -1;
    TRY(make_rule(session, job->head >= 0, &job->rule));
    TRY(encode_file(session, job));
    TRY(text_windows_make(&job->rule, job->tokens.count, &job->windows));
    session->request_count_max = job->windows.count;
    job->scored_bytes = count_scored_bytes(session, job);
    return memory_take((void **)&job->logprobs, job->windows.scored_count, sizeof *job->logprobs,
                       "log-probabilities");
}

/* ---- what scores say ---- */

typedef struct ScoreResult {
    double loss, loss_error; /* mean negative log-likelihood, nats a token; its standard error */
    double perplexity, perplexity_error;
    double bits_per_byte;
} ScoreResult;

/* The standard error takes tokens as independent of each other. */
static ScoreResult score_result(const EvalJob *job, const float *logprobs) {
    uint64_t count = job->windows.scored_count;
    double sum = 0, squares = 0;
    for (uint64_t i = 0; i < count; i++)
        sum -= (double)logprobs[i];
    ScoreResult result = {.loss = sum / (double)count};
    for (uint64_t i = 0; i < count; i++)
        squares += ((double)logprobs[i] + result.loss) * ((double)logprobs[i] + result.loss);
    if (count > 1) result.loss_error = sqrt(squares / (double)(count - 1) / (double)count);
    result.perplexity = exp(result.loss);
    result.perplexity_error = result.perplexity * result.loss_error;
    if (job->scored_bytes > 0) result.bits_per_byte = sum / log(2) / (double)job->scored_bytes;
    return result;
}

static void print_method(const Session *session, const EvalJob *job) {
    const WindowRule *rule = &job->rule;
    const TextWindows *windows = &job->windows;
    printf("tokens                      %llu scored of %zu, %llu bytes of %zu\n",
           (unsigned long long)windows->scored_count, job->tokens.count,
           (unsigned long long)job->scored_bytes, job->text_bytes);
    printf("windows                     %u %s, up to %u tokens%s, the first %u prompt",
           windows->count, session->settings->mode, rule->context,
           rule->head_count ? " with begin of text" : "", rule->prefix);
    printf(rule->stride ? ", stride %u\n" : "\n", rule->stride);
    if (windows->left_out_count > 0)
        printf("left out                    %llu tokens at the end: %s\n",
               (unsigned long long)windows->left_out_count,
               windows->count == rule->window_max ? "behind --windows" : "no longer than a prompt");
    printf("method                      prompts prefilled, the rest decoded by force, kernels %s\n",
           engine_kernels_name(session->engine));
}

/* JSON knows no infinity. */
static json_t *number(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *common_result(const Session *session, const EvalJob *job, const ScoreResult *score) {
    return json_pack(
        "{so so so so so sI sI sI sI sI si si si ss si ss ss si}", "perplexity",
        number(score->perplexity), "perplexity_error", number(score->perplexity_error), "loss",
        number(score->loss), "loss_error", number(score->loss_error), "bits_per_byte",
        number(score->bits_per_byte), "tokens", (json_int_t)job->windows.scored_count,
        "text_tokens", (json_int_t)job->tokens.count, "left_out_tokens",
        (json_int_t)job->windows.left_out_count, "scored_bytes", (json_int_t)job->scored_bytes,
        "text_bytes", (json_int_t)job->text_bytes, "windows", (int)job->windows.count, "context",
        (int)job->rule.context, "prefix", (int)job->rule.prefix, "mode", session->settings->mode,
        "stride", (int)job->rule.stride, "model", session_model_name(session), "kernels",
        engine_kernels_name(session->engine), "ranks", session->ranks.comm->size);
}

/* Takes the reference. */
static Status print_result(json_t *result) {
    if (!result || json_dumpf(result, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(12)) != 0) {
        json_decref(result);
        FAIL(MEMORY, "no memory for the result");
    }
    json_decref(result);
    putchar('\n');
    return STATUS_OK;
}

/* ---- eval perplexity ---- */

static Status run_scores(Session *session, EvalJob *job, float *out_logprobs,
                         Status (*on_logits)(void *user, uint64_t index, const float *logits)) {
    const TextScore score = {.tokens = job->tokens.tokens,
                             .windows = &job->windows,
                             .head = job->head,
                             .on_logits = on_logits,
                             .user = job};
    TRY(text_score_run(session, &score, out_logprobs));
    session->lines_ok = job->windows.count;
    return STATUS_OK;
}

static Status measure_perplexity(Session *session, void *user) {
    EvalJob *job = user;
    TRY(run_scores(session, job, job->logprobs, NULL));
    ScoreResult score = score_result(job, job->logprobs);
    if (session->settings->json) return print_result(common_result(session, job, &score));
    printf("perplexity                  %.4f ± %.4f\n", score.perplexity, score.perplexity_error);
    printf("loss                        %.5f ± %.5f nats a token\n", score.loss, score.loss_error);
    printf("bits per byte               %.4f\n", score.bits_per_byte);
    print_method(session, job);
    return STATUS_OK;
}

static int perplexity(const Settings *settings) {
    EvalJob job = {.reference.descriptor = -1};
    const SessionPlan plan = {
        .needs_text = true, .prepare = read_text, .work = measure_perplexity, .user = &job};
    int exit_code = session_run(settings, &plan);
    job_free(&job);
    return exit_code;
}

/* ---- eval kl ---- */

static Status keep_logits(void *user, uint64_t index, const float *logits) {
    const EvalJob *job = user;
    return logit_file_write(&job->reference, index, logits);
}

static Status compare_logits(void *user, uint64_t index, const float *logits) {
    EvalJob *job = user;
    TRY(logit_file_read(&job->reference, index, job->reference_row));
    LogitDistance distance =
        logit_distance(job->reference_row, logits, job->vocab_count, job->weights);
    job->divergences[index] = distance.divergence;
    job->same_top_count += distance.same_top;
    return STATUS_OK;
}

static Status take_kl_memory(EvalJob *job) {
    const struct {
        void **place;
        uint64_t count, bytes;
    } pieces[] = {
        {(void **)&job->reference_logprobs, job->windows.scored_count, sizeof(float)},
        {(void **)&job->divergences, job->windows.scored_count, sizeof(double)},
        {(void **)&job->reference_row, job->vocab_count, sizeof(float)},
        {(void **)&job->weights, job->vocab_count, sizeof(double)},
    };
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
        TRY(memory_take(pieces[i].place, pieces[i].count, pieces[i].bytes, "divergences"));
    return STATUS_OK;
}

static Status run_reference(Session *session, void *user) {
    EvalJob *job = user;
    job->vocab_count = engine_model(session->engine)->vocab_count;
    snprintf(job->reference_kernels, sizeof job->reference_kernels, "%s",
             engine_kernels_name(session->engine));
    TRY(take_kl_memory(job));
    TRY(logit_file_open(&job->reference, session->settings->dir, job->windows.scored_count,
                        job->vocab_count));
    return run_scores(session, job, job->reference_logprobs, keep_logits);
}

static json_t *kl_result(const Session *session, const EvalJob *job, const ScoreResult *score,
                         const ScoreResult *reference, const DistanceSummary *distance) {
    json_t *result = common_result(session, job, score);
    json_t *fields = json_pack("{so so so so so so ss}", "kl_mean", number(distance->mean),
                               "kl_p99", number(distance->p99), "kl_max", number(distance->max),
                               "same_top_token", number(distance->same_top_share),
                               "reference_perplexity", number(reference->perplexity),
                               "perplexity_ratio", number(exp(score->loss - reference->loss)),
                               "reference_kernels", job->reference_kernels);
    if (json_object_update(result, fields) != 0) {
        json_decref(result);
        result = NULL;
    }
    json_decref(fields);
    return result;
}

static Status measure_kl(Session *session, void *user) {
    EvalJob *job = user;
    TRY(run_scores(session, job, job->logprobs, compare_logits));
    ScoreResult score = score_result(job, job->logprobs);
    ScoreResult reference = score_result(job, job->reference_logprobs);
    DistanceSummary distance =
        distance_summary(job->divergences, job->windows.scored_count, job->same_top_count);
    if (session->settings->json)
        return print_result(kl_result(session, job, &score, &reference, &distance));
    printf("KL(reference ‖ this)        mean %.3e, 99th percentile %.3e, largest %.3e nats\n",
           distance.mean, distance.p99, distance.max);
    printf("same top token              %.2f %%\n", 100 * distance.same_top_share);
    printf("perplexity                  %.4f, of the reference %.4f, ratio %.5f\n",
           score.perplexity, reference.perplexity, exp(score.loss - reference.loss));
    print_method(session, job);
    printf("reference                   keys and values as they are, kernels %s\n",
           job->reference_kernels);
    return STATUS_OK;
}

static int kl(const Settings *settings) {
    EvalJob job = {.reference.descriptor = -1};
    const SessionPlan plan = {.needs_text = true,
                              .prepare = read_text,
                              .reference_work = run_reference,
                              .work = measure_kl,
                              .user = &job};
    int exit_code = session_run(settings, &plan);
    job_free(&job);
    return exit_code;
}

const Command command_eval[] = {
    {.name = "eval perplexity",
     .summary = "how well the model predicts a text, decoded token by token",
     .positionals = "model",
     .needs = "model file",
     .takes = "@model @ranks @engine file context prefix windows mode stride no-bos json "
              "summary-json dry-run",
     .run = perplexity},
    {.name = "eval kl",
     .summary = "how far the predictions of a text are from a run that loses nothing",
     .positionals = "model",
     .needs = "model file",
     .takes = "@model @ranks @engine file context prefix windows mode stride no-bos dir "
              "reference-isa json summary-json dry-run",
     .run = kl},
    {.name = NULL},
};
