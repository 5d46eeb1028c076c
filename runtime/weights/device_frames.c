#include "runtime/weights/device_frames.h"

#include <stdlib.h>

#include "runtime/base/arena.h"
#include "runtime/base/invariant.h"
#include "runtime/weights/layer_order.h"

/* What a layer has outside the device: in files, which comes first in a frame, and in host memory. */
typedef struct LayerParts {
    uint64_t file_bytes, host_bytes;
    uint8_t *host; /* [host_bytes] */
} LayerParts;

typedef struct DeviceFrame {
    uint8_t *memory;
    uint32_t layer; /* whose copies are on the stream; layer_count: of none */
    bool holds;     /* the WeightStream's frame of the layer, until `arrived` */
    DeviceEvent *arrived, *used;
} DeviceFrame;

struct DeviceFrames {
    DeviceFramesOptions options;
    DeviceStream *copies;
    LayerParts *parts;     /* [layer_count] */
    uint64_t *layer_bytes; /* [layer_count] of both parts */
    LayerOrder order;
    DeviceFrame frames[DEVICE_FRAMES];
    DeviceFrame *in_use;  /* NULL: none */
    uint64_t frame_bytes; /* of one */
    uint8_t *host;        /* pinned [host_bytes] */
    uint64_t host_bytes, sent_bytes;
};

/* ---- sizes ---- */

static uint64_t layer_bytes_of(const WeightPiece *pieces, uint32_t piece_count, uint32_t layer) {
    return weight_layer_bytes(pieces, piece_count, TIER_NVME, layer) +
           weight_layer_bytes(pieces, piece_count, TIER_HOST, layer);
}

static uint64_t frame_bytes_of(const WeightPiece *pieces, uint32_t piece_count) {
    uint64_t most = 0;
    for (uint32_t i = 0; i < piece_count; i++) {
        uint64_t bytes = layer_bytes_of(pieces, piece_count, pieces[i].layer);
        if (bytes > most) most = bytes;
    }
    return most;
}

uint64_t device_frames_bytes(const WeightPiece *pieces, uint32_t piece_count) {
    return DEVICE_FRAMES * frame_bytes_of(pieces, piece_count);
}

uint64_t device_frames_host_bytes(const WeightPiece *pieces, uint32_t piece_count) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < piece_count; i++)
        if (i == 0 || pieces[i].layer != pieces[i - 1].layer)
            bytes += weight_layer_bytes(pieces, piece_count, TIER_HOST, pieces[i].layer);
    return bytes;
}

/* ---- opening ---- */

static void cut_layers(DeviceFrames *frames) {
    const DeviceFramesOptions *options = &frames->options;
    uint8_t *host = frames->host;
    for (uint32_t layer = 0; layer < options->layer_count; layer++) {
        LayerParts *parts = &frames->parts[layer];
        parts->file_bytes =
            weight_layer_bytes(options->pieces, options->piece_count, TIER_NVME, layer);
        parts->host_bytes =
            weight_layer_bytes(options->pieces, options->piece_count, TIER_HOST, layer);
        parts->host = host;
        host += parts->host_bytes;
        frames->layer_bytes[layer] = parts->file_bytes + parts->host_bytes;
    }
}

static Status take_memory(DeviceFrames *frames) {
    const DeviceFramesOptions *options = &frames->options;
    Device *device = options->device;
    uint64_t layers = options->layer_count;
    void *memory;
    TRY(memory_take((void **)&frames->parts, layers, sizeof(LayerParts), "device frames"));
    TRY(memory_take((void **)&frames->layer_bytes, layers, sizeof(uint64_t), "device frames"));
    frames->host_bytes = device_frames_host_bytes(options->pieces, options->piece_count);
    if (frames->host_bytes > 0)
        TRY(device->memory_take(device, MEMORY_HOST, frames->host_bytes, "layers in host memory",
                                (void **)&frames->host));
    frames->frame_bytes = frame_bytes_of(options->pieces, options->piece_count);
    TRY(device->memory_take(device, MEMORY_DEVICE, DEVICE_FRAMES * frames->frame_bytes,
                            "frames of layers that come by", &memory));
    for (uint32_t i = 0; i < DEVICE_FRAMES; i++)
        frames->frames[i].memory = (uint8_t *)memory + i * frames->frame_bytes;
    return STATUS_OK;
}

