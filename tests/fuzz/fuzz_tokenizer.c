/* Any bytes as tokenizer.json and a text to encode, parted by the first NUL. An empty first part takes a byte-level BPE that is
 * right, where every text must come back from its tokens byte for byte. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/text/byte_level.h"
#include "runtime/text/tokenizer_parts.h"
#include "runtime/text/utf8.h"
#include "tests/fuzz/fuzz.h"

/* A text of the fuzzer's own size; larger ones only cost time. */
enum { TEXT_BYTES_MAX = 4096 };

static void add(TextBuffer *out, const char *text) {
    PROMISE(text_buffer_add(out, text, strlen(text)) == STATUS_OK);
}

/* All bytes, and pairs of letters as they come. */
static Tokenizer *byte_level_tokenizer(void) {
    static const char *const pairs[] = {"h e", "l l", "o w", "he ll", "\u0120 t", "\u00c3 \u00a9"};
    TextBuffer json = {0};
    char text[64];
    add(&json, "{\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},"
               "\"decoder\":{\"type\":\"ByteLevel\"},\"added_tokens\":[{\"id\":300,\"content\":"
               "\"<|end|>\",\"special\":true},{\"id\":301,\"content\":\"hey you\"}],"
               "\"model\":{\"type\":\"BPE\",\"vocab\":{");
    for (int byte = 0; byte < 256; byte++) {
        char character[5] = "";
        byte_level_write((uint8_t)byte, character);
        const char *escape = byte == '"' || byte == '\\' ? "\\" : "";
        snprintf(text, sizeof text, "%s\"%s%s\":%d", byte ? "," : "", escape, character, byte);
        add(&json, text);
    }
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        int left = (int)strcspn(pairs[i], " ");
        snprintf(text, sizeof text, ",\"%.*s%s\":%zu", left, pairs[i], pairs[i] + left + 1,
                 256 + i);
        add(&json, text);
    }
    add(&json, "},\"merges\":[");
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        snprintf(text, sizeof text, "%s\"%s\"", i ? "," : "", pairs[i]);
        add(&json, text);
    }
    add(&json, "]}}");
    Tokenizer *tokenizer = NULL;
    PROMISE(tokenizer_create_from_json(&tokenizer, "fuzz", json.text, json.bytes) == STATUS_OK);
    text_buffer_free(&json);
    return tokenizer;
}

static void check_refusal(void) {
    const char *text;
    PROMISE(error_last(&text) != ERROR_COUNT && text[0] && !strchr(text, '\n'));
}

/* Streaming in pieces of one token gives what decoding all at once gives, and that is UTF-8. */
static void check_decoding(const Tokenizer *tokenizer, const TokenList *ids, bool skip_special) {
    TextBuffer whole = {0}, streamed = {0};
    TokenStream stream;
    PROMISE(tokenizer_decode(tokenizer, ids->tokens, ids->count, skip_special, &whole) ==
            STATUS_OK);
    token_stream_begin(&stream, tokenizer, skip_special);
    for (size_t i = 0; i < ids->count; i++) {
        PROMISE(token_stream_push(&stream, ids->tokens[i], &streamed) == STATUS_OK);
        PROMISE(utf8_valid_prefix(streamed.text ? streamed.text : "", streamed.bytes) ==
                streamed.bytes);
    }
    PROMISE(token_stream_flush(&stream, &streamed) == STATUS_OK);
    PROMISE(whole.bytes == streamed.bytes);
    PROMISE(!whole.bytes || !memcmp(whole.text, streamed.text, whole.bytes));
    text_buffer_free(&whole);
    text_buffer_free(&streamed);
}

static void check_round_trip(const Tokenizer *tokenizer, const TokenList *ids, const char *text,
                             size_t bytes) {
    size_t at = 0, piece_bytes;
    for (size_t i = 0; i < ids->count; i++, at += piece_bytes) {
        const char *piece = tokenizer_token_bytes(tokenizer, ids->tokens[i], &piece_bytes);
        PROMISE(piece_bytes <= bytes - at && !memcmp(piece, text + at, piece_bytes));
    }
    PROMISE(at == bytes);
}

static void check_text(const Tokenizer *tokenizer, const char *text, size_t bytes, unsigned flags,
                       bool comes_back) {
    TokenList ids = {0};
    Status status = tokenizer_encode(tokenizer, text, bytes, flags, &ids);
    if (status != STATUS_OK) check_refusal();
    PROMISE(status == STATUS_OK || !comes_back);
    for (size_t i = 0; i < ids.count; i++)
        PROMISE(ids.tokens[i] >= 0 && (uint32_t)ids.tokens[i] < tokenizer_vocab_count(tokenizer));
    if (status == STATUS_OK) {
        check_decoding(tokenizer, &ids, false);
        check_decoding(tokenizer, &ids, true);
        if (comes_back) check_round_trip(tokenizer, &ids, text, bytes);
    }
    token_list_free(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static Tokenizer *byte_level;
    if (!byte_level) byte_level = byte_level_tokenizer();
    const uint8_t *nul = size ? memchr(data, 0, size) : NULL;
    size_t json_bytes = nul ? (size_t)(nul - data) : size;
    const char *text = nul ? (const char *)nul + 1 : "";
    size_t bytes = nul ? size - json_bytes - 1 : 0;
    if (bytes > TEXT_BYTES_MAX) bytes = TEXT_BYTES_MAX;

    error_capture_begin();
    Tokenizer *fuzzed = NULL;
    Status status = STATUS_OK;
    if (json_bytes)
        status = tokenizer_create_from_json(&fuzzed, "fuzz", (const char *)data, json_bytes);
    if (status != STATUS_OK) check_refusal();
    for (unsigned flags = 0; status == STATUS_OK && flags < 4; flags++)
        check_text(fuzzed ? fuzzed : byte_level, text, bytes, flags, !fuzzed);
    error_capture_end();
    tokenizer_destroy(fuzzed);
    return 0;
}
