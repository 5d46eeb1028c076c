/* The SIGBUS handler: only write, _exit, sigaction and plain memory here; everything that formats runs at install. */

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/log.h"
#include "runtime/weights/weights_builder.h"

enum { WATCHED_MAX = 2 * FILES_MAX, LINE_BYTES_MAX = 2048 };

static _Atomic(const MappedFile *) watched[WATCHED_MAX];

static struct sigaction previous_action;
static struct {
    char before[256]; /* up to the text */
    const char *after;
    bool json;
    int descriptor;
} line_form;

/* Files beyond WATCHED_MAX are not named: their SIGBUS ends the process as it would without a guard. */
void weights_guard_watch(const MappedFile *file) {
    for (size_t i = 0; file->bytes && i < WATCHED_MAX; i++) {
        const MappedFile *free_slot = NULL;
        if (atomic_compare_exchange_strong(&watched[i], &free_slot, file)) return;
    }
}

void weights_guard_unwatch(const MappedFile *file) {
    for (size_t i = 0; i < WATCHED_MAX; i++) {
        const MappedFile *slot = file;
        if (atomic_compare_exchange_strong(&watched[i], &slot, NULL)) return;
    }
}

static const MappedFile *find_watched(const uint8_t *address) {
    for (size_t i = 0; i < WATCHED_MAX; i++) {
        const MappedFile *file = atomic_load(&watched[i]);
        if (file && address >= file->bytes && address < file->bytes + file->size_bytes) return file;
    }
    return NULL;
}

typedef struct Line {
    char text[LINE_BYTES_MAX];
    size_t used;
} Line;

static void append(Line *line, const char *text) {
    for (; *text && line->used < sizeof line->text; text++)
        line->text[line->used++] = *text;
}

/* Control bytes become spaces, so that a line stays a line. */
static void append_path(Line *line, const char *path) {
    for (; *path; path++) {
        unsigned char byte = (unsigned char)*path;
        char one[3] = {(char)(byte < 0x20 || byte == 0x7f ? ' ' : byte), 0, 0};
        if (line_form.json && (byte == '"' || byte == '\\')) {
            one[1] = one[0];
            one[0] = '\\';
        }
        append(line, one);
    }
}

static void append_number(Line *line, uint64_t number) {
    char digits[24], *at = digits + sizeof digits - 1;
    *at = 0;
    do
        *--at = (char)('0' + number % 10);
    while (number /= 10);
    append(line, at);
}

static void on_bus_error(int signal_number, siginfo_t *info, void *context) {
    (void)context;
    const uint8_t *address = info->si_addr;
    const MappedFile *file = find_watched(address);
    if (!file) {
        sigaction(signal_number, &previous_action, NULL); /* the access faults again */
        return;
    }
    const char *quote = line_form.json ? "\\\"" : "\"";
    Line line = {.used = 0};
    append(&line, line_form.before);
    append(&line, quote);
    append_path(&line, file->path);
    append(&line, quote);
    append(&line, " at byte ");
    append_number(&line, (uint64_t)(address - file->bytes));
    append(&line, ": cannot be read any more: it was truncated, or its disk failed; restore the "
                  "file and run the same command again");
    append(&line, line_form.after);
    ssize_t written = write(line_form.descriptor, line.text, line.used);
    (void)written; /* nobody is left to be told */
    _exit(error_row(ERROR_WEIGHTS_IO)->exit_code);
}

static void prepare_line(void) {
    const LogOptions *log = log_configured();
    const char *host = log->host ? log->host : "localhost";
    char rank[128] = "";
    line_form.json = log->json;
    line_form.descriptor = log->descriptor;
    if (log->rank >= 0)
        snprintf(rank, sizeof rank, log->json ? ",\"rank\":%d,\"host\":\"%s\"" : " rank %d@%s",
                 log->rank, host);
    snprintf(line_form.before, sizeof line_form.before,
             log->json ? "{\"level\":\"error\",\"code\":\"%s\"%s,\"text\":\""
                       : "spillway: error[%s]%s: ",
             error_row(ERROR_WEIGHTS_IO)->code, rank);
    line_form.after = log->json ? "\"}\n" : "\n";
}

void weights_guard_install(void) {
    prepare_line();
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO};
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &previous_action);
}
