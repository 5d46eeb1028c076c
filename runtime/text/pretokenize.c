#include "runtime/text/pretokenize.h"

#include <stdlib.h>
#include <string.h>

/* Where a pattern cuts one word: matches and the gaps between them, in order. */
typedef struct Cut {
    size_t start, end;
    bool is_match;
} Cut;

/* Joins cuts as the behaviour says and adds what remains to *out; keeps the one cut that may still grow. */
typedef struct Joiner {
    const PreTokenizerStep *step;
    Words *out;
    size_t base; /* of the word in the text */
    Cut open;    /* start == end: none */
    bool after_match;
} Joiner;

static Status joiner_flush(Joiner *joiner) {
    size_t start = joiner->open.start, bytes = joiner->open.end - start;
    joiner->open = (Cut){0};
    return bytes ? words_add_span(joiner->out, joiner->base + start, bytes) : STATUS_OK;
}

/* Whether a cut grows the open one rather than starting another. */
static bool joins_open(const Joiner *joiner, bool is_match) {
    switch (joiner->step->behavior) {
    case SPLIT_CONTIGUOUS: return is_match == joiner->after_match;
    case SPLIT_WITH_PREVIOUS: return is_match && !joiner->after_match;
    case SPLIT_WITH_NEXT: return !is_match && joiner->after_match;
    case SPLIT_ISOLATED:
    case SPLIT_REMOVED: break;
    }
    return false;
}

static Status joiner_add(Joiner *joiner, size_t start, size_t end, bool is_match) {
    is_match = is_match != joiner->step->invert;
    bool joins = joiner->open.end > joiner->open.start && joins_open(joiner, is_match);
    joiner->after_match = is_match;
    if (joins) {
        joiner->open.end = end;
        return STATUS_OK;
    }
    TRY(joiner_flush(joiner));
    if (!(is_match && joiner->step->behavior == SPLIT_REMOVED))
        joiner->open = (Cut){start, end, is_match};
    return STATUS_OK;
}

static Status split_word(const PatternMatcher *matcher, Joiner *joiner, const char *word,
                         size_t bytes) {
    PatternWalk walk = {.matcher = matcher, .text = word, .bytes = bytes};
    size_t done = 0, from = 0, end = 0;
    Status status;
    while ((status = pattern_walk_next(&walk, &from, &end)) == STATUS_OK) {
        if (from > done) TRY(joiner_add(joiner, done, from, false));
        TRY(joiner_add(joiner, from, end, true));
        done = end;
    }
    if (status != STATUS_NOT_FOUND) return status;
    if (done < bytes) TRY(joiner_add(joiner, done, bytes, false));
    return joiner_flush(joiner);
}

static Status split_words(const PreTokenizerStep *step, const PatternMatcher *matcher,
                          const Words *words, Words *out) {
    for (size_t i = 0; i < words->span_count; i++) {
        const WordSpan *span = &words->spans[i];
        Joiner joiner = {.step = step, .out = out, .base = span->start};
        TRY(split_word(matcher, &joiner, words->text.text + span->start, span->bytes));
    }
    return STATUS_OK;
}

static Status apply_split(const PreTokenizerStep *step, Words *words, Words *out) {
    PatternMatcher matcher = {0};
    TRY(pattern_matcher_begin(&matcher, step->pattern));
    Status status = split_words(step, &matcher, words, out);
    pattern_matcher_end(&matcher);
    TextBuffer kept = out->text;
    out->text = words->text;
    words->text = kept;
    return status;
}

static bool wants_prefix(const PreTokenizerStep *step, const Words *words, const WordSpan *span) {
    const char *word = words->text.text + span->start;
    size_t bytes = strlen(step->character);
    bool has_it = span->bytes >= bytes && !memcmp(word, step->character, bytes);
    bool space_becomes_it = step->for_spaces && word[0] == ' ';
    if (has_it || space_becomes_it || (words->continues && span->start == 0)) return false;
    if (step->scheme == PREFIX_FIRST) return words->opens_text && span->start == 0;
    return step->scheme == PREFIX_ALWAYS;
}

static Status add_with_spaces_replaced(const char *word, size_t bytes, const char *character,
                                       TextBuffer *out) {
    for (const char *space; (space = memchr(word, ' ', bytes));) {
        size_t before = (size_t)(space - word);
        TRY(text_buffer_add(out, word, before));
        TRY(text_buffer_add(out, character, strlen(character)));
        word = space + 1;
        bytes -= before + 1;
    }
    return text_buffer_add(out, word, bytes);
}

static Status apply_prefix(const PreTokenizerStep *step, Words *words, Words *out) {
    for (size_t i = 0; i < words->span_count; i++) {
        const WordSpan *span = &words->spans[i];
        const char *word = words->text.text + span->start;
        size_t start = out->text.bytes;
        if (wants_prefix(step, words, span))
            TRY(text_buffer_add(&out->text, step->character, strlen(step->character)));
        if (step->for_spaces)
            TRY(add_with_spaces_replaced(word, span->bytes, step->character, &out->text));
        else
            TRY(text_buffer_add(&out->text, word, span->bytes));
        TRY(words_add_span(out, start, out->text.bytes - start));
    }
    return STATUS_OK;
}

static Status add_step(PreTokenizer *pre, PreTokenizerStep step) {
    PreTokenizerStep *grown = realloc(pre->steps, (pre->step_count + 1) * sizeof *grown);
    if (!grown) {
        pattern_destroy(step.pattern);
        free(step.character);
        FAIL(MEMORY, "no memory for a pre-tokenizer");
    }
    pre->steps = grown;
    pre->steps[pre->step_count++] = step;
    return STATUS_OK;
}

Status pre_tokenizer_add_split(PreTokenizer *pre, Pattern *pattern, SplitBehavior behavior,
                               bool invert) {
    return add_step(
        pre, (PreTokenizerStep){
                 .apply = apply_split, .pattern = pattern, .behavior = behavior, .invert = invert});
}

Status pre_tokenizer_add_expression(PreTokenizer *pre, const char *expression,
                                    SplitBehavior behavior) {
    Pattern *pattern = NULL;
    TRY(pattern_create(&pattern, expression, strlen(expression)));
    return pre_tokenizer_add_split(pre, pattern, behavior, false);
}

Status pre_tokenizer_add_prefix(PreTokenizer *pre, const char *character, bool for_spaces,
                                PrefixScheme scheme) {
    char *kept = strdup(character);
    if (!kept) FAIL(MEMORY, "no memory for a pre-tokenizer");
    return add_step(pre, (PreTokenizerStep){.apply = apply_prefix,
                                            .character = kept,
                                            .for_spaces = for_spaces,
                                            .scheme = scheme});
}

void pre_tokenizer_destroy(PreTokenizer *pre) {
    for (size_t i = 0; i < pre->step_count; i++) {
        pattern_destroy(pre->steps[i].pattern);
        free(pre->steps[i].character);
    }
    free(pre->steps);
    *pre = (PreTokenizer){0};
}

Status pre_tokenizer_apply(const PreTokenizer *pre, Words *words, Words *scratch) {
    words->span_count = 0;
    if (words->text.bytes) TRY(words_add_span(words, 0, words->text.bytes));
    for (size_t i = 0; i < pre->step_count; i++) {
        words_reset(scratch);
        scratch->opens_text = words->opens_text && words->span_count && words->spans[0].start == 0;
        scratch->continues = words->continues && words->span_count && words->spans[0].start == 0;
        TRY(pre->steps[i].apply(&pre->steps[i], words, scratch));
        words_swap(words, scratch);
    }
    return STATUS_OK;
}
