#include "launch/whole_file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_BYTES = 1 << 16 };

static Status read_all(FILE *file, const char *path, size_t bytes_max, char **out_text,
                       size_t *out_bytes) {
    size_t capacity = FIRST_BYTES, bytes = 0;
    char *text = malloc(capacity);
    while (text) {
        bytes += fread(text + bytes, 1, capacity - 1 - bytes, file);
        if (bytes < capacity - 1 || bytes > bytes_max) break;
        char *larger = realloc(text, capacity *= 2);
        if (!larger) free(text);
        text = larger;
    }
    if (!text) FAIL(MEMORY, "no memory to read \"%s\"", path);
    if (ferror(file) || bytes > bytes_max) {
        free(text);
        if (ferror(file)) FAIL(FILE_MISSING, "\"%s\": %s", path, strerror(errno));
        FAIL(TEXT, "\"%s\" is longer than %zu bytes", path, bytes_max);
    }
    text[bytes] = 0;
    *out_text = text;
    *out_bytes = bytes;
    return STATUS_OK;
}

Status whole_file_read(const char *path, size_t bytes_max, char **out_text, size_t *out_bytes) {
    bool input = strcmp(path, "-") == 0;
    FILE *file = input ? stdin : fopen(path, "rbe");
    if (!file) FAIL(FILE_MISSING, "\"%s\": %s", path, strerror(errno));
    Status status = read_all(file, input ? "standard input" : path, bytes_max, out_text, out_bytes);
    if (!input) fclose(file);
    return status;
}
