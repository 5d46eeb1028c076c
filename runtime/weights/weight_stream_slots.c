/* Where the chunks of a stream lie: in frames, and in spill files or a packed file. */

#include "runtime/base/arena.h"
#include "runtime/base/bytes.h"
#include "runtime/base/invariant.h"
#include "runtime/weights/weight_stream_parts.h"

static uint32_t chunk_bytes_of(uint64_t longest) {
    return longest < WEIGHT_CHUNK_BYTES_MAX ? (uint32_t)longest : WEIGHT_CHUNK_BYTES_MAX;
}

/* The chunks of `bytes` that lie together from frame_offset on: how many there are, in *slots where that is not NULL. */
static uint32_t cut(const WeightStream *stream, uint64_t frame_offset, uint64_t bytes,
                    WeightSlot *slots) {
    uint32_t count = (uint32_t)divide_up(bytes, stream->chunk_bytes);
    for (uint32_t i = 0; slots && i < count; i++) {
        uint64_t at = (uint64_t)i * stream->chunk_bytes, left = bytes - at;
        uint32_t size = left < stream->chunk_bytes ? (uint32_t)left : stream->chunk_bytes;
        slots[i] = (WeightSlot){.frame_offset = frame_offset + at,
                                .bytes = (uint32_t)align_up(size, SPILL_ALIGNMENT_MIN),
                                .checked_bytes = size};
    }
    return count;
}

/* A spill file holds the streamed part of a layer as one, a packed file each matrix by itself. */
static uint32_t cut_layer(const WeightStream *stream, uint32_t layer, WeightSlot *slots) {
    const WeightStreamOptions *options = &stream->options;
    uint32_t count = 0;
    if (!options->packed) return cut(stream, 0, stream->layer_bytes[layer], slots);
    for (uint32_t i = 0; i < options->piece_count; i++) {
        const WeightPiece *piece = &options->pieces[i];
        const PackedPiece *packed = &options->packed_pieces[i];
        if (piece->layer != layer || piece->tier != TIER_NVME) continue;
        WeightSlot *own = slots ? slots + count : NULL;
        uint32_t chunks = cut(stream, piece->offset, piece->bytes, own);
        for (uint32_t chunk = 0; own && chunk < chunks; chunk++) {
            own[chunk].offset = packed->offset + (uint64_t)chunk * PACKED_CHUNK_BYTES;
            own[chunk].checksum = options->packed->checksums[packed->chunk_first + chunk];
        }
        count += chunks;
    }
    return count;
}

/* Chunks lie in slots of the files, one each, files in turn. */
static void stripe(WeightStream *stream) {
    uint32_t files = stream->options.directory_count;
    for (uint32_t slot = 0; slot < stream->slot_count; slot++) {
        stream->slots[slot].file = slot % files;
        stream->slots[slot].offset = (uint64_t)(slot / files) * stream->chunk_bytes;
    }
}

Status weight_stream_cut(WeightStream *stream) {
    const WeightStreamOptions *options = &stream->options;
    uint32_t layers = options->layer_count;
    TRY(memory_take((void **)&stream->layer_bytes, layers, sizeof(uint64_t), "weight stream"));
    TRY(memory_take((void **)&stream->first_slot, layers + 1ull, sizeof(uint32_t),
                    "weight stream"));
    TRY(layer_order_init(&stream->order, stream->layer_bytes, layers));
    stream->frame_bytes = weight_layer_bytes_max(options->pieces, options->piece_count);
    stream->chunk_bytes =
        options->packed ? PACKED_CHUNK_BYTES : chunk_bytes_of(stream->frame_bytes);
    CHECK(stream->chunk_bytes > 0);
    for (uint32_t layer = 0; layer < layers; layer++) {
        stream->layer_bytes[layer] =
            weight_layer_bytes(options->pieces, options->piece_count, TIER_NVME, layer);
        stream->slot_count += cut_layer(stream, layer, NULL);
        stream->first_slot[layer + 1] = stream->slot_count;
    }
    /* twice what keeps a disk busy: the kernels' threads have the cores, and this one comes late */
    stream->depth =
        options->io_depth ? options->io_depth : 2 * ring_depth_auto(stream->chunk_bytes);
    stream->in_flight_max = UINT64_MAX;
    TRY(memory_take((void **)&stream->slots, stream->slot_count, sizeof(WeightSlot),
                    "weight stream"));
    for (uint32_t layer = 0; layer < layers; layer++)
        cut_layer(stream, layer, stream->slots + stream->first_slot[layer]);
    if (!options->packed) stripe(stream);
    return STATUS_OK;
}
