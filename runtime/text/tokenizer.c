#include "runtime/text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/base/invariant.h"
#include "runtime/text/tokenizer_json.h"
#include "runtime/text/tokenizer_parts.h"

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

bool tokenizer_has(const Tokenizer *tokenizer, int32_t token) {
    return token >= 0 && (uint32_t)token < tokenizer->vocabulary.count;
}

bool tokenizer_is_special(const Tokenizer *tokenizer, int32_t token) {
    return tokenizer_has(tokenizer, token) && tokenizer->special[token];
}

int32_t tokenizer_find(const Tokenizer *tokenizer, const char *piece, size_t piece_bytes) {
    return vocabulary_find(&tokenizer->vocabulary, piece, piece_bytes);
}

const char *tokenizer_token_bytes(const Tokenizer *tokenizer, int32_t token, size_t *out_bytes) {
    *out_bytes = 0;
    if (!tokenizer_has(tokenizer, token)) return "";
    uint32_t start = tokenizer->token_starts[token];
    *out_bytes = tokenizer->token_starts[token + 1] - start;
    return tokenizer->token_text.text + start;
}
