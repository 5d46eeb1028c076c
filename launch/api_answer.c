#include "launch/api.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "runtime/base/arena.h"

static Status no_memory(void) {
    FAIL(MEMORY, "no memory for the answer of a request");
}

Status api_answer_create(ApiAnswer *out, const ApiRequest *request, const Tokenizer *tokenizer) {
    uint32_t count = api_sequence_count(request);
    memset(out, 0, sizeof *out);
    TRY(memory_take((void **)&out->choices, count, sizeof *out->choices, "an answer"));
    out->request = request;
    out->tokenizer = tokenizer;
    out->count = count;
    return STATUS_OK;
}

void api_answer_free(ApiAnswer *answer) {
    for (uint32_t i = 0; i < answer->count; i++) {
        text_buffer_free(&answer->choices[i].text);
        token_list_free(&answer->choices[i].tokens);
        json_decref(answer->choices[i].logprobs);
    }
    free(answer->choices);
    memset(answer, 0, sizeof *answer);
}

/* ---- log probabilities ---- */

/* A token's text; bytes that are no text alone are written as "bytes:\xe2\x80", as the hosted service does. */
static json_t *token_text(const Tokenizer *tokenizer, int32_t token) {
    size_t count;
    const char *bytes = tokenizer_token_bytes(tokenizer, token, &count);
    json_t *text = json_stringn(bytes, count);
    if (text) return text;
    char escaped[512];
    size_t used = (size_t)snprintf(escaped, sizeof escaped, "bytes:");
    for (size_t i = 0; i < count && used + 5 < sizeof escaped; i++)
        used += (size_t)snprintf(escaped + used, sizeof escaped - used, "\\x%02x",
                                 (unsigned char)bytes[i]);
    return json_stringn(escaped, used);
}

/* JSON knows no infinity. */
static json_t *logprob_number(float logprob) {
    return json_real(logprob < -9999 ? -9999 : (double)logprob);
}

static json_t *byte_list(const Tokenizer *tokenizer, int32_t token) {
    size_t count;
    const char *bytes = tokenizer_token_bytes(tokenizer, token, &count);
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(list, json_integer((unsigned char)bytes[i]));
    return list;
}

static json_t *chat_logprob(const Tokenizer *tokenizer, int32_t token, float logprob) {
    return json_pack("{so so so}", "token", token_text(tokenizer, token), "logprob",
                     logprob_number(logprob), "bytes", byte_list(tokenizer, token));
}

static Status add_chat_logprob(ApiAnswer *answer, ApiChoice *choice, const TokenEvent *event) {
    if (!choice->logprobs) choice->logprobs = json_pack("{s[] sn}", "content", "refusal");
    json_t *entry = chat_logprob(answer->tokenizer, event->token, event->logprob);
    json_t *top = json_array();
    for (uint32_t i = 0; i < event->top_count; i++)
        json_array_append_new(
            top, chat_logprob(answer->tokenizer, event->top[i].token, event->top[i].logprob));
    json_object_set_new(entry, "top_logprobs", top);
    json_t *content = json_object_get(choice->logprobs, "content");
    return json_array_append_new(content, entry) == 0 ? STATUS_OK : no_memory();
}

static void set_by_token(json_t *map, const Tokenizer *tokenizer, int32_t token, float logprob) {
    json_t *text = token_text(tokenizer, token);
    json_object_set_new(map, json_string_value(text), logprob_number(logprob));
    json_decref(text);
}

/* The older shape of /v1/completions: lists side by side, and a map from text to logprob a token. */
static Status add_completion_logprob(ApiAnswer *answer, ApiChoice *choice,
                                     const TokenEvent *event) {
    if (!choice->logprobs)
        choice->logprobs = json_pack("{s[] s[] s[] s[]}", "tokens", "token_logprobs",
                                     "top_logprobs", "text_offset");
    json_t *lists = choice->logprobs, *map = json_object();
    set_by_token(map, answer->tokenizer, event->token, event->logprob);
    for (uint32_t i = 0; i < event->top_count; i++)
        set_by_token(map, answer->tokenizer, event->top[i].token, event->top[i].logprob);
    json_array_append_new(json_object_get(lists, "tokens"),
                          token_text(answer->tokenizer, event->token));
    json_array_append_new(json_object_get(lists, "token_logprobs"), logprob_number(event->logprob));
    json_array_append_new(json_object_get(lists, "top_logprobs"), map);
    return json_array_append_new(json_object_get(lists, "text_offset"),
                                 json_integer((json_int_t)choice->text_characters)) == 0
               ? STATUS_OK
               : no_memory();
}

/* ---- events ---- */

