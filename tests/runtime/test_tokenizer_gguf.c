/* Tokenizers in GGUF files that are wrong in one way each. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "runtime/text/tokenizer.h"
#include "tests/runtime/gguf_sketch.h"

enum { TYPE_U32 = 4, TYPE_I32 = 5, TYPE_F32 = 6, TYPE_STRING = 8, TYPE_ARRAY = 9 };

/* Keys below "tokenizer.ggml."; a NULL list or text leaves the key out. */
typedef struct GgufTokenizer {
    const char *model, *pre;
    const char *const *tokens, *const *merges; /* ended by NULL */
    size_t type_count, score_count;            /* of token_type and scores; 0: no key */
    float score;                               /* all of them */
    int64_t eos;                               /* -1: no key */
    const char *says;                          /* what the error must say; NULL: it is right */
} GgufTokenizer;

#define LIST(...) ((const char *const[]){__VA_ARGS__, NULL})

static const GgufTokenizer files[] = {
    {"gpt2", "gpt-2", LIST("a", "b", "ab"), LIST("a b"), 3, 0, 0, 2, NULL},
    {"llama", NULL, LIST("a", "b", "ab"), NULL, 3, 3, -1, 2, NULL},
    {NULL, "gpt-2", LIST("a"), LIST("a a"), 0, 0, 0, -1, "the file has no tokenizer"},
    {"bert", NULL, LIST("a"), NULL, 0, 0, 0, -1, "the tokenizer model \"bert\" is not supported"},
    {"gpt2", "viking", LIST("a"), LIST("a a"), 0, 0, 0, -1,
     "the pre-tokenizer \"viking\" (tokenizer.ggml.pre) is not supported"},
    {"gpt2", "gpt-2", NULL, LIST("a a"), 0, 0, 0, -1, "no tokenizer.ggml.tokens"},
    {"gpt2", "gpt-2", LIST("a"), NULL, 0, 0, 0, -1, "no tokenizer.ggml.merges"},
    {"gpt2", "gpt-2", LIST("a"), LIST("a b"), 0, 0, 0, -1, "merge 0, \"a b\""},
    {"gpt2", "gpt-2", LIST("a"), LIST("ab"), 0, 0, 0, -1, "merge 0, \"ab\""},
    {"gpt2", "gpt-2", LIST("a", "b", "ab"), LIST("a b"), 2, 0, 0, -1, "2 token types for 3 tokens"},
    {"gpt2", "gpt-2", LIST("a", "b", "ab"), LIST("a b"), 3, 0, 0, 3,
     "tokenizer.ggml.eos_token_id is 3; the vocabulary has tokens 0 to 2"},
    {"llama", NULL, LIST("a", "b"), NULL, 0, 0, 0, -1, "0 scores for 2 tokens"},
    {"llama", NULL, LIST("a", "b"), NULL, 0, 1, 0, -1, "1 scores for 2 tokens"},
    {"t5", NULL, LIST("a", "b"), NULL, 0, 2, 1.0f / 0.0f, -1, "the score of token 0 is not finite"},
};

static void add_text(GgufSketch *sketch, const char *key, const char *text) {
    ByteList value = {0};
    if (!text) return;
    byte_list_string(&value, text);
    gguf_sketch_pair(sketch, key, TYPE_STRING, value.bytes, value.count);
    byte_list_free(&value);
}

static void add_texts(GgufSketch *sketch, const char *key, const char *const *texts) {
    ByteList value = {0};
    uint64_t count = 0;
    if (!texts) return;
    while (texts[count])
        count++;
    byte_list_u32(&value, TYPE_STRING);
    byte_list_u64(&value, count);
    for (uint64_t i = 0; i < count; i++)
        byte_list_string(&value, texts[i]);
    gguf_sketch_pair(sketch, key, TYPE_ARRAY, value.bytes, value.count);
    byte_list_free(&value);
}

/* `count` times the same 32 bits. */
static void add_numbers(GgufSketch *sketch, const char *key, uint32_t type, const void *number,
                        size_t count) {
    ByteList value = {0};
    if (!count) return;
    byte_list_u32(&value, type);
    byte_list_u64(&value, count);
    for (size_t i = 0; i < count; i++)
        byte_list_add(&value, number, 4);
    gguf_sketch_pair(sketch, key, TYPE_ARRAY, value.bytes, value.count);
    byte_list_free(&value);
}

static Weights *open_sketch(const GgufTokenizer *file) {
    GgufSketch sketch = gguf_sketch();
    Weights *weights = NULL;
    char path[64];
    add_text(&sketch, "tokenizer.ggml.model", file->model);
    add_text(&sketch, "tokenizer.ggml.pre", file->pre);
    add_texts(&sketch, "tokenizer.ggml.tokens", file->tokens);
    add_texts(&sketch, "tokenizer.ggml.merges", file->merges);
    add_numbers(&sketch, "tokenizer.ggml.token_type", TYPE_I32, &(int32_t){1}, file->type_count);
    add_numbers(&sketch, "tokenizer.ggml.scores", TYPE_F32, &file->score, file->score_count);
    if (file->eos >= 0)
        gguf_sketch_pair(&sketch, "tokenizer.ggml.eos_token_id", TYPE_U32,
                         &(uint32_t){(uint32_t)file->eos}, 4);
    ByteList bytes = gguf_sketch_bytes(&sketch);
    int descriptor = memfd_create("sketch.gguf", 0);
    assert_true(descriptor >= 0);
    byte_list_write(&bytes, descriptor);
    snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
    assert_int_equal(weights_open(&weights, path), STATUS_OK);
    close(descriptor);
    byte_list_free(&bytes);
    byte_list_free(&sketch.pairs);
    return weights;
}

static void test_files(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        Weights *weights = open_sketch(&files[i]);
        Tokenizer *tokenizer = NULL;
        const char *text;
        error_capture_begin();
        Status status = tokenizer_create(&tokenizer, weights);
        error_capture_end();
        error_last(&text);
        if (!files[i].says) {
            assert_int_equal(status, STATUS_OK);
            assert_int_equal(tokenizer_find(tokenizer, "ab", 2), 2);
        } else if (status != STATUS_BAD_INPUT || !strstr(text, files[i].says)) {
            fail_msg("file %zu: %s, \"%s\" does not say \"%s\"", i, status_name(status), text,
                     files[i].says);
        }
        tokenizer_destroy(tokenizer);
        weights_close(weights);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_files)};
    return cmocka_run_group_tests(tests, NULL, NULL) ? 1 : 0;
}
