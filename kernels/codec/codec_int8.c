/* Symmetric int8 in groups of 32 numbers of a token, the last group may be shorter.
 *
 * Head: int8 codes [token][head_dim] · f16 scales [token][group]. x = scale * code. */

#include <math.h>

#include "kernels/codec/code_stream.h"

enum { GROUP = 32 };

static const char *check_int8(const KvShape *shape) {
    return shape->head_dim % 16 ? "the head size must be a multiple of 16" : NULL;
}

static uint64_t codes_bytes(const CodecHead *head) {
    return (uint64_t)head->token_count * head->head_dim;
}

static uint32_t group_count(const CodecHead *head) {
    return (uint32_t)divide_up(head->head_dim, GROUP);
}

static uint64_t head_bytes_int8(const CodecHead *head) {
    return codes_bytes(head) + 2u * (uint64_t)head->token_count * group_count(head);
}

static uint16_t encode_group(const uint16_t *halves, uint32_t count, uint8_t *codes) {
    float largest = 0.0f;
    for (uint32_t i = 0; i < count; i++)
        largest = fmaxf(largest, fabsf(f16_to_f32(halves[i])));
    uint16_t scale = f32_to_f16(largest / 127.0f);
    float divisor = f16_to_f32(scale);
    for (uint32_t i = 0; i < count; i++) {
        float code = divisor > 0.0f ? rintf(f16_to_f32(halves[i]) / divisor) : 0.0f;
        codes[i] = (uint8_t)(int8_t)float_clamp(code, -127.0f, 127.0f);
    }
    return scale;
}

static void encode_int8(const CodecHead *head, const uint16_t *halves, uint8_t *out_bytes) {
    uint8_t *scales = out_bytes + codes_bytes(head);
    uint32_t groups = group_count(head);
    for (uint32_t token = 0; token < head->token_count; token++)
        for (uint32_t group = 0; group < groups; group++) {
            uint64_t first = (uint64_t)token * head->head_dim + group * GROUP;
            uint32_t left = head->head_dim - group * GROUP;
            half_put(scales, (uint64_t)token * groups + group,
                     encode_group(halves + first, left < GROUP ? left : GROUP, out_bytes + first));
        }
}

static void expand_int8(const CodecHead *head, const uint8_t *bytes, uint32_t token, float *out) {
    const uint8_t *codes = bytes + (uint64_t)token * head->head_dim;
    const uint8_t *scales = bytes + codes_bytes(head) + 2u * (uint64_t)token * group_count(head);
    for (uint32_t d = 0; d < head->head_dim; d++)
        out[d] = half_get(scales, d / GROUP) * (float)(int8_t)codes[d];
}

/* Half a step; that the scale is rounded moves the ends by 127 times its error; then the rounding to f16. */
static double error_max_int8(const Codec *codec, double min, double max, double norm) {
    (void)codec, (void)norm;
    double largest = fmax(-min, max);
    return largest * (0.5 / 127 + 0x1p-10) + 127 * 0x1p-24;
}

const Codec codec_int8[] = {
    {
        .name = "int8",
        .paper = "symmetric, groups of 32",
        .code_bits = 8,
        .group_tokens = 1,
        .group_dims = GROUP,
        .check = check_int8,
        .head_bytes = head_bytes_int8,
        .encode = encode_int8,
        .decode = decode_expanded,
        .expand = expand_int8,
        .error_max = error_max_int8,
    },
    {.name = NULL},
};
