#include "runtime/base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINE_BYTES_MAX = 2048 };

static LogOptions log_options = {.level = LOG_INFO, .descriptor = 2, .rank = -1};

void log_configure(const LogOptions *options) {
    log_options = *options;
}

const LogOptions *log_configured(void) {
    return &log_options;
}

bool log_enabled(LogLevel level) {
    return level <= log_options.level;
}

/* Best effort: a log line that cannot be written has nobody to be told to. */
static void write_line(const char *line, size_t length) {
    while (length > 0) {
        ssize_t written = write(log_options.descriptor, line, length);
        if (written <= 0) return;
        line += written;
        length -= (size_t)written;
    }
}

static void format_time(char *out, size_t out_bytes) {
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    size_t used = strftime(out, out_bytes, "%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(out + used, out_bytes - used, ".%03ldZ", now.tv_nsec / 1000000);
}

static void format_rank(char *out, size_t out_bytes, const char *before_number) {
    if (log_options.rank < 0) {
        out[0] = 0;
        return;
    }
    snprintf(out, out_bytes, "rank%s%d@%s ", before_number, log_options.rank,
             log_options.host ? log_options.host : "localhost");
}

/* Control bytes become spaces in text lines, escapes in JSON, so that a line stays a line. */
static size_t append_text(char *out, size_t out_bytes, const char *text, bool json) {
    size_t used = 0;
    for (const char *at = text; *at && used + 8 < out_bytes; at++) {
        unsigned char byte = (unsigned char)*at;
        if (json && (byte == '"' || byte == '\\')) {
            out[used++] = '\\';
            out[used++] = (char)byte;
        } else if (byte < 0x20 || byte == 0x7f) {
            if (json)
                used += (size_t)snprintf(out + used, out_bytes - used, "\\u%04x", byte);
            else
                out[used++] = ' ';
        } else {
            out[used++] = (char)byte;
        }
    }
    out[used] = 0;
    return used;
}

static void emit_json(const char *kind, const char *name, const char *value, const char *text) {
    char line[LINE_BYTES_MAX], time_text[40];
    format_time(time_text, sizeof time_text);
    size_t used =
        (size_t)snprintf(line, sizeof line, "{\"time\":\"%s\",\"level\":\"%s\"", time_text, kind);
    if (value)
        used += (size_t)snprintf(line + used, sizeof line - used, ",\"%s\":\"%s\"", name, value);
    if (log_options.rank >= 0)
        used +=
            (size_t)snprintf(line + used, sizeof line - used, ",\"rank\":%d,\"host\":\"%s\"",
                             log_options.rank, log_options.host ? log_options.host : "localhost");
    used += (size_t)snprintf(line + used, sizeof line - used, ",\"text\":\"");
    used += append_text(line + used, sizeof line - used - 4, text, true);
    line[used++] = '"';
    line[used++] = '}';
    line[used++] = '\n';
    write_line(line, used);
}

void log_line(LogLevel level, const char *module, const char *format, ...) {
    static const char *const names[] = {"error", "warning", "info", "debug", "trace"};
    if (!log_enabled(level)) return;
    char text[LINE_BYTES_MAX / 2];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (log_options.json) {
        emit_json(names[level], "module", module, text);
        return;
    }
    char line[LINE_BYTES_MAX], time_text[40], rank_text[128];
    format_time(time_text, sizeof time_text);
    format_rank(rank_text, sizeof rank_text, "");
    size_t used = (size_t)snprintf(line, sizeof line, "%s %c %s%s: ", time_text, "EWIDT"[level],
                                   rank_text, module);
    used += append_text(line + used, sizeof line - used - 1, text, false);
    line[used++] = '\n';
    write_line(line, used);
}

void log_diagnostic(const char *kind, const char *code, const char *text) {
    if (log_options.json) {
        emit_json(kind, "code", code, text);
        return;
    }
    char line[LINE_BYTES_MAX], rank_text[128];
    format_rank(rank_text, sizeof rank_text, " ");
    if (rank_text[0]) rank_text[strlen(rank_text) - 1] = 0;
    size_t used =
        (size_t)snprintf(line, sizeof line, "spillway: %s%s%s%s%s%s: ", kind, code ? "[" : "",
                         code ? code : "", code ? "]" : "", rank_text[0] ? " " : "", rank_text);
    used += append_text(line + used, sizeof line - used - 1, text, false);
    line[used++] = '\n';
    write_line(line, used);
}

void log_warning(const char *code, const char *format, ...) {
    char text[LINE_BYTES_MAX / 2];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    log_diagnostic("warning", code, text);
}

void log_note(const char *format, ...) {
    if (!log_enabled(LOG_INFO)) return;
    char text[LINE_BYTES_MAX / 2];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    log_diagnostic("note", NULL, text);
}
