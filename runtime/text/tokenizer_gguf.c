#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/text/bpe.h"
#include "runtime/text/tokenizer_parts.h"
#include "runtime/text/unigram.h"

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

static Status load_merges(const Weights *weights, const Metadata *merges, Bpe *bpe) {
    for (size_t i = 0; i < merges->element_count; i++) {
        size_t bytes = 0;
        const char *text = weights_array_string(merges, i, &bytes);
        Piece left = {0}, right = {0};
        if (!bpe_split_merge(text, bytes, &left, &right) ||
            !bpe_add_merge_of_pieces(bpe, left, right, (uint32_t)i))
            FAIL(TOKENIZER, "%s: merge %zu, \"%.*s\", is no pair of pieces of the vocabulary",
                 weights_path(weights), i, (int)(bytes < 200 ? bytes : 200), text);
    }
    return STATUS_OK;
}

static Status load_byte_level_model(Tokenizer *tokenizer, const Weights *weights,
                                    const PreTokenizerRow *row) {
    const Metadata *merges;
    TRY(find_array(weights, "tokenizer.ggml.merges", METADATA_STRING, &merges));
    if (!merges)
        FAIL(TOKENIZER, "%s: the file has no tokenizer.ggml.merges", weights_path(weights));
    Bpe *bpe = NULL;
    TRY(bpe_create(&bpe, &tokenizer->vocabulary, merges->element_count));
    tokenizer->model = (WordModel){.row = &bpe_model, .state = bpe};
    bpe->whole_words = row->whole_words;
    bpe_start_from_bytes(bpe);
    tokenizer_take_bytes_as_words(tokenizer, bpe->byte_token);
    return load_merges(weights, merges, bpe);
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
    tokenizer->decoder.byte_level = true;
    return load_byte_level_model(tokenizer, weights, row);
}

/* ---- SentencePiece: spaces are "▁", scores decide ---- */

static const char space_piece[] = "\xE2\x96\x81";

static Status read_scores(const Tokenizer *tokenizer, const Weights *weights, double **out) {
    const Metadata *scores;
    TRY(find_array(weights, "tokenizer.ggml.scores", METADATA_REAL, &scores));
    uint32_t count = tokenizer->vocabulary.count;
    if (!scores || scores->element_count != count)
        FAIL(TOKENIZER, "%s: %zu scores for %u tokens (tokenizer.ggml.scores)",
             weights_path(weights), scores ? scores->element_count : 0, count);
    void *memory;
    TRY(memory_take(&memory, count, sizeof(double), "scores of pieces"));
    double *values = memory;
    for (uint32_t id = 0; id < count; id++) {
        values[id] = weights_array_real(scores, id);
        if (isfinite(values[id])) continue;
        free(values);
        FAIL(TOKENIZER, "%s: the score of token %u is not finite", weights_path(weights), id);
    }
    *out = values;
    return STATUS_OK;
}

/* Which tokens words may be cut into: not control, unknown and byte tokens. */
static Status read_word_pieces(const Tokenizer *tokenizer, const Weights *weights, bool **out) {
    const Metadata *types;
    uint32_t count = tokenizer->vocabulary.count;
    TRY(find_array(weights, "tokenizer.ggml.token_type", METADATA_INTEGER, &types));
    if (types && types->element_count != count)
        FAIL(TOKENIZER, "%s: %zu token types for %u tokens", weights_path(weights),
             types->element_count, count);
    void *memory;
    TRY(memory_take(&memory, count, sizeof(bool), "kinds of pieces"));
    bool *is_word_piece = memory;
    for (uint32_t id = 0; id < count; id++) {
        int64_t type = types ? weights_array_integer(types, id) : 0;
        is_word_piece[id] = vocabulary_piece(&tokenizer->vocabulary, id).bytes > 0 &&
                            type != GGUF_TOKEN_UNKNOWN && type != GGUF_TOKEN_CONTROL &&
                            type != GGUF_TOKEN_BYTE;
    }
    *out = is_word_piece;
    return STATUS_OK;
}

