#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/text/bpe.h"
#include "runtime/text/json_place.h"
#include "runtime/text/tokenizer_json.h"
#include "runtime/text/tokenizer_parts.h"

/* The parsed JSON files of a Hugging Face folder that say more than tokenizer.json; NULL: not there. */
typedef struct FolderFiles {
    json_t *config;     /* tokenizer_config.json */
    json_t *specials;   /* special_tokens_map.json */
    json_t *generation; /* generation_config.json */
} FolderFiles;

/* *out stays NULL when the folder lacks the file. */
static Status read_json_file(const Weights *weights, const char *name, json_t **out) {
    char *text;
    size_t bytes = 0;
    Status status = weights_read_side_file(weights, name, &text, &bytes);
    if (status == STATUS_NOT_FOUND) return STATUS_OK;
    TRY(status);
    status = json_place_parse(name, text, bytes, out);
    free(text);
    return status;
}

static Status folder_files_read(FolderFiles *out, const Weights *weights) {
    TRY(read_json_file(weights, "tokenizer_config.json", &out->config));
    TRY(read_json_file(weights, "special_tokens_map.json", &out->specials));
    return read_json_file(weights, "generation_config.json", &out->generation);
}

static void folder_files_free(FolderFiles *files) {
    json_decref(files->config);
    json_decref(files->specials);
    json_decref(files->generation);
}

/* A special token as the files name it: "text" or {"content": "text", …}; NULL when none does. */
static Status special_text(const FolderFiles *files, const char *key, const char **out) {
    JsonPlace config = json_place_root("tokenizer_config.json", files->config);
    JsonPlace specials = json_place_root("special_tokens_map.json", files->specials);
    JsonPlace place = json_place_member(&config, key);
    if (!place.value) place = json_place_member(&specials, key);
    return json_place_token_text(&place, out);
}

/* The token of a special, or -1 when the files name none or one that the vocabulary lacks. */
static Status special_token(const Tokenizer *tokenizer, const FolderFiles *files, const char *key,
                            int32_t *out) {
    const char *text = NULL;
    TRY(special_text(files, key, &text));
    *out = text ? vocabulary_find(&tokenizer->vocabulary, text, strlen(text)) : -1;
    return STATUS_OK;
}

/* ---- GPT-2's own files, for folders without tokenizer.json (OPT): vocab.json and merges.txt ---- */

static Status set_vocabulary_of(Tokenizer *tokenizer, const JsonPlace *root, Piece *pieces,
                                size_t count) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)root->value, key, value) {
        JsonPlace place = json_place_member(root, key);
        int64_t id = 0;
        TRY(json_place_integer(&place, 0, (int64_t)count - 1, &id));
        if (pieces[id].text)
            return json_place_fail(&place, "id %lld belongs to two pieces", (long long)id);
        pieces[id] = (Piece){.text = key, .bytes = strlen(key)};
    }
    return tokenizer_set_vocabulary(tokenizer, pieces, count);
}

static Status load_vocab_json(Tokenizer *tokenizer, const json_t *value) {
    JsonPlace root = json_place_root("vocab.json", value);
    TRY(json_place_object(&root));
    void *pieces;
    size_t count = json_object_size(value);
    TRY(memory_take(&pieces, count, sizeof(Piece), "vocabulary"));
    Status status = set_vocabulary_of(tokenizer, &root, pieces, count);
    free(pieces);
    return status;
}

static size_t count_lines(const char *text, size_t bytes) {
    size_t count = 1;
    for (size_t i = 0; i < bytes; i++)
        count += text[i] == '\n';
    return count;
}

/* One merge a line, the best first; a first line "#version: …" and empty lines say nothing. */
static Status add_merge_lines(Bpe *bpe, const char *text, size_t bytes) {
    const char *end = text + bytes;
    uint32_t rank = 0;
    size_t line = 1;
    for (const char *stop; text < end; text = stop + 1, line++) {
        stop = memchr(text, '\n', (size_t)(end - text));
        if (!stop) stop = end;
        size_t line_bytes = (size_t)(stop - text);
        if (line_bytes && text[line_bytes - 1] == '\r') line_bytes--;
        bool is_version = line == 1 && line_bytes >= 9 && !memcmp(text, "#version:", 9);
        if (!line_bytes || is_version) continue;
        Piece left = {0}, right = {0};
        if (!bpe_split_merge(text, line_bytes, &left, &right) ||
            !bpe_add_merge_of_pieces(bpe, left, right, rank++))
            FAIL(TOKENIZER, "merges.txt: line %zu, \"%.*s\", is no pair of pieces of vocab.json",
                 line, (int)(line_bytes < 200 ? line_bytes : 200), text);
    }
    return STATUS_OK;
}

