#include "runtime/engine/kv_layout.h"

#include "runtime/base/bytes.h"
#include "tiers/spill_header.h"

enum { DISK_ALIGNMENT = 4096, MEMORY_ALIGNMENT = 64 };

/* One more block than fits beside what a raw one takes, if that makes slots an eighth larger at most. */
static uint32_t blocks_of_pack(uint64_t raw_bytes, uint64_t encoded_bytes) {
    uint64_t count = divide_up(raw_bytes, encoded_bytes);
    if (count * encoded_bytes > raw_bytes + raw_bytes / 8) count = raw_bytes / encoded_bytes;
    return (uint32_t)(count > 0 ? count : 1);
}

KvLayout kv_layout(const KvShape *shape, const Codec *codec, uint32_t residual_tokens,
                   bool spills) {
    uint64_t raw_bytes = kv_block_bytes(shape);
    KvLayout layout = {
        .shape = *shape, .payload_bytes = raw_bytes, .residual_tokens = residual_tokens};
    if (!codec_is_raw(codec)) {
        layout.codec = codec;
        layout.encoded_bytes = align_up(codec_block_bytes(codec, shape), MEMORY_ALIGNMENT);
        layout.pack_blocks = blocks_of_pack(raw_bytes, layout.encoded_bytes);
        uint64_t pack_bytes = layout.pack_blocks * layout.encoded_bytes;
        if (pack_bytes > raw_bytes) layout.payload_bytes = pack_bytes;
    }
    layout.slot_bytes = align_up(sizeof(SpillHeader) + layout.payload_bytes,
                                 spills ? DISK_ALIGNMENT : MEMORY_ALIGNMENT);
    return layout;
}

uint32_t kv_layout_cold_blocks(const KvLayout *layout, uint32_t token_count) {
    if (token_count < layout->residual_tokens) return 0;
    return (token_count - layout->residual_tokens) / layout->shape.block_tokens;
}

uint32_t kv_layout_slots(const KvLayout *layout, uint32_t token_count) {
    uint32_t block_tokens = layout->shape.block_tokens;
    uint32_t blocks = (uint32_t)divide_up(token_count, block_tokens);
    if (!layout->codec) return blocks;
    uint32_t raw_most = (uint32_t)divide_up(layout->residual_tokens, block_tokens) + 2;
    uint32_t packs =
        (uint32_t)divide_up(kv_layout_cold_blocks(layout, token_count), layout->pack_blocks);
    return packs + (blocks < raw_most ? blocks : raw_most);
}
