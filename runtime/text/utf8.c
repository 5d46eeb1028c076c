#include "runtime/text/utf8.h"

#include <string.h>

const char utf8_replacement[] = "\xEF\xBF\xBD";

/* Length and second-byte range by lead byte; a row covers leads first..last. */
typedef struct LeadRow {
    uint8_t first, last, length, second_low, second_high;
} LeadRow;

static const LeadRow lead_rows[] = {
    {0xC2, 0xDF, 2, 0x80, 0xBF}, {0xE0, 0xE0, 3, 0xA0, 0xBF}, {0xE1, 0xEC, 3, 0x80, 0xBF},
    {0xED, 0xED, 3, 0x80, 0x9F}, {0xEE, 0xEF, 3, 0x80, 0xBF}, {0xF0, 0xF0, 4, 0x90, 0xBF},
    {0xF1, 0xF3, 4, 0x80, 0xBF}, {0xF4, 0xF4, 4, 0x80, 0x8F},
};

static const LeadRow *lead_row(uint8_t lead) {
    for (size_t i = 0; i < sizeof lead_rows / sizeof lead_rows[0]; i++)
        if (lead >= lead_rows[i].first && lead <= lead_rows[i].last) return &lead_rows[i];
    return NULL;
}

Utf8Kind utf8_next(const char *text, size_t bytes, size_t *out_bytes) {
    const uint8_t *byte = (const uint8_t *)text;
    *out_bytes = 1;
    if (byte[0] < 0x80) return UTF8_CHARACTER;
    const LeadRow *row = lead_row(byte[0]);
    if (!row) return UTF8_BROKEN;
    size_t good = 1;
    while (good < row->length && good < bytes) {
        uint8_t low = good == 1 ? row->second_low : 0x80;
        uint8_t high = good == 1 ? row->second_high : 0xBF;
        if (byte[good] < low || byte[good] > high) break;
        good++;
    }
    *out_bytes = good;
    if (good == row->length) return UTF8_CHARACTER;
    return good == bytes ? UTF8_UNFINISHED : UTF8_BROKEN;
}

/* Eight ASCII bytes at a time where the text is ASCII. */
static size_t ascii_prefix(const char *text, size_t bytes) {
    size_t at = 0;
    for (uint64_t word; bytes - at >= sizeof word; at += sizeof word) {
        memcpy(&word, text + at, sizeof word);
        if (word & 0x8080808080808080u) break;
    }
    while (at < bytes && !(text[at] & 0x80))
        at++;
    return at;
}

size_t utf8_valid_prefix(const char *text, size_t bytes) {
    size_t at = 0;
    while ((at += ascii_prefix(text + at, bytes - at)) < bytes) {
        size_t length;
        if (utf8_next(text + at, bytes - at, &length) != UTF8_CHARACTER) break;
        at += length;
    }
    return at;
}

uint32_t utf8_code_point(const char *text) {
    const uint8_t *byte = (const uint8_t *)text;
    if (byte[0] < 0x80) return byte[0];
    uint32_t tail_count = byte[0] < 0xE0 ? 1 : byte[0] < 0xF0 ? 2 : 3;
    uint32_t value = byte[0] & (0x3Fu >> tail_count);
    for (uint32_t i = 1; i <= tail_count; i++)
        value = value << 6 | (byte[i] & 0x3Fu);
    return value;
}

size_t utf8_write(uint32_t code_point, char out[4]) {
    static const uint8_t lead_marks[] = {0, 0, 0xC0, 0xE0, 0xF0};
    if (code_point < 0x80) {
        out[0] = (char)code_point;
        return 1;
    }
    size_t length = code_point < 0x800 ? 2 : code_point < 0x10000 ? 3 : 4;
    for (size_t i = length; i-- > 1; code_point >>= 6)
        out[i] = (char)(0x80u | (code_point & 0x3Fu));
    out[0] = (char)(lead_marks[length] | code_point);
    return length;
}

void utf8_repair(char *text, size_t bytes) {
    size_t at = 0;
    while ((at += utf8_valid_prefix(text + at, bytes - at)) < bytes)
        text[at++] = '?';
}
