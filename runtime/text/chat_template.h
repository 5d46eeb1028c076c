#ifndef RUNTIME_TEXT_CHAT_TEMPLATE_H
#define RUNTIME_TEXT_CHAT_TEMPLATE_H

/* Chat messages to a prompt. A table of templates that are known: a model's own template text is recognised by
 * what it contains, and rendered by C code that gives the same text as the original Jinja. An unknown template is
 * refused with the flag that chooses one. */

#include <stddef.h>

#include "runtime/text/tokenizer.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct ChatMessage {
    const char *role; /* "system", "user", "assistant" */
    const char *content;
    size_t content_bytes;
} ChatMessage;

typedef struct ChatTemplate {
    const char *name;    /* "chatml": --chat-template NAME */
    const char *summary; /* which models */
    const char *const
        *marks; /* all stand in the model's template text when it is this one; ended by NULL */
    /* Appends the prompt; errors (a role that the template refuses) are E-REQUEST. */
    Status (*render)(const ChatMessage *messages, size_t count, bool add_generation_prompt,
                     TextBuffer *out);
} ChatTemplate;

extern const ChatTemplate *const chat_templates[]; /* ended by NULL */

/* choice: NULL or "auto" recognises the template of the model (GGUF tokenizer.chat_template, tokenizer_config.json,
 * chat_template.jinja); a name takes that row; "none" joins contents. E-CHAT-TEMPLATE lists the names. */
Status chat_template_choose(const Weights *weights, const char *choice, const ChatTemplate **out);

SPILLWAY_EXTERN_C_END

#endif
