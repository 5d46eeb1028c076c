#include "runtime/text/tokenizer.h"

#include <string.h>

#include "runtime/text/tokenizer_parts.h"
#include "runtime/text/utf8.h"

Status tokenizer_decode(const Tokenizer *tokenizer, const int32_t *tokens, size_t count,
                        bool skip_special, TextBuffer *out) {
    TokenStream stream;
    token_stream_begin(&stream, tokenizer, skip_special);
    for (size_t i = 0; i < count; i++)
        TRY(token_stream_push(&stream, tokens[i], out));
    return token_stream_flush(&stream, out);
}

void token_stream_begin(TokenStream *stream, const Tokenizer *tokenizer, bool skip_special) {
    *stream = (TokenStream){.tokenizer = tokenizer, .skip_special = skip_special};
}

/* Appends the characters of `text` to *out and returns how many bytes at its end are an unfinished one. */
static Status add_characters(const char *text, size_t bytes, TextBuffer *out, size_t *out_left) {
    size_t at = 0, length;
    *out_left = 0;
    while (at < bytes) {
        length = utf8_valid_prefix(text + at, bytes - at);
        TRY(text_buffer_add(out, text + at, length));
        at += length;
        if (at == bytes) break;
        if (utf8_next(text + at, bytes - at, &length) == UTF8_UNFINISHED) {
            *out_left = length;
            break;
        }
        TRY(text_buffer_add(out, utf8_replacement, strlen(utf8_replacement)));
        at += length;
    }
    return STATUS_OK;
}

/* The bytes of a token behind those held back: whole characters go out, the rest is held. */
static Status stream_bytes(TokenStream *stream, const char *text, size_t bytes, TextBuffer *out) {
    size_t used = 0, left = 0;
    while (stream->held_bytes && used < bytes) {
        stream->held[stream->held_bytes++] = (unsigned char)text[used++];
        TRY(add_characters((const char *)stream->held, stream->held_bytes, out, &left));
        memmove(stream->held, stream->held + stream->held_bytes - left, left);
        stream->held_bytes = (uint8_t)left;
    }
    if (used == bytes) return STATUS_OK;
    TRY(add_characters(text + used, bytes - used, out, &left));
    memcpy(stream->held, text + bytes - left, left);
    stream->held_bytes = (uint8_t)left;
    return STATUS_OK;
}

/* The first token of a text where the decoder drops something from it. */
static Status stream_first_token(TokenStream *stream, int32_t token, TextBuffer *out) {
    const char *drop = stream->tokenizer->decoder.first_token_drops;
    Piece piece = vocabulary_piece(&stream->tokenizer->vocabulary, (uint32_t)token);
    const char *end = piece.text + piece.bytes;
    size_t drop_bytes = strlen(drop);
    stream->started = true;
    for (const char *at = piece.text; at < end;) {
        const char *found = memmem(at, (size_t)(end - at), drop, drop_bytes);
        const char *stop = found ? found : end;
        TRY(stream_bytes(stream, at, (size_t)(stop - at), out));
        at = found ? found + drop_bytes : end;
    }
    return STATUS_OK;
}

Status token_stream_push(TokenStream *stream, int32_t token, TextBuffer *out) {
    const Tokenizer *tokenizer = stream->tokenizer;
    if (!tokenizer_has(tokenizer, token))
        FAIL(TEXT, "token %d is not in the vocabulary of %u", token, tokenizer->vocabulary.count);
    if (stream->skip_special && tokenizer->special[token]) return STATUS_OK;
    const Decoder *decoder = &tokenizer->decoder;
    if (decoder->first_token_drops && !stream->started)
        return stream_first_token(stream, token, out);
    size_t bytes = 0;
    const char *text = tokenizer_token_bytes(tokenizer, token, &bytes);
    if (decoder->start_drops && !stream->started && bytes) {
        size_t drop_bytes = strlen(decoder->start_drops);
        size_t drop =
            bytes >= drop_bytes && !memcmp(text, decoder->start_drops, drop_bytes) ? drop_bytes : 0;
        text += drop;
        bytes -= drop;
        stream->started = true;
    }
    return stream_bytes(stream, text, bytes, out);
}

Status token_stream_flush(TokenStream *stream, TextBuffer *out) {
    if (stream->held_bytes) TRY(text_buffer_add(out, utf8_replacement, strlen(utf8_replacement)));
    stream->held_bytes = 0;
    return STATUS_OK;
}
