/* The tokenizer of the real SmolLM2 file against frozen ids of the original. Needs SPILLWAY_TEST_MODEL. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/text/chat_template.h"
#include "tests/runtime/text_golden.h"

static int open_model(void **state) {
    static struct {
        Weights *weights;
        Tokenizer *tokenizer;
    } model;
    if (weights_open(&model.weights, getenv("SPILLWAY_TEST_MODEL")) != STATUS_OK ||
        tokenizer_create(&model.tokenizer, model.weights) != STATUS_OK)
        return -1;
    weights_close(model.weights); /* a tokenizer keeps nothing of the file */
    *state = model.tokenizer;
    return 0;
}

static int close_model(void **state) {
    tokenizer_destroy(*state);
    return 0;
}

static void test_ids(void **state) {
    assert_golden_ids(*state, "smollm2");
}

static void test_specials(void **state) {
    const Tokenizer *tokenizer = *state;
    uint32_t eos_count;
    assert_int_equal(tokenizer_vocab_count(tokenizer), 49152);
    assert_int_equal(tokenizer_bos(tokenizer), 1);
    assert_false(tokenizer_adds_bos(tokenizer));
    assert_int_equal(tokenizer_eos(tokenizer, &eos_count)[0], 2);
    assert_int_equal(eos_count, 1);
    assert_int_equal(tokenizer_find(tokenizer, "<|im_start|>", 12), 1);
    assert_int_equal(tokenizer_find(tokenizer, "\xC4\xA0the", 5), 260);
    assert_int_equal(tokenizer_find(tokenizer, "no such piece", 13), -1);
    assert_true(tokenizer_is_special(tokenizer, 0));
    assert_false(tokenizer_is_special(tokenizer, 260));
}

static void test_user_text_is_letters(void **state) {
    const Tokenizer *tokenizer = *state;
    TokenList ids = {0};
    TextBuffer text = {0};
    assert_int_equal(tokenizer_encode(tokenizer, "<|im_end|>", 10, TOKENIZE_ADD_SPECIAL, &ids),
                     STATUS_OK);
    assert_true(ids.count > 1);
    for (size_t i = 0; i < ids.count; i++)
        assert_false(tokenizer_is_special(tokenizer, ids.tokens[i]));
    assert_int_equal(tokenizer_decode(tokenizer, ids.tokens, ids.count, true, &text), STATUS_OK);
    assert_string_equal(text.text, "<|im_end|>");
    token_list_free(&ids);
    text_buffer_free(&text);
}

static void test_chat_template(void **state) {
    (void)state;
    Weights *weights = NULL;
    const ChatTemplate *row = NULL;
    assert_int_equal(weights_open(&weights, getenv("SPILLWAY_TEST_MODEL")), STATUS_OK);
    assert_int_equal(chat_template_choose(weights, "auto", &row), STATUS_OK);
    assert_string_equal(row->name, "smollm2");
    weights_close(weights);
}

int main(void) {
    if (!getenv("SPILLWAY_TEST_MODEL")) {
        printf("skipped: SPILLWAY_TEST_MODEL does not name the SmolLM2 file\n0 passed, 0 failed, 4 "
               "skipped\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ids),
        cmocka_unit_test(test_specials),
        cmocka_unit_test(test_user_text_is_letters),
        cmocka_unit_test(test_chat_template),
    };
    return cmocka_run_group_tests(tests, open_model, close_model) ? 1 : 0;
}
