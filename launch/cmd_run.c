/* One prompt, answered on standard output as it comes. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launch/command.h"
#include "launch/session.h"
#include "launch/whole_file.h"

enum { PROMPT_BYTES_MAX = 64 << 20 };

typedef struct RunJob {
    TokenList tokens;
    Status status; /* of the answer */
} RunJob;

static Status read_prompt(Session *session, void *user) {
    RunJob *job = user;
    const char *prompt = session->settings->prompt;
    session->request_count_max = 1;
    if (strcmp(prompt, "-") != 0)
        return session_encode_prompt(session, prompt, strlen(prompt), &job->tokens);
    char *text;
    size_t text_bytes;
    TRY(whole_file_read("-", PROMPT_BYTES_MAX, &text, &text_bytes));
    Status status = session_encode_prompt(session, text, text_bytes, &job->tokens);
    free(text);
    return status;
}

static void on_token(void *user, const TokenEvent *event) {
    (void)user;
    fwrite(event->text, 1, event->text_bytes, stdout);
    fflush(stdout);
}

static void on_finish(void *user, const FinishEvent *event) {
    RunJob *job = user;
    fwrite(event->text, 1, event->text_bytes, stdout);
    putchar('\n');
    if (event->reason == FINISH_ERROR)
        job->status = error_raise(event->error, "%s", event->error_text);
}

static Status answer(Session *session, void *user) {
    RunJob *job = user;
    Request request;
    session_request(session, &job->tokens, &request);
    request.sink = (RequestSink){.user = job, .on_token = on_token, .on_finish = on_finish};
    TRY(engine_submit(session->engine, &request));
    TRY(session_run_until_idle(session));
    session->lines_ok = job->status == STATUS_OK;
    session->lines_failed = job->status != STATUS_OK;
    return job->status;
}

static int run(const Settings *settings) {
    RunJob job = {.status = STATUS_OK};
    const SessionPlan plan = {
        .needs_text = true, .prepare = read_prompt, .work = answer, .user = &job};
    int exit_code = session_run(settings, &plan);
    token_list_free(&job.tokens);
    return exit_code;
}

const Command command_run[] = {
    {.name = "run",
     .summary = "answer one prompt",
     .positionals = "model",
     .needs = "model prompt",
     .takes =
         "@model @ranks @engine placement machine @sampling prompt system raw summary-json dry-run",
     .run = run},
    {.name = NULL},
};
