#include "runtime/text/chat_template.h"

#include <string.h>
#include <time.h>

#include "runtime/text/white_space.h"

/* What a row writes. A template of turns wraps every message alike; one of instructions puts questions into brackets and
 * the system message into one of them. NULL strings write nothing. */
struct ChatMarkup {
    const char *role_open, *role_close; /* around the name of the role */
    const char *content_close;
    const char *generation;     /* opens the answer that is to come */
    const char *default_system; /* stands first where the first message is no system message */
    bool trims;                 /* white space at the ends of contents goes */
    bool
        dated; /* a system message always stands first: a knowledge date, a date, and the messages' own */
    const char *date; /* of a dated one; NULL: today */
    const char *question_open, *question_close, *answer_open;
    const char *system_open,
        *system_close;         /* inside the first question; NULL: there is no system message */
    bool opens_every_question; /* the begin-of-text token stands before each question, else once */
};

typedef struct Span {
    const char *text;
    size_t bytes;
} Span;

static Status put(TextBuffer *out, const char *text) {
    return text ? text_buffer_add(out, text, strlen(text)) : STATUS_OK;
}

static bool has_role(const ChatMessage *message, const char *role) {
    return !strcmp(message->role, role);
}

/* White space as Python's strip() sees it: Unicode's, and the four separators of ASCII. */
static bool is_separator(char byte) {
    return byte >= 0x1C && byte <= 0x1F;
}

static Span trimmed(Span span) {
    for (size_t drop; span.bytes; span.text += drop, span.bytes -= drop) {
        drop = white_space_prefix(span.text, span.bytes);
        if (!drop && is_separator(span.text[0])) drop = 1;
        if (!drop) break;
    }
    for (size_t drop; span.bytes; span.bytes -= drop) {
        drop = white_space_suffix(span.text, span.bytes);
        if (!drop && is_separator(span.text[span.bytes - 1])) drop = 1;
        if (!drop) break;
    }
    return span;
}

static Span content_of(const ChatTemplate *self, const ChatMessage *message) {
    Span content = {message->content, message->content_bytes};
    return self->markup->trims ? trimmed(content) : content;
}

static Status check_roles(const ChatTemplate *self, const ChatMessage *messages, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (!has_role(&messages[i], "system") && !has_role(&messages[i], "user") &&
            !has_role(&messages[i], "assistant"))
            FAIL(REQUEST, "message %zu: the chat template %s has no role \"%.64s\"", i, self->name,
                 messages[i].role);
    return STATUS_OK;
}

/* ---- templates of turns ---- */

static Status put_turn(const ChatTemplate *self, const char *role, Span content, TextBuffer *out) {
    const ChatMarkup *markup = self->markup;
    TRY(put(out, markup->role_open));
    TRY(put(out, role));
    TRY(put(out, markup->role_close));
    TRY(text_buffer_add(out, content.text, content.bytes));
    return put(out, markup->content_close);
}

static Status put_date(const ChatMarkup *markup, TextBuffer *out) {
    char today[32] = "";
    time_t now = time(NULL);
    struct tm local;
    if (!markup->date && localtime_r(&now, &local))
        strftime(today, sizeof today, "%d %b %Y", &local);
    TRY(put(out, "Cutting Knowledge Date: December 2023\nToday Date: "));
    TRY(put(out, markup->date ? markup->date : today));
    return put(out, "\n\n");
}

static Status put_dated_system(const ChatTemplate *self, Span content, TextBuffer *out) {
    TRY(put(out, self->markup->role_open));
    TRY(put(out, "system"));
    TRY(put(out, self->markup->role_close));
    TRY(put_date(self->markup, out));
    TRY(text_buffer_add(out, content.text, content.bytes));
    return put(out, self->markup->content_close);
}

/* What stands before the messages; *out_used: how many of them it took. */
static Status put_opening(const ChatTemplate *self, const ChatMessage *messages, size_t count,
                          size_t *out_used, TextBuffer *out) {
    const ChatMarkup *markup = self->markup;
    bool has_system = count && has_role(&messages[0], "system");
    *out_used = markup->dated && has_system;
    TRY(put(out, self->bos));
    if (markup->dated)
        return put_dated_system(self, has_system ? content_of(self, &messages[0]) : (Span){"", 0},
                                out);
    if (!markup->default_system || has_system) return STATUS_OK;
    Span content = {markup->default_system, strlen(markup->default_system)};
    return put_turn(self, "system", content, out);
}

