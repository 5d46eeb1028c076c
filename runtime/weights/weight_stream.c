#include "runtime/weights/weight_stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/base/arena.h"
#include "runtime/base/bytes.h"
#include "runtime/base/invariant.h"
#include "runtime/base/monotonic.h"
#include "runtime/weights/weight_stream_parts.h"

/* ---- sizes ---- */

uint64_t weight_stream_frame_bytes(const WeightPiece *pieces, uint32_t piece_count) {
    return WEIGHT_FRAMES * weight_layer_bytes_max(pieces, piece_count);
}

/* ---- opening ---- */

/* Not the descriptor that it was checked through: direct I/O is a matter of the descriptor. */
static Status open_packed(WeightStream *stream) {
    const WeightStreamOptions *options = &stream->options;
    TRY(memory_take((void **)&stream->files, 1, sizeof(SpillFile), "weight stream"));
    TRY(memory_take((void **)&stream->ring_files, 1, sizeof(RingFile), "weight stream"));
    TRY(spill_file_open_named(&stream->files[0], options->packed->path, options->faults));
    stream->ring_files[0] =
        (RingFile){stream->files[0].descriptor, stream->files[0].alignment_bytes};
    stream->file_count = 1;
    return STATUS_OK;
}

static Status open_files(WeightStream *stream) {
    const WeightStreamOptions *options = &stream->options;
    uint32_t count = options->directory_count;
    uint64_t file_bytes = divide_up(stream->slot_count, count) * stream->chunk_bytes;
    TRY(memory_take((void **)&stream->files, count, sizeof(SpillFile), "weight stream"));
    TRY(memory_take((void **)&stream->ring_files, count, sizeof(RingFile), "weight stream"));
    for (uint32_t i = 0; i < count; i++) {
        const SpillFileOptions file = {.directory = options->directories[i],
                                       .bytes = file_bytes,
                                       .silent = options->silent,
                                       .directory_option = "--weights-nvme-dir",
                                       .size_option = "--weights-device-size",
                                       .faults = options->faults};
        TRY(spill_file_open(&stream->files[i], &file));
        stream->ring_files[i] =
            (RingFile){stream->files[i].descriptor, stream->files[i].alignment_bytes};
        stream->file_count++;
    }
    return STATUS_OK;
}

static Status take_frames(WeightStream *stream) {
    Device *device = stream->options.device;
    void *memory;
    TRY(memory_take((void **)&stream->flights, stream->depth, sizeof(Flight), "weight stream"));
    TRY(memory_take((void **)&stream->free_flights, stream->depth, sizeof(uint32_t),
                    "weight stream"));
    for (uint32_t i = 0; i < stream->depth; i++)
        stream->free_flights[stream->free_flight_count++] = i;
    TRY(device->memory_take(device, MEMORY_HOST, WEIGHT_FRAMES * stream->frame_bytes,
                            "frames of streamed weights", &memory));
    for (uint32_t i = 0; i < WEIGHT_FRAMES; i++)
        stream->frames[i].memory = (uint8_t *)memory + i * stream->frame_bytes;
    return STATUS_OK;
}

static Status raise_failure(const WeightStream *stream) {
    return error_raise(stream->error, "%s", stream->error_text);
}

static Status start(WeightStream *stream) {
    if (pthread_create(&stream->thread, NULL, weight_stream_run, stream) != 0)
        FAIL(MEMORY, "the thread that reads weights cannot be started");
    stream->has_thread = true;
    pthread_mutex_lock(&stream->lock);
    while (!stream->opened)
        pthread_cond_wait(&stream->done, &stream->lock);
    bool failed = stream->failed;
    pthread_mutex_unlock(&stream->lock);
    return failed ? raise_failure(stream) : STATUS_OK;
}

Status weight_stream_create(WeightStream **out, const WeightStreamOptions *options) {
    void *memory;
    pthread_condattr_t attributes;
    TRY(memory_take(&memory, 1, sizeof(WeightStream), "weight stream"));
    WeightStream *stream = memory;
    stream->options = *options;
    pthread_mutex_init(&stream->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&stream->work, &attributes);
    pthread_cond_init(&stream->done, &attributes);
    pthread_condattr_destroy(&attributes);
    Status status = weight_stream_cut(stream);
    if (status == STATUS_OK)
        status = stream->options.packed ? open_packed(stream) : open_files(stream);
    if (status == STATUS_OK) status = take_frames(stream);
    if (status == STATUS_OK) status = start(stream);
    if (status != STATUS_OK) {
        weight_stream_destroy(stream);
        return status;
    }
    *out = stream;
    return STATUS_OK;
}

static void stop_thread(WeightStream *stream) {
    pthread_mutex_lock(&stream->lock);
    stream->stop = true;
    pthread_cond_broadcast(&stream->work);
    pthread_mutex_unlock(&stream->lock);
    pthread_join(stream->thread, NULL);
}