/* Ranks in the order of falling scores; equal scores share one. */
static uint32_t rank_of_score(double score) {
    float rounded = (float)score + 0.0f; /* both zeros are one */
    uint32_t bits;
    memcpy(&bits, &rounded, sizeof bits);
    uint32_t ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return ~ascending;
}

/* The vocabulary of a SentencePiece file while it becomes a model. */
typedef struct ScoredPieces {
    const Vocabulary *vocabulary;
    double *scores;      /* [count], owned */
    bool *is_word_piece; /* [count], owned */
} ScoredPieces;

static Status scored_pieces_read(ScoredPieces *out, const Tokenizer *tokenizer,
                                 const Weights *weights) {
    *out = (ScoredPieces){.vocabulary = &tokenizer->vocabulary};
    TRY(read_scores(tokenizer, weights, &out->scores));
    return read_word_pieces(tokenizer, weights, &out->is_word_piece);
}

static void scored_pieces_free(ScoredPieces *pieces) {
    free(pieces->scores);
    free(pieces->is_word_piece);
}

/* The pairs of pieces that a piece can be cut into; each becomes a merge of bpe, where there is one. */
static uint64_t merges_of_piece(const ScoredPieces *pieces, uint32_t id, Bpe *bpe) {
    const Vocabulary *vocabulary = pieces->vocabulary;
    Piece piece = vocabulary_piece(vocabulary, id);
    uint64_t count = 0;
    for (size_t at = 1; at < piece.bytes; at++) {
        int32_t left = vocabulary_find(vocabulary, piece.text, at);
        if (left < 0 || !pieces->is_word_piece[left]) continue;
        int32_t right = vocabulary_find(vocabulary, piece.text + at, piece.bytes - at);
        if (right < 0 || !pieces->is_word_piece[right]) continue;
        if (bpe) bpe_add_merge(bpe, left, right, (int32_t)id, rank_of_score(pieces->scores[id]));
        count++;
    }
    return count;
}

static uint64_t merges_of_all(const ScoredPieces *pieces, Bpe *bpe) {
    uint64_t count = 0;
    for (uint32_t id = 0; id < pieces->vocabulary->count; id++)
        if (pieces->is_word_piece[id]) count += merges_of_piece(pieces, id, bpe);
    return count;
}

static Status build_score_bpe(Tokenizer *tokenizer, const ScoredPieces *pieces, int32_t unknown) {
    Bpe *bpe = NULL;
    TRY(bpe_create(&bpe, pieces->vocabulary, merges_of_all(pieces, NULL)));
    tokenizer->model = (WordModel){.row = &bpe_model, .state = bpe};
    bpe->byte_fallback = true;
    bpe->fuse_unknown = true;
    bpe->unknown = unknown;
    memcpy(bpe->byte_token, tokenizer->byte_token, sizeof bpe->byte_token);
    merges_of_all(pieces, bpe);
    return STATUS_OK;
}

static Status build_unigram(Tokenizer *tokenizer, const ScoredPieces *pieces, int32_t unknown) {
    Unigram *unigram = NULL;
    uint32_t count = pieces->vocabulary->count;
    TRY(unigram_create(&unigram, pieces->scores, count));
    tokenizer->model = (WordModel){.row = &unigram_model, .state = unigram};
    unigram->unknown = unknown;
    unigram->byte_fallback = true;
    memcpy(unigram->byte_token, tokenizer->byte_token, sizeof unigram->byte_token);
    for (uint32_t id = 0; id < count; id++)
        if (pieces->is_word_piece[id])
            TRY(unigram_add(unigram, vocabulary_piece(pieces->vocabulary, id), (int32_t)id));
    return STATUS_OK;
}

