#ifndef CUDA_CODED_NUMBERS_CUH
#define CUDA_CODED_NUMBERS_CUH

/* From the bytes of a head to numbers, sixteen neighbours of a token at a time: the layouts and the arithmetic of kernels/codec, one
 * IEEE operation after the other, those of Codec.expand. A form is a struct of two functions:
 *
 *   unit(head, token, d)         codes, scale and offset of the numbers d … d + 15; d is a multiple of 16
 *   numbers(unit, out)           the sixteen
 *
 * Encoded heads are a multiple of 16 wide and begin at an even address. */

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/port.cuh"

enum { UNIT_NUMBERS = 16 };

/* The keys or the values of one KV head. */
struct CodedHead {
    const uint8_t *bytes;
    uint32_t token_count, head_dim, bits;
    bool keys;
};

template <uint32_t WORDS> struct CodedUnit {
    uint32_t words[WORDS];
    float scale, offset;
};

DEVICE uint16_t load_half(const uint8_t *bytes, uint64_t index) {
    return load_fixed(reinterpret_cast<const uint16_t *>(bytes) + index);
}

/* Four bytes at any address. */
DEVICE uint32_t load_bytes4(const uint8_t *bytes) {
    if ((uintptr_t)bytes % 4 == 0) return load_fixed(reinterpret_cast<const uint32_t *>(bytes));
    return (uint32_t)load_fixed(bytes) | (uint32_t)load_fixed(bytes + 1) << 8 |
           (uint32_t)load_fixed(bytes + 2) << 16 | (uint32_t)load_fixed(bytes + 3) << 24;
}

/* COUNT words at a multiple of their bytes from the head's begin. */
template <uint32_t COUNT>
DEVICE void unit_words(const CodedHead &head, uint32_t offset, uint32_t *out) {
    const uint8_t *bytes = head.bytes + offset;
    if ((uintptr_t)head.bytes % 16 != 0) {
        for (uint32_t i = 0; i < COUNT; i++)
            out[i] = load_bytes4(bytes + 4 * i);
    } else if (COUNT == 4) {
        words_put(load_words4(bytes), out);
    } else if (COUNT == 2) {
        Words2 two = load_words2(bytes);
        out[0] = two.x;
        out[1] = two.y;
    } else {
        out[0] = load_bytes4(bytes);
    }
}

/* Byte `index` of a word as a float, exactly, without the slow conversion; `less` is taken from it, exactly too. */
DEVICE float byte_to_float(uint32_t word, uint32_t index, float less = 0.0f) {
    return bits_to_float(byte_under(word, index, 0x4b000000u)) - (0x1p23f + less);
}

/* Raw rows of a multiple of 8 halves at 16-byte addresses; behind a row's end zeros. */
struct FormHalves {
    typedef CodedUnit<8> Unit;
    DEVICE Unit unit(const CodedHead &head, uint32_t token, uint32_t d) {
        Unit unit = {};
        const uint8_t *bytes = head.bytes + 2 * (token * head.head_dim + d);
        for (uint32_t half = 0; half < 2 && d + 8 * half < head.head_dim; half++)
            words_put(load_words4(bytes + 16 * half), unit.words + 4 * half);
        return unit;
    }
    DEVICE void numbers(const Unit &unit, float *out) {
        for (uint32_t i = 0; i < UNIT_NUMBERS; i++)
            out[i] = half_to_float((uint16_t)(unit.words[i / 2] >> i % 2 * 16));
    }
};

/* Of any width and address. */
struct FormAnyHalves {
    typedef CodedUnit<8> Unit;
    DEVICE Unit unit(const CodedHead &head, uint32_t token, uint32_t d) {
        Unit unit = {};
#pragma unroll
        for (uint32_t i = 0; i < UNIT_NUMBERS; i++)
            if (d + i < head.head_dim)
                unit.words[i / 2] |= (uint32_t)load_half(head.bytes, token * head.head_dim + d + i)
                                     << i % 2 * 16;
        return unit;
    }
    DEVICE void numbers(const Unit &unit, float *out) {
        FormHalves::numbers(unit, out);
    }
};

struct FormInt8 {
    enum { GROUP = 32 };
    typedef CodedUnit<4> Unit;
    DEVICE Unit unit(const CodedHead &head, uint32_t token, uint32_t d) {
        uint32_t groups = (head.head_dim + GROUP - 1) / GROUP;
        const uint8_t *scales = head.bytes + head.token_count * head.head_dim;
        Unit unit = {};
        unit_words<4>(head, token * head.head_dim + d, unit.words);
        unit.scale = half_to_float(load_half(scales, token * groups + d / GROUP));
        return unit;
    }
    DEVICE void numbers(const Unit &unit, float *out) {
        for (uint32_t i = 0; i < UNIT_NUMBERS; i++) /* a code and 128 is an unsigned byte */
            out[i] = unit.scale * byte_to_float(unit.words[i / 4] ^ 0x80808080u, i % 4, 128.0f);
    }
};

