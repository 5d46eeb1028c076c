/* Text to token ids and back, by the model's own tokenizer and without its numbers. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launch/command.h"
#include "launch/token_file.h"
#include "launch/whole_file.h"
#include "runtime/text/tokenizer.h"

enum { TEXT_BYTES_MAX = 1 << 30 };

/* What a command does with the tokenizer; its output goes to standard output. */
typedef Status (*TokenizerWork)(const Settings *settings, const Tokenizer *tokenizer);

static Status with_tokenizer(const Settings *settings, TokenizerWork work) {
    Weights *weights = NULL;
    Tokenizer *tokenizer = NULL;
    TRY(weights_open(&weights, settings->model));
    Status status = tokenizer_create(&tokenizer, weights);
    weights_close(weights);
    TRY(status);
    status = work(settings, tokenizer);
    tokenizer_destroy(tokenizer);
    TRY(status);
    if (fflush(stdout) || ferror(stdout)) FAIL(OUTPUT_WRITE, "writing to standard output failed");
    return STATUS_OK;
}

/* --file, or --prompt, of which "-" is standard input; free *out with free(). */
static Status read_text(const Settings *settings, char **out, size_t *out_bytes) {
    if ((settings->prompt != NULL) == (settings->file != NULL))
        FAIL(USAGE, "tokenize needs either --file or --prompt");
    if (settings->file) return whole_file_read(settings->file, TEXT_BYTES_MAX, out, out_bytes);
    if (!strcmp(settings->prompt, "-"))
        return whole_file_read(settings->prompt, TEXT_BYTES_MAX, out, out_bytes);
    *out = strdup(settings->prompt);
    if (!*out) FAIL(MEMORY, "no memory for the prompt");
    *out_bytes = strlen(settings->prompt);
    return STATUS_OK;
}

static void print_ids(const TokenList *ids) {
    putchar('[');
    for (size_t i = 0; i < ids->count; i++)
        printf("%s%d", i ? ", " : "", ids->tokens[i]);
    puts("]");
}

static Status tokenize_text(const Settings *settings, const Tokenizer *tokenizer) {
    char *text = NULL;
    size_t bytes = 0;
    TokenList ids = {0};
    TRY(read_text(settings, &text, &bytes));
    unsigned around = settings->no_bos ? 0 : TOKENIZE_ADD_SPECIAL;
    Status status = tokenizer_encode(tokenizer, text, bytes, TOKENIZE_PARSE_SPECIAL | around, &ids);
    free(text);
    if (status == STATUS_OK) print_ids(&ids);
    token_list_free(&ids);
    return status;
}

static Status detokenize_ids(const Settings *settings, const Tokenizer *tokenizer) {
    TokenList ids = {0};
    TextBuffer text = {0};
    Status status = token_file_read(settings->tokens_file, &ids);
    if (status == STATUS_OK)
        status = tokenizer_decode(tokenizer, ids.tokens, ids.count, false, &text);
    if (status == STATUS_OK && text.bytes) fwrite(text.text, 1, text.bytes, stdout);
    token_list_free(&ids);
    text_buffer_free(&text);
    return status;
}

static int tokenize(const Settings *settings) {
    return error_exit_code(with_tokenizer(settings, tokenize_text));
}

static int detokenize(const Settings *settings) {
    return error_exit_code(with_tokenizer(settings, detokenize_ids));
}

const Command command_tokenize[] = {
    {.name = "tokenize",
     .summary = "print the token ids of a text as a JSON list; special tokens in it are found",
     .positionals = "model",
     .needs = "model",
     .takes = "model file prompt no-bos",
     .run = tokenize},
    {.name = "detokenize",
     .summary = "print the text of token ids, as it is and without a line end",
     .positionals = "model",
     .needs = "model tokens-file",
     .takes = "model tokens-file",
     .run = detokenize},
    {.name = NULL},
};
