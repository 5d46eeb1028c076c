#include "launch/api.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "runtime/base/arena.h"
#include "runtime/base/hash.h"
#include "runtime/text/utf8.h"

enum { STOP_TOKENS_MAX = 64, STOP_BYTES_MAX = 1024, MESSAGES_MAX = 4096 };

const char *api_endpoint_url(ApiEndpoint endpoint) {
    static const char *const urls[API_ENDPOINT_COUNT] = {"/v1/completions", "/v1/chat/completions"};
    return urls[endpoint];
}

Status api_refuse(ApiError *error, const char *code, const char *param, const char *format, ...) {
    snprintf(error->code, sizeof error->code, "%s", code);
    snprintf(error->param, sizeof error->param, "%s", param);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->message, sizeof error->message, format, arguments);
    va_end(arguments);
    /* Names of fields are quoted and may be cut inside a character. */
    utf8_repair(error->param, strlen(error->param));
    utf8_repair(error->message, strlen(error->message));
    return STATUS_BAD_INPUT;
}

/* ---- JSON ---- */

/* Jansson's own limit is 2048 deep; brackets inside strings do not count. */
static bool is_too_deep(const char *text, size_t text_bytes) {
    int depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < text_bytes; i++) {
        char byte = text[i];
        if (in_string) {
            if (byte == '\\')
                i++;
            else if (byte == '"')
                in_string = false;
        } else if (byte == '"') {
            in_string = true;
        } else if (byte == '{' || byte == '[') {
            if (++depth > API_DEPTH_MAX) return true;
        } else if (byte == '}' || byte == ']') {
            depth--;
        }
    }
    return false;
}

Status api_parse_json(const char *text, size_t text_bytes, json_t **out, ApiError *error) {
    if (text_bytes > API_LINE_BYTES_MAX)
        return api_refuse(error, "invalid_json", "", "the text is longer than 8 MiB");
    if (is_too_deep(text, text_bytes))
        return api_refuse(error, "invalid_json", "", "nested more than %d deep", API_DEPTH_MAX);
    json_error_t where;
    json_t *value = json_loadb(text, text_bytes, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &where);
    if (!value)
        return api_refuse(error, "invalid_json", "", "not JSON at column %d: %s", where.column,
                          where.text);
    *out = value;
    return STATUS_OK;
}

/* ---- fields ---- */

typedef struct Field Field;

typedef struct Reading {
    ApiRequest *request;
    const ApiDefaults *defaults;
    ApiError *error;
} Reading;

typedef Status (*FieldReader)(Reading *reading, const Field *field, const json_t *value);

/* A field that a body may have. Rows of one name may differ by endpoint. */
struct Field {
    const char *name;
    unsigned endpoints; /* bits 1 << ApiEndpoint */
    FieldReader read;
    size_t offset;   /* in ApiRequest, for the readers of plain values */
    double min, max; /* of numbers */
};

enum { BOTH = 3, COMPLETIONS = 1 << API_COMPLETIONS, CHAT = 1 << API_CHAT };

static Status wrong(Reading *reading, const Field *field, const char *must) {
    return api_refuse(reading->error, "invalid_value", field->name, "%s %s", field->name, must);
}

static Status out_of_range(Reading *reading, const Field *field, double value) {
    return api_refuse(reading->error, "invalid_value", field->name,
                      "%s is %.10g; it may be %.10g to %.10g", field->name, value, field->min,
                      field->max);
}

static void *place_of(Reading *reading, const Field *field) {
    return (char *)reading->request + field->offset;
}

static Status read_real(Reading *reading, const Field *field, const json_t *value) {
    if (!json_is_number(value)) return wrong(reading, field, "must be a number");
    double number = json_number_value(value);
    if (!(number >= field->min && number <= field->max))
        return out_of_range(reading, field, number);
    *(float *)place_of(reading, field) = (float)number;
    return STATUS_OK;
}

static Status read_count(Reading *reading, const Field *field, const json_t *value) {
    if (!json_is_integer(value)) return wrong(reading, field, "must be a whole number");
    double number = (double)json_integer_value(value);
    if (!(number >= field->min && number <= field->max))
        return out_of_range(reading, field, number);
    *(uint32_t *)place_of(reading, field) = (uint32_t)json_integer_value(value);
    return STATUS_OK;
}

static Status read_bool(Reading *reading, const Field *field, const json_t *value) {
    if (!json_is_boolean(value)) return wrong(reading, field, "must be true or false");
    *(bool *)place_of(reading, field) = json_is_true(value);
    return STATUS_OK;
}

