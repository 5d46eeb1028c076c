#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/text/bpe.h"
#include "runtime/text/byte_level.h"
#include "runtime/text/tokenizer_parts.h"

/* tokenizer.ggml.token_type */
typedef enum GgufTokenType {
    GGUF_TOKEN_UNKNOWN = 2,
    GGUF_TOKEN_CONTROL = 3,
    GGUF_TOKEN_USER_DEFINED = 4,
    GGUF_TOKEN_BYTE = 6,
} GgufTokenType;

/* An array of the file, of one type, or NULL when the key is absent. */
static Status find_array(const Weights *weights, const char *key, MetadataType type,
                         const Metadata **out) {
    *out = weights_metadata_find(weights, key);
    if (!*out) return STATUS_OK;
    bool fits = (*out)->type == METADATA_ARRAY &&
                ((*out)->element_type == type || (*out)->element_count == 0);
    if (!fits) FAIL(TOKENIZER, "%s: %s is no array of its type", weights_path(weights), key);
    return STATUS_OK;
}

static Status load_vocabulary(Tokenizer *tokenizer, const Weights *weights) {
    const Metadata *tokens;
    TRY(find_array(weights, "tokenizer.ggml.tokens", METADATA_STRING, &tokens));
    if (!tokens)
        FAIL(TOKENIZER, "%s: the file has no tokenizer.ggml.tokens", weights_path(weights));
    void *memory;
    TRY(memory_take(&memory, tokens->element_count, sizeof(Piece), "vocabulary"));
    Piece *pieces = memory;
    for (size_t i = 0; i < tokens->element_count; i++)
        pieces[i].text = weights_array_string(tokens, i, &pieces[i].bytes);
    Status status = tokenizer_set_vocabulary(tokenizer, pieces, tokens->element_count);
    free(pieces);
    return status;
}

/* Tokens that the file marks as control, unknown or the user's own are found in raw text. */
static Status load_added_tokens(Tokenizer *tokenizer, const Weights *weights) {
    const Metadata *types;
    TRY(find_array(weights, "tokenizer.ggml.token_type", METADATA_INTEGER, &types));
    if (!types) return STATUS_OK;
    if (types->element_count != tokenizer->vocabulary.count)
        FAIL(TOKENIZER, "%s: %zu token types for %u tokens", weights_path(weights),
             types->element_count, tokenizer->vocabulary.count);
    for (uint32_t id = 0; id < tokenizer->vocabulary.count; id++) {
        int64_t type = weights_array_integer(types, id);
        bool special = type == GGUF_TOKEN_CONTROL || type == GGUF_TOKEN_UNKNOWN;
        tokenizer->special[id] = special;
        Piece piece = vocabulary_piece(&tokenizer->vocabulary, id);
        if ((!special && type != GGUF_TOKEN_USER_DEFINED) || !piece.bytes) continue;
        AddedToken added = {.token = (int32_t)id, .special = special};
        TRY(added_tokens_add(&tokenizer->added, added, piece.text, piece.bytes,
                             &tokenizer->normalizer));
    }
    return STATUS_OK;
}

/* "left right", cut at the first space behind the first byte. */
static Status read_merge(const Tokenizer *tokenizer, const Weights *weights, const Metadata *merges,
                         size_t index, BpeMerge *out) {
    size_t bytes;
    const char *text = weights_array_string(merges, index, &bytes);
    const char *space = bytes > 1 ? memchr(text + 1, ' ', bytes - 1) : NULL;
    if (!space)
        FAIL(TOKENIZER, "%s: merge %zu of tokenizer.ggml.merges is no pair", weights_path(weights),
             index);
    size_t left_bytes = (size_t)(space - text), right_bytes = bytes - left_bytes - 1;
    char joined[2048];
    if (bytes > sizeof joined)
        FAIL(TOKENIZER, "%s: merge %zu has %zu bytes", weights_path(weights), index, bytes);
    memcpy(joined, text, left_bytes);
    memcpy(joined + left_bytes, space + 1, right_bytes);
    const Vocabulary *vocabulary = &tokenizer->vocabulary;
    *out = (BpeMerge){.left = vocabulary_find(vocabulary, text, left_bytes),
                      .right = vocabulary_find(vocabulary, space + 1, right_bytes),
                      .token = vocabulary_find(vocabulary, joined, bytes - 1),
                      .rank = (uint32_t)index};
    if (out->left < 0 || out->right < 0 || out->token < 0)
        FAIL(TOKENIZER, "%s: merge %zu, \"%.*s\", names a piece that is not in the vocabulary",
             weights_path(weights), index, (int)bytes, text);
    return STATUS_OK;
}

static Status load_merges(Tokenizer *tokenizer, const Weights *weights, const Metadata *merges,
                          Bpe *bpe) {
    for (size_t i = 0; i < merges->element_count; i++) {
        BpeMerge merge;
        TRY(read_merge(tokenizer, weights, merges, i, &merge));
        bpe_add_merge(bpe, merge.left, merge.right, merge.token, merge.rank);
    }
    return STATUS_OK;
}

static Status load_byte_level_model(Tokenizer *tokenizer, const Weights *weights,
                                    const PreTokenizerRow *row) {
    const Metadata *merges;
    TRY(find_array(weights, "tokenizer.ggml.merges", METADATA_STRING, &merges));
    if (!merges)
        FAIL(TOKENIZER, "%s: the file has no tokenizer.ggml.merges", weights_path(weights));
    Bpe *bpe;
    TRY(bpe_create(&bpe, &tokenizer->vocabulary, merges->element_count));
    tokenizer->model = (WordModel){.row = &bpe_model, .state = bpe};
    bpe->on_bytes = true;
    bpe->whole_words = row->whole_words;
    for (int byte = 0; byte < 256; byte++) {
        char character[4];
        size_t bytes = byte_level_write((uint8_t)byte, character);
        bpe->byte_token[byte] = vocabulary_find(&tokenizer->vocabulary, character, bytes);
    }
    return load_merges(tokenizer, weights, merges, bpe);
}

