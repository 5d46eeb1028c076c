#include "runtime/base/status.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/log.h"

static const ErrorRow error_rows[ERROR_COUNT] = {
#define ERROR_ROW(id, code_, status_, exit_code_, meaning_) \
    [ERROR_##id] = {.code = code_, .status = status_, .exit_code = exit_code_, .meaning = meaning_},
#include "runtime/base/error_codes.h"
#undef ERROR_ROW
};

typedef struct LastError {
    ErrorCode code;
    bool told; /* logged, by this thread or another rank */
    char text[1024];
} LastError;

static _Thread_local LastError last_error = {.code = ERROR_COUNT};
static _Thread_local unsigned capture_depth;
static atomic_int first_logged = ERROR_COUNT;

const char *status_name(Status status) {
    static const char *const names[STATUS_COUNT] = {
        "ok",       "again", "not found", "bad input", "unsupported",
        "no space", "io",    "device",    "peer",      "stopped",
    };
    return status < STATUS_COUNT ? names[status] : "unknown";
}

const ErrorRow *error_row(ErrorCode error) {
    return &error_rows[error];
}

/* Texts quote names from files: what would break the line or steer a terminal becomes a blank. */
static void keep_to_one_line(char *text) {
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7F) *text = ' ';
}

Status error_raise(ErrorCode error, const char *format, ...) {
    const ErrorRow *row = &error_rows[error];
    char text[sizeof last_error.text]; /* arguments may be the last error's own text */
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    keep_to_one_line(text);
    bool told = last_error.told && last_error.code == error && strcmp(last_error.text, text) == 0;
    memcpy(last_error.text, text, sizeof text);
    last_error.code = error;
    last_error.told = told || capture_depth == 0;
    if (capture_depth == 0 && !told) {
        int expected = ERROR_COUNT;
        atomic_compare_exchange_strong(&first_logged, &expected, (int)error);
        log_diagnostic("error", row->code, last_error.text);
    }
    return row->status;
}

Status error_adopt(ErrorCode error, const char *text) {
    last_error.code = error;
    last_error.told = true;
    snprintf(last_error.text, sizeof last_error.text, "%s", text);
    atomic_store(&first_logged, (int)error);
    return error_rows[error].status;
}

void error_capture_begin(void) {
    if (capture_depth++ == 0) last_error.code = ERROR_COUNT;
}

void error_capture_end(void) {
    capture_depth--;
}

ErrorCode error_last(const char **out_text) {
    if (out_text) *out_text = last_error.code == ERROR_COUNT ? "" : last_error.text;
    return last_error.code;
}

int error_exit_code(Status status) {
    static const int defaults[STATUS_COUNT] = {
        [STATUS_OK] = 0,         [STATUS_AGAIN] = 70,       [STATUS_NOT_FOUND] = 66,
        [STATUS_BAD_INPUT] = 65, [STATUS_UNSUPPORTED] = 69, [STATUS_NO_SPACE] = 71,
        [STATUS_IO] = 74,        [STATUS_DEVICE] = 70,      [STATUS_PEER] = 76,
        [STATUS_STOPPED] = 75,
    };
    if (status == STATUS_OK) return 0;
    int first = atomic_load(&first_logged);
    if (first != ERROR_COUNT) return error_rows[first].exit_code;
    return status < STATUS_COUNT ? defaults[status] : 70;
}
