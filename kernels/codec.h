#ifndef KERNELS_CODEC_H
#define KERNELS_CODEC_H

/* How a cold KV block is stored. One file under codec/ and one word in codec/meson.build a family; a file exports
 * `const Codec codec_<file>[]`, a row a variant, ended by a row without a name.
 *
 * A block is f16 [K or V][kv_head][token][head_dim]. An encoded block holds the same tokens, all of them, as
 * [K or V][kv_head] heads of head_bytes() each; heads know nothing of each other, so that a head has the same bytes on any
 * number of ranks. The functions of a row are the specification, in plain C; kernels.h has the slots that run the
 * fast ones. A codec without a fast one works everywhere, slower.
 *
 * Encoding is deterministic: the same block gives the same bytes on every instruction set. Decoders take any bytes: what
 * they read and write depends on the head's shape only. Pure functions, any thread. */

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

/* A KV block on the device: f16 [K or V][kv_head_count][block_tokens][head_dim]. */
typedef struct KvShape {
    uint32_t kv_head_count;
    uint32_t head_dim;
    uint32_t block_tokens; /* capacity: the stride between heads, however many tokens are filled */
} KvShape;

static inline uint64_t kv_block_bytes(const KvShape *shape) {
    return 2u * 2u * (uint64_t)shape->kv_head_count * shape->block_tokens * shape->head_dim;
}

typedef enum CodecPart { CODEC_KEYS, CODEC_VALUES, CODEC_PART_COUNT } CodecPart;

enum { CODEC_HEAD_DIM_MAX = 256 };

typedef struct Codec Codec;

/* The keys or the values of one KV head in a block. */
typedef struct CodecHead {
    const Codec *codec;
    CodecPart part;
    uint32_t token_count; /* a multiple of group_tokens */
    uint32_t head_dim;
} CodecHead;

struct Codec {
    const char *name;      /* as written in configs and --kv-codec */
    const char *paper;     /* printed by `codecs` */
    uint32_t code_bits;    /* of a code; 16: the bytes are the block itself */
    uint32_t outlier_bits; /* of a code of the outlier channels; 0: there are none */
    uint32_t
        group_tokens; /* a block holds a multiple of this many tokens; they share a scale in keys */
    uint32_t group_dims;      /* numbers of a token that share a scale; 0: all of the head */
    uint32_t residual_tokens; /* newest tokens that stay in f16 (default of --kv-residual) */
    /* NULL when heads of this shape can be encoded; else why not */
    const char *(*check)(const KvShape *shape);
    uint64_t (*head_bytes)(const CodecHead *head);
    /* halves [token][head_dim], all finite */
    void (*encode)(const CodecHead *head, const uint16_t *halves, uint8_t *out_bytes);
    void (*decode)(const CodecHead *head, const uint8_t *bytes, uint16_t *out_halves);
    /* The numbers of a token that attention works with: those of decode before they were rounded to f16. */
    void (*expand)(const CodecHead *head, const uint8_t *bytes, uint32_t token,
                   float *out); /* [head_dim] */
    /* No number of a group that lies in [min, max] and has this Euclidean norm decodes farther off. */
    double (*error_max)(const Codec *codec, double min, double max, double norm);
};

/* All codecs in order: NULL past the last. */
const Codec *codec_at(uint32_t index);

const Codec *codec_find(const char *name); /* NULL when unknown */

/* "f16, int8, ..." for messages, cut at `bytes` (> 0) with its zero. Returns `out`. */
const char *codec_names(char *out, size_t bytes);

/* NULL (and "f16") stand for blocks as they are. */
static inline bool codec_is_raw(const Codec *codec) {
    return !codec || codec->code_bits == 16;
}

static inline CodecHead codec_head(const Codec *codec, const KvShape *shape, CodecPart part) {
    CodecHead head = {codec, part, shape->block_tokens, shape->head_dim};
    return head;
}

/* NULL when blocks of this shape can be encoded; else why not, for an error line. Call before all others. */
const char *codec_refusal(const Codec *codec, const KvShape *shape);

uint64_t codec_block_bytes(const Codec *codec, const KvShape *shape);

/* Where the head begins in an encoded block. */
static inline uint64_t codec_head_offset(const Codec *codec, const KvShape *shape, CodecPart part,
                                         uint32_t kv_head) {
    CodecHead head = codec_head(codec, shape, part);
    return ((uint64_t)part * shape->kv_head_count + kv_head) * codec->head_bytes(&head);
}

/* Whether all numbers of a raw block are finite, which is what every codec asks of it. */
bool codec_takes_block(const KvShape *shape, const void *block);

/* The specification of Kernels.kv_encode and kv_decode: see there. */
Status codec_encode_block(const Codec *codec, const KvShape *shape, const void *block,
                          void *out_bytes);
void codec_decode_block(const Codec *codec, const KvShape *shape, const void *bytes,
                        void *out_block);

SPILLWAY_EXTERN_C_END

#endif