static Status read_max_tokens(Reading *reading, const Field *field, const json_t *value) {
    TRY(read_count(reading, field, value));
    reading->request->has_max_tokens = true;
    return STATUS_OK;
}

static Status read_seed(Reading *reading, const Field *field, const json_t *value) {
    if (!json_is_integer(value)) return wrong(reading, field, "must be a whole number");
    reading->request->seed = json_integer_value(value);
    reading->request->has_seed = true;
    return STATUS_OK;
}

static Status read_ignored(Reading *reading, const Field *field, const json_t *value) {
    (void)reading;
    (void)field;
    (void)value;
    return STATUS_OK;
}

/* Supported only in the form that changes nothing: false, {}, [] or "". */
static Status read_unsupported(Reading *reading, const Field *field, const json_t *value) {
    bool empty = json_is_false(value) || (json_is_object(value) && json_object_size(value) == 0) ||
                 (json_is_array(value) && json_array_size(value) == 0) ||
                 (json_is_string(value) && json_string_length(value) == 0);
    if (empty) return STATUS_OK;
    return api_refuse(reading->error, "unsupported_parameter", field->name,
                      "%s is not supported here", field->name);
}

static Status read_response_format(Reading *reading, const Field *field, const json_t *value) {
    const char *type = json_string_value(json_object_get(value, "type"));
    if (type && strcmp(type, "text") == 0) return STATUS_OK;
    return api_refuse(reading->error, "unsupported_parameter", field->name,
                      "%s may only be {\"type\":\"text\"}", field->name);
}

static Status read_tool_choice(Reading *reading, const Field *field, const json_t *value) {
    const char *choice = json_string_value(value);
    if (choice && (strcmp(choice, "none") == 0 || strcmp(choice, "auto") == 0)) return STATUS_OK;
    return api_refuse(reading->error, "unsupported_parameter", field->name,
                      "%s may only be \"none\" or \"auto\"", field->name);
}

static Status read_best_of(Reading *reading, const Field *field, const json_t *value) {
    if (json_is_integer(value) && json_integer_value(value) == 1) return STATUS_OK;
    return api_refuse(reading->error, "unsupported_parameter", field->name,
                      "%s may only be 1; see n", field->name);
}

static Status read_model(Reading *reading, const Field *field, const json_t *value) {
    const char *name = json_string_value(value);
    const char *served = reading->defaults->served_model_name;
    if (!name) return wrong(reading, field, "must be a string");
    if (served && strcmp(name, served) != 0)
        return api_refuse(reading->error, "model_not_found", field->name,
                          "the model \"%.100s\" is not served; it is \"%.100s\"", name, served);
    return STATUS_OK;
}

/* logprobs of /v1/completions: how many alternatives. */
static Status read_logprob_count(Reading *reading, const Field *field, const json_t *value) {
    TRY(read_count(reading, field, value));
    reading->request->request.sampling.want_logprobs = true;
    return STATUS_OK;
}

static Status add_stop(Reading *reading, const Field *field, const json_t *value) {
    Request *request = &reading->request->request;
    size_t bytes = json_string_length(value);
    if (!json_is_string(value) || bytes == 0 || bytes > STOP_BYTES_MAX)
        return wrong(reading, field, "must be strings of 1 to 1024 bytes");
    reading->request->stops[request->stop_count++] = json_string_value(value);
    return STATUS_OK;
}

static Status read_stop(Reading *reading, const Field *field, const json_t *value) {
    size_t count = json_is_array(value) ? json_array_size(value) : 1;
    if (count > REQUEST_STOPS_MAX)
        return api_refuse(reading->error, "invalid_value", field->name,
                          "%s has %zu strings; at most %d are allowed", field->name, count,
                          REQUEST_STOPS_MAX);
    reading->request->request.stop_count = 0;
    if (!json_is_array(value)) return add_stop(reading, field, value);
    for (size_t i = 0; i < count; i++)
        TRY(add_stop(reading, field, json_array_get(value, i)));
    return STATUS_OK;
}

static Status read_token(Reading *reading, const Field *field, const json_t *value, int32_t *out) {
    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        json_integer_value(value) > INT32_MAX)
        return wrong(reading, field, "must hold token ids");
    *out = (int32_t)json_integer_value(value);
    return STATUS_OK;
}