static Status render_turns(const ChatTemplate *self, const ChatMessage *messages, size_t count,
                           bool add_generation_prompt, TextBuffer *out) {
    size_t used = 0;
    TRY(check_roles(self, messages, count));
    TRY(put_opening(self, messages, count, &used, out));
    for (size_t i = used; i < count; i++)
        TRY(put_turn(self, messages[i].role, content_of(self, &messages[i]), out));
    return add_generation_prompt ? put(out, self->markup->generation) : STATUS_OK;
}

/* ---- Qwen3: what the model thought is dropped from earlier answers ---- */

static const char think_open[] = "<think>", think_close[] = "</think>";

static Span without_ends(Span span, bool start, bool end) {
    for (; start && span.bytes && span.text[0] == '\n'; span.bytes--)
        span.text++;
    while (end && span.bytes && span.text[span.bytes - 1] == '\n')
        span.bytes--;
    return span;
}

static const char *last_of(Span span, const char *needle, size_t needle_bytes) {
    const char *found = NULL, *end = span.text + span.bytes, *at = span.text;
    while ((at = memmem(at, (size_t)(end - at), needle, needle_bytes))) {
        found = at;
        at += needle_bytes;
    }
    return found;
}

/* Cuts an answer into what stands in its first <think> … </think> and what follows its last. */
static void split_thought(Span *content, Span *out_thought) {
    const size_t open_bytes = sizeof think_open - 1, close_bytes = sizeof think_close - 1;
    const char *first = memmem(content->text, content->bytes, think_close, close_bytes);
    *out_thought = (Span){"", 0};
    if (!first) return;
    Span thought = {content->text, (size_t)(first - content->text)};
    thought = without_ends(thought, false, true);
    const char *open = last_of(thought, think_open, open_bytes);
    if (open) {
        thought.bytes -= (size_t)(open + open_bytes - thought.text);
        thought.text = open + open_bytes;
    }
    *out_thought = without_ends(thought, true, true);
    const char *rest = last_of(*content, think_close, close_bytes) + close_bytes;
    content->bytes -= (size_t)(rest - content->text);
    content->text = rest;
    *content = without_ends(*content, true, false);
}

/* The last message of the user that is no result of a tool; the last message where there is none. */
static size_t last_question(const ChatMessage *messages, size_t count) {
    static const char open[] = "<tool_response>", close[] = "</tool_response>";
    for (size_t i = count; i-- > 0;) {
        const char *content = messages[i].content;
        size_t bytes = messages[i].content_bytes;
        bool is_result = bytes >= sizeof close - 1 && !memcmp(content, open, sizeof open - 1) &&
                         !memcmp(content + bytes - (sizeof close - 1), close, sizeof close - 1);
        if (has_role(&messages[i], "user") && !is_result) return i;
    }
    return count ? count - 1 : 0;
}

static Status put_thinking_answer(const ChatTemplate *self, Span content, bool is_recent,
                                  bool is_last, TextBuffer *out) {
    Span thought;
    split_thought(&content, &thought);
    if (!is_recent || (!is_last && !thought.bytes))
        return put_turn(self, "assistant", content, out);
    content = without_ends(content, true, false);
    TRY(put(out, "<|im_start|>assistant\n<think>\n"));
    TRY(text_buffer_add(out, thought.text, thought.bytes));
    TRY(put(out, "\n</think>\n\n"));
    TRY(text_buffer_add(out, content.text, content.bytes));
    return put(out, self->markup->content_close);
}

static Status render_qwen3(const ChatTemplate *self, const ChatMessage *messages, size_t count,
                           bool add_generation_prompt, TextBuffer *out) {
    TRY(check_roles(self, messages, count));
    size_t question = last_question(messages, count);
    for (size_t i = 0; i < count; i++) {
        Span content = content_of(self, &messages[i]);
        if (has_role(&messages[i], "assistant"))
            TRY(put_thinking_answer(self, content, i > question, i + 1 == count, out));
        else
            TRY(put_turn(self, messages[i].role, content, out));
    }
    return add_generation_prompt ? put(out, self->markup->generation) : STATUS_OK;
}

/* ---- templates of instructions ---- */

static Status check_order(const ChatTemplate *self, const ChatMessage *messages, size_t count,
                          size_t first) {
    for (size_t i = first; i < count; i++) {
        const char *expected = (i - first) % 2 ? "assistant" : "user";
        if (!has_role(&messages[i], expected))
            FAIL(
                REQUEST,
                "message %zu is of role \"%.64s\"; the chat template %s takes %suser and assistant "
                "in turns",
                i, messages[i].role, self->name,
                self->markup->system_open ? "an optional system message, then " : "");
    }
    return STATUS_OK;
}

