/* Chat templates against what the models' own Jinja templates render (tests/golden/text/chat.json). */

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>
#include <jansson.h>

#include "runtime/text/chat_template.h"

enum { MESSAGES_MAX = 16 };

static json_t *golden;

static int open_golden(void **state) {
    (void)state;
    json_error_t error;
    golden = json_load_file(GOLDEN "/text/chat.json", JSON_ALLOW_NUL, &error);
    return golden ? 0 : -1;
}

static int close_golden(void **state) {
    (void)state;
    json_decref(golden);
    return 0;
}

static const ChatTemplate *template_of(const json_t *entry) {
    const char *name = json_string_value(json_object_get(entry, "name"));
    const ChatTemplate *row = NULL;
    assert_int_equal(chat_template_choose(NULL, name, &row), STATUS_OK);
    return row;
}

static size_t read_messages(const json_t *conversation, ChatMessage *out) {
    size_t index;
    json_t *message;
    json_array_foreach((json_t *)conversation, index, message) {
        const json_t *content = json_object_get(message, "content");
        assert_true(index < MESSAGES_MAX);
        out[index] = (ChatMessage){.role = json_string_value(json_object_get(message, "role")),
                                   .content = json_string_value(content),
                                   .content_bytes = json_string_length(content)};
    }
    return json_array_size(conversation);
}

static void today(char out[32]) {
    time_t now = time(NULL);
    struct tm local;
    assert_non_null(localtime_r(&now, &local));
    strftime(out, 32, "%d %b %Y", &local);
}

/* The expected prompt with today in the place of the date that the templates were rendered with. */
static TextBuffer dated(const json_t *expected) {
    const char *text = json_string_value(expected), *end = text + json_string_length(expected);
    const char *date = json_string_value(json_object_get(golden, "date"));
    char now[32];
    TextBuffer out = {0};
    today(now);
    while (text < end) {
        const char *found = memmem(text, (size_t)(end - text), date, strlen(date));
        const char *stop = found ? found : end;
        assert_int_equal(text_buffer_add(&out, text, (size_t)(stop - text)), STATUS_OK);
        if (found) assert_int_equal(text_buffer_add(&out, now, strlen(now)), STATUS_OK);
        text = found ? found + strlen(date) : end;
    }
    return out;
}

static bool renders_as(const ChatTemplate *row, const json_t *conversation, bool generation,
                       const json_t *expected) {
    ChatMessage messages[MESSAGES_MAX];
    size_t count = read_messages(conversation, messages);
    TextBuffer prompt = {0}, wanted = dated(expected);
    error_capture_begin();
    Status status = row->render(row, messages, count, generation, &prompt);
    error_capture_end();
    bool same = json_is_null(expected) ? status == STATUS_BAD_INPUT
                                       : status == STATUS_OK && prompt.bytes == wanted.bytes &&
                                             !memcmp(prompt.text ? prompt.text : "",
                                                     wanted.text ? wanted.text : "", wanted.bytes);
    if (!same)
        print_error("%s, generation %d: \"%s\" instead of \"%s\"\n", row->name, generation,
                    status == STATUS_OK && prompt.text ? prompt.text : status_name(status),
                    wanted.text ? wanted.text : "");
    text_buffer_free(&prompt);
    text_buffer_free(&wanted);
    return same;
}

static size_t wrong_prompts(const json_t *entry) {
    const json_t *conversations = json_object_get(golden, "conversations");
    const json_t *prompts = json_object_get(entry, "prompts");
    size_t wrong = 0;
    for (size_t i = 0; i < json_array_size(conversations); i++)
        for (int generation = 0; generation < 2; generation++)
            wrong += !renders_as(template_of(entry), json_array_get(conversations, i), generation,
                                 json_array_get(json_array_get(prompts, i), (size_t)generation));
    return wrong;
}

static void test_prompts(void **state) {
    (void)state;
    size_t index, wrong = 0;
    json_t *entry;
    char before[32], after[32];
    do { /* again when midnight passed */
        today(before);
        wrong = 0;
        json_array_foreach(json_object_get(golden, "templates"), index, entry) wrong +=
            wrong_prompts(entry);
        today(after);
    } while (strcmp(before, after));
    assert_true(index > 8);
    assert_int_equal(wrong, 0);
}

