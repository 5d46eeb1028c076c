#include "runtime/text/tokenizer_json_parts.h"

#include <stdlib.h>
#include <string.h>

#define COUNT(rows) (sizeof(rows) / sizeof((rows)[0]))

/* How deep a Sequence may stand in Sequences. */
enum { NESTING_MAX = 8 };

static Status load_nested(JsonLoad *load, const JsonPlace *place, const JsonPartRow *rows,
                          size_t row_count, const char *list_key, int depth) {
    JsonPlace type_place = json_place_member(place, "type");
    const char *type = NULL;
    TRY(json_place_text(&type_place, &type));
    if (list_key && !strcmp(type, "Sequence")) {
        JsonPlace list = json_place_member(place, list_key);
        size_t count;
        TRY(json_place_list(&list, &count));
        if (depth == NESTING_MAX) return json_place_fail(place, "sequences are nested too deep");
        for (size_t i = 0; i < count; i++) {
            JsonPlace part = json_place_element(&list, i);
            TRY(load_nested(load, &part, rows, row_count, list_key, depth + 1));
        }
        return STATUS_OK;
    }
    for (size_t i = 0; i < row_count; i++)
        if (!strcmp(rows[i].type, type)) return rows[i].load(load, place);
    return json_place_fail(place, "the type \"%.64s\" is not supported", type);
}

Status json_load_part(JsonLoad *load, const JsonPlace *place, const JsonPartRow *rows,
                      size_t row_count, const char *list_key) {
    return load_nested(load, place, rows, row_count, list_key, 0);
}

/* {"Regex": expression} or {"String": text} */
static Status read_pattern(const JsonPlace *place, Pattern **out) {
    JsonPlace pattern = json_place_member(place, "pattern");
    JsonPlace regex = json_place_member(&pattern, "Regex");
    JsonPlace literal = json_place_member(&pattern, "String");
    const char *text = NULL;
    size_t bytes = 0;
    if (literal.value) {
        TRY(json_place_string(&literal, &text, &bytes));
        if (!bytes) return json_place_fail(&literal, "the pattern is empty");
        return pattern_create_literal(out, text, bytes);
    }
    TRY(json_place_string(&regex, &text, &bytes));
    error_capture_begin();
    Status status = pattern_create(out, text, bytes);
    error_capture_end();
    if (status == STATUS_OK) return STATUS_OK;
    const char *why;
    error_last(&why);
    return json_place_fail(&regex, "%s", why);
}

/* ---- normalizers ---- */

static Status load_nfc(JsonLoad *load, const JsonPlace *place) {
    (void)place;
    return normalizer_add_unicode(&load->tokenizer->normalizer, UNICODE_NFC);
}

static Status load_nfd(JsonLoad *load, const JsonPlace *place) {
    (void)place;
    return normalizer_add_unicode(&load->tokenizer->normalizer, UNICODE_NFD);
}

static Status load_nfkc(JsonLoad *load, const JsonPlace *place) {
    (void)place;
    return normalizer_add_unicode(&load->tokenizer->normalizer, UNICODE_NFKC);
}

static Status load_nfkd(JsonLoad *load, const JsonPlace *place) {
    (void)place;
    return normalizer_add_unicode(&load->tokenizer->normalizer, UNICODE_NFKD);
}

static Status load_lowercase(JsonLoad *load, const JsonPlace *place) {
    (void)place;
    return normalizer_add_lowercase(&load->tokenizer->normalizer);
}

static Status load_strip_normalizer(JsonLoad *load, const JsonPlace *place) {
    JsonPlace left_place = json_place_member(place, "strip_left");
    JsonPlace right_place = json_place_member(place, "strip_right");
    bool left, right;
    TRY(json_place_bool(&left_place, false, &left));
    TRY(json_place_bool(&right_place, false, &right));
    return normalizer_add_strip(&load->tokenizer->normalizer, left, right);
}

