#ifndef RUNTIME_BASE_LOG_H
#define RUNTIME_BASE_LOG_H

/* Talk to people, on stderr: "2026-11-23T05:12:44.123Z I rank0@n1 module: text", or one JSON object a line.
 * Diagnostics (errors, warnings, notes) have their own shape: "spillway: error[E-GGUF] rank 3@node7: text".
 * Any thread may call; each line is one write. Values follow a space, not "=". No prompt text above debug. */

#include <stdbool.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

typedef enum LogLevel { LOG_ERROR, LOG_WARNING, LOG_INFO, LOG_DEBUG, LOG_TRACE } LogLevel;

typedef struct LogOptions {
    LogLevel level;   /* lines above it are dropped */
    bool json;        /* one JSON object a line */
    int descriptor;   /* where to write; 2 = stderr */
    int rank;         /* -1: no rank in the line (a single process) */
    const char *host; /* borrowed for the life of the process; may be NULL */
} LogOptions;

void log_configure(const LogOptions *options);
/* What was configured last; for code that must write a line itself (a signal handler). */
const LogOptions *log_configured(void);
bool log_enabled(LogLevel level);

void log_line(LogLevel level, const char *module, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* kind: "error", "warning" or "note"; code may be NULL. Used by error_raise; call log_warning/log_note. */
void log_diagnostic(const char *kind, const char *code, const char *text);

/* A fault that was survived: said once, with a stable code, and the run goes on. */
void log_warning(const char *code, const char *format, ...) __attribute__((format(printf, 2, 3)));
void log_note(const char *format, ...) __attribute__((format(printf, 1, 2)));

SPILLWAY_EXTERN_C_END

#endif