static void test_recognised(void **state) {
    (void)state;
    size_t index;
    json_t *entry;
    json_array_foreach(json_object_get(golden, "templates"), index, entry) {
        const char *text = json_string_value(json_object_get(entry, "text"));
        const char *bos = json_string_value(json_object_get(entry, "bos_token"));
        const char *eos = json_string_value(json_object_get(entry, "eos_token"));
        const ChatTemplate *row = chat_template_recognise(text, bos, eos);
        assert_ptr_equal(row, template_of(entry));
        if (row->bos) assert_null(chat_template_recognise(text, "<other>", eos));
        if (row->eos) assert_null(chat_template_recognise(text, bos, "<other>"));
    }
}

/* Templates that look like a known one and render otherwise. */
static void test_look_alikes(void **state) {
    (void)state;
    static const char *const texts[] = {
        "",
        "{{ messages }}",
        "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content | "
        "trim + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}x{% endif %}",
        "{{ '<|im_start|>system\nYou are Dolphin.<|im_end|>\n' }}{% if add_generation_prompt %}x{% "
        "endif %}",
        "{{ bos_token }}{{ '<|im_start|>' }}{{ '<|im_end|>' }}{% if add_generation_prompt %}",
        "[INST] <<SYS>> [/INST] without the rest",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        assert_null(chat_template_recognise(texts[i], NULL, NULL));
}

static void test_names(void **state) {
    (void)state;
    const ChatTemplate *row = NULL;
    const char *text;
    for (const ChatTemplate *const *a = chat_templates; *a; a++)
        for (const ChatTemplate *const *b = a + 1; *b; b++)
            assert_string_not_equal((*a)->name, (*b)->name);
    assert_int_equal(chat_template_choose(NULL, "none", &row), STATUS_OK);
    const ChatMessage messages[] = {{"system", "a", 1}, {"user", "b", 1}};
    TextBuffer prompt = {0};
    assert_int_equal(row->render(row, messages, 2, true, &prompt), STATUS_OK);
    assert_string_equal(prompt.text, "ab");
    text_buffer_free(&prompt);
    error_capture_begin();
    assert_int_equal(chat_template_choose(NULL, "vicuna", &row), STATUS_BAD_INPUT);
    assert_int_equal(error_last(&text), ERROR_CHAT_TEMPLATE);
    error_capture_end();
    assert_non_null(strstr(text, "smollm2"));
}

static void test_unknown_role(void **state) {
    (void)state;
    const ChatMessage messages[] = {{"tool", "a", 1}};
    for (const ChatTemplate *const *row = chat_templates; *row; row++) {
        if (!(*row)->marks) continue;
        TextBuffer prompt = {0};
        error_capture_begin();
        assert_int_equal((*row)->render(*row, messages, 1, true, &prompt), STATUS_BAD_INPUT);
        error_capture_end();
        text_buffer_free(&prompt);
    }
}

static void test_model_template(void **state) {
    (void)state;
    Weights *weights = NULL;
    const ChatTemplate *row = NULL;
    assert_int_equal(weights_open(&weights, GOLDEN "/models/llama_text"), STATUS_OK);
    assert_int_equal(chat_template_choose(weights, "auto", &row), STATUS_OK);
    assert_string_equal(row->name, "chatml");
    weights_close(weights);
    assert_int_equal(weights_open(&weights, GOLDEN "/text/gguf_llama.gguf"), STATUS_OK);
    assert_int_equal(chat_template_choose(weights, NULL, &row), STATUS_OK);
    assert_null(row);
    weights_close(weights);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prompts),      cmocka_unit_test(test_recognised),
        cmocka_unit_test(test_look_alikes),  cmocka_unit_test(test_names),
        cmocka_unit_test(test_unknown_role), cmocka_unit_test(test_model_template),
    };
    return cmocka_run_group_tests(tests, open_golden, close_golden) ? 1 : 0;
}
