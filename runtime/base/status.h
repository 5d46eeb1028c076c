#ifndef RUNTIME_BASE_STATUS_H
#define RUNTIME_BASE_STATUS_H

/* What a call returns, and how an error is told.
 *
 * A Status says what the caller should do next; an ErrorCode names the cause for people (stable, documented,
 * E-… in messages) and fixes the process exit code. Whoever first decides that something is an error raises
 * it once with FAIL; everyone above forwards silently with TRY. Only launch/ ends the process.
 *
 * Any thread may call. The last error of a thread is kept for callers that answer a request with it. */

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
#define SPILLWAY_EXTERN_C_BEGIN extern "C" {
#define SPILLWAY_EXTERN_C_END   }
#else
#define SPILLWAY_EXTERN_C_BEGIN
#define SPILLWAY_EXTERN_C_END
#endif

SPILLWAY_EXTERN_C_BEGIN

typedef enum Status {
    STATUS_OK = 0,
    STATUS_AGAIN, /* would block or no room now: retry after poll */
    STATUS_NOT_FOUND,
    STATUS_BAD_INPUT,   /* this request or file is wrong: refuse it, keep serving */
    STATUS_UNSUPPORTED, /* correct input that this build or device cannot do */
    STATUS_NO_SPACE,    /* a tier or pool is full: evict, shrink or refuse */
    STATUS_IO,          /* this block is lost: recompute its sequence */
    STATUS_DEVICE,      /* this rank is broken: drain and restart it */
    STATUS_PEER,        /* another rank is gone: end the job */
    STATUS_STOPPED,     /* asked to stop: record what is done and leave */
    STATUS_COUNT,
} Status;

const char *status_name(Status status);

/* One row an error in error_codes.h: ERROR_<NAME>. */
typedef enum ErrorCode {
#define ERROR_ROW(id, code, status, exit_code, meaning) ERROR_##id,
#include "runtime/base/error_codes.h"
#undef ERROR_ROW
    ERROR_COUNT,
} ErrorCode;

typedef struct ErrorRow {
    const char *code;    /* "E-GGUF-RANGE" */
    Status status;       /* what raising it returns */
    int exit_code;       /* of the process when nothing above handles it */
    const char *meaning; /* one line for the manual */
} ErrorRow;

const ErrorRow *error_row(ErrorCode error);

/* Logs "spillway: error[CODE] rank R@HOST: text" (or only records it inside a capture) and returns the
 * row's status. The same again, as every call of a broken device gives it, is logged once. `text` says what, where, and what to do. */
Status error_raise(ErrorCode error, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Between begin and end, errors of this thread are recorded but not logged: for callers that turn them into
 * the answer of one request, or tell them later. Captures nest; the outermost begins with no last error. */
void error_capture_begin(void);
void error_capture_end(void);

/* Last error raised by this thread: its code and text, or ERROR_COUNT and "". Valid until the next raise. */
ErrorCode error_last(const char **out_text);

/* Takes over an error that another rank raised and logged, without a line of its own: from now on it decides
 * error_exit_code here too. Returns the row's status. */
Status error_adopt(ErrorCode error, const char *text);

/* Exit code for a process that ends because of `status`: that of the first error logged by any thread, else a
 * default for the status. STATUS_OK gives 0. */
int error_exit_code(Status status);

#define TRY(call)                                         \
    do {                                                  \
        Status try_status_ = (call);                      \
        if (try_status_ != STATUS_OK) return try_status_; \
    } while (0)

#define FAIL(error, ...) return error_raise(ERROR_##error, __VA_ARGS__)

SPILLWAY_EXTERN_C_END

#endif