static Status load_prepend(JsonLoad *load, const JsonPlace *place) {
    JsonPlace content = json_place_member(place, "prepend");
    const char *text = NULL;
    size_t bytes = 0;
    TRY(json_place_string(&content, &text, &bytes));
    return normalizer_add_prepend(&load->tokenizer->normalizer, text, bytes);
}

static Status load_replace_normalizer(JsonLoad *load, const JsonPlace *place) {
    JsonPlace content = json_place_member(place, "content");
    const char *text = NULL;
    size_t bytes = 0;
    Pattern *pattern = NULL;
    TRY(json_place_string(&content, &text, &bytes));
    TRY(read_pattern(place, &pattern));
    return normalizer_add_replace(&load->tokenizer->normalizer, pattern, text, bytes);
}

Status json_load_normalizer(JsonLoad *load, const JsonPlace *root) {
    static const JsonPartRow rows[] = {
        {"NFC", load_nfc},
        {"NFD", load_nfd},
        {"NFKC", load_nfkc},
        {"NFKD", load_nfkd},
        {"Lowercase", load_lowercase},
        {"Strip", load_strip_normalizer},
        {"Prepend", load_prepend},
        {"Replace", load_replace_normalizer},
    };
    JsonPlace place = json_place_member(root, "normalizer");
    return place.value ? json_load_part(load, &place, rows, COUNT(rows), "normalizers") : STATUS_OK;
}

/* ---- pre-tokenizers ---- */

static Status check_not_on_bytes(const JsonLoad *load, const JsonPlace *place) {
    if (load->byte_level) return json_place_fail(place, "nothing may follow ByteLevel");
    return STATUS_OK;
}

static Status read_behavior(const JsonPlace *place, SplitBehavior *out) {
    static const struct {
        const char *name;
        SplitBehavior behavior;
    } names[] = {
        {"Isolated", SPLIT_ISOLATED},        {"Removed", SPLIT_REMOVED},
        {"Contiguous", SPLIT_CONTIGUOUS},    {"MergedWithPrevious", SPLIT_WITH_PREVIOUS},
        {"MergedWithNext", SPLIT_WITH_NEXT},
    };
    JsonPlace behavior = json_place_member(place, "behavior");
    const char *name = NULL;
    TRY(json_place_text(&behavior, &name));
    for (size_t i = 0; i < COUNT(names); i++) {
        if (strcmp(names[i].name, name)) continue;
        *out = names[i].behavior;
        return STATUS_OK;
    }
    return json_place_fail(&behavior, "the behavior \"%.64s\" is not supported", name);
}

static Status load_split(JsonLoad *load, const JsonPlace *place) {
    JsonPlace invert_place = json_place_member(place, "invert");
    SplitBehavior behavior = SPLIT_ISOLATED;
    bool invert;
    Pattern *pattern = NULL;
    TRY(check_not_on_bytes(load, place));
    TRY(read_behavior(place, &behavior));
    TRY(json_place_bool(&invert_place, false, &invert));
    TRY(read_pattern(place, &pattern));
    return pre_tokenizer_add_split(&load->tokenizer->pre_tokenizer, pattern, behavior, invert);
}

static Status load_byte_level_pre(JsonLoad *load, const JsonPlace *place) {
    JsonPlace prefix_place = json_place_member(place, "add_prefix_space");
    JsonPlace regex_place = json_place_member(place, "use_regex");
    PreTokenizer *pre = &load->tokenizer->pre_tokenizer;
    bool adds_prefix, uses_regex;
    TRY(check_not_on_bytes(load, place));
    TRY(json_place_bool(&prefix_place, true, &adds_prefix));
    TRY(json_place_bool(&regex_place, true, &uses_regex));
    if (adds_prefix) TRY(pre_tokenizer_add_prefix(pre, " ", false, PREFIX_ALWAYS));
    if (uses_regex)
        TRY(pre_tokenizer_add_expression(pre, pre_tokenizer_gpt2_expression, SPLIT_ISOLATED));
    load->byte_level = true;
    return STATUS_OK;
}

