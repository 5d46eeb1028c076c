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
    stream->in_use = WEIGHT_FRAMES;
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
    free(stream->plan);
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

static uint32_t next_streamed(const WeightStream *stream, uint32_t layer) {
    for (uint32_t i = 0; i < stream->options.layer_count; i++, layer++) {
        if (layer >= stream->options.layer_count) layer = 0;
        if (stream->layer_bytes[layer] > 0) break;
    }
    return layer;
}

/* The layers that will be used next, each once, as many as there are frames for beside the one in use. */
static uint32_t upcoming(const WeightStream *stream, uint32_t out_layers[WEIGHT_FRAMES]) {
    uint32_t count = 0, room = WEIGHT_FRAMES - (stream->in_use < WEIGHT_FRAMES);
    uint32_t next = stream->plan_next, cycle = next_streamed(stream, stream->then);
    for (uint32_t tries = 0; count < room && tries < 2 * WEIGHT_FRAMES; tries++) {
        uint32_t layer = next < stream->plan_count ? stream->plan[next] : cycle;
        if (next >= stream->plan_count) cycle = next_streamed(stream, cycle + 1);
        next++;
        bool held = stream->in_use < WEIGHT_FRAMES && stream->frames[stream->in_use].layer == layer;
        for (uint32_t i = 0; i < count; i++)
            held |= out_layers[i] == layer;
        if (!held) out_layers[count++] = layer;
    }
    return count;
}

static Frame *find_layer(WeightStream *stream, uint32_t layer) {
    for (uint32_t i = 0; i < WEIGHT_FRAMES; i++) {
        Frame *frame = &stream->frames[i];
        if (frame->layer == layer && frame->state >= FRAME_DUE) return frame;
    }
    return NULL;
}

static bool is_listed(const uint32_t *layers, uint32_t count, uint32_t layer) {
    for (uint32_t i = 0; i < count; i++)
        if (layers[i] == layer) return true;
    return false;
}

/* Frames that hold nothing that comes next are given to what does. */
static void refill(WeightStream *stream) {
    uint32_t layers[WEIGHT_FRAMES], count = upcoming(stream, layers);
    for (uint32_t i = 0; i < WEIGHT_FRAMES; i++) {
        Frame *frame = &stream->frames[i];
        bool idle =
            i != stream->in_use && (frame->state == FRAME_READY || frame->state == FRAME_DUE);
        if (idle && !is_listed(layers, count, frame->layer)) frame->state = FRAME_FREE;
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
    stream->plan_count = stream->plan_next = 0;
    for (uint32_t i = 0; i < layer_count; i++) {
        if (stream->layer_bytes[layers[i]] == 0) continue;
        if (stream->plan_count > 0 && stream->plan[stream->plan_count - 1] == layers[i]) continue;
        CHECK(stream->plan_count < 3 * stream->options.layer_count);
        stream->plan[stream->plan_count++] = layers[i];
    }
    stream->then = then;
    refill(stream);
    pthread_mutex_unlock(&stream->lock);
}

/* The layer becomes the next one, as it was said or not. */
static void expect_now(WeightStream *stream, uint32_t layer) {
    uint32_t at = stream->plan_next;
    while (at < stream->plan_count && stream->plan[at] != layer)
        at++;
    stream->plan_next = at;
    if (at == stream->plan_count) stream->then = layer;
}

static void step_past(WeightStream *stream) {
    if (stream->plan_next < stream->plan_count)
        stream->plan_next++;
    else
        stream->then = next_streamed(stream, stream->then + 1);
}

static Status wait_for_layer(WeightStream *stream, uint32_t layer) {
    Status status = STATUS_OK;
    Frame *frame;
    while (!(frame = find_layer(stream, layer)) || frame->state != FRAME_READY) {
        stream->waited_for = true;
        status = wait_for_thread(stream);
        stream->waited_for = false;
        if (status != STATUS_OK) return status;
        refill(stream);
    }
    stream->in_use = (uint32_t)(frame - stream->frames);
    return STATUS_OK;
}

Status weight_stream_acquire(WeightStream *stream, uint32_t layer, const uint8_t **out_bytes) {
    Status status = STATUS_OK;
    *out_bytes = NULL;
    if (stream->layer_bytes[layer] == 0) return STATUS_OK;
    double start = monotonic_seconds();
    pthread_mutex_lock(&stream->lock);
    if (stream->in_use == WEIGHT_FRAMES || stream->frames[stream->in_use].layer != layer) {
        stream->in_use = WEIGHT_FRAMES;
        expect_now(stream, layer);
        refill(stream);
        status = wait_for_layer(stream, layer);
        step_past(stream);
        stream->stats.layers_acquired++;
        if (status == STATUS_OK) refill(stream);
    }
    if (status == STATUS_OK) *out_bytes = stream->frames[stream->in_use].memory;
    stream->stats.seconds_stalled += monotonic_seconds() - start;
    pthread_mutex_unlock(&stream->lock);
    return status;
}

void weight_stream_release(WeightStream *stream) {
    pthread_mutex_lock(&stream->lock);
    stream->in_use = WEIGHT_FRAMES;
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