static Status read_stop_tokens(Reading *reading, const Field *field, const json_t *value) {
    Request *request = &reading->request->request;
    size_t count = json_array_size(value);
    if (!json_is_array(value) || count > STOP_TOKENS_MAX)
        return wrong(reading, field, "must be a list of at most 64 token ids");
    TRY(memory_take((void **)&reading->request->stop_tokens, count, sizeof(int32_t), "a request"));
    for (size_t i = 0; i < count; i++)
        TRY(read_token(reading, field, json_array_get(value, i),
                       &reading->request->stop_tokens[i]));
    request->stop_token_count = (uint32_t)count;
    return STATUS_OK;
}

static Status read_logit_bias(Reading *reading, const Field *field, const json_t *value) {
    SamplingOptions *sampling = &reading->request->request.sampling;
    size_t count = json_object_size(value);
    if (!json_is_object(value) || count > REQUEST_BIASES_MAX)
        return wrong(reading, field, "must map at most 1024 token ids to numbers");
    TRY(memory_take((void **)&reading->request->biases, count, sizeof(LogitBias), "a request"));
    const char *key;
    json_t *entry;
    json_object_foreach((json_t *)value, key, entry) {
        char *end;
        long token = strtol(key, &end, 10);
        double bias = json_number_value(entry);
        if (end == key || *end || token < 0 || token > INT32_MAX)
            return wrong(reading, field, "has a key that is no token id");
        if (!json_is_number(entry) || !(bias >= -100 && bias <= 100))
            return wrong(reading, field, "has a value that is not from -100 to 100");
        reading->request->biases[sampling->bias_count++] = (LogitBias){(int32_t)token, (float)bias};
    }
    return STATUS_OK;
}

/* ---- prompts ---- */

static Status take_prompts(Reading *reading, size_t count) {
    TRY(memory_take((void **)&reading->request->prompts, count, sizeof(ApiPrompt), "a request"));
    reading->request->prompt_count = count;
    return STATUS_OK;
}

static Status read_prompt_tokens(Reading *reading, const Field *field, const json_t *list,
                                 ApiPrompt *out) {
    if (json_array_size(list) == 0) return wrong(reading, field, "holds an empty list");
    for (size_t i = 0; i < json_array_size(list); i++) {
        int32_t token = 0;
        TRY(read_token(reading, field, json_array_get(list, i), &token));
        TRY(token_list_add(&out->tokens, token));
    }
    return STATUS_OK;
}

static Status read_one_prompt(Reading *reading, const Field *field, const json_t *value,
                              ApiPrompt *out) {
    if (json_is_array(value)) return read_prompt_tokens(reading, field, value, out);
    if (!json_is_string(value))
        return wrong(reading, field, "must be a string, a list of token ids, or a list of those");
    out->text = json_string_value(value);
    out->text_bytes = json_string_length(value);
    return STATUS_OK;
}

static Status read_prompt(Reading *reading, const Field *field, const json_t *value) {
    bool several = json_is_array(value) && !json_is_integer(json_array_get(value, 0));
    size_t count = several ? json_array_size(value) : 1;
    if (count == 0 || count > API_SEQUENCES_MAX)
        return wrong(reading, field, "must hold 1 to 256 prompts");
    TRY(take_prompts(reading, count));
    if (!several) return read_one_prompt(reading, field, value, &reading->request->prompts[0]);
    for (size_t i = 0; i < count; i++)
        TRY(read_one_prompt(reading, field, json_array_get(value, i),
                            &reading->request->prompts[i]));
    return STATUS_OK;
}

/* content as one string, or a list of {"type":"text","text":…} which are joined; joined texts are kept in the body. */
static Status read_content(Reading *reading, const Field *field, json_t *message) {
    json_t *content = json_object_get(message, "content");
    if (json_is_string(content)) return STATUS_OK;
    if (!json_is_array(content))
        return wrong(reading, field, "need content: a string, or a list of texts");
    TextBuffer joined = {0};
    Status status = STATUS_OK;
    for (size_t i = 0; i < json_array_size(content) && status == STATUS_OK; i++) {
        const json_t *part = json_array_get(content, i);
        const char *type = json_string_value(json_object_get(part, "type"));
        const json_t *text = json_object_get(part, "text");
        if (!type || strcmp(type, "text") != 0 || !json_is_string(text))
            status = wrong(reading, field, "may only have content of type text");
        else
            status = text_buffer_add(&joined, json_string_value(text), json_string_length(text));
    }
    if (status == STATUS_OK)
        json_object_set_new(message, "content",
                            json_stringn(joined.text ? joined.text : "", joined.bytes));
    text_buffer_free(&joined);
    return status;
}

