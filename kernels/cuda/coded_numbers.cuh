#ifndef CUDA_CODED_NUMBERS_CUH
#define CUDA_CODED_NUMBERS_CUH

/* From the bytes of a head to numbers, sixteen neighbours of a token at a time: the layouts and the arithmetic of kernels/codec, one
 * IEEE operation after the other, those of Codec.expand. A form is a struct of two functions:
 *
 *   unit(head, token, d)         codes, scale and offset of the numbers d … d + 15; d is a multiple of 16
 *   quad(unit, s)                four of them: 4 s … 4 s + 3
 *
 * Encoded heads are a multiple of 16 wide and begin at an even address. */

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/port.cuh"

enum { UNIT_NUMBERS = 16, UNIT_QUADS = UNIT_NUMBERS / 4 };

/* The keys or the values of one KV head. */
struct CodedHead {
    const uint8_t *bytes;
    uint32_t token_count, head_dim, bits;
    bool keys;
};

struct CodedUnit {
    uint32_t words[4];
    float scale, offset;
};

DEVICE uint16_t load_half(const uint8_t *bytes, uint64_t index) {
    return reinterpret_cast<const uint16_t *>(bytes)[index];
}

/* Four bytes at any address. */
DEVICE uint32_t load_bytes4(const uint8_t *bytes) {
    if ((uintptr_t)bytes % 4 == 0) return *reinterpret_cast<const uint32_t *>(bytes);
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 |
           (uint32_t)bytes[3] << 24;
}

/* COUNT words at a multiple of their bytes from the head's begin. */
template <uint32_t COUNT>
DEVICE void unit_words(const CodedHead &head, uint32_t offset, uint32_t *out) {
    const uint8_t *bytes = head.bytes + offset;
    if ((uintptr_t)head.bytes % 16 != 0) {
        for (uint32_t i = 0; i < COUNT; i++)
            out[i] = load_bytes4(bytes + 4 * i);
    } else if (COUNT == 4) {
        Words4 four = load_words4(bytes);
        out[0] = four.x;
        out[1] = four.y;
        out[2] = four.z;
        out[3] = four.w;
    } else if (COUNT == 2) {
        Words2 two = load_words2(bytes);
        out[0] = two.x;
        out[1] = two.y;
    } else {
        out[0] = load_bytes4(bytes);
    }
}

/* A small whole number as a float, exactly, without the slow conversion. */
DEVICE float small_to_float(uint32_t number) {
    return bits_to_float(0x4b000000u | number) - 0x1p23f;
}

/* One of four words; a choice of registers. */
DEVICE uint32_t word_of(const uint32_t *words, uint32_t index) {
    uint32_t low = index & 1 ? words[1] : words[0], high = index & 1 ? words[3] : words[2];
    return index & 2 ? high : low;
}

DEVICE Float4 quad_scaled(const float *codes, float scale) {
    return Float4{scale * codes[0], scale * codes[1], scale * codes[2], scale * codes[3]};
}

DEVICE Float4 quad_offset(const float *codes, float scale, float offset) {
    return Float4{codes[0] * scale + offset, codes[1] * scale + offset, codes[2] * scale + offset,
                  codes[3] * scale + offset};
}

struct FormInt8 {
    enum { GROUP = 32 };
    DEVICE CodedUnit unit(const CodedHead &head, uint32_t token, uint32_t d) {
        uint32_t groups = (head.head_dim + GROUP - 1) / GROUP;
        const uint8_t *scales = head.bytes + head.token_count * head.head_dim;
        CodedUnit unit = {};
        unit_words<4>(head, token * head.head_dim + d, unit.words);
        unit.scale = half_to_float(load_half(scales, token * groups + d / GROUP));
        return unit;
    }
    DEVICE Float4 quad(const CodedUnit &unit, uint32_t s) {
        uint32_t word = word_of(unit.words, s) ^ 0x80808080u; /* 128 more, as an unsigned byte */
        float codes[4];
        for (uint32_t i = 0; i < 4; i++)
            codes[i] = small_to_float(word >> 8 * i & 0xff) - 128.0f;
        return quad_scaled(codes, unit.scale);
    }
};

struct FormFp8 {
    /* An f16 has the same fields, wider, and another bias. */
    DEVICE float number(uint32_t code) {
        return half_to_float((uint16_t)((code & 0x80) << 8 | (code & 0x7f) << 7)) * 256.0f;
    }
    DEVICE CodedUnit unit(const CodedHead &head, uint32_t token, uint32_t d) {
        const uint8_t *scales = head.bytes + head.token_count * head.head_dim;
        CodedUnit unit = {};
        unit_words<4>(head, token * head.head_dim + d, unit.words);
        unit.scale = half_to_float(load_half(scales, token));
        return unit;
    }
    DEVICE Float4 quad(const CodedUnit &unit, uint32_t s) {
        uint32_t word = word_of(unit.words, s);
        float codes[4];
        for (uint32_t i = 0; i < 4; i++)
            codes[i] = number(word >> 8 * i & 0xff);
        return quad_scaled(codes, unit.scale);
    }
};

/* The first of two codes lies in the high nibble; the scale is a reciprocal. */
struct FormInt4Group {
    enum { GROUP = 64, GROUP_BYTES = GROUP / 2 };
    DEVICE CodedUnit unit(const CodedHead &head, uint32_t token, uint32_t d) {
        uint32_t groups = (head.head_dim + GROUP - 1) / GROUP, group = token * groups + d / GROUP;
        const uint8_t *scales = head.bytes + head.token_count * groups * GROUP_BYTES;
        CodedUnit unit = {};
        unit_words<2>(head, group * GROUP_BYTES + d % GROUP / 2, unit.words);
        unit.scale = 1.0f / half_to_float(load_half(scales, 2 * group));
        unit.offset = half_to_float(load_half(scales, 2 * group + 1));
        return unit;
    }
    DEVICE Float4 quad(const CodedUnit &unit, uint32_t s) {
        uint32_t two = (s & 2 ? unit.words[1] : unit.words[0]) >> s % 2 * 16;
        const float codes[4] = {small_to_float(two >> 4 & 15), small_to_float(two & 15),
                                small_to_float(two >> 12 & 15), small_to_float(two >> 8 & 15)};
        return quad_offset(codes, unit.scale, unit.offset);
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

template <uint32_t BITS> struct FormKiviValues {
    DEVICE CodedUnit unit(const CodedHead &head, uint32_t token, uint32_t d) {
        const uint8_t *steps = FormKivi::steps_of(head);
        const uint8_t *minima = steps + 2 * FormKivi::group_count(head);
        uint32_t group = token * (head.head_dim / FormKivi::GROUP) + d / FormKivi::GROUP;
        CodedUnit unit = {};
        unit_words<BITS / 2>(head, (token * head.head_dim + d) * BITS / 8, unit.words);
        unit.scale = half_to_float(load_half(steps, group));
        unit.offset = half_to_float(load_half(minima, group));
        return unit;
    }
    DEVICE Float4 quad(const CodedUnit &unit, uint32_t s) {
        uint32_t word = BITS == 4 && s & 2 ? unit.words[1] : unit.words[0];
        word >>= s % (BITS == 4 ? 2 : 4) * (4 * BITS);
        float codes[4];
        for (uint32_t i = 0; i < 4; i++)
            codes[i] = small_to_float(word >> BITS * i & ((1u << BITS) - 1));
        return quad_offset(codes, unit.scale, unit.offset);
    }
};

#endif
