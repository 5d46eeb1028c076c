#ifndef RUNTIME_ENGINE_KV_LAYOUT_H
#define RUNTIME_ENGINE_KV_LAYOUT_H

/* How the tokens of a stream lie in slots. All slots are of one size, in every tier. A block that is raw (f16) has a slot to
 * itself; encoded blocks share one, as many as fit, so that they move in transfers as large as raw ones do and tiers need
 * to know nothing of codecs:
 *
 *     tokens  0 ....................................... cold | .......................... now
 *     slots   [ pack: blocks 0 … n-1 encoded ] [ pack, open ] | [ raw ] [ raw ] … [ filling ]
 *
 * A block is encoded when it is cold: wholly older than the `residual_tokens` newest tokens, once the prompt has been
 * through the layer. It joins the last pack until that is full. When is a function of the stream's token count alone, so what
 * attention reads never depends on budgets, threads or neighbours. Pure functions. */

#include "kernels/kernels.h"
#include "tiers/tier_manager.h"

SPILLWAY_EXTERN_C_BEGIN

enum {
    KV_CODE_BUFFERS = 32
}; /* blocks that are encoded on their way to a file at once, late ones too */

typedef struct KvLayout {
    KvShape shape;
    const Codec *codec; /* NULL: all blocks stay raw */
    const Codec *tier_codecs
        [TIER_COUNT];     /* of blocks that are encoded as they go down to that tier; NULL: none */
    uint32_t pack_blocks; /* blocks of a pack; 0 without a codec */
    uint32_t residual_tokens; /* the newest, never encoded */
    uint64_t encoded_bytes;   /* from one encoded block of a pack to the next */
    uint64_t payload_bytes;   /* of a slot that are used */
    uint64_t slot_bytes;      /* with lower tiers: header and payload up to whole 4 KiB pages */
} KvLayout;

/* What else is encoded lies block by block in slots of the same size, at the beginning. */
static inline bool kv_layout_encodes_on_spill(const KvLayout *layout) {
    return layout->tier_codecs[TIER_HOST] || layout->tier_codecs[TIER_NVME];
}

/* codec: NULL or one that codec_refusal accepts for the shape. */
KvLayout kv_layout(const KvShape *shape, const Codec *codec, uint32_t residual_tokens, bool spills);

/* Blocks of the stream's first `token_count` tokens that are cold. */
uint32_t kv_layout_cold_blocks(const KvLayout *layout, uint32_t token_count);

/* Slots that a stream may need on its way to token_count tokens: packs, and raw blocks with those that are being encoded. */
uint32_t kv_layout_slots(const KvLayout *layout, uint32_t token_count);

SPILLWAY_EXTERN_C_END

#endif
