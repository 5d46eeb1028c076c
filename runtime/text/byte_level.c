#include "runtime/text/byte_level.h"

#include "runtime/text/utf8.h"

static bool stands_for_itself(uint32_t byte) {
    return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xFF && byte != 0xAD);
}

/* The bytes that do not stand for themselves, in order: 0x00-0x20, 0x7F-0xA0, 0xAD. */
static uint32_t hidden_rank(uint32_t byte) {
    if (byte <= 0x20) return byte;
    return byte == 0xAD ? 67 : byte - 0x7F + 33;
}

static int hidden_byte(uint32_t rank) {
    if (rank <= 32) return (int)rank;
    if (rank <= 66) return (int)rank - 33 + 0x7F;
    return rank == 67 ? 0xAD : -1;
}

size_t byte_level_write(uint8_t byte, char out[4]) {
    return utf8_write(stands_for_itself(byte) ? byte : 0x100 + hidden_rank(byte), out);
}

bool byte_level_read(const char *piece, size_t bytes, char *out, size_t *out_bytes) {
    size_t written = 0, length;
    for (size_t at = 0; at < bytes; at += length) {
        if (utf8_next(piece + at, bytes - at, &length) != UTF8_CHARACTER) return false;
        uint32_t code_point = utf8_code_point(piece + at);
        int byte = stands_for_itself(code_point) ? (int)code_point
                   : code_point >= 0x100         ? hidden_byte(code_point - 0x100)
                                                 : -1;
        if (byte < 0) return false;
        out[written++] = (char)byte;
    }
    *out_bytes = written;
    return true;
}
