/* Tokenizers of every kind against frozen ids of the originals, and files that are wrong in one way each. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "runtime/text/tokenizer_parts.h"
#include "tests/runtime/text_golden.h"

static void test_golden_json(void **state) {
    (void)state;
    static const char *const names[] = {"gpt2",  "llama3", "qwen2",     "prefixed",
                                        "mixed", "legacy", "metaspace", "unigram"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        Tokenizer *tokenizer = golden_json_tokenizer(names[i]);
        assert_golden_ids(tokenizer, names[i]);
        tokenizer_destroy(tokenizer);
    }
}

static void test_golden_gguf(void **state) {
    (void)state;
    static const char *const names[] = {"gguf_gpt_2", "gguf_smollm", "gguf_llama_bpe",
                                        "gguf_qwen2", "gguf_tekken", "gguf_default",
                                        "gguf_llama", "gguf_t5"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        Tokenizer *tokenizer = golden_gguf_tokenizer(names[i]);
        assert_golden_ids(tokenizer, names[i]);
        tokenizer_destroy(tokenizer);
    }
}

/* ---- what stands around a text ---- */

static void assert_tokens(const Tokenizer *tokenizer, const char *text, unsigned flags,
                          const int32_t *expected, size_t count) {
    TokenList ids = {0};
    assert_int_equal(tokenizer_encode(tokenizer, text, strlen(text), flags, &ids), STATUS_OK);
    assert_int_equal(ids.count, count);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(ids.tokens[i], expected[i]);
    token_list_free(&ids);
}

static void test_added_around(void **state) {
    (void)state;
    Tokenizer *llama3 = golden_json_tokenizer("llama3");
    assert_tokens(llama3, "", TOKENIZE_ADD_SPECIAL, (int32_t[]){0}, 1);
    assert_tokens(llama3, "<|im_end|>", TOKENIZE_ADD_SPECIAL | TOKENIZE_PARSE_SPECIAL,
                  (int32_t[]){0, 2}, 2);
    tokenizer_destroy(llama3);
    Tokenizer *prefixed = golden_json_tokenizer("prefixed");
    assert_tokens(prefixed, "", TOKENIZE_ADD_SPECIAL, (int32_t[]){1, 2}, 2);
    tokenizer_destroy(prefixed);
    Tokenizer *sentencepiece = golden_gguf_tokenizer("gguf_llama");
    assert_true(tokenizer_adds_bos(sentencepiece));
    assert_tokens(sentencepiece, "", TOKENIZE_ADD_SPECIAL, (int32_t[]){1}, 1);
    tokenizer_destroy(sentencepiece);
}

/* Special tokens in a text are letters unless they are asked for; tokens that were only added are always found. */
static void test_special_only_when_asked(void **state) {
    (void)state;
    Tokenizer *tokenizer = golden_json_tokenizer("prefixed");
    TokenList ids = {0};
    assert_int_equal(tokenizer_encode(tokenizer, "<mask><sep>", 11, 0, &ids), STATUS_OK);
    int32_t mask = tokenizer_find(tokenizer, "<mask>", 6);
    int32_t separator = tokenizer_find(tokenizer, "<sep>", 5);
    assert_true(ids.count > 2);
    for (size_t i = 0; i < ids.count; i++)
        assert_int_not_equal(ids.tokens[i], mask);
    assert_int_equal(ids.tokens[ids.count - 1], separator);
    assert_true(tokenizer_is_special(tokenizer, mask));
    assert_false(tokenizer_is_special(tokenizer, separator));
    token_list_free(&ids);
    tokenizer_destroy(tokenizer);
}

static void test_skip_special(void **state) {
    (void)state;
    Tokenizer *tokenizer = golden_json_tokenizer("legacy");
    TokenList ids = {0};
    TextBuffer text = {0};
    const char source[] = "<s> ab</s>";
    assert_int_equal(
        tokenizer_encode(tokenizer, source, strlen(source), TOKENIZE_PARSE_SPECIAL, &ids),
        STATUS_OK);
    assert_int_equal(tokenizer_decode(tokenizer, ids.tokens, ids.count, true, &text), STATUS_OK);
    assert_string_equal(text.text, " ab"); /* of two spaces at the start one is the model's own */
    text_buffer_free(&text);
    error_capture_begin();
    assert_int_equal(tokenizer_decode(tokenizer, (int32_t[]){1 << 20}, 1, true, &text),
                     STATUS_BAD_INPUT);
    assert_int_equal(tokenizer_decode(tokenizer, (int32_t[]){-1}, 1, true, &text),
                     STATUS_BAD_INPUT);
    error_capture_end();
    token_list_free(&ids);
    tokenizer_destroy(tokenizer);
}

