#include "runtime/engine/stop_match.h"

#include <string.h>

void stop_match_begin(StopMatch *match, const char *const *stops, uint32_t stop_count) {
    *match = (StopMatch){.stops = stops, .stop_count = stop_count};
}

void stop_match_end(StopMatch *match) {
    text_buffer_free(&match->held);
    *match = (StopMatch){0};
}

/* Whether a stop string, or the beginning of one that runs past the text, stands at text. */
static bool stands_at(const char *stop, const char *text, size_t bytes, bool *out_complete) {
    size_t length = strlen(stop), common = length < bytes ? length : bytes;
    *out_complete = length <= bytes;
    return length > 0 && memcmp(stop, text, common) == 0;
}

/* First byte where a stop string stands or may begin; bytes when nowhere. */
static size_t find_stop(const StopMatch *match, bool *out_complete) {
    for (size_t at = 0; at < match->held.bytes; at++) {
        bool begins = false;
        for (uint32_t i = 0; i < match->stop_count; i++) {
            bool complete;
            if (!stands_at(match->stops[i], match->held.text + at, match->held.bytes - at,
                           &complete))
                continue;
            begins = true;
            if (!complete) continue;
            *out_complete = true;
            return at;
        }
        if (begins) return at;
    }
    return match->held.bytes;
}

static Status release(StopMatch *match, size_t bytes, TextBuffer *out) {
    if (bytes == 0) return STATUS_OK;
    TRY(text_buffer_add(out, match->held.text, bytes));
    match->held.bytes -= bytes;
    memmove(match->held.text, match->held.text + bytes, match->held.bytes);
    return STATUS_OK;
}

Status stop_match_push(StopMatch *match, const char *text, size_t bytes, TextBuffer *out,
                       bool *out_matched) {
    *out_matched = false;
    if (match->stop_count == 0) return text_buffer_add(out, text, bytes);
    TRY(text_buffer_add(&match->held, text, bytes));
    TRY(release(match, find_stop(match, out_matched), out));
    if (*out_matched) match->held.bytes = 0;
    return STATUS_OK;
}

Status stop_match_flush(StopMatch *match, TextBuffer *out) {
    return release(match, match->held.bytes, out);
}
