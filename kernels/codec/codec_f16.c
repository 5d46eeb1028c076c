/* The block as it is: what the others are compared with. */

#include <string.h>

#include "kernels/codec/code_stream.h"

extern const Codec codec_f16[];

static const char *check_f16(const KvShape *shape) {
    (void)shape;
    return NULL;
}

static uint64_t head_bytes_f16(const CodecHead *head) {
    return 2u * (uint64_t)head->token_count * head->head_dim;
}

static void encode_f16(const CodecHead *head, const uint16_t *halves, uint8_t *out_bytes) {
    memcpy(out_bytes, halves, head_bytes_f16(head));
}

static void decode_f16(const CodecHead *head, const uint8_t *bytes, uint16_t *out_halves) {
    memcpy(out_halves, bytes, head_bytes_f16(head));
}

static void expand_f16(const CodecHead *head, const uint8_t *bytes, uint32_t token, float *out) {
    for (uint32_t d = 0; d < head->head_dim; d++)
        out[d] = half_get(bytes, (uint64_t)token * head->head_dim + d);
}

static double error_max_f16(const Codec *codec, double min, double max, double norm) {
    (void)codec, (void)min, (void)max, (void)norm;
    return 0.0;
}

const Codec codec_f16[] = {
    {
        .name = "f16",
        .paper = "the block as it is",
        .code_bits = 16,
        .group_tokens = 1,
        .check = check_f16,
        .head_bytes = head_bytes_f16,
        .encode = encode_f16,
        .decode = decode_f16,
        .expand = expand_f16,
        .error_max = error_max_f16,
    },
    {.name = NULL},
};