static Status read_message(Reading *reading, const Field *field, json_t *message,
                           ChatMessage *out) {
    static const char *const ignored = "name";
    const char *key;
    json_t *value;
    if (!json_is_object(message)) return wrong(reading, field, "must be objects");
    json_object_foreach(message, key, value) {
        bool known = strcmp(key, "role") == 0 || strcmp(key, "content") == 0 ||
                     strcmp(key, ignored) == 0 || json_is_null(value);
        if (!known)
            return api_refuse(reading->error, "unsupported_parameter", field->name,
                              "messages with \"%.40s\" are not supported here", key);
    }
    out->role = json_string_value(json_object_get(message, "role"));
    if (!out->role) return wrong(reading, field, "need a role");
    if (strcmp(out->role, "developer") == 0) out->role = "system";
    TRY(read_content(reading, field, message));
    const json_t *content = json_object_get(message, "content");
    out->content = json_string_value(content);
    out->content_bytes = json_string_length(content);
    return STATUS_OK;
}

static Status read_messages(Reading *reading, const Field *field, const json_t *value) {
    size_t count = json_array_size(value);
    if (!json_is_array(value) || count == 0 || count > MESSAGES_MAX)
        return wrong(reading, field, "must be a list of 1 to 4096 messages");
    ApiRequest *request = reading->request;
    TRY(memory_take((void **)&request->messages, count, sizeof(ChatMessage), "a request"));
    request->message_count = count;
    for (size_t i = 0; i < count; i++)
        TRY(read_message(reading, field, json_array_get(value, i), &request->messages[i]));
    return take_prompts(reading, 1);
}

#define PLACE(field)    offsetof(ApiRequest, field)
#define SAMPLING(field) offsetof(ApiRequest, request.sampling.field)

static const Field fields[] = {
    {"model", BOTH, read_model, 0, 0, 0},
    {"prompt", COMPLETIONS, read_prompt, 0, 0, 0},
    {"messages", CHAT, read_messages, 0, 0, 0},
    {"max_tokens", BOTH, read_max_tokens, PLACE(max_tokens), 1, 16777216},
    /* behind max_tokens: when both are given, this one counts */
    {"max_completion_tokens", CHAT, read_max_tokens, PLACE(max_tokens), 1, 16777216},
    {"temperature", BOTH, read_real, SAMPLING(temperature), 0, 2},
    {"top_p", BOTH, read_real, SAMPLING(top_p), 1e-9, 1},
    {"top_k", BOTH, read_count, SAMPLING(top_k), 0, 1e9},
    {"min_p", BOTH, read_real, SAMPLING(min_p), 0, 1},
    {"n", BOTH, read_count, PLACE(choice_count), 1, API_CHOICES_MAX},
    {"stop", BOTH, read_stop, 0, 0, 0},
    {"seed", BOTH, read_seed, 0, 0, 0},
    {"presence_penalty", BOTH, read_real, SAMPLING(presence_penalty), -2, 2},
    {"frequency_penalty", BOTH, read_real, SAMPLING(frequency_penalty), -2, 2},
    {"repetition_penalty", BOTH, read_real, SAMPLING(repetition_penalty), 0.01, 100},
    {"logit_bias", BOTH, read_logit_bias, 0, 0, 0},
    {"logprobs", CHAT, read_bool, SAMPLING(want_logprobs), 0, 0},
    {"top_logprobs", CHAT, read_count, SAMPLING(top_logprobs), 0, SAMPLING_LOGPROBS_MAX},
    {"logprobs", COMPLETIONS, read_logprob_count, SAMPLING(top_logprobs), 0, SAMPLING_LOGPROBS_MAX},
    {"min_tokens", BOTH, read_count, PLACE(request.min_tokens), 0, 16777216},
    {"ignore_eos", BOTH, read_bool, PLACE(request.ignore_eos), 0, 0},
    {"stop_token_ids", BOTH, read_stop_tokens, 0, 0, 0},
    {"skip_special_tokens", BOTH, read_bool, PLACE(skip_special_tokens), 0, 0},
    {"return_token_ids", BOTH, read_bool, PLACE(return_token_ids), 0, 0},
    {"add_generation_prompt", CHAT, read_bool, PLACE(add_generation_prompt), 0, 0},
    {"response_format", BOTH, read_response_format, 0, 0, 0},
    {"tool_choice", CHAT, read_tool_choice, 0, 0, 0},
    {"best_of", COMPLETIONS, read_best_of, 0, 0, 0},
    {"tools", CHAT, read_unsupported, 0, 0, 0},
    {"echo", COMPLETIONS, read_unsupported, 0, 0, 0},
    {"suffix", COMPLETIONS, read_unsupported, 0, 0, 0},
    {"stream", BOTH, read_unsupported, 0, 0, 0},
    {"stream_options", BOTH, read_unsupported, 0, 0, 0},
    {"user", BOTH, read_ignored, 0, 0, 0},
    {"metadata", BOTH, read_ignored, 0, 0, 0},
    {"service_tier", BOTH, read_ignored, 0, 0, 0},
    {"store", BOTH, read_ignored, 0, 0, 0},
};