static Status put_question(const ChatTemplate *self, const ChatMessage *system,
                           const ChatMessage *message, bool is_first, TextBuffer *out) {
    const ChatMarkup *markup = self->markup;
    TextBuffer whole = {0};
    Status status = STATUS_OK;
    if (system) {
        status = put(&whole, markup->system_open);
        if (status == STATUS_OK)
            status = text_buffer_add(&whole, system->content, system->content_bytes);
        if (status == STATUS_OK) status = put(&whole, markup->system_close);
    }
    if (status == STATUS_OK)
        status = text_buffer_add(&whole, message->content, message->content_bytes);
    Span content = {whole.text, whole.bytes};
    if (markup->trims) content = trimmed(content);
    if (status == STATUS_OK && (is_first || markup->opens_every_question))
        status = put(out, self->bos);
    if (status == STATUS_OK) status = put(out, markup->question_open);
    if (status == STATUS_OK) status = text_buffer_add(out, content.text, content.bytes);
    text_buffer_free(&whole);
    TRY(status);
    return put(out, markup->question_close);
}

static Status put_answer(const ChatTemplate *self, const ChatMessage *message, TextBuffer *out) {
    Span content = content_of(self, message);
    TRY(put(out, self->markup->answer_open));
    TRY(text_buffer_add(out, content.text, content.bytes));
    return put(out, self->markup->content_close);
}

static Status render_instructions(const ChatTemplate *self, const ChatMessage *messages,
                                  size_t count, bool add_generation_prompt, TextBuffer *out) {
    (void)add_generation_prompt; /* the end of a question is where an answer starts */
    bool has_system = self->markup->system_open && count && has_role(&messages[0], "system");
    size_t first = has_system;
    TRY(check_order(self, messages, count, first));
    if (!self->markup->opens_every_question && count == first) return put(out, self->bos);
    for (size_t i = first; i < count; i++) {
        bool is_first = i == first;
        if (has_role(&messages[i], "assistant"))
            TRY(put_answer(self, &messages[i], out));
        else
            TRY(put_question(self, is_first && has_system ? &messages[0] : NULL, &messages[i],
                             is_first, out));
    }
    return STATUS_OK;
}

/* ---- no template ---- */

static Status render_none(const ChatTemplate *self, const ChatMessage *messages, size_t count,
                          bool add_generation_prompt, TextBuffer *out) {
    (void)self;
    (void)add_generation_prompt;
    for (size_t i = 0; i < count; i++)
        TRY(text_buffer_add(out, messages[i].content, messages[i].content_bytes));
    return STATUS_OK;
}

/* ---- the table ---- */

#define CHATML_MARKUP                                                                 \
    .role_open = "<|im_start|>", .role_close = "\n", .content_close = "<|im_end|>\n", \
    .generation = "<|im_start|>assistant\n"
#define LLAMA3_MARKUP                                                          \
    .role_open = "<|start_header_id|>", .role_close = "<|end_header_id|>\n\n", \
    .content_close = "<|eot_id|>", .trims = true,                              \
    .generation = "<|start_header_id|>assistant<|end_header_id|>\n\n"
#define MARKS(...) ((const char *const[]){__VA_ARGS__, NULL})

static const ChatTemplate smollm2 = {
    .name = "smollm2",
    .summary = "SmolLM2-Instruct",
    .marks = MARKS("<|im_start|>",
                   "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>",
                   "!tools"),
    .render = render_turns,
    .markup =
        &(const ChatMarkup){
            CHATML_MARKUP,
            .default_system =
                "You are a helpful AI assistant named SmolLM, trained by Hugging Face"},
};

static const ChatTemplate qwen2 = {
    .name = "qwen2",
    .summary = "Qwen2-Instruct",
    .marks =
        MARKS("<|im_start|>", "You are a helpful assistant.<|im_end|>", "!You are Qwen", "!tools"),
    .render = render_turns,
    .markup = &(const ChatMarkup){CHATML_MARKUP, .default_system = "You are a helpful assistant."},
};

static const ChatTemplate qwen25 = {
    .name = "qwen2.5",
    .summary = "Qwen2.5-Instruct",
    .marks = MARKS("<|im_start|>",
                   "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>",
                   "!<think>"),
    .render = render_turns,
    .markup = &(const ChatMarkup){CHATML_MARKUP, .default_system =
                                                     "You are Qwen, created by Alibaba Cloud. You "
                                                     "are a helpful assistant."},
};