/* Frames that the kernel may still write to are left behind. */
void weight_stream_destroy(WeightStream *stream) {
    if (!stream) return;
    Device *device = stream->options.device;
    bool quiet = true;
    if (stream->has_thread) {
        stop_thread(stream);
        quiet = stream->closed_quietly;
    }
    if (quiet && stream->frames[0].memory)
        device->memory_give(device, MEMORY_HOST, stream->frames[0].memory,
                            WEIGHT_FRAMES * stream->frame_bytes);
    for (uint32_t i = 0; i < stream->file_count; i++)
        spill_file_close(&stream->files[i]);
    pthread_mutex_destroy(&stream->lock);
    pthread_cond_destroy(&stream->work);
    pthread_cond_destroy(&stream->done);
    free(stream->layer_bytes);
    free(stream->first_slot);
    layer_order_reset(&stream->order);
    free(stream->slots);
    free(stream->files);
    free(stream->ring_files);
    free(stream->flights);
    free(stream->free_flights);
    free(stream);
}

/* ---- waiting; under the lock ---- */

static struct timespec seconds_from_now(double seconds) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    double nanoseconds = (double)now.tv_nsec + seconds * 1e9;
    double whole = (double)(int64_t)(nanoseconds / 1e9);
    return (struct timespec){.tv_sec = now.tv_sec + (time_t)whole,
                             .tv_nsec = (long)(nanoseconds - whole * 1e9)};
}

/* Until the thread has done something. It may take long, but not without a single result in io_timeout_seconds. */
static Status wait_for_thread(WeightStream *stream) {
    double timeout = stream->options.io_timeout_seconds;
    uint64_t before = stream->progress;
    struct timespec until = seconds_from_now(timeout);
    if (stream->failed) return raise_failure(stream);
    int waited = timeout > 0 ? pthread_cond_timedwait(&stream->done, &stream->lock, &until)
                             : pthread_cond_wait(&stream->done, &stream->lock);
    if (stream->failed) return raise_failure(stream);
    if (waited != ETIMEDOUT || stream->progress != before) return STATUS_OK;
    FAIL(WEIGHTS_IO,
         "weights: a read or write of a spill file has not ended after %.1f s (see "
         "--io-timeout, %s)",
         timeout, stream->options.packed ? "--packed-weights" : "--weights-nvme-dir");
}

/* ---- loading ---- */

static void order(WeightStream *stream, Frame *frame, uint32_t layer, RingKind kind) {
    frame->layer = layer;
    frame->kind = kind;
    frame->turn = stream->turns++;
    frame->state = FRAME_DUE;
    pthread_cond_signal(&stream->work);
}

static Frame *find_state(WeightStream *stream, FrameState state) {
    for (uint32_t i = 0; i < WEIGHT_FRAMES; i++)
        if (stream->frames[i].state == state) return &stream->frames[i];
    return NULL;
}

Status weight_stream_begin_store(WeightStream *stream, uint32_t layer, uint8_t **out_memory) {
    Frame *frame;
    Status status = STATUS_OK;
    pthread_mutex_lock(&stream->lock);
    while (!(frame = find_state(stream, FRAME_FREE)) && status == STATUS_OK)
        status = wait_for_thread(stream);
    if (frame) {
        frame->state = FRAME_PACKING;
        frame->layer = layer;
        *out_memory = frame->memory;
    }
    pthread_mutex_unlock(&stream->lock);
    return status;
}

void weight_stream_end_store(WeightStream *stream) {
    pthread_mutex_lock(&stream->lock);
    Frame *frame = find_state(stream, FRAME_PACKING);
    CHECK(frame);
    order(stream, frame, frame->layer, RING_WRITE);
    pthread_mutex_unlock(&stream->lock);
}

static bool all_free(const WeightStream *stream) {
    for (uint32_t i = 0; i < WEIGHT_FRAMES; i++)
        if (stream->frames[i].state != FRAME_FREE) return false;
    return true;
}

/* ---- what comes next; under the lock ---- */

static Frame *find_layer(WeightStream *stream, uint32_t layer) {
    for (uint32_t i = 0; i < WEIGHT_FRAMES; i++) {
        Frame *frame = &stream->frames[i];
        if (frame->layer == layer && frame->state >= FRAME_DUE) return frame;
    }
    return NULL;
}

static uint32_t held_layers(const WeightStream *stream, uint32_t out_layers[WEIGHT_FRAMES]) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < WEIGHT_FRAMES; i++)
        if (stream->frames[i].held) out_layers[count++] = stream->frames[i].layer;
    return count;
}

