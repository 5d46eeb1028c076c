/* Lines of batch files to requests: what is taken, and for everything that is refused which field is blamed. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "launch/batch_line.h"

static ApiDefaults defaults(void) {
    return (ApiDefaults){.sampling = sampling_defaults, .max_tokens = 256};
}

static Status read_bytes(const char *text, size_t bytes, uint64_t number, BatchFormat format,
                         BatchLine *out, ApiError *error) {
    const ApiDefaults own = defaults();
    const Line line = {.text = text, .bytes = bytes, .number = number, .ended = true};
    return batch_line_read(out, &line, format, &own, error);
}

static Status read_text(const char *text, BatchLine *out, ApiError *error) {
    return read_bytes(text, strlen(text), 7, BATCH_JSONL, out, error);
}

#define CHAT(body)                                                                         \
    "{\"custom_id\":\"a\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\"body\":{" \
    "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]," body "}}"
#define TEXT(body)                                                                    \
    "{\"custom_id\":\"a\",\"method\":\"POST\",\"url\":\"/v1/completions\",\"body\":{" \
    "\"prompt\":\"hi\"," body "}}"

static const struct {
    const char *line, *code, *param;
} refused[] = {
    {"", "invalid_json", ""},
    {"nonsense", "invalid_json", ""},
    {"{\"prompt\":\"a\"", "invalid_json", ""},
    {"{\"prompt\":\"a\"} x", "invalid_json", ""},
    {"{\"prompt\":\"a\",\"prompt\":\"b\"}", "invalid_json", ""},
    {"{\"prompt\":\"\\ud800\"}", "invalid_json", ""},
    {"{\"prompt\":\"\xff\"}", "invalid_json", ""},
    {"{\"prompt\":\"\\u0000\"}", "invalid_json", ""},
    {"\xef\xbb\xbf{\"prompt\":\"a\"}", "invalid_json", ""},
    {"[]", "invalid_json", ""},
    {"\"prompt\"", "invalid_json", ""},
    {"12", "invalid_json", ""},
    {"{}", "missing_required_parameter", "prompt"},
    {"{\"text\":\"a\"}", "unsupported_parameter", "text"},
    {"{\"custom_id\":5,\"prompt\":\"a\"}", "invalid_value", "custom_id"},
    {"{\"custom_id\":\"\",\"prompt\":\"a\"}", "invalid_value", "custom_id"},
    {"{\"method\":\"POST\",\"url\":\"/v1/completions\",\"body\":{\"prompt\":\"a\"}}",
     "invalid_value", "custom_id"},
    {"{\"custom_id\":null,\"method\":\"POST\",\"url\":\"/v1/completions\",\"body\":{}}",
     "invalid_value", "custom_id"},
    {"{\"custom_id\":\"0123456789012345678901234567890123456789012345678901234567890123x\","
     "\"prompt\":\"a\"}",
     "invalid_value", "custom_id"},
    {"{\"custom_id\":\"a\",\"method\":\"GET\",\"url\":\"/v1/completions\",\"body\":{}}",
     "invalid_value", "method"},
    {"{\"custom_id\":\"a\",\"method\":\"POST\",\"url\":\"/v1/embeddings\",\"body\":{}}",
     "invalid_url", "url"},
    {"{\"custom_id\":\"a\",\"method\":\"POST\",\"url\":\"/v1/completions\"}", "invalid_value",
     "body"},
    {"{\"custom_id\":\"a\",\"method\":\"POST\",\"url\":\"/v1/completions\",\"body\":[]}",
     "invalid_value", "body"},
    {"{\"custom_id\":\"a\",\"method\":\"POST\",\"url\":\"/v1/completions\",\"body\":{},\"x\":1}",
     "unsupported_parameter", "x"},
    {"{\"prompt\":5}", "invalid_value", "prompt"},
    {"{\"prompt\":[]}", "invalid_value", "prompt"},
    {"{\"prompt\":[[]]}", "invalid_value", "prompt"},
    {"{\"prompt\":[1,\"a\"]}", "invalid_value", "prompt"},
    {"{\"prompt\":[-1]}", "invalid_value", "prompt"},
    {"{\"prompt\":[4294967296]}", "invalid_value", "prompt"},
    {"{\"messages\":[]}", "invalid_value", "messages"},
    {"{\"messages\":\"hi\"}", "invalid_value", "messages"},
    {"{\"messages\":[{\"content\":\"hi\"}]}", "invalid_value", "messages"},
    {"{\"messages\":[{\"role\":\"user\"}]}", "invalid_value", "messages"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":5}]}", "invalid_value", "messages"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}", "invalid_value",
     "messages"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\",\"tool_calls\":[]}]}",
     "unsupported_parameter", "messages"},
    {TEXT("\"max_tokens\":0"), "invalid_value", "max_tokens"},
    {TEXT("\"max_tokens\":-1"), "invalid_value", "max_tokens"},
    {TEXT("\"max_tokens\":1000000000000000000"), "invalid_value", "max_tokens"},
    {TEXT("\"max_tokens\":1e18"), "invalid_value", "max_tokens"},
    {TEXT("\"max_tokens\":\"5\""), "invalid_value", "max_tokens"},
    {TEXT("\"max_tokens\":true"), "invalid_value", "max_tokens"},
    {TEXT("\"max_completion_tokens\":5"), "unsupported_parameter", "max_completion_tokens"},
    {CHAT("\"max_tokens\":5,\"max_completion_tokens\":0"), "invalid_value",
     "max_completion_tokens"},
    {TEXT("\"temperature\":-1"), "invalid_value", "temperature"},
    {TEXT("\"temperature\":2.01"), "invalid_value", "temperature"},
    {TEXT("\"temperature\":\"hot\""), "invalid_value", "temperature"},
    {TEXT("\"top_p\":0"), "invalid_value", "top_p"},
    {TEXT("\"top_p\":1.5"), "invalid_value", "top_p"},
    {TEXT("\"top_k\":-1"), "invalid_value", "top_k"},
    {TEXT("\"min_p\":1.1"), "invalid_value", "min_p"},
    {TEXT("\"n\":0"), "invalid_value", "n"},
    {TEXT("\"n\":1000000"), "invalid_value", "n"},
    {TEXT("\"seed\":1.5"), "invalid_value", "seed"},
    {TEXT("\"stop\":\"\""), "invalid_value", "stop"},
    {TEXT("\"stop\":5"), "invalid_value", "stop"},
    {TEXT("\"stop\":[\"a\",5]"), "invalid_value", "stop"},
    {TEXT("\"presence_penalty\":3"), "invalid_value", "presence_penalty"},
    {TEXT("\"frequency_penalty\":-3"), "invalid_value", "frequency_penalty"},
    {TEXT("\"repetition_penalty\":0"), "invalid_value", "repetition_penalty"},
    {TEXT("\"logit_bias\":[]"), "invalid_value", "logit_bias"},
    {TEXT("\"logit_bias\":{\"x\":1}"), "invalid_value", "logit_bias"},
    {TEXT("\"logit_bias\":{\"5\":101}"), "invalid_value", "logit_bias"},
    {TEXT("\"logprobs\":21"), "invalid_value", "logprobs"},
    {TEXT("\"logprobs\":true"), "invalid_value", "logprobs"},
    {CHAT("\"logprobs\":5"), "invalid_value", "logprobs"},
    {CHAT("\"top_logprobs\":3"), "invalid_value", "top_logprobs"},
    {CHAT("\"logprobs\":true,\"top_logprobs\":21"), "invalid_value", "top_logprobs"},
    {TEXT("\"min_tokens\":300"), "invalid_value", "min_tokens"},
    {TEXT("\"ignore_eos\":1"), "invalid_value", "ignore_eos"},
    {TEXT("\"stop_token_ids\":5"), "invalid_value", "stop_token_ids"},
    {TEXT("\"stop_token_ids\":[-1]"), "invalid_value", "stop_token_ids"},
    {TEXT("\"stream\":true"), "unsupported_parameter", "stream"},
    {TEXT("\"echo\":true"), "unsupported_parameter", "echo"},
    {TEXT("\"suffix\":\"x\""), "unsupported_parameter", "suffix"},
    {TEXT("\"best_of\":2"), "unsupported_parameter", "best_of"},
    {TEXT("\"response_format\":{\"type\":\"json_object\"}"), "unsupported_parameter",
     "response_format"},
    {CHAT("\"tools\":[{}]"), "unsupported_parameter", "tools"},
    {CHAT("\"tool_choice\":\"required\""), "unsupported_parameter", "tool_choice"},
    {CHAT("\"prompt\":\"x\""), "unsupported_parameter", "prompt"},
    {TEXT("\"messages\":[]"), "unsupported_parameter", "messages"},
    {TEXT("\"temprature\":1"), "unsupported_parameter", "temprature"},
    {TEXT("\"model\":5"), "invalid_value", "model"},
};

static void test_refused(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        BatchLine line;
        ApiError error;
        Status status = read_text(refused[i].line, &line, &error);
        if (status != STATUS_BAD_INPUT || strcmp(error.code, refused[i].code) != 0 ||
            strcmp(error.param, refused[i].param) != 0 || !error.message[0])
            fail_msg("%s: %s, code %s, param %s, %s", refused[i].line, status_name(status),
                     error.code, error.param, error.message);
        batch_line_free(&line);
    }
}

static void test_refused_bytes(void **state) {
    (void)state;
    BatchLine line;
    ApiError error;
    const Line too_long = {.number = 1, .too_long = true};
    const ApiDefaults own = defaults();
    assert_int_equal(batch_line_read(&line, &too_long, BATCH_JSONL, &own, &error),
                     STATUS_BAD_INPUT);
    assert_non_null(strstr(error.message, "8 MiB"));
    assert_int_equal(read_bytes("{\"prompt\":\"a\0b\"}", 16, 1, BATCH_JSONL, &line, &error),
                     STATUS_BAD_INPUT);
    assert_non_null(strstr(error.message, "NUL"));
    assert_int_equal(read_bytes("\xff", 1, 1, BATCH_LINES, &line, &error), STATUS_BAD_INPUT);
    assert_string_equal(error.param, "prompt");
    batch_line_free(&line);
}

/* 64 deep is taken by JSON, 65 is not, and brackets in strings do not count. */
static void test_depth(void **state) {
    (void)state;
    char text[400];
    for (int depth = 62; depth <= 66; depth++) {
        BatchLine line;
        ApiError error;
        int used = snprintf(text, sizeof text, "{\"prompt\":\"[[[[\\\"[[\",\"metadata\":");
        memset(text + used, '[', (size_t)depth);
        memset(text + used + depth, ']', (size_t)depth);
        snprintf(text + used + 2 * depth, 2, "}");
        Status status = read_text(text, &line, &error);
        assert_int_equal(status, depth + 1 <= API_DEPTH_MAX ? STATUS_OK : STATUS_BAD_INPUT);
        if (status != STATUS_OK) assert_non_null(strstr(error.message, "64 deep"));
        batch_line_free(&line);
    }
}

