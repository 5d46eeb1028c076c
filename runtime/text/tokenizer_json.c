#include "runtime/text/tokenizer_json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/text/bpe.h"
#include "runtime/text/json_place.h"
#include "runtime/text/tokenizer_json_parts.h"
#include "runtime/text/unigram.h"

/* Ids may have gaps, of this many tokens together. */
enum { GAP_TOKENS_MAX = 8192 };

/* ---- the vocabulary: pieces of the model and added tokens, by id ---- */

typedef struct PieceTable {
    Piece *pieces; /* [capacity], owned */
    uint64_t capacity;
    uint64_t count; /* highest id + 1 */
} PieceTable;

static Status piece_table_put(PieceTable *table, const JsonPlace *place, int64_t id,
                              const char *text, size_t bytes) {
    if (id < 0 || (uint64_t)id >= table->capacity)
        return json_place_fail(place, "id %lld; with so few pieces ids end at %llu", (long long)id,
                               (unsigned long long)table->capacity - 1);
    Piece *piece = &table->pieces[id];
    bool same = piece->text && piece->bytes == bytes && !memcmp(piece->text, text, bytes);
    if (piece->text && !same)
        return json_place_fail(place, "id %lld belongs to \"%.*s\" already", (long long)id,
                               (int)(piece->bytes < 64 ? piece->bytes : 64), piece->text);
    *piece = (Piece){.text = text, .bytes = bytes};
    if ((uint64_t)id >= table->count) table->count = (uint64_t)id + 1;
    return STATUS_OK;
}

/* BPE: an object of piece to id. Unigram: a list of [piece, score]. */
static Status put_model_pieces(PieceTable *table, const JsonPlace *vocab) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)vocab->value, key, value) {
        JsonPlace place = json_place_member(vocab, key);
        int64_t id = -1;
        TRY(json_place_integer(&place, 0, TOKENIZER_VOCAB_MAX, &id));
        TRY(piece_table_put(table, &place, id, key, strlen(key)));
    }
    for (size_t i = 0; i < json_array_size(vocab->value); i++) {
        JsonPlace pair = json_place_element(vocab, i), piece = json_place_element(&pair, 0);
        const char *text = NULL;
        size_t bytes = 0;
        TRY(json_place_string(&piece, &text, &bytes));
        TRY(piece_table_put(table, &piece, (int64_t)i, text, bytes));
    }
    return STATUS_OK;
}

static Status put_added_pieces(PieceTable *table, const JsonPlace *added, size_t count) {
    for (size_t i = 0; i < count; i++) {
        JsonPlace place = json_place_element(added, i);
        JsonPlace content = json_place_member(&place, "content");
        JsonPlace id_place = json_place_member(&place, "id");
        const char *text = NULL;
        size_t bytes = 0;
        int64_t id = -1;
        TRY(json_place_string(&content, &text, &bytes));
        if (!bytes) return json_place_fail(&content, "an added token is empty");
        TRY(json_place_integer(&id_place, 0, TOKENIZER_VOCAB_MAX, &id));
        TRY(piece_table_put(table, &id_place, id, text, bytes));
    }
    return STATUS_OK;
}

static Status fill_vocabulary(JsonLoad *load, PieceTable *table, const JsonPlace *vocab,
                              const JsonPlace *added, size_t added_count) {
    TRY(put_model_pieces(table, vocab));
    TRY(put_added_pieces(table, added, added_count));
    return tokenizer_set_vocabulary(load->tokenizer, table->pieces, table->count);
}

static Status load_vocabulary(JsonLoad *load, const JsonPlace *root, const JsonPlace *model) {
    JsonPlace vocab = json_place_member(model, "vocab");
    JsonPlace added = json_place_member(root, "added_tokens");
    size_t added_count = 0;
    if (!json_is_object(vocab.value) && !json_is_array(vocab.value))
        return json_place_fail(&vocab, "an object or a list is expected");
    if (added.value) TRY(json_place_list(&added, &added_count));
    PieceTable table = {.capacity = json_object_size(vocab.value) + json_array_size(vocab.value) +
                                    added_count + GAP_TOKENS_MAX};
    void *memory;
    TRY(memory_take(&memory, table.capacity, sizeof(Piece), "vocabulary"));
    table.pieces = memory;
    Status status = fill_vocabulary(load, &table, &vocab, &added, added_count);
    free(table.pieces);
    return status;
}

/* ---- added tokens ---- */