static Status load_digits(JsonLoad *load, const JsonPlace *place) {
    JsonPlace individual_place = json_place_member(place, "individual_digits");
    bool individual;
    TRY(check_not_on_bytes(load, place));
    TRY(json_place_bool(&individual_place, false, &individual));
    return pre_tokenizer_add_expression(&load->tokenizer->pre_tokenizer, "\\p{N}",
                                        individual ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS);
}

static Status load_whitespace(JsonLoad *load, const JsonPlace *place) {
    TRY(check_not_on_bytes(load, place));
    const char word[] = "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200C}\\x{200D}]+|"
                        "[^\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200C}\\x{200D}\\s]+";
    Pattern *pattern = NULL;
    TRY(pattern_create(&pattern, word, sizeof word - 1));
    return pre_tokenizer_add_split(&load->tokenizer->pre_tokenizer, pattern, SPLIT_REMOVED, true);
}

static Status load_whitespace_split(JsonLoad *load, const JsonPlace *place) {
    TRY(check_not_on_bytes(load, place));
    return pre_tokenizer_add_expression(&load->tokenizer->pre_tokenizer, "\\s", SPLIT_REMOVED);
}

static Status load_punctuation(JsonLoad *load, const JsonPlace *place) {
    SplitBehavior behavior = SPLIT_ISOLATED;
    TRY(check_not_on_bytes(load, place));
    if (json_object_get(place->value, "behavior")) TRY(read_behavior(place, &behavior));
    return pre_tokenizer_add_expression(&load->tokenizer->pre_tokenizer, "[\\p{P}!-/:-@\\[-`{-~]",
                                        behavior);
}

static Status load_delimiter(JsonLoad *load, const JsonPlace *place) {
    JsonPlace delimiter = json_place_member(place, "delimiter");
    const char *text = NULL;
    size_t bytes = 0;
    Pattern *pattern = NULL;
    TRY(check_not_on_bytes(load, place));
    TRY(json_place_string(&delimiter, &text, &bytes));
    if (!bytes) return json_place_fail(&delimiter, "the delimiter is empty");
    TRY(pattern_create_literal(&pattern, text, bytes));
    return pre_tokenizer_add_split(&load->tokenizer->pre_tokenizer, pattern, SPLIT_REMOVED, false);
}

static Status read_prefix_scheme(const JsonPlace *place, PrefixScheme *out) {
    static const char *const names[] = {
        [PREFIX_NEVER] = "never", [PREFIX_FIRST] = "first", [PREFIX_ALWAYS] = "always"};
    JsonPlace scheme = json_place_member(place, "prepend_scheme");
    JsonPlace legacy = json_place_member(place, "add_prefix_space");
    bool adds;
    const char *name = "always";
    TRY(json_place_bool(&legacy, true, &adds));
    if (scheme.value) TRY(json_place_text(&scheme, &name));
    for (size_t i = 0; i < COUNT(names); i++) {
        if (strcmp(names[i], name)) continue;
        *out = adds ? (PrefixScheme)i : PREFIX_NEVER;
        return STATUS_OK;
    }
    return json_place_fail(&scheme, "the scheme \"%.64s\" is not supported", name);
}

static Status load_metaspace_pre(JsonLoad *load, const JsonPlace *place) {
    JsonPlace replacement = json_place_member(place, "replacement");
    JsonPlace split_place = json_place_member(place, "split");
    PreTokenizer *pre = &load->tokenizer->pre_tokenizer;
    PrefixScheme scheme = PREFIX_NEVER;
    const char *character = NULL;
    bool splits;
    TRY(check_not_on_bytes(load, place));
    TRY(json_place_text(&replacement, &character));
    if (!character[0]) return json_place_fail(&replacement, "a character is expected");
    TRY(read_prefix_scheme(place, &scheme));
    TRY(json_place_bool(&split_place, true, &splits));
    TRY(pre_tokenizer_add_prefix(pre, character, true, scheme));
    if (!splits) return STATUS_OK;
    Pattern *pattern = NULL;
    TRY(pattern_create_literal(&pattern, character, strlen(character)));
    return pre_tokenizer_add_split(pre, pattern, SPLIT_WITH_NEXT, false);
}