struct FormFp8 {
    typedef CodedUnit<4> Unit;
    /* An f16 has the same fields, wider, and another bias. */
    DEVICE float number(uint32_t code) {
        return half_to_float((uint16_t)((code & 0x80) << 8 | (code & 0x7f) << 7)) * 256.0f;
    }
    DEVICE Unit unit(const CodedHead &head, uint32_t token, uint32_t d) {
        const uint8_t *scales = head.bytes + head.token_count * head.head_dim;
        Unit unit = {};
        unit_words<4>(head, token * head.head_dim + d, unit.words);
        unit.scale = half_to_float(load_half(scales, token));
        return unit;
    }
    DEVICE void numbers(const Unit &unit, float *out) {
        for (uint32_t i = 0; i < UNIT_NUMBERS; i++)
            out[i] = unit.scale * number(unit.words[i / 4] >> 8 * (i % 4) & 0xff);
    }
};

/* The first of two codes lies in the high nibble; the scale is a reciprocal. */
struct FormInt4Group {
    enum { GROUP = 64, GROUP_BYTES = GROUP / 2 };
    typedef CodedUnit<2> Unit;
    DEVICE Unit unit(const CodedHead &head, uint32_t token, uint32_t d) {
        uint32_t groups = (head.head_dim + GROUP - 1) / GROUP, group = token * groups + d / GROUP;
        const uint8_t *scales = head.bytes + head.token_count * groups * GROUP_BYTES;
        Unit unit = {};
        unit_words<2>(head, group * GROUP_BYTES + d % GROUP / 2, unit.words);
        unit.scale = 1.0f / half_to_float(load_half(scales, 2 * group));
        unit.offset = half_to_float(load_half(scales, 2 * group + 1));
        return unit;
    }
    DEVICE void numbers(const Unit &unit, float *out) {
        for (uint32_t i = 0; i < UNIT_NUMBERS; i++) {
            uint32_t nibbles = unit.words[i / 8] >> (i % 2 ? 0 : 4) & 0x0f0f0f0fu;
            out[i] = byte_to_float(nibbles, i / 2 % 4) * unit.scale + unit.offset;
        }
    }
};

/* Groups of 32 tokens of a channel in keys (coded_tile.cuh), of 32 channels of a token in values. */
struct FormKivi {
    enum { GROUP = 32 };
    DEVICE uint32_t key_group(const CodedHead &head, uint32_t token, uint32_t d) {
        return d * (head.token_count / GROUP) + token / GROUP;
    }
    DEVICE const uint8_t *steps_of(const CodedHead &head) {
        return head.bytes + (uint64_t)head.token_count * head.head_dim * head.bits / 8;
    }
    DEVICE uint64_t group_count(const CodedHead &head) {
        return (uint64_t)head.token_count * head.head_dim / GROUP;
    }
};

/* The codes of a word, the first in its lowest bits. */
template <uint32_t BITS> DEVICE float kivi_code(uint32_t word, uint32_t index) {
    const uint32_t codes_a_byte = 8 / BITS, mask = ((1u << BITS) - 1) * 0x01010101u;
    return byte_to_float(word >> index % codes_a_byte * BITS & mask, index / codes_a_byte);
}

template <uint32_t BITS> struct FormKiviValues {
    enum { WORD_CODES = 32 / BITS };
    typedef CodedUnit<BITS / 2> Unit;
    DEVICE Unit unit(const CodedHead &head, uint32_t token, uint32_t d) {
        const uint8_t *steps = FormKivi::steps_of(head);
        const uint8_t *minima = steps + 2 * FormKivi::group_count(head);
        uint32_t group = token * (head.head_dim / FormKivi::GROUP) + d / FormKivi::GROUP;
        Unit unit = {};
        unit_words<BITS / 2>(head, (token * head.head_dim + d) * BITS / 8, unit.words);
        unit.scale = half_to_float(load_half(steps, group));
        unit.offset = half_to_float(load_half(minima, group));
        return unit;
    }
    DEVICE void numbers(const Unit &unit, float *out) {
        for (uint32_t i = 0; i < UNIT_NUMBERS; i++)
            out[i] = kivi_code<BITS>(unit.words[i / WORD_CODES], i % WORD_CODES) * unit.scale +
                     unit.offset;
    }
};

#endif