static Status load_added_token(JsonLoad *load, const JsonPlace *place) {
    static const char *const flags[] = {"special", "normalized", "single_word", "lstrip", "rstrip"};
    bool values[sizeof flags / sizeof flags[0]];
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        JsonPlace flag = json_place_member(place, flags[i]);
        TRY(json_place_bool(&flag, false, &values[i]));
    }
    JsonPlace id_place = json_place_member(place, "id");
    JsonPlace content = json_place_member(place, "content");
    Tokenizer *tokenizer = load->tokenizer;
    int64_t id = -1;
    const char *text = NULL;
    size_t bytes = 0;
    TRY(json_place_integer(&id_place, 0, tokenizer->vocabulary.count - 1, &id));
    TRY(json_place_string(&content, &text, &bytes));
    if (vocabulary_find(&tokenizer->vocabulary, text, bytes) != id)
        return json_place_fail(&content, "the vocabulary has this piece under another id");
    AddedToken token = {.token = (int32_t)id,
                        .special = values[0],
                        .normalized = values[1],
                        .single_word = values[2],
                        .lstrip = values[3],
                        .rstrip = values[4]};
    tokenizer->special[id] = token.special;
    return added_tokens_add(&tokenizer->added, token, text, bytes, &tokenizer->normalizer);
}

static Status load_added_tokens(JsonLoad *load, const JsonPlace *root) {
    JsonPlace added = json_place_member(root, "added_tokens");
    for (size_t i = 0; i < json_array_size(added.value); i++) {
        JsonPlace place = json_place_element(&added, i);
        TRY(load_added_token(load, &place));
    }
    return STATUS_OK;
}

/* ---- models ---- */

/* A merge's two pieces: "left right" or ["left", "right"]. */
static Status read_merge_pieces(const JsonPlace *merges, size_t index, Piece *left, Piece *right) {
    const json_t *value = json_array_get(merges->value, index);
    const json_t *first = json_array_get(value, 0), *second = json_array_get(value, 1);
    if (json_is_string(first) && json_is_string(second) && json_array_size(value) == 2) {
        *left = (Piece){json_string_value(first), json_string_length(first)};
        *right = (Piece){json_string_value(second), json_string_length(second)};
        return STATUS_OK;
    }
    const char *text = json_string_value(value);
    size_t bytes = json_string_length(value);
    if (text && bpe_split_merge(text, bytes, left, right)) return STATUS_OK;
    JsonPlace place = json_place_element(merges, index);
    return json_place_fail(&place, "a merge is two pieces");
}

static Status load_merges(const JsonPlace *merges, size_t count, Bpe *bpe) {
    for (size_t i = 0; i < count; i++) {
        Piece left = {0}, right = {0};
        TRY(read_merge_pieces(merges, i, &left, &right));
        if (bpe_add_merge_of_pieces(bpe, left, right, (uint32_t)i)) continue;
        JsonPlace place = json_place_element(merges, i);
        return json_place_fail(&place,
                               "\"%.*s\" and \"%.*s\" do not make a piece of the vocabulary",
                               (int)(left.bytes < 64 ? left.bytes : 64), left.text,
                               (int)(right.bytes < 64 ? right.bytes : 64), right.text);
    }
    return STATUS_OK;
}

/* Settings that would change ids: refused unless they are off. */
static Status check_bpe_settings(const JsonPlace *model) {
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < sizeof affixes / sizeof affixes[0]; i++) {
        JsonPlace affix = json_place_member(model, affixes[i]);
        const char *text = "";
        if (affix.value) TRY(json_place_text(&affix, &text));
        if (text[0]) return json_place_fail(&affix, "\"%.64s\" is not supported", text);
    }
    JsonPlace dropout = json_place_member(model, "dropout");
    if (dropout.value && json_number_value(dropout.value) != 0)
        return json_place_fail(&dropout, "dropout is not supported");
    return STATUS_OK;
}

static Status load_unknown(JsonLoad *load, const JsonPlace *model, int32_t *out) {
    JsonPlace place = json_place_member(model, "unk_token");
    const char *text = NULL;
    if (!place.value) return STATUS_OK;
    TRY(json_place_text(&place, &text));
    *out = vocabulary_find(&load->tokenizer->vocabulary, text, strlen(text));
    if (*out < 0) return json_place_fail(&place, "\"%.64s\" is not in the vocabulary", text);
    return STATUS_OK;
}

