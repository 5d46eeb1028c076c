#ifndef KERNELS_CODEC_CODE_STREAM_H
#define KERNELS_CODEC_CODE_STREAM_H

/* Codes of 2, 3, 4 or 8 bits one after the other, the first in the lowest bits of the first byte; and f16 arrays at any
 * alignment; a decoder's last step. Internal to kernels/codec. */

#include "kernels/codec.h"
#include "kernels/quant.h"
#include "runtime/base/bytes.h"

static inline uint32_t code_get(const uint8_t *bytes, uint32_t bits, uint32_t index) {
    uint64_t first = (uint64_t)index * bits;
    uint32_t shift = (uint32_t)(first % 8), two = bytes[first / 8];
    if (shift + bits > 8) two |= (uint32_t)bytes[first / 8 + 1] << 8;
    return two >> shift & ((1u << bits) - 1);
}

/* into bytes that were zero */
static inline void code_put(uint8_t *bytes, uint32_t bits, uint32_t index, uint32_t code) {
    uint64_t first = (uint64_t)index * bits;
    uint32_t shift = (uint32_t)(first % 8);
    bytes[first / 8] |= (uint8_t)(code << shift);
    if (shift + bits > 8) bytes[first / 8 + 1] |= (uint8_t)(code << shift >> 8);
}

static inline float half_get(const uint8_t *halves, uint64_t index) {
    return f16_to_f32(load_u16(halves + 2 * index));
}

static inline void half_put(uint8_t *halves, uint64_t index, uint16_t half) {
    memcpy(halves + 2 * index, &half, sizeof half);
}

enum { HALF_INFINITY = 0x7c00 };

static const float HALF_MAX = 65504.0f;

static inline float float_clamp(float x, float low, float high) {
    return x < low ? low : x > high ? high : x;
}

/* x as it is after a step of arithmetic in f16, but finite numbers beyond its range are kept */
static inline float half_round(float x) {
    uint16_t half = f32_to_f16(x);
    return (half & 0x7fff) == HALF_INFINITY ? x : f16_to_f32(half);
}

/* the nearest finite half */
static inline uint16_t half_from_float(float x) {
    return f32_to_f16(float_clamp(x, -HALF_MAX, HALF_MAX));
}

/* The decode of a codec whose numbers are rounded once, at the end: every token expanded. */
static inline void decode_expanded(const CodecHead *head, const uint8_t *bytes,
                                   uint16_t *out_halves) {
    float row[CODEC_HEAD_DIM_MAX];
    for (uint32_t token = 0; token < head->token_count; token++) {
        head->codec->expand(head, bytes, token, row);
        for (uint32_t d = 0; d < head->head_dim; d++)
            *out_halves++ = half_from_float(row[d]);
    }
}

#endif
