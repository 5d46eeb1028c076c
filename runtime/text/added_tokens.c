#include "runtime/text/added_tokens.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/bytes.h"
#include "runtime/text/utf8.h"
#include "runtime/text/white_space.h"

static const char word_expression[] = "\\A[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200C}\\x{200D}]";

static Status add_token(AddedTokens *added, AddedToken token) {
    if (added->count == added->capacity) {
        size_t capacity = added->capacity ? 2 * added->capacity : 32;
        AddedToken *grown = realloc(added->tokens, capacity * sizeof *grown);
        if (!grown) FAIL(MEMORY, "no memory for %zu added tokens", capacity);
        added->tokens = grown;
        added->capacity = capacity;
    }
    added->tokens[added->count++] = token;
    return STATUS_OK;
}

Status added_tokens_add(AddedTokens *added, AddedToken token, const char *content, size_t bytes,
                        const Normalizer *normalizer) {
    if (token.single_word && !added->word)
        TRY(pattern_create(&added->word, word_expression, sizeof word_expression - 1));
    TRY(add_token(added, token));
    int32_t index = (int32_t)added->count - 1;
    if (!token.normalized) return trie_add(&added->tries[false], content, bytes, index);

    TextBuffer text = {0}, scratch = {0};
    Status status = text_buffer_add(&text, content, bytes);
    if (status == STATUS_OK) status = normalizer_apply(normalizer, false, &text, &scratch);
    if (status == STATUS_OK && text.bytes)
        status = trie_add(&added->tries[true], text.text, text.bytes, index);
    text_buffer_free(&text);
    text_buffer_free(&scratch);
    return status;
}

void added_tokens_destroy(AddedTokens *added) {
    free(added->tokens);
    trie_destroy(&added->tries[false]);
    trie_destroy(&added->tries[true]);
    pattern_destroy(added->word);
    *added = (AddedTokens){0};
}

/* Whether the character that starts at text + at belongs to words. */
static Status is_word_character(const AddedTokenWalk *walk, size_t at, bool *out) {
    const char *text = walk->text + at;
    size_t bytes;
    *out = false;
    if (at >= walk->bytes || utf8_next(text, walk->bytes - at, &bytes) != UTF8_CHARACTER)
        return STATUS_OK;
    PatternMatcher matcher = {0};
    TRY(pattern_matcher_begin(&matcher, walk->added->word));
    size_t from = 0, end = 0;
    Status status = pattern_find(&matcher, text, bytes, 0, &from, &end);
    pattern_matcher_end(&matcher);
    *out = status == STATUS_OK;
    return status == STATUS_NOT_FOUND ? STATUS_OK : status;
}

static size_t character_before(const char *text, size_t at) {
    size_t start = at - 1;
    while (start && at - start < 4 && (text[start] & 0xC0) == 0x80)
        start--;
    return start;
}

static Status stands_alone(const AddedTokenWalk *walk, size_t start, size_t end, bool *out) {
    bool before = false, behind = false;
    if (start) TRY(is_word_character(walk, character_before(walk->text, start), &before));
    TRY(is_word_character(walk, end, &behind));
    *out = !before && !behind;
    return STATUS_OK;
}

/* Whether the match of `token` in [start, end) counts. */
static Status match_counts(const AddedTokenWalk *walk, const AddedToken *token, size_t start,
                           size_t end, bool *out) {
    *out = !token->special || walk->parse_special;
    if (!*out || !token->single_word) return STATUS_OK;
    return stands_alone(walk, start, end, out);
}

/* The first token at or after walk->at, with the white space it takes; false in *out_found when there is none. */
static Status find_token(const AddedTokenWalk *walk, TextPart *out, bool *out_found) {
    const Trie *trie = &walk->added->tries[walk->normalized];
    *out_found = false;
    for (size_t at = walk->at, length; trie->edge_count && at < walk->bytes; at++) {
        int32_t index = trie_longest(trie, walk->text + at, walk->bytes - at, &length);
        if (index < 0) continue;
        const AddedToken *token = &walk->added->tokens[index];
        size_t end = at + length;
        TRY(match_counts(walk, token, at, end, out_found));
        if (!*out_found) {
            at = end - 1;
            continue;
        }
        size_t start = at;
        if (token->lstrip) start -= white_space_suffix(walk->text + walk->at, at - walk->at);
        if (token->rstrip) end += white_space_prefix(walk->text + end, walk->bytes - end);
        *out = (TextPart){.start = start, .bytes = end - start, .token = token->token};
        return STATUS_OK;
    }
    return STATUS_OK;
}

Status added_token_walk_next(AddedTokenWalk *walk, TextPart *out) {
    if (walk->has_pending) {
        *out = walk->pending;
        walk->has_pending = false;
        return STATUS_OK;
    }
    if (walk->at >= walk->bytes) return STATUS_NOT_FOUND;
    TextPart found = {.start = walk->bytes};
    bool is_found;
    TRY(find_token(walk, &found, &is_found));
    *out = (TextPart){.start = walk->at, .bytes = found.start - walk->at, .token = -1};
    walk->at = found.start + found.bytes;
    walk->pending = found;
    walk->has_pending = is_found;
    return out->bytes ? STATUS_OK : added_token_walk_next(walk, out);
}