Status json_load_pre_tokenizer(JsonLoad *load, const JsonPlace *root) {
    static const JsonPartRow rows[] = {
        {"Split", load_split},
        {"ByteLevel", load_byte_level_pre},
        {"Digits", load_digits},
        {"Whitespace", load_whitespace},
        {"WhitespaceSplit", load_whitespace_split},
        {"Punctuation", load_punctuation},
        {"CharDelimiterSplit", load_delimiter},
        {"Metaspace", load_metaspace_pre},
    };
    JsonPlace place = json_place_member(root, "pre_tokenizer");
    return place.value ? json_load_part(load, &place, rows, COUNT(rows), "pretokenizers")
                       : STATUS_OK;
}

/* ---- decoders ---- */

static Status check_not_fused(const JsonLoad *load, const JsonPlace *place) {
    if (load->fused) return json_place_fail(place, "only Strip may follow Fuse");
    return STATUS_OK;
}

static Status load_byte_level_decoder(JsonLoad *load, const JsonPlace *place) {
    TRY(check_not_fused(load, place));
    if (load->tokenizer->decoder.replacement_count)
        return json_place_fail(place, "ByteLevel behind a replacement is not supported");
    load->tokenizer->decoder.byte_level = true;
    return STATUS_OK;
}

static Status load_byte_fallback(JsonLoad *load, const JsonPlace *place) {
    TRY(check_not_fused(load, place));
    load->tokenizer->decoder.byte_fallback = true;
    return STATUS_OK;
}

static Status load_fuse(JsonLoad *load, const JsonPlace *place) {
    (void)place;
    load->fused = true;
    return STATUS_OK;
}

static Status load_replace_decoder(JsonLoad *load, const JsonPlace *place) {
    JsonPlace content = json_place_member(place, "content");
    const char *text = NULL;
    Pattern *pattern = NULL;
    TRY(check_not_fused(load, place));
    TRY(json_place_text(&content, &text));
    TRY(read_pattern(place, &pattern));
    return decoder_add_replacement(&load->tokenizer->decoder, pattern, text);
}

static Status keep_text(const char *text, char **out) {
    free(*out);
    *out = strdup(text);
    if (!*out) FAIL(MEMORY, "no memory for a decoder");
    return STATUS_OK;
}

static Status load_strip_decoder(JsonLoad *load, const JsonPlace *place) {
    JsonPlace content = json_place_member(place, "content");
    JsonPlace start_place = json_place_member(place, "start");
    JsonPlace stop_place = json_place_member(place, "stop");
    Decoder *decoder = &load->tokenizer->decoder;
    const char *text = NULL;
    int64_t start = 0, stop = 0;
    TRY(json_place_text(&content, &text));
    TRY(json_place_integer(&start_place, 0, INT32_MAX, &start));
    TRY(json_place_integer(&stop_place, 0, INT32_MAX, &stop));
    if (!load->fused) return json_place_fail(place, "Strip without Fuse is not supported");
    if (start > 1 || stop > 0 || decoder->start_drops)
        return json_place_fail(place, "more than one character at the start is not supported");
    if (start == 0 || !text[0]) return STATUS_OK;
    return keep_text(text, &decoder->start_drops);
}

static Status load_metaspace_decoder(JsonLoad *load, const JsonPlace *place) {
    JsonPlace replacement = json_place_member(place, "replacement");
    Decoder *decoder = &load->tokenizer->decoder;
    PrefixScheme scheme = PREFIX_NEVER;
    const char *character = NULL;
    Pattern *pattern = NULL;
    TRY(check_not_fused(load, place));
    TRY(json_place_text(&replacement, &character));
    if (!character[0]) return json_place_fail(&replacement, "a character is expected");
    TRY(read_prefix_scheme(place, &scheme));
    TRY(pattern_create_literal(&pattern, character, strlen(character)));
    TRY(decoder_add_replacement(decoder, pattern, " "));
    return scheme == PREFIX_NEVER ? STATUS_OK : keep_text(character, &decoder->first_token_drops);
}