enum { FIELD_COUNT = sizeof fields / sizeof *fields };

static const Field *field_find(ApiEndpoint endpoint, const char *name) {
    for (size_t i = 0; i < FIELD_COUNT; i++)
        if (fields[i].endpoints & 1u << endpoint && strcmp(fields[i].name, name) == 0)
            return &fields[i];
    return NULL;
}

static Status check_names(Reading *reading) {
    const char *key;
    json_t *value;
    json_object_foreach(reading->request->body, key, value) {
        if (field_find(reading->request->endpoint, key)) continue;
        return api_refuse(reading->error, "unsupported_parameter", key,
                          "\"%.60s\" is no field of %s that is supported", key,
                          api_endpoint_url(reading->request->endpoint));
    }
    return STATUS_OK;
}

/* In the order of the table, so that the outcome does not depend on the order of the keys. */
static Status read_fields(Reading *reading) {
    ApiRequest *request = reading->request;
    for (size_t i = 0; i < FIELD_COUNT; i++) {
        if (!(fields[i].endpoints & 1u << request->endpoint)) continue;
        const json_t *value = json_object_get(request->body, fields[i].name);
        if (value && !json_is_null(value)) TRY(fields[i].read(reading, &fields[i], value));
    }
    return STATUS_OK;
}

static Status check_combinations(Reading *reading) {
    ApiRequest *request = reading->request;
    const SamplingOptions *sampling = &request->request.sampling;
    if (request->prompt_count == 0) {
        const char *param = request->endpoint == API_CHAT ? "messages" : "prompt";
        return api_refuse(reading->error, "missing_required_parameter", param, "%s is missing",
                          param);
    }
    if (request->choice_count * request->prompt_count > API_SEQUENCES_MAX)
        return api_refuse(reading->error, "invalid_value", "n",
                          "n times the number of prompts is %zu; at most %d are allowed",
                          request->choice_count * request->prompt_count, API_SEQUENCES_MAX);
    if (sampling->top_logprobs > 0 && !sampling->want_logprobs)
        return api_refuse(reading->error, "invalid_value", "top_logprobs",
                          "top_logprobs needs \"logprobs\": true");
    if (request->request.min_tokens > request->max_tokens)
        return api_refuse(reading->error, "invalid_value", "min_tokens",
                          "min_tokens is %u, more than the %u of max_tokens",
                          request->request.min_tokens, request->max_tokens);
    return STATUS_OK;
}

Status api_request_read(ApiRequest *out, ApiEndpoint endpoint, json_t *body,
                        const ApiDefaults *defaults, ApiError *error) {
    memset(out, 0, sizeof *out);
    if (!json_is_object(body))
        return api_refuse(error, "invalid_value", "body", "the request is no JSON object");
    out->endpoint = endpoint;
    out->body = json_incref(body);
    out->choice_count = 1;
    out->max_tokens = defaults->max_tokens;
    out->skip_special_tokens = true;
    out->add_generation_prompt = true;
    out->request.sampling = defaults->sampling;
    out->request.ignore_eos = defaults->ignore_eos;
    TRY(memory_take((void **)&out->stops, REQUEST_STOPS_MAX, sizeof *out->stops, "a request"));
    for (uint32_t i = 0; i < defaults->stop_count; i++)
        out->stops[i] = defaults->stops[i];
    out->request.stop_count = defaults->stop_count;
    Reading reading = {out, defaults, error};
    TRY(check_names(&reading));
    TRY(read_fields(&reading));
    out->request.stops = out->stops;
    out->request.stop_tokens = out->stop_tokens;
    out->request.sampling.biases = out->biases;
    out->request.keep_special = !out->skip_special_tokens;
    return check_combinations(&reading);
}

