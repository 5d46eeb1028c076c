#ifndef RUNTIME_TEXT_TOKENIZER_H
#define RUNTIME_TEXT_TOKENIZER_H

/* Text to tokens and back, from GGUF metadata or tokenizer.json. Byte-level BPE (GPT-2, Llama-3, Qwen, SmolLM),
 * SentencePiece-style BPE and unigram with byte fallback. The model's own normaliser and pre-tokenizer pattern apply.
 *
 * A Tokenizer is immutable after create: any thread may encode and decode. A TokenStream belongs to one sequence. */

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"
#include "runtime/weights/weights.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct Tokenizer Tokenizer;

/* E-TOKENIZER names what is malformed or not supported (a pre-tokenizer, a normaliser, a model type). */
Status tokenizer_create(Tokenizer **out, const Weights *weights);
void tokenizer_destroy(Tokenizer *tokenizer);

uint32_t tokenizer_vocab_count(const Tokenizer *tokenizer);
int32_t tokenizer_bos(const Tokenizer *tokenizer); /* -1: none */
/* Ends of text, in the order of the model's files (eos, end of turn; generation_config.json's list). Never NULL. */
const int32_t *tokenizer_eos(const Tokenizer *tokenizer, uint32_t *out_count);
bool tokenizer_adds_bos(
    const Tokenizer *tokenizer); /* what encode does when asked for special tokens */
bool tokenizer_is_special(const Tokenizer *tokenizer, int32_t token);
int32_t tokenizer_find(const Tokenizer *tokenizer, const char *piece,
                       size_t piece_bytes); /* -1: no such token */

typedef struct TokenList {
    int32_t *tokens; /* owned */
    size_t count;
    size_t capacity;
} TokenList;

void token_list_free(TokenList *list);
Status token_list_add(TokenList *list, int32_t token);

typedef enum TokenizeFlags {
    TOKENIZE_ADD_SPECIAL = 1u << 0, /* bos/eos as the model's files say */
    TOKENIZE_PARSE_SPECIAL =
        1u << 1, /* "<|im_start|>" in the text becomes that token: for rendered templates; user text
                                         outside a template is encoded as letters */
} TokenizeFlags;

/* Appends to *out. Text is `bytes` long and may hold NUL; invalid UTF-8 is encoded as bytes where the vocabulary
 * can, else as U+FFFD. Linear time up to a factor of log n. */
Status tokenizer_encode(const Tokenizer *tokenizer, const char *text, size_t bytes, unsigned flags,
                        TokenList *out);

typedef struct TextBuffer {
    char *text; /* owned; NUL ended when not empty */
    size_t bytes;
    size_t capacity;
} TextBuffer;

void text_buffer_free(TextBuffer *buffer);
Status text_buffer_add(TextBuffer *buffer, const char *text, size_t bytes);

/* Appends the text of tokens, as the original decoder gives it (skip_special drops special tokens). Bytes that are no
 * UTF-8 become U+FFFD. Ids outside the vocabulary are E-TEXT. */
Status tokenizer_decode(const Tokenizer *tokenizer, const int32_t *tokens, size_t count,
                        bool skip_special, TextBuffer *out);

/* The raw bytes of one token, for logprobs ("bytes") and streaming. Borrowed; *out_bytes may be 0. */
const char *tokenizer_token_bytes(const Tokenizer *tokenizer, int32_t token, size_t *out_bytes);

/* Streaming: text comes out in whole UTF-8 characters only; bytes of an unfinished character are held back. The pieces
 * of a sequence joined with its flush equal tokenizer_decode of all its tokens. */
typedef struct TokenStream {
    const Tokenizer *tokenizer;
    bool skip_special;
    bool
        started; /* whether text came out already: leading-space rules apply to the first piece only */
    unsigned char held[16];
    uint8_t held_bytes;
} TokenStream;

void token_stream_begin(TokenStream *stream, const Tokenizer *tokenizer, bool skip_special);
Status token_stream_push(TokenStream *stream, int32_t token,
                         TextBuffer *out); /* appends what became complete */
Status token_stream_flush(TokenStream *stream,
                          TextBuffer *out); /* U+FFFD for an unfinished character */

SPILLWAY_EXTERN_C_END

#endif
