#include "runtime/text/white_space.h"

#include "runtime/text/utf8.h"

static bool is_white_space(uint32_t code_point) {
    return (code_point >= 0x09 && code_point <= 0x0D) || code_point == 0x20 || code_point == 0x85 ||
           code_point == 0xA0 || code_point == 0x1680 ||
           (code_point >= 0x2000 && code_point <= 0x200A) || code_point == 0x2028 ||
           code_point == 0x2029 || code_point == 0x202F || code_point == 0x205F ||
           code_point == 0x3000;
}

/* Bytes of the white-space character at the start of text, or 0. */
static size_t white_space_next(const char *text, size_t bytes) {
    size_t length;
    if (!bytes || utf8_next(text, bytes, &length) != UTF8_CHARACTER) return 0;
    return is_white_space(utf8_code_point(text)) ? length : 0;
}

size_t white_space_prefix(const char *text, size_t bytes) {
    size_t at = 0, length;
    while ((length = white_space_next(text + at, bytes - at)))
        at += length;
    return at;
}

size_t white_space_suffix(const char *text, size_t bytes) {
    size_t end = bytes;
    while (end) {
        size_t start = end - 1;
        while (start && end - start < 4 && (text[start] & 0xC0) == 0x80)
            start--;
        if (white_space_next(text + start, end - start) != end - start) break;
        end = start;
    }
    return bytes - end;
}
