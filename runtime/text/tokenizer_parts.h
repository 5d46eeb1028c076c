#ifndef RUNTIME_TEXT_TOKENIZER_PARTS_H
#define RUNTIME_TEXT_TOKENIZER_PARTS_H

/* What a Tokenizer is made of, for the loaders (tokenizer_gguf.c, tokenizer_json.c) that fill it:
 *
 *   text → added tokens in raw text → normalizer → added tokens in normalised text → pre-tokenizer → word model
 *   tokens → decoder
 *
 * A loader fills a zeroed Tokenizer as far as it comes; tokenizer_destroy frees what is there. */

#include "runtime/text/added_tokens.h"
#include "runtime/text/decode.h"
#include "runtime/text/normalize.h"
#include "runtime/text/pretokenize.h"
#include "runtime/text/tokenizer.h"
#include "runtime/text/vocabulary.h"
#include "runtime/text/word_model.h"

SPILLWAY_EXTERN_C_BEGIN

enum { TOKENIZER_EOS_MAX = 64, TOKENIZER_VOCAB_MAX = 16 * 1024 * 1024 };

/* What becomes of bytes that are no characters. */
typedef enum BrokenBytes {
    BROKEN_REPLACED,  /* U+FFFD, before anything else is done with the text */
    BROKEN_AS_WORDS,  /* the model takes a run of them as a word, where each has a token */
    BROKEN_AS_TOKENS, /* each becomes its "<0xHH>" token */
} BrokenBytes;

struct Tokenizer {
    Vocabulary vocabulary;
    bool *special; /* [vocabulary.count] */
    AddedTokens added;
    Normalizer normalizer;
    PreTokenizer pre_tokenizer;
    WordModel model;
    BrokenBytes broken_bytes;
    int32_t byte_token[256]; /* -1: that byte has none */
    Decoder decoder;
    TextBuffer token_text;    /* the bytes of all tokens, one behind the other */
    uint32_t *token_starts;   /* [vocabulary.count + 1] in token_text */
    TokenList prefix, suffix; /* put around a text with TOKENIZE_ADD_SPECIAL */
    int32_t bos;              /* -1: none */
    int32_t eos[TOKENIZER_EOS_MAX];
    uint32_t eos_count;
};

/* Copies the pieces and takes memory per token. 1 to TOKENIZER_VOCAB_MAX pieces. */
Status tokenizer_set_vocabulary(Tokenizer *tokenizer, const Piece *pieces, uint64_t count);

/* Whether an id is one of the vocabulary. */
bool tokenizer_has(const Tokenizer *tokenizer, int32_t token);

/* Makes a token end texts; once each, in order. E-TOKENIZER when it is no token of the vocabulary; `what` names it. */
Status tokenizer_add_eos(Tokenizer *tokenizer, int64_t token, const char *what);

/* Where every byte has a "<0xHH>" token: broken UTF-8 and characters without tokens become those. */
void tokenizer_take_byte_tokens(Tokenizer *tokenizer);

/* Where the model is on bytes: byte_token as it has them. */
void tokenizer_take_bytes_as_words(Tokenizer *tokenizer, const int32_t byte_token[256]);

/* Fill a zeroed Tokenizer from a GGUF file, from a Hugging Face folder. */
Status tokenizer_load_gguf(Tokenizer *tokenizer, const Weights *weights);
Status tokenizer_load_folder(Tokenizer *tokenizer, const Weights *weights);

/* tokenizer_create without a model folder: tokenizer.json alone, as tokenizer_load_json takes it. */
Status tokenizer_create_from_json(Tokenizer **out, const char *file, const char *text,
                                  size_t bytes);

SPILLWAY_EXTERN_C_END

#endif
