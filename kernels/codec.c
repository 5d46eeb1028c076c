#include "kernels/codec.h"

#include <stdio.h>
#include <string.h>

#include "runtime/base/invariant.h"

#define CODEC(name) extern const Codec codec_##name[];
#include "kernels/codec/codec_rows.h"
#undef CODEC

static const Codec *const families[] = {
#define CODEC(name) codec_##name,
#include "kernels/codec/codec_rows.h"
#undef CODEC
};

enum { FAMILY_COUNT = sizeof families / sizeof *families };

const Codec *codec_at(uint32_t index) {
    for (uint32_t family = 0; family < FAMILY_COUNT; family++)
        for (const Codec *row = families[family]; row->name; row++)
            if (index-- == 0) return row;
    return NULL;
}

const Codec *codec_find(const char *name) {
    const Codec *row;
    for (uint32_t i = 0; (row = codec_at(i)); i++)
        if (!strcmp(row->name, name)) return row;
    return NULL;
}

const char *codec_names(char *out, size_t bytes) {
    const Codec *row;
    size_t used = 0;
    for (uint32_t i = 0; used < bytes && (row = codec_at(i)); i++)
        used += (size_t)snprintf(out + used, bytes - used, "%s%s", i ? ", " : "", row->name);
    return out;
}

const char *codec_refusal(const Codec *codec, const KvShape *shape) {
    if (!shape->kv_head_count || !shape->head_dim || !shape->block_tokens) return "it is empty";
    if (shape->head_dim > CODEC_HEAD_DIM_MAX && !codec_is_raw(codec))
        return "heads of more than 256 numbers";
    if (shape->block_tokens % codec->group_tokens != 0)
        return "its keys share scales over 32 tokens: the token count must be a multiple of 32";
    return codec->check(shape);
}

uint64_t codec_block_bytes(const Codec *codec, const KvShape *shape) {
    return codec_head_offset(codec, shape, CODEC_PART_COUNT, 0);
}

bool codec_takes_block(const KvShape *shape, const void *block) {
    const uint16_t *halves = block;
    uint64_t count = kv_block_bytes(shape) / sizeof *halves;
    uint32_t special = 0;
    for (uint64_t i = 0; i < count; i++)
        special |= (halves[i] & 0x7c00u) == 0x7c00u;
    return !special;
}

Status codec_encode_block(const Codec *codec, const KvShape *shape, const void *block,
                          void *out_bytes) {
    const uint16_t *halves = block;
    uint64_t head_count = shape->kv_head_count;
    uint64_t head_elements = (uint64_t)shape->block_tokens * shape->head_dim;
    if (!codec_takes_block(shape, block)) return STATUS_BAD_INPUT;
    for (CodecPart part = CODEC_KEYS; part < CODEC_PART_COUNT; part++)
        for (uint32_t kv_head = 0; kv_head < head_count; kv_head++) {
            CodecHead head = codec_head(codec, shape, part);
            codec->encode(&head, halves + (part * head_count + kv_head) * head_elements,
                          (uint8_t *)out_bytes + codec_head_offset(codec, shape, part, kv_head));
        }
    return STATUS_OK;
}

void codec_decode_block(const Codec *codec, const KvShape *shape, const void *bytes,
                        void *out_block) {
    uint16_t *halves = out_block;
    uint64_t head_elements = (uint64_t)shape->block_tokens * shape->head_dim;
    for (CodecPart part = CODEC_KEYS; part < CODEC_PART_COUNT; part++)
        for (uint32_t kv_head = 0; kv_head < shape->kv_head_count; kv_head++) {
            CodecHead head = codec_head(codec, shape, part);
            codec->decode(&head,
                          (const uint8_t *)bytes + codec_head_offset(codec, shape, part, kv_head),
                          halves + (part * shape->kv_head_count + kv_head) * head_elements);
        }
}