static void test_too_many_stops(void **state) {
    (void)state;
    char text[8000];
    for (int count = 15; count <= 1000; count = count == 15 ? 16 : count == 16 ? 17 : 1001) {
        BatchLine line;
        ApiError error;
        int used = snprintf(text, sizeof text, "{\"prompt\":\"a\",\"stop\":[");
        for (int i = 0; i < count; i++)
            used += snprintf(text + used, sizeof text - (size_t)used, "%s\"x\"", i ? "," : "");
        snprintf(text + used, sizeof text - (size_t)used, "]}");
        Status status = read_text(text, &line, &error);
        assert_int_equal(status, count <= REQUEST_STOPS_MAX ? STATUS_OK : STATUS_BAD_INPUT);
        if (status == STATUS_OK) assert_int_equal(line.request.request.stop_count, count);
        batch_line_free(&line);
    }
}

static void test_full_request(void **state) {
    (void)state;
    BatchLine line;
    ApiError error;
    assert_int_equal(
        read_text(CHAT("\"max_tokens\":5,\"max_completion_tokens\":6,\"temperature\":0.5,"
                       "\"top_p\":0.9,\"top_k\":40,\"min_p\":0.1,\"n\":3,\"stop\":[\"x\",\"yz\"],"
                       "\"seed\":-4,\"presence_penalty\":1,\"frequency_penalty\":-1,"
                       "\"repetition_penalty\":1.5,\"logit_bias\":{\"17\":-100},\"logprobs\":true,"
                       "\"top_logprobs\":4,\"min_tokens\":2,\"ignore_eos\":true,"
                       "\"stop_token_ids\":[3,4],\"skip_special_tokens\":false,"
                       "\"return_token_ids\":true,\"user\":\"me\",\"stream\":false,\"model\":\"m\","
                       "\"tools\":[],\"response_format\":{\"type\":\"text\"},\"store\":null"),
                  &line, &error),
        STATUS_OK);
    const ApiRequest *api = &line.request;
    const Request *request = &api->request;
    const SamplingOptions *sampling = &request->sampling;
    assert_string_equal(line.custom_id, "a");
    assert_int_equal(api->endpoint, API_CHAT);
    assert_int_equal(api->message_count, 1);
    assert_string_equal(api->messages[0].role, "user");
    assert_string_equal(api->messages[0].content, "hi");
    assert_int_equal(api->max_tokens, 6);
    assert_int_equal(api->choice_count, 3);
    assert_int_equal(api_sequence_count(api), 3);
    assert_true(api->has_seed && api->seed == -4 && api->return_token_ids);
    assert_true(sampling->temperature == 0.5f && sampling->top_p == 0.9f && sampling->top_k == 40);
    assert_true(sampling->min_p == 0.1f && sampling->presence_penalty == 1 &&
                sampling->frequency_penalty == -1 && sampling->repetition_penalty == 1.5f);
    assert_int_equal(sampling->bias_count, 1);
    assert_true(sampling->biases[0].token == 17 && sampling->biases[0].bias == -100);
    assert_true(sampling->want_logprobs && sampling->top_logprobs == 4);
    assert_true(request->ignore_eos && request->keep_special && request->min_tokens == 2);
    assert_int_equal(request->stop_count, 2);
    assert_string_equal(request->stops[1], "yz");
    assert_int_equal(request->stop_token_count, 2);
    assert_int_equal(request->stop_tokens[1], 4);
    batch_line_free(&line);
}

