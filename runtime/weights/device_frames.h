#ifndef RUNTIME_WEIGHTS_DEVICE_FRAMES_H
#define RUNTIME_WEIGHTS_DEVICE_FRAMES_H

/* Layers for a device out of the host's reach (Device.host_addressable is false): what lies in host memory or in files is copied
 * into one of two frames of device memory, used there, and makes room for the next, round and round. A packed layer holds no
 * addresses, so that a frame takes any of them as it is.
 *
 *     files ── ring, checksums ─→ frames of a WeightStream (pinned) ─┐ copies on
 *     host memory (pinned) ──────────────────────────────────────────┴─ their own stream ─→ frame: layer i is computed
 *                                                                                           frame: layer i + 1 arrives
 *
 * Nothing here waits for the device while layers come in order. The copies into a frame wait, on their stream, for the event behind the
 * kernels that read it before; the kernels wait, on theirs, for the event behind the copies. A frame of the WeightStream is let
 * go when that event is done, for only then may a file be read into it. Two layers may be ahead of the copies: then the host waits.
 *
 * One thread calls, that of the rank. Memory is taken in create. */

#include "runtime/weights/weight_stream.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct DeviceFrames DeviceFrames;

enum { DEVICE_FRAMES = 2 };

typedef struct DeviceFramesOptions {
    Device *device;
    DeviceStream *compute;     /* of the kernels that read frames */
    const WeightPiece *pieces; /* [piece_count], placed; borrowed */
    uint32_t piece_count, layer_count;
    WeightStream
        *stream; /* of what lies in files; borrowed, and used by nobody else; NULL: nothing does */
} DeviceFramesOptions;

/* Device memory of the frames for this placement, and pinned memory of the pieces that are TIER_HOST's. */
uint64_t device_frames_bytes(const WeightPiece *pieces, uint32_t piece_count);
uint64_t device_frames_host_bytes(const WeightPiece *pieces, uint32_t piece_count);

/* At least one piece is TIER_HOST's or TIER_NVME's. E-MEMORY, E-DEVICE. */
Status device_frames_create(DeviceFrames **out, const DeviceFramesOptions *options);
void device_frames_destroy(DeviceFrames *frames); /* takes NULL; before its WeightStream */

/* Where the TIER_HOST part of a layer lies, [WeightPiece.offset]: to be filled before the layer is acquired. */
uint8_t *device_frames_host(const DeviceFrames *frames, uint32_t layer);
/* Where a piece of either tier lies in the frame of its layer. */
uint64_t device_frames_offset(const DeviceFrames *frames, const WeightPiece *piece);

/* As layer_order_expect; the WeightStream learns what will be asked of it. */
void device_frames_expect(DeviceFrames *frames, const uint32_t *layers, uint32_t layer_count,
                          uint32_t then);

/* The layer's frame in device memory, for kernels that are put on the compute stream until another layer is acquired, or it is
 * released; NULL for a layer that is all on the device. Waits for the file at most. E-WEIGHTS-IO, E-DEVICE. */
Status device_frames_acquire(DeviceFrames *frames, uint32_t layer, const uint8_t **out_memory);
Status device_frames_release(DeviceFrames *frames);

uint64_t device_frames_sent_bytes(const DeviceFrames *frames); /* copied to the device so far */

SPILLWAY_EXTERN_C_END

#endif