static Status load_bpe(JsonLoad *load, const JsonPlace *model) {
    JsonPlace merges = json_place_member(model, "merges");
    JsonPlace vocab = json_place_member(model, "vocab");
    size_t merge_count = 0;
    TRY(json_place_object(&vocab));
    TRY(json_place_list(&merges, &merge_count));
    TRY(check_bpe_settings(model));
    Bpe *bpe = NULL;
    TRY(bpe_create(&bpe, &load->tokenizer->vocabulary, merge_count));
    load->tokenizer->model = (WordModel){.row = &bpe_model, .state = bpe};
    JsonPlace fallback = json_place_member(model, "byte_fallback");
    JsonPlace fuse = json_place_member(model, "fuse_unk");
    JsonPlace whole = json_place_member(model, "ignore_merges");
    TRY(json_place_bool(&fallback, false, &bpe->byte_fallback));
    TRY(json_place_bool(&fuse, false, &bpe->fuse_unknown));
    TRY(json_place_bool(&whole, false, &bpe->whole_words));
    TRY(load_unknown(load, model, &bpe->unknown));
    if (load->byte_level) {
        bpe_start_from_bytes(bpe);
        tokenizer_take_bytes_as_words(load->tokenizer, bpe->byte_token);
    } else if (bpe->byte_fallback) {
        tokenizer_take_byte_tokens(load->tokenizer);
        memcpy(bpe->byte_token, load->tokenizer->byte_token, sizeof bpe->byte_token);
    }
    return load_merges(&merges, merge_count, bpe);
}

static Status read_scores(const JsonPlace *vocab, double *scores) {
    for (size_t i = 0; i < json_array_size(vocab->value); i++) {
        JsonPlace pair = json_place_element(vocab, i), score = json_place_element(&pair, 1);
        scores[i] = json_number_value(score.value);
        if (!json_is_number(score.value) || !isfinite(scores[i]))
            return json_place_fail(&score, "a number is expected");
    }
    return STATUS_OK;
}

static Status create_unigram(const JsonPlace *vocab, size_t count, Unigram **out) {
    void *memory;
    TRY(memory_take(&memory, count, sizeof(double), "unigram scores"));
    Status status = read_scores(vocab, memory);
    if (status == STATUS_OK) status = unigram_create(out, memory, (uint32_t)count);
    free(memory);
    return status;
}

static Status load_unigram(JsonLoad *load, const JsonPlace *model) {
    JsonPlace vocab = json_place_member(model, "vocab");
    JsonPlace unknown = json_place_member(model, "unk_id");
    JsonPlace fallback = json_place_member(model, "byte_fallback");
    size_t count = 0;
    int64_t unknown_token = -1;
    TRY(json_place_list(&vocab, &count));
    if (!count) return json_place_fail(&vocab, "the vocabulary is empty");
    if (load->byte_level) return json_place_fail(model, "Unigram on bytes is not supported");
    if (unknown.value) TRY(json_place_integer(&unknown, 0, (int64_t)count - 1, &unknown_token));
    Unigram *unigram = NULL;
    TRY(create_unigram(&vocab, count, &unigram));
    load->tokenizer->model = (WordModel){.row = &unigram_model, .state = unigram};
    unigram->unknown = (int32_t)unknown_token;
    TRY(json_place_bool(&fallback, false, &unigram->byte_fallback));
    if (unigram->byte_fallback) tokenizer_take_byte_tokens(load->tokenizer);
    memcpy(unigram->byte_token, load->tokenizer->byte_token, sizeof unigram->byte_token);
    for (uint32_t id = 0; id < count; id++)
        TRY(unigram_add(unigram, vocabulary_piece(&load->tokenizer->vocabulary, id), (int32_t)id));
    return STATUS_OK;
}

static Status load_model(JsonLoad *load, const JsonPlace *model) {
    static const JsonPartRow rows[] = {{"BPE", load_bpe}, {"Unigram", load_unigram}};
    /* Files of 2020 do not name the type; those are BPE. */
    if (!json_object_get(model->value, "type") && json_object_get(model->value, "merges"))
        return load_bpe(load, model);
    return json_load_part(load, model, rows, sizeof rows / sizeof rows[0], NULL);
}

/* ---- the file ---- */

static Status load_root(JsonLoad *load, const JsonPlace *root) {
    TRY(json_place_object(root));
    JsonPlace model = json_place_member(root, "model");
    TRY(json_place_object(&model));
    TRY(load_vocabulary(load, root, &model));
    TRY(json_load_normalizer(load, root));
    TRY(json_load_pre_tokenizer(load, root));
    TRY(load_model(load, &model));
    TRY(load_added_tokens(load, root));
    TRY(json_load_decoder(load, root));
    return json_load_post_processor(load, root);
}

Status tokenizer_load_json(Tokenizer *tokenizer, const char *file, const char *text, size_t bytes) {
    json_t *value;
    TRY(json_place_parse(file, text, bytes, &value));
    JsonPlace root = json_place_root(file, value);
    JsonLoad load = {.tokenizer = tokenizer};
    Status status = load_root(&load, &root);
    json_decref(value);
    return status;
}
