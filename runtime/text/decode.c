#include "runtime/text/decode.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/text/byte_level.h"

Status decoder_add_replacement(Decoder *decoder, Pattern *pattern, const char *content) {
    char *kept = strdup(content);
    if (!kept || decoder->replacement_count == DECODER_REPLACEMENTS_MAX) {
        pattern_destroy(pattern);
        free(kept);
        if (!kept) FAIL(MEMORY, "no memory for a decoder");
        FAIL(TOKENIZER, "the decoder has more than %d replacements", DECODER_REPLACEMENTS_MAX);
    }
    decoder->replacements[decoder->replacement_count++] =
        (DecoderReplacement){.pattern = pattern, .content = kept};
    return STATUS_OK;
}

void decoder_destroy(Decoder *decoder) {
    for (size_t i = 0; i < decoder->replacement_count; i++) {
        pattern_destroy(decoder->replacements[i].pattern);
        free(decoder->replacements[i].content);
    }
    free(decoder->first_token_drops);
    free(decoder->start_drops);
    *decoder = (Decoder){0};
}

static int hex_digit(char letter) {
    static const char digits[] = "0123456789abcdef";
    const char *digit =
        letter ? strchr(digits, letter | ('A' <= letter && letter <= 'F' ? 32 : 0)) : NULL;
    return digit ? (int)(digit - digits) : -1;
}

int byte_fallback_value(const char *piece, size_t bytes) {
    if (bytes != 6 || memcmp(piece, "<0x", 3) || piece[5] != '>') return -1;
    int high = hex_digit(piece[3]), low = hex_digit(piece[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

static Status read_byte_level(const char *piece, size_t bytes, TextBuffer *out) {
    size_t start = out->bytes, read_bytes;
    TRY(text_buffer_add(out, piece, bytes));
    if (byte_level_read(piece, bytes, out->text + start, &read_bytes))
        out->bytes = start + read_bytes;
    else
        memcpy(out->text + start, piece, bytes);
    return STATUS_OK;
}

static Status replace_in_turn(const Decoder *decoder, TextBuffer *text, TextBuffer *scratch) {
    for (size_t i = 0; i < decoder->replacement_count; i++) {
        const DecoderReplacement *replacement = &decoder->replacements[i];
        scratch->bytes = 0;
        TRY(pattern_replace(replacement->pattern, text->text, text->bytes, replacement->content,
                            strlen(replacement->content), scratch));
        TextBuffer kept = *text;
        *text = *scratch;
        *scratch = kept;
    }
    return STATUS_OK;
}

static Status read_replaced(const Decoder *decoder, const char *piece, size_t bytes,
                            TextBuffer *out) {
    TextBuffer text = {0}, scratch = {0};
    Status status = text_buffer_add(&text, piece, bytes);
    if (status == STATUS_OK) status = replace_in_turn(decoder, &text, &scratch);
    if (status == STATUS_OK) status = text_buffer_add(out, text.text, text.bytes);
    text_buffer_free(&text);
    text_buffer_free(&scratch);
    return status;
}

Status decoder_read_piece(const Decoder *decoder, const char *piece, size_t bytes,
                          TextBuffer *out) {
    int value = decoder->byte_fallback ? byte_fallback_value(piece, bytes) : -1;
    if (value >= 0) return text_buffer_add(out, &(char){(char)value}, 1);
    if (decoder->byte_level) return read_byte_level(piece, bytes, out);
    if (decoder->replacement_count) return read_replaced(decoder, piece, bytes, out);
    return text_buffer_add(out, piece, bytes);
}
