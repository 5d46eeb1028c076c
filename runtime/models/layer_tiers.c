#include "runtime/models/layer_tiers.h"

#include <stdlib.h>

#include "runtime/base/arena.h"
#include "runtime/base/invariant.h"
#include "runtime/models/model_memory.h"

struct LayerTiers {
    Device *device;
    DeviceStream *compute;
    uint32_t layer_count;
    WeightPiece *pieces; /* [piece_count] in layer order */
    Matrix **matrices;   /* [piece_count] */
    uint32_t *first;     /* [layer_count + 1] pieces of a layer begin here */
    uint32_t piece_count;
    uint64_t bytes[TIER_COUNT];
    ModelMemory *host;
    WeightStream *stream;
    DeviceFrames *frames;      /* NULL: all is on the device, or used where it is in host memory */
    const PackedPiece *packed; /* [piece_count]; NULL: matrices are packed here */

    uint32_t next; /* piece that is loaded next */
    bool storing;  /* a layer is being packed into a frame */
    uint32_t stored_layer;
    uint8_t *frame;

    uint32_t acquired; /* layer; layer_count: none */
};

Status layer_tiers_create(LayerTiers **out, const ModelConfig *config, Device *device,
                          DeviceStream *compute) {
    void *memory;
    TRY(memory_take(&memory, 1, sizeof(LayerTiers), "weight placement"));
    LayerTiers *tiers = memory;
    *out = tiers;
    tiers->device = device;
    tiers->compute = compute;
    tiers->layer_count = tiers->acquired = config->layer_count;
    uint64_t most = (uint64_t)config->layer_count * LAYER_PIECES_MAX;
    TRY(memory_take((void **)&tiers->pieces, most, sizeof(WeightPiece), "weight placement"));
    TRY(memory_take((void **)&tiers->matrices, most, sizeof(Matrix *), "weight placement"));
    return memory_take((void **)&tiers->first, config->layer_count + 1ull, sizeof(uint32_t),
                       "weight placement");
}

void layer_tiers_destroy(LayerTiers *tiers) {
    if (!tiers) return;
    device_frames_destroy(tiers->frames);
    weight_stream_destroy(tiers->stream);
    model_memory_destroy(tiers->host);
    free(tiers->pieces);
    free(tiers->matrices);
    free(tiers->first);
    free(tiers);
}

/* ---- measuring ---- */

Status layer_tiers_add(LayerTiers *tiers, const char *name, uint32_t layer, uint64_t bytes,
                       Matrix *matrix) {
    uint32_t index = tiers->piece_count++;
    CHECK(layer < tiers->layer_count && (index == 0 || layer >= tiers->pieces[index - 1].layer));
    CHECK(index < LAYER_PIECES_MAX * (layer + 1));
    tiers->pieces[index] = (WeightPiece){.name = name, .layer = layer, .bytes = bytes};
    tiers->matrices[index] = matrix;
    for (uint32_t later = layer + 1; later <= tiers->layer_count; later++)
        tiers->first[later] = tiers->piece_count;
    return STATUS_OK;
}

static uint64_t all_bytes(const LayerTiers *tiers) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < tiers->piece_count; i++)
        bytes += tiers->pieces[i].bytes;
    return bytes;
}

static void resolve(const WeightTierOptions *options, uint64_t all, uint64_t out[TIER_COUNT]) {
    bool asked = false;
    for (int tier = 0; tier < TIER_COUNT; tier++) {
        double per_cent = options->per_cent[tier];
        out[tier] = per_cent > 0 ? (uint64_t)((double)all * per_cent / 100) : options->bytes[tier];
        asked |= out[tier] > 0;
    }
    if (!asked) out[TIER_DEVICE] = UINT64_MAX;
}

Status layer_tiers_place(LayerTiers *tiers, const WeightTierOptions *options) {
    uint64_t budgets[TIER_COUNT], all = all_bytes(tiers);
    resolve(options, all, budgets);
    weight_placement_plan(tiers->pieces, tiers->piece_count, budgets, tiers->bytes);
    if (tiers->bytes[TIER_NVME] <= budgets[TIER_NVME] &&
        (tiers->bytes[TIER_NVME] == 0 || options->directory_count > 0))
        return STATUS_OK;
    FAIL(USAGE,
         "of %llu bytes of packed layers %llu stay in device and host memory, and the other %llu "
         "have no place: give --weights-nvme-dir, or raise --weights-device-size or "
         "--weights-host-size",
         (unsigned long long)all,
         (unsigned long long)(tiers->bytes[TIER_DEVICE] + tiers->bytes[TIER_HOST]),
         (unsigned long long)tiers->bytes[TIER_NVME]);
}