static Status open_frames(DeviceFrames *frames) {
    const DeviceFramesOptions *options = &frames->options;
    Device *device = options->device;
    TRY(take_memory(frames));
    cut_layers(frames);
    TRY(layer_order_init(&frames->order, frames->layer_bytes, options->layer_count));
    TRY(device->stream_create(device, STREAM_COPY, &frames->copies));
    for (uint32_t i = 0; i < DEVICE_FRAMES; i++) {
        frames->frames[i].layer = options->layer_count;
        TRY(device->event_create(device, &frames->frames[i].arrived));
        TRY(device->event_create(device, &frames->frames[i].used));
    }
    return STATUS_OK;
}

Status device_frames_create(DeviceFrames **out, const DeviceFramesOptions *options) {
    void *memory;
    TRY(memory_take(&memory, 1, sizeof(DeviceFrames), "device frames"));
    DeviceFrames *frames = memory;
    frames->options = *options;
    Status status = open_frames(frames);
    if (status != STATUS_OK) {
        device_frames_destroy(frames);
        return status;
    }
    *out = frames;
    return STATUS_OK;
}

/* Kernels may still read frames and copies may still read host memory. */
static void wait_for_all(DeviceFrames *frames) {
    Device *device = frames->options.device;
    error_capture_begin();
    device->stream_wait(device, frames->options.compute);
    device->stream_wait(device, frames->copies);
    error_capture_end();
}

void device_frames_destroy(DeviceFrames *frames) {
    if (!frames) return;
    Device *device = frames->options.device;
    if (frames->copies) {
        wait_for_all(frames);
        device->stream_destroy(device, frames->copies);
    }
    for (uint32_t i = 0; i < DEVICE_FRAMES; i++) {
        DeviceFrame *frame = &frames->frames[i];
        if (frame->arrived) device->event_destroy(device, frame->arrived);
        if (frame->used) device->event_destroy(device, frame->used);
    }
    device->memory_give(device, MEMORY_DEVICE, frames->frames[0].memory,
                        DEVICE_FRAMES * frames->frame_bytes);
    device->memory_give(device, MEMORY_HOST, frames->host, frames->host_bytes);
    layer_order_reset(&frames->order);
    free(frames->parts);
    free(frames->layer_bytes);
    free(frames);
}

/* ---- places ---- */

uint8_t *device_frames_host(const DeviceFrames *frames, uint32_t layer) {
    return frames->parts[layer].host;
}

uint64_t device_frames_offset(const DeviceFrames *frames, const WeightPiece *piece) {
    CHECK(piece->tier == TIER_HOST || piece->tier == TIER_NVME);
    return piece->offset + (piece->tier == TIER_HOST ? frames->parts[piece->layer].file_bytes : 0);
}

uint64_t device_frames_sent_bytes(const DeviceFrames *frames) {
    return frames->sent_bytes;
}

static DeviceFrame *find_layer(DeviceFrames *frames, uint32_t layer) {
    for (uint32_t i = 0; i < DEVICE_FRAMES; i++)
        if (frames->frames[i].layer == layer) return &frames->frames[i];
    return NULL;
}

/* One that holds nothing of the list, rather one whose copies are through. NULL: there is none. */
static DeviceFrame *find_spare(DeviceFrames *frames, const uint32_t *layers, uint32_t count) {
    DeviceFrame *found = NULL;
    for (uint32_t i = 0; i < DEVICE_FRAMES; i++) {
        DeviceFrame *frame = &frames->frames[i];
        if (layer_is_listed(layers, count, frame->layer)) continue;
        if (!found || found->holds) found = frame;
    }
    return found;
}

/* ---- bringing ---- */

static void let_go(DeviceFrames *frames, DeviceFrame *frame) {
    weight_stream_release(frames->options.stream, frame->layer);
    frame->holds = false;
}

static void let_go_arrived(DeviceFrames *frames) {
    Device *device = frames->options.device;
    for (uint32_t i = 0; i < DEVICE_FRAMES; i++) {
        DeviceFrame *frame = &frames->frames[i];
        if (frame->holds && device->event_done(device, frame->arrived)) let_go(frames, frame);
    }
}

