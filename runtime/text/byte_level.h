#ifndef RUNTIME_TEXT_BYTE_LEVEL_H
#define RUNTIME_TEXT_BYTE_LEVEL_H

/* GPT-2's alphabet of bytes: each byte is written in vocabulary files as one visible character (0x20 as "Ġ"). Bytes
 * that are visible in Latin-1 stand for themselves, the others follow from U+0100 on in byte order (Radford et al.,
 * GPT-2, 2019). The program works on raw bytes; these functions translate what files say. */

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

/* Writes the 1 or 2 UTF-8 bytes of the character that stands for `byte`; returns how many. */
size_t byte_level_write(uint8_t byte, char out[4]);

/* Turns a piece of a vocabulary file into the bytes that it stands for; `out` has room for `bytes`. False when a
 * character is not of the alphabet (an added token with a space in it, say). */
bool byte_level_read(const char *piece, size_t bytes, char *out, size_t *out_bytes);

SPILLWAY_EXTERN_C_END

#endif
