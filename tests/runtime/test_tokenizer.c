/* Tokenizers of every kind against frozen ids of the originals, and files that are wrong in one way each. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_json),
        cmocka_unit_test(test_golden_gguf),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) ? 1 : 0;
}