/* The host's wait for the copies of the layer that the frame held before. */
static Status empty(DeviceFrames *frames, DeviceFrame *frame) {
    Device *device = frames->options.device;
    if (frame->holds) {
        TRY(device->event_wait(device, frame->arrived));
        let_go(frames, frame);
    }
    frame->layer = frames->options.layer_count;
    return STATUS_OK;
}

static Status bring(DeviceFrames *frames, DeviceFrame *frame, uint32_t layer) {
    Device *device = frames->options.device;
    const LayerParts *parts = &frames->parts[layer];
    const uint8_t *file = NULL;
    TRY(empty(frames, frame));
    if (parts->file_bytes > 0) TRY(weight_stream_acquire(frames->options.stream, layer, &file));
    TRY(device->stream_wait_event(device, frames->copies, frame->used));
    if (file) TRY(device->copy(device, frames->copies, frame->memory, file, parts->file_bytes));
    if (parts->host_bytes > 0)
        TRY(device->copy(device, frames->copies, frame->memory + parts->file_bytes, parts->host,
                         parts->host_bytes));
    TRY(device->event_record(device, frame->arrived, frames->copies));
    frame->layer = layer;
    frame->holds = file != NULL;
    frames->sent_bytes += parts->file_bytes + parts->host_bytes;
    return STATUS_OK;
}

/* What comes next, as far as nothing has to be waited for. */
static Status bring_ahead(DeviceFrames *frames) {
    WeightStream *stream = frames->options.stream;
    uint32_t layers[DEVICE_FRAMES], count = 0;
    if (stream) let_go_arrived(frames);
    if (frames->in_use) layers[count++] = frames->in_use->layer;
    count = layer_order_list(&frames->order, layers, count, DEVICE_FRAMES);
    for (uint32_t i = 0; i < count; i++) {
        if (find_layer(frames, layers[i])) continue;
        DeviceFrame *frame = find_spare(frames, layers, count);
        if (frame->holds || (stream && !weight_stream_is_ready(stream, layers[i]))) break;
        TRY(bring(frames, frame, layers[i]));
    }
    return STATUS_OK;
}

/* ---- running ---- */

/* Those that are here, or on their way, will not be asked of the WeightStream again. */
void device_frames_expect(DeviceFrames *frames, const uint32_t *layers, uint32_t layer_count,
                          uint32_t then) {
    uint32_t first = 0;
    layer_order_expect(&frames->order, layers, layer_count, then);
    if (!frames->options.stream) return;
    while (first < layer_count &&
           (frames->parts[layers[first]].file_bytes == 0 || find_layer(frames, layers[first])))
        first++;
    weight_stream_expect(frames->options.stream, layers + first, layer_count - first, then);
}

static Status end_use(DeviceFrames *frames) {
    Device *device = frames->options.device;
    DeviceFrame *frame = frames->in_use;
    frames->in_use = NULL;
    return frame ? device->event_record(device, frame->used, frames->options.compute) : STATUS_OK;
}

static Status begin_use(DeviceFrames *frames, uint32_t layer) {
    Device *device = frames->options.device;
    uint32_t layers[DEVICE_FRAMES], count;
    layer_order_meet(&frames->order, layer);
    DeviceFrame *frame = find_layer(frames, layer);
    if (!frame) {
        count = layer_order_list(&frames->order, layers, 0, DEVICE_FRAMES);
        frame = find_spare(frames, layers, count);
        TRY(bring(frames, frame, layer));
    }
    TRY(device->stream_wait_event(device, frames->options.compute, frame->arrived));
    layer_order_pass(&frames->order);
    frames->in_use = frame;
    return STATUS_OK;
}

Status device_frames_acquire(DeviceFrames *frames, uint32_t layer, const uint8_t **out_memory) {
    *out_memory = NULL;
    if (!frames->in_use || frames->in_use->layer != layer) {
        TRY(end_use(frames));
        if (frames->layer_bytes[layer] > 0) TRY(begin_use(frames, layer));
        TRY(bring_ahead(frames));
    }
    if (frames->in_use) *out_memory = frames->in_use->memory;
    return STATUS_OK;
}

Status device_frames_release(DeviceFrames *frames) {
    TRY(end_use(frames));
    return bring_ahead(frames);
}
