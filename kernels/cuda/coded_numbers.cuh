#ifndef CUDA_CODED_NUMBERS_CUH
#define CUDA_CODED_NUMBERS_CUH

/* From the bytes of a head to numbers, four neighbours of a token at a time: the layouts and the arithmetic of kernels/codec, one
 * IEEE operation after the other. A form is a struct of two functions:
 *
 *   quad(head, token, d)         codes, scales and offsets of the numbers d … d + 3; d is a multiple of 4
 *   expanded(quad, i)            one of them as attention works with it, that of Codec.expand
 *
 * Encoded heads are a multiple of 16 wide and begin at an even address. */

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/port.cuh"

/* The keys or the values of one KV head. */
struct CodedHead {
    const uint8_t *bytes;
    uint32_t token_count, head_dim, bits;
    bool keys;
};

struct CodedQuad {
    float codes[4], scales[4], offsets[4];
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

struct FormRaw {
    DEVICE CodedQuad quad(const CodedHead &head, uint32_t token, uint32_t d) {
        CodedQuad quad = {};
        for (uint32_t i = 0; i < 4 && d + i < head.head_dim; i++)
            quad.codes[i] =
                half_to_float(load_half(head.bytes, (uint64_t)token * head.head_dim + d + i));
        return quad;
    }
    DEVICE float expanded(const CodedQuad &quad, uint32_t i) { return quad.codes[i]; }
};

struct FormInt8 {
    enum { GROUP = 32 };
    DEVICE CodedQuad quad(const CodedHead &head, uint32_t token, uint32_t d) {
        uint64_t at = (uint64_t)token * head.head_dim + d;
        uint32_t groups = (head.head_dim + GROUP - 1) / GROUP, codes = load_bytes4(head.bytes + at);
        const uint8_t *scales = head.bytes + (uint64_t)head.token_count * head.head_dim;
        float scale = half_to_float(load_half(scales, (uint64_t)token * groups + d / GROUP));
        CodedQuad quad = {};
        for (uint32_t i = 0; i < 4; i++) {
            quad.codes[i] = (float)(int8_t)(codes >> 8 * i);
            quad.scales[i] = scale;
        }
        return quad;
    }
    DEVICE float expanded(const CodedQuad &quad, uint32_t i) {
        return quad.scales[i] * quad.codes[i];
    }
};

struct FormFp8 {
    /* An f16 has the same fields, wider, and another bias. */
    DEVICE float number(uint32_t code) {
        return half_to_float((uint16_t)((code & 0x80) << 8 | (code & 0x7f) << 7)) * 256.0f;
    }
    DEVICE CodedQuad quad(const CodedHead &head, uint32_t token, uint32_t d) {
        uint32_t codes = load_bytes4(head.bytes + (uint64_t)token * head.head_dim + d);
        const uint8_t *scales = head.bytes + (uint64_t)head.token_count * head.head_dim;
        float scale = half_to_float(load_half(scales, token));
        CodedQuad quad = {};
        for (uint32_t i = 0; i < 4; i++) {
            quad.codes[i] = number(codes >> 8 * i & 0xff);
            quad.scales[i] = scale;
        }
        return quad;
    }
    DEVICE float expanded(const CodedQuad &quad, uint32_t i) {
        return quad.scales[i] * quad.codes[i];
    }
};

/* The first of two codes lies in the high nibble; the scale is a reciprocal. */
struct FormInt4Group {
    enum { GROUP = 64, GROUP_BYTES = GROUP / 2 };
    DEVICE CodedQuad quad(const CodedHead &head, uint32_t token, uint32_t d) {
        uint64_t groups = (head.head_dim + GROUP - 1) / GROUP;
        uint64_t group = token * groups + d / GROUP;
        const uint8_t *codes = head.bytes + group * GROUP_BYTES + d % GROUP / 2;
        const uint8_t *scales = head.bytes + head.token_count * groups * GROUP_BYTES;
        float scale = half_to_float(load_half(scales, 2 * group));
        float offset = half_to_float(load_half(scales, 2 * group + 1));
        CodedQuad quad = {};
        for (uint32_t i = 0; i < 4; i++) {
            quad.codes[i] = (float)(codes[i / 2] >> (i % 2 ? 0 : 4) & 15);
            quad.scales[i] = scale;
            quad.offsets[i] = offset;
        }
        return quad;
    }
    DEVICE float expanded(const CodedQuad &quad, uint32_t i) {
        return quad.codes[i] * (1.0f / quad.scales[i]) + quad.offsets[i];
    }
};

/* Groups of 32 tokens of a channel in keys, of 32 channels of a token in values. */
struct FormKivi {
    enum { GROUP = 32 };
    DEVICE uint64_t group_of(const CodedHead &head, uint32_t token, uint32_t d) {
        return head.keys ? (uint64_t)d * (head.token_count / GROUP) + token / GROUP
                         : (uint64_t)token * (head.head_dim / GROUP) + d / GROUP;
    }
    DEVICE const uint8_t *steps_of(const CodedHead &head) {
        return head.bytes + (uint64_t)head.token_count * head.head_dim * head.bits / 8;
    }
    DEVICE uint64_t group_count(const CodedHead &head) {
        return (uint64_t)head.token_count * head.head_dim / GROUP;
    }
    DEVICE CodedQuad quad(const CodedHead &head, uint32_t token, uint32_t d) {
        const uint8_t *steps = steps_of(head), *minima = steps + 2 * group_count(head);
        CodedQuad quad;
        for (uint32_t i = 0; i < 4; i++) {
            uint64_t group = group_of(head, token, d + i);
            uint32_t bit = (head.keys ? token : d + i) % GROUP * head.bits;
            uint32_t word = load_bytes4(head.bytes + group * GROUP * head.bits / 8 + bit / 32 * 4);
            quad.codes[i] = (float)(word >> bit % 32 & ((1u << head.bits) - 1));
            quad.scales[i] = half_to_float(load_half(steps, group));
            quad.offsets[i] = half_to_float(load_half(minima, group));
        }
        return quad;
    }
    DEVICE float expanded(const CodedQuad &quad, uint32_t i) {
        return quad.codes[i] * quad.scales[i] + quad.offsets[i];
    }
};

#endif
