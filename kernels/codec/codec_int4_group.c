/* FlexGen's group-wise 4-bit codec (Sheng et al., arXiv 2303.06865; compress and decompress of FlexLLMGen's
 * compression.py): 64 numbers of a token between their minimum and maximum, a last group filled up with zeros that
 * count. The scale is a reciprocal; codes are found in f32 with the scale before it was rounded; decoding divides, then adds,
 * in f16. A group in which the scale is too large for f16 decodes to its minimum.
 *
 * Head: codes [token][group][32], the first of two in the high nibble · f16 (scale, minimum) [token][group]. */

#include <math.h>

#include "kernels/codec/code_stream.h"

enum { GROUP = 64, GROUP_BYTES = GROUP / 2, LEVELS = 15 };

static const char *check_int4_group(const KvShape *shape) {
    return shape->head_dim % 16 ? "the head size must be a multiple of 16" : NULL;
}

static uint32_t group_count(const CodecHead *head) {
    return (uint32_t)divide_up(head->head_dim, GROUP);
}

static uint64_t codes_bytes(const CodecHead *head) {
    return (uint64_t)head->token_count * group_count(head) * GROUP_BYTES;
}

static uint64_t head_bytes_int4_group(const CodecHead *head) {
    return codes_bytes(head) + 4u * (uint64_t)head->token_count * group_count(head);
}

static void encode_group(const float *numbers, uint8_t *codes, uint8_t *out_scale) {
    float min = numbers[0], max = numbers[0];
    for (uint32_t i = 1; i < GROUP; i++) {
        min = fminf(min, numbers[i]);
        max = fmaxf(max, numbers[i]);
    }
    min += 0.0f; /* -0 becomes 0 */
    max += 0.0f;
    float scale = LEVELS / (max - min);
    uint16_t half = f32_to_f16(scale);
    bool usable = half != HALF_INFINITY;
    for (uint32_t i = 0; i < GROUP; i++) {
        float code = usable ? float_clamp((numbers[i] - min) * scale, 0.0f, LEVELS) : 0.0f;
        uint32_t nibble = (uint32_t)rintf(code);
        codes[i / 2] = (uint8_t)(i % 2 ? codes[i / 2] | nibble : nibble << 4);
    }
    half_put(out_scale, 0, half);
    half_put(out_scale, 1, f32_to_f16(min));
}

static void encode_int4_group(const CodecHead *head, const uint16_t *halves, uint8_t *out_bytes) {
    uint8_t *scale = out_bytes + codes_bytes(head);
    for (uint32_t token = 0; token < head->token_count; token++)
        for (uint32_t first = 0; first < head->head_dim; first += GROUP) {
            float numbers[GROUP] = {0.0f};
            for (uint32_t i = 0; i < GROUP && first + i < head->head_dim; i++)
                numbers[i] = f16_to_f32(halves[(uint64_t)token * head->head_dim + first + i]);
            encode_group(numbers, out_bytes, scale);
            out_bytes += GROUP_BYTES;
            scale += 4;
        }
}

/* Where a number of a token lies. */
typedef struct Place {
    float code, scale, min;
} Place;

static Place place_of(const CodecHead *head, const uint8_t *bytes, uint32_t token, uint32_t d) {
    uint64_t group = (uint64_t)token * group_count(head) + d / GROUP;
    const uint8_t *scale = bytes + codes_bytes(head) + 4 * group;
    uint32_t code = code_get(bytes + group * GROUP_BYTES, 4, d % GROUP ^ 1);
    return (Place){(float)code, half_get(scale, 0), half_get(scale, 1)};
}

static void expand_int4_group(const CodecHead *head, const uint8_t *bytes, uint32_t token,
                              float *out) {
    for (uint32_t d = 0; d < head->head_dim; d++) {
        Place place = place_of(head, bytes, token, d);
        out[d] = place.code * (1.0f / place.scale) + place.min;
    }
}

static void decode_int4_group(const CodecHead *head, const uint8_t *bytes, uint16_t *out_halves) {
    for (uint32_t token = 0; token < head->token_count; token++)
        for (uint32_t d = 0; d < head->head_dim; d++) {
            Place place = place_of(head, bytes, token, d);
            *out_halves++ = half_from_float(half_round(place.code / place.scale) + place.min);
        }
}

/* Half a step and four places of f16; all of the range where the scale does not fit f16. */
static double error_max_int4_group(const Codec *codec, double min, double max, double norm) {
    (void)codec, (void)norm;
    double range = fmax(max, 0.0) - fmin(min, 0.0); /* zeros may have been filled in */
    if (range * 65520 < LEVELS) return range;
    return range * (0.5 / LEVELS + 0x1p-10) + 4 * (fmax(-min, max) * 0x1p-11 + 0x1p-25);
}

const Codec codec_int4_group[] = {
    {
        .name = "int4_group",
        .paper = "FlexGen, arXiv 2303.06865",
        .code_bits = 4,
        .group_tokens = 1,
        .group_dims = GROUP,
        .check = check_int4_group,
        .head_bytes = head_bytes_int4_group,
        .encode = encode_int4_group,
        .decode = decode_int4_group,
        .expand = expand_int4_group,
        .error_max = error_max_int4_group,
    },
    {.name = NULL},
};
