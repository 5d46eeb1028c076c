#include "runtime/text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/base/invariant.h"
#include "runtime/text/tokenizer_json.h"
#include "runtime/text/tokenizer_parts.h"
#include "runtime/text/utf8.h"

enum { TEXT_BYTES_MAX = 1 << 30 };

static const char replacement_character[] = "\xEF\xBF\xBD";

Status tokenizer_set_vocabulary(Tokenizer *tokenizer, const Piece *pieces, uint64_t count) {
    if (count == 0 || count > TOKENIZER_VOCAB_MAX)
        FAIL(TOKENIZER, "the vocabulary has %llu tokens; 1 to %d are taken",
             (unsigned long long)count, TOKENIZER_VOCAB_MAX);
    TRY(vocabulary_create(&tokenizer->vocabulary, pieces, (uint32_t)count));
    void *memory;
    TRY(memory_take(&memory, count, sizeof(bool), "vocabulary"));
    tokenizer->special = memory;
    TRY(memory_take(&memory, count + 1, sizeof(uint32_t), "vocabulary"));
    tokenizer->token_starts = memory;
    return STATUS_OK;
}

Status tokenizer_add_eos(Tokenizer *tokenizer, int64_t token, const char *what) {
    if (token < 0 || token >= tokenizer->vocabulary.count)
        FAIL(TOKENIZER, "%s is %lld; the vocabulary has tokens 0 to %u", what, (long long)token,
             tokenizer->vocabulary.count - 1);
    for (uint32_t i = 0; i < tokenizer->eos_count; i++)
        if (tokenizer->eos[i] == token) return STATUS_OK;
    if (tokenizer->eos_count == TOKENIZER_EOS_MAX)
        FAIL(TOKENIZER, "%s: more than %d tokens end a text", what, TOKENIZER_EOS_MAX);
    tokenizer->eos[tokenizer->eos_count++] = (int32_t)token;
    return STATUS_OK;
}

void tokenizer_take_byte_tokens(Tokenizer *tokenizer) {
    static const char digits[] = "0123456789ABCDEF";
    int32_t found[256];
    bool all = true;
    for (int byte = 0; byte < 256; byte++) {
        char piece[] = {'<', '0', 'x', digits[byte >> 4], digits[byte & 15], '>'};
        found[byte] = vocabulary_find(&tokenizer->vocabulary, piece, sizeof piece);
        all = all && found[byte] >= 0;
    }
    if (!all) return;
    tokenizer->broken_bytes = BROKEN_AS_TOKENS;
    memcpy(tokenizer->byte_token, found, sizeof found);
}

void tokenizer_take_bytes_as_words(Tokenizer *tokenizer, const int32_t byte_token[256]) {
    tokenizer->broken_bytes = BROKEN_AS_WORDS;
    memcpy(tokenizer->byte_token, byte_token, sizeof tokenizer->byte_token);
}

static Status read_token_bytes(Tokenizer *tokenizer) {
    TextBuffer *text = &tokenizer->token_text;
    for (uint32_t id = 0; id < tokenizer->vocabulary.count; id++) {
        Piece piece = vocabulary_piece(&tokenizer->vocabulary, id);
        TRY(decoder_read_piece(&tokenizer->decoder, piece.text, piece.bytes, text));
        if (text->bytes > UINT32_MAX) FAIL(TOKENIZER, "the texts of tokens exceed 4 GiB");
        tokenizer->token_starts[id + 1] = (uint32_t)text->bytes;
    }
    return text_buffer_add(text, "", 0);
}

static Status tokenizer_begin(Tokenizer **out) {
    void *memory;
    TRY(memory_take(&memory, 1, sizeof(Tokenizer), "tokenizer"));
    Tokenizer *tokenizer = memory;
    tokenizer->bos = -1;
    for (size_t i = 0; i < 256; i++)
        tokenizer->byte_token[i] = -1;
    *out = tokenizer;
    return STATUS_OK;
}