/* Frames that hold nothing that comes next are given to what does. */
static void refill(WeightStream *stream) {
    uint32_t layers[WEIGHT_FRAMES], count = held_layers(stream, layers);
    count = layer_order_list(&stream->order, layers, count, WEIGHT_FRAMES);
    for (uint32_t i = 0; i < WEIGHT_FRAMES; i++) {
        Frame *frame = &stream->frames[i];
        bool idle = frame->state == FRAME_READY || frame->state == FRAME_DUE;
        if (idle && !layer_is_listed(layers, count, frame->layer)) frame->state = FRAME_FREE;
    }
    for (uint32_t i = 0; i < count; i++) {
        Frame *frame = find_layer(stream, layers[i]) ? NULL : find_state(stream, FRAME_FREE);
        if (frame) order(stream, frame, layers[i], RING_READ);
    }
}

Status weight_stream_finish_store(WeightStream *stream) {
    Status status = STATUS_OK;
    pthread_mutex_lock(&stream->lock);
    while (!all_free(stream) && status == STATUS_OK)
        status = wait_for_thread(stream);
    if (status == STATUS_OK) refill(stream);
    pthread_mutex_unlock(&stream->lock);
    return status;
}

/* ---- running ---- */

void weight_stream_expect(WeightStream *stream, const uint32_t *layers, uint32_t layer_count,
                          uint32_t then) {
    pthread_mutex_lock(&stream->lock);
    layer_order_expect(&stream->order, layers, layer_count, then);
    refill(stream);
    pthread_mutex_unlock(&stream->lock);
}

static Status wait_for_layer(WeightStream *stream, uint32_t layer, Frame **out) {
    Frame *frame;
    while (!(frame = find_layer(stream, layer)) || frame->state != FRAME_READY) {
        stream->waited_for = true;
        Status status = wait_for_thread(stream);
        stream->waited_for = false;
        TRY(status);
        refill(stream);
    }
    *out = frame;
    return STATUS_OK;
}

/* The layer's frame, held from here on. */
static Status hold(WeightStream *stream, uint32_t layer, Frame **out) {
    Frame *frame = find_layer(stream, layer);
    if (frame && frame->held) {
        *out = frame;
        return STATUS_OK;
    }
    uint32_t held[WEIGHT_FRAMES];
    CHECK(held_layers(stream, held) < WEIGHT_FRAMES);
    layer_order_meet(&stream->order, layer);
    refill(stream);
    TRY(wait_for_layer(stream, layer, &frame));
    frame->held = true;
    layer_order_pass(&stream->order);
    stream->stats.layers_acquired++;
    refill(stream);
    *out = frame;
    return STATUS_OK;
}

Status weight_stream_acquire(WeightStream *stream, uint32_t layer, const uint8_t **out_bytes) {
    Frame *frame;
    *out_bytes = NULL;
    if (stream->layer_bytes[layer] == 0) return STATUS_OK;
    double start = monotonic_seconds();
    pthread_mutex_lock(&stream->lock);
    Status status = hold(stream, layer, &frame);
    if (status == STATUS_OK) *out_bytes = frame->memory;
    stream->stats.seconds_stalled += monotonic_seconds() - start;
    pthread_mutex_unlock(&stream->lock);
    return status;
}

bool weight_stream_is_ready(WeightStream *stream, uint32_t layer) {
    if (stream->layer_bytes[layer] == 0) return true;
    pthread_mutex_lock(&stream->lock);
    const Frame *frame = find_layer(stream, layer);
    bool ready = (frame && frame->state == FRAME_READY) || stream->failed;
    pthread_mutex_unlock(&stream->lock);
    return ready;
}

void weight_stream_release(WeightStream *stream, uint32_t layer) {
    if (stream->layer_bytes[layer] == 0) return;
    pthread_mutex_lock(&stream->lock);
    Frame *frame = find_layer(stream, layer);
    CHECK(frame && frame->held);
    frame->held = false;
    refill(stream);
    pthread_mutex_unlock(&stream->lock);
}

void weight_stream_limit(WeightStream *stream, uint64_t in_flight_bytes) {
    pthread_mutex_lock(&stream->lock);
    stream->in_flight_max = in_flight_bytes;
    pthread_mutex_unlock(&stream->lock);
}

/* ---- looking ---- */

WeightStreamStats weight_stream_stats(WeightStream *stream) {
    pthread_mutex_lock(&stream->lock);
    WeightStreamStats stats = stream->stats;
    pthread_mutex_unlock(&stream->lock);
    return stats;
}

uint64_t weight_stream_layer_bytes(const WeightStream *stream, uint32_t layer) {
    return stream->layer_bytes[layer];
}

uint32_t weight_stream_chunk_bytes(const WeightStream *stream) {
    return stream->chunk_bytes;
}

const RingFacts *weight_stream_ring(const WeightStream *stream) {
    return &stream->facts;
}

const SpillFile *weight_stream_file(const WeightStream *stream, uint32_t index) {
    return index < stream->file_count ? &stream->files[index] : NULL;
}