/* ---- long words: time that grows with the square would take minutes ---- */

static void test_long_words(void **state) {
    (void)state;
    static const char *const names[] = {"gpt2", "legacy", "unigram", "mixed"};
    enum { LONG_BYTES = 1 << 19 };
    char *text = malloc(LONG_BYTES);
    assert_non_null(text);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        Tokenizer *tokenizer = golden_json_tokenizer(names[i]);
        for (const char *filler = "a \n\xFF"; *filler; filler++) {
            TokenList ids = {0};
            memset(text, *filler, LONG_BYTES);
            assert_int_equal(tokenizer_encode(tokenizer, text, LONG_BYTES, 0, &ids), STATUS_OK);
            token_list_free(&ids);
        }
        tokenizer_destroy(tokenizer);
    }
    free(text);
}

/* ---- GPT-2's own files, as OPT has them ---- */

static char folder[] = "/tmp/spillway-tokenizer-XXXXXX";

static void write_file(const char *name, const void *bytes, size_t count) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, count, file), count);
    assert_int_equal(fclose(file), 0);
}

static void write_json(const char *name, const json_t *value) {
    char *text = json_dumps(value, JSON_COMPACT);
    assert_non_null(text);
    write_file(name, text, strlen(text));
    free(text);
}

/* merges.txt of a tokenizer.json's model. */
static void write_merges(const json_t *merges) {
    TextBuffer text = {0};
    size_t index;
    json_t *pair;
    assert_int_equal(text_buffer_add(&text, "#version: 0.2\n", 14), STATUS_OK);
    json_array_foreach((json_t *)merges, index, pair) {
        char line[256];
        int bytes =
            snprintf(line, sizeof line, "%s %s\n", json_string_value(json_array_get(pair, 0)),
                     json_string_value(json_array_get(pair, 1)));
        assert_int_equal(text_buffer_add(&text, line, (size_t)bytes), STATUS_OK);
    }
    write_file("merges.txt", text.text, text.bytes);
    text_buffer_free(&text);
}

static const char *const folder_files[] = {
    "config.json", "model.safetensors",     "vocab.json",
    "merges.txt",  "tokenizer_config.json", "generation_config.json"};

static int make_folder(void **state) {
    (void)state;
    const char header[] = "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}";
    const char config[] = "{\"model_type\":\"opt\",\"eos_token_id\":2,\"bos_token_id\":2}";
    const char settings[] = "{\"add_bos_token\":true,\"bos_token\":{\"content\":\"<|endoftext|>\"},"
                            "\"eos_token\":\"<|im_end|>\",\"unk_token\":\"<|im_start|>\"}";
    const char generation[] = "{\"eos_token_id\":[2,1]}";
    uint64_t header_bytes = sizeof header - 1;
    char shard[128];
    json_error_t error;
    json_t *golden = json_load_file(GOLDEN "/text/gpt2.json", 0, &error);
    if (!golden || !mkdtemp(folder)) return -1;
    memcpy(shard, &header_bytes, 8);
    memcpy(shard + 8, header, header_bytes);
    memset(shard + 8 + header_bytes, 0, 4);
    write_file("model.safetensors", shard, 12 + header_bytes);
    write_file("config.json", config, sizeof config - 1);
    write_file("tokenizer_config.json", settings, sizeof settings - 1);
    write_file("generation_config.json", generation, sizeof generation - 1);
    write_json("vocab.json", json_object_get(json_object_get(golden, "model"), "vocab"));
    write_merges(json_object_get(json_object_get(golden, "model"), "merges"));
    json_decref(golden);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof folder_files / sizeof folder_files[0]; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s/%s", folder, folder_files[i]);
        unlink(path);
    }
    return rmdir(folder);
}

static void test_gpt2_files(void **state) {
    (void)state;
    Weights *weights = NULL;
    Tokenizer *tokenizer = NULL;
    uint32_t eos_count;
    assert_int_equal(weights_open(&weights, folder), STATUS_OK);
    assert_int_equal(tokenizer_create(&tokenizer, weights), STATUS_OK);
    assert_golden_ids(tokenizer, "gpt2");
    assert_int_equal(tokenizer_bos(tokenizer), 0);
    assert_true(tokenizer_adds_bos(tokenizer));
    assert_tokens(tokenizer, "", TOKENIZE_ADD_SPECIAL, (int32_t[]){0}, 1);
    assert_memory_equal(tokenizer_eos(tokenizer, &eos_count), ((int32_t[]){2, 1}),
                        2 * sizeof(int32_t));
    assert_int_equal(eos_count, 2);
    tokenizer_destroy(tokenizer);
    weights_close(weights);
}