static void test_prompt_forms(void **state) {
    (void)state;
    static const struct {
        const char *line;
        size_t prompts, tokens; /* tokens of the last prompt */
        const char *text;       /* of the last prompt */
    } forms[] = {
        {"{\"prompt\":\"one\"}", 1, 0, "one"},     {"{\"prompt\":[\"one\",\"two\"]}", 2, 0, "two"},
        {"{\"prompt\":[5,6,7]}", 1, 3, NULL},      {"{\"prompt\":[[5],[6,7]]}", 2, 2, NULL},
        {"{\"prompt\":\"crlf\"}\r", 1, 0, "crlf"},
    };
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        BatchLine line;
        ApiError error;
        assert_int_equal(read_text(forms[i].line, &line, &error), STATUS_OK);
        assert_string_equal(line.custom_id, "line-7");
        assert_int_equal(line.request.endpoint, API_COMPLETIONS);
        assert_int_equal(line.request.prompt_count, forms[i].prompts);
        const ApiPrompt *last = &line.request.prompts[forms[i].prompts - 1];
        assert_int_equal(last->tokens.count, forms[i].tokens);
        if (forms[i].text) assert_string_equal(last->text, forms[i].text);
        batch_line_free(&line);
    }
}

static void test_message_forms(void **state) {
    (void)state;
    BatchLine line;
    ApiError error;
    assert_int_equal(read_text("{\"custom_id\":\"\xc3\xa9\",\"messages\":[{\"role\":\"developer\","
                               "\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\","
                               "\"text\":\"b\"}],\"name\":\"x\"},{\"role\":\"user\",\"content\":"
                               "\"c\",\"tool_calls\":null}]}",
                               &line, &error),
                     STATUS_OK);
    assert_string_equal(line.custom_id, "\xc3\xa9");
    assert_int_equal(line.request.endpoint, API_CHAT);
    assert_string_equal(line.request.messages[0].role, "system");
    assert_string_equal(line.request.messages[0].content, "ab");
    assert_int_equal(line.request.messages[1].content_bytes, 1);
    batch_line_free(&line);
}

