#ifndef RUNTIME_TEXT_DECODE_H
#define RUNTIME_TEXT_DECODE_H

/* What the pieces of a vocabulary stand for. Every token has its bytes, found once; a text is the bytes of its tokens
 * one behind the other, but for what the start of a text drops. */

#include <stddef.h>

#include "runtime/text/pattern.h"
#include "runtime/text/tokenizer.h"

SPILLWAY_EXTERN_C_BEGIN

enum { DECODER_REPLACEMENTS_MAX = 8 };

typedef struct DecoderReplacement {
    Pattern *pattern; /* owned */
    char *content;    /* owned, NUL ended */
} DecoderReplacement;

typedef struct Decoder {
    DecoderReplacement replacements[DECODER_REPLACEMENTS_MAX]; /* in order */
    size_t replacement_count;
    bool byte_level;    /* pieces are written in GPT-2's alphabet of bytes */
    bool byte_fallback; /* "<0xHH>" is a byte */
    char *
        first_token_drops; /* owned, NUL ended, or NULL: the first token loses every one of these */
    char *start_drops; /* owned, NUL ended, or NULL: a text that starts with it loses it, once */
} Decoder;

/* Takes the pattern, also on failure. */
Status decoder_add_replacement(Decoder *decoder, Pattern *pattern, const char *content);
void decoder_destroy(Decoder *decoder);

/* Appends the bytes that a piece stands for. */
Status decoder_read_piece(const Decoder *decoder, const char *piece, size_t bytes, TextBuffer *out);

/* "<0xHH>" as a byte, or -1. */
int byte_fallback_value(const char *piece, size_t bytes);

SPILLWAY_EXTERN_C_END

#endif
