#include "runtime/text/tokenizer.h"

#include <string.h>

#include "runtime/text/tokenizer_parts.h"
#include "runtime/text/utf8.h"

enum { TEXT_BYTES_MAX = 1 << 30 };

/* One call of encode. */
typedef struct Encoder {
    const Tokenizer *tokenizer;
    bool parse_special;
    TextBuffer run, run_scratch; /* a stretch while it is normalised */
    Words words, words_scratch;  /* a part of it while it is cut */
    WordScratch word_scratch;
    TokenList *out;
} Encoder;

static void encoder_free(Encoder *encoder) {
    text_buffer_free(&encoder->run);
    text_buffer_free(&encoder->run_scratch);
    words_free(&encoder->words);
    words_free(&encoder->words_scratch);
    word_scratch_free(&encoder->word_scratch);
}

static Status encode_word(Encoder *encoder, const char *word, size_t bytes) {
    const WordModel *model = &encoder->tokenizer->model;
    return model->row->encode(model->state, word, bytes, &encoder->word_scratch, encoder->out);
}

/* A part of normalised text without added tokens. */
static Status encode_part(Encoder *encoder, const char *text, size_t bytes, bool opens_text,
                          bool continues) {
    Words *words = &encoder->words;
    words_reset(words);
    TRY(text_buffer_add(&words->text, text, bytes));
    words->opens_text = opens_text;
    words->continues = continues;
    TRY(pre_tokenizer_apply(&encoder->tokenizer->pre_tokenizer, words, &encoder->words_scratch));
    for (size_t i = 0; i < words->span_count; i++)
        TRY(encode_word(encoder, words->text.text + words->spans[i].start, words->spans[i].bytes));
    return STATUS_OK;
}

/* Well-formed text without added tokens that are looked for in raw text. */
static Status encode_characters(Encoder *encoder, const char *text, size_t bytes, bool opens_text,
                                bool continues) {
    TextBuffer *run = &encoder->run;
    run->bytes = 0;
    TRY(text_buffer_add(run, text, bytes));
    TRY(normalizer_apply(&encoder->tokenizer->normalizer, continues, run, &encoder->run_scratch));
    AddedTokenWalk walk = {.added = &encoder->tokenizer->added,
                           .text = run->text,
                           .bytes = run->bytes,
                           .normalized = true,
                           .parse_special = encoder->parse_special};
    TextPart part;
    Status status;
    while ((status = added_token_walk_next(&walk, &part)) == STATUS_OK) {
        if (part.token >= 0)
            TRY(token_list_add(encoder->out, part.token));
        else
            TRY(encode_part(encoder, run->text + part.start, part.bytes,
                            opens_text && part.start == 0, continues && part.start == 0));
    }
    return status == STATUS_NOT_FOUND ? STATUS_OK : status;
}

/* Appends text with U+FFFD for what is no character. */
static Status add_well_formed(const char *text, size_t bytes, TextBuffer *out) {
    for (size_t at = 0, length; at < bytes; at += length) {
        length = utf8_valid_prefix(text + at, bytes - at);
        TRY(text_buffer_add(out, text + at, length));
        if (at + length == bytes) break;
        at += length;
        utf8_next(text + at, bytes - at, &length);
        TRY(text_buffer_add(out, utf8_replacement, strlen(utf8_replacement)));
    }
    return STATUS_OK;
}

/* A run of bytes that are no characters, one of which the vocabulary lacks. */
static Status encode_replaced(Encoder *encoder, const char *text, size_t bytes) {
    TextBuffer repaired = {0};
    Status status = add_well_formed(text, bytes, &repaired);
    if (status == STATUS_OK) status = encode_word(encoder, repaired.text, repaired.bytes);
    text_buffer_free(&repaired);
    return status;
}

/* Bytes that are no characters. */
static Status encode_broken(Encoder *encoder, const char *text, size_t bytes) {
    const Tokenizer *tokenizer = encoder->tokenizer;
    for (size_t i = 0; i < bytes; i++)
        if (tokenizer->byte_token[(uint8_t)text[i]] < 0)
            return encode_replaced(encoder, text, bytes);
    if (tokenizer->broken_bytes == BROKEN_AS_WORDS) return encode_word(encoder, text, bytes);
    for (size_t i = 0; i < bytes; i++)
        TRY(token_list_add(encoder->out, tokenizer->byte_token[(uint8_t)text[i]]));
    return STATUS_OK;
}

static size_t broken_prefix(const char *text, size_t bytes) {
    size_t at = 0, length;
    while (at < bytes && utf8_next(text + at, bytes - at, &length) != UTF8_CHARACTER)
        at += length;
    return at;
}

/* Text without added tokens that are looked for in raw text, as runs of characters and of broken bytes. */
static Status encode_stretch(Encoder *encoder, const char *text, size_t bytes, bool opens_text) {
    for (size_t at = 0; at < bytes;) {
        size_t run = utf8_valid_prefix(text + at, bytes - at);
        if (run) TRY(encode_characters(encoder, text + at, run, opens_text && at == 0, at > 0));
        at += run;
        run = broken_prefix(text + at, bytes - at);
        if (run) TRY(encode_broken(encoder, text + at, run));
        at += run;
    }
    return STATUS_OK;
}

static Status encode_all(Encoder *encoder, const char *text, size_t bytes) {
    AddedTokenWalk walk = {.added = &encoder->tokenizer->added,
                           .text = text,
                           .bytes = bytes,
                           .parse_special = encoder->parse_special};
    TextPart part;
    Status status;
    while ((status = added_token_walk_next(&walk, &part)) == STATUS_OK) {
        if (part.token >= 0)
            TRY(token_list_add(encoder->out, part.token));
        else
            TRY(encode_stretch(encoder, text + part.start, part.bytes, part.start == 0));
    }
    return status == STATUS_NOT_FOUND ? STATUS_OK : status;
}

static Status encode_repaired(Encoder *encoder, const char *text, size_t bytes) {
    TextBuffer repaired = {0};
    Status status = add_well_formed(text, bytes, &repaired);
    if (status == STATUS_OK) status = encode_all(encoder, repaired.text, repaired.bytes);
    text_buffer_free(&repaired);
    return status;
}

static Status add_tokens(const TokenList *tokens, TokenList *out) {
    for (size_t i = 0; i < tokens->count; i++)
        TRY(token_list_add(out, tokens->tokens[i]));
    return STATUS_OK;
}

Status tokenizer_encode(const Tokenizer *tokenizer, const char *text, size_t bytes, unsigned flags,
                        TokenList *out) {
    if (bytes > TEXT_BYTES_MAX)
        FAIL(TEXT, "the text has %zu bytes; at most %d are encoded at once", bytes, TEXT_BYTES_MAX);
    bool add_special = flags & TOKENIZE_ADD_SPECIAL;
    if (add_special) TRY(add_tokens(&tokenizer->prefix, out));
    Encoder encoder = {
        .tokenizer = tokenizer, .parse_special = flags & TOKENIZE_PARSE_SPECIAL, .out = out};
    bool as_it_is =
        tokenizer->broken_bytes != BROKEN_REPLACED || utf8_valid_prefix(text, bytes) == bytes;
    Status status =
        as_it_is ? encode_all(&encoder, text, bytes) : encode_repaired(&encoder, text, bytes);
    encoder_free(&encoder);
    TRY(status);
    return add_special ? add_tokens(&tokenizer->suffix, out) : STATUS_OK;
}