void layer_tiers_try(LayerTiers *tiers, double device_per_cent) {
    const uint64_t budgets[TIER_COUNT] = {
        [TIER_DEVICE] = (uint64_t)((double)all_bytes(tiers) * device_per_cent / 100)};
    weight_placement_plan(tiers->pieces, tiers->piece_count, budgets, tiers->bytes);
}

void layer_tiers_sizes(const LayerTiers *tiers, ModelSizes *out) {
    for (int tier = 0; tier < TIER_COUNT; tier++)
        out->layer_bytes[tier] = tiers->bytes[tier];
    out->frame_bytes = weight_stream_frame_bytes(tiers->pieces, tiers->piece_count);
    out->device_frame_bytes = tiers->device->host_addressable
                                  ? 0
                                  : device_frames_bytes(tiers->pieces, tiers->piece_count);
}

/* ---- loading ---- */

/* The pieces of this rank, each the one that is expected here. */
static Status find_packed(LayerTiers *tiers, const WeightTierOptions *options) {
    uint32_t count;
    if (!options->packed) return STATUS_OK;
    tiers->packed = packed_file_rank(options->packed, options->packed_rank, &count);
    bool same = count == tiers->piece_count;
    for (uint32_t i = 0; same && i < count; i++) {
        const WeightPiece *piece = &tiers->pieces[i];
        const PackedEntry *entry = &tiers->packed[i].entry;
        same = entry->layer == piece->layer && entry->bytes == piece->bytes &&
               entry->name_hash == packed_name_hash(piece->name);
    }
    if (!same)
        FAIL(PACKED_WEIGHTS,
             "\"%s\" holds other matrices than rank %u has here: convert the model again",
             options->packed->path, options->packed_rank);
    return STATUS_OK;
}

static Status open_stream(LayerTiers *tiers, const WeightTierOptions *options) {
    const WeightStreamOptions stream = {.device = tiers->device,
                                        .pieces = tiers->pieces,
                                        .piece_count = tiers->piece_count,
                                        .layer_count = tiers->layer_count,
                                        .directories = options->directories,
                                        .directory_count = options->directory_count,
                                        .packed = options->packed,
                                        .packed_pieces = tiers->packed,
                                        .io_engine = options->io_engine,
                                        .io_depth = options->io_depth,
                                        .local_rings = options->local_rings,
                                        .io_timeout_seconds = options->io_timeout_seconds,
                                        .silent = options->silent,
                                        .faults = options->faults};
    return weight_stream_create(&tiers->stream, &stream);
}

static Status open_frames(LayerTiers *tiers) {
    const DeviceFramesOptions frames = {.device = tiers->device,
                                        .compute = tiers->compute,
                                        .pieces = tiers->pieces,
                                        .piece_count = tiers->piece_count,
                                        .layer_count = tiers->layer_count,
                                        .stream = tiers->stream};
    return device_frames_create(&tiers->frames, &frames);
}

Status layer_tiers_open(LayerTiers *tiers, const WeightTierOptions *options) {
    TRY(find_packed(tiers, options));
    TRY(model_memory_create(&tiers->host, tiers->device, NULL));
    if (tiers->bytes[TIER_NVME] > 0) TRY(open_stream(tiers, options));
    bool outside = tiers->bytes[TIER_HOST] + tiers->bytes[TIER_NVME] > 0;
    return outside && !tiers->device->host_addressable ? open_frames(tiers) : STATUS_OK;
}

/* Until what was packed is where it was packed to, which the backend may leave to its stream. */
static Status settle(const LayerTiers *tiers) {
    Device *device = tiers->device;
    return device->host_addressable ? STATUS_OK : device->stream_wait(device, tiers->compute);
}

static Status close_frame(LayerTiers *tiers) {
    if (!tiers->storing) return STATUS_OK;
    TRY(settle(tiers));
    weight_stream_end_store(tiers->stream);
    tiers->storing = false;
    return STATUS_OK;
}

