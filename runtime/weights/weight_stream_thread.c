/* The stream's own thread: cuts due frames into chunks, keeps the ring busy with them, holds what comes back against its checksum. */

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/hash.h"
#include "runtime/base/invariant.h"
#include "runtime/base/monotonic.h"
#include "runtime/weights/weight_stream_parts.h"

enum { RESULTS_AT_ONCE = 32 };
static const uint64_t reap_wait_ns =
    500000; /* how long a new order may wait while the ring is watched */

/* ---- places ---- */

static uint32_t chunk_count(const WeightStream *stream, uint32_t layer) {
    return stream->first_slot[layer + 1] - stream->first_slot[layer];
}

static WeightSlot *slot_of(const WeightStream *stream, const Frame *frame, uint32_t chunk) {
    return &stream->slots[stream->first_slot[frame->layer] + chunk];
}

/* The tensor that a chunk begins in, or the first in it. */
static const char *piece_name(const WeightStream *stream, uint32_t layer, uint64_t at) {
    const char *name = "unknown";
    for (uint32_t i = 0; i < stream->options.piece_count; i++) {
        const WeightPiece *piece = &stream->options.pieces[i];
        if (piece->layer != layer || piece->tier != TIER_NVME) continue;
        name = piece->name;
        if (at < piece->offset + piece->bytes) break;
    }
    return name;
}

/* ---- what goes wrong; under the lock ---- */

static void fail(WeightStream *stream, const Frame *frame, uint32_t chunk, const char *why) {
    const WeightSlot *slot = slot_of(stream, frame, chunk);
    const PackedFile *packed = stream->options.packed;
    if (stream->failed) return;
    stream->failed = true;
    stream->error = ERROR_WEIGHTS_IO;
    snprintf(stream->error_text, sizeof stream->error_text,
             "weights of tensor %s, %u bytes at offset %" PRIu64 " of %s \"%.200s\": %s (see %s)",
             piece_name(stream, frame->layer, slot->frame_offset), slot->bytes, slot->offset,
             packed ? "packed weights" : "the spill file in",
             packed ? packed->path : stream->options.directories[slot->file], why,
             packed ? "--packed-weights" : "--weights-nvme-dir");
}

/* ---- the ring ---- */

static void open_ring(WeightStream *stream) {
    const char *text;
    const RingOptions options = {.engine = stream->options.io_engine,
                                 .files = stream->ring_files,
                                 .file_count = stream->file_count,
                                 .staging = stream->frames[0].memory,
                                 .staging_bytes = WEIGHT_FRAMES * stream->frame_bytes,
                                 .depth = stream->depth,
                                 .queue_count = stream->depth,
                                 .local_ranks = stream->options.local_rings,
                                 .faults = stream->options.faults};
    error_capture_begin();
    Status status = ring_open(&stream->ring, &options);
    error_capture_end();
    pthread_mutex_lock(&stream->lock);
    if (status == STATUS_OK) {
        stream->facts = *ring_facts(stream->ring);
    } else {
        stream->error = error_last(&text);
        stream->failed = true;
        snprintf(stream->error_text, sizeof stream->error_text, "%s", text);
    }
    stream->opened = true;
    pthread_cond_broadcast(&stream->done);
    pthread_mutex_unlock(&stream->lock);
}

/* A packed file's are by content; those of a spill file by place too, so that misdirected transfers of equal chunks show. */
static uint64_t chunk_checksum(const WeightStream *stream, const Frame *frame, uint32_t chunk) {
    const WeightSlot *slot = slot_of(stream, frame, chunk);
    const uint8_t *bytes = frame->memory + slot->frame_offset;
    return stream->options.packed
               ? packed_chunk_checksum(bytes, slot->checked_bytes)
               : hash_xxh3(bytes, slot->checked_bytes, (uint64_t)(slot - stream->slots));
}

static void submit_chunk(WeightStream *stream, uint32_t index, uint32_t chunk) {
    const Frame *frame = &stream->frames[index];
    WeightSlot *slot = slot_of(stream, frame, chunk);
    uint32_t flight = stream->free_flights[--stream->free_flight_count];
    stream->flights[flight] = (Flight){index, chunk};
    RingOperation operation = {.kind = frame->kind,
                               .file = slot->file,
                               .memory = frame->memory + slot->frame_offset,
                               .offset = slot->offset,
                               .bytes = slot->bytes,
                               .user = flight};
    if (frame->kind == RING_WRITE) slot->checksum = chunk_checksum(stream, frame, chunk);
    stream->in_flight_bytes += operation.bytes;
    CHECK(ring_submit(stream->ring, &operation, 1) == 1);
}