static Status load_merges_text(Tokenizer *tokenizer, const Weights *weights) {
    char *text;
    size_t bytes = 0;
    Status status = weights_read_side_file(weights, "merges.txt", &text, &bytes);
    if (status == STATUS_NOT_FOUND)
        FAIL(TOKENIZER, "%s: the folder has vocab.json but no merges.txt", weights_path(weights));
    TRY(status);
    Bpe *bpe = NULL;
    status = bpe_create(&bpe, &tokenizer->vocabulary, count_lines(text, bytes));
    if (status == STATUS_OK) {
        tokenizer->model = (WordModel){.row = &bpe_model, .state = bpe};
        bpe_start_from_bytes(bpe);
        tokenizer_take_bytes_as_words(tokenizer, bpe->byte_token);
        status = add_merge_lines(bpe, text, bytes);
    }
    free(text);
    return status;
}

static Status add_specials(Tokenizer *tokenizer, const FolderFiles *files) {
    static const char *const keys[] = {"bos_token", "eos_token", "unk_token", "pad_token"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        int32_t token = -1;
        TRY(special_token(tokenizer, files, keys[i], &token));
        if (token < 0 || tokenizer->special[token]) continue;
        tokenizer->special[token] = true;
        Piece piece = vocabulary_piece(&tokenizer->vocabulary, (uint32_t)token);
        AddedToken added = {.token = token, .special = true};
        TRY(added_tokens_add(&tokenizer->added, added, piece.text, piece.bytes,
                             &tokenizer->normalizer));
    }
    return STATUS_OK;
}

static Status load_gpt2_files(Tokenizer *tokenizer, const Weights *weights,
                              const FolderFiles *files) {
    json_t *vocabulary = NULL;
    TRY(read_json_file(weights, "vocab.json", &vocabulary));
    if (!vocabulary)
        FAIL(TOKENIZER, "%s: the folder has neither tokenizer.json nor vocab.json and merges.txt",
             weights_path(weights));
    Status status = load_vocab_json(tokenizer, vocabulary);
    json_decref(vocabulary);
    TRY(status);
    JsonPlace config = json_place_root("tokenizer_config.json", files->config);
    JsonPlace prefix = json_place_member(&config, "add_prefix_space");
    bool adds_prefix;
    TRY(json_place_bool(&prefix, false, &adds_prefix));
    if (adds_prefix)
        TRY(pre_tokenizer_add_prefix(&tokenizer->pre_tokenizer, " ", false, PREFIX_ALWAYS));
    TRY(pre_tokenizer_add_expression(&tokenizer->pre_tokenizer, pre_tokenizer_gpt2_expression,
                                     SPLIT_ISOLATED));
    tokenizer->decoder.byte_level = true;
    TRY(load_merges_text(tokenizer, weights));
    return add_specials(tokenizer, files);
}

/* ---- begin and end of text ---- */

/* generation_config.json's eos_token_id, one or a list; *out_found: whether it has any. */
static Status load_generation_eos(Tokenizer *tokenizer, const FolderFiles *files, bool *out_found) {
    JsonPlace root = json_place_root("generation_config.json", files->generation);
    JsonPlace eos = json_place_member(&root, "eos_token_id");
    int64_t token = -1;
    *out_found = eos.value;
    if (!eos.value) return STATUS_OK;
    if (!json_is_array(eos.value)) {
        TRY(json_place_integer(&eos, 0, INT32_MAX, &token));
        return tokenizer_add_eos(tokenizer, token, "generation_config.json: eos_token_id");
    }
    for (size_t i = 0; i < json_array_size(eos.value); i++) {
        JsonPlace element = json_place_element(&eos, i);
        TRY(json_place_integer(&element, 0, INT32_MAX, &token));
        TRY(tokenizer_add_eos(tokenizer, token, "generation_config.json: eos_token_id"));
    }
    return STATUS_OK;
}

