#ifndef RUNTIME_TEXT_PRETOKENIZE_H
#define RUNTIME_TEXT_PRETOKENIZE_H

/* Cuts normalised text into the words that the model encodes: a list of steps, each of which cuts every word that the
 * one before left, or puts something in front of it. Immutable once built. */

#include <stddef.h>

#include "runtime/text/pattern.h"
#include "runtime/text/words.h"

SPILLWAY_EXTERN_C_BEGIN

/* What a cut does with the matches of its pattern (the names of tokenizer.json). */
typedef enum SplitBehavior {
    SPLIT_ISOLATED,      /* matches and gaps are words */
    SPLIT_REMOVED,       /* gaps are words, matches are dropped */
    SPLIT_CONTIGUOUS,    /* neighbouring matches are one word */
    SPLIT_WITH_PREVIOUS, /* a match ends the gap before it */
    SPLIT_WITH_NEXT,     /* a match starts the gap behind it */
} SplitBehavior;

typedef enum PrefixScheme {
    PREFIX_NEVER,
    PREFIX_FIRST,  /* only where the whole input starts */
    PREFIX_ALWAYS, /* every word that the step gets */
} PrefixScheme;

typedef struct PreTokenizerStep PreTokenizerStep;

struct PreTokenizerStep {
    /* From words to *out, which is empty and takes the place of words afterwards. */
    Status (*apply)(const PreTokenizerStep *step, Words *words, Words *out);
    Pattern *pattern; /* owned; NULL for a step that rewrites */
    SplitBehavior behavior;
    bool invert;     /* matches and gaps change places */
    char *character; /* owned, NUL ended: put in front of a word that does not start with it */
    bool for_spaces; /* and put in the place of each space */
    PrefixScheme scheme;
};

typedef struct PreTokenizer {
    PreTokenizerStep *steps;
    size_t step_count;
} PreTokenizer;

/* Takes the pattern, also on failure. */
Status pre_tokenizer_add_split(PreTokenizer *pre, Pattern *pattern, SplitBehavior behavior,
                               bool invert);
/* The expression is the program's own. */
Status pre_tokenizer_add_expression(PreTokenizer *pre, const char *expression,
                                    SplitBehavior behavior);
/* Puts `character` (UTF-8, NUL ended) in front by the scheme, and with for_spaces in the place of spaces. */
Status pre_tokenizer_add_prefix(PreTokenizer *pre, const char *character, bool for_spaces,
                                PrefixScheme scheme);
void pre_tokenizer_destroy(PreTokenizer *pre);

/* Cuts words->text, all of it, into words->spans. `scratch` is spent. */
Status pre_tokenizer_apply(const PreTokenizer *pre, Words *words, Words *scratch);

/* The cuts that GGUF files name in tokenizer.ggml.pre. */
typedef struct PreTokenizerRow {
    const char *name;
    const char *expressions[5]; /* isolated one after the other; ended by NULL */
    bool whole_words;           /* a word that is a token stays one, whatever merges say */
    bool adds_bos;              /* when the file does not say */
} PreTokenizerRow;

const PreTokenizerRow *pre_tokenizer_row(const char *name); /* or NULL */

extern const char pre_tokenizer_gpt2_expression[];

SPILLWAY_EXTERN_C_END

#endif
