#include <string.h>

#include "runtime/text/pretokenize.h"

/* The expressions of the models' own tokenizer.json files. */
#define GPT2                  "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define CONTRACTIONS          "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
#define PUNCTUATION_AND_SPACE "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define LLAMA3                CONTRACTIONS "\\p{N}{1,3}" PUNCTUATION_AND_SPACE
#define QWEN2                 CONTRACTIONS "\\p{N}" PUNCTUATION_AND_SPACE
/* Letters by case: a run of capitals, then a run of small letters; either run may be missing. */
#define CASED_WORDS                                                                              \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|" \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|"
#define SLASHED_PUNCTUATION_AND_SPACE \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

const char pre_tokenizer_gpt2_expression[] = GPT2;

static const PreTokenizerRow rows[] = {
    {.name = "gpt-2", .expressions = {GPT2}},
    {.name = "gpt2", .expressions = {GPT2}},
    {.name = "smollm", .expressions = {"\\p{N}", GPT2}},
    {.name = "starcoder", .expressions = {"\\p{N}", GPT2}},
    {.name = "llama-bpe", .expressions = {LLAMA3}, .whole_words = true, .adds_bos = true},
    {.name = "llama3", .expressions = {LLAMA3}, .whole_words = true, .adds_bos = true},
    {.name = "llama-v3", .expressions = {LLAMA3}, .whole_words = true, .adds_bos = true},
    {.name = "qwen2", .expressions = {QWEN2}},
    {.name = "deepseek-r1-qwen", .expressions = {QWEN2}},
    {.name = "tekken",
     .expressions = {CASED_WORDS "\\p{N}" SLASHED_PUNCTUATION_AND_SPACE},
     .whole_words = true,
     .adds_bos = true},
    /* What converters wrote before the key existed was cut so. */
    {.name = "default",
     .expressions =
         {"[\\p{P}\\$\\+<=>\\^~\\|]+",
          "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)",
          "\\p{N}+", "[0-9][0-9][0-9]"}},
};

const PreTokenizerRow *pre_tokenizer_row(const char *name) {
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (!strcmp(rows[i].name, name)) return &rows[i];
    return NULL;
}