/* A frame takes one layer after the other: the one before is on its way to the file while this one is packed. */
static Status open_frame(LayerTiers *tiers, uint32_t layer) {
    if (tiers->storing && tiers->stored_layer == layer) return STATUS_OK;
    TRY(close_frame(tiers));
    TRY(weight_stream_begin_store(tiers->stream, layer, &tiers->frame));
    tiers->storing = true;
    tiers->stored_layer = layer;
    return STATUS_OK;
}

static Status host_place(LayerTiers *tiers, const WeightPiece *piece, void **out) {
    if (!tiers->frames)
        return model_memory_take(tiers->host, MEMORY_HOST, piece->bytes, piece->name, out);
    *out = device_frames_host(tiers->frames, piece->layer) + piece->offset;
    return STATUS_OK;
}

Status layer_tiers_next(LayerTiers *tiers, uint64_t bytes, LayerPlace *out) {
    uint32_t index = tiers->next++;
    const WeightPiece *piece = &tiers->pieces[index];
    CHECK(tiers->next <= tiers->piece_count && piece->bytes == bytes);
    *out =
        (LayerPlace){.tier = piece->tier, .packed = tiers->packed ? tiers->packed + index : NULL};
    if (piece->tier == TIER_HOST) return host_place(tiers, piece, &out->memory);
    if (piece->tier != TIER_NVME || tiers->packed) return STATUS_OK;
    TRY(open_frame(tiers, piece->layer));
    out->memory = tiers->frame + piece->offset;
    return STATUS_OK;
}

/* What comes by before it is used has no address of its own. */
static bool comes_by(const LayerTiers *tiers, const WeightPiece *piece) {
    return piece->tier == TIER_NVME || (piece->tier == TIER_HOST && tiers->frames);
}

static void point(LayerTiers *tiers, uint32_t layer, const uint8_t *bytes) {
    for (uint32_t i = tiers->first[layer]; i < tiers->first[layer + 1]; i++) {
        const WeightPiece *piece = &tiers->pieces[i];
        if (!comes_by(tiers, piece)) continue;
        uint64_t offset =
            tiers->frames ? device_frames_offset(tiers->frames, piece) : piece->offset;
        tiers->matrices[i]->data = bytes ? bytes + offset : NULL;
    }
}

Status layer_tiers_finish(LayerTiers *tiers) {
    TRY(close_frame(tiers));
    TRY(settle(tiers));
    for (uint32_t layer = 0; layer < tiers->layer_count; layer++)
        point(tiers, layer, NULL);
    return tiers->stream ? weight_stream_finish_store(tiers->stream) : STATUS_OK;
}

/* ---- running ---- */

void layer_tiers_expect(LayerTiers *tiers, const uint32_t *layers, uint32_t layer_count,
                        uint32_t then) {
    if (tiers->frames)
        device_frames_expect(tiers->frames, layers, layer_count, then);
    else if (tiers->stream)
        weight_stream_expect(tiers->stream, layers, layer_count, then);
}

/* What is in use is told apart by `acquired` alone where the host's frames are used as they are. */
static Status acquire_frame(LayerTiers *tiers, uint32_t layer, const uint8_t **out_bytes) {
    if (tiers->frames) return device_frames_acquire(tiers->frames, layer, out_bytes);
    TRY(layer_tiers_release(tiers));
    return weight_stream_acquire(tiers->stream, layer, out_bytes);
}

Status layer_tiers_acquire(LayerTiers *tiers, uint32_t layer) {
    const uint8_t *bytes;
    if ((!tiers->stream && !tiers->frames) || tiers->acquired == layer) return STATUS_OK;
    TRY(acquire_frame(tiers, layer, &bytes));
    tiers->acquired = layer;
    point(tiers, layer, bytes);
    return STATUS_OK;
}

Status layer_tiers_release(LayerTiers *tiers) {
    uint32_t layer = tiers->acquired;
    if (layer == tiers->layer_count) return STATUS_OK;
    tiers->acquired = tiers->layer_count;
    if (tiers->frames) return device_frames_release(tiers->frames);
    weight_stream_release(tiers->stream, layer);
    return STATUS_OK;
}

WeightStream *layer_tiers_stream(const LayerTiers *tiers) {
    return tiers->stream;
}

uint64_t layer_tiers_sent_bytes(const LayerTiers *tiers) {
    return tiers->frames ? device_frames_sent_bytes(tiers->frames) : 0;
}