void api_request_free(ApiRequest *request) {
    for (size_t i = 0; i < request->prompt_count; i++)
        token_list_free(&request->prompts[i].tokens);
    free(request->prompts);
    free(request->messages);
    free(request->stops);
    free(request->stop_tokens);
    free(request->biases);
    json_decref(request->body);
    memset(request, 0, sizeof *request);
}

/* ---- tokens ---- */

/* An error that a lower layer raised about this request becomes its refusal. */
static Status refuse_raised(Status status, const char *param, ApiError *error) {
    const char *text;
    error_last(&text);
    if (status != STATUS_BAD_INPUT) return status;
    return api_refuse(error, "invalid_value", param, "%s", text);
}

static Status encode_chat(ApiRequest *request, const Tokenizer *tokenizer, const ChatTemplate *chat,
                          ApiError *error) {
    TextBuffer text = {0};
    error_capture_begin();
    Status status = chat->render(chat, request->messages, request->message_count,
                                 request->add_generation_prompt, &text);
    if (status == STATUS_OK)
        status = tokenizer_encode(tokenizer, text.text ? text.text : "", text.bytes,
                                  TOKENIZE_PARSE_SPECIAL, &request->prompts[0].tokens);
    error_capture_end();
    text_buffer_free(&text);
    return status == STATUS_OK ? status : refuse_raised(status, "messages", error);
}

static Status encode_text(ApiPrompt *prompt, const Tokenizer *tokenizer, ApiError *error) {
    error_capture_begin();
    Status status = tokenizer_encode(tokenizer, prompt->text, prompt->text_bytes,
                                     TOKENIZE_ADD_SPECIAL, &prompt->tokens);
    error_capture_end();
    return status == STATUS_OK ? status : refuse_raised(status, "prompt", error);
}

static Status check_vocabulary(const ApiPrompt *prompt, const Tokenizer *tokenizer,
                               ApiError *error) {
    uint32_t vocab_count = tokenizer_vocab_count(tokenizer);
    for (size_t i = 0; i < prompt->tokens.count; i++)
        if ((uint32_t)prompt->tokens.tokens[i] >= vocab_count)
            return api_refuse(error, "invalid_value", "prompt",
                              "prompt holds token %d; the vocabulary has 0 to %u",
                              prompt->tokens.tokens[i], vocab_count - 1);
    return STATUS_OK;
}

static Status check_context(ApiRequest *request, const ApiPrompt *prompt, uint32_t max_model_len,
                            ApiError *error) {
    const char *param = request->endpoint == API_CHAT ? "messages" : "prompt";
    size_t count = prompt->tokens.count;
    if (count == 0) return api_refuse(error, "invalid_value", param, "%s is empty", param);
    uint32_t asked = request->has_max_tokens ? request->max_tokens : 1;
    if (count + asked > max_model_len)
        return api_refuse(error, "context_length_exceeded",
                          count < max_model_len ? "max_tokens" : param,
                          "This model's maximum context length is %u tokens; your request has %zu "
                          "in the prompt and asks for %u",
                          max_model_len, count, asked);
    if (request->max_tokens > max_model_len - count)
        request->max_tokens = max_model_len - (uint32_t)count;
    return STATUS_OK;
}

Status api_request_tokenize(ApiRequest *request, const Tokenizer *tokenizer,
                            const ChatTemplate *chat, uint32_t max_model_len, ApiError *error) {
    if (request->endpoint == API_CHAT) {
        if (!chat)
            return api_refuse(error, "unsupported_parameter", "messages",
                              "the model has no chat template that is known; choose one with "
                              "--chat-template");
        TRY(encode_chat(request, tokenizer, chat, error));
    }
    for (size_t i = 0; i < request->prompt_count; i++) {
        ApiPrompt *prompt = &request->prompts[i];
        if (prompt->text) TRY(encode_text(prompt, tokenizer, error));
        TRY(check_vocabulary(prompt, tokenizer, error));
        TRY(check_context(request, prompt, max_model_len, error));
    }
    return STATUS_OK;
}

void api_sequence(const ApiRequest *request, uint32_t index, uint64_t base_seed, Request *out) {
    const ApiPrompt *prompt = &request->prompts[index / request->choice_count];
    uint64_t seed = request->has_seed ? (uint64_t)request->seed : base_seed;
    *out = request->request;
    out->prompt = prompt->tokens.tokens;
    out->prompt_count = (uint32_t)prompt->tokens.count;
    out->max_tokens = request->max_tokens;
    /* The first sequence has the seed itself, so that n = 1 and the first of n say the same. */
    out->sampling.seed = index == 0 ? seed : hash_xxh3(&index, sizeof index, seed);
}