/* The same from config.json, for folders without generation_config.json. */
static Status load_config_eos(Tokenizer *tokenizer, const Weights *weights) {
    const char what[] = "config.json: eos_token_id";
    const Metadata *eos = weights_metadata_find(weights, "eos_token_id");
    if (!eos || eos->type == METADATA_NULL) return STATUS_OK;
    if (eos->type == METADATA_INTEGER) return tokenizer_add_eos(tokenizer, eos->integer, what);
    if (eos->type != METADATA_ARRAY || eos->element_type != METADATA_INTEGER)
        FAIL(TOKENIZER, "%s: %s is no token and no list of tokens", weights_path(weights), what);
    for (size_t i = 0; i < eos->element_count; i++)
        TRY(tokenizer_add_eos(tokenizer, weights_array_integer(eos, i), what));
    return STATUS_OK;
}

static Status load_eos(Tokenizer *tokenizer, const Weights *weights, const FolderFiles *files) {
    bool found;
    int32_t token = -1;
    TRY(load_generation_eos(tokenizer, files, &found));
    if (!found) TRY(load_config_eos(tokenizer, weights));
    TRY(special_token(tokenizer, files, "eos_token", &token));
    return token < 0 ? STATUS_OK : tokenizer_add_eos(tokenizer, token, "eos_token");
}

static Status load_bos(Tokenizer *tokenizer, const Weights *weights, const FolderFiles *files) {
    TRY(special_token(tokenizer, files, "bos_token", &tokenizer->bos));
    const Metadata *bos = weights_metadata_find(weights, "bos_token_id");
    bool usable = bos && bos->type == METADATA_INTEGER && bos->integer >= 0 &&
                  bos->integer < tokenizer->vocabulary.count;
    if (tokenizer->bos < 0 && usable) tokenizer->bos = (int32_t)bos->integer;
    return STATUS_OK;
}

/* add_bos_token and add_eos_token, where the files say either, count more than the post-processor. */
static Status load_around(Tokenizer *tokenizer, const FolderFiles *files) {
    JsonPlace config = json_place_root("tokenizer_config.json", files->config);
    JsonPlace bos_place = json_place_member(&config, "add_bos_token");
    JsonPlace eos_place = json_place_member(&config, "add_eos_token");
    bool adds_bos, adds_eos;
    int32_t eos = -1;
    TRY(json_place_bool(&bos_place, false, &adds_bos));
    TRY(json_place_bool(&eos_place, false, &adds_eos));
    if (!bos_place.value && !eos_place.value) return STATUS_OK;
    TRY(special_token(tokenizer, files, "eos_token", &eos));
    tokenizer->prefix.count = 0;
    tokenizer->suffix.count = 0;
    if (adds_bos && tokenizer->bos >= 0) TRY(token_list_add(&tokenizer->prefix, tokenizer->bos));
    return adds_eos && eos >= 0 ? token_list_add(&tokenizer->suffix, eos) : STATUS_OK;
}

static Status load_from_files(Tokenizer *tokenizer, const Weights *weights,
                              const FolderFiles *files) {
    char *text;
    size_t bytes = 0;
    Status status = weights_read_side_file(weights, "tokenizer.json", &text, &bytes);
    if (status == STATUS_OK) {
        status = tokenizer_load_json(tokenizer, "tokenizer.json", text, bytes);
        free(text);
    } else if (status == STATUS_NOT_FOUND) {
        status = load_gpt2_files(tokenizer, weights, files);
    }
    TRY(status);
    TRY(load_bos(tokenizer, weights, files));
    TRY(load_eos(tokenizer, weights, files));
    return load_around(tokenizer, files);
}

Status tokenizer_load_folder(Tokenizer *tokenizer, const Weights *weights) {
    FolderFiles files = {0};
    Status status = folder_files_read(&files, weights);
    if (status == STATUS_OK) status = load_from_files(tokenizer, weights, &files);
    folder_files_free(&files);
    return status;
}
