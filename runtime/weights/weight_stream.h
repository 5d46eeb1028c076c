#ifndef RUNTIME_WEIGHTS_WEIGHT_STREAM_H
#define RUNTIME_WEIGHTS_WEIGHT_STREAM_H

/* Weights that lie in files and come by while a model runs: the streamed part of each layer, as it was packed, is read ahead into one
 * of a few frames, used there, and makes room for the next, round and round. To a stream a layer is a number of bytes.
 *
 *     create → for each layer: begin_store, the caller packs into the frame, end_store → finish_store
 *     a pass → for each layer: acquire, compute, release
 *
 * Reading ahead goes by what is expected next: the layers in order, over and over, or what weight_stream_expect said. An unexpected
 * layer is read, too; it only comes late. Frames keep what will be used next, so layers that all fit are read once.
 *
 * A chunk that comes back has the checksum that it was written with, kept in memory, or the job ends: E-WEIGHTS-IO names the tensor. So
 * does a read that fails or makes no progress in time.
 *
 * One thread calls; the stream's own thread owns the ring. Frames and all bookkeeping are taken in create. */

#include "kernels/device.h"
#include "runtime/weights/packed_file.h"
#include "runtime/weights/weight_placement.h"
#include "tiers/ring.h"
#include "tiers/spill_file.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct WeightStream WeightStream;

enum { WEIGHT_FRAMES = 3, WEIGHT_CHUNK_BYTES_MAX = 1 << 20 };

typedef struct WeightStreamOptions {
    Device *device;
    const WeightPiece *pieces; /* [piece_count], placed; borrowed */
    uint32_t piece_count, layer_count;
    const char *const *directories; /* [directory_count], striped chunk by chunk */
    uint32_t directory_count;
    /* Not NULL: the layers lie in this file, packed_pieces[i] is pieces[i]; nothing is stored, and directories are not looked at. */
    const PackedFile *packed;
    const PackedPiece *packed_pieces; /* [piece_count] */
    const char *io_engine;            /* as RingOptions.engine */
    uint32_t io_depth;                /* 0: auto */
    uint32_t local_rings; /* of this user here, this one included: they share one memlock limit */
    double io_timeout_seconds; /* without any progress; 0: for ever */
    bool silent;               /* as SpillFileOptions.silent */
    IoFaultPlan *faults;       /* NULL: none */
} WeightStreamOptions;

typedef struct WeightStreamStats {
    uint64_t read_bytes, layers_read, layers_acquired;
    double seconds_reading; /* while a read was out */
    double seconds_stalled; /* in acquire */
} WeightStreamStats;

/* Bytes of the frames for this placement; 0 when nothing streams. */
uint64_t weight_stream_frame_bytes(const WeightPiece *pieces, uint32_t piece_count);

/* At least one piece is TIER_NVME's. E-FILE-MISSING, E-SPILL-CREATE, E-SPILL-SPACE, E-IO-ENGINE, E-MEMORY. */
Status weight_stream_create(WeightStream **out, const WeightStreamOptions *options);
void weight_stream_destroy(WeightStream *stream); /* takes NULL */

/* ---- loading: each layer with streamed bytes once, in any order; of a packed file, finish_store alone ---- */

Status weight_stream_begin_store(WeightStream *stream, uint32_t layer, uint8_t **out_memory);
void weight_stream_end_store(WeightStream *stream);
Status weight_stream_finish_store(WeightStream *stream); /* all is written; reading begins */

/* ---- running ---- */

/* As layer_order_expect: what the pass that begins will use. */
void weight_stream_expect(WeightStream *stream, const uint32_t *layers, uint32_t layer_count,
                          uint32_t then);

/* The layer's bytes, NULL for a layer without; they stay until they are released. Of a layer that is held already the same again.
 * Less than WEIGHT_FRAMES layers may be held by then. */
Status weight_stream_acquire(WeightStream *stream, uint32_t layer, const uint8_t **out_bytes);
/* The frame makes room for what comes next. */
void weight_stream_release(WeightStream *stream, uint32_t layer);
/* acquire would not wait. */
bool weight_stream_is_ready(WeightStream *stream, uint32_t layer);

/* How much may be in flight at once, so that others on the same disks have their part; at least a chunk, and no bound while a layer is
 * waited for: then the others are ahead. */
void weight_stream_limit(WeightStream *stream, uint64_t in_flight_bytes);

WeightStreamStats weight_stream_stats(WeightStream *stream);
uint64_t weight_stream_layer_bytes(const WeightStream *stream, uint32_t layer);
uint32_t weight_stream_chunk_bytes(const WeightStream *stream);
const RingFacts *weight_stream_ring(const WeightStream *stream);
/* In the order of directories; NULL behind the last. */
const SpillFile *weight_stream_file(const WeightStream *stream, uint32_t index);

SPILLWAY_EXTERN_C_END

#endif
