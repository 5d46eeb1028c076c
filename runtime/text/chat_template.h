#ifndef RUNTIME_TEXT_CHAT_TEMPLATE_H
#define RUNTIME_TEXT_CHAT_TEMPLATE_H

/* Chat messages to a prompt. A table of templates that are known: a model's own template text is recognised by what it
 * contains, and rendered by C code that gives the same text as the original Jinja does for plain messages (no tools).
 * An unknown template is refused with the flag that chooses one.
 *
 * A prompt holds the begin-of-text token where the original writes it: encode it with TOKENIZE_PARSE_SPECIAL and
 * without TOKENIZE_ADD_SPECIAL. Rows are immutable; any thread may render. */

#include <stddef.h>

#include "runtime/text/tokenizer.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct ChatMessage {
    const char *role; /* "system", "user", "assistant" */
    const char *content;
    size_t content_bytes;
} ChatMessage;

typedef struct ChatMarkup ChatMarkup; /* what a row writes around messages; private to the table */

typedef struct ChatTemplate ChatTemplate;

struct ChatTemplate {
    const char *name;    /* "chatml": --chat-template NAME */
    const char *summary; /* which models */
    /* All stand in the model's template text when it is this one, and none of those that start with '!' does; ended by NULL.
     * NULL: never recognised, only chosen by name. */
    const char *const *marks;
    const char *bos,
        *eos; /* texts of these tokens where the template writes them; NULL where it does not */
    /* Appends the prompt; errors (a role or an order of roles that the template refuses) are E-REQUEST. */
    Status (*render)(const ChatTemplate *self, const ChatMessage *messages, size_t count,
                     bool add_generation_prompt, TextBuffer *out);
    const ChatMarkup *markup;
};

extern const ChatTemplate *const chat_templates[]; /* ended by NULL */

/* The row whose marks fit a template text, or NULL. bos, eos: the texts of the model's own tokens, NULL where unknown; a row
 * that writes others does not fit. */
const ChatTemplate *chat_template_recognise(const char *text, const char *bos, const char *eos);

/* choice: NULL or "auto" recognises the template of the model (GGUF tokenizer.chat_template, chat_template.jinja,
 * tokenizer_config.json); a name takes that row; "none" joins contents. *out is NULL when "auto" meets a model without a
 * template. E-CHAT-TEMPLATE lists the names. */
Status chat_template_choose(const Weights *weights, const char *choice, const ChatTemplate **out);

SPILLWAY_EXTERN_C_END

#endif