static Status add_replacement(Normalizer *normalizer, const char *expression, const char *content) {
    Pattern *pattern = NULL;
    TRY(pattern_create(&pattern, expression, strlen(expression)));
    return normalizer_add_replace(normalizer, pattern, content, strlen(content));
}

/* Spaces become "▁", one more goes in front; the decoder takes both back. */
static Status load_spaces(Tokenizer *tokenizer, const Weights *weights) {
    bool adds_prefix = true, removes_extra = false;
    Status status = weights_read_bool(weights, "tokenizer.ggml.add_space_prefix", &adds_prefix);
    if (status != STATUS_NOT_FOUND) TRY(status);
    status = weights_read_bool(weights, "tokenizer.ggml.remove_extra_whitespaces", &removes_extra);
    if (status != STATUS_NOT_FOUND) TRY(status);
    const Metadata *map = weights_metadata_find(weights, "tokenizer.ggml.precompiled_charsmap");
    if (map && map->element_count)
        FAIL(TOKENIZER, "%s: tokenizer.ggml.precompiled_charsmap is not supported",
             weights_path(weights));
    Normalizer *normalizer = &tokenizer->normalizer;
    if (removes_extra) TRY(add_replacement(normalizer, "\\A +| +\\z| +(?= )", ""));
    if (adds_prefix) TRY(normalizer_add_prepend(normalizer, space_piece, sizeof space_piece - 1));
    TRY(add_replacement(normalizer, " ", space_piece));

    Pattern *pattern = NULL;
    TRY(pattern_create_literal(&pattern, space_piece, sizeof space_piece - 1));
    TRY(decoder_add_replacement(&tokenizer->decoder, pattern, " "));
    tokenizer->decoder.byte_fallback = true;
    if (!adds_prefix) return STATUS_OK;
    tokenizer->decoder.start_drops = strdup(" ");
    if (!tokenizer->decoder.start_drops) FAIL(MEMORY, "no memory for a decoder");
    return STATUS_OK;
}

static Status load_sentencepiece(Tokenizer *tokenizer, const Weights *weights,
                                 Status (*build)(Tokenizer *, const ScoredPieces *, int32_t)) {
    uint32_t unknown = 0;
    Status status = weights_read_u32(weights, "tokenizer.ggml.unknown_token_id", &unknown);
    if (status != STATUS_NOT_FOUND) TRY(status);
    if (unknown >= tokenizer->vocabulary.count)
        FAIL(TOKENIZER, "%s: tokenizer.ggml.unknown_token_id is %u; the vocabulary has %u tokens",
             weights_path(weights), unknown, tokenizer->vocabulary.count);
    TRY(load_spaces(tokenizer, weights));
    tokenizer_take_byte_tokens(tokenizer);
    ScoredPieces pieces;
    status = scored_pieces_read(&pieces, tokenizer, weights);
    if (status == STATUS_OK) status = build(tokenizer, &pieces, (int32_t)unknown);
    scored_pieces_free(&pieces);
    return status;
}

static Status load_sentencepiece_bpe(Tokenizer *tokenizer, const Weights *weights,
                                     bool *out_adds_bos) {
    *out_adds_bos = true;
    return load_sentencepiece(tokenizer, weights, build_score_bpe);
}

static Status load_sentencepiece_unigram(Tokenizer *tokenizer, const Weights *weights,
                                         bool *out_adds_bos) {
    *out_adds_bos = false;
    return load_sentencepiece(tokenizer, weights, build_unigram);
}

typedef struct GgufModelRow {
    const char *name; /* tokenizer.ggml.model */
    /* Fills normaliser, pre-tokenizer, model and decoder; *out_adds_bos: when the file does not say. */
    Status (*load)(Tokenizer *tokenizer, const Weights *weights, bool *out_adds_bos);
} GgufModelRow;

static const GgufModelRow model_rows[] = {
    {"gpt2", load_byte_level},
    {"llama", load_sentencepiece_bpe},
    {"t5", load_sentencepiece_unigram},
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
    const char *name = NULL;
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
