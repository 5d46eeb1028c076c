#include "runtime/text/words.h"

#include <stdlib.h>

void words_free(Words *words) {
    text_buffer_free(&words->text);
    free(words->spans);
    *words = (Words){0};
}

void words_reset(Words *words) {
    words->text.bytes = 0;
    words->span_count = 0;
}

Status words_add_span(Words *words, size_t start, size_t bytes) {
    if (words->span_count == words->span_capacity) {
        size_t capacity = words->span_capacity ? 2 * words->span_capacity : 64;
        WordSpan *grown = capacity < PTRDIFF_MAX / sizeof *grown
                              ? realloc(words->spans, capacity * sizeof *grown)
                              : NULL;
        if (!grown) FAIL(MEMORY, "no memory for %zu words of a text", capacity);
        words->spans = grown;
        words->span_capacity = capacity;
    }
    words->spans[words->span_count++] = (WordSpan){.start = start, .bytes = bytes};
    return STATUS_OK;
}

void words_swap(Words *a, Words *b) {
    Words kept = *a;
    *a = *b;
    *b = kept;
}
