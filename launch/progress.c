#include "launch/progress.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { LINE_BYTES = 320, NUMBER_BYTES = 40, TIME_BYTES = 32 };

static const double terminal_interval_s = 0.25, plain_interval_s = 30, rate_window_s = 5;
static const double early_share = 0.05; /* up to here the time left is a range */

ProgressStyle progress_style(const char *name, int descriptor) {
    if (strcmp(name, "none") == 0) return PROGRESS_NONE;
    if (strcmp(name, "plain") == 0) return PROGRESS_PLAIN;
    if (strcmp(name, "terminal") == 0 || isatty(descriptor)) return PROGRESS_TERMINAL;
    return PROGRESS_PLAIN;
}

void progress_begin(Progress *progress, ProgressStyle style, int descriptor, double now_s) {
    *progress = (Progress){
        .style = style,
        .descriptor = descriptor,
        .started_s = now_s,
        .shown_s = now_s,
        .window_s = now_s,
    };
}

/* 1234567 as "1 234 567". */
static const char *grouped(uint64_t number, char out[NUMBER_BYTES]) {
    char digits[NUMBER_BYTES];
    int count = snprintf(digits, sizeof digits, "%" PRIu64, number);
    char *to = out;
    for (int i = 0; i < count; i++) {
        if (i > 0 && (count - i) % 3 == 0) *to++ = ' ';
        *to++ = digits[i];
    }
    *to = 0;
    return out;
}

/* "12:04" or "5:14:30". */
static const char *clock_text(double seconds, char out[TIME_BYTES]) {
    uint64_t whole = seconds > 0 && seconds < 1e9 ? (uint64_t)seconds : 0;
    if (whole >= 3600)
        snprintf(out, TIME_BYTES, "%" PRIu64 ":%02d:%02d", whole / 3600, (int)(whole / 60 % 60),
                 (int)(whole % 60));
    else
        snprintf(out, TIME_BYTES, "%d:%02d", (int)(whole / 60), (int)(whole % 60));
    return out;
}

static double share(uint64_t part, uint64_t whole) {
    return whole > 0 ? (double)part / (double)whole : 0;
}

/* Tokens that are still to come at what the lines so far took, at the rate so far; negative when nothing is known. */
static double seconds_left(const Progress *progress, const ProgressState *state, double now_s) {
    double done = (double)(state->prompt_tokens + state->generated_tokens);
    double elapsed = now_s - progress->started_s;
    if (state->lines_done >= state->lines_total || state->lines_now == 0 ||
        state->bytes_read == 0 || done == 0)
        return -1;
    uint64_t lines_left = state->lines_total - state->lines_done;
    double prompt_left = (double)(state->bytes_total - state->bytes_read) *
                         share(state->prompt_tokens, state->bytes_read);
    double answer_left = (double)lines_left * share(state->generated_tokens, state->lines_now);
    return (prompt_left + answer_left) * elapsed / done;
}

static void append(char *line, size_t line_bytes, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void append(char *line, size_t line_bytes, const char *format, ...) {
    size_t used = strlen(line);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line + used, line_bytes - used, format, arguments);
    va_end(arguments);
}

static void append_tiers(char *line, size_t line_bytes, const ProgressState *state) {
    static const char *const names[TIER_COUNT] = {"  kv dev", " host", " nvme"};
    for (int tier = 0; tier < TIER_COUNT; tier++)
        if (state->kv_shares[tier] >= 0)
            append(line, line_bytes, "%s %.0f %%", names[tier], state->kv_shares[tier] * 100);
    if (state->spills)
        append(line, line_bytes, "  hit %.0f %%  stall %.0f %%", state->hit_share * 100,
               state->stall_share * 100);
}

void progress_format(const Progress *progress, const ProgressState *state, double now_s, char *out,
                     size_t out_bytes) {
    char a[NUMBER_BYTES], b[NUMBER_BYTES], time[TIME_BYTES], later[TIME_BYTES];
    double done = share(state->lines_done, state->lines_total);
    snprintf(out, out_bytes, "batch %s/%s (%.1f %%)  running %u", grouped(state->lines_done, a),
             grouped(state->lines_total, b), done * 100, state->running);
    append(out, out_bytes, "  out %s tok/s  in %s tok/s",
           grouped((uint64_t)llround(progress->generated_rate), a),
           grouped((uint64_t)llround(progress->prompt_rate), b));
    append_tiers(out, out_bytes, state);
    append(out, out_bytes, "  elapsed %s", clock_text(now_s - progress->started_s, time));
    double left = seconds_left(progress, state, now_s);
    if (left < 0) return;
    if (done < early_share)
        append(out, out_bytes, "  left %s-%s", clock_text(left / 2, time),
               clock_text(left * 2, later));
    else
        append(out, out_bytes, "  left %s", clock_text(left, time));
}

static void update_rates(Progress *progress, const ProgressState *state, double now_s, bool last) {
    double start = last ? progress->started_s : progress->window_s;
    uint64_t prompt = last ? 0 : progress->window_prompt;
    uint64_t generated = last ? 0 : progress->window_generated;
    double seconds = now_s - start;
    if (seconds <= 0) return;
    progress->prompt_rate = (double)(state->prompt_tokens - prompt) / seconds;
    progress->generated_rate = (double)(state->generated_tokens - generated) / seconds;
    if (seconds < rate_window_s) return;
    progress->window_s = now_s;
    progress->window_prompt = state->prompt_tokens;
    progress->window_generated = state->generated_tokens;
}

/* Talk that cannot be written has nobody to be told to. */
static void put(const Progress *progress, const char *bytes, size_t count) {
    while (count > 0) {
        ssize_t written = write(progress->descriptor, bytes, count);
        if (written <= 0) return;
        bytes += written;
        count -= (size_t)written;
    }
}

static void show(Progress *progress, const ProgressState *state, double now_s, bool last) {
    char line[LINE_BYTES], shown[2 * LINE_BYTES];
    update_rates(progress, state, now_s, last);
    progress_format(progress, state, now_s, line, sizeof line - 2);
    size_t bytes = strlen(line);
    bool terminal = progress->style == PROGRESS_TERMINAL;
    int padding =
        terminal && progress->shown_bytes > bytes ? (int)(progress->shown_bytes - bytes) : 0;
    int count = snprintf(shown, sizeof shown, "%s%s%*s%s", terminal ? "\r" : "", line, padding, "",
                         terminal && !last ? "" : "\n");
    progress->shown_bytes = last ? 0 : bytes;
    progress->shown_s = now_s;
    put(progress, shown, (size_t)count);
}

void progress_tick(Progress *progress, const ProgressState *state, double now_s) {
    if (progress->style == PROGRESS_NONE) return;
    double interval = progress->style == PROGRESS_TERMINAL ? terminal_interval_s : plain_interval_s;
    if (now_s - progress->shown_s >= interval) show(progress, state, now_s, false);
}

void progress_end(Progress *progress, const ProgressState *state, double now_s) {
    if (progress->style != PROGRESS_NONE) show(progress, state, now_s, true);
}