static const ChatTemplate qwen3 = {
    .name = "qwen3",
    .summary = "Qwen3; earlier thoughts are left out",
    .marks = MARKS("<|im_start|>", "<think>", "last_query_index", "enable_thinking is false"),
    .render = render_qwen3,
    .markup = &(const ChatMarkup){CHATML_MARKUP},
};

static const ChatTemplate chatml = {
    .name = "chatml",
    .summary = "ChatML without a default system message",
    .marks = MARKS("<|im_start|>", "<|im_end|>", "add_generation_prompt", "!You are", "!system",
                   "!tools", "!<think>", "!bos_token", "!trim", "!strip", "!<|im_sep|>"),
    .render = render_turns,
    .markup = &(const ChatMarkup){CHATML_MARKUP},
};

static const ChatTemplate llama3 = {
    .name = "llama3",
    .summary = "Llama-3-Instruct",
    .marks = MARKS("<|start_header_id|>", "<|eot_id|>", "trim", "add_generation_prompt",
                   "!Cutting Knowledge Date", "!tools", "!You are"),
    .bos = "<|begin_of_text|>",
    .render = render_turns,
    .markup = &(const ChatMarkup){LLAMA3_MARKUP},
};

static const ChatTemplate llama31 = {
    .name = "llama3.1",
    .summary = "Llama-3.1-Instruct, with the template's own date",
    .marks = MARKS("<|start_header_id|>", "Cutting Knowledge Date: December 2023", "26 Jul 2024",
                   "{#- This block extracts the system message", "!strftime_now", "!{# "),
    .bos = "<|begin_of_text|>",
    .render = render_turns,
    .markup = &(const ChatMarkup){LLAMA3_MARKUP, .dated = true, .date = "26 Jul 2024"},
};

static const ChatTemplate llama32 = {
    .name = "llama3.2",
    .summary = "Llama-3.2-Instruct, with today's date",
    .marks =
        MARKS("<|start_header_id|>", "Cutting Knowledge Date: December 2023",
              "strftime_now(\"%d %b %Y\")", "{#- This block extracts the system message", "!{# "),
    .bos = "<|begin_of_text|>",
    .render = render_turns,
    .markup = &(const ChatMarkup){LLAMA3_MARKUP, .dated = true},
};

static const ChatTemplate llama2 = {
    .name = "llama2",
    .summary = "Llama-2-Chat",
    .marks = MARKS("[INST] ", " [/INST]", "<<SYS>>", "bos_token + '[INST] '", "strip()",
                   "system_message = false", "!You are"),
    .bos = "<s>",
    .eos = "</s>",
    .render = render_instructions,
    .markup = &(const ChatMarkup){.question_open = "[INST] ",
                                  .question_close = " [/INST]",
                                  .answer_open = " ",
                                  .content_close = " </s>",
                                  .system_open = "<<SYS>>\n",
                                  .system_close = "\n<</SYS>>\n\n",
                                  .opens_every_question = true,
                                  .trims = true},
};

static const ChatTemplate mistral = {
    .name = "mistral",
    .summary = "Mistral-7B-Instruct-v0.2, without system messages",
    .marks = MARKS("'[INST] ' + message['content'] + ' [/INST]'", "message['content'] + eos_token}",
                   "!<<SYS>>", "!system", "!' ' + message"),
    .bos = "<s>",
    .eos = "</s>",
    .render = render_instructions,
    .markup = &(const ChatMarkup){.question_open = "[INST] ",
                                  .question_close = " [/INST]",
                                  .content_close = "</s>"},
};

static const ChatTemplate zephyr = {
    .name = "zephyr",
    .summary = "Zephyr-7B, TinyLlama-Chat",
    .marks = MARKS("<|user|>", "<|system|>", "<|assistant|>", "eos_token", "!<|end|>", "!tools",
                   "!bos_token", "!You are"),
    .eos = "</s>",
    .render = render_turns,
    .markup = &(const ChatMarkup){.role_open = "<|",
                                  .role_close = "|>\n",
                                  .content_close = "</s>\n",
                                  .generation = "<|assistant|>\n"},
};

static const ChatTemplate none = {
    .name = "none",
    .summary = "the contents of all messages, one behind the other",
    .render = render_none,
};

const ChatTemplate *const chat_templates[] = {
    &smollm2, &qwen2,  &qwen25,  &qwen3,  &chatml, &llama3, &llama31,
    &llama32, &llama2, &mistral, &zephyr, &none,   NULL,
};
