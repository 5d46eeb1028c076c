#include "tests/runtime/text_golden.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/base/bytes.h"

typedef struct GoldenFile {
    char *bytes;
    size_t size, at;
} GoldenFile;

static GoldenFile golden_read(const char *name) {
    char path[512];
    snprintf(path, sizeof path, "%s/text/%s", GOLDEN, name);
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

static const char *golden_take(GoldenFile *golden, size_t bytes) {
    assert_true(bytes <= golden->size - golden->at);
    golden->at += bytes;
    return golden->bytes + golden->at - bytes;
}

static uint64_t fnv1a(const TextBuffer *text) {
    uint64_t value = 0xCBF29CE484222325u;
    for (size_t i = 0; i < text->bytes; i++)
        value = (value ^ (uint8_t)text->text[i]) * 0x100000001B3u;
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

static void assert_text(const Tokenizer *tokenizer, const char *text, size_t bytes,
                        GoldenFile *expected) {
    TokenList ids = {0};
    TextBuffer decoded = {0}, streamed = {0};
    assert_int_equal(tokenizer_encode(tokenizer, text, bytes, TOKENIZE_PARSE_SPECIAL, &ids),
                     STATUS_OK);
    uint16_t count = load_u16(golden_take(expected, 2));
    bool same = ids.count == count;
    for (size_t i = 0; i < count; i++) {
        uint16_t id = load_u16(golden_take(expected, 2));
        same = same && ids.tokens[i] == id;
        if (!same) fail_msg("text \"%.*s\": token %zu should be %u", (int)bytes, text, i, id);
    }
    if (!same) fail_msg("text \"%.*s\": %zu tokens, not %u", (int)bytes, text, ids.count, count);

    uint64_t hash = load_u64(golden_take(expected, 8));
    assert_int_equal(tokenizer_decode(tokenizer, ids.tokens, ids.count, false, &decoded),
                     STATUS_OK);
    if (fnv1a(&decoded) != hash)
        fail_msg("text \"%.*s\" decodes to \"%s\"", (int)bytes, text, decoded.text);
    decode_streamed(tokenizer, &ids, &streamed);
    assert_int_equal(streamed.bytes, decoded.bytes);
    if (decoded.bytes) assert_memory_equal(streamed.text, decoded.text, decoded.bytes);
    token_list_free(&ids);
    text_buffer_free(&decoded);
    text_buffer_free(&streamed);
}

void assert_golden_ids(const Tokenizer *tokenizer, const char *ids_name) {
    GoldenFile texts = golden_read("texts.bin"), expected = golden_read(ids_name);
    size_t count = 0;
    for (; texts.at < texts.size; count++) {
        uint32_t bytes = load_u32(golden_take(&texts, 4));
        assert_text(tokenizer, golden_take(&texts, bytes), bytes, &expected);
    }
    assert_true(count > 1000);
    assert_int_equal(expected.at, expected.size);
    free(texts.bytes);
    free(expected.bytes);
}
