#include <stdlib.h>
#include <string.h>

#include "runtime/base/bytes.h"
#include "runtime/text/tokenizer.h"

/* Makes room for `count` elements, doubling. */
static Status list_grow(void **memory, size_t *capacity, uint64_t count, uint64_t element_bytes,
                        const char *what) {
    if (count <= *capacity) return STATUS_OK;
    uint64_t wanted = *capacity < 32 ? 64 : 2 * (uint64_t)*capacity;
    if (wanted < count) wanted = count;
    uint64_t size;
    void *grown = bytes_multiply(wanted, element_bytes, &size) && size < PTRDIFF_MAX
                      ? realloc(*memory, size)
                      : NULL;
    if (!grown)
        FAIL(MEMORY, "%s: cannot get room for %llu elements", what, (unsigned long long)wanted);
    *memory = grown;
    *capacity = wanted;
    return STATUS_OK;
}

void token_list_free(TokenList *list) {
    free(list->tokens);
    *list = (TokenList){0};
}

Status token_list_add(TokenList *list, int32_t token) {
    void *memory = list->tokens;
    TRY(list_grow(&memory, &list->capacity, (uint64_t)list->count + 1, sizeof token, "token list"));
    list->tokens = memory;
    list->tokens[list->count++] = token;
    return STATUS_OK;
}

void text_buffer_free(TextBuffer *buffer) {
    free(buffer->text);
    *buffer = (TextBuffer){0};
}

Status text_buffer_add(TextBuffer *buffer, const char *text, size_t bytes) {
    uint64_t end;
    if (!bytes_add(buffer->bytes, bytes, &end) || !bytes_add(end, 1, &end))
        FAIL(MEMORY, "text buffer: %zu more bytes do not fit", bytes);
    void *memory = buffer->text;
    TRY(list_grow(&memory, &buffer->capacity, end, 1, "text buffer"));
    buffer->text = memory;
    if (bytes) memcpy(buffer->text + buffer->bytes, text, bytes);
    buffer->bytes += bytes;
    buffer->text[buffer->bytes] = '\0';
    return STATUS_OK;
}
