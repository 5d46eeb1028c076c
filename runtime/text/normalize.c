#include "runtime/text/normalize.h"

#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "runtime/text/utf8.h"
#include "runtime/text/white_space.h"

static const int unicode_options[] = {
    [UNICODE_NFC] = UTF8PROC_STABLE | UTF8PROC_COMPOSE,
    [UNICODE_NFD] = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE,
    [UNICODE_NFKC] = UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT,
    [UNICODE_NFKD] = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT,
};

static bool is_ascii(const char *text, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        if (text[i] & 0x80) return false;
    return true;
}

static Status apply_unicode(const NormalizerStep *step, const char *text, size_t bytes,
                            TextBuffer *out) {
    if (is_ascii(text, bytes)) return text_buffer_add(out, text, bytes);
    utf8proc_uint8_t *mapped;
    utf8proc_ssize_t mapped_bytes =
        utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)bytes, &mapped,
                     (utf8proc_option_t)step->unicode_options);
    if (mapped_bytes < 0)
        FAIL(TEXT, "Unicode normalisation failed: %s", utf8proc_errmsg(mapped_bytes));
    Status status = text_buffer_add(out, (const char *)mapped, (size_t)mapped_bytes);
    free(mapped);
    return status;
}

static Status apply_lowercase(const NormalizerStep *step, const char *text, size_t bytes,
                              TextBuffer *out) {
    (void)step;
    size_t length;
    for (size_t at = 0; at < bytes; at += length) {
        utf8_next(text + at, bytes - at, &length);
        uint32_t code_point = utf8_code_point(text + at);
        char written[4];
        size_t written_bytes =
            utf8_write((uint32_t)utf8proc_tolower((utf8proc_int32_t)code_point), written);
        /* The one letter whose lower case is two characters: i and a combining dot. */
        if (code_point == 0x130)
            TRY(text_buffer_add(out, "i\xCC\x87", 3));
        else
            TRY(text_buffer_add(out, written, written_bytes));
    }
    return STATUS_OK;
}

static Status apply_strip(const NormalizerStep *step, const char *text, size_t bytes,
                          TextBuffer *out) {
    size_t start = step->strip_left ? white_space_prefix(text, bytes) : 0;
    size_t end =
        step->strip_right ? bytes - white_space_suffix(text + start, bytes - start) : bytes;
    return text_buffer_add(out, text + start, end - start);
}

static Status apply_prepend(const NormalizerStep *step, const char *text, size_t bytes,
                            TextBuffer *out) {
    if (bytes) TRY(text_buffer_add(out, step->content, step->content_bytes));
    return text_buffer_add(out, text, bytes);
}

static Status apply_replace(const NormalizerStep *step, const char *text, size_t bytes,
                            TextBuffer *out) {
    return pattern_replace(step->pattern, text, bytes, step->content, step->content_bytes, out);
}

static Status add_step(Normalizer *normalizer, NormalizerStep step, const char *content,
                       size_t bytes) {
    step.content = malloc(bytes + 1);
    NormalizerStep *grown =
        realloc(normalizer->steps, (normalizer->step_count + 1) * sizeof *grown);
    if (grown) normalizer->steps = grown;
    if (!grown || !step.content) {
        pattern_destroy(step.pattern);
        free(step.content);
        FAIL(MEMORY, "no memory for a normaliser");
    }
    if (bytes) memcpy(step.content, content, bytes);
    step.content_bytes = bytes;
    normalizer->steps[normalizer->step_count++] = step;
    return STATUS_OK;
}

Status normalizer_add_unicode(Normalizer *normalizer, UnicodeForm form) {
    NormalizerStep step = {.apply = apply_unicode, .unicode_options = unicode_options[form]};
    return add_step(normalizer, step, NULL, 0);
}

Status normalizer_add_lowercase(Normalizer *normalizer) {
    return add_step(normalizer, (NormalizerStep){.apply = apply_lowercase}, NULL, 0);
}

Status normalizer_add_strip(Normalizer *normalizer, bool left, bool right) {
    NormalizerStep step = {.apply = apply_strip, .strip_left = left, .strip_right = right};
    return add_step(normalizer, step, NULL, 0);
}

Status normalizer_add_prepend(Normalizer *normalizer, const char *content, size_t bytes) {
    NormalizerStep step = {.apply = apply_prepend, .at_start_only = true};
    return add_step(normalizer, step, content, bytes);
}

Status normalizer_add_replace(Normalizer *normalizer, Pattern *pattern, const char *content,
                              size_t bytes) {
    NormalizerStep step = {.apply = apply_replace, .pattern = pattern};
    return add_step(normalizer, step, content, bytes);
}

void normalizer_destroy(Normalizer *normalizer) {
    for (size_t i = 0; i < normalizer->step_count; i++) {
        pattern_destroy(normalizer->steps[i].pattern);
        free(normalizer->steps[i].content);
    }
    free(normalizer->steps);
    *normalizer = (Normalizer){0};
}

Status normalizer_apply(const Normalizer *normalizer, bool continues, TextBuffer *text,
                        TextBuffer *scratch) {
    for (size_t i = 0; i < normalizer->step_count; i++) {
        const NormalizerStep *step = &normalizer->steps[i];
        if (step->at_start_only && continues) continue;
        scratch->bytes = 0;
        TRY(step->apply(step, text->text, text->bytes, scratch));
        TextBuffer kept = *text;
        *text = *scratch;
        *scratch = kept;
    }
    return STATUS_OK;
}
