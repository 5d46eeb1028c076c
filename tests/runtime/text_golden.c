#include "tests/runtime/text_golden.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/base/bytes.h"
#include "runtime/text/tokenizer_parts.h"

typedef struct GoldenFile {
    char *bytes;
    size_t size, at;
} GoldenFile;

static GoldenFile golden_read(const char *name, const char *ending) {
    char path[512];
    snprintf(path, sizeof path, "%s/text/%s%s", GOLDEN, name, ending);
    FILE *file = fopen(path, "rb");
    if (!file) fail_msg("cannot open %s", path);
    GoldenFile golden = {0};
    size_t capacity = 1 << 22;
    golden.bytes = malloc(capacity);
    assert_non_null(golden.bytes);
    golden.size = fread(golden.bytes, 1, capacity, file);
    assert_true(golden.size < capacity);
    fclose(file);
    return golden;
}

Tokenizer *golden_json_tokenizer(const char *name) {
    GoldenFile file = golden_read(name, ".json");
    Tokenizer *tokenizer = NULL;
    assert_int_equal(tokenizer_create_from_json(&tokenizer, name, file.bytes, file.size),
                     STATUS_OK);
    free(file.bytes);
    return tokenizer;
}

Tokenizer *golden_gguf_tokenizer(const char *name) {
    char path[512];
    Weights *weights = NULL;
    Tokenizer *tokenizer = NULL;
    snprintf(path, sizeof path, "%s/text/%s.gguf", GOLDEN, name);
    assert_int_equal(weights_open(&weights, path), STATUS_OK);
    assert_int_equal(tokenizer_create(&tokenizer, weights), STATUS_OK);
    weights_close(weights);
    return tokenizer;
}

static const char *golden_take(GoldenFile *golden, size_t bytes) {
    assert_true(bytes <= golden->size - golden->at);
    golden->at += bytes;
    return golden->bytes + golden->at - bytes;
}

static uint32_t fnv1a(const TextBuffer *text) {
    uint32_t value = 0x811C9DC5u;
    for (size_t i = 0; i < text->bytes; i++)
        value = (value ^ (uint8_t)text->text[i]) * 0x01000193u;
    return value;
}

static void decode_streamed(const Tokenizer *tokenizer, const TokenList *ids, TextBuffer *out) {
    TokenStream stream;
    token_stream_begin(&stream, tokenizer, false);
    for (size_t i = 0; i < ids->count; i++) {
        TextBuffer piece = {0};
        assert_int_equal(token_stream_push(&stream, ids->tokens[i], &piece), STATUS_OK);
        assert_int_equal(text_buffer_add(out, piece.text, piece.bytes), STATUS_OK);
        text_buffer_free(&piece);
    }
    assert_int_equal(token_stream_flush(&stream, out), STATUS_OK);
}

enum { NO_ORIGINAL = 0xFFFF };

static bool same_ids(const TokenList *ids, uint16_t count, GoldenFile *expected) {
    bool same = ids->count == count;
    for (size_t i = 0; i < count; i++) {
        uint16_t id = load_u16(golden_take(expected, 2));
        same = same && ids->tokens[i] == id;
    }
    return same;
}

/* Whether ids and what they decode to are the original's. */
static bool same_text(const Tokenizer *tokenizer, const char *text, size_t bytes,
                      GoldenFile *expected) {
    uint16_t count = load_u16(golden_take(expected, 2));
    if (count == NO_ORIGINAL) return true;
    TokenList ids = {0};
    TextBuffer decoded = {0}, streamed = {0};
    assert_int_equal(tokenizer_encode(tokenizer, text, bytes, TOKENIZE_PARSE_SPECIAL, &ids),
                     STATUS_OK);
    assert_int_equal(tokenizer_decode(tokenizer, ids.tokens, ids.count, false, &decoded),
                     STATUS_OK);
    decode_streamed(tokenizer, &ids, &streamed);
    assert_int_equal(streamed.bytes, decoded.bytes);
    if (decoded.bytes) assert_memory_equal(streamed.text, decoded.text, decoded.bytes);

    bool ids_same = same_ids(&ids, count, expected);
    bool text_same = fnv1a(&decoded) == load_u32(golden_take(expected, 4));
    if (!ids_same || !text_same) {
        print_error("text \"%.*s\" %s: decoded \"%s\", ids", (int)bytes, text,
                    ids_same ? "decodes wrong" : "has wrong ids", decoded.text);
        for (size_t i = 0; i < ids.count; i++)
            print_error(" %d", ids.tokens[i]);
        print_error("\n");
    }
    token_list_free(&ids);
    text_buffer_free(&decoded);
    text_buffer_free(&streamed);
    return ids_same && text_same;
}

void assert_golden_ids(const Tokenizer *tokenizer, const char *name) {
    GoldenFile texts = golden_read("texts", ".bin"), expected = golden_read(name, ".ids");
    size_t count = 0, wrong = 0;
    for (; texts.at < texts.size; count++) {
        uint32_t bytes = load_u32(golden_take(&texts, 4));
        wrong += !same_text(tokenizer, golden_take(&texts, bytes), bytes, &expected);
    }
    assert_true(count > 1000);
    assert_int_equal(expected.at, expected.size);
    if (wrong) fail_msg("%s: %zu of %zu texts differ", name, wrong, count);
    free(texts.bytes);
    free(expected.bytes);
}
