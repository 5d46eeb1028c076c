#include "launch/text_score.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/base/invariant.h"

typedef struct ScoreRun ScoreRun;

typedef struct WindowScore {
    ScoreRun *run;
    const TextWindow *window;
    uint32_t prompt_count;
} WindowScore;

struct ScoreRun {
    Session *session;
    const TextScore *score;
    float *logprobs;
    WindowScore *windows; /* owned; [score->windows->count] */
    int32_t *prompt;      /* owned; the engine copies it */
    uint32_t submitted, finished;
    Status status; /* of callbacks: the first that failed */
};

static void on_logits(void *user, const LogitsEvent *event) {
    const WindowScore *own = user;
    ScoreRun *run = own->run;
    if (run->status != STATUS_OK) return;
    uint64_t place = event->position + 1 - own->prompt_count;
    run->status =
        run->score->on_logits(run->score->user, own->window->scored_first + place, event->logits);
}

static void on_token(void *user, const TokenEvent *event) {
    const WindowScore *own = user;
    own->run->logprobs[own->window->scored_first + event->index] = event->logprob;
}

static void on_finish(void *user, const FinishEvent *event) {
    const WindowScore *own = user;
    ScoreRun *run = own->run;
    run->finished++;
    if (event->reason == FINISH_ERROR && run->status == STATUS_OK)
        run->status = error_raise(event->error, "window %llu: %s",
                                  (unsigned long long)event->request_id, event->error_text);
}

static Status submit_next(ScoreRun *run) {
    const TextScore *score = run->score;
    const TextWindow *window = &score->windows->items[run->submitted];
    WindowScore *own = &run->windows[run->submitted];
    uint32_t given = window->count - window->scored_count, head_count = score->head >= 0;
    const int32_t *tokens = score->tokens + window->first;
    *own = (WindowScore){.run = run, .window = window, .prompt_count = head_count + given};
    run->prompt[0] = score->head;
    memcpy(run->prompt + head_count, tokens, given * sizeof *tokens);
    Request request = {
        .id = run->submitted,
        .prompt = run->prompt,
        .prompt_count = own->prompt_count,
        .max_tokens = window->scored_count,
        .forced = tokens + given,
        .forced_count = window->scored_count,
        .generated_logits = true,
        .ignore_eos = true,
        .sampling = sampling_defaults,
        .sink = {.user = own,
                 .on_token = on_token,
                 .on_finish = on_finish,
                 .on_logits = score->on_logits ? on_logits : NULL},
    };
    request.sampling.temperature = 0;
    TRY(engine_submit(run->session->engine, &request));
    run->submitted++;
    return STATUS_OK;
}

/* Twice as many as run at once are in the engine, so that none of its places is ever empty. */
static Status run_windows(ScoreRun *run) {
    Session *session = run->session;
    uint32_t count = run->score->windows->count;
    uint32_t most = 2 * engine_max_num_seqs(session->engine);
    while (run->finished < count && run->status == STATUS_OK) {
        bool idle;
        while (run->submitted < count && run->submitted - run->finished < most)
            TRY(submit_next(run));
        TRY(session_step(session, &idle));
        if (idle && engine_stop_seen(session->engine) != STOP_NONE)
            FAIL(STOPPED, "stopped on request with %u of %u windows scored", run->finished, count);
    }
    return run->status;
}

Status text_score_run(Session *session, const TextScore *score, float *out_logprobs) {
    ScoreRun run = {.session = session, .score = score, .logprobs = out_logprobs};
    const TextWindows *windows = score->windows;
    uint32_t longest = 1;
    for (uint32_t i = 0; i < windows->count; i++)
        if (windows->items[i].count >= longest) longest = windows->items[i].count + 1;
    Status status = memory_take((void **)&run.prompt, longest, sizeof *run.prompt, "a prompt");
    if (status == STATUS_OK)
        status = memory_take((void **)&run.windows, windows->count, sizeof *run.windows,
                             "windows of a text");
    if (status == STATUS_OK) status = run_windows(&run);
    free(run.windows);
    free(run.prompt);
    return status;
}