Status json_load_decoder(JsonLoad *load, const JsonPlace *root) {
    static const JsonPartRow rows[] = {
        {"ByteLevel", load_byte_level_decoder},
        {"ByteFallback", load_byte_fallback},
        {"Fuse", load_fuse},
        {"Replace", load_replace_decoder},
        {"Strip", load_strip_decoder},
        {"Metaspace", load_metaspace_decoder},
    };
    JsonPlace place = json_place_member(root, "decoder");
    if (!place.value)
        return json_place_fail(&place, "a tokenizer without decoder is not supported");
    return json_load_part(load, &place, rows, COUNT(rows), "decoders");
}

/* ---- post-processors: what stands around a text ---- */

static Status add_token(JsonLoad *load, const JsonPlace *place, TokenList *list) {
    int64_t id = -1;
    TRY(json_place_integer(place, 0, load->tokenizer->vocabulary.count - 1, &id));
    return token_list_add(list, (int32_t)id);
}

static Status add_template_token(JsonLoad *load, const JsonPlace *tokens, const JsonPlace *special,
                                 TokenList *list) {
    JsonPlace name_place = json_place_member(special, "id");
    const char *name = NULL;
    TRY(json_place_text(&name_place, &name));
    JsonPlace entry = json_place_member(tokens, name);
    JsonPlace ids = json_place_member(&entry, "ids");
    size_t count = 0;
    TRY(json_place_list(&ids, &count));
    for (size_t i = 0; i < count; i++) {
        JsonPlace id = json_place_element(&ids, i);
        TRY(add_token(load, &id, list));
    }
    return STATUS_OK;
}

static Status load_template(JsonLoad *load, const JsonPlace *place) {
    JsonPlace single = json_place_member(place, "single");
    JsonPlace tokens = json_place_member(place, "special_tokens");
    Tokenizer *tokenizer = load->tokenizer;
    bool behind_text = false;
    size_t count = 0;
    TRY(json_place_list(&single, &count));
    for (size_t i = 0; i < count; i++) {
        JsonPlace part = json_place_element(&single, i);
        JsonPlace special = json_place_member(&part, "SpecialToken");
        JsonPlace sequence = json_place_member(&part, "Sequence");
        if (special.value)
            TRY(add_template_token(load, &tokens, &special,
                                   behind_text ? &tokenizer->suffix : &tokenizer->prefix));
        else if (sequence.value && !behind_text)
            behind_text = true;
        else
            return json_place_fail(&part, "a special token or one sequence is expected");
    }
    return behind_text ? STATUS_OK : json_place_fail(&single, "the template has no sequence");
}

/* BERT's and RoBERTa's: "cls" in front, "sep" behind, each [piece, id]. */
static Status load_cls_sep(JsonLoad *load, const JsonPlace *place) {
    JsonPlace cls = json_place_member(place, "cls"), sep = json_place_member(place, "sep");
    JsonPlace cls_id = json_place_element(&cls, 1), sep_id = json_place_element(&sep, 1);
    TRY(add_token(load, &cls_id, &load->tokenizer->prefix));
    return add_token(load, &sep_id, &load->tokenizer->suffix);
}

/* ByteLevel as a post-processor changes offsets, not tokens. */
static Status load_nothing(JsonLoad *load, const JsonPlace *place) {
    (void)load;
    (void)place;
    return STATUS_OK;
}

Status json_load_post_processor(JsonLoad *load, const JsonPlace *root) {
    static const JsonPartRow rows[] = {
        {"TemplateProcessing", load_template},
        {"ByteLevel", load_nothing},
        {"RobertaProcessing", load_cls_sep},
        {"BertProcessing", load_cls_sep},
    };
    JsonPlace place = json_place_member(root, "post_processor");
    return place.value ? json_load_part(load, &place, rows, COUNT(rows), "processors") : STATUS_OK;
}
