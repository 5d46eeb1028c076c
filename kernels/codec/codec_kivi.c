/* KIVI (Liu et al., arXiv 2402.02750; quant/new_pack.py): keys in groups of 32 tokens of a channel, values in groups of 32
 * channels of a token, between minimum and maximum, with a step and a minimum in f16. Arithmetic is that of f16,
 * step by step as the authors' code runs it; a step beyond f16 (theirs breaks there) stays in f32. A constant group has step 0
 * and codes 0.
 *
 * Head of keys:   codes [head_dim][token] · f16 steps [head_dim][token / 32] · f16 minima [head_dim][token / 32].
 * Head of values: codes [token][head_dim] · f16 steps [token][head_dim / 32] · f16 minima [token][head_dim / 32].
 * Codes fill words of 32 bits from the lowest bit on. */

#include <math.h>

#include "kernels/codec/code_stream.h"

enum { GROUP = 32, RESIDUAL = 128 };

static const char *check_kivi(const KvShape *shape) {
    return shape->head_dim % GROUP ? "the head size must be a multiple of 32" : NULL;
}

static uint64_t element_count(const CodecHead *head) {
    return (uint64_t)head->token_count * head->head_dim;
}

static uint64_t codes_bytes(const CodecHead *head) {
    return element_count(head) * head->codec->code_bits / 8;
}

static uint64_t steps_bytes(const CodecHead *head) {
    return 2 * element_count(head) / GROUP;
}

static uint64_t head_bytes_kivi(const CodecHead *head) {
    return codes_bytes(head) + 2 * steps_bytes(head);
}

/* Numbers lie in `rows` rows of `columns`, whole groups of a row; in f16 [token][head_dim] a row's next number is
 * `column_stride` further. */
typedef struct Lines {
    uint64_t rows, columns, row_stride, column_stride;
} Lines;

static Lines lines_of(const CodecHead *head) {
    if (head->part == CODEC_KEYS)
        return (Lines){head->head_dim, head->token_count, 1, head->head_dim};
    return (Lines){head->token_count, head->head_dim, head->head_dim, 1};
}

static void encode_group(const float *numbers, uint32_t bits, uint8_t *codes, uint16_t *out_step,
                         uint16_t *out_min) {
    float min = numbers[0], max = numbers[0], levels = (float)((1u << bits) - 1);
    for (uint32_t i = 1; i < GROUP; i++) {
        min = fminf(min, numbers[i]);
        max = fmaxf(max, numbers[i]);
    }
    min += 0.0f; /* -0 becomes 0 */
    max += 0.0f;
    *out_step = f32_to_f16(half_round(max - min) / levels);
    *out_min = f32_to_f16(min);
    float step = f16_to_f32(*out_step);
    memset(codes, 0, GROUP * bits / 8);
    for (uint32_t i = 0; i < GROUP && step > 0.0f; i++) {
        float above = half_round(numbers[i] - min);
        float code = float_clamp(half_round(above / step), 0.0f, levels);
        code_put(codes, bits, i, (uint32_t)rintf(code));
    }
}

static void encode_kivi(const CodecHead *head, const uint16_t *halves, uint8_t *out_bytes) {
    Lines lines = lines_of(head);
    uint32_t bits = head->codec->code_bits, group_bytes = GROUP * bits / 8;
    uint8_t *steps = out_bytes + codes_bytes(head), *minima = steps + steps_bytes(head);
    uint64_t group = 0;
    for (uint64_t row = 0; row < lines.rows; row++)
        for (uint64_t first = 0; first < lines.columns; first += GROUP, group++) {
            float numbers[GROUP];
            uint16_t step, min;
            for (uint32_t i = 0; i < GROUP; i++)
                numbers[i] =
                    f16_to_f32(halves[row * lines.row_stride + (first + i) * lines.column_stride]);
            encode_group(numbers, bits, out_bytes + group * group_bytes, &step, &min);
            half_put(steps, group, step);
            half_put(minima, group, min);
        }
}

/* Where a number lies. */
typedef struct Place {
    float code, step, min;
} Place;

static Place place_of(const CodecHead *head, const uint8_t *bytes, uint32_t token, uint32_t d) {
    Lines lines = lines_of(head);
    uint32_t bits = head->codec->code_bits;
    uint64_t row = head->part == CODEC_KEYS ? d : token;
    uint64_t column = head->part == CODEC_KEYS ? token : d;
    uint64_t group = row * (lines.columns / GROUP) + column / GROUP;
    const uint8_t *steps = bytes + codes_bytes(head);
    uint32_t code = code_get(bytes + group * GROUP * bits / 8, bits, (uint32_t)(column % GROUP));
    return (Place){(float)code, half_get(steps, group), half_get(steps + steps_bytes(head), group)};
}

static void expand_kivi(const CodecHead *head, const uint8_t *bytes, uint32_t token, float *out) {
    for (uint32_t d = 0; d < head->head_dim; d++) {
        Place place = place_of(head, bytes, token, d);
        out[d] = place.code * place.step + place.min;
    }
}

static void decode_kivi(const CodecHead *head, const uint8_t *bytes, uint16_t *out_halves) {
    for (uint32_t token = 0; token < head->token_count; token++)
        for (uint32_t d = 0; d < head->head_dim; d++) {
            Place place = place_of(head, bytes, token, d);
            *out_halves++ = half_from_float(half_round(place.code * place.step) + place.min);
        }
}

/* Half a step; a code is rounded to f16 before it is rounded to whole numbers, and the step moves the end by its own
 * rounding; two roundings when decoding. */
static double error_max_kivi(const Codec *codec, double min, double max, double norm) {
    (void)norm;
    double levels = (double)((1u << codec->code_bits) - 1), range = max - min;
    return range / levels * (0.5 + 0x1p-8) + 0x1p-10 * (range + fmax(-min, max)) + 16 * 0x1p-24;
}

#define KIVI_ROW(bits)                                                                \
    {                                                                                 \
        .name = "kivi" #bits, .paper = "KIVI, arXiv 2402.02750", .code_bits = (bits), \
        .group_tokens = GROUP, .group_dims = GROUP, .residual_tokens = RESIDUAL,      \
        .check = check_kivi, .head_bytes = head_bytes_kivi, .encode = encode_kivi,    \
        .decode = decode_kivi, .expand = expand_kivi, .error_max = error_max_kivi     \
    }

const Codec codec_kivi[] = {KIVI_ROW(4), KIVI_ROW(2), {.name = NULL}};