static void assert_folder_refused(const char *expected) {
    Weights *weights = NULL;
    Tokenizer *tokenizer = NULL;
    const char *text;
    assert_int_equal(weights_open(&weights, folder), STATUS_OK);
    error_capture_begin();
    assert_int_equal(tokenizer_create(&tokenizer, weights), STATUS_BAD_INPUT);
    error_capture_end();
    error_last(&text);
    if (!strstr(text, expected)) fail_msg("\"%s\" does not say \"%s\"", text, expected);
    weights_close(weights);
}

static void test_gpt2_files_refused(void **state) {
    (void)state;
    const char merges[] = "#version: 0.2\na b\nno_such piece\n";
    const char vocabulary[] = "{\"a\":0,\"b\":1,\"ab\":7}";
    write_file("merges.txt", merges, sizeof merges - 1);
    assert_folder_refused("merges.txt: line 3");
    write_file("vocab.json", vocabulary, sizeof vocabulary - 1);
    assert_folder_refused("vocab.json: ab: an integer from 0 to 2 is expected");
    write_file("vocab.json", "{\"a\":0,", 7);
    assert_folder_refused("vocab.json: line 1, column 7");
}

/* ---- tokenizer.json files that are wrong in one way each ---- */

#define MODEL \
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}"
#define DECODER    "\"decoder\":{\"type\":\"Fuse\"}"
#define WITH(part) "{" part "," DECODER "," MODEL "}"

typedef struct WrongFile {
    const char *json;
    const char *says; /* part of the error */
} WrongFile;

static const WrongFile wrong_files[] = {
    {"", "line 1, column 0"},
    {"{\"model\":\n{]}", "line 2, column 2"},
    {"{\"a\":1,\"a\":2}", "duplicate"},
    {"[]", "an object is expected"},
    {"{" MODEL "}", "decoder: a tokenizer without decoder"},
    {"{\"model\":{\"type\":\"WordPiece\",\"vocab\":{\"a\":0}}," DECODER "}",
     "model: the type \"WordPiece\" is not supported"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}," DECODER "}",
     "model.vocab.a: an integer"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":10000000},\"merges\":[]}," DECODER "}",
     "model.vocab.a: id 10000000"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}," DECODER "}",
     "model.vocab.b: id 0 belongs to \"a\""},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}," DECODER "}",
     "the vocabulary has 0 tokens"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}," DECODER "}",
     "model.merges[0]: \"a\" and \"b\""},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"ab\"]}," DECODER "}",
     "model.merges[0]: a merge is two pieces"},
    {"{\"model\":{\"type\":\"BPE\",\"dropout\":0.1,\"vocab\":{\"a\":0},\"merges\":[]}," DECODER "}",
     "model.dropout: dropout"},
    {"{\"model\":{\"type\":\"BPE\",\"end_of_word_suffix\":\"</"
     "w>\",\"vocab\":{\"a\":0},\"merges\":[]}," DECODER "}",
     "model.end_of_word_suffix: \"</w>\" is not supported"},
    {"{\"model\":{\"type\":\"BPE\",\"unk_token\":\"?\",\"vocab\":{\"a\":0},\"merges\":[]}," DECODER
     "}",
     "model.unk_token: \"?\" is not in the vocabulary"},
    {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",1],[\"b\"]]}," DECODER "}",
     "model.vocab[1][1]: a number"},
    {"{\"model\":{\"type\":\"Unigram\",\"unk_id\":9,\"vocab\":[[\"a\",1]]}," DECODER "}",
     "model.unk_id: an integer from 0 to 0"},
    {WITH("\"added_tokens\":[{\"id\":3,\"content\":\"\"}]"),
     "added_tokens[0].content: an added token is empty"},
    {WITH("\"added_tokens\":[{\"id\":0,\"content\":\"x\"}]"), "added_tokens[0].id: id 0 belongs"},
    {WITH("\"added_tokens\":[{\"id\":3,\"content\":\"ab\"}]"),
     "added_tokens[0].content: the vocab"},
    {WITH("\"added_tokens\":[{\"id\":3,\"content\":\"x\",\"special\":1}]"),
     "added_tokens[0].special: true or false"},
    {WITH("\"normalizer\":{\"type\":\"Precompiled\"}"),
     "normalizer: the type \"Precompiled\" is not supported"},
    {WITH("\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":"
          "\"X\"}]}"),
     "normalizer.normalizers[1]: the type \"X\""},
    {WITH("\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"}"), "\"BertPreTokenizer\""},
    {WITH("\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a(\"},\"behavior\":"
          "\"Isolated\"}"),
     "pre_tokenizer.pattern.Regex: the pattern \"a(\" is malformed at offset 2"},
    {WITH("\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[a&&b]\"},\"behavior\":"
          "\"Isolated\"}"),
     "an intersection of classes"},
    {WITH("\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\p{Greek}\"},"
          "\"behavior\":"
          "\"Isolated\"}"),
     "an unknown Unicode property"},
    {WITH("\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"\"},\"behavior\":"
          "\"Isolated\"}"),
     "pre_tokenizer.pattern.String: the pattern is empty"},
    {WITH("\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},\"behavior\":"
          "\"Merge\"}"),
     "pre_tokenizer.behavior: the behavior \"Merge\""},
    {WITH("\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\"},"
          "{\"type\":\"Digits\"}]}"),
     "pre_tokenizer.pretokenizers[1]: nothing may follow ByteLevel"},
    {WITH("\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":"
          "\"last\"}"),
     "pre_tokenizer.prepend_scheme: the scheme \"last\""},
    {"{\"decoder\":{\"type\":\"CTC\"}," MODEL "}", "decoder: the type \"CTC\""},
    {"{\"decoder\":{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}," MODEL "}",
     "decoder: Strip without Fuse"},
    {WITH("\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{"
          "\"id\":"
          "\"<s>\"}}],\"special_tokens\":{}}"),
     "post_processor.special_tokens.<s>.ids: a list"},
    {WITH("\"post_processor\":{\"type\":\"BertProcessing\",\"cls\":[\"a\",9],\"sep\":[\"b\",1]}"),
     "post_processor.cls[1]: an integer from 0 to 2"},
};