static Status add_text(ApiChoice *choice, const char *text, size_t text_bytes) {
    for (size_t i = 0; i < text_bytes; i++)
        choice->text_characters += ((unsigned char)text[i] & 0xc0) != 0x80;
    return text_bytes > 0 ? text_buffer_add(&choice->text, text, text_bytes) : STATUS_OK;
}

Status api_answer_token(ApiAnswer *answer, uint32_t index, const TokenEvent *event) {
    ApiChoice *choice = &answer->choices[index];
    if (answer->request->request.sampling.want_logprobs) {
        if (answer->request->endpoint == API_CHAT)
            TRY(add_chat_logprob(answer, choice, event));
        else
            TRY(add_completion_logprob(answer, choice, event));
    }
    return add_text(choice, event->text, event->text_bytes);
}

static void take_error(ApiAnswer *answer, const FinishEvent *event) {
    if (answer->error.code[0]) return;
    const char *code = event->error < ERROR_COUNT ? error_row(event->error)->code : "server_error";
    api_refuse(&answer->error, code, "", "%s", event->error_text ? event->error_text : "");
}

Status api_answer_finish(ApiAnswer *answer, uint32_t index, const FinishEvent *event) {
    ApiChoice *choice = &answer->choices[index];
    choice->finished = true;
    choice->reason = event->reason;
    answer->finished_count++;
    answer->cancelled |= event->reason == FINISH_CANCELLED;
    if (event->reason == FINISH_ERROR) take_error(answer, event);
    for (uint32_t i = 0; i < event->token_count; i++)
        TRY(token_list_add(&choice->tokens, event->tokens[i]));
    return add_text(choice, event->text, event->text_bytes);
}

/* ---- the body ---- */

static json_t *token_ids(const TokenList *tokens) {
    json_t *list = json_array();
    for (size_t i = 0; i < tokens->count; i++)
        json_array_append_new(list, json_integer(tokens->tokens[i]));
    return list;
}

static json_t *choice_text(const ApiChoice *choice) {
    return json_stringn(choice->text.text ? choice->text.text : "", choice->text.bytes);
}

static json_t *choice_body(const ApiAnswer *answer, uint32_t index) {
    const ApiChoice *choice = &answer->choices[index];
    const ApiRequest *request = answer->request;
    json_t *body = json_pack("{si}", "index", (int)index);
    if (request->endpoint == API_CHAT)
        json_object_set_new(
            body, "message",
            json_pack("{ss so}", "role", "assistant", "content", choice_text(choice)));
    else
        json_object_set_new(body, "text", choice_text(choice));
    json_object_set(body, "logprobs", choice->logprobs ? choice->logprobs : json_null());
    json_object_set_new(body, "finish_reason", json_string(finish_reason_name(choice->reason)));
    if (!request->return_token_ids) return body;
    if (request->endpoint == API_COMPLETIONS)
        json_object_set_new(body, "prompt_token_ids",
                            token_ids(&request->prompts[index / request->choice_count].tokens));
    json_object_set_new(body, "token_ids", token_ids(&choice->tokens));
    return body;
}

static json_t *usage_body(const ApiAnswer *answer) {
    json_int_t prompt = 0, generated = 0;
    for (size_t i = 0; i < answer->request->prompt_count; i++)
        prompt += (json_int_t)answer->request->prompts[i].tokens.count;
    for (uint32_t i = 0; i < answer->count; i++)
        generated += (json_int_t)answer->choices[i].tokens.count;
    return json_pack("{sI sI sI s{si}}", "prompt_tokens", prompt, "completion_tokens", generated,
                     "total_tokens", prompt + generated, "prompt_tokens_details", "cached_tokens",
                     0);
}

json_t *api_answer_body(const ApiAnswer *answer, const ApiIdentity *identity) {
    const ApiRequest *request = answer->request;
    bool chat = request->endpoint == API_CHAT;
    json_t *choices = json_array();
    for (uint32_t i = 0; i < answer->count; i++)
        json_array_append_new(choices, choice_body(answer, i));
    const char *model = json_string_value(json_object_get(request->body, "model"));
    json_t *body = json_pack(
        "{ss+ ss sI ss so so ss}", "id", chat ? "chatcmpl-" : "cmpl-", identity->id, "object",
        chat ? "chat.completion" : "text_completion", "created", (json_int_t)identity->created,
        "model", model ? model : identity->model, "choices", choices, "usage", usage_body(answer),
        "system_fingerprint", identity->system_fingerprint);
    if (body && chat && request->return_token_ids)
        json_object_set_new(body, "prompt_token_ids", token_ids(&request->prompts[0].tokens));
    return body;
}
