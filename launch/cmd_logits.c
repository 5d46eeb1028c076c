/* The door for conformance tests from outside: logits of every prompt position as a NumPy file. */

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launch/command.h"
#include "launch/npy.h"
#include "launch/session.h"
#include "launch/token_file.h"

typedef struct LogitsJob {
    TokenList tokens;
    NpyFile file;
    Status write_status;
    FinishReason reason;
} LogitsJob;

static Status read_prompt(Session *session, void *user) {
    LogitsJob *job = user;
    const Settings *settings = session->settings;
    session->request_count_max = 1;
    if ((settings->prompt != NULL) == (settings->tokens_file != NULL))
        FAIL(USAGE, "logits needs either --prompt or --tokens-file");
    if (settings->tokens_file) TRY(token_file_read(settings->tokens_file, &job->tokens));
    if (!settings->prompt) return STATUS_OK;
    if (!session->tokenizer)
        FAIL(TOKENIZER, "\"%s\" has no tokenizer that can be used: give --tokens-file",
             settings->model);
    return tokenizer_encode(session->tokenizer, settings->prompt, strlen(settings->prompt),
                            settings->no_bos ? 0 : TOKENIZE_ADD_SPECIAL, &job->tokens);
}

static void on_logits(void *user, const LogitsEvent *event) {
    LogitsJob *job = user;
    if (job->write_status == STATUS_OK)
        job->write_status = npy_write_row(&job->file, event->position, event->logits);
}

static void on_finish(void *user, const FinishEvent *event) {
    LogitsJob *job = user;
    job->reason = event->reason;
    if (event->reason == FINISH_ERROR && job->write_status == STATUS_OK)
        job->write_status = error_raise(event->error, "%s", event->error_text);
}

static Status run_prompt(Session *session, LogitsJob *job) {
    const Request request = {
        .prompt = job->tokens.tokens,
        .prompt_count = (uint32_t)job->tokens.count,
        .sampling = sampling_defaults,
        .sink = {.user = job, .on_finish = on_finish, .on_logits = on_logits},
    };
    TRY(engine_submit(session->engine, &request));
    TRY(session_run_until_idle(session));
    return job->write_status;
}

static Status write_logits(Session *session, void *user) {
    LogitsJob *job = user;
    const NpyShape shape = {2, {job->tokens.count, engine_model(session->engine)->vocab_count}};
    TRY(npy_create(&job->file, session->settings->output, &shape));
    Status status = run_prompt(session, job);
    if (status == STATUS_OK) status = npy_finish(&job->file);
    npy_discard(&job->file);
    return status;
}

static int logits(const Settings *settings) {
    LogitsJob job = {.file = {.descriptor = -1}};
    const SessionPlan plan = {.prepare = read_prompt, .work = write_logits, .user = &job};
    int exit_code = session_run(settings, &plan);
    token_list_free(&job.tokens);
    return exit_code;
}

const Command command_logits[] = {
    {.name = "logits",
     .summary = "write the logits of every position of a text as a NumPy file",
     .positionals = "model",
     .needs = "model output",
     .takes = "@model @ranks @engine placement machine prompt tokens-file no-bos output "
              "summary-json dry-run",
     .run = logits},
    {.name = NULL},
};