static void test_plain_lines(void **state) {
    (void)state;
    BatchLine line;
    ApiError error;
    assert_int_equal(read_bytes(" {\"a\" \r", 7, 3, BATCH_LINES, &line, &error), STATUS_OK);
    assert_string_equal(line.custom_id, "line-3");
    assert_int_equal(line.request.prompts[0].text_bytes, 6);
    assert_memory_equal(line.request.prompts[0].text, " {\"a\" ", 6);
    batch_line_free(&line);
}

static void test_served_name(void **state) {
    (void)state;
    static const char text[] = "{\"prompt\":\"a\",\"model\":\"other\"}";
    const Line line = {.text = text, .bytes = sizeof text - 1, .number = 1};
    ApiDefaults own = defaults();
    BatchLine out;
    ApiError error;
    assert_int_equal(batch_line_read(&out, &line, BATCH_JSONL, &own, &error), STATUS_OK);
    batch_line_free(&out);
    own.served_model_name = "mine";
    assert_int_equal(batch_line_read(&out, &line, BATCH_JSONL, &own, &error), STATUS_BAD_INPUT);
    assert_string_equal(error.code, "model_not_found");
    assert_string_equal(error.param, "model");
    batch_line_free(&out);
}

/* A request's own seed counts for its first sequence; all sequences of a request differ; the base seed counts else. */
static void test_seeds(void **state) {
    (void)state;
    BatchLine line;
    ApiError error;
    Request first, second, other;
    assert_int_equal(read_text("{\"prompt\":[5],\"n\":2,\"seed\":9}", &line, &error), STATUS_OK);
    api_sequence(&line.request, 0, 1, &first);
    api_sequence(&line.request, 1, 1, &second);
    api_sequence(&line.request, 1, 2, &other);
    assert_int_equal(first.sampling.seed, 9);
    assert_int_not_equal(second.sampling.seed, 9);
    assert_int_equal(second.sampling.seed, other.sampling.seed);
    batch_line_free(&line);
    assert_int_equal(read_text("{\"prompt\":[5]}", &line, &error), STATUS_OK);
    api_sequence(&line.request, 0, 77, &first);
    assert_int_equal(first.sampling.seed, 77);
    batch_line_free(&line);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused),       cmocka_unit_test(test_refused_bytes),
        cmocka_unit_test(test_depth),         cmocka_unit_test(test_too_many_stops),
        cmocka_unit_test(test_full_request),  cmocka_unit_test(test_prompt_forms),
        cmocka_unit_test(test_message_forms), cmocka_unit_test(test_plain_lines),
        cmocka_unit_test(test_served_name),   cmocka_unit_test(test_seeds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
