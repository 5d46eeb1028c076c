/* fp8 e4m3 (sign, exponent with bias 7, three bits of fraction; largest 448) with one scale a token and head
 * (Micikevicius et al., arXiv 2209.05433). The code 0x7f, which the format keeps for NaN, is never written and reads as 480.
 *
 * Head: codes [token][head_dim] · f16 scales [token]. x = scale * number. */

#include <math.h>

#include "kernels/codec/code_stream.h"

enum { FRACTION_BITS = 3, BIAS = 7 };

static const float LARGEST = 448.0f;

static const char *check_fp8(const KvShape *shape) {
    return shape->head_dim % 16 ? "the head size must be a multiple of 16" : NULL;
}

static uint64_t codes_bytes(const CodecHead *head) {
    return (uint64_t)head->token_count * head->head_dim;
}

static uint64_t head_bytes_fp8(const CodecHead *head) {
    return codes_bytes(head) + 2u * (uint64_t)head->token_count;
}

/* Nearest even. Below 2^-6 numbers are multiples of 2^-9; above, the float's own bits are rounded. */
static uint8_t fp8_from_float(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint32_t sign = bits >> 24 & 0x80, magnitude = bits & 0x7fffffff;
    if (fabsf(x) < 0x1p-6f) return (uint8_t)(sign | (uint32_t)rintf(fabsf(x) * 512.0f));
    uint32_t rounded = magnitude + 0x7ffff + (magnitude >> 20 & 1);
    return (uint8_t)(sign | ((rounded >> 20) - ((127 - BIAS) << FRACTION_BITS)));
}

/* An f16 has the same fields, wider, and another bias. */
static float fp8_to_float(uint8_t code) {
    uint32_t half = (uint32_t)(code & 0x80) << 8 | (uint32_t)(code & 0x7f) << 7;
    return f16_to_f32((uint16_t)half) * 256.0f;
}

static uint16_t encode_row(const uint16_t *halves, uint32_t count, uint8_t *codes) {
    float largest = 0.0f;
    for (uint32_t i = 0; i < count; i++)
        largest = fmaxf(largest, fabsf(f16_to_f32(halves[i])));
    uint16_t scale = f32_to_f16(largest / LARGEST);
    float divisor = f16_to_f32(scale);
    for (uint32_t i = 0; i < count; i++) {
        float number = divisor > 0.0f ? f16_to_f32(halves[i]) / divisor : 0.0f;
        codes[i] = fp8_from_float(float_clamp(number, -LARGEST, LARGEST));
    }
    return scale;
}

static void encode_fp8(const CodecHead *head, const uint16_t *halves, uint8_t *out_bytes) {
    for (uint32_t token = 0; token < head->token_count; token++) {
        uint64_t first = (uint64_t)token * head->head_dim;
        half_put(out_bytes + codes_bytes(head), token,
                 encode_row(halves + first, head->head_dim, out_bytes + first));
    }
}

static void expand_fp8(const CodecHead *head, const uint8_t *bytes, uint32_t token, float *out) {
    const uint8_t *codes = bytes + (uint64_t)token * head->head_dim;
    float scale = half_get(bytes + codes_bytes(head), token);
    for (uint32_t d = 0; d < head->head_dim; d++)
        out[d] = scale * fp8_to_float(codes[d]);
}

/* Half a step of 32 at the top; the scale's own rounding; then the rounding to f16. */
static double error_max_fp8(const Codec *codec, double min, double max, double norm) {
    (void)codec, (void)norm;
    double largest = fmax(-min, max);
    return largest * (16.0 / 448 + 0x1p-10) + 448 * 0x1p-24;
}

const Codec codec_fp8[] = {
    {
        .name = "fp8",
        .paper = "e4m3, a scale a token and head",
        .code_bits = 8,
        .group_tokens = 1,
        .check = check_fp8,
        .head_bytes = head_bytes_fp8,
        .encode = encode_fp8,
        .decode = decode_expanded,
        .expand = expand_fp8,
        .error_max = error_max_fp8,
    },
    {.name = NULL},
};