/* What every loader leaves to do; `loaded` is what it returned. */
static Status tokenizer_finish(Tokenizer *tokenizer, Status loaded, Tokenizer **out) {
    if (loaded == STATUS_OK) {
        CHECK(tokenizer->model.row && tokenizer->special);
        loaded = read_token_bytes(tokenizer);
    }
    if (loaded == STATUS_OK)
        *out = tokenizer;
    else
        tokenizer_destroy(tokenizer);
    return loaded;
}

Status tokenizer_create(Tokenizer **out, const Weights *weights) {
    Tokenizer *tokenizer;
    TRY(tokenizer_begin(&tokenizer));
    bool is_folder = weights_naming(weights) == WEIGHTS_NAMING_HF;
    Status status = is_folder ? tokenizer_load_folder(tokenizer, weights)
                              : tokenizer_load_gguf(tokenizer, weights);
    return tokenizer_finish(tokenizer, status, out);
}

Status tokenizer_create_from_json(Tokenizer **out, const char *file, const char *text,
                                  size_t bytes) {
    Tokenizer *tokenizer;
    TRY(tokenizer_begin(&tokenizer));
    return tokenizer_finish(tokenizer, tokenizer_load_json(tokenizer, file, text, bytes), out);
}

void tokenizer_destroy(Tokenizer *tokenizer) {
    if (!tokenizer) return;
    if (tokenizer->model.row) tokenizer->model.row->destroy(tokenizer->model.state);
    vocabulary_destroy(&tokenizer->vocabulary);
    added_tokens_destroy(&tokenizer->added);
    normalizer_destroy(&tokenizer->normalizer);
    pre_tokenizer_destroy(&tokenizer->pre_tokenizer);
    decoder_destroy(&tokenizer->decoder);
    text_buffer_free(&tokenizer->token_text);
    token_list_free(&tokenizer->prefix);
    token_list_free(&tokenizer->suffix);
    free(tokenizer->special);
    free(tokenizer->token_starts);
    free(tokenizer);
}

uint32_t tokenizer_vocab_count(const Tokenizer *tokenizer) {
    return tokenizer->vocabulary.count;
}

int32_t tokenizer_bos(const Tokenizer *tokenizer) {
    return tokenizer->bos;
}

const int32_t *tokenizer_eos(const Tokenizer *tokenizer, uint32_t *out_count) {
    *out_count = tokenizer->eos_count;
    return tokenizer->eos;
}

bool tokenizer_adds_bos(const Tokenizer *tokenizer) {
    return tokenizer->bos >= 0 && tokenizer->prefix.count &&
           tokenizer->prefix.tokens[0] == tokenizer->bos;
}

static bool is_token(const Tokenizer *tokenizer, int32_t token) {
    return token >= 0 && (uint32_t)token < tokenizer->vocabulary.count;
}

bool tokenizer_is_special(const Tokenizer *tokenizer, int32_t token) {
    return is_token(tokenizer, token) && tokenizer->special[token];
}

int32_t tokenizer_find(const Tokenizer *tokenizer, const char *piece, size_t piece_bytes) {
    return vocabulary_find(&tokenizer->vocabulary, piece, piece_bytes);
}

/* ---- text to tokens ---- */

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
        TRY(text_buffer_add(out, replacement_character, 3));
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

/* ---- tokens to text ---- */

const char *tokenizer_token_bytes(const Tokenizer *tokenizer, int32_t token, size_t *out_bytes) {
    *out_bytes = 0;
    if (!is_token(tokenizer, token)) return "";
    uint32_t start = tokenizer->token_starts[token];
    *out_bytes = tokenizer->token_starts[token + 1] - start;
    return tokenizer->token_text.text + start;
}

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
        TRY(text_buffer_add(out, replacement_character, 3));
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
    if (!is_token(tokenizer, token))
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
    if (stream->held_bytes) TRY(text_buffer_add(out, replacement_character, 3));
    stream->held_bytes = 0;
    return STATUS_OK;
}