/* The frame that moves and has chunks left to hand over, of the lowest turn. */
static uint32_t next_frame(const WeightStream *stream) {
    uint32_t found = WEIGHT_FRAMES;
    for (uint32_t i = 0; i < WEIGHT_FRAMES; i++) {
        const Frame *frame = &stream->frames[i];
        bool waits = frame->moves && frame->chunk_next < chunk_count(stream, frame->layer);
        if (waits && (found == WEIGHT_FRAMES || frame->turn < stream->frames[found].turn))
            found = i;
    }
    return found;
}

/* What moves belongs to this thread: no lock. */
static void feed(WeightStream *stream) {
    uint64_t most = stream->in_flight_now_max;
    while (
        stream->free_flight_count > 0 &&
        (stream->in_flight_bytes == 0 || stream->in_flight_bytes + stream->chunk_bytes <= most)) {
        uint32_t index = next_frame(stream);
        if (index == WEIGHT_FRAMES) break;
        submit_chunk(stream, index, stream->frames[index].chunk_next++);
    }
    ring_flush(stream->ring);
}

static const char *problem_of(const WeightStream *stream, const Frame *frame, uint32_t chunk,
                              const RingResult *result) {
    if (result->error != RING_ERROR_NONE)
        return result->os_error ? strerror(result->os_error) : ring_error_name(result->error);
    if (frame->kind == RING_READ &&
        chunk_checksum(stream, frame, chunk) != slot_of(stream, frame, chunk)->checksum)
        return "not the bytes that were written there";
    return NULL;
}

static void take_result(WeightStream *stream, const RingResult *result) {
    Flight flight = stream->flights[result->user];
    Frame *frame = &stream->frames[flight.frame];
    const char *problem = problem_of(stream, frame, flight.chunk, result);
    uint32_t bytes = slot_of(stream, frame, flight.chunk)->bytes;
    stream->free_flights[stream->free_flight_count++] = (uint32_t)result->user;
    stream->in_flight_bytes -= bytes;
    frame->chunks_left--;
    pthread_mutex_lock(&stream->lock);
    if (problem) fail(stream, frame, flight.chunk, problem);
    stream->progress++;
    if (frame->kind == RING_READ) stream->stats.read_bytes += bytes;
    if (frame->chunks_left == 0 && !stream->failed) { /* else it holds wrong bytes, for ever */
        bool read = frame->kind == RING_READ;
        frame->state = read ? FRAME_READY : FRAME_FREE;
        frame->moves = false;
        stream->stats.layers_read += read;
        stream->moving_count--;
        stream->reading_count -= read;
    }
    if (problem || frame->chunks_left == 0) pthread_cond_broadcast(&stream->done);
    pthread_mutex_unlock(&stream->lock);
}

static void move_frames(WeightStream *stream) {
    RingResult results[RESULTS_AT_ONCE];
    bool reading = stream->reading_count > 0;
    double start = monotonic_seconds();
    feed(stream);
    uint32_t count = ring_reap(stream->ring, results, RESULTS_AT_ONCE, reap_wait_ns);
    for (uint32_t i = 0; i < count; i++)
        take_result(stream, &results[i]);
    if (!reading) return;
    pthread_mutex_lock(&stream->lock);
    stream->stats.seconds_reading += monotonic_seconds() - start;
    pthread_mutex_unlock(&stream->lock);
}

/* Under the lock: what is due begins to move. */
static void take_orders(WeightStream *stream) {
    stream->in_flight_now_max = stream->waited_for ? UINT64_MAX : stream->in_flight_max;
    for (uint32_t i = 0; i < WEIGHT_FRAMES; i++) {
        Frame *frame = &stream->frames[i];
        if (frame->state != FRAME_DUE) continue;
        frame->state = FRAME_MOVING;
        frame->moves = true;
        frame->chunk_next = 0;
        frame->chunks_left = chunk_count(stream, frame->layer);
        stream->moving_count++;
        stream->reading_count += frame->kind == RING_READ;
    }
}

void *weight_stream_run(void *argument) {
    WeightStream *stream = argument;
    open_ring(stream);
    pthread_mutex_lock(&stream->lock);
    while (!stream->stop && stream->ring && !stream->failed) {
        take_orders(stream);
        if (stream->moving_count == 0) {
            pthread_cond_wait(&stream->work, &stream->lock);
            continue;
        }
        pthread_mutex_unlock(&stream->lock);
        move_frames(stream);
        pthread_mutex_lock(&stream->lock);
    }
    pthread_mutex_unlock(&stream->lock);
    stream->closed_quietly = ring_close(stream->ring);
    return NULL;
}
