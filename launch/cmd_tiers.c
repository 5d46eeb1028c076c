/* What the tiers of a running job hold, asked at its socket: once, or again and again. */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "launch/command.h"
#include "launch/tier_socket.h"
#include "launch/tier_view.h"
#include "runtime/base/log.h"

enum { JOBS_MAX = 64, WATCH_INTERVAL_S = 1 };

static Status ask(const char *path, json_t **out) {
    char *text;
    size_t bytes;
    TRY(tier_socket_ask(path, &text, &bytes));
    json_error_t wrong;
    json_t *view = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &wrong);
    free(text);
    if (!json_is_object(view)) {
        json_decref(view);
        FAIL(NO_JOB, "\"%s\" answers with something that is no view of tiers", path);
    }
    *out = view;
    return STATUS_OK;
}

static double number(const json_t *view, const char *name) {
    return json_number_value(json_object_get(view, name));
}

static void print_job(const json_t *view, FILE *out) {
    const char *model = json_string_value(json_object_get(view, "model"));
    const json_t *tokens = json_object_get(view, "tokens");
    fprintf(out,
            "job %.0f, %s, %.0f rank%s, up %.0f s: %.0f running, %.0f waiting, %.0f tokens in, "
            "%.0f out, hit %.0f %%, stall %.0f %%\n",
            number(view, "pid"), model ? model : "?", number(view, "ranks"),
            number(view, "ranks") == 1 ? "" : "s", number(view, "uptime_seconds"),
            number(view, "running"), number(view, "waiting"), number(tokens, "prompt"),
            number(tokens, "generated"), number(view, "hit_share") * 100,
            number(view, "stall_share") * 100);
}

static void show(const json_t *view, bool as_json) {
    if (as_json) {
        json_dumpf(view, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
        putchar('\n');
    } else {
        print_job(view, stdout);
        tier_view_print(view, stdout);
    }
    fflush(stdout);
}

/* Until the job ends, which is how a watch ends well. */
static Status watch(const char *path, bool as_json) {
    bool terminal = !as_json && isatty(STDOUT_FILENO);
    for (bool first = true;; first = false) {
        json_t *view;
        if (!first) error_capture_begin();
        Status status = ask(path, &view);
        if (!first) error_capture_end();
        if (status != STATUS_OK) {
            if (first) return status;
            log_note("the job has ended");
            return STATUS_OK;
        }
        if (terminal) fputs("\033[H\033[J", stdout);
        show(view, as_json);
        if (!terminal && !as_json) putchar('\n');
        json_decref(view);
        if (ferror(stdout)) return STATUS_OK; /* nobody reads any more; main says why */
        sleep(WATCH_INTERVAL_S);
    }
}

/* More than one job: which there are, as data. */
static Status list_jobs(const TierSocketName *jobs, int count) {
    for (int i = 0; i < count; i++) {
        json_t *view;
        error_capture_begin();
        Status status = ask(jobs[i].path, &view);
        error_capture_end();
        printf("%s\n", jobs[i].path);
        if (status != STATUS_OK) continue;
        print_job(view, stdout);
        json_decref(view);
    }
    FAIL(USAGE, "%d jobs run: name one by its pid or socket", count);
}

static Status find_job(const char *job, TierSocketName *out) {
    TierSocketName jobs[JOBS_MAX];
    char *end = NULL;
    long pid = job ? strtol(job, &end, 10) : 0;
    bool is_path = job && (*end || pid <= 0);
    if (is_path && strlen(job) >= sizeof out->path)
        FAIL(NO_JOB, "\"%.60s…\" is longer than the path of a socket can be", job);
    if (is_path) {
        strcpy(out->path, job);
        return STATUS_OK;
    }
    int count = tier_socket_find(pid, jobs, JOBS_MAX);
    if (count > 1) return list_jobs(jobs, count);
    if (count == 0 && pid > 0)
        FAIL(NO_JOB,
             "no job of this user with pid %ld listens here: it has ended, or does not "
             "spill, or runs on another node",
             pid);
    if (count == 0)
        FAIL(NO_JOB, "no job of this user listens here: jobs do as long as they run, when keys and "
                     "values may spill (--kv-host-size, --kv-nvme-size)");
    *out = jobs[0];
    return STATUS_OK;
}

static int tiers(const Settings *settings) {
    TierSocketName found;
    Status status = find_job(settings->job, &found);
    if (status == STATUS_OK && settings->watch)
        status = watch(found.path, settings->json);
    else if (status == STATUS_OK) {
        json_t *view;
        status = ask(found.path, &view);
        if (status == STATUS_OK) {
            show(view, settings->json);
            json_decref(view);
        }
    }
    return error_exit_code(status);
}

const Command command_tiers[] = {
    {.name = "tiers",
     .summary = "what the tiers of a running job hold",
     .positionals = "job",
     .needs = "",
     .takes = "job watch json",
     .run = tiers},
    {.name = NULL},
};