static Status load_byte_level(Tokenizer *tokenizer, const Weights *weights, bool *out_adds_bos) {
    const char *name = "default";
    Status status = weights_read_string(weights, "tokenizer.ggml.pre", &name);
    if (status != STATUS_NOT_FOUND) TRY(status);
    const PreTokenizerRow *row = pre_tokenizer_row(name);
    if (!row)
        FAIL(TOKENIZER, "%s: the pre-tokenizer \"%s\" (tokenizer.ggml.pre) is not supported",
             weights_path(weights), name);
    for (size_t i = 0; row->expressions[i]; i++)
        TRY(pre_tokenizer_add_expression(&tokenizer->pre_tokenizer, row->expressions[i],
                                         SPLIT_ISOLATED));
    *out_adds_bos = row->adds_bos;
    tokenizer->takes_any_bytes = true;
    tokenizer->decoder.byte_level = true;
    return load_byte_level_model(tokenizer, weights, row);
}

typedef struct GgufModelRow {
    const char *name; /* tokenizer.ggml.model */
    /* Fills normaliser, pre-tokenizer, model and decoder; *out_adds_bos: when the file does not say. */
    Status (*load)(Tokenizer *tokenizer, const Weights *weights, bool *out_adds_bos);
} GgufModelRow;

static const GgufModelRow model_rows[] = {
    {"gpt2", load_byte_level},
};

static const GgufModelRow *model_row(const char *name) {
    for (size_t i = 0; i < sizeof model_rows / sizeof model_rows[0]; i++)
        if (!strcmp(model_rows[i].name, name)) return &model_rows[i];
    return NULL;
}

/* A token id of the file; STATUS_NOT_FOUND when the key is absent. */
static Status read_token(const Tokenizer *tokenizer, const Weights *weights, const char *key,
                         int32_t *out) {
    uint32_t token = 0;
    TRY(weights_read_u32(weights, key, &token));
    if (token >= tokenizer->vocabulary.count)
        FAIL(TOKENIZER, "%s: %s is %u; the vocabulary has tokens 0 to %u", weights_path(weights),
             key, token, tokenizer->vocabulary.count - 1);
    *out = (int32_t)token;
    return STATUS_OK;
}

/* Ends of a turn by the names that chat models use, for files that name only the end of text. */
static Status add_turn_end_by_name(Tokenizer *tokenizer) {
    static const char *const names[] = {"<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        int32_t token = vocabulary_find(&tokenizer->vocabulary, names[i], strlen(names[i]));
        if (token >= 0 && tokenizer->special[token])
            return tokenizer_add_eos(tokenizer, token, names[i]);
    }
    return STATUS_OK;
}

static Status load_eos(Tokenizer *tokenizer, const Weights *weights) {
    static const char *const keys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    bool has_turn_end = false;
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        int32_t token = -1;
        Status status = read_token(tokenizer, weights, keys[i], &token);
        if (status == STATUS_NOT_FOUND) continue;
        TRY(status);
        TRY(tokenizer_add_eos(tokenizer, token, keys[i]));
        has_turn_end = has_turn_end || i > 0;
    }
    return has_turn_end ? STATUS_OK : add_turn_end_by_name(tokenizer);
}

/* What encode puts around a text. */
static Status load_around(Tokenizer *tokenizer, const Weights *weights, bool adds_bos) {
    bool adds_eos = false;
    Status status = read_token(tokenizer, weights, "tokenizer.ggml.bos_token_id", &tokenizer->bos);
    if (status != STATUS_NOT_FOUND) TRY(status);
    status = weights_read_bool(weights, "tokenizer.ggml.add_bos_token", &adds_bos);
    if (status != STATUS_NOT_FOUND) TRY(status);
    status = weights_read_bool(weights, "tokenizer.ggml.add_eos_token", &adds_eos);
    if (status != STATUS_NOT_FOUND) TRY(status);
    if (adds_bos && tokenizer->bos >= 0) TRY(token_list_add(&tokenizer->prefix, tokenizer->bos));
    if (adds_eos && tokenizer->eos_count)
        TRY(token_list_add(&tokenizer->suffix, tokenizer->eos[0]));
    return STATUS_OK;
}

Status tokenizer_load_gguf(Tokenizer *tokenizer, const Weights *weights) {
    const char *name;
    Status status = weights_read_string(weights, "tokenizer.ggml.model", &name);
    if (status == STATUS_NOT_FOUND)
        FAIL(TOKENIZER, "%s: the file has no tokenizer (tokenizer.ggml.model)",
             weights_path(weights));
    TRY(status);
    const GgufModelRow *row = model_row(name);
    if (!row)
        FAIL(TOKENIZER, "%s: the tokenizer model \"%s\" is not supported", weights_path(weights),
             name);
    TRY(load_vocabulary(tokenizer, weights));
    bool adds_bos;
    TRY(row->load(tokenizer, weights, &adds_bos));
    TRY(load_added_tokens(tokenizer, weights));
    TRY(load_eos(tokenizer, weights));
    return load_around(tokenizer, weights, adds_bos);
}