static void test_wrong_files(void **state) {
    (void)state;
    error_capture_begin();
    for (size_t i = 0; i < sizeof wrong_files / sizeof wrong_files[0]; i++) {
        const WrongFile *wrong = &wrong_files[i];
        Tokenizer *tokenizer = NULL;
        const char *text;
        Status status =
            tokenizer_create_from_json(&tokenizer, "t.json", wrong->json, strlen(wrong->json));
        if (status != STATUS_BAD_INPUT) fail_msg("%s: %s", wrong->json, status_name(status));
        error_last(&text);
        if (strncmp(text, "t.json: ", 8) && !strstr(text, "tokens; 1 to"))
            fail_msg("\"%s\" does not name the file", text);
        if (!strstr(text, wrong->says)) fail_msg("\"%s\" does not say \"%s\"", text, wrong->says);
    }
    error_capture_end();
    Tokenizer *tokenizer = NULL;
    const char right[] = "{" DECODER "," MODEL "}";
    assert_int_equal(tokenizer_create_from_json(&tokenizer, "t.json", right, sizeof right - 1),
                     STATUS_OK);
    tokenizer_destroy(tokenizer);
}

/* A pattern that explodes is an error of that text, not an endless loop. */
static void test_exploding_pattern(void **state) {
    (void)state;
    const char json[] =
        WITH("\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?:a|aa)+[^a]\"},"
             "\"behavior\":\"Isolated\"}");
    Tokenizer *tokenizer = NULL;
    TokenList ids = {0};
    char text[200];
    memset(text, 'a', sizeof text);
    assert_int_equal(tokenizer_create_from_json(&tokenizer, "t.json", json, sizeof json - 1),
                     STATUS_OK);
    error_capture_begin();
    assert_int_equal(tokenizer_encode(tokenizer, text, sizeof text, 0, &ids), STATUS_BAD_INPUT);
    assert_int_equal(error_last(NULL), ERROR_TEXT);
    error_capture_end();
    assert_int_equal(tokenizer_encode(tokenizer, "ab", 2, 0, &ids), STATUS_OK);
    token_list_free(&ids);
    tokenizer_destroy(tokenizer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_json),  cmocka_unit_test(test_golden_gguf),
        cmocka_unit_test(test_added_around), cmocka_unit_test(test_special_only_when_asked),
        cmocka_unit_test(test_skip_special), cmocka_unit_test(test_long_words),
        cmocka_unit_test(test_gpt2_files),   cmocka_unit_test(test_gpt2_files_refused),
        cmocka_unit_test(test_wrong_files),  cmocka_unit_test(test_exploding_pattern),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder) ? 1 : 0;
}
