#include "launch/token_file.h"

#include <stdlib.h>
#include <string.h>

#include "launch/whole_file.h"

static bool is_blank(char byte) {
    return byte == ' ' || byte == '\n' || byte == '\t' || byte == '\r';
}

static size_t skip_blanks(const char *text, size_t text_bytes, size_t at) {
    while (at < text_bytes && is_blank(text[at]))
        at++;
    return at;
}

static Status read_id(const char *text, size_t text_bytes, const char *name, size_t *at,
                      int32_t *out) {
    size_t start = *at;
    int64_t value = 0;
    while (*at < text_bytes && text[*at] >= '0' && text[*at] <= '9' && value <= INT32_MAX)
        value = value * 10 + (text[(*at)++] - '0');
    if (*at == start || value > INT32_MAX)
        FAIL(TEXT, "%s: byte %zu: expected a token id, a whole number below 2^31", name, start);
    *out = (int32_t)value;
    return STATUS_OK;
}

Status token_text_read(const char *text, size_t text_bytes, const char *name, TokenList *out) {
    size_t at = skip_blanks(text, text_bytes, 0), before = out->count;
    bool list = at < text_bytes && text[at] == '[';
    if (list) at = skip_blanks(text, text_bytes, at + 1);
    while (at < text_bytes && text[at] != ']') {
        int32_t token = 0;
        TRY(read_id(text, text_bytes, name, &at, &token));
        TRY(token_list_add(out, token));
        size_t end = at;
        at = skip_blanks(text, text_bytes, at);
        if (at == text_bytes || text[at] == ']') break;
        if (list && text[at] != ',') FAIL(TEXT, "%s: byte %zu: expected , or ]", name, at);
        if (list)
            at = skip_blanks(text, text_bytes, at + 1);
        else if (at == end)
            FAIL(TEXT, "%s: byte %zu: expected white space between ids", name, at);
    }
    if (list && (at == text_bytes || skip_blanks(text, text_bytes, at + 1) != text_bytes))
        FAIL(TEXT, "%s: byte %zu: the list must end with ] and nothing behind it", name, at);
    if (!list && at < text_bytes) FAIL(TEXT, "%s: byte %zu: expected a token id", name, at);
    if (out->count == before) FAIL(TEXT, "%s: no token ids", name);
    return STATUS_OK;
}

Status token_file_read(const char *path, TokenList *out) {
    char *text;
    size_t text_bytes;
    TRY(whole_file_read(path, TOKEN_FILE_BYTES_MAX, &text, &text_bytes));
    Status status = token_text_read(text, text_bytes, path, out);
    free(text);
    return status;
}
